"""The store: which node a multicast group stands for, and that node's bytes.

Memory grows by 32 bytes per object: the tag of its groups, the row in the database that says the rest, and which shares
it is part of. An object that is in shares with different keys is there once for each key: its groups are others, and
its nodes are sealed in another way. Objects that only earlier snapshots had are there as well: readers of files that
were opened then get those of their blocks that did not change, and are told of the others that they are gone.

Blocks are read from the files when they are asked for, into a private buffer, and *that buffer* is checked against the
hash tree before it is given out: a file that was changed, replaced or swapped for a link since it was indexed yields
Gone, never other bytes.
"""

from __future__ import annotations

import os
import sqlite3
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final

import numpy as np

from mcfs.protocol.addressing import CONTROL_KIND, SITE_LOCAL, addresser_of, node_group, prefix, tag_of
from mcfs.protocol.errors import BadNode, Gone
from mcfs.protocol.ids import FAN_OUT, Digest, Group, Node, ObjectRef, node_under
from mcfs.protocol.merkle import child_hash, is_zero_leaf, verify_node
from mcfs.protocol.seal import NodeSeal
from mcfs.serve.beneath import join
from mcfs.serve.carousel import Content
from mcfs.serve.channel import Channel
from mcfs.serve.lookup import Lookup
from mcfs.serve.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mcfs.protocol.addressing import Addresser
    from mcfs.protocol.keys import ShareKeys
    from mcfs.serve.database import Connection
    from mcfs.serve.index import Index, Snapshot
    from mcfs.serve.lookup import Place

_ADDRESSERS: Final = 1024
"""Objects in use at a time: the channels that a network can hold, and then some."""
_LUMPED: Final = 63
"""The bit that all shares behind the 63rd have in common: what is of one counts as of all of them."""
_REALM_BITS: Final = 8
MAX_KEYS: Final = (1 << _REALM_BITS) - 1
"""Different share keys that a store can ever have."""
_BREATH: Final = 256
"""Objects that take a millisecond."""
_PAGES: Final = 64
"""Hash pages kept, 2 MiB: each is used for 1,024 blocks."""


