"""Listings: both ways, every limit, and what a hostile publisher may sign."""

from __future__ import annotations

import contextlib
import dataclasses
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcfs.protocol import catalog
from mcfs.protocol.catalog import (
    Attributes,
    DirectoryEntry,
    Entry,
    Extent,
    FileEntry,
    LinkEntry,
    Listing,
    Owners,
    decode_listing_untrusted,
    encode_listing,
)
from mcfs.protocol.errors import BadObject
from mcfs.protocol.ids import Digest, ObjectRef

from .hostile import BOMBS, mutated, patient, with_bomb

if TYPE_CHECKING:
    from collections.abc import Mapping

TOP: Final = Digest(bytes(range(32)))
B3SUM: Final = Digest(bytes(reversed(range(32))))
REF: Final = ObjectRef(1000, 1 << 20, TOP)
ATTRIBUTES: Final = Attributes(0o644, 1000, 100, 1_767_225_600_123_456_789)
FILE: Final = FileEntry(b"f", ATTRIBUTES, Extent(REF, 10, 20), B3SUM)
OBJECT: Final = [1000, 1 << 20, TOP]
HEAD: Final = [0o644, 1000, 100, 0]

names = st.binary(min_size=1, max_size=20).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
attributes = st.builds(
    Attributes,
    st.integers(0, 0o777),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 32) - 1),
    st.integers(-(1 << 63), (1 << 63) - 1),
)
digests = st.binary(min_size=32, max_size=32).map(Digest)
refs = st.builds(ObjectRef, st.integers(1, 1 << 50), st.integers(16, 24).map(lambda n: 1 << n), digests)
owner_names = st.dictionaries(st.integers(0, (1 << 32) - 1), st.binary(max_size=32), max_size=4)
owners = st.builds(Owners, owner_names, owner_names)


@st.composite
def extents(draw: st.DrawFn) -> Extent:
    ref = draw(refs)
    offset = draw(st.integers(0, ref.size - 1))
    return Extent(ref, offset, draw(st.integers(1, ref.size - offset)))


def _sorted(entries: list[Entry]) -> tuple[Entry, ...]:
    by_name = {entry.name: entry for entry in entries}
    return tuple(by_name[name] for name in sorted(by_name))


files = st.builds(FileEntry, names, attributes, st.none() | extents(), digests)
links = st.builds(LinkEntry, names, attributes, st.binary(min_size=1, max_size=40).filter(lambda t: b"\0" not in t))
large_directories = st.builds(DirectoryEntry, names, attributes, refs)
entries: st.SearchStrategy[Entry] = st.recursive(
    files | links | large_directories,
    lambda inner: st.builds(DirectoryEntry, names, attributes, st.lists(inner, max_size=4).map(_sorted)),
    max_leaves=8,
)
listings = st.lists(entries, max_size=6).map(_sorted)


def encode(*elements: object) -> bytes:
    return msgspec.msgpack.encode(list(elements))


def listing_of(*wire: object, objects: object = (OBJECT,), parts: object = (), format_: object = 1) -> bytes:
    """A listing of entries as they stand on the wire."""
    return encode(format_, objects, {}, {}, parts, wire)


def file(
    name: object = b"f", mode: object = 0o644, size: object = 20, number: object = 0, offset: object = 10
) -> list[object]:
    return [0, name, mode, 1000, 100, 0, size, number, offset, B3SUM]


def directory(name: object = b"d", number: object = None, inner: object = ()) -> list[object]:
    return [1, name, *HEAD, number, inner]


def link(target: object, name: object = b"l") -> list[object]:
    return [2, name, *HEAD, target]


def _reversed(names: Mapping[int, bytes]) -> dict[int, bytes]:
    return dict(reversed(list(names.items())))


def nested(levels: int) -> bytes:
    """A listing with so many directories inlined in each other. Built by hand: encoders too have their limits."""
    shell = encode(1, b"d", *HEAD, None, [])[:-1]
    return encode(1, [], {}, {}, [], [])[:-1] + (b"\x91" + shell) * levels + b"\x90"


