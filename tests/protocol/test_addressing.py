"""Group addresses: both ways, and spread over what switches look at."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcfs.protocol import addressing
from mcfs.protocol.addressing import CONTROL_KIND, SCOPES, Addresser, Coordinate
from mcfs.protocol.ids import Digest, Node, ObjectRef
from mcfs.protocol.keys import ShareKeys

from .hostile import patient

if TYPE_CHECKING:
    from collections.abc import Callable

REF = ObjectRef(1 << 40, 1 << 20, Digest(bytes(range(32))))

coordinates = st.builds(Coordinate, st.integers(0, 15), st.integers(0, 7), st.integers(0, (1 << 40) - 1))
share_keys = st.builds(ShareKeys, st.binary(min_size=32, max_size=32))
addressers = st.builds(Addresser, st.binary(max_size=64), st.none() | share_keys)
scopes = st.sampled_from(SCOPES)


class TestCoordinate:
    @patient
    @given(coordinates)
    def test_comes_back(self, coordinate: Coordinate) -> None:
        packed = coordinate.pack()
        assert 0 <= packed < 1 << 47
        assert Coordinate.unpack(packed) == coordinate

    @patient
    @given(st.integers(0, (1 << 47) - 1))
    def test_every_number_is_one(self, value: int) -> None:
        assert Coordinate.unpack(value).pack() == value

    def test_order_of_the_fields(self) -> None:
        assert Coordinate(0b1010, 0b011, 5).pack() == 0b1010_011 << 40 | 5


class TestGroup:
    @patient
    @given(addressers, coordinates, scopes)
    def test_the_coordinate_is_found_again(self, addresser: Addresser, coordinate: Coordinate, scope: int) -> None:
        group = addresser.group(coordinate, scope)
        assert addresser.coordinate(group) == coordinate

    @patient
    @given(addressers, coordinates, scopes)
    def test_what_stands_where(self, addresser: Addresser, coordinate: Coordinate, scope: int) -> None:
        group = addresser.group(coordinate, scope)
        assert ipaddress.IPv6Address(group).is_multicast
        assert group[0] == 0xFF
        assert group[1] >> 4 == 1, "transient, RFC 4291 section 2.7"
        assert addressing.scope_of(group) == scope
        assert addressing.tag_of(group) == addresser.tag
        assert group[12] & 0x80, "RFC 3307 section 4.3"

    @patient
    @given(addressers, st.binary(min_size=6, max_size=6), scopes)
    def test_every_slot_with_bit_31_is_one_coordinate(self, addresser: Addresser, slot: bytes, scope: int) -> None:
        group = bytes((0xFF, 0x10 | scope)) + addresser.tag + slot
        coordinate = addresser.coordinate(group)
        if slot[2] & 0x80:
            assert coordinate is not None
            assert addresser.group(coordinate, scope) == group
        else:
            assert coordinate is None

    @patient
    @given(st.binary(min_size=16, max_size=16))
    def test_any_address_gives_a_coordinate_in_range_or_none(self, group: bytes) -> None:
        coordinate = addressing.addresser_of(REF).coordinate(group)
        if coordinate is not None:
            assert 0 <= coordinate.kind <= 15
            assert 0 <= coordinate.pace <= 7
            assert 0 <= coordinate.index < 1 << 40

    def test_a_key_changes_everything(self) -> None:
        keys = (None, ShareKeys(bytes(32)), ShareKeys(bytes(31) + b"\1"))
        every = [addressing.addresser_of(REF, key) for key in keys]
        assert len({addresser.tag for addresser in every}) == 3
        assert len({addresser.group(Coordinate(0, 0, 0))[10:] for addresser in every}) == 3

    @patient
    @given(share_keys, st.binary(max_size=40))
    def test_a_key_is_no_part_of_a_name(self, keys: ShareKeys, name: bytes) -> None:
        """Whatever is written before a name: what has no key has other groups."""
        keyed = Addresser(name, keys).tag
        assert all(Addresser(key + name).tag != keyed for key in (keys.secret, keys.groups))

    def test_low_32_bits_of_neighbours_differ(self) -> None:
        """Ethernet maps a group to 33:33 and these: blocks, classes and levels must not share a MAC address."""
        addresser = addressing.addresser_of(REF)
        groups = {
            addresser.group(Coordinate(level, pace, index))
            for level in range(3)
            for pace in range(8)
            for index in range(100)
        }
        assert len(groups) == 2400
        assert len({group[12:] for group in groups}) == 2400


class TestNames:
    def test_a_node(self) -> None:
        addresser = addressing.addresser_of(REF)
        group = addressing.node_group(Node(REF, 1, 7), 3, addresser, 8)
        assert addresser.coordinate(group) == Coordinate(1, 3, 7)
        assert addressing.scope_of(group) == 8
        assert addresser.tag == Addresser(b"object" + REF.id).tag

    @pytest.mark.parametrize(
        ("group", "name"),
        [(addressing.share_group(b"demo", 5), b"sharedemo"), (addressing.catalogue_group(5), b"catalogue")],
    )
    def test_control_channels(self, group: bytes, name: bytes) -> None:
        assert Addresser(name).coordinate(group) == Coordinate(CONTROL_KIND, 0, 0)
        assert addressing.tag_of(group) == Addresser(name).tag

    def test_no_kind_of_name_begins_another(self) -> None:
        """So that no name of a share makes its channel one of another kind."""
        kinds = (b"object", b"share", b"senders", b"catalogue", b"keyed")
        assert not any(one != other and one.startswith(other) for one in kinds for other in kinds)
        assert addressing.tag_of(addressing.keyed_group(5)) == Addresser(b"keyed").tag

    @pytest.mark.parametrize(
        "group",
        [
            lambda keys: addressing.share_group(b"demo", 5, keys),
            lambda keys: addressing.catalogue_group(5, keys),
            lambda keys: addressing.senders_group(bytes(32), b"demo", 5, keys),
            lambda keys: addressing.node_group(Node(REF, 0, 0), 0, addressing.addresser_of(REF, keys), 5),
        ],
    )
    def test_every_channel_depends_on_the_key(self, group: Callable[[ShareKeys | None], bytes]) -> None:
        assert len({group(key) for key in (None, ShareKeys(bytes(32)), ShareKeys(b"k" * 32))}) == 3

    @patient
    @given(st.binary(min_size=1, max_size=255), st.binary(min_size=1, max_size=255))
    def test_shares_have_channels_of_their_own(self, one: bytes, other: bytes) -> None:
        assert (addressing.share_group(one, 5) == addressing.share_group(other, 5)) == (one == other)
