"""What a reader will want next."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from mcfs.protocol.catalog import FileEntry
from mcfs.protocol.ids import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mcfs.protocol.catalog import Extent
    from mcfs.protocol.ids import ObjectRef

FOLLOW: Final = 4
"""A file opened within this many places after the last one counts as "next": tools skip some (links, empty files)."""
TRUST: Final = 2
"""Files opened one after the other until it is believed that the whole tree will be read."""
SEQUENTIAL: Final = 2
"""Reads one behind the other after which it is believed that the whole file will be read."""
FIRST_AHEAD: Final = 2 << 20
MAX_AHEAD: Final = 48 << 20
"""Bytes ahead of a reader that may be fetched: less than what is kept in memory, more than the largest window, since
blocks behind one that lacks a few symbols go on."""
MAX_KNOWN_AHEAD: Final = 96 << 20
MAX_FILES_AHEAD: Final = 4096
"""How far one who reads a whole tree is known to go: blocks in there are taken when they are sent for others. Readers
who stand further apart than this do not meet."""
MAX_DRAWN: Final = 64
"""Entries looked at per open file, a bound on the time that it takes."""
MAX_FOLLOWERS: Final = 8
MAX_CANDIDATES: Final = 2
"""Files opened last of which the next one is watched for."""
END: Final = object()


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


@dataclass(slots=True)
class _Upcoming:
    entry: FileEntry
    at: int
    """Bytes of blocks that had been drawn before it."""


class TreeFollower:
    """Somebody who opens file after file, in the order of the listings, and what comes next for them.

    Files are drawn from the tree once each and kept until they are passed: asking the tree anew at each open took half
    of the time of a copy of small files.
    """

    def __init__(self, share: bytes, upcoming: Iterator[FileEntry | None]) -> None:
        self.share = share
        self.reading = 0
        self._upcoming = upcoming
        self._files: deque[_Upcoming] = deque()
        self._skipped: deque[FileEntry] = deque(maxlen=FOLLOW)
        self._streak = 0
        self._drawn = 0
        self._passed = 0
        self._nodes: deque[tuple[int, Node]] = deque()
        """Blocks that were drawn and not given to be fetched, with the bytes drawn before each."""
        self._last: Node | None = None
        self._untold = self._draw(FOLLOW)

    def opened(self, entry: FileEntry) -> bool:
        """Whether this file is one of the next, so that the one who opens it is whom this follows."""
        for place, upcoming in enumerate(islice(self._files, FOLLOW)):
            if entry is upcoming.entry or entry == upcoming.entry:
                self._pass(place)
                return True
        return entry in self._skipped

    @property
    def proven(self) -> bool:
        return self._streak > 0

    def _pass(self, place: int) -> None:
        self._streak += 1
        self._passed = self._files[place].at
        for _ in range(place):
            self._skipped.append(self._files.popleft().entry)
        self._files.popleft()

    def draw(self) -> list[tuple[ObjectRef, range]]:
        """Look further ahead. Returns blocks, by object, that were not known before and that will be wanted."""
        untold, self._untold = self._untold, []
        return untold + self._draw(FOLLOW if self._streak < TRUST else MAX_DRAWN)

    def next_ahead(self) -> Node | None:
        """The next block to fetch ahead; None if there is none now. Each is given once."""
        reach = min(MAX_AHEAD, FIRST_AHEAD + 4 * self._passed) if self._streak else 0
        if not self._nodes or self._nodes[0][0] >= self._passed + reach:
            return None
        return self._nodes.popleft()[1]

    def _draw(self, files: int) -> list[tuple[ObjectRef, range]]:
        found: list[tuple[ObjectRef, range]] = []
        for _ in range(MAX_DRAWN):
            if (
                len(found) >= files
                or len(self._files) >= MAX_FILES_AHEAD
                or self._drawn - self._passed >= MAX_KNOWN_AHEAD
            ):
                break
            entry = next(self._upcoming, END)
            if entry is END:
                break
            if isinstance(entry, FileEntry) and entry.extent is not None:
                found.append(self._add(entry, entry.extent))
        return found

    def _add(self, entry: FileEntry, extent: Extent) -> tuple[ObjectRef, range]:
        self._files.append(_Upcoming(entry, self._drawn))
        known = blocks(extent, 0, min(extent.length, MAX_KNOWN_AHEAD))
        for index in known:
            node = Node(extent.object, 0, index)
            if node != self._last:  # small files have blocks in common
                self._nodes.append((self._drawn, node))
                self._drawn += node.size
        self._last = node
        return extent.object, known


class TreeFollowers:
    """Those who go through trees now, several of them as there may be several copies at a time."""

    def __init__(self) -> None:
        self._followers: deque[TreeFollower] = deque(maxlen=MAX_FOLLOWERS)

    def __len__(self) -> int:
        return len(self._followers)

    def opened(
        self, share: bytes, entry: FileEntry, upcoming: Callable[[], Iterable[FileEntry | None]]
    ) -> TreeFollower | None:
        """A file was opened: who opened it, if they follow a tree; else they may begin to."""
        for follower in self._followers:
            if follower.share == share and follower.opened(entry):
                self._followers.remove(follower)
                self._followers.append(follower)
                return follower
        self._drop_candidate()
        self._followers.append(TreeFollower(share, iter(upcoming())))
        return None

    def _drop_candidate(self) -> None:
        """Make room for one who may begin. Many of those would make one who opens files at random look like them."""
        candidates = [follower for follower in self._followers if not follower.proven]
        if len(candidates) >= MAX_CANDIDATES:
            self._followers.remove(candidates[0])