class NodeStore:
    """The objects of some snapshots of an index. Thread-safe."""

    def __init__(self, index: Index, *, scope: int = SITE_LOCAL) -> None:
        self._index = index
        self._prefix = prefix(scope)
        self._scope = scope
        self._lookup = Lookup(index)
        self._source = Source(index)
        self._realms: list[ShareKeys | None] = [None]
        """Share keys by number; what is of no key is of number 0. A *place* is a row and one of these numbers."""
        self._table = _Table({}, {}, (), None)
        self._contents: tuple[_Table, list[Content]] | None = None
        self._forget_rows()

    def __len__(self) -> int:
        """Objects that can be resolved."""
        return len(self._table.tags)

    def replace(
        self,
        snapshots: Sequence[Snapshot],
        keys: Mapping[bytes, ShareKeys] | None = None,
        *,
        breathe: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve these snapshots, each the newest of its share, those under a share key that are named in `keys`; and
        what is kept of earlier ones. Blocks: 5 us per object, 1 us if it was there before, calling `breathe` now and
        then. May be called in any thread, one call at a time, while others resolve and load. Raises sqlite3.Error."""
        making = _Making(self._table, self._index.reader, breathe)
        for number, snapshot in enumerate(snapshots):
            realm = self._realm((keys or {}).get(snapshot.name))
            making.add(self._index.objects_of(snapshot.name), realm, self._realms[realm], 1 << min(number, _LUMPED))
            making.add(self._index.former_of(snapshot.name), realm, self._realms[realm], 0)
        self._table = making.finish(tuple(snapshot.name for snapshot in snapshots))
        self._forget_rows()

    def contents(self) -> list[Content]:
        """All objects of the current snapshots, in the order in which they were indexed; none if the state database
        cannot be read. The first call after a change takes 10 us for each."""
        kept, table = self._contents, self._table
        if kept is not None and kept[0] is table:
            return kept[1]
        try:
            refs = [(place, self._lookup.ref(place >> _REALM_BITS)) for place in table.current()]
            contents = [
                Content(ref, self._lookup.is_listing(place >> _REALM_BITS), self._realms[place & MAX_KEYS])
                for place, ref in refs
                if ref is not None
            ]
        except sqlite3.Error:
            return []
        self._contents = (table, contents)
        return contents

    def group(self, node: Node) -> Group:
        """The channel of a node in the fastest pace class."""
        return node_group(node, 0, self._addresser(node.object, node.keys), self._scope)

    def resolve(self, group: bytes) -> Channel | None:
        """The channel of a group, None if it is no node of ours. Microseconds; reads the database for a new object."""
        if group[:2] != self._prefix:
            return None
        table = self._table
        candidates = table.candidates(tag_of(group))
        channels = (self._channel(place, table.names_of(shares), Group(group)) for place, shares in candidates)
        return next((channel for channel in channels if channel), None)

    def load(self, node: Node) -> bytes | bytearray:
        """What is sent of a node: its verified bytes, sealed if it has a key. May wait for the disk. Raises Gone."""
        while True:
            reader = self._index.reader
            try:
                return self._sealed(node)
            except sqlite3.Error as error:
                if self._index.reader is not reader:  # another database took its place meanwhile
                    continue
                self._index.on_failure()
                raise Gone(f"state database: {error}") from None

    def close_unused(self) -> None:
        """Close the files that nobody has read since this was called last. May wait for the disk, which has to free
        what was deleted."""
        self._source.age()

    def close(self) -> None:
        """Close the files that are kept open."""
        self._source.clear()

    # --- which node --------------------------------------------------------------------------------------------------

    def _forget_rows(self) -> None:
        """Start the caches anew: rows may have been removed."""
        self._page = lru_cache(_PAGES)(self._lookup.node)
        self._row = lru_cache(_ADDRESSERS)(self._lookup.row)
        self._ref = lru_cache(_ADDRESSERS)(self._lookup.ref)
        self._addresser = lru_cache(_ADDRESSERS)(self._make_addresser)

    @staticmethod
    def _make_addresser(ref: ObjectRef, keys: ShareKeys | None) -> Addresser:
        return addresser_of(ref, keys)

    def _realm(self, keys: ShareKeys | None) -> int:
        """The number of a key. Raises ValueError above MAX_KEYS of them."""
        if keys not in self._realms:
            if len(self._realms) > MAX_KEYS:
                raise ValueError("too many share keys")
            self._realms.append(keys)
        return self._realms.index(keys)

    def _channel(self, place: int, shares: frozenset[bytes], group: Group) -> Channel | None:
        keys = self._realms[place & MAX_KEYS]
        try:
            ref = self._ref(place >> _REALM_BITS)
        except sqlite3.Error:
            self._index.on_failure()
            return None
        if ref is None:
            return None
        addresser = self._addresser(ref, keys)
        coordinate = addresser.coordinate(group)
        # The tag is compared because a rebuilt database gives old rows to new objects.
        if coordinate is None or coordinate.kind >= CONTROL_KIND or addresser.tag != tag_of(group):
            return None
        if not ref.geometry.has(coordinate.kind, coordinate.index):
            return None
        node = node_under(keys, ref, coordinate.kind, coordinate.index)
        return Channel(group, node, coordinate.pace, shares)

    # --- its bytes ---------------------------------------------------------------------------------------------------

    def _sealed(self, node: Node) -> bytes | bytearray:
        row = self._row(node.object)
        if row is None:
            raise Gone("no such object")
        expected = self._expected(row, node)
        data = self._load(row, node, expected)
        return NodeSeal(node.keys, node).seal(data, expected) if node.keys else data

    def _load(self, row: int, node: Node, expected: Digest) -> bytes | bytearray:
        if is_zero_leaf(node, expected):
            return bytes(node.size)
        return self._kept(row, node, expected) or self._read(row, node, expected)

    def _expected(self, row: int, node: Node) -> Digest:
        """The node's hash, from the page above it. A damaged page only means that no bytes fit."""
        if node.level == node.object.geometry.top_level:
            return node.object.top
        page = self._page(row, node.level + 1, node.index // FAN_OUT)
        if page is None:
            raise Gone("its hash page is not in the state database")
        return child_hash(page, node.index)

    def _kept(self, row: int, node: Node, expected: Digest) -> bytes | None:
        """A page or a block of a listing, from the database."""
        data = self._lookup.node(row, node.level, node.index)
        if data is not None and _fits(node, expected, data):
            return data
        if node.level:
            raise Gone("its hash page is damaged or not in the state database")
        return None

    def _read(self, row: int, node: Node, expected: Digest) -> bytearray:
        """A block, from wherever its file or the files of its pack are."""
        current, former = self._index.roots
        files = self._lookup.file_places(row, node.object.size, current)
        packs = self._lookup.pack_places(row, current)
        if data := self._read_there(row, node, expected, files, packs):
            return data
        former_files = self._lookup.former_places(row, node.object.size, (*current, *former))
        former_files += self._lookup.file_places(row, node.object.size, former)
        former_packs = self._lookup.pack_places(row, former)
        if data := self._read_there(row, node, expected, former_files, former_packs):
            return data
        if files or packs:
            self._index.doubt(row, (*files, *packs))
        raise Gone(f"no file has its bytes any more{_where((*files, *packs, *former_files, *former_packs))}")

    def _read_there(
        self, row: int, node: Node, expected: Digest, files: Sequence[Place], packs: Sequence[Place]
    ) -> bytearray | None:
        fits = partial(_fits, node, expected)
        offset = node.index * node.object.block_size
        for place in files:
            if data := self._source.file_block(row, place, offset, node.size, fits):
                return data
        for place in packs:
            if data := self._source.pack_block(place, node.size, fits):
                return data
        return None


def _fits(node: Node, expected: Digest, data: bytes | bytearray) -> bool:
    try:
        verify_node(node, data, expected)
    except BadNode:
        return False
    return True


def _where(places: Sequence[Place]) -> str:
    """One of them, for a person. repr, since a name may hold what moves a terminal's cursor."""
    names = (join(place.directory, name) for place in places for name, _ in place.members)
    first = next(names, None)
    return f", as {os.fsdecode(first)!r} has changed" if first is not None else ""


class _Table:
    """Which places have which tags, and which shares they are in: three arrays, sorted by tag. Never changes."""

    def __init__(
        self, tags: dict[int, int], shares: dict[int, int], names: tuple[bytes, ...], numbered_by: Connection | None
    ) -> None:
        """Place -> tag; place -> bits of shares, of the current objects only; the shares' names; the database that the
        rows are of, as another one gives them to other objects."""
        numbers = np.fromiter(tags.values(), dtype=np.uint64, count=len(tags))
        places = np.fromiter(tags.keys(), dtype=np.int64, count=len(tags))
        bits = np.fromiter((shares.get(place, 0) for place in tags), dtype=np.uint64, count=len(tags))
        order = np.argsort(numbers)
        self.tags, self._places, self._shares = numbers[order], places[order], bits[order]
        self._names = names
        self.numbered_by = numbered_by
        self.names_of = lru_cache(_ADDRESSERS)(self._names_of)

    def candidates(self, tag: bytes) -> Iterator[tuple[int, int]]:
        """Places of the objects with a tag, and bits of their shares: one as a rule, two should tags collide."""
        number = np.uint64(int.from_bytes(tag, "big"))
        at = int(np.searchsorted(self.tags, number))
        while at < len(self.tags) and self.tags[at] == number:
            yield int(self._places[at]), int(self._shares[at])
            at += 1

    def current(self) -> list[int]:
        """Places of the current objects, in order."""
        places: list[int] = np.sort(self._places[self._shares != 0]).tolist()
        return places

    def tags_by_place(self) -> dict[int, int]:
        return dict(zip(self._places.tolist(), self.tags.tolist(), strict=True))

    def _names_of(self, shares: int) -> frozenset[bytes]:
        return frozenset(name for number, name in enumerate(self._names) if shares >> min(number, _LUMPED) & 1)


class _Making:
    """A table on its way, from objects and from what the table before knows of them."""

    def __init__(self, before: _Table, numbered_by: Connection, breathe: Callable[[], None]) -> None:
        self._known = before.tags_by_place() if before.numbered_by is numbered_by else {}
        self._numbered_by = numbered_by
        self._breathe = breathe
        self._tags: dict[int, int] = {}
        self._shares: dict[int, int] = {}

    def add(self, objects: Iterable[tuple[int, ObjectRef]], realm: int, keys: ShareKeys | None, shares: int) -> None:
        """Objects of a share with its bit; of former ones with none."""
        for count, (row, ref) in enumerate(objects):
            place = row << _REALM_BITS | realm
            if place not in self._tags:
                known = self._known.get(place)
                self._tags[place] = int.from_bytes(addresser_of(ref, keys).tag, "big") if known is None else known
            if shares:
                self._shares[place] = self._shares.get(place, 0) | shares
            if not count % _BREATH:
                self._breathe()

    def finish(self, names: tuple[bytes, ...]) -> _Table:
        return _Table(self._tags, self._shares, names, self._numbered_by)
