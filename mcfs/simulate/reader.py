"""One reader: the cores of a client, an application that reads a file, and the kernel's part of both.

Real: `Fetcher`, `NodeTree`, `ReadAhead` and all below them. Replaced: what `mcfs.net.client` does between them (here
`pump`), the cache on disk (a set, and writing takes no time), and checking hashes. The processor is infinitely fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from mcfs.fetch.ahead import ReadAhead
from mcfs.fetch.fetcher import Fetcher, Limits
from mcfs.fetch.fetchevents import Assembled, Failed
from mcfs.fetch.nodes import NodeTree
from mcfs.protocol import addressing
from mcfs.protocol.ids import Group, Host, Node
from mcfs.simulate.application import Application
from mcfs.simulate.content import SCOPE, SHARE, check_length
from mcfs.simulate.host import ReportingHost

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from mcfs.protocol.mld import Record
    from mcfs.simulate.application import Pattern
    from mcfs.simulate.content import SimulatedFile
    from mcfs.simulate.port import Port
    from mcfs.simulate.reception import Reception, Told
    from mcfs.simulate.timeline import Timeline

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

    def load_at_once(self, node: Node) -> memoryview | None:
        return self.load(node)

    def drop(self, node: Node) -> None:
        self.nodes.discard(node)


class Symbols:
    """What a reader has of a node, for its fetcher (`gathered.Collected`)."""

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
        pattern: Pattern,
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
        self.application = Application(file.extent, pattern, self.tree, self.ahead)
        self._file = file
        self._timeline = timeline
        self._due = float("inf")

    # --- the application ---

    def mount(self) -> None:
        self.fetcher.hold(addressing.share_group(SHARE, SCOPE))
        self.pump()

    def open(self) -> None:
        self.started = self._timeline.now
        self.application.open(now=self.started)
        self.pump()

    def _fail(self, reason: str) -> None:
        if not self.done:
            self.failure = reason
            self._link.ended(self)

    def _finish(self) -> None:
        self.finished = self._timeline.now
        self.ahead.end(self.application)
        self._link.ended(self)

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
        while self.application.advance(now=now):
            self._move(now)  # what is in the cache
        if self.application.done and self.started <= now and not self.done:
            self._finish()
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
            tree.loaded(load, self.cache.load(load.node), now=now)
        for store in tree.stores():
            self.cache.nodes.add(store.node)
            tree.stored(store)
        for outcome in tree.events():
            if isinstance(outcome, Failed):
                self._fail(str(outcome.error))
            else:
                self.application.ready(outcome.node)

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
