"""Making room: the limit of the cache, and the space that it leaves to others. For the thread that writes."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Final

from mcfs.fetch.cachequota import MAX_OBJECTS, blocks_per_range, runs

if TYPE_CHECKING:
    from mcfs.fetch.cachedir import CacheDirectory
    from mcfs.fetch.cachefile import CacheFile
    from mcfs.fetch.cacheobjects import Objects
    from mcfs.fetch.cachequota import Record

logger = logging.getLogger(__name__)

_OVERHEAD: Final = 16 * 1024
"""What a block may take beyond its bytes: header and map of a new file, an extent block."""

_DIVIDED: Final = 16 * 1024 * 1024
"""Bytes stored after which it is looked whether there is another mount: so much it may take beyond its part."""


class Room:
    """Raises OSError where the disk does."""

    def __init__(self, objects: Objects, directory: CacheDirectory, max_bytes: int, min_free: int) -> None:
        self._objects = objects
        self._quota = objects.quota
        self._directory = directory
        self._max_bytes = max_bytes
        self._min_free = min_free
        self._undivided = 0
        """Bytes stored since it was looked how many mounts there are."""
        self._divide()

    def make(self, size: int) -> bool:
        """See to it that a node of that size can be kept. False when the limit does not allow it.

        Raises ENOSPC when others have filled the disk.
        """
        need = size + _OVERHEAD
        self._undivided += need
        if self._undivided > _DIVIDED:
            self.keep_limit()
        if self._over_limit(need) <= 0 and self._over_disk(need) <= 0:
            return True
        self._divide(need)
        if need > self._quota.limit:
            return False
        if (goal := max(self._over_limit(need), self._over_disk(need))) > 0:
            self.evict(goal + self._quota.batch)
        # Its part may have become smaller, by a second mount. The limit counts more than what is pinned.
        self.keep_limit()
        if self._over_disk(need) > 0:
            raise OSError(errno.ENOSPC, f"less than {self._min_free} bytes are free")
        return self._over_limit(need) <= 0

    def keep_limit(self) -> None:
        """Give way to further mounts of the directory that have come."""
        self._divide()
        if self._quota.used > self._quota.limit:
            self.evict(self._quota.used - self._quota.limit, pinned=True)

    def evict(self, goal: int, *, pinned: bool = False) -> int:
        """Free at least so many bytes if possible, of what is `pinned` at last; returns how many it were."""
        with self._objects.lock:
            victims, kept = self._quota.victims(pinned=pinned), self._quota.protected()
        freed = 0
        for record in victims:
            if freed >= goal:
                break
            try:
                freed += self._shrink(record, goal - freed, kept.get(record.id, set()))
            except OSError as error:
                # Holes are unknown here, or the file has a bad spot, which must not stop all evictions: it goes as a
                # whole, open or not. If it cannot even be deleted, nothing can.
                logger.debug("cached object %s is deleted: %s", record.id.hex(), error)
                freed += self._objects.remove(record)
        return freed

    def _over_limit(self, need: int) -> int:
        # A count above its bound is one small object too many, whatever its size.
        return max(self._quota.used + need - self._quota.limit, len(self._quota) - MAX_OBJECTS + 1)

    def _over_disk(self, need: int) -> int:
        return self._min_free + need - self._objects.disk.free(self._objects.at)

    def _divide(self, need: int = 0) -> None:
        """How much of the limit is this mount's part, which has to have room for so many bytes."""
        self._undivided = 0
        limit = self._max_bytes // self._directory.parts()
        if limit < self._max_bytes and self._quota.used + need > limit:
            self._directory.remove_unused()
            limit = self._max_bytes // self._directory.parts()
        self._quota.limit = limit

    def _shrink(self, record: Record, goal: int, kept: set[int]) -> int:
        with self._objects.lock:
            opened = self._quota.is_open(record.id)
        if not kept and not opened and record.allocated <= goal:
            return self._objects.remove(record)
        freed, empty = self._punch(record, goal, kept)
        return freed + (self._objects.remove(record) if empty and not opened else 0)

    def _punch(self, record: Record, goal: int, kept: set[int]) -> tuple[int, bool]:
        """Give ranges back, the oldest first; returns the bytes freed and whether no block is left."""
        freed = 0
        with self._objects.using(record.id) as found:
            if found is None or found[0] is not record:
                return 0, False
            file = found[1]
            for number in self._ranges(record, file):
                if freed >= goal:
                    break
                _punch_range(file, number, kept)
                freed += self._objects.account(record, file)
                self._forget_range(record, number)
            return freed, file.count(0, file.layout.geometry.counts[0]) == 0

    def _ranges(self, record: Record, file: CacheFile) -> list[int]:
        with self._objects.lock:
            used = dict(record.ranges)
        present = file.ranges(blocks_per_range(file.ref.block_size))
        return [number for number in present if number not in used] + list(used)

    def _forget_range(self, record: Record, number: int) -> None:
        with self._objects.lock:
            record.ranges.pop(number, None)


def _punch_range(file: CacheFile, number: int, kept: set[int]) -> None:
    """Evict the range but for the blocks that must stay."""
    width = blocks_per_range(file.ref.block_size)
    first = number * width
    end = min(first + width, file.layout.geometry.counts[0])
    for run in runs(first, end, kept):
        file.evict(*run)
