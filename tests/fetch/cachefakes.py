"""Objects with known bytes, and disks that fail, for the tests of the cache."""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import TYPE_CHECKING

from mcfs.fetch.cachedisk import Disk
from mcfs.protocol.ids import MIN_BLOCK_SIZE, Node, ObjectRef
from mcfs.protocol.merkle import object_ref, tree_levels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mcfs.fetch.cache import Cache

BLOCK = MIN_BLOCK_SIZE


class Sample:
    """An object of pseudo-random bytes: every node's bytes are known without being kept."""

    def __init__(self, seed: int, size: int, block_size: int = BLOCK) -> None:
        self.seed = seed
        # The tree over hashes that are not those of the blocks: the cache checks none, and large objects stay cheap.
        self.leaves = random.Random(f"leaves {seed}").randbytes(32 * -(-size // block_size))
        self.ref = object_ref(size, block_size, self.leaves)

    def node(self, index: int, level: int = 0) -> Node:
        return Node(self.ref, level, index)

    def nodes(self) -> list[Node]:
        return [
            self.node(index, level) for level, count in enumerate(self.ref.geometry.counts) for index in range(count)
        ]

    def bytes(self, node: Node) -> bytes:
        if node.level == 0:
            return random.Random(f"{self.seed} {node.index}").randbytes(node.size)
        at = node.index * 1024 * 32
        return tree_levels(self.leaves)[node.level - 1][at : at + node.size]


class PowerCut(BaseException):
    """The process dies here. Not an Exception, so that nothing in the code handles it."""


class FaultyDisk(Disk):
    """Calls `before` with the name of each call that changes the disk, which may raise; writes may be short."""

    def __init__(self, before: Callable[[str], None] = lambda name: None, longest_write: int | None = None) -> None:
        self.before = before
        self.longest_write = longest_write
        self.calls: Counter[str] = Counter()

    def _call(self, name: str) -> None:
        self.calls[name] += 1
        self.before(name)

    def create(self, at: int, name: str) -> int:
        self._call("create")
        return super().create(at, name)

    def truncate(self, fd: int, size: int) -> None:
        self._call("truncate")
        super().truncate(fd, size)

    def rename(self, at: int, old: str, new: str) -> None:
        self._call("rename")
        super().rename(at, old, new)

    def unlink(self, at: int, name: str) -> None:
        self._call("unlink")
        super().unlink(at, name)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        self._call("pread")
        return super().pread(fd, length, offset)

    def pread_at_once(self, fd: int, length: int, offset: int) -> memoryview | None:
        self._call("pread_at_once")
        return super().pread_at_once(fd, length, offset)

    def is_in_memory(self, at: int) -> bool:
        return False

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        self._call("pwrite")
        return super().pwrite(fd, data[: self.longest_write], offset)

    def pwrite_direct(self, fd: int, data: memoryview, offset: int) -> int:
        self._call("pwrite_direct")
        return super().pwrite_direct(fd, data[: self.longest_write], offset)

    def punch(self, fd: int, offset: int, length: int) -> None:
        self._call("punch")
        super().punch(fd, offset, length)

    def copy(self, source: int, source_at: int, target: int, target_at: int, length: int) -> int:
        self._call("copy")
        return super().copy(source, source_at, target, target_at, min(length, self.longest_write or length))


def failing(number: int, *names: str) -> Callable[[str], None]:
    """An OSError of that number from each of the named calls."""

    def before(name: str) -> None:
        if name in names:
            raise OSError(number, os.strerror(number))

    return before


def cut_after(steps: int) -> Callable[[str], None]:
    """Dies at the step after so many that change the disk."""
    left = [steps]

    def before(name: str) -> None:
        if name == "pread":
            return
        if not left[0]:
            raise PowerCut
        left[0] -= 1

    return before


def disk_usage(directory: Path) -> int:
    """What du says."""
    return sum(path.lstat().st_blocks * 512 for path in [directory, *directory.rglob("*")])


def object_file(directory: Path, ref: ObjectRef) -> Path:
    return directory / "objects" / ref.id.hex()[:2] / ref.id.hex()


def plain(data: memoryview | None) -> bytes | None:
    """What can be compared to bytes."""
    return None if data is None else bytes(data)


def kill(cache: Cache) -> None:
    """What the end of a process does to its cache: its descriptors are closed, nothing is put in order."""
    directory = cache._directory
    assert directory is not None
    cache._objects.close()
    directory.abandon()
