"""Reading files once, for two hashes: the leaves of the object, and the plain BLAKE3 that `b3sum` prints.

Neither can be had from the other, so both are computed while the data is in the processor's cache. Who does what:

- files of up to LARGE bytes and packs: each in one of the worker threads, in pieces that fit the L2 cache;
- larger files: one after the other in the `large` thread, which hands blocks to the workers (read, leaf hash) and
  itself hashes chunk after chunk for b3sum, on all processors. Two chunks are in memory, whatever the file's size.

Workers wait for nobody, so the two pools cannot lock each other up. Reading and both hashes release the GIL.
"""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from blake3 import blake3

from mcfs.protocol.ids import Digest, ObjectRef
from mcfs.protocol.merkle import leaf_hash, leaf_hasher, zero_leaf
from mcfs.serve.pages import PageWriter
from mcfs.serve.walk import stamp_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mcfs.serve.beneath import Beneath
    from mcfs.serve.pack import Pack
    from mcfs.serve.walk import FoundFile

    Emit = Callable[[int, int, bytes], None]

LARGE: Final = 16 << 20
"""Bytes from which a file gets all threads. Below it the threads are better used for different files."""
_PIECE: Final = 256 << 10
"""Bytes read and hashed at a time by a worker: they stay in the L2 cache."""
_CHUNK: Final = 8 << 20
"""Bytes that a large file is at least advanced by (one block if that is longer): enough for several threads."""
_ZEROS: Final = bytes(4 << 20)
"""Never written, so it is the kernel's zero page over and over and takes no memory."""
_LEAVES: Final = 64 * 1024
"""Leaf hashes of a hole that are appended at a time."""


class Unsteady(Exception):
    """The file changed while it was read."""


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

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.bytes_hashed = 0
        """Holes included."""
        self.files_read = 0
        self.stopped = False

    def hashed(self, size: int) -> None:
        """Raises Stopped."""
        with self._lock:
            self.bytes_hashed += size
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
        self._max_threads = blake3.AUTO if threads > 1 else 1

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

    def _hash_file(self, path: bytes, found: FoundFile, emit: Emit, how: Callable[[_Job], None]) -> FileHash:
        with self._steady(path, found) as fd:
            job = _Job(fd, found.size, PageWriter(emit), blake3(max_threads=self._max_threads))
            how(job)
        return FileHash(ObjectRef(found.size, self._block_size, job.tree.finish()), Digest(job.plain.digest()))

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

    def _hash_medium(self, job: _Job) -> None:
        buffer = self._buffer()
        plain = blake3()  # pieces are too short to share between threads, which are busy anyway
        for start in range(0, job.size, self._block_size):
            leaf = leaf_hasher()
            end = min(start + self._block_size, job.size)
            for at in range(start, end, _PIECE):
                piece = buffer[: min(_PIECE, end - at)]
                read_exactly(job.fd, piece, at)
                leaf.update(piece)
                plain.update(piece)
                self._meter.hashed(len(piece))
            job.tree.add(leaf.digest())
        job.plain = plain

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

    def _hash_large(self, job: _Job) -> None:
        """While the workers read and hash one chunk's blocks, the chunk before it is hashed for b3sum."""
        chunk = max(_CHUNK, self._block_size)
        buffers = [memoryview(bytearray(min(chunk, job.size))) for _ in range(2)]
        ahead: tuple[memoryview, list[Future[Digest]]] | None = None
        try:
            for start, end, is_hole in _pieces(job.fd, job.size, self._block_size, chunk):
                before, ahead = ahead, None
                if not is_hole:
                    ahead = self._read_ahead(job, buffers[0], start, end)
                    buffers.reverse()
                if before:
                    self._take(job, *before)
                if is_hole:
                    self._take_hole(job, end - start)
            if ahead:
                self._take(job, *ahead)
        finally:
            # Nobody may read from the descriptor once it is closed: its number may be another file's by then.
            wait(ahead[1] if ahead else ())

    def _read_ahead(
        self, job: _Job, buffer: memoryview, start: int, end: int
    ) -> tuple[memoryview, list[Future[Digest]]]:
        step = self._block_size
        blocks = [buffer[at : min(at + step, end - start)] for at in range(0, end - start, step)]
        leaves = [self._workers.submit(_read_leaf, job.fd, block, start + i * step) for i, block in enumerate(blocks)]
        return buffer[: end - start], leaves

    def _take(self, job: _Job, chunk: memoryview, leaves: Sequence[Future[Digest]]) -> None:
        job.tree.add(b"".join(leaf.result() for leaf in leaves))
        job.plain.update(chunk)
        self._meter.hashed(len(chunk))

    def _take_hole(self, job: _Job, size: int) -> None:
        """Blocks of zeros: their leaf is known; only b3sum has to go through them."""
        blocks, rest = divmod(size, self._block_size)
        for at in range(0, blocks, _LEAVES):
            job.tree.add(zero_leaf(self._block_size) * min(_LEAVES, blocks - at))
        if rest:
            job.tree.add(zero_leaf(rest))
        for at in range(0, size, len(_ZEROS)):
            job.plain.update(memoryview(_ZEROS)[: size - at])
            self._meter.hashed(min(len(_ZEROS), size - at))


@dataclass(slots=True)
class _Job:
    """One file being hashed."""

    fd: int
    size: int
    tree: PageWriter
    plain: blake3


def _read_leaf(fd: int, block: memoryview, at: int) -> Digest:
    read_exactly(fd, block, at)
    return leaf_hash(block)


def read_exactly(fd: int, place: memoryview, at: int) -> None:
    """Fill `place` from offset `at`. Raises OSError; Unsteady if the file is shorter."""
    while place:
        n = os.preadv(fd, [place], at)
        if n == 0:
            raise Unsteady
        place, at = place[n:], at + n


def _pieces(fd: int, size: int, block_size: int, chunk: int) -> Iterator[tuple[int, int, bool]]:
    """Cut a file into (start, end, is a hole): runs of whole blocks in holes, of any length, and chunks of the rest."""
    at = 0
    while at < size:
        data = min(_seek(fd, at, os.SEEK_DATA, size), size)
        start = size if data == size else data - data % block_size
        if start > at:
            yield at, start, True
        # Up to the next hole, blocks that it touches included.
        hole = min(_seek(fd, data, os.SEEK_HOLE, size), size) if data < size else size
        at = min(-(-hole // block_size) * block_size, size)
        for begin in range(start, at, chunk):
            yield begin, min(begin + chunk, at), False


def _seek(fd: int, at: int, whence: int, size: int) -> int:
    """Where data or a hole begins. A file system that does not know says that all is data."""
    try:
        return os.lseek(fd, at, whence)
    except OSError as error:
        return at if whence == os.SEEK_DATA and error.errno != errno.ENXIO else size
