"""Looking at a cache from outside, also while a mount uses it: what is there, and whether it is right.

Nothing is changed here. What a mount does meanwhile may be seen or not.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mcfs.fetch.cachedir import scan
from mcfs.fetch.cachedisk import Disk
from mcfs.fetch.cachefile import BadCacheFile, CacheFile, open_file
from mcfs.protocol.ids import FAN_OUT, Node
from mcfs.protocol.merkle import child_hash, node_hash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mcfs.protocol.ids import Digest, ObjectId, ObjectRef


class ReadingDisk(Disk):
    """Opens nothing for writing."""

    def open(self, at: int, name: str) -> int:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)


@dataclass(frozen=True, slots=True)
class Kept:
    """One object in a cache."""

    id: ObjectId
    ref: ObjectRef | None
    """None if its file is damaged: then nothing of it is used."""
    cached: int
    """Bytes of blocks that are there."""
    allocated: int
    """Bytes on the disk."""
    used_ns: int
    """When it was read or written last, as far as the file system knows."""


@dataclass(slots=True)
class Verdict:
    """What came out about an object's nodes."""

    good: int = 0
    bad: list[Node] = field(default_factory=list)
    unknown: int = 0
    """Blocks whose hash is not there."""
    good_bytes: int = 0


class Inspection:
    """The objects of one cache directory, or of one mount-N. Raises OSError where the directory cannot be read."""

    def __init__(self, path: Path) -> None:
        self._objects = path / "objects"
        self._disk = ReadingDisk()

    def kept(self) -> Iterator[Kept]:
        """The least recently used first."""
        for record in scan(self._objects, sweep=False):
            with self._opened(record.id) as file:
                ref = file.ref if file is not None else None
                cached = _present_bytes(file) if file is not None else 0
                yield Kept(record.id, ref, cached, record.allocated, record.used_ns)

    def verify(self, name: ObjectId) -> Verdict | None:
        """Hash all that is there of an object; None if its file is damaged or gone."""
        with self._opened(name) as file:
            if file is None:
                return None
            verdict = Verdict()
            _verify(file, file.ref.geometry.top_level, 0, file.ref.top, verdict)
        if verdict.bad:
            # A mount may have evicted a block while it was read here.
            with self._opened(name) as again:
                verdict.bad = [node for node in verdict.bad if again is not None and again.has(node)]
        return verdict

    @contextmanager
    def _opened(self, name: ObjectId) -> Iterator[CacheFile | None]:
        file = None
        at = os.open(self._objects, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            file = open_file(self._disk, at, name)
        except (BadCacheFile, OSError):
            pass
        finally:
            os.close(at)
        try:
            yield file
        finally:
            if file is not None:
                file.close()


def _present_bytes(file: CacheFile) -> int:
    counts = file.layout.geometry.counts
    last = Node(file.ref, 0, counts[0] - 1)
    short = file.ref.block_size - last.size if file.has(last) else 0
    return file.count(0, counts[0]) * file.ref.block_size - short


def _verify(file: CacheFile, level: int, index: int, digest: Digest, verdict: Verdict) -> None:
    """A node, and what is below it. As deep as the tree, which has five levels at most."""
    node = Node(file.ref, level, index)
    data = _read(file, node)
    if data is None or node_hash(level, data) != digest:
        if data is not None or file.has(node):
            verdict.bad.append(node)
        if level:
            first, end = _blocks_below(file, level, index)
            verdict.unknown += file.count(first, end)
        return
    verdict.good += 1
    verdict.good_bytes += len(data) if level == 0 else 0
    if level:
        below = range(index * FAN_OUT, min((index + 1) * FAN_OUT, file.layout.geometry.counts[level - 1]))
        for child in below:
            if level > 1 or file.has(Node(file.ref, 0, child)):
                _verify(file, level - 1, child, child_hash(data, child), verdict)


def _blocks_below(file: CacheFile, level: int, index: int) -> tuple[int, int]:
    width = FAN_OUT**level
    return index * width, min((index + 1) * width, file.layout.geometry.counts[0])


def _read(file: CacheFile, node: Node) -> bytes | None:
    try:
        return file.read(node, 0, node.size)
    except OSError:
        return None
