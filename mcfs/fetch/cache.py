"""The local cache of verified nodes: what was fetched once need not be fetched again.

Threads. Any thread may ask, load, mark and drop; these take a lock for a dictionary access only, and read outside of
it. What writes (`store`, `store_hole`, `copy_block`, `prune`, `close`) takes turns under the writer's lock, and is
meant for one writer thread: an event loop that calls it waits for the disk.

Trust. A node that this process did not store is only claimed to be right. Who loads it checks the hash, then calls
`mark_verified`, or `drop` and fetches it anew. `load_range`, which gives a part and therefore cannot be checked, gives
only what is verified.

Failure. No method raises OSError: what cannot be read is not there, what cannot be written is not kept. There is one
warning; after a failed write the next ones are not tried for a while, which is counted in stores (cachehealth).

Nothing is flushed to the disk by force. One process per directory; a process that forks opens the cache after it.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Final, TypeVar

from mcfs.fetch.cachedir import lock_directory, lock_existing, scan
from mcfs.fetch.cachedisk import FULL, Disk, octets
from mcfs.fetch.cachefile import can_keep
from mcfs.fetch.cachehealth import Health
from mcfs.fetch.cachenames import Names
from mcfs.fetch.cacheobjects import Objects
from mcfs.fetch.cachepins import PinDirectory
from mcfs.fetch.cachequota import Quota, default_max_bytes, default_min_free
from mcfs.fetch.cacheroom import Room
from mcfs.fetch.cachetable import MAX_FILES, FileTable
from mcfs.protocol.ids import MIN_BLOCK_SIZE, Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mcfs.fetch.cachedir import CacheDirectory
    from mcfs.fetch.cachefile import CacheFile
    from mcfs.protocol.ids import Digest, ObjectId, ObjectRef
    from mcfs.protocol.merkle import Buffer

logger = logging.getLogger(__name__)

NO_LIMIT: Final = 1 << 62
Data = TypeVar("Data")


class Cache:
    """Made by `Cache.open`."""

    def __init__(self, objects: Objects, health: Health, room: Room | None, directory: CacheDirectory | None) -> None:
        self._objects = objects
        self._health = health
        self._room = room
        self._directory = directory
        """This and the room are None when nothing can be kept."""
        self.pins: PinDirectory | None = None
        """What the user wants to be kept; None when nothing can be."""
        self._in_memory = directory is not None and _in_memory(objects)
        """Whether what is read never waits for a disk."""
        self._names = Names(directory.path if directory is not None else None)
        self._attempt: Callable[[], Cache] | None = None
        """Opens the directory that could not be opened. Raises OSError."""
        self._writing = Lock()
        """The writer's lock: one store, copy or eviction at a time."""

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        max_bytes: int | None = None,
        min_free: int | None = None,
        disk: Disk | None = None,
        max_files: int = MAX_FILES,
    ) -> Cache:
        """Open or make the cache in a directory, or in a mount-N below it when another process has that (cachedir).

        `max_bytes` is the limit of all of them, in bytes on the disk (default: 10 % of the file system, 20 GiB at
        most); `min_free` is what is left to others (default: 1 %, 512 MiB at most). A directory that cannot be made,
        locked or read, or that others can write, gives a cache that keeps nothing, with a warning, and tries again now
        and then.
        """
        disk = disk or Disk()

        def attempt() -> Cache:
            locked = lock_directory(directory)
            try:
                return cls._in(locked, disk, max_bytes, min_free, max_files)
            except OSError:
                locked.abandon()
                raise

        try:
            return attempt()
        except OSError as error:
            return cls._nothing(disk, directory, error, attempt)

    @classmethod
    def open_existing(cls, path: Path) -> Cache | None:
        """The cache in a directory, or a mount-N, that there is, to look after it: with no limit. None when another
        process has it. Raises OSError, FileNotFoundError when it is no cache."""
        locked = lock_existing(path)
        if locked is None:
            return None
        try:
            return cls._in(locked, Disk(), NO_LIMIT, 0, MAX_FILES)
        except OSError:
            locked.abandon()
            raise

    @classmethod
    def _in(
        cls, locked: CacheDirectory, disk: Disk, max_bytes: int | None, min_free: int | None, max_files: int
    ) -> Cache:
        size = disk.total(locked.at)
        limit = default_max_bytes(size) if max_bytes is None else max_bytes
        quota = Quota(limit, scan(locked.objects))
        objects = Objects(disk, locked.at, quota, FileTable(max_files))
        room = Room(objects, locked, limit, default_min_free(size) if min_free is None else min_free)
        cache = cls(objects, Health(locked.path), room, locked)
        pins = PinDirectory(locked.root, locked.path)
        pins.spared = pins.objects()
        cache.pins = pins
        cache.pin(frozenset().union(*pins.spared.values()))
        for pinned in (False, True):
            cache.prune(quota.limit, pinned=pinned)
        return cache

    @classmethod
    def _nothing(cls, disk: Disk, directory: Path, error: OSError, attempt: Callable[[], Cache]) -> Cache:
        objects = Objects(disk, -1, Quota(0, ()), FileTable())
        health = Health(directory)
        health.failed(error)
        cache = cls(objects, health, None, None)
        cache._attempt = attempt
        return cache

    def close(self) -> None:
        """Leave the directory in good order. Loads that run may finish; whatever comes later finds nothing."""
        with self._writing:
            self._attempt = None
            self._names.flush()
            self._objects.close()
            directory, self._directory, self._room = self._directory, None, None
            if directory is not None:
                directory.close()

    @property
    def path(self) -> Path | None:
        """The directory that this process has; None when nothing can be kept."""
        return self._directory.path if self._directory else None

    @property
    def was_clean(self) -> bool:
        """Whether the last process to use the directory closed it."""
        return self._directory is not None and self._directory.was_clean

    @property
    def keeping(self) -> bool:
        """False while the disk cannot be written."""
        return self._directory is not None and self._health.keeping

    def try_again(self) -> None:
        """Whether the disk can be written shall show with the next store, rather than after many of them."""
        self._health.hurry()

    @property
    def used(self) -> int:
        """Bytes that the objects take on the disk."""
        return self._objects.quota.used

    @property
    def limit(self) -> int:
        """Bytes that they may take: this mount's part."""
        return self._objects.quota.limit

    def has(self, node: Node) -> bool:
        """Whether the node is there, verified in this process or not."""
        with self._objects.using(node.object.id) as found:
            return found is not None and found[1].has(node)

    def is_verified(self, node: Node) -> bool:
        """Whether the node is there and was stored or marked since this process last opened the object's file."""
        with self._objects.using(node.object.id) as found:
            return found is not None and found[1].is_verified(node)

    def mark_verified(self, node: Node) -> None:
        """Say that what `load` has just given has the right hash."""
        with self._objects.using(node.object.id) as found:
            if found is not None:
                found[1].mark_verified(node)

    def load(self, node: Node) -> memoryview | None:
        """The whole node, NOT verified; None when it is not there or cannot be read."""
        data = self._read(node, 0, node.size)
        return None if data is None else memoryview(data)

    def load_at_once(self, node: Node) -> memoryview | None:
        """As `load`; None as well when that would have to wait for the disk. For an event loop."""
        if self._in_memory:
            return self.load(node)
        return self._reading(node, lambda file: file.read_at_once(node))

    def load_range(self, node: Node, start: int, length: int) -> memoryview | None:
        """Bytes [start, start + length) of a verified node; None when it is not verified, or `load` would give None.

        Raises ValueError for a range beyond the node.
        """
        if start < 0 or length < 0 or start + length > node.size:
            raise ValueError(f"bytes {start} to {start + length} of a node of {node.size}")
        data = self._read(node, start, length) if self.is_verified(node) else None
        # Looked at again: between the two the file may have been closed and opened, or the node dropped.
        return memoryview(data) if data is not None and self.is_verified(node) else None

    def _read(self, node: Node, start: int, length: int) -> bytes | None:
        return self._reading(node, lambda file: file.read(node, start, length))

    def _reading(self, node: Node, read: Callable[[CacheFile], Data | None]) -> Data | None:
        with self._objects.using(node.object.id) as found:
            if found is None or not found[1].has(node):
                return None
            # Before the read: from here on the next 64 accesses keep it from being evicted.
            self._objects.touch(node)
            try:
                return read(found[1])
            except OSError as error:
                logger.debug("a cached node cannot be read: %s", error)
                _drop(found[1], node)
                return None

    def drop(self, node: Node) -> None:
        """Forget a node whose bytes turned out wrong. Its space is given back when it is stored again or evicted."""
        with self._objects.using(node.object.id) as found:
            if found is not None:
                _drop(found[1], node)

    def cached_bytes(self, ref: ObjectRef, offset: int, length: int) -> int:
        """How many of the bytes [offset, offset + length) of an object are there."""
        end = min(offset + length, ref.size)
        if end <= offset:
            return 0
        with self._objects.using(ref.id) as found:
            return 0 if found is None else _count_bytes(found[1], offset, end)

    def is_new_version(self, name: bytes, ref: ObjectRef) -> bool:
        """Note that a file of that name is this object. Whether it was another one before, of which something is
        there."""
        before = self._names.note(name, ref.id)
        return before is not None and self._objects.quota.get(before) is not None

    def leaves(self, *, is_wanted: Callable[[], bool] = lambda: True) -> Iterator[tuple[Digest, Node]]:
        """The blocks that are there and can be of use elsewhere, with the hashes that their pages say they have; the
        object that was used last comes first. Neither pages nor blocks are verified. For a thread: it reads pages, and
        asks `is_wanted` before each object whether to go on."""
        with self._objects.lock:
            names = self._objects.quota.names(at_least=MIN_BLOCK_SIZE)
        for name in reversed(names):
            if not is_wanted():
                return
            with self._objects.using(name) as found:
                if found is not None:
                    yield from found[1].leaves()

    def opened(self, ref: ObjectRef) -> None:
        """An open file needs the object: it is evicted after all others. Each call wants one `closed`."""
        with self._objects.lock:
            self._objects.quota.opened(ref.id)

    def closed(self, ref: ObjectRef) -> None:
        with self._objects.lock:
            self._objects.quota.closed(ref.id)

    @property
    def pinned(self) -> frozenset[ObjectId]:
        """Objects that the user wants to be kept."""
        return self._objects.quota.pinned

    def pin(self, names: frozenset[ObjectId]) -> None:
        """The user wants these objects, and no others, to be kept: nothing of them is evicted to make room."""
        with self._objects.lock:
            self._objects.quota.pinned = names

    def missing(self, ref: ObjectRef, blocks: range, most: int) -> list[int]:
        """Which of these blocks of an object are not there: the first ones, `most` of them."""
        with self._objects.using(ref.id) as found:
            return list(blocks[:most]) if found is None else found[1].missing(blocks.start, blocks.stop, most)

    def store(self, node: Node, data: Buffer, *, direct: bool = False) -> bool:
        """Keep a node's bytes, which must be verified. False when they could not be kept.

        `direct` asks for a write past the page cache, which is slower where the disk is, and costs less.

        Raises ValueError when they are not as many as the node's. For the writer thread, as the next three.
        """
        view = octets(data)
        if len(view) != node.size:
            raise ValueError(f"{len(view)} bytes for a node of {node.size}")

        def write(file: CacheFile) -> bool:
            file.write(node, view, direct=direct)
            return True

        return self._keep(node, node.size, write)

    def store_hole(self, node: Node) -> bool:
        """Keep a block that is all zeros, without writing it. Raises ValueError for a page."""
        if node.level != 0:
            raise ValueError("a page is not zeros")

        def write(file: CacheFile) -> bool:
            file.write_hole(node)
            return True

        return self._keep(node, 0, write)

    def copy_block(self, src_ref: ObjectRef, src_index: int, dst_ref: ObjectRef, dst_index: int) -> bool:
        """Take a block of one object for one of another, or of the same, that has the same bytes; it is not verified.

        False when the source is not there or the copy cannot be kept. Raises ValueError for blocks of two sizes.
        """
        source, target = Node(src_ref, 0, src_index), Node(dst_ref, 0, dst_index)
        _check(source)
        if source.size != target.size:
            raise ValueError(f"a block of {source.size} bytes for one of {target.size}")

        def write(file: CacheFile) -> bool:
            with self._objects.using(src_ref.id) as found:
                try:
                    return found is not None and file.copy(found[1], source, target)
                except OSError as error:
                    if error.errno in FULL:
                        raise
                    # It may be the source that has a bad spot. Whether the disk can be written a store will tell.
                    logger.debug("a block cannot be copied: %s", error)
                    return False

        if not self.has(source):
            return False
        # Making room for the copy must not take the source away.
        self._objects.touch(source)
        return self._keep(target, target.size, write)

    def prune(self, max_bytes: int, *, pinned: bool = False) -> int:
        """Evict until no more than so many bytes are used, if possible; returns how many were freed.

        `pinned`: at last also what the user wants to be kept."""
        with self._writing:
            goal = self.used - max_bytes
            if self._room is None or goal <= 0:
                return 0
            return self._evict(goal, pinned=pinned)

    def keep_limit(self) -> None:
        """Give way to a further mount of the same directory, also when nothing is stored here. For a thread."""
        with self._writing:
            try:
                if self._room is not None and self._health.keeping:
                    self._room.keep_limit()
            except OSError as error:
                self._health.failed(error)

    def refs(self) -> list[ObjectRef]:
        """All objects that are there, the least recently used first."""
        with self._objects.lock:
            names = self._objects.quota.names()
        found = []
        for name in names:
            with self._objects.using(name) as opened:
                if opened is not None:
                    found.append(opened[1].ref)
        return found

    def _keep(self, node: Node, size: int, write: Callable[[CacheFile], bool]) -> bool:
        """Make room and write the node, unless it is there. `size` is what it will take on the disk."""
        _check(node)
        with self._writing:
            self._names.flush()
            if self._room is None:
                self._try_to_open()
            if self._room is None or not can_keep(node.object):
                return False
            if self.has(node):
                self._objects.touch(node)
                return True
            return self._health.may_try() and self._try_twice(self._room, node, size, write)

    def _try_to_open(self) -> None:
        """What could not be opened may be there now. Whoever reads meanwhile finds nothing, or what is there."""
        if self._attempt is None or not self._health.may_try():
            return
        try:
            opened = self._attempt()
        except OSError as error:
            self._health.failed(error)
            return
        self._attempt = None
        self._objects, self._in_memory, self._names = opened._objects, opened._in_memory, opened._names
        self._directory, self.pins, self._room = opened._directory, opened.pins, opened._room
        self._health.worked()

    def _try_twice(self, room: Room, node: Node, size: int, write: Callable[[CacheFile], bool]) -> bool:
        """The second time after an eviction, when the disk was full the first time."""
        for last in (False, True):
            try:
                kept = room.make(size) and self._write(node, write)
            except OSError as error:
                if last or error.errno not in FULL or not self._evict(node.size + self._objects.quota.batch):
                    self._health.failed(error)
                    return False
            else:
                if kept:
                    self._health.worked()
                return kept
        return False

    def _write(self, node: Node, write: Callable[[CacheFile], bool]) -> bool:
        with self._objects.using_or_new(node.object) as (record, file):
            try:
                kept = write(file)
            finally:
                # Also what a failed write has left behind.
                self._objects.account(record, file)
        if kept:
            self._objects.touch(node)
        return kept

    def _evict(self, goal: int, *, pinned: bool = False) -> int:
        try:
            return self._room.evict(goal, pinned=pinned) if self._room else 0
        except OSError as error:
            self._health.failed(error)
            return 0


def _in_memory(objects: Objects) -> bool:
    try:
        return objects.disk.is_in_memory(objects.at)
    except OSError:
        return False


def _check(node: Node) -> None:
    # A number too large would be the bit of another node.
    if not node.object.geometry.has(node.level, node.index):
        raise ValueError(f"no node {node.index} at level {node.level}")


def _drop(file: CacheFile, node: Node) -> None:
    # In memory the bit is off in any case. On a disk that cannot be written it stays a claim that will be checked.
    with suppress(OSError):
        file.drop(node)


def _count_bytes(file: CacheFile, start: int, stop: int) -> int:
    """Bytes there of [start, stop), which is not empty and within the object."""
    size = file.ref.block_size
    first, last = start // size, (stop - 1) // size
    total = file.count(first, last + 1) * size
    if file.has(Node(file.ref, 0, first)):
        total -= start - first * size
    if file.has(Node(file.ref, 0, last)):
        total -= (last + 1) * size - stop
    return total
