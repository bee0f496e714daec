"""Announcements and gone datagrams: both ways, and everything that somebody without the key can do to them."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from mcfs.protocol import announce, wire
from mcfs.protocol.announce import (
    MAX_PERIOD,
    Announcement,
    claimed_publisher_untrusted,
    decode_announcement_untrusted,
    decode_gone_untrusted,
    encode_announcement,
    encode_gone,
)
from mcfs.protocol.catalog import (
    Attributes,
    DirectoryEntry,
    Entry,
    Extent,
    FileEntry,
    LinkEntry,
    Owners,
    encode_listing,
)
from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.ids import MAX_OBJECT_SIZE, Digest, Group, ObjectRef
from mcfs.protocol.succession import MAX_LINKS

from .hostile import BOMBS, mutated, patient, with_bomb

KEY: Final = SigningKey(bytes(range(32)))
LINK: Final = bytes(range(160))
OTHER_KEY: Final = SigningKey(bytes(32))
PUBLISHER: Final = bytes(KEY.verify_key)
REF: Final = ObjectRef(1000, 1 << 20, Digest(bytes(range(32))))
ATTRIBUTES: Final = Attributes(0o755, 1000, 100, 0)
TOP: Final = DirectoryEntry(b"demo", ATTRIBUTES, REF)
ADDRESS: Final = bytes.fromhex("fe800000000000000000000000000001")
GROUP: Final = Group(bytes.fromhex("ff150102030405060708000080000001"))
ANNOUNCEMENT: Final = Announcement(
    version=5,
    time_ms=6,
    entry=TOP,
    owners=Owners({1000: b"u"}, {100: b"g"}),
    total_bytes=7,
    total_files=8,
    rate=9,
    addresses=(ADDRESS,),
    period=10,
    publisher=PUBLISHER,
)
ANNOUNCEMENT_CONTEXT: Final = b"mcfs 1 announcement\0"
GONE_CONTEXT: Final = b"mcfs 1 gone\0"

u63 = st.integers(0, MAX_OBJECT_SIZE)
names = st.binary(min_size=1, max_size=255).filter(lambda n: not set(n) & set(b"/\0") and n not in (b".", b".."))
tops = st.builds(DirectoryEntry, names, st.just(ATTRIBUTES), st.just(REF)) | st.builds(
    FileEntry,
    names,
    st.just(ATTRIBUTES),
    st.none() | st.just(Extent(REF, 1, 2)),
    st.binary(min_size=32, max_size=32).map(Digest),
)
addresses = st.lists(st.binary(min_size=16, max_size=16), max_size=4).map(tuple)
announcements = st.builds(
    Announcement,
    u63,
    u63,
    tops,
    st.just(Owners({1000: b"u"})),
    u63,
    u63,
    u63,
    addresses,
    st.integers(0, MAX_PERIOD),
    st.just(PUBLISHER),
    st.lists(st.just(LINK), max_size=MAX_LINKS).map(tuple),
)

PASSED_OVER: Final = [pytest.param(bomb, id=name) for name, bomb in BOMBS.items()]
"""Bombs behind the last element, where they are skipped and not decoded."""


def sealed(context: bytes, message: bytes, key: SigningKey = KEY) -> bytes:
    """What anybody can make who has a key of his own."""
    return msgspec.msgpack.encode([bytes(key.verify_key), key.sign(context + message).signature, message])


def announcement_of(*elements: object) -> bytes:
    """A rightly signed announcement of these elements."""
    return sealed(ANNOUNCEMENT_CONTEXT, msgspec.msgpack.encode(elements))


def top_of(*entries: Entry) -> bytes:
    return encode_listing(entries, Owners())


class TestAnnouncement:
    @patient
    @given(announcements)
    def test_comes_back(self, announcement: Announcement) -> None:
        assert decode_announcement_untrusted(encode_announcement(announcement, KEY)) == announcement

    def test_the_name_is_that_of_the_top_entry(self) -> None:
        assert decode_announcement_untrusted(encode_announcement(ANNOUNCEMENT, KEY)).name == b"demo"

    def test_the_key_is_taken_from_the_signature(self) -> None:
        body = encode_announcement(ANNOUNCEMENT, OTHER_KEY)
        assert decode_announcement_untrusted(body).publisher == bytes(OTHER_KEY.verify_key)

    def test_more_addresses_than_allowed_are_left_out(self) -> None:
        many = dataclasses.replace(ANNOUNCEMENT, addresses=(ADDRESS,) * 9)
        assert len(decode_announcement_untrusted(encode_announcement(many, KEY)).addresses) == 4

    def test_the_longest_name_fits_the_smallest_mtu(self) -> None:
        long = dataclasses.replace(
            ANNOUNCEMENT,
            version=MAX_OBJECT_SIZE,
            time_ms=MAX_OBJECT_SIZE,
            entry=dataclasses.replace(TOP, name=b"x" * 255),
            owners=Owners({1000: b"u" * 32}, {100: b"g" * 32}),
            addresses=(ADDRESS,) * 4,
            links=(LINK,) * MAX_LINKS,
        )
        datagram = wire.control(wire.ANNOUNCEMENT, encode_announcement(long, KEY))
        assert len(datagram) <= wire.MIN_MTU - wire.IPV6_UDP_OVERHEAD

    @pytest.mark.parametrize(
        "top",
        [
            top_of(),
            top_of(TOP, dataclasses.replace(TOP, name=b"demo2")),
            top_of(LinkEntry(b"demo", ATTRIBUTES, b"x")),
            top_of(DirectoryEntry(b"demo", ATTRIBUTES, ())),
            encode_listing((), Owners(), [REF]),
            *BOMBS.values(),
        ],
    )
    def test_a_top_that_is_none(self, top: bytes) -> None:
        with pytest.raises(BadDatagram):
            decode_announcement_untrusted(announcement_of(1, 1, top, 1, 1, 1, []))

    @pytest.mark.parametrize("at", [0, 1, 3, 4, 5])
    @pytest.mark.parametrize("value", [-1, 1 << 63, None, "1", 1.5, b""])
    def test_numbers_out_of_range(self, at: int, value: object) -> None:
        elements: list[object] = [1, 1, top_of(TOP), 1, 1, 1, []]
        elements[at] = value
        with pytest.raises(BadDatagram):
            decode_announcement_untrusted(announcement_of(*elements))

    @pytest.mark.parametrize("value", [[ADDRESS] * 5, [ADDRESS[1:]], [None], None, {}])
    def test_addresses_that_are_none(self, value: object) -> None:
        with pytest.raises(BadDatagram):
            decode_announcement_untrusted(announcement_of(1, 1, top_of(TOP), 1, 1, 1, value))

    def test_the_period_may_be_left_out(self) -> None:
        assert decode_announcement_untrusted(announcement_of(1, 1, top_of(TOP), 1, 1, 1, [])).period == 0

    @pytest.mark.parametrize("value", [-1, MAX_PERIOD + 1, 1.5, None])
    def test_periods_that_are_none(self, value: object) -> None:
        with pytest.raises(BadDatagram):
            decode_announcement_untrusted(announcement_of(1, 1, top_of(TOP), 1, 1, 1, [], value))

    @pytest.mark.parametrize("value", [[LINK] * (MAX_LINKS + 1), [LINK[1:]], [LINK + b"x"], [None], [[]], None, LINK])
    def test_links_that_are_none(self, value: object) -> None:
        with pytest.raises(BadDatagram):
            decode_announcement_untrusted(announcement_of(1, 1, top_of(TOP), 1, 1, 1, [], 0, value))

    def test_the_claimed_key_is_that_of_the_signature(self) -> None:
        assert (
            claimed_publisher_untrusted(encode_announcement(ANNOUNCEMENT, OTHER_KEY)) == OTHER_KEY.verify_key.encode()
        )
        assert claimed_publisher_untrusted(encode_gone(GROUP, 1, KEY)) == PUBLISHER

    def test_elements_of_a_later_format_are_passed_over(self) -> None:
        body = announcement_of(1, 1, top_of(TOP), 1, 1, 1, [], 5, [], b"", {b"later": [1.5]})
        assert decode_announcement_untrusted(body).entry == TOP


class TestGone:
    @patient
    @given(st.binary(min_size=16, max_size=16), u63)
    def test_comes_back(self, group: bytes, time_ms: int) -> None:
        assert decode_gone_untrusted(encode_gone(Group(group), time_ms, KEY)) == (PUBLISHER, group, time_ms)

    @pytest.mark.parametrize("elements", [(GROUP,), (GROUP, -1), (GROUP, 1 << 63), (GROUP[1:], 1), (1, GROUP), ()])
    def test_elements_that_are_none(self, elements: tuple[object, ...]) -> None:
        with pytest.raises(BadDatagram):
            decode_gone_untrusted(sealed(GONE_CONTEXT, msgspec.msgpack.encode(elements)))


class TestSignature:
    def test_one_kind_does_not_stand_for_the_other(self) -> None:
        with pytest.raises(BadDatagram):
            decode_gone_untrusted(encode_announcement(ANNOUNCEMENT, KEY))
        with pytest.raises(BadDatagram):
            decode_announcement_untrusted(encode_gone(GROUP, 1, KEY))
        message = msgspec.msgpack.encode([GROUP, 1])
        with pytest.raises(BadDatagram):
            decode_gone_untrusted(sealed(ANNOUNCEMENT_CONTEXT, message))

    @patient
    @given(st.data())
    def test_every_bit_counts(self, data: st.DataObject) -> None:
        body = bytearray(encode_announcement(ANNOUNCEMENT, KEY))
        bit = data.draw(st.integers(0, 8 * len(body) - 1))
        body[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadDatagram):
            decode_announcement_untrusted(bytes(body))

    def test_a_key_cannot_be_put_in_anothers_place(self) -> None:
        body = encode_announcement(ANNOUNCEMENT, KEY).replace(PUBLISHER, bytes(OTHER_KEY.verify_key))
        with pytest.raises(BadDatagram):
            decode_announcement_untrusted(body)

    @pytest.mark.parametrize("key", [bytes(32), b"\1" + bytes(31), b"\xff" * 32])
    def test_keys_of_small_order_sign_nothing(self, key: bytes) -> None:
        message = msgspec.msgpack.encode([GROUP, 1])
        with pytest.raises(BadDatagram):
            decode_gone_untrusted(msgspec.msgpack.encode([key, key + bytes(32), message]))


class TestHostile:
    @pytest.mark.parametrize("bomb", BOMBS.values(), ids=list(BOMBS))
    def test_bombs(self, bomb: bytes) -> None:
        with pytest.raises(BadDatagram):
            claimed_publisher_untrusted(bomb)
        for decode in (decode_announcement_untrusted, decode_gone_untrusted):
            with pytest.raises(BadDatagram):
                decode(bomb)
            with pytest.raises(BadDatagram):
                decode(b"\x93" + bomb)

    @pytest.mark.parametrize("bomb", BOMBS.values(), ids=list(BOMBS))
    def test_bombs_that_are_signed(self, bomb: bytes) -> None:
        with pytest.raises(BadDatagram):
            decode_announcement_untrusted(sealed(ANNOUNCEMENT_CONTEXT, bomb))
        with pytest.raises(BadDatagram):
            decode_gone_untrusted(sealed(GONE_CONTEXT, bomb))

    @pytest.mark.parametrize("bomb", PASSED_OVER)
    def test_bombs_beside_the_signature(self, bomb: bytes) -> None:
        with contextlib.suppress(BadDatagram):
            decode_announcement_untrusted(with_bomb(encode_announcement(ANNOUNCEMENT, KEY), bomb))

    @pytest.mark.parametrize("bomb", PASSED_OVER)
    def test_bombs_beside_what_is_signed(self, bomb: bytes) -> None:
        message = with_bomb(msgspec.msgpack.encode([GROUP, 1]), bomb)
        with contextlib.suppress(BadDatagram):
            decode_gone_untrusted(sealed(GONE_CONTEXT, message))

    @patient
    @given(st.binary(max_size=300))
    def test_anything_raises_nothing_else(self, data: bytes) -> None:
        for decode in (decode_announcement_untrusted, decode_gone_untrusted, claimed_publisher_untrusted):
            with contextlib.suppress(BadDatagram):
                decode(data)

    @patient
    @given(st.binary(max_size=300))
    def test_anything_signed_raises_nothing_else(self, data: bytes) -> None:
        with contextlib.suppress(BadDatagram):
            decode_announcement_untrusted(sealed(ANNOUNCEMENT_CONTEXT, data))
        with contextlib.suppress(BadDatagram):
            decode_gone_untrusted(sealed(GONE_CONTEXT, data))

    @patient
    @given(st.data())
    def test_mutations_of_what_is_signed_raise_nothing_else(self, data: st.DataObject) -> None:
        message: bytes = msgspec.msgpack.decode(encode_announcement(ANNOUNCEMENT, KEY))[2]
        with contextlib.suppress(BadDatagram):
            body = sealed(ANNOUNCEMENT_CONTEXT, data.draw(mutated(message)))
            found = decode_announcement_untrusted(body)
            assert isinstance(found.entry, FileEntry) or isinstance(found.entry.content, ObjectRef)
            assert len(found.addresses) <= announce.MAX_ADDRESSES
