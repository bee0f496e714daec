"""Who reads the file, and as much of the kernel's file system as that needs: `FileReader` of the client without tasks.

Real: `ReadPlan`. The application takes no time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from mcfs.fetch.readplan import ReadPlan, blocks
from mcfs.protocol.ids import Node
from mcfs.simulate.content import SHARE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from mcfs.fetch.ahead import ReadAhead
    from mcfs.fetch.nodes import NodeTree
    from mcfs.protocol.catalog import Extent

REQUEST: Final = 1 << 20
"""Bytes that the kernel asks FUSE for at a time."""
KERNEL_AHEAD: Final = 4 << 20
"""Bytes that it reads ahead of the application, where mcfs may say so."""
RANDOM_READ: Final = 4096
"""Bytes of a read at a random place; the kernel then reads nothing ahead."""

Place = tuple[int, int]
"""Offset and length of a read."""


class Pattern(Protocol):
    """Which reads there are, in order, and how many of them may wait at a time."""

    outstanding: int

    def reads(self) -> Iterator[Place]: ...


class WholeFile:
    """From one end to the other."""

    outstanding = KERNEL_AHEAD // REQUEST

    def __init__(self, length: int) -> None:
        self._length = length

    def reads(self) -> Iterator[Place]:
        return ((at, min(REQUEST, self._length - at)) for at in range(0, self._length, REQUEST))


class RandomPlaces:
    """So many reads, one after the other."""

    outstanding = 1

    def __init__(self, length: int, count: int, rng: Random) -> None:
        self._pages = -(-length // RANDOM_READ)
        self._length = length
        self._count = count
        self._rng = rng

    def reads(self) -> Iterator[Place]:
        for _ in range(self._count):
            at = self._rng.randrange(self._pages) * RANDOM_READ
            yield at, min(RANDOM_READ, self._length - at)


@dataclass(slots=True, eq=False)
class _Read:
    """A request of the kernel that is not answered."""

    nodes: set[Node]
    length: int


class Application:
    """One open file (`ahead.Stream`)."""

    def __init__(self, extent: Extent, pattern: Pattern, tree: NodeTree, ahead: ReadAhead) -> None:
        self.share = SHARE
        self.position = 0
        """Bytes that were read."""
        self.reads = 0
        """Requests that were answered."""
        self._extent = extent
        self._pattern = pattern
        self._tree = tree
        self._ahead = ahead
        self._plan = ReadPlan(extent)
        self._to_do: Iterator[Place] = iter(())
        self._waiting: deque[_Read] = deque()

    @property
    def reading(self) -> int:
        return len(self._waiting)

    def open(self, *, now: float) -> None:
        self._tree.request(Node(self._extent.object, 0, 0), SHARE, urgent=False, now=now)
        self._to_do = self._pattern.reads()
        for _ in range(self._pattern.outstanding):
            self._read(now)

    def ready(self, node: Node) -> None:
        for read in self._waiting:
            read.nodes.discard(node)

    def advance(self, *, now: float) -> bool:
        """What is there is taken in order, and the kernel asks for more. Returns whether it did."""
        asked = False
        while self._waiting and not self._waiting[0].nodes:
            self.position += self._waiting.popleft().length
            self.reads += 1
            asked |= self._read(now)
        return asked

    @property
    def done(self) -> bool:
        """Whether everything was read, if it was opened."""
        return not self._waiting

    def next_ahead(self) -> Node | None:
        index = self._plan.next_ahead()
        return None if index is None else Node(self._extent.object, 0, index)

    def _read(self, now: float) -> bool:
        """Ask for the next piece, as `FileReader.read` does. Returns whether there is one."""
        offset, length = next(self._to_do, (0, 0))
        if not length:
            return False
        nodes = [Node(self._extent.object, 0, index) for index in blocks(self._extent, offset, length)]
        missing = {node for node in nodes if self._tree.request(node, SHARE, urgent=True, now=now) is None}
        self._plan.advance(offset, length)
        if self._plan.ahead:
            self._ahead.followed.follow(self._extent.object, self._plan.ahead, SHARE, now=now)
        self._waiting.append(_Read(missing, length))
        self._ahead.stream(self, now=now)
        return True
