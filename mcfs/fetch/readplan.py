"""What a reader will want next."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from mcfs.protocol.ids import Node

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mcfs.protocol.catalog import Extent, FileEntry

FOLLOW: Final = 4
"""A file opened within this many places after the last one counts as "next": tools skip some (links, empty files)."""
TRUST: Final = 2
"""Files opened one after the other until following ones are fetched ahead with the whole window."""
SEQUENTIAL: Final = 2
"""Reads one behind the other after which it is believed that the whole file will be read."""
FIRST_AHEAD: Final = 2 << 20
MAX_AHEAD: Final = 48 << 20
"""Bytes ahead of a reader that may be fetched: less than what is kept in memory, more than the largest window, since
blocks behind one that lacks a few symbols go on."""
MAX_FILES_AHEAD: Final = 512


def blocks(extent: Extent, offset: int, length: int) -> range:
    """Indexes of the blocks of the extent's object that hold bytes [offset, offset + length) of the extent."""
    size = extent.object.block_size
    start = extent.offset + offset
    return range(start // size, -(-(start + length) // size)) if length > 0 else range(0)


class ReadPlan:
    """Read-ahead within one open file: none for random reads, more and more for sequential ones.

    What is asked for ahead grows with what was read, so that looking at the head of a file costs little. How much of it
    is under way at a time is the window's business.
    """

    __slots__ = ("_begun", "_expected", "_extent", "_next", "_streak")

    def __init__(self, extent: Extent) -> None:
        self._extent = extent
        self._expected = 0
        self._begun = 0
        self._next = 0
        self._streak = 0

    def advance(self, offset: int, length: int) -> None:
        """Bytes [offset, offset + length) of the file are read.

        The kernel sends the pieces of its own read-ahead in any order, so "sequential" allows for some.
        """
        size = self._extent.object.block_size
        if -4 * size <= offset - self._expected <= 8 * size:
            self._streak += 1
            self._expected = max(self._expected, offset + length)
        else:
            self._streak = 0
            self._begun = offset
            self._expected = offset + length
        self._next = max(self._next, blocks(self._extent, offset, length).stop) if self._streak else 0

    @property
    def sequential(self) -> bool:
        return self._streak > 0

    @property
    def ahead(self) -> range:
        """All blocks that a sequential reader has still to read; none for another one."""
        if self._streak < SEQUENTIAL:
            return range(0)
        return blocks(self._extent, self._expected, self._extent.length - self._expected)

    def next_ahead(self) -> int | None:
        """The next block to fetch ahead; None if there is none now. Each is given once."""
        if not self._streak:
            return None
        reach = min(MAX_AHEAD, FIRST_AHEAD + 4 * (self._expected - self._begun))
        end = min(self._extent.length, self._expected + reach)
        if self._next >= blocks(self._extent, 0, end).stop:
            return None
        self._next += 1
        return self._next - 1


class TreeFollower:
    """Notices that somebody copies a whole tree, file after file, and says what comes next."""

    def __init__(self) -> None:
        self._expected: list[FileEntry] = []
        self._streak = 0

    def opened(self, entry: FileEntry, upcoming: Iterable[FileEntry], window: int) -> list[Node]:
        """A file was opened. Returns blocks of the files behind it to fetch ahead, at most `window` bytes."""
        follows = any(entry is e or entry == e for e in self._expected[:FOLLOW])
        self._streak = min(TRUST, self._streak + 1) if follows else 0
        ahead = islice(upcoming, MAX_FILES_AHEAD)
        self._expected = list(islice(ahead, FOLLOW))
        if self._streak == 0:
            return []
        budget = window if self._streak >= TRUST else window // 4
        return list(_blocks_of([*self._expected, *ahead], budget))


def _blocks_of(files: Iterable[FileEntry], budget: int) -> Iterator[Node]:
    """Blocks of these files, each once, until they are `budget` bytes."""
    seen: set[Node] = set()
    for entry in files:
        if entry.extent is None:
            continue
        for index in blocks(entry.extent, 0, min(entry.extent.length, budget)):
            node = Node(entry.extent.object, 0, index)
            if node in seen:
                continue
            seen.add(node)
            budget -= node.size
            yield node
            if budget <= 0:
                return
