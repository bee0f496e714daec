"""One reader: the cores of a client, a file that is read from one end to the other, and the kernel's part of both.

Real: `Fetcher`, `NodeTree`, `ReadAhead`, `ReadPlan` and all below them. Replaced: what `mcfs.net.client` does between
them (here `pump`), the cache on disk (a set, and writing takes no time), checking hashes, and the application.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from mcfs.fetch.ahead import ReadAhead
from mcfs.fetch.fetcher import Assembled, Failed, Fetcher, Limits
from mcfs.fetch.nodes import NodeTree
from mcfs.fetch.readplan import ReadPlan, blocks
from mcfs.protocol import addressing
from mcfs.protocol.ids import Group, Host, Node
from mcfs.simulate.content import SCOPE, SHARE, check_length
from mcfs.simulate.host import ReportingHost

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from mcfs.protocol.mld import Record
    from mcfs.simulate.content import SimulatedFile
    from mcfs.simulate.port import Port
    from mcfs.simulate.reception import Reception, Told
    from mcfs.simulate.timeline import Timeline

REQUEST: Final = 1 << 20
"""Bytes that the kernel asks FUSE for at a time."""
KERNEL_AHEAD: Final = 4 << 20
"""Bytes that it reads ahead of the application, where mcfs may say so."""
SHORTEST_WAIT: Final = 1e-4
"""Seconds: the timers of an event loop are no better."""


def host_address(number: int) -> Host:
    return Host(bytes.fromhex("fe80000000000000") + (0x100 + number).to_bytes(8, "big"))


class Cache:
    """What was received, by name only."""

    def __init__(self, file: SimulatedFile) -> None:
        self.nodes: set[Node] = set()
        self._file = file

    def has(self, node: Node) -> bool:
        return node in self.nodes

    def load(self, node: Node) -> memoryview | None:
        return self._file.data(node) if node in self.nodes else None

    def drop(self, node: Node) -> None:
        self.nodes.discard(node)


class Symbols:
    """What a reader has of a node, for its fetcher (`fetcher.Collected`)."""

    __slots__ = ("_data", "_reception", "_row", "t")

    def __init__(self, reception: Reception, row: int, t: int, data: memoryview) -> None:
        self.t = t
        self._reception = reception
        self._row = row
        self._data = data

    @property
    def missing(self) -> int:
        return self._reception.missing(self._row) * self.t

    def data(self) -> memoryview | None:
        return self._data if self._reception.has_enough(self._row) else None


class Link(Protocol):
    """What a reader is plugged into."""

    def left(self, reader: Reader, group: Group, *, keep: bool) -> None:
        """The host is no member any more; `keep` what has come, as it will join again."""
        ...

    def ended(self, reader: Reader) -> None:
        """It has read the file, or failed."""
        ...

    def report(self, reader: Reader, records: list[Record]) -> None: ...


@dataclass(slots=True, eq=False)
class _Read:
    """A request of the kernel that is not answered."""

    nodes: set[Node]
    length: int


class Reader:
    """A host with one mount and one application."""

    def __init__(
        self,
        number: int,
        file: SimulatedFile,
        timeline: Timeline,
        rng: Random,
        link: Link,
        *,
        limits: Limits,
        loss: float = 0.0,
        port: Port | None = None,
        server: Host,
        rate: int,
        pace: int = 0,
    ) -> None:
        self.number = number
        self.address = host_address(number)
        self.loss = loss
        self.port = port
        self.started = float("inf")
        self.position = 0
        """Bytes that the application has got."""
        self.finished: float | None = None
        self.failure: str | None = None
        self.unplugged = False
        self.cache = Cache(file)
        self.fetcher = Fetcher(limits)
        self.tree = NodeTree(
            self.fetcher, self.cache, SCOPE, is_down=lambda _: False, pace=self.fetcher.paces.pace, verify=check_length
        )
        self.fetcher.paces.announced(SHARE, server, rate, now=timeline.now)
        reception = self.fetcher.paces.reception(SHARE)
        assert reception is not None
        reception.pace = pace
        self.ahead = ReadAhead(self.fetcher, self.tree)
        self.host = ReportingHost(timeline, rng, self._report)
        self._link = link
        self.share, self.reading = SHARE, 0
        self._file = file
        self._timeline = timeline
        self._plan = ReadPlan(file.extent)
        self._reads: deque[_Read] = deque()
        self._asked = 0
        """Bytes of the file that the kernel has asked for."""
        self._due = float("inf")

    # --- the application ---

    def mount(self) -> None:
        self.fetcher.hold(addressing.share_group(SHARE, SCOPE))
        self.pump()

    def open(self) -> None:
        """Open the file and read it to its end."""
        now = self.started = self._timeline.now
        self.tree.request(Node(self._file.ref, 0, 0), SHARE, urgent=False, now=now)
        while len(self._reads) * REQUEST < KERNEL_AHEAD and self._asked < self._file.extent.length:
            self._read()
        self.pump()

    def _read(self) -> None:
        """As `FileReader.read` of the client."""
        now, extent = self._timeline.now, self._file.extent
        length = min(REQUEST, extent.length - self._asked)
        nodes = [Node(extent.object, 0, index) for index in blocks(extent, self._asked, length)]
        missing = {node for node in nodes if self.tree.request(node, SHARE, urgent=True, now=now) is None}
        self._plan.advance(self._asked, length)
        if self._plan.ahead:
            self.ahead.followed.follow(extent.object, self._plan.ahead, SHARE, now=now)
        self._asked += length
        self._reads.append(_Read(missing, length))
        self.reading += 1
        self.ahead.stream(self, now=now)

    def next_ahead(self) -> Node | None:
        index = self._plan.next_ahead()
        return None if index is None else Node(self._file.ref, 0, index)

    def _ready(self, node: Node) -> None:
        for read in self._reads:
            read.nodes.discard(node)

    def _fail(self, reason: str) -> None:
        if not self.done:
            self.failure = reason
            self._link.ended(self)

    def _advance(self) -> bool:
        """What is there is taken by the application in order, and the kernel asks for more. Returns whether it did."""
        before = self._asked
        while self._reads and not self._reads[0].nodes:
            self.position += self._reads.popleft().length
            self.reading -= 1
            if self._asked < self._file.extent.length:
                self._read()
        if not self._reads and self._asked and self.finished is None:
            self.finished = self._timeline.now
            self.ahead.end(self)
            self._link.ended(self)
        return self._asked > before

    @property
    def done(self) -> bool:
        return self.finished is not None or self.failure is not None or self.unplugged

    # --- what comes ---

    def symbols(self, group: Group, source: Host, symbols: Symbols, told: Told) -> None:
        now = self._timeline.now
        self.fetcher.counted(group, source, symbols, came=told.came, new=told.new, seen=told.seen, now=now)
        self.pump()

    def beacon(self, groups: Sequence[Group], hold: float) -> None:
        self.ahead.named(groups, hold, now=self._timeline.now)
        self.pump()

    # --- what mcfs.net.client does ---

    def pump(self) -> None:
        if self.unplugged:
            return
        now = self._timeline.now
        self.fetcher.handle_timeout(now=now)
        self.fetcher.repace(self.tree.group, now=now)
        self._move(now)
        while self._advance():
            self._move(now)  # what is in the cache
        self.ahead.top_up(now=now)
        changes = self.fetcher.changes(now=now)
        if changes is not None:
            self._change(changes.joins, changes.leaves)
        self._schedule()

    def _move(self, now: float) -> None:
        """What the cores have to say, to where it belongs."""
        tree = self.tree
        for event in self.fetcher.events():
            tree.assembled(event, now=now) if isinstance(event, Assembled) else tree.failed(event, now=now)
        for load in tree.loads():
            tree.loaded(load.node, self.cache.load(load.node), now=now)
        for store in tree.stores():
            self.cache.nodes.add(store.node)
            tree.stored(store)
        for outcome in tree.events():
            if isinstance(outcome, Failed):
                self._fail(str(outcome.error))
            else:
                self._ready(outcome.node)

    def _change(self, joins: Sequence[Group], leaves: Sequence[Group]) -> None:
        for group in leaves:
            node = self._file.node(group)
            self._link.left(self, group, keep=node is not None and self.fetcher.wants(node))
        self.host.change(joins, leaves)

    def _report(self, records: list[Record]) -> None:
        if not self.unplugged:
            self._link.report(self, records)

    def _schedule(self) -> None:
        now = self._timeline.now
        due = self.fetcher.next_timeout(now=now)
        if due is None or now < self._due <= due:
            return
        self._due = max(due, now + SHORTEST_WAIT)
        self._timeline.at(self._due, self._timer)

    def _timer(self) -> None:
        if self._timeline.now >= self._due:  # else it was brought forward, and this is the old one
            self.pump()
