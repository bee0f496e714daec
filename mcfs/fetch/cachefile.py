"""The sparse file of one object: a header, a map of the nodes that are there, the pages, the blocks.

::

    at 0        header, 256 bytes (below)
    at 256      map: one bit per node, least significant bit first; blocks, then the pages of level 1, 2, ...
    pages_at    the pages of level 1, 2, ..., each level one string of hashes   (next multiple of 4 KiB)
    data_at     the object's bytes                                              (next multiple of 4 KiB)

The map shares the header's 4 KiB up to 30,000 nodes, so that a small object takes 4 KiB more than its bytes. Blocks lie
on multiples of 4 KiB, the page size and block size of nearly all file systems: holes and shared extents need that.

The map is the authority. What keeps it true:

 - a bit is set after the data it speaks of is written, and cleared before that data is touched;
 - setting and clearing (and the data they speak of) happen under the writer's lock of the cache, one at a time;
   `drop` alone comes from elsewhere, and therefore only clears the bit;
 - nothing is flushed: after a power failure a bit may have reached the disk and its data not. So a bit that another
   process set is a claim, and whoever loads the node checks the hash before he serves it.
"""

from __future__ import annotations

import errno
import struct
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from blake3 import blake3

from mcfs.fetch.cachedisk import Disk, copy_all, read_exactly, write_all
from mcfs.fetch.direct import DirectWrites
from mcfs.protocol.errors import BadObject
from mcfs.protocol.ids import DIGEST_SIZE, FAN_OUT, Geometry, Node, ObjectId, ObjectRef, object_ref_untrusted
from mcfs.protocol.merkle import child_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mcfs.protocol.ids import Digest

Data = TypeVar("Data")

_ALIGN: Final = 4096
_MAGIC: Final = b"mcfs obj"
FORMAT: Final = 1
# magic 8 | format 4 | block size 4 | size 8 | top hash 32 | zeros | BLAKE3 over all before, 32
_HEADER: Final = struct.Struct(">8sIIQ32s168x")
_HEADER_SIZE: Final = 256
_HEADER_CONTEXT: Final = "mcfs 1 cache header"

MAX_MAP_BYTES: Final = 4 * 1024 * 1024
"""Objects of more nodes are not kept: 32 TiB at the default block size, more than ext4 takes in one file (16 TiB).
A map is held in memory while its file is open."""

_READ_TRIES: Final = 3