class TestRoundTrip:
    @patient
    @given(listings, owners)
    def test_entries_come_back(self, entries: tuple[Entry, ...], owners: Owners) -> None:
        listing = decode_listing_untrusted(encode_listing(entries, owners))
        assert listing.entries == entries
        assert listing.parts == ()

    @patient
    @given(listings, owners)
    def test_only_owners_that_are_mentioned_travel(self, entries: tuple[Entry, ...], owners: Owners) -> None:
        listing = decode_listing_untrusted(encode_listing(entries, owners))
        every = list(catalog.walk_inlined(entries))
        uids, gids = {e.attributes.uid for e in every}, {e.attributes.gid for e in every}
        assert listing.owners.users == {uid: name for uid, name in owners.users.items() if uid in uids}
        assert listing.owners.groups == {gid: name for gid, name in owners.groups.items() if gid in gids}

    @patient
    @given(st.lists(refs, min_size=1, max_size=10))
    def test_parts_come_back(self, parts: list[ObjectRef]) -> None:
        listing = decode_listing_untrusted(encode_listing((), Owners(), parts))
        assert listing == Listing((), Owners(), tuple(parts))

    @patient
    @given(listings, owners)
    def test_equal_listings_are_equal_objects(self, entries: tuple[Entry, ...], owners: Owners) -> None:
        swapped = Owners(_reversed(owners.users), _reversed(owners.groups))
        assert encode_listing(entries, owners) == encode_listing(entries, swapped)

    def test_an_object_is_named_once(self) -> None:
        both = [FILE, dataclasses.replace(FILE, name=b"g")]
        assert encode_listing(both, Owners()).count(TOP) == 1

    def test_from_a_view(self) -> None:
        assert decode_listing_untrusted(memoryview(encode_listing([FILE], Owners()))).entries == (FILE,)

    def test_only_permission_bits_are_taken(self) -> None:
        (entry,) = decode_listing_untrusted(listing_of(file(mode=0o107755))).entries
        assert entry.attributes.mode == 0o755

    def test_an_empty_file_has_no_extent(self) -> None:
        (entry,) = decode_listing_untrusted(listing_of(file(size=0, number=None, offset=0))).entries
        assert isinstance(entry, FileEntry)
        assert entry.extent is None
        assert entry.size == 0

    def test_elements_of_a_later_format_are_passed_over(self) -> None:
        more = encode(1, [[*OBJECT, "later"]], {}, {}, [], [[*file(), None]], {b"later": 1.5})
        assert decode_listing_untrusted(more).entries == decode_listing_untrusted(listing_of(file())).entries


class TestLimits:
    @pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0", bytes(1), b"x" * 256, "text", None, 1])
    def test_names_that_linux_has_not(self, name: object) -> None:
        with pytest.raises(BadObject):
            decode_listing_untrusted(listing_of(file(name)))

    @pytest.mark.parametrize("name", [b"...", b" ", b"\xff", b"\n", b"x" * 255, "ä".encode("latin-1")])
    def test_names_that_linux_has(self, name: bytes) -> None:
        assert decode_listing_untrusted(listing_of(file(name))).entries[0].name == name

    @pytest.mark.parametrize("both", [(b"b", b"a"), (b"a", b"a"), (b"aa", b"a"), (b"a", b"B")])
    def test_order(self, both: tuple[bytes, bytes]) -> None:
        for wire in ([file(name) for name in both], [directory(inner=[file(name) for name in both])]):
            with pytest.raises(BadObject):
                decode_listing_untrusted(listing_of(*wire))

    @pytest.mark.parametrize("target", [b"", b"x" * 4096, b"a\0b", "text"])
    def test_link_targets(self, target: object) -> None:
        with pytest.raises(BadObject):
            decode_listing_untrusted(listing_of(link(target)))

    def test_the_longest_link_target(self) -> None:
        (entry,) = decode_listing_untrusted(listing_of(link(b"x" * 4095))).entries
        assert isinstance(entry, LinkEntry)
        assert len(entry.target) == 4095

    @pytest.mark.parametrize(
        "wire",
        [
            file(number=1),
            file(number=-1),
            file(number=1 << 24),
            file(number=None),
            file(offset=981),
            file(offset=-1),
            file(offset=(1 << 63) - 1, size=(1 << 63) - 1),
            file(size=1 << 63),
            file(mode=-1),
            file(mode=1 << 32),
            file()[:-1],
            [3, *file()[1:]],
            [*file()[:-1], bytes(31)],
            directory(number=1),
            directory(number=0, inner=[file()]),
            directory(number=0)[:-1],
            link(b"x")[:-1],
            [],
            None,
            "file",
        ],
    )
    def test_entries_that_are_none(self, wire: object) -> None:
        with pytest.raises(BadObject):
            decode_listing_untrusted(listing_of(wire))

    @pytest.mark.parametrize(
        "triple",
        [
            [0, 1 << 20, TOP],
            [1 << 63, 1 << 24, TOP],
            [1, 1 << 15, TOP],
            [1, 3 << 16, TOP],
            [1, 1 << 25, TOP],
            [1, 1 << 20, TOP[:-1]],
            [1, 1 << 20],
            [(1 << 56) + 1, 1 << 16, TOP],
        ],
    )
    def test_triples_that_are_none(self, triple: object) -> None:
        with pytest.raises(BadObject):
            decode_listing_untrusted(listing_of(objects=[triple]))

    def test_an_extent_may_end_where_its_object_does(self) -> None:
        (entry,) = decode_listing_untrusted(listing_of(file(size=20, offset=980))).entries
        assert isinstance(entry, FileEntry)
        assert entry.extent == Extent(REF, 980, 20)

    def test_parts_or_entries(self) -> None:
        with pytest.raises(BadObject):
            decode_listing_untrusted(listing_of(file(), parts=[0]))

    @pytest.mark.parametrize("parts", [[1], [-1], [None], [0] * (catalog.MAX_PARTS + 1)])
    def test_parts(self, parts: list[object]) -> None:
        with pytest.raises(BadObject):
            decode_listing_untrusted(listing_of(parts=parts))

    @pytest.mark.parametrize("format_", [0, 2, -1, 1 << 63, None, "1"])
    def test_format(self, format_: object) -> None:
        with pytest.raises(BadObject):
            decode_listing_untrusted(listing_of(format_=format_))

    def test_length(self) -> None:
        with pytest.raises(BadObject, match="bytes"):
            decode_listing_untrusted(bytes(catalog.MAX_LISTING_SIZE + 1))

    def test_nothing_may_follow(self) -> None:
        with pytest.raises(BadObject):
            decode_listing_untrusted(listing_of() + b"\0")

    def test_as_deep_as_allowed(self) -> None:
        (entry,) = decode_listing_untrusted(nested(catalog.MAX_DEPTH - 1)).entries
        depth = 1
        while isinstance(entry, DirectoryEntry) and isinstance(entry.content, tuple) and entry.content:
            entry, depth = entry.content[0], depth + 1
        assert depth == 63

    @pytest.mark.parametrize("levels", [64, 65, 500, 5000, 100_000])
    def test_deeper(self, levels: int) -> None:
        with pytest.raises(BadObject):
            decode_listing_untrusted(nested(levels))


