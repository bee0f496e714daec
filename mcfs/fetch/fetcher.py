"""Which channels to be joined to, and what has come in them.

A node that is wanted goes through these states::

              want                 batch made                symbols suffice           accept
    (none) ---------> QUEUED --------------------> JOINED --------------------> DONE ----------> (none)
                        ^  silence: leave, queue again |                          | reject (wrong hash)
                        +------------------------------+<-------------------------+
    `unwant`, or the deadline, ends it in any state; a channel that was joined is then left.

Whose symbols are taken says sources.py. A node that a server's symbols made wrong, or that of a share of which this
happened a moment ago, is *doubted*: somebody sends under the server's address. Then the senders are told apart by the
order of their symbols as well (doubted.py), and the node stays JOINED until it is right. If it is wrong again it is
left and joined again, for another pass. Only a wrong node is a reason to doubt: what comes slowly is not.

Flow control: never more is joined than the receive buffer takes, nor more than `max_groups` channels. Changes of
membership are made in batches (batches.py); the channels of an origin (a share) that has gone silent hold only a few
places, so that a dead share cannot take those of a live one.

Everything is sans-IO: datagrams and `now` go in; changes of membership, assembled nodes and failures come out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from mcfs.fetch.assemble import Assembly
from mcfs.fetch.batches import HURRY, TICK
from mcfs.fetch.channels import Channels
from mcfs.fetch.doubted import CheckBudget, Doubted
from mcfs.fetch.fetchevents import Assembled, Failed
from mcfs.fetch.fetchqueue import FetchQueue
from mcfs.fetch.pace import Paces, source_range
from mcfs.fetch.passes import Passes
from mcfs.fetch.sources import Sources
from mcfs.fetch.tagchecks import TagChecks
from mcfs.fetch.wanted import NEVER, NODE_SILENCE, PASS, SILENCE, Fetch, Origin, State
from mcfs.fetch.window import Window
from mcfs.protocol import fec, wire
from mcfs.protocol.errors import BadDatagram, BadNode, Gone, NotAvailable, TimedOut
from mcfs.protocol.ids import SEAL_SIZE
from mcfs.protocol.seal import SEALED_SIZES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mcfs.fetch.channels import Changes
    from mcfs.fetch.fetchevents import Event
    from mcfs.fetch.gathered import Collected
    from mcfs.protocol.ids import Group, Host, Node
    from mcfs.protocol.seal import NodeSeal

DEFAULT_MAX_GROUPS: Final = 64
"""Switches hold few groups, and the kernel walks the list for each packet (4.5 us at 100)."""
MAX_SILENCE: Final = 3.0
MAX_NODE_SILENCE: Final = 16.0
UNHEARD: Final = 3.0
"""Seconds after which a node that was also joined anew is one that its server does not know, if there is another reason
to think so. A server that knows it would name it in beacons, send it or say that it is gone."""
UNHEARD_BESIDE: Final = 10.0
"""The same while other nodes of its origin come: it may be behind them, and a single reader gets no beacons."""
ANSWER: Final = 1.0
"""Seconds from a join within which a server that knows the node, and has nothing else to send, does something."""
STALL: Final = 0.2
"""Seconds between two looks at the time after which the silence may have been ours: what came waits in the buffer."""
SILENT_PLACES: Final = 4
"""Channels that an origin which was not heard for SILENCE may hold."""
MAX_WRONG: Final = 8
"""Wrong assemblies of one node by sources of which nobody says that they are servers, after which it fails."""
DOUBT: Final = 3.0
"""Seconds after a wrong node of a server in which all its nodes are doubted."""
MAX_PASS: Final = 2.0
ROUNDS: Final = 3
"""Of a server that sends everything round and round, after which a node that lacks symbols fails."""
SLOW_SECONDS: Final = 0.4
"""Of a slow class that an origin may have joined and not received: more than a few changes of membership take. What is
joined too early comes too late for somebody, and holds up what is needed sooner."""
HOLD_VALID: Final = 0.5
"""Seconds for which what a beacon said of holding is believed; there is one every 40 ms."""


@dataclass(frozen=True, slots=True)
class Limits:
    timeout: float = 30.0
    """Seconds of silence after which a node fails."""
    max_wait: float = 300.0
    """Seconds after which it fails whatever was heard."""
    firm: bool = False
    """Whether that holds also where a server says that it takes longer to send everything once."""
    max_groups: int = DEFAULT_MAX_GROUPS
    max_bytes: int = 16 << 20
    """Bytes joined and not yet received: half of the receive buffer."""
    hurry: float = HURRY
    """Seconds between a batch of changes and one that somebody waits for."""


@dataclass(slots=True)
class FetchCounters:
    symbols: int = 0
    duplicates: int = 0
    bad_datagrams: int = 0
    forged_datagrams: int = 0
    """Symbols with a wrong tag, in channels of shares with a key."""
    foreign_datagrams: int = 0
    rejoins: int = 0
    failed_nodes: int = 0
    batches: int = 0


class Fetcher:
    """All channels of one client. Groups are at one scope; the caller computes them."""

    def __init__(self, limits: Limits) -> None:
        self.counters = FetchCounters()
        self.limits = limits
        self.paces = Paces(limits.max_bytes)
        self._passes = Passes(self.paces)
        self._window = Window(limits.max_bytes)
        self._channels = Channels(limits.hurry)
        self._queue = FetchQueue()
        self._fetches: dict[Group, Fetch] = {}
        self._by_node: dict[Node, Fetch] = {}
        self._outstanding = 0
        self._hold = 0.0
        self._hold_until = float("-inf")
        self._origins: dict[bytes, Origin] = {}
        self._periods: dict[bytes, float] = {}
        self._events: deque[Event] = deque()
        self.sources = Sources()
        self._tags = TagChecks()
        self._checks = CheckBudget()
        self._checked = float("-inf")
        self._excused = float("-inf")

    # --- what is wanted ---

    def want(
        self,
        node: Node,
        group: Group,
        origin: bytes,
        *,
        urgent: bool,
        now: float,
        awaited: bool = False,
        seal: NodeSeal | None = None,
    ) -> None:
        """Fetch a node; wanting it again may make it urgent, and `awaited`: then it is joined as soon as may be. `seal`
        if its share has a key."""
        fetch = self._by_node.get(node)
        if fetch is None:
            fetch = self._new_fetch(node, group, origin, urgent, seal, now)
        elif urgent and not fetch.urgent:
            fetch.urgent, fetch.wanted_at = True, now
            if fetch.state is State.QUEUED:
                self._queue.drop(fetch)
                self._queue.put(fetch)
        fetch.awaited = fetch.awaited or awaited

    def unwant(self, node: Node, *, now: float) -> None:
        fetch = self._by_node.get(node)
        if fetch is not None:
            self._end(fetch, now)

    def wants(self, node: Node) -> bool:
        return node in self._by_node

    def is_unheard(self, node: Node, *, since: float, now: float) -> bool:
        """Whether a node was joined again in vain, with a server that has been there without a break `since` then:
        nothing came of it, and no beacon named it, for UNHEARD seconds."""
        fetch = self._by_node.get(node)
        if fetch is None or fetch.state is not State.JOINED or not fetch.rejoins or fetch.origin.period:
            return False
        if fetch.joined_at <= since or now - fetch.joined_at < ANSWER:
            return False
        beside = now - fetch.origin.last_heard < ANSWER
        quiet = now - max(fetch.wanted_at, fetch.last_new, fetch.last_named, since)
        return quiet > (UNHEARD_BESIDE if beside else UNHEARD)

    def hold(self, group: Group) -> None:
        """Stay joined to a control channel, beside the cap."""
        self._channels.hold(group)

    def release(self, group: Group, *, now: float) -> None:
        self._channels.release(group, now=now)

    def rejoin(self, group: Group, *, now: float) -> None:
        """Leave a held channel and join it again, which repeats the report."""
        self._channels.rejoin(group, now=now)

    def renew(self, groups: Iterable[Group], *, now: float) -> None:
        """Join these anew now: an interface came up, and the silence until then was nobody's fault."""
        for origin in self._origins.values():
            origin.silence, origin.active_since = SILENCE, now
        for group in groups:
            fetch = self._fetches.get(group)
            if fetch is None:
                self.rejoin(group, now=now)
            elif fetch.state is State.JOINED:
                fetch.patience = NODE_SILENCE
                self._rejoin(fetch, now)

    def only_sources(self, *, now: float) -> frozenset[Host] | None:
        """The addresses outside of which no symbols are of use now; None if there is no such limit."""
        return self.sources.only({fetch.origin.name for fetch in self._by_node.values()}, now=now)

    @property
    def window(self) -> int:
        """Bytes that a sequential reader should keep asked for."""
        return self._window.size

    @property
    def under_way(self) -> int:
        """Bytes that are wanted and have not come. A node that lacks a few symbols counts as little as it lacks."""
        return self._outstanding + self._queue.size

    @property
    def groups(self) -> int:
        return len(self._channels)

    def announced(self, origin: bytes, period: float, *, now: float) -> None:
        """An origin is there. With a `period`, in seconds, its server sends everything round and round: what is wanted
        may come as late as that, and joining it anew is of no use."""
        if period:
            self.paces.rounds(origin)
            self._periods[origin] = period
        else:
            self._periods.pop(origin, None)
        known = self._origins.get(origin)
        if known is not None:
            known.period = period
            if period:
                known.last_heard, known.silence = now, SILENCE

    def max_wait(self, origin: bytes) -> float:
        """Seconds after which a node of this origin fails whatever was heard."""
        rounds = 0.0 if self.limits.firm else ROUNDS * self._periods.get(origin, 0.0)
        return max(self.limits.max_wait, rounds)

    def last_heard(self, origin: bytes) -> float:
        """When a new symbol of this origin came last."""
        known = self._origins.get(origin)
        return known.last_heard if known is not None else float("-inf")

    def origin_of(self, group: Group) -> bytes | None:
        """The origin of the node that this channel carries, if it is wanted."""
        fetch = self._fetches.get(group)
        return fetch.origin.name if fetch is not None else None

    def repace(self, group: Callable[[Node, int, bytes], Group], *, now: float) -> None:
        """Go on in the classes that fit now; `group` is the channel of an origin's node in a class. To a slower class
        everything moves; to a faster one only what is not joined, as a class that is left begins a pass anew in the
        other."""
        for origin in self._origins.values():
            if origin.pace != self.paces.pace(origin.name):
                self._move(origin, group, now)

    # --- what comes ---

    def receive(self, group: Group, source: Host, datagrams: fec.Symbols, *, now: float) -> bytes | None:
        """Datagrams uint8[n, size] or [m, n, size] that came in one channel from one source. Returns a `gone`, if there
        is one, sealed if its share has a key: the caller checks it and then calls `gone`."""
        fetch, size = self._fetches.get(group), datagrams.shape[-1]
        count = datagrams.size // max(1, size)
        if fetch is None:
            self.counters.foreign_datagrams += count
            return None
        if fetch.seal is not None:
            return self._receive_tagged(fetch, fetch.seal, source, datagrams, now)
        if size > 1 and datagrams[..., 1].flat[0] == wire.GONE:
            return bytes(datagrams.reshape(-1, size)[0])
        try:
            run = wire.symbol_run_untrusted(datagrams, fetch.length)
        except BadDatagram:
            self.counters.bad_datagrams += count
            return None
        self.counters.bad_datagrams += count - len(run.esis)
        self._symbols(fetch, source, run, now)
        return None

    def _receive_tagged(
        self, fetch: Fetch, seal: NodeSeal, source: Host, datagrams: fec.Symbols, now: float
    ) -> bytes | None:
        """The same for a share with a key: what is not genuine gets no further than here, and spoils nothing that came
        with it."""
        size, gone = datagrams.shape[-1], None
        if size in SEALED_SIZES:
            datagrams = datagrams.reshape(-1, size)
            sealed = datagrams[:, 1] == wire.SEALED
            if sealed.any():
                gone, datagrams = bytes(datagrams[sealed][0]), datagrams[~sealed]
        if datagrams.size and fetch.state is not State.DONE:
            self._tagged(fetch, seal.tag_key, source, datagrams, now)
        return gone

    def _tagged(self, fetch: Fetch, key: bytes, source: Host, datagrams: fec.Symbols, now: float) -> None:
        count = datagrams.size // datagrams.shape[-1]
        try:
            datagrams, forged, checked = self._tags.sift_untrusted(datagrams, key, now=now)
            self.counters.forged_datagrams += forged
            count -= forged
            run = wire.symbol_run_untrusted(datagrams[..., : -wire.TAG_SIZE], fetch.length)
        except BadDatagram:
            self.counters.bad_datagrams += count
            return
        self.counters.bad_datagrams += count - len(run.esis)
        fetch.unchecked = fetch.unchecked or not checked
        self._symbols(fetch, source, run, now)

    def counted(
        self,
        group: Group,
        source: Host,
        collected: Collected,
        *,
        came: int,
        new: int,
        seen: tuple[int, int, int] | None = None,
        now: float,
    ) -> None:
        """As `receive`, for a caller that keeps account of the symbols by itself (mcfs.simulate): so many came, of
        which so many were new; `seen` is what `source_range` gives."""
        fetch = self._fetches.get(group)
        if fetch is None:
            self.counters.foreign_datagrams += came
        elif fetch.state is not State.DONE and self.sources.takes(fetch.origin.name, source, now=now):
            fetch.gathered.put(source, collected)
            self._passes.came(fetch, seen, came, collected.t, now=now)
            self._count(fetch, source, collected, came, new, now)

    def queued(self, groups: Iterable[Group], *, now: float) -> bool:
        """The server says that these channels are about to be served: those who wait for them need not worry. Returns
        whether one of them is waited for here."""
        found = False
        for group in groups:
            fetch = self._fetches.get(group)
            if fetch is not None and fetch.state is State.JOINED:
                fetch.last_named = fetch.origin.last_heard = now
                fetch.origin.silence = SILENCE
                found = True
        return found

    def held(self, seconds: float, *, now: float) -> None:
        """The server says that it holds new channels of our class for so long: that is no queue."""
        self._hold, self._hold_until = seconds, now + HOLD_VALID

    def gone(self, group: Group, *, now: float) -> None:
        fetch = self._fetches.get(group)
        if fetch is not None:
            self._fail(fetch, Gone(f"block {fetch.node.index} is no longer served"), now)

    def accept(self, node: Node, *, now: float) -> None:
        """The assembled bytes were right."""
        fetch = self._by_node.get(node)
        if fetch is not None:
            fetch.origin.usual_t = fetch.offered_t
            self._passes.believe(fetch)
            self._end(fetch, now)

    def reject(self, node: Node, source: Host, *, now: float) -> bool:
        """The assembled bytes were wrong: go on with other sources, or with other symbols of a server. False when there
        were too many of these: the caller should give the node up."""
        self.counters.failed_nodes += 1
        fetch = self._by_node.get(node)
        if fetch is None:
            return True
        if fetch.unchecked:
            self._collect_anew(fetch, now)
            return True
        fetch.wrong += 1
        if fetch.checking is not None:
            fetch.checking.wrong()
            fetch.checking = None
        name = fetch.origin.name
        self.sources.wrong(name, source, now=now)
        if self.sources.is_server(name, source):
            self._doubt(fetch, now)
            return True
        fetch.gathered.keep_only(self._is_server(fetch))
        if fetch.state is State.DONE:
            self._resume(fetch, now)
        return self.sources.are_known(name) or fetch.wrong < MAX_WRONG

    def events(self) -> Iterator[Event]:
        while self._events:
            yield self._events.popleft()

    # --- membership ---

    def changes(self, *, now: float) -> Changes | None:
        """The batch to make now, if there is one and its time has come."""
        if not self._channels.is_due(now=now) and not self._admits(now):
            return None
        if not self._channels.may_change(hurried=self._is_awaited(now), now=now):
            return None
        self._rest(self._channels.leaving, now)
        joins = self._channels.held_to_join() + [self._join(fetch, now) for fetch in self._admitted(now)]
        self.counters.batches += 1
        return self._channels.change(joins)

    def _rest(self, left: Iterable[Group], now: float) -> None:
        """Doubted nodes are joined anew for another pass, and repair symbols are of no use to them. What is left and
        joined within some milliseconds the kernel reports as though nothing had been: then no pass comes."""
        for group in left:
            fetch = self._fetches.get(group)
            if fetch is not None and fetch.doubted:
                fetch.not_before = now + TICK

    def refused(self, group: Group, *, now: float) -> None:
        """The kernel would not join this group."""
        self._channels.refused(group)
        fetch = self._fetches.get(group)
        if fetch is not None and fetch.state is State.JOINED:
            self._unjoin(fetch)
            self._requeue(fetch, now)
            fetch.not_before = now + SILENCE

    # --- time ---

    def next_timeout(self, *, now: float) -> float | None:
        """When `handle_timeout` or `changes` has something to do."""
        times = []
        if self._by_node:
            times.append(max(now, self._checked + TICK))
        joins = self._admits(now)
        if joins or self._channels.is_pending():
            times.append(self._channels.due_at(joins=joins, hurried=joins and self._is_awaited(now), now=now))
        return min(times, default=None)

    def handle_timeout(self, *, now: float) -> None:
        """Deadlines, silence and pace classes; looks at all fetches at most once a tick."""
        if now < self._checked + TICK:
            return
        if now > self._checked + STALL:
            self._excused = now
        self._checked = now
        self._look(now)
        for fetch in list(self._by_node.values()):
            self._check_deadline(fetch, now)
        for origin in list(self._origins.values()):
            self._check_silence(origin, now)
        for fetch in list(self._by_node.values()):
            self._check_node_silence(fetch, now)
            self._check_pass(fetch, now)

    # --- inside: life of a fetch ---

    def _new_fetch(
        self, node: Node, group: Group, origin: bytes, urgent: bool, seal: NodeSeal | None, now: float
    ) -> Fetch:
        known = self._origins.get(origin)
        if known is None:
            known = Origin(name=origin, period=self._periods.get(origin, 0.0), pace=self.paces.pace(origin))
            self._origins[origin] = known
        if known.nodes == 0:
            known.active_since = now
        known.nodes += 1
        length = node.size + (SEAL_SIZE if seal else 0)
        fetch = Fetch(node, group, known, urgent, now, length, seal=seal)
        self._fetches[group] = self._by_node[node] = fetch
        self._requeue(fetch, now)
        return fetch

    def _requeue(self, fetch: Fetch, now: float) -> None:
        fetch.state, fetch.queued_at = State.QUEUED, now
        self._queue.put(fetch)

    def _join(self, fetch: Fetch, now: float) -> Group:
        self._queue.drop(fetch)
        if fetch.joined_at == NEVER or now - fetch.queued_at > STALL:
            # As long as it was queued, for want of room, what its origin received was a sign of life.
            fetch.last_named = max(fetch.last_named, fetch.origin.last_heard)
        fetch.state, fetch.joined_at, fetch.came, fetch.contested = State.JOINED, now, 0, False
        fetch.filled = self._outstanding >= self.window // 2
        if fetch.origin.joined == 0 and fetch.origin.last_heard < now - SILENCE:
            fetch.origin.active_since = now
        fetch.origin.joined += 1
        fetch.trail = None
        self._lacks(fetch, fetch.gathered.missing)
        return fetch.group

    def _unjoin(self, fetch: Fetch) -> None:
        fetch.origin.joined -= 1
        self._lacks(fetch, 0)

    def _lacks(self, fetch: Fetch, missing: int) -> None:
        """Of a channel that is joined so many bytes have still to come."""
        self._outstanding += missing - fetch.missing
        fetch.origin.missing += missing - fetch.missing
        fetch.missing = missing

    def _end(self, fetch: Fetch, now: float) -> None:
        if fetch.state is State.JOINED:
            self._unjoin(fetch)
            self._channels.leave(fetch.group, now=now)
        self._queue.drop(fetch)
        del self._fetches[fetch.group], self._by_node[fetch.node]
        fetch.origin.nodes -= 1
        if fetch.origin.nodes == 0 and len(self._origins) > 1024:
            self._origins = {name: o for name, o in self._origins.items() if o.nodes}

    def _fail(self, fetch: Fetch, error: NotAvailable | BadNode, now: float) -> None:
        self._end(fetch, now)
        self._events.append(Failed(fetch.node, error))

    def _symbols(self, fetch: Fetch, source: Host, run: wire.SymbolRun, now: float) -> None:
        if fetch.state is State.DONE or not self.sources.takes(fetch.origin.name, source, now=now):
            return
        t = run.symbols.shape[-1]
        collected = self._collected(fetch, source, t, now)
        if collected is None:
            return
        seen = source_range(run.esis, fec.source_symbols(fetch.length, t), contiguous=run.contiguous)
        self._passes.came(fetch, seen, len(run.esis), t, now=now)
        self._count(fetch, source, collected, len(run.esis), collected.add(run), now)

    def _count(self, fetch: Fetch, source: Host, collected: Collected, came: int, new: int, now: float) -> None:
        self.counters.symbols += came
        self.counters.duplicates += came - new
        if new:
            self._progress(fetch, now)
            fetch.gathered.grown(source, collected.t)
            if fetch.state is State.JOINED:
                self._lacks(fetch, min(fetch.missing, collected.missing))
        if isinstance(collected, Doubted):
            fetch.came += came
            fetch.origin.last_heard, fetch.origin.silence = now, SILENCE
            self._offer(fetch, source, collected, now)
        elif new and (data := collected.data()) is not None:
            fetch.gathered.drop(source, collected.t)
            self._done(fetch, data, source, collected.t, now)

    def _progress(self, fetch: Fetch, now: float) -> None:
        if fetch.last_new < fetch.joined_at and fetch.state is State.JOINED:
            hold = self._hold if now < self._hold_until else 0.0
            self._window.first_symbol(now - fetch.joined_at - hold, fetch.length, filled=fetch.filled)
        fetch.last_new = fetch.origin.last_heard = now
        fetch.origin.silence, fetch.patience, fetch.rejoins = SILENCE, NODE_SILENCE, 0

    def _done(self, fetch: Fetch, data: memoryview, source: Host, t: int, now: float) -> None:
        if fetch.state is State.JOINED:
            self._unjoin(fetch)
            self._channels.leave(fetch.group, now=now)
        self._queue.drop(fetch)
        fetch.state, fetch.offered_t = State.DONE, t
        self._events.append(Assembled(fetch.node, data, source, fetch.seal))

    def _collected(self, fetch: Fetch, source: Host, t: int, now: float) -> Assembly | Doubted | None:
        """Where symbols of this source and size go; None if they are of no use."""
        collected = fetch.gathered.find(source, t)
        if isinstance(collected, Doubted):
            return collected
        if fetch.checking is not None:
            return None  # one event at a time
        if isinstance(collected, Assembly):
            return collected
        if t != fec.symbol_size(fetch.length, t):
            self.counters.bad_datagrams += 1
            return None
        is_server = self._is_server(fetch)
        fetch.gathered.make_room(source, is_server, fetch.origin.usual_t)
        doubted = (fetch.doubted or now < fetch.origin.doubted_until) and is_server(source)
        fetch.doubted = fetch.doubted or doubted
        new: Assembly | Doubted = Doubted(fetch.length, t) if doubted else Assembly(fetch.length, t)
        fetch.gathered.put(source, new)
        return new

    def _is_server(self, fetch: Fetch) -> Callable[[Host], bool]:
        return partial(self.sources.is_server, fetch.origin.name)

    # --- inside: doubted nodes ---

    def _doubt(self, fetch: Fetch, now: float) -> None:
        """A server's symbols were wrong, so some of them are of somebody else."""
        fetch.origin.doubted_until = now + DOUBT
        self._passes.doubted(fetch.origin)
        fetch.doubted = fetch.contested = True
        fetch.gathered.change(partial(self._doubted, fetch))
        if fetch.state is State.DONE:
            self._requeue(fetch, now)
            fetch.not_before = now + TICK

    def _doubted(self, fetch: Fetch, source: Host, collected: Collected) -> Collected:
        if isinstance(collected, Assembly) and self.sources.is_server(fetch.origin.name, source):
            return Doubted(fetch.length, collected.t, collected)
        return collected

    def _offer(self, fetch: Fetch, source: Host, doubted: Doubted, now: float) -> None:
        """If something is complete have it checked; within bounds, as who sends much makes much that is complete."""
        cost = doubted.cost
        if not cost or fetch.checking is not None or not self._checks.allow(now=now):
            return
        self._checks.spend(cost)
        data = doubted.data()
        if data is not None:
            fetch.checking, fetch.offered_t = doubted, doubted.t
            self._events.append(Assembled(fetch.node, data, source, fetch.seal))

    def _collect_anew(self, fetch: Fetch, now: float) -> None:
        """It was wrong, and not all tags were checked: so something forged was among what came."""
        self._tags.alarm(now=now)
        self._passes.doubted(fetch.origin)
        fetch.unchecked, fetch.checking = False, None
        fetch.gathered.clear()
        if fetch.state is State.DONE:
            self._resume(fetch, now)
        elif fetch.state is State.JOINED:
            self._lacks(fetch, fetch.gathered.missing)

    def _resume(self, fetch: Fetch, now: float) -> None:
        """A node was done and wrong: stay in its channel if that is still joined."""
        if self._channels.stay(fetch.group):
            fetch.state = State.JOINED
            fetch.origin.joined += 1
            self._lacks(fetch, fetch.gathered.missing)
        else:
            self._requeue(fetch, now)
            fetch.not_before = now + TICK

    def _check_pass(self, fetch: Fetch, now: float) -> None:
        """A doubted node that was wrong again needs another pass, for which bursts of repair do not stand."""
        if fetch.state is not State.JOINED or not fetch.doubted:
            return
        for source, collected in fetch.gathered:
            if isinstance(collected, Doubted):
                self._offer(fetch, source, collected, now)
        if fetch.checking is not None or fetch.origin.period:
            return
        if fetch.contested and now - fetch.joined_at > PASS and self._has_pass(fetch):
            self._next_pass(fetch, now)
        elif now - max(fetch.joined_at, fetch.last_new, fetch.last_named, self._excused) > fetch.pass_time:
            fetch.pass_time = min(MAX_PASS, fetch.pass_time * 2)
            self._next_pass(fetch, now)

    @staticmethod
    def _has_pass(fetch: Fetch) -> bool:
        """Whether as many symbols came as a pass has."""
        return any(fetch.came * collected.t >= fetch.length for _, collected in fetch.gathered)

    def _next_pass(self, fetch: Fetch, now: float) -> None:
        for _, collected in fetch.gathered:
            if fetch.contested and isinstance(collected, Doubted):
                collected.next_pass()
        self._rejoin(fetch, now)

    # --- inside: pace classes ---

    def _look(self, now: float) -> None:
        """Tell the passes that are over, and hear whether the classes still fit."""
        self._passes.look(now=now)
        if self.paces.look(smallest=self._window.is_smallest, now=now):
            self._window.overrun()

    def _move(self, origin: Origin, group: Callable[[Node, int, bytes], Group], now: float) -> None:
        before, origin.pace = origin.pace, self.paces.pace(origin.name)
        slower = origin.pace > before
        if slower:
            self._window.slower()
        # In the order of the file: the first of them will be needed first, whatever others were sent meanwhile.
        for fetch in sorted(self._by_node.values(), key=lambda fetch: (-fetch.node.level, fetch.node.index)):
            if fetch.origin is origin and (fetch.state is State.QUEUED or (slower and fetch.state is State.JOINED)):
                self._move_to(fetch, group(fetch.node, origin.pace, origin.name), now)

    def _move_to(self, fetch: Fetch, group: Group, now: float) -> None:
        """What has come stays of use: the symbols of all classes are the same."""
        if fetch.state is State.JOINED:
            self._unjoin(fetch)
            self._channels.leave(fetch.group, now=now)
            fetch.joined_at = NEVER
        self._queue.drop(fetch)
        del self._fetches[fetch.group]
        fetch.group = group
        self._fetches[group] = fetch
        self._requeue(fetch, now)

    def _has_room(self, fetch: Fetch, taken: int) -> bool:
        """Whether its origin's class, if it is a slow one, would bring it soon; `taken` bytes are to be joined with
        it."""
        reception = self.paces.reception(fetch.origin.name)
        if reception is None or reception.pace == 0:
            return True
        under_way = fetch.origin.missing + taken
        return under_way == 0 or under_way + fetch.length <= reception.rate / 8 / 2**reception.pace * SLOW_SECONDS

    # --- inside: membership ---

    def _admits(self, now: float) -> bool:
        """Whether something that is wanted may be joined now."""
        return any(True for _ in self._admitted(now))

    def _is_awaited(self, now: float) -> bool:
        """Whether somebody waits for what may be joined now."""
        return any(fetch.awaited for fetch in self._admitted(now))

    def _admitted(self, now: float) -> Iterator[Fetch]:
        """Queued fetches that may be joined now, urgent ones first."""
        places = self.limits.max_groups - self._channels.used
        room = self.limits.max_bytes - self._outstanding
        taken: dict[Origin, int] = {}
        bytes_taken: dict[Origin, int] = {}
        for fetch in self._queue:
            if places <= 0:
                return
            if fetch.group in self._channels or fetch.not_before > now:
                continue
            mine = fetch.origin.joined + taken.get(fetch.origin, 0)
            if self._is_silent(fetch.origin) and mine >= SILENT_PLACES:
                continue
            if fetch.length > room and (room < self.limits.max_bytes or taken):
                return
            if not self._has_room(fetch, bytes_taken.get(fetch.origin, 0)):
                continue
            places, room = places - 1, room - fetch.length
            taken[fetch.origin] = taken.get(fetch.origin, 0) + 1
            bytes_taken[fetch.origin] = bytes_taken.get(fetch.origin, 0) + fetch.length
            yield fetch

    @staticmethod
    def _is_silent(origin: Origin) -> bool:
        """Whether it was joined in vain since it was last heard."""
        return origin.silence > SILENCE

    # --- inside: deadlines ---

    def _check_deadline(self, fetch: Fetch, now: float) -> None:
        if fetch.state is State.DONE:
            return
        heard = max(fetch.last_new, fetch.last_named)
        if fetch.state is State.QUEUED or fetch.origin.period:  # others of its origin do arrive
            heard = max(heard, fetch.origin.last_heard)
        if now - max(heard, fetch.wanted_at) > self.limits.timeout:
            self._fail(fetch, self._late(fetch, f"nothing heard for {self.limits.timeout:g} s"), now)
        elif now - fetch.wanted_at > (longest := self.max_wait(fetch.origin.name)):
            self._fail(fetch, self._late(fetch, f"not complete after {longest:g} s"), now)

    @staticmethod
    def _late(fetch: Fetch, what: str) -> TimedOut | BadNode:
        """Where symbols were wrong that is the reason, and asking again soon is not in vain."""
        return BadNode(f"wrong symbols came; {what}") if fetch.wrong else TimedOut(what)

    def _check_silence(self, origin: Origin, now: float) -> None:
        """Nothing at all of the origin: leave, wait a tick, join again, a few channels at a time."""
        if not origin.joined or now - max(origin.quiet_since(), self._excused) < origin.silence:
            return
        origin.active_since = now
        origin.silence = min(MAX_SILENCE, origin.silence * 2)
        for fetch in self._by_node.values():
            if fetch.origin is origin and fetch.state is State.JOINED:
                self._rejoin(fetch, now)

    def _check_node_silence(self, fetch: Fetch, now: float) -> None:
        if (
            fetch.state is not State.JOINED
            or fetch.origin.period
            or now - max(fetch.last_new, fetch.last_named, fetch.joined_at, self._excused) < fetch.patience
        ):
            return
        fetch.patience = min(MAX_NODE_SILENCE, fetch.patience * 2)
        self._rejoin(fetch, now)

    def _rejoin(self, fetch: Fetch, now: float) -> None:
        self.counters.rejoins += 1
        fetch.rejoins += 1
        self._unjoin(fetch)
        self._channels.leave(fetch.group, now=now)
        self._requeue(fetch, now)