class BadCacheFile(Exception):
    """The file is not what its name says. It is thrown away."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are: a function of the object's geometry alone."""

    geometry: Geometry
    level_bits: tuple[int, ...]
    """The number in the map of each level's first node."""
    pages_at: int
    data_at: int
    file_size: int

    @property
    def map_bytes(self) -> int:
        return -(-(self.level_bits[-1] + 1) // 8)

    def bit(self, node: Node) -> int:
        return self.level_bits[node.level] + node.index

    def offset(self, node: Node) -> int:
        if node.level == 0:
            return self.data_at + node.index * self.geometry.block_size
        # Level l holds one hash for each node of level l - 1, whose first one has the number level_bits[l - 1].
        return self.pages_at + DIGEST_SIZE * (self.level_bits[node.level - 1] + node.index * FAN_OUT)


@lru_cache(maxsize=1024)
def layout_of(geometry: Geometry) -> Layout:
    bits = [0]
    for count in geometry.counts[:-1]:
        bits.append(bits[-1] + count)
    pages_at = _aligned(_HEADER_SIZE + -(-(bits[-1] + 1) // 8))
    data_at = _aligned(pages_at + DIGEST_SIZE * bits[-1])
    return Layout(geometry, tuple(bits), pages_at, data_at, data_at + geometry.size)


def _aligned(value: int) -> int:
    return -(-value // _ALIGN) * _ALIGN


def _header(ref: ObjectRef) -> bytes:
    plain = _HEADER.pack(_MAGIC, FORMAT, ref.block_size, ref.size, ref.top)
    return plain + blake3(plain, derive_key_context=_HEADER_CONTEXT).digest()


def _parse_header(header: bytes) -> ObjectRef:
    magic, version, block_size, size, top = _HEADER.unpack_from(header)
    if magic != _MAGIC or version != FORMAT:
        raise BadCacheFile("no object, or of another format")
    if blake3(header[: _HEADER.size], derive_key_context=_HEADER_CONTEXT).digest() != header[_HEADER.size :]:
        raise BadCacheFile("header is damaged")
    try:
        return object_ref_untrusted(size, block_size, top)
    except BadObject as error:
        raise BadCacheFile(str(error)) from error


def can_keep(ref: ObjectRef) -> bool:
    """Whether the object's map is of a size that can be held."""
    return sum(ref.geometry.counts) <= MAX_MAP_BYTES * 8


def file_name(name: ObjectId) -> str:
    """Where an object's file is, below the directory of objects."""
    digits = name.hex()
    return f"{digits[:2]}/{digits}"


def create_file(disk: Disk, at: int, ref: ObjectRef) -> CacheFile:
    """Make the file of an object without any node. It gets its name when it is complete. Raises OSError."""
    layout = layout_of(ref.geometry)
    name = file_name(ref.id)
    temporary = f"{name}.new"
    fd = _create(disk, at, temporary)
    try:
        disk.truncate(fd, layout.file_size)
        write_all(disk, fd, _header(ref), 0)
        disk.rename(at, temporary, name)
    except OSError:
        disk.close(fd)
        with suppress(OSError):
            disk.unlink(at, temporary)
        raise
    return CacheFile(disk, fd, ref, bytearray(layout.map_bytes))


def _create(disk: Disk, at: int, name: str) -> int:
    try:
        return disk.create(at, name)
    except FileNotFoundError:
        # The first object of its 256th part of the cache.
        disk.mkdir(at, name.partition("/")[0])
        return disk.create(at, name)
    except FileExistsError:
        # Left by a failure of this process; those of others are swept at the start.
        disk.unlink(at, name)
        return disk.create(at, name)


def open_file(disk: Disk, at: int, name: ObjectId) -> CacheFile:
    """Open the file of the object of that name. Raises BadCacheFile, OSError."""
    fd = disk.open(at, file_name(name))
    try:
        return _checked(disk, fd, name)
    except (BadCacheFile, OSError):
        disk.close(fd)
        raise


def _checked(disk: Disk, fd: int, name: ObjectId) -> CacheFile:
    file_size = disk.size(fd)
    if file_size < _ALIGN:
        raise BadCacheFile("file is too short")
    ref = _parse_header(read_exactly(disk, fd, _HEADER_SIZE, 0))
    layout = layout_of(ref.geometry)
    if ref.id != name or not can_keep(ref) or file_size != layout.file_size:
        raise BadCacheFile("another object, or cut off")
    return CacheFile(disk, fd, ref, bytearray(read_exactly(disk, fd, layout.map_bytes, _HEADER_SIZE)))


class CacheFile:
    """An open file. Reading needs no lock; writing, evicting and punching need the cache's writer lock.

    A read overlapped by an eviction is noticed by the epoch: it is counted up after the bit is cleared and before
    the data goes.
    """

    def __init__(self, disk: Disk, fd: int, ref: ObjectRef, node_map: bytearray) -> None:
        self.ref = ref
        self.layout = layout_of(ref.geometry)
        self.users = 0
        """How many are between acquire and release; kept by the table of open files."""
        self.doomed = False
        """Out of the table: to be closed by its last user."""
        self._disk = disk
        self._fd = fd
        self._map = node_map
        self._map_lock = Lock()
        """Held while a byte of the map is changed in memory and on disk, so that they change in one order."""
        self._verified = bytearray(len(node_map))
        self._verified_lock = Lock()
        """Its own lock: marking happens in the event loop, which must not wait for a byte to be written."""
        self._epoch = 0
        self._direct = DirectWrites(disk)

    @property
    def memory(self) -> int:
        return 2 * len(self._map)

    def allocated(self) -> int:
        return self._disk.allocated(self._fd)

    def close(self) -> None:
        self._disk.close(self._fd)

    def has(self, node: Node) -> bool:
        return _test(self._map, self.layout.bit(node))

    def is_verified(self, node: Node) -> bool:
        bit = self.layout.bit(node)
        return _test(self._map, bit) and _test(self._verified, bit)

    def mark_verified(self, node: Node) -> None:
        bit = self.layout.bit(node)
        with self._verified_lock:
            if _test(self._map, bit):
                self._verified[bit >> 3] |= 1 << (bit & 7)

    def count(self, first: int, end: int) -> int:
        """How many of the blocks [first, end) are there."""
        bits = int.from_bytes(self._map[first >> 3 : (end + 7) >> 3], "little") >> (first & 7)
        return (bits & ((1 << (end - first)) - 1)).bit_count()

    def missing(self, first: int, end: int, most: int) -> list[int]:
        """The first of the blocks [first, end) that are not there, at most so many."""
        octets = np.frombuffer(bytes(self._map[first >> 3 : (end + 7) >> 3]), np.uint8)
        bits = np.unpackbits(octets, bitorder="little")[first & 7 :][: end - first]
        found: list[int] = (np.flatnonzero(bits == 0)[:most] + first).tolist()
        return found

    def ranges(self, blocks_per_range: int) -> list[int]:
        """The numbers of those ranges of blocks in which there is any, ascending."""
        octets = np.frombuffer(bytes(self._map), np.uint8)
        blocks = np.flatnonzero(np.unpackbits(octets, count=self.layout.geometry.counts[0], bitorder="little"))
        found: list[int] = np.unique(blocks // blocks_per_range).tolist()
        return found

    def read(self, node: Node, start: int, length: int) -> bytes | None:
        """Bytes of a node; None when it is not there or is being evicted. Raises OSError, EIO for a short file."""
        offset = self.layout.offset(node) + start
        return self._steady(node, lambda: read_exactly(self._disk, self._fd, length, offset))

    def read_at_once(self, node: Node) -> memoryview | None:
        """A whole node; None as well when that would have to wait for the disk. Raises OSError."""
        offset = self.layout.offset(node)
        return self._steady(node, lambda: self._disk.pread_at_once(self._fd, node.size, offset))

    def _steady(self, node: Node, read: Callable[[], Data]) -> Data | None:
        """What is read while the node is there; None when it is not there or is being evicted."""
        for _ in range(_READ_TRIES):
            epoch = self._epoch
            if not self.has(node):
                return None
            data = read()
            if epoch == self._epoch:
                return data
        return None

    def leaves(self) -> Iterator[tuple[Digest, Node]]:
        """The blocks that are there and whole, with the hashes that the pages say they have, neither verified; as far
        as the file can be read."""
        counts, block_size = self.layout.geometry.counts, self.ref.block_size
        if len(counts) == 1:
            if self.ref.size == block_size and self.has(Node(self.ref, 0, 0)):
                yield self.ref.top, Node(self.ref, 0, 0)
            return
        for number in range(counts[1]):
            page = self._page(Node(self.ref, 1, number))
            first, end = number * FAN_OUT, min((number + 1) * FAN_OUT, counts[0])
            for index in range(first, end) if page is not None else ():
                if _test(self._map, index):
                    yield child_hash(page or b"", index), Node(self.ref, 0, index)

    def _page(self, node: Node) -> bytes | None:
        try:
            return self.read(node, 0, node.size)
        except OSError:
            return None

    def write(self, node: Node, data: memoryview, *, direct: bool = False) -> None:
        """Data, then bit. The data must be verified: it counts as such from now on. `direct`: past the page cache, if
        that works. Raises OSError."""
        offset = self.layout.offset(node)
        try:
            if not (direct and self._direct.write(self._fd, data, offset)):
                write_all(self._disk, self._fd, data, offset)
        except OSError:
            self._give_back(node)
            raise
        self._set(node)
        self.mark_verified(node)

    def write_hole(self, node: Node) -> None:
        """A block of zeros, without writing it where holes are known. Raises OSError."""
        try:
            # What a dropped block left behind there goes by this.
            self._disk.punch(self._fd, self.layout.offset(node), _aligned(node.size))
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            write_all(self._disk, self._fd, bytes(node.size), self.layout.offset(node))
        self._set(node)
        self.mark_verified(node)

    def copy(self, source: CacheFile, source_node: Node, node: Node) -> bool:
        """Copy a block that has the same bytes. It is not verified by this. False when the source is not there."""
        if not source.has(source_node):
            return False
        offset = self.layout.offset(node)
        try:
            copy_all(self._disk, source._fd, source.layout.offset(source_node), self._fd, offset, node.size)
        except OSError:
            self._give_back(node)
            raise
        if not source.has(source_node):
            return False  # dropped meanwhile, so its data was wrong
        self._set(node)
        return True

    def drop(self, node: Node) -> None:
        """Take the bit back; the data is overwritten by the next store, or goes with its range. Raises OSError."""
        bit = self.layout.bit(node)
        self._clear(bit, bit + 1)

    def evict(self, first: int, end: int) -> None:
        """Bits, then data, of the blocks [first, end). Raises OSError, EOPNOTSUPP where holes are unknown."""
        self._clear(first, end)
        block_size = self.layout.geometry.block_size
        self._disk.punch(self._fd, self.layout.data_at + first * block_size, (end - first) * block_size)

    def _give_back(self, node: Node) -> None:
        # Behind a block is nothing up to the next multiple; behind a short page is the first one of the next level.
        length = node.size if node.level else _aligned(node.size)
        try:
            self._disk.punch(self._fd, self.layout.offset(node), length)
        except OSError:
            # The caller is about to report why the write failed, which says more.
            return

    def _set(self, node: Node) -> None:
        bit = self.layout.bit(node)
        at = bit >> 3
        with self._map_lock:
            value = self._map[at] | 1 << (bit & 7)
            write_all(self._disk, self._fd, bytes((value,)), _HEADER_SIZE + at)
            self._map[at] = value

    def _clear(self, first: int, end: int) -> None:
        low, high = first >> 3, (end + 7) >> 3
        mask = ~(((1 << (end - first)) - 1) << (first & 7))
        with self._map_lock:
            with self._verified_lock:
                _apply_mask(self._map, low, high, mask)
                _apply_mask(self._verified, low, high, mask)
            self._epoch += 1
            write_all(self._disk, self._fd, bytes(self._map[low:high]), _HEADER_SIZE + low)


def _test(bits: bytearray, number: int) -> bool:
    return bool(bits[number >> 3] >> (number & 7) & 1)


def _apply_mask(bits: bytearray, low: int, high: int, mask: int) -> None:
    value = int.from_bytes(bits[low:high], "little") & mask
    bits[low:high] = value.to_bytes(high - low, "little")