class TestHostile:
    @pytest.mark.parametrize("bomb", BOMBS.values(), ids=list(BOMBS))
    def test_bombs(self, bomb: bytes) -> None:
        with pytest.raises(BadObject):
            decode_listing_untrusted(bomb)
        with contextlib.suppress(BadObject):  # most can be passed over; none may do harm
            decode_listing_untrusted(with_bomb(listing_of(file()), bomb))

    @pytest.mark.parametrize("bomb", BOMBS.values(), ids=list(BOMBS))
    @pytest.mark.parametrize("cut", range(1, 6))
    def test_bombs_within(self, bomb: bytes, cut: int) -> None:
        empty = b"\x96\x01\x90\x80\x80\x90\x90"
        with pytest.raises(BadObject):
            decode_listing_untrusted(empty[: cut + 1] + bomb)

    @patient
    @given(st.binary(max_size=300))
    def test_anything_raises_nothing_else(self, data: bytes) -> None:
        with contextlib.suppress(BadObject):
            decode_listing_untrusted(data)

    @patient
    @given(st.data())
    def test_mutations_raise_nothing_else(self, data: st.DataObject) -> None:
        entries = (FILE, DirectoryEntry(b"g", ATTRIBUTES, (FILE, LinkEntry(b"l", ATTRIBUTES, b"f"))))
        changed = data.draw(mutated(encode_listing(entries, Owners({1000: b"u"}, {100: b"g"}))))
        with contextlib.suppress(BadObject):
            check(decode_listing_untrusted(changed).entries)


def check(entries: tuple[Entry, ...]) -> None:
    """What holds of every listing that was let in."""
    assert all(a.name < b.name for a, b in pairwise(entries))
    for entry in entries:
        assert 1 <= len(entry.name) <= 255
        assert b"/" not in entry.name
        assert entry.attributes.mode <= 0o777
        if isinstance(entry, FileEntry) and entry.extent:
            assert entry.extent.offset + entry.extent.length <= entry.extent.object.size
        if isinstance(entry, DirectoryEntry) and isinstance(entry.content, tuple):
            check(entry.content)


class TestCuts:
    @patient
    @given(st.binary(max_size=40), st.integers(0, 1 << 20), st.integers(1, 1 << 20))
    def test_depend_on_the_item_alone(self, name: bytes, weight: int, mean: int) -> None:
        assert catalog.cut_after(name, weight, mean) == catalog.cut_after(name, weight, mean)
        assert not catalog.cut_after(name, 0, mean)
        assert catalog.cut_after(name, mean, mean), "a piece as long as the mean ends there"

    def test_pieces_weigh_what_they_should_in_the_mean(self) -> None:
        cuts = sum(catalog.cut_after(b"%d" % i, 100, 6400) for i in range(64_000))
        assert 900 < cuts < 1100
