"""Reading files once, for two hashes: the leaves of the object, and the plain BLAKE3 that `b3sum` prints.

Neither can be had from the other, so both are computed while the data is in the processor's cache. Who does what:

- files of up to LARGE bytes and packs: each in one of the worker threads, in pieces that fit the L2 cache;
- larger files: one after the other, each by all workers (relay); the `large` thread only waits for them.

A worker waits for nobody but one that is at work on an earlier part of the same file, so nothing can lock up. Reading
and both hashes release the GIL.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from blake3 import blake3

from mcfs.protocol.ids import Digest, ObjectRef
from mcfs.protocol.merkle import leaf_hash, leaf_hasher
from mcfs.serve.pages import PageWriter
from mcfs.serve.reading import Unsteady, read_exactly
from mcfs.serve.relay import MANY, Abandoned, Relay
from mcfs.serve.walk import stamp_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mcfs.serve.beneath import Beneath
    from mcfs.serve.pack import Pack
    from mcfs.serve.walk import FoundFile

    Emit = Callable[[int, int, bytes], None]

LARGE: Final = 16 << 20
"""Bytes from which a file gets all threads. Below it the threads are better used for different files."""
_PIECE: Final = 256 << 10
"""Bytes read and hashed at a time by a worker: they stay in the L2 cache."""


class Stopped(Exception):
    """The scan was abandoned."""


@dataclass(frozen=True, slots=True)
class FileHash:
    object: ObjectRef
    b3sum: Digest


@dataclass(frozen=True, slots=True)
class PackHash:
    object: ObjectRef | None
    """None if a member failed."""
    b3sums: dict[bytes, Digest]
    """By name, of the members that could be read."""
    failed: list[tuple[FoundFile, Exception]]
    """OSError or Unsteady."""


class Meter:
    """Counts what is read, for progress and tests, and carries the order to stop. Thread-safe."""

    def __init__(self, breathe: Callable[[], None] = lambda: None) -> None:
        """`breathe` is called after each piece; it may take its time."""
        self._breathe = breathe
        self._lock = threading.Lock()
        self.bytes_hashed = 0
        """Holes included."""
        self.files_read = 0
        self.stopped = False

    def hashed(self, size: int) -> None:
        """Raises Stopped."""
        with self._lock:
            self.bytes_hashed += size
        self._breathe()
        if self.stopped:
            raise Stopped

    def opened(self) -> None:
        with self._lock:
            self.files_read += 1


class Hashers:
    """The threads, and one scan's work for them."""

    def __init__(self, beneath: Beneath, block_size: int, threads: int, meter: Meter) -> None:
        self._beneath = beneath
        self._block_size = block_size
        self._meter = meter
        self._workers = ThreadPoolExecutor(threads, "mcfs-hash")
        self._large = ThreadPoolExecutor(1, "mcfs-hash-large")
        self._local = threading.local()
        self._threads = threads

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Abandon what is not done yet. The large thread first: it hands work to the workers."""
        self._meter.stopped = True
        self._large.shutdown(cancel_futures=True)
        self._workers.shutdown(cancel_futures=True)

    def file(self, path: bytes, found: FoundFile, emit: Emit) -> Future[FileHash]:
        """Hash a file of at least one byte. `emit` gets its pages, in the thread that hashes.

        The future raises OSError, Unsteady or Stopped.
        """
        if found.size > max(LARGE, self._block_size):
            return self._large.submit(self._hash_file, path, found, emit, self._hash_large)
        return self._workers.submit(self._hash_file, path, found, emit, self._hash_medium)

    def pack(self, path: bytes, pack: Pack) -> Future[PackHash]:
        return self._workers.submit(self._hash_pack, path, pack)

    def _hash_file(
        self, path: bytes, found: FoundFile, emit: Emit, how: Callable[[int, int, Emit], FileHash]
    ) -> FileHash:
        with self._steady(path, found) as fd:
            return how(fd, found.size, emit)

    @contextmanager
    def _steady(self, path: bytes, found: FoundFile) -> Iterator[int]:
        """Open a file, and make sure that from lstat to the last read it was the same. Raises OSError, Unsteady."""
        with self._beneath.file(path, found.name) as fd:
            self._meter.opened()
            if stamp_of(os.fstat(fd)) != found.stamp:
                raise Unsteady
            yield fd
            if stamp_of(os.fstat(fd)) != found.stamp:
                raise Unsteady

    # --- up to LARGE -------------------------------------------------------------------------------------------------

    def _hash_medium(self, fd: int, size: int, emit: Emit) -> FileHash:
        buffer = self._buffer()
        tree = PageWriter(emit)
        plain = blake3()  # pieces are too short to share between threads, which are busy anyway
        for start in range(0, size, self._block_size):
            leaf = leaf_hasher()
            end = min(start + self._block_size, size)
            for at in range(start, end, _PIECE):
                piece = buffer[: min(_PIECE, end - at)]
                read_exactly(fd, piece, at)
                leaf.update(piece)
                plain.update(piece)
                self._meter.hashed(len(piece))
            tree.add(leaf.digest())
        return FileHash(ObjectRef(size, self._block_size, tree.finish()), Digest(plain.digest()))

    def _hash_pack(self, path: bytes, pack: Pack) -> PackHash:
        result = PackHash(None, {}, [])
        content = memoryview(bytearray(pack.size))
        at = 0
        for member in pack.members:
            place = content[at : at + member.size]
            at += member.size
            try:
                result.b3sums[member.name] = self._hash_member(path, member, place)
            except (OSError, Unsteady) as error:
                result.failed.append((member, error))
        if result.failed:
            return result
        top = leaf_hash(content)
        return PackHash(ObjectRef(pack.size, self._block_size, top), result.b3sums, [])

    def _hash_member(self, path: bytes, member: FoundFile, place: memoryview) -> Digest:
        with self._steady(path, member) as fd:
            read_exactly(fd, place, 0)
        self._meter.hashed(member.size)
        return Digest(blake3(place).digest())

    def _buffer(self) -> memoryview:
        """This thread's own."""
        if not hasattr(self._local, "buffer"):
            self._local.buffer = memoryview(bytearray(_PIECE))
        buffer: memoryview = self._local.buffer
        return buffer

    # --- larger ------------------------------------------------------------------------------------------------------

    def _hash_large(self, fd: int, size: int, emit: Emit) -> FileHash:
        shared = self._threads >= MANY or (self._threads > 1 and _is_sparse(fd))
        relay = Relay(fd, size, self._block_size, shared=shared, emit=emit, tick=self._meter.hashed)
        runners = [self._workers.submit(relay.run) for _ in range(self._threads)]
        # Nobody may read from the descriptor once it is closed: its number may be another file's by then.
        wait(runners)
        errors = [error for runner in runners if (error := runner.exception())]
        if errors:
            raise next((error for error in errors if not isinstance(error, Abandoned)), errors[0])
        return FileHash(*relay.finish())


def _is_sparse(fd: int) -> bool:
    """Whether a file is mostly holes."""
    status = os.fstat(fd)
    return status.st_blocks * 512 < status.st_size // 2
