"""What is in the cache, how much it takes, and what goes first. No I/O; the caller holds the lock.

Least recently used goes first, by object and within an object by range of blocks (16 MiB): first the objects that no
open file needs, then, oldest ranges first, the pinned ones. The clock is the order of accesses itself. The last blocks
accessed never go: a reader is about to get them.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

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


class Quota:
    """The records in order of use, pins, and the sums."""

    def __init__(self, limit: int, records: Iterable[Record]) -> None:
        self.limit = limit
        self.used = 0
        self._records: OrderedDict[ObjectId, Record] = OrderedDict()
        self._pins: Counter[ObjectId] = Counter()
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

    def names(self) -> list[ObjectId]:
        """The least recently used first."""
        return list(self._records)

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

    def pin(self, name: ObjectId) -> None:
        self._pins[name] += 1

    def unpin(self, name: ObjectId) -> None:
        self._pins[name] -= 1
        if self._pins[name] <= 0:
            del self._pins[name]

    def is_pinned(self, name: ObjectId) -> bool:
        return name in self._pins

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

    def victims(self) -> list[Record]:
        """All objects in the order in which they may be shrunk."""
        records = self._records.values()
        if not self._pins:
            return list(records)
        return sorted(records, key=lambda record: record.id in self._pins)


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
