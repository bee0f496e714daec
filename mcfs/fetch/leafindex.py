"""Which blocks of the cache have which leaf hash, so that a new version of a file takes what is there already.

Only blocks that are in the cache are entered; that they still are, and what they hold, is for the reader to check. One
entry for each hash, the newest. Blocks that are dropped or evicted stay entered until they are looked for.

A hash is entered by its first 8 bytes, which takes a quarter of the memory: who finds a block by them compares the
whole hash anyway, with that of the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Final

from mcfs.protocol.ids import Node

if TYPE_CHECKING:
    from mcfs.protocol.ids import Digest, ObjectRef

MAX_BLOCKS: Final = 1 << 18
"""Entries: 256 GiB at the default block size. They take some 120 bytes each, 30 MB in all; the default limit of the
cache is 20,480 blocks."""
BLOCKS_PER_OBJECT: Final = 8
"""Objects that entries may be of: one for so many entries, 32,768 in all. The blocks of a file that changes again and
again stay as many, while each version is an object of its own."""
_PREFIX: Final = 8
_INDEX_BITS: Final = 40
"""A block's number has so many (MAX_BLOCKS of the protocol)."""


@dataclass(slots=True)
class _Generation:
    """Objects have numbers, so that an entry is two integers."""

    places: dict[int, int] = field(default_factory=dict)
    objects: list[ObjectRef] = field(default_factory=list)
    numbers: dict[ObjectRef, int] = field(default_factory=dict)

    def add(self, key: int, node: Node) -> None:
        number = self.numbers.get(node.object)
        if number is None:
            number = self.numbers[node.object] = len(self.objects)
            self.objects.append(node.object)
        self.places[key] = number << _INDEX_BITS | node.index

    def find(self, key: int) -> Node | None:
        place = self.places.get(key)
        if place is None:
            return None
        return Node(self.objects[place >> _INDEX_BITS], 0, place & ((1 << _INDEX_BITS) - 1))


class LeafIndex:
    """Any thread may use it."""

    def __init__(self, max_blocks: int = MAX_BLOCKS) -> None:
        self._half = max(1, max_blocks // 2)
        self._objects = max(1, self._half // BLOCKS_PER_OBJECT)
        self._young = _Generation()
        self._old = _Generation()
        """What was entered earlier; when the young ones are half of all, these are forgotten."""
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._young.places) + len(self._old.places)

    def add(self, digest: Digest, node: Node) -> None:
        """The block is in the cache, and has that hash."""
        with self._lock:
            if self._is_full(self._young, node):
                self._old, self._young = self._young, _Generation()
            self._young.add(_key(digest), node)

    def add_older(self, digest: Digest, node: Node) -> bool:
        """The same of a block that is no better than any other; False if there is no room for such ones any more."""
        with self._lock:
            if self._is_full(self._old, node):
                return False
            if _key(digest) not in self._old.places:
                self._old.add(_key(digest), node)
            return True

    def _is_full(self, generation: _Generation, node: Node) -> bool:
        if len(generation.places) >= self._half:
            return True
        return len(generation.objects) >= self._objects and node.object not in generation.numbers

    def find(self, digest: Digest) -> Node | None:
        """A block that had the hash when it was entered."""
        key = _key(digest)
        with self._lock:
            return self._young.find(key) or self._old.find(key)

    def forget(self, digest: Digest) -> None:
        """The block that was found is not there, or is not what it should be."""
        key = _key(digest)
        with self._lock:
            if self._young.places.pop(key, None) is None:
                self._old.places.pop(key, None)


def can_be_elsewhere(node: Node) -> bool:
    """Whether a block may be part of another object as well: not what is the whole of a small one, of which there are
    as many as small files."""
    return node.object.geometry.top_level > 0 or node.object.size == node.object.block_size


def _key(digest: Digest) -> int:
    return int.from_bytes(digest[:_PREFIX], "big")
