"""What is in the cache, how much it takes, and what goes first. No I/O; the caller holds the lock.

Least recently used goes first, by object and within an object by range of blocks (16 MiB): first the objects that no
open file needs, then, oldest ranges first, those of open files. The clock is the order of accesses itself. The last
blocks accessed never go: a reader is about to get them. What the user has pinned does not go to make room either; it
does when the limit itself has become less than that.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mcfs.protocol.ids import Node, ObjectId

GIB: Final = 1024**3
MIB: Final = 1024**2
MAX_OBJECTS: Final = 1 << 18
"""Objects in one cache: about 100 MB of records. At 20 GiB the mean object may be as small as 80 KiB."""
_RECENT: Final = 64
"""Accesses whose blocks are never evicted: the largest window of blocks that a client asks for at a time."""
_RANGE_BYTES: Final = 16 * MIB
_MAX_BATCH: Final = 32 * MIB
"""Freed at a time beyond what is needed, so that one eviction serves many stores."""


def default_max_bytes(file_system_bytes: int) -> int:
    """10 % of the file system or 20 GiB, whichever is less."""
    return min(file_system_bytes // 10, 20 * GIB)


def default_min_free(file_system_bytes: int) -> int:
    """1 % of the file system or 512 MiB, whichever is less."""
    return min(file_system_bytes // 100, 512 * MIB)


def blocks_per_range(block_size: int) -> int:
    return max(1, _RANGE_BYTES // block_size)


@dataclass(slots=True, eq=False)
class Record:
    """One object's file. Compared by identity: a file made anew under the same name has another record."""

    id: ObjectId
    allocated: int = 0
    """Bytes that it takes on the disk."""
    ranges: dict[int, None] = field(default_factory=dict)
    """The ranges used in this process, the oldest first; those not named here are older."""
    used_ns: int = 0
    """When it was used last before this process, as far as the file system knows."""


class Quota:
    """The records in order of use, what is needed, and the sums."""

    def __init__(self, limit: int, records: Iterable[Record]) -> None:
        self.limit = limit
        self.used = 0
        self._records: OrderedDict[ObjectId, Record] = OrderedDict()
        self._open: Counter[ObjectId] = Counter()
        self.pinned: frozenset[ObjectId] = frozenset()
        """What the user wants to be kept."""
        self._recent: deque[Node] = deque(maxlen=_RECENT)
        for record in records:
            self.add(record)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def batch(self) -> int:
        return min(self.limit // 64, _MAX_BATCH)

    def get(self, name: ObjectId) -> Record | None:
        return self._records.get(name)

    def names(self, *, at_least: int = 0) -> list[ObjectId]:
        """Of those that take so many bytes, the least recently used first."""
        return [name for name, record in self._records.items() if record.allocated >= at_least]

    def add(self, record: Record) -> None:
        """The record of a new file, as the most recently used."""
        self._records[record.id] = record
        self.used += record.allocated

    def remove(self, record: Record) -> bool:
        """False when it is not, or no longer, the record of its name."""
        if self._records.get(record.id) is not record:
            return False
        del self._records[record.id]
        self.used -= record.allocated
        return True

    def resize(self, record: Record, allocated: int) -> int:
        """Note what a file takes now; returns by how much that is less than before."""
        freed = record.allocated - allocated
        record.allocated = allocated
        if self._records.get(record.id) is record:
            self.used -= freed
        return freed

    def touch(self, node: Node) -> None:
        """The node was stored or loaded: it and its object are the most recently used."""
        record = self._records.get(node.object.id)
        if record is None:
            return
        self._records.move_to_end(record.id)
        if node.level == 0:
            self._recent.append(node)
            if node.object.size > _RANGE_BYTES:
                _move_to_end(record.ranges, node.index // blocks_per_range(node.object.block_size))

    def opened(self, name: ObjectId) -> None:
        self._open[name] += 1

    def closed(self, name: ObjectId) -> None:
        self._open[name] -= 1
        if self._open[name] <= 0:
            del self._open[name]

    def is_open(self, name: ObjectId) -> bool:
        return name in self._open

    def protected(self) -> dict[ObjectId, set[int]]:
        """The blocks that must stay: the last 64, but in a small cache no more than half of the limit."""
        kept: dict[ObjectId, set[int]] = {}
        room = self.limit // 2
        for node in reversed(self._recent):
            indexes = kept.setdefault(node.object.id, set())
            if node.index not in indexes:
                room -= node.size
                if room < 0:
                    break
                indexes.add(node.index)
        return kept

    def victims(self, *, pinned: bool = False) -> Iterator[Record]:
        """The objects in the order in which they may be shrunk, as they are now; at last those that are `pinned`."""
        records, opened, spared = list(self._records.values()), set(self._open), self.pinned
        # The list is copied under the lock; to look at each of 262,144 records there would hold up readers.
        free = (record for record in records if record.id not in spared and record.id not in opened)
        needed = (record for record in records if record.id not in spared and record.id in opened)
        kept = (record for record in records if pinned and record.id in spared)
        return chain(free, needed, kept)


def _move_to_end(keys: dict[int, None], key: int) -> None:
    keys.pop(key, None)
    keys[key] = None


def runs(first: int, end: int, holes: set[int]) -> list[tuple[int, int]]:
    """Cut [first, end) at the numbers that must stay."""
    found = []
    for hole in sorted(hole for hole in holes if first <= hole < end):
        if first < hole:
            found.append((first, hole))
        first = hole + 1
    return [*found, (first, end)] if first < end else found
