"""What to send next on one link: the sending rule.

Membership is the only feedback: a host that stays joined still needs symbols, one that leaves has the node. A channel
(one node in one pace class) goes through these states::

              join                loaded               pass sent            hold-off over
    (none) --------> LOADING ----------------> PASS ----------------> PARKED -------------> BURST
                        |                       ^  ^                    ^  ^                  |
                        | gone                  |  +------ join --------+  +--- burst sent ---+
                        v                       |                       |
                      GONE (told once a second) +---------- join -------+---- report ----- ASKED
                                                                                            ^ K repair symbols
    the last leave ends a channel in any state                                 PARKED ------+ without a report

A new channel is first HELD for a moment while hosts that read the same things come too late for one another: on a link
that is faster than its readers nothing queues, and each would get a pass of its own.

1. PASS: each listener gets K source symbols from where it joined (cyclic), then a proactive share r of repair symbols.
2. PARKED: for longer than the client's tick and the leave latency.
3. BURST: repair symbols, 2 % of K, doubled each time up to K, every ESI new. The first three bursts go before first
   passes: they are small, and behind them they starve and readers drift apart. Later ones go behind first passes with a
   doubling hold-off: otherwise one unplugged host stops everybody.
4. r adapts per pace class: up for each of a channel's first two bursts, down for each pass. It is read when a pass
   starts; fixed at the join it would be stale by the length of the queue.
5. ASKED: after K symbols of repair without a fresh report nothing more is sent until a report or a leave; the querier
   is told to ask. For hosts that may not exist (crowd.py) that comes before any repair.

Behind an MLD proxy hosts are not heard to join what another one there has joined. There (`proxies`) new channels of one
host are held too, once third bursts have told that somebody comes late.

Most constants come from a simulation of the rule (docs/design.md, "The sending rule"); those of holding and of the
learnt hold-off were tuned by hand on few runs.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mcfs.protocol import fec, wire
from mcfs.protocol.ids import PACE_CLASSES, Group, Host, Node
from mcfs.serve.crowd import Crowd
from mcfs.serve.holding import Holding
from mcfs.serve.holdoff import HoldOffs
from mcfs.serve.pacer import ClassPacer
from mcfs.serve.queues import SMALL_K, URGENT_BURSTS, ChannelState, Kind, LoadedAhead, LoadQueue, Queues, State
from mcfs.serve.regulars import Regulars

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from mcfs.protocol.keys import ShareKeys
    from mcfs.serve.channel import Channel
    from mcfs.serve.payload import Payload, PayloadCache

SLOW_HOLD_OFF: Final = 0.2
"""Seconds, at least, in slow classes: their readers sit behind ports with long queues (600 kB at 50 Mbit/s: 96 ms)."""
MAX_HOLD_OFF: Final = 2.5
REPORT_WAY: Final = 0.015
"""A leave that comes sooner than this after a burst was on its way already: the burst was for nothing."""
FIRST_BURST: Final = 0.02
MIN_BURST: Final = 8
SHARE_UP: Final = 0.002
SHARE_DOWN: Final = 0.0004
SLOW_GAIN: Final = 4
"""Factor of both steps in slow classes: few nodes are sent there in a second, and a class that does not quite fit its
reader, whose port drops up to a third of it, needs a large share at once."""
SHARE_MAX: Final = 0.3
LEAST_SHARE: Final = 0.004
"""Less goes with no pass: each that carries repair symbols sets up an encoder (3 to 6 ms per MiB), and where so little
is lost most passes need none. With one or two symbols after every pass, eight readers that lost nothing cost the server
a third more than one."""
SHARE_START: Final = 0.005
GONE_INTERVAL: Final = 1.0
MAX_SUPER_DATAGRAM: Final = 65000
"""Bytes in one UDP_SEGMENT send, headers of IPv6 and UDP left room for."""
MAX_SEGMENTS: Final = 64
"""UDP_MAX_SEGMENTS of kernels before 6.9."""
MAX_CHANNELS: Final = 65536
"""Channels that one link's listeners can open: 256 hosts at the cap of 256 groups; 1 kB each."""
MODEST_CHANNELS: Final = 128
"""Channels of one host from which on its passes wait in a queue of their own, which gets every second turn: twice what
a client holds, since leaves may be reported after joins. Otherwise a host that joins all that it can and leaves nothing
has 256 passes before each one of the others, and these, whose windows follow the wait, stay small: a copy took ten
times as long."""
LIGHT_CHANNELS: Final = 4
"""Channels of one host up to which its passes take turns with all others, whose windows make queues of 50 to 100 ms: a
page, a block, and what was fetched ahead or is not left yet. Who reads as fast as he can has eight and more."""
ANSWER_LOOK: Final = 0.1
"""Seconds between two looks whether hosts that may have left have answered: in case that they need not any more."""
REMEMBERED_REPAIRS: Final = 65536
RANDOM_REPAIR_START: Final = 256
"""Repair symbols are numbered from K plus a random start, so that a restarted or a second server does not repeat them.
The range is small because the encoder makes them from K upwards."""
NOBODY: Final = Host(bytes(16))
"""The unspecified address: a listener that is no host, and that nobody has to be waited for with."""


@dataclass(frozen=True, slots=True)
class Transmission:
    """Datagrams of one size for one group: at most one super-datagram."""

    group: Group
    payload: Payload
    start: int
    count: int
    repair: bool
    wire_bits: int

    def datagrams(self) -> fec.Symbols:
        """uint8[count, 12 + T]."""
        return (self.payload.repair if self.repair else self.payload.source)(self.start, self.count)


@dataclass(slots=True)
class SendCounters:
    source_symbols: int = 0
    repair_symbols: int = 0
    slow_symbols: int = 0
    """Of both kinds, in pace classes other than the fastest."""
    channels_refused: int = 0
    passes: int = 0
    bursts: int = 0


class Scheduler:
    """Channels of one link, and which of them sends next. All times are seconds of the caller's monotonic clock."""

    def __init__(
        self,
        *,
        rate: float,
        payloads: PayloadCache,
        max_symbol_size: int,
        repair_start: Callable[[], int],
        min_share: float = 0.0,
        proxies: bool = False,
    ) -> None:
        """`repair_start` draws from [0, RANDOM_REPAIR_START); `min_share` of repair goes with each pass. With `proxies`
        any host may stand for many."""
        self.counters = SendCounters()
        self.shares = [max(SHARE_START, min_share)] * PACE_CLASSES
        self._min_share = min_share
        self._pacer = ClassPacer(rate)
        self._payloads = payloads
        self._max_symbol_size = max_symbol_size
        self._repair_start = repair_start
        self._channels: dict[Group, ChannelState] = {}
        self._loading: dict[Node, list[ChannelState]] = {}
        self._to_load: dict[LoadQueue, dict[Node, None]] = {}
        """Nodes that wait for being loaded, in the order of asking."""
        self._under_way: set[Node] = set()
        self._ahead = LoadedAhead()
        self._queues = [Queues(slow=pace > 0) for pace in range(PACE_CLASSES)]
        self._timers: list[tuple[float, int, ChannelState]] = []
        self._sequence = 0
        self._repairs: OrderedDict[Node, int] = OrderedDict()
        self._proxies = proxies
        self._channels_of: dict[Host, dict[ChannelState, None]] = {}
        self.regulars = Regulars()
        self._crowd = Crowd(self.regulars)
        self._holding = [Holding(proxies=proxies) for _ in range(PACE_CLASSES)]
        """For each pace class: hosts in different ones cannot be served together."""
        self._hold_offs = HoldOffs()
        self.withheld: Callable[[Group], Collection[Host]] = lambda _: ()
        """Which hosts may have left a group (`serve.disputes`)."""
        self._asks: list[Group] = []
        self._gone: list[Group] = []

    def set_rate(self, rate: float) -> None:
        """The link has become faster or slower; bits per second."""
        self._pacer = ClassPacer(rate)

    # --- what listeners do ---

    def joined(self, host: Host, channel: Channel, *, now: float) -> None:
        """A host that was not a listener of the channel now is one."""
        state = self._channels.get(channel.group)
        is_new = state is None
        comes_last = self._comes_last(host)
        if host != NOBODY and not comes_last:
            for pace, holding in enumerate(self._holding):
                if pace != channel.pace:
                    holding.forget(host)
            self._holding[channel.pace].joined(host, channel.node, ahead=state is not None and state.is_ahead, now=now)
        if state is None:
            if len(self._channels) >= MAX_CHANNELS:
                self.counters.channels_refused += 1
                return
            state = self._open(channel, now)
        state.marks.pop(host, None)
        state.marks[host] = state.sent  # the last one in: the others have lower marks
        self._note_channel(host, state)
        self._crowd.look(now=now)
        if comes_last and state.state is State.PASS and state.sent < state.until:
            return  # it gets a pass of its own, when this one has ended
        state.until = state.sent + state.k
        if not comes_last:
            state.firm = state.until
        state.bursts = state.burst = state.unanswered = 0
        if is_new:
            self._prepare(state)
        if state.state is State.HELD and self._holding[channel.pace].is_complete(len(state.marks)):
            self._release(state)
        elif state.state is State.LOADING:
            self._queue_load(state, self._kind_for(host, state))
        elif state.state is State.PASS:
            self._hasten(state, self._kind_for(host, state))
        elif state.state in (State.PARKED, State.BURST, State.ASKED):
            self._start_pass(state)

    def refreshed(self, host: Host, groups: Iterable[Group], *, now: float) -> list[Group]:
        """A listener reported again: it is there and still needs symbols. Returns what it is not known to listen to."""
        unknown = []
        for group in groups:
            state = self._channels.get(group)
            if state is None or host not in state.marks:
                unknown.append(group)
                continue
            state.confirmed_at = now
            if state.waits_for_answer:
                state.waits_for_answer, state.wake = False, now
                self._at(now, state)
            state.unanswered = 0
            if state.state is State.ASKED:
                self._park(state, now)
        return unknown

    def left(self, host: Host, group: Group, *, now: float, said: bool = True) -> None:
        """A listener left; `said`: in a report, and not by its silence."""
        state = self._channels.get(group)
        if state is None or state.marks.pop(host, None) is None:
            return
        if said and host != NOBODY:
            self.regulars.left(host, now=now)
            self._crowd.went(host)
        self._forget_channel(host, state)
        self._learn_hold_off(host, state, now)
        if not state.marks:
            if state.state is State.PASS and state.sent:
                self._queues[state.channel.pace].served(state, now=now)
            self._close(state)
        else:
            state.until = next(reversed(state.marks.values())) + state.k

    def silence(self, shares: frozenset[bytes]) -> None:
        """Another server sends these shares: drop channels of nothing else, without a word to their listeners."""
        for state in list(self._channels.values()):
            if state.channel.is_only_in(shares):
                for host in state.marks:
                    self._forget_channel(host, state)
                state.marks.clear()
                self._close(state)

    # --- loading ---

    def to_load(self) -> list[Node]:
        """Nodes to load now, in order; answer each with `loaded` or `gone`."""
        nodes = []
        for queue, waiting in self._to_load.items():
            while waiting and self._ahead.has_room(queue, node := next(iter(waiting))):
                self._unqueue_load(node)
                if node not in self._under_way:
                    self._under_way.add(node)
                    self._ahead.add(queue, node)
                    nodes.append(node)
        return nodes

    def loaded(self, payload: Payload) -> None:
        self._under_way.discard(payload.node)
        self._payloads.put(payload)
        waiting = self._loading.pop(payload.node, ())
        if not any(state.wanted and state.state in (State.LOADING, State.HELD) for state in waiting):
            self._ahead.discard(payload.node)
        for state in waiting:
            if state.state is State.LOADING:
                self._resume_pass(state)
            elif state.state is State.BURST:
                self._queues[state.channel.pace].push_burst(state, late=self._is_greedy(state))

    def gone(self, node: Node, *, now: float) -> None:
        """The node can no longer be produced: its listeners are told once a second."""
        self._under_way.discard(node)
        self._ahead.discard(node)
        for state in self._loading.pop(node, ()):
            if state.wanted:
                state.state = State.GONE
                state.wake = now
                self._at(now, state)

    # --- what to do next ---

    def next(self, now: float) -> Transmission | None:
        """The next burst, or None if there is nothing to send at `now`."""
        self._crowd.look(now=now)
        self._handle_timers(now)
        for state in self._candidates(now):
            transmission = self._step(state, now)
            if transmission is not None:
                self._account(state, transmission)
                return transmission
        return None

    def next_timeout(self, now: float) -> float | None:
        """When `next` may have something; None if only an event from outside can change that."""
        times = [self._timers[0][0]] if self._timers else []
        if waiting := self._waiting(now):
            times.append(self._pacer.ready_at(waiting, now))
        times += [at for at in self._ready_times(now) if at is not None and at > now]
        return min(times) if times else None

    def asks(self) -> list[Group]:
        """Groups whose listeners the querier should ask for a report."""
        asks, self._asks = self._asks, []
        return asks

    @property
    def asking(self) -> bool:
        return bool(self._asks)

    def told_gone(self) -> list[Group]:
        """Groups whose listeners are to be told now that the node is gone."""
        gone, self._gone = self._gone, []
        return gone

    @property
    def channels(self) -> int:
        return len(self._channels)

    def is_sent(self, group: Group) -> bool:
        """Whether the channel's pass is over, or there is no such channel."""
        state = self._channels.get(group)
        return state is None or state.state not in (State.HELD, State.LOADING, State.PASS)

    def bits_ahead(self, group: Group) -> int:
        """On the wire, of the source symbols that the channel's pass has still to send."""
        state = self._channels.get(group)
        if state is None or self.is_sent(group):
            return 0
        return 8 * (state.until - state.sent) * (state.size + wire.LINK_OVERHEAD)

    def channel(self, group: Group) -> Channel | None:
        """The channel of a group that has listeners."""
        state = self._channels.get(group)
        return state.channel if state is not None else None

    def listeners(self, group: Group) -> Collection[Host]:
        state = self._channels.get(group)
        return state.marks if state is not None else ()

    def groups(self) -> Iterator[tuple[Group, Collection[Host]]]:
        """All channels with their listeners."""
        return ((group, state.marks) for group, state in self._channels.items())

    def ahead(self, count: int, keys: ShareKeys | None = None) -> dict[int, list[Group]]:
        """For each pace class up to `count` groups whose pass is still ahead or has just begun, those that come last
        first; of nodes of this share key, as those of others mean nothing to its listeners."""
        found: dict[int, list[Group]] = {}
        for group, state in reversed(self._channels.items()):
            if not state.is_ahead or state.channel.node.keys != keys:
                continue
            if len(named := found.setdefault(state.channel.pace, [])) < count:
                named.append(group)
        return found

    # --- inside ---

    def hold(self, pace: int = 0) -> float:
        """Seconds for which new channels of a class wait for other hosts now, if there are any."""
        return self._holding[pace].seconds

    def _note_channel(self, host: Host, state: ChannelState) -> None:
        channels = self._channels_of.setdefault(host, {})
        channels[state] = None
        if host != NOBODY and not self._proxies:
            self._crowd.came(host)
        if len(channels) == MODEST_CHANNELS + 1:
            for each in filter(self._is_greedy, channels):
                self._part(each)

    def _forget_channel(self, host: Host, state: ChannelState) -> None:
        channels = self._channels_of[host]
        del channels[state]
        if not channels:
            del self._channels_of[host]
            self._crowd.went(host)

    def _is_greedy(self, state: ChannelState) -> bool:
        """Whether all who listen to it listen to more than anybody needs. A proxy stands for many."""
        return not self._proxies and all(
            len(self._channels_of[host]) > MODEST_CHANNELS or self._comes_last(host) for host in state.marks
        )

    def _comes_last(self, host: Host) -> bool:
        """Whether it is one of so many new hosts that they cannot all be true. A proxy stands for many."""
        return host != NOBODY and self._crowd.has(host)

    def _is_crowd(self, state: ChannelState) -> bool:
        """Whether nobody listens to it of whom it is clear that he exists: each repair symbol costs more than a source
        symbol, so there is none before somebody has answered a query."""
        return NOBODY not in state.marks and self._crowd.is_all(state.marks)

    def _hold_off(self, state: ChannelState) -> float:
        """Of those who are likely to exist: others never leave, so nobody knows how late they do."""
        if not self._crowd.has_any(state.marks):
            return self._hold_offs.of(state.marks)
        return self._hold_offs.of([host for host in state.marks if not self._comes_last(host)] or state.marks)

    def _is_light(self, state: ChannelState) -> bool:
        """Whether somebody listens to it who listens to little. What goes round and round keeps its order."""
        if NOBODY in state.marks:
            return False
        return any(
            len(self._channels_of[host]) <= LIGHT_CHANNELS and not self._comes_last(host) for host in state.marks
        )

    def _kind_for(self, host: Host, state: ChannelState) -> Kind:
        """Which queue it belongs to as far as this one listener goes."""
        if state.k <= SMALL_K:
            return Kind.SMALL
        channels = len(self._channels_of[host])
        if self._comes_last(host):
            return Kind.CROWD
        if channels <= LIGHT_CHANNELS and host != NOBODY:
            return Kind.LIGHT
        return Kind.GREEDY if channels > MODEST_CHANNELS and not self._proxies else Kind.MODEST

    def _kind(self, state: ChannelState) -> Kind:
        if state.k <= SMALL_K:
            return Kind.SMALL
        if self._is_light(state):
            return Kind.LIGHT
        if self._is_crowd(state):
            return Kind.CROWD
        return Kind.GREEDY if self._is_greedy(state) else Kind.MODEST

    def _hasten(self, state: ChannelState, kind: Kind) -> None:
        """Its pass, if it waits, must not keep a host waiting that has joined now. One that has begun goes on."""
        queues = self._queues[state.channel.pace]
        if state.k > SMALL_K and (queues.is_for_crowd(state) or (state.share is None and kind is Kind.LIGHT)):
            queues.hasten(state, kind)

    def _part(self, state: ChannelState) -> None:
        """The hosts that listen to it have become greedy: it goes from the common queues."""
        pace, node = state.channel.pace, state.channel.node
        self._queues[pace].part(state, Kind.GREEDY)
        modest, greedy = (pace, Kind.MODEST), (pace, Kind.GREEDY)
        if node in self._to_load.get(modest, ()):
            del self._to_load[modest][node]
            self._to_load.setdefault(greedy, {})[node] = None
        self._ahead.move(node, modest, greedy)

    def _learn_hold_off(self, host: Host, state: ChannelState, now: float) -> None:
        if state.bursts == 0 and state.state is State.PARKED:
            self._hold_offs.learn(host, now - state.passed_at)
        elif state.bursts == 1 and now - state.burst_at < REPORT_WAY:
            self._hold_offs.learn(host, now - state.passed_at)
            self._raise_share(state.channel.pace, -SHARE_UP)  # nothing was lost

    def _open(self, channel: Channel, now: float) -> ChannelState:
        node = channel.node
        t = fec.symbol_size(node.length, self._max_symbol_size)
        size = wire.datagram_size(t, tagged=node.keys is not None)
        state = ChannelState(channel, fec.source_symbols(node.length, t), size)
        self._channels[channel.group] = state
        hold = self.hold(channel.pace) if node.level == 0 else 0.0
        if hold > self._queue_seconds(state):
            state.state, state.wake = State.HELD, now + hold
            self._at(state.wake, state)
        return state

    def _release(self, state: ChannelState) -> None:
        """Nobody more is waited for."""
        state.state = State.LOADING
        self._prepare(state)

    def _queue_seconds(self, state: ChannelState) -> float:
        """About how long the passes before this one take: where there is a queue nobody needs to be held."""
        bits = 8 * state.k * (state.size + wire.LINK_OVERHEAD)
        pace = state.channel.pace
        return self._queues[pace].length * bits * (1 << pace) / self._pacer.rate

    def _prepare(self, state: ChannelState) -> None:
        """Begin the pass, or load what it needs."""
        if self._payloads.get(state.channel.node) is None:
            self._load(state)
        elif state.state is not State.HELD:
            self._start_pass(state)

    def _close(self, state: ChannelState) -> None:
        """Queues and timers find out by themselves: a channel without listeners is skipped."""
        del self._channels[state.channel.group]
        node = state.channel.node
        if node not in self._under_way:
            self._ahead.discard(node)
        waiting = self._loading.get(node)
        if waiting is not None and node not in self._under_way:
            waiting.remove(state) if state in waiting else None
            if not waiting:
                del self._loading[node]
                self._unqueue_load(node)

    def _load(self, state: ChannelState) -> None:
        node = state.channel.node
        if node not in self._loading:
            self._loading[node] = []
            self._ahead.discard(node)
        if state not in self._loading[node]:
            self._loading[node].append(state)
        self._queue_load(state, self._kind(state))

    def _queue_load(self, state: ChannelState, kind: Kind) -> None:
        """In a second queue as well if another channel, or another host, wants the node sooner than the first."""
        if state.channel.node not in self._under_way:
            self._to_load.setdefault((state.channel.pace, kind), {})[state.channel.node] = None

    def _unqueue_load(self, node: Node) -> None:
        for waiting in self._to_load.values():
            waiting.pop(node, None)

    def _start_pass(self, state: ChannelState) -> None:
        state.share = None
        state.repair_left = None
        self._resume_pass(state)

    def _resume_pass(self, state: ChannelState) -> None:
        state.state = State.PASS
        self._queues[state.channel.pace].push_pass(state, self._kind(state))

    def _park(self, state: ChannelState, now: float) -> None:
        state.state, state.parked_at, state.waits_for_answer = State.PARKED, now, False
        late = max(0, state.bursts - URGENT_BURSTS)
        hold_off = max(self._hold_off(state), SLOW_HOLD_OFF if state.channel.pace else 0.0)
        state.wake = now + min(MAX_HOLD_OFF, hold_off * 2**late)
        self._at(state.wake, state)

    def _wait_for_late(self, state: ChannelState, now: float) -> bool:
        """Whether all who have not left yet are known to leave later than those did for whom it was parked."""
        if state.bursts:
            return False
        state.wake = state.passed_at + self._hold_off(state)
        if state.wake <= now:
            return False
        self._at(state.wake, state)
        return True

    def _wait_for_answer(self, state: ChannelState, now: float) -> bool:
        """Whether all who listen may have left, and have not answered since it was parked."""
        withheld = self.withheld(state.channel.group)
        if not withheld or state.confirmed_at > state.parked_at or any(host not in withheld for host in state.marks):
            state.waits_for_answer = False
            return False
        state.waits_for_answer, state.wake = True, now + ANSWER_LOOK
        self._at(state.wake, state)
        return True

    def _at(self, when: float, state: ChannelState) -> None:
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, state))

    def _handle_timers(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            _, _, state = heapq.heappop(self._timers)
            if not state.wanted or state.wake > now:
                continue
            if state.state is State.PARKED:
                if not self._wait_for_late(state, now) and not self._wait_for_answer(state, now):
                    self._start_burst(state, now)
            elif state.state is State.HELD:
                self._release(state)
            elif state.state is State.GONE:
                self._gone.append(state.channel.group)
                state.wake = now + GONE_INTERVAL
                self._at(state.wake, state)

    def _start_burst(self, state: ChannelState, now: float) -> None:
        unconfirmed = state.confirmed_at <= max(state.passed_at, state.burst_at)
        if state.unanswered >= state.k or (unconfirmed and self._is_crowd(state)):
            state.state = State.ASKED
            self._asks.append(state.channel.group)
            return
        state.state = State.BURST
        state.burst = min(state.k, state.burst * 2 or max(MIN_BURST, int(state.k * FIRST_BURST)))
        state.repair_left = state.burst
        state.bursts += 1
        state.burst_at = now
        if state.bursts <= 2 and self._means_loss(state):
            self._raise_share(state.channel.pace, SHARE_UP)
        self._holding[state.channel.pace].burst(state.bursts)
        self.counters.bursts += 1
        self._queues[state.channel.pace].push_burst(state, late=self._is_greedy(state))

    def _means_loss(self, state: ChannelState) -> bool:
        """Whether those who are still there have lost something, as far as one can tell: not if one of them may not
        exist, or is said to have left. With each pass that carries repair for them an encoder would be set up."""
        return not self.withheld(state.channel.group) and not self._crowd.has_any(state.marks)

    def _raise_share(self, pace: int, step: float) -> None:
        share = self.shares[pace] + step * (SLOW_GAIN if pace else 1)
        self.shares[pace] = max(self._min_share, min(SHARE_MAX, share))

    def _candidates(self, now: float) -> Iterator[ChannelState]:
        """Channels that may send, most urgent first, among these those of the class whose turn it is."""
        ready = [self._queues[pace] for pace in self._pacer.turns(self._waiting(now), now)]
        for queues in ready:
            yield from queues.urgent()
        for queues in ready:
            yield from queues.passes(now)
        for queues in ready:
            yield from queues.late()

    def _waiting(self, now: float) -> list[int]:
        """Pace classes that may send something."""
        return [pace for pace, at in enumerate(self._ready_times(now)) if at is not None and at <= now]

    def _ready_times(self, now: float) -> list[float | None]:
        """For each pace class when it may send something."""
        return [queues.ready_at(now) for queues in self._queues]

    def _step(self, state: ChannelState, now: float) -> Transmission | None:
        """The channel's next burst; None if it has to wait for its payload or has come to the end of its pass.

        In both cases it has left its queue.
        """
        payload = self._payloads.get(state.channel.node)
        if payload is None:
            self._queues[state.channel.pace].remove(state)
            if state.state is State.PASS:
                state.state = State.LOADING
            self._load(state)
            return None
        if state.share is None:
            state.share = 0.0 if self._is_crowd(state) else self.shares[state.channel.pace]
        if state.state is State.PASS and state.sent < state.until:
            if state.firm <= state.sent and self._queues[state.channel.pace].part(state, Kind.CROWD):
                return None  # the rest is for those who come last
            return self._source(state, payload)
        if state.repair_left is None:
            ahead = state.share * state.k if state.share >= LEAST_SHARE else 0.0
            state.repair_left = math.ceil(ahead) if ahead >= 0.5 else 0
        if state.repair_left == 0:
            self._end(state, now)
            return None
        return self._repair(state, payload, state.repair_left)

    def _source(self, state: ChannelState, payload: Payload) -> Transmission:
        start = state.sent % state.k
        count = min(self._segments(state), state.until - state.sent, state.k - start)
        state.sent += count
        self.counters.source_symbols += count
        return self._transmission(state, payload, start, count, repair=False)

    def _repair(self, state: ChannelState, payload: Payload, left: int) -> Transmission:
        count = min(self._segments(state), left)
        start = self._next_repair(state.channel.node, count, state.k)
        state.repair_left = left - count
        if state.state is State.BURST:
            state.unanswered += count
        self.counters.repair_symbols += count
        return self._transmission(state, payload, start, count, repair=True)

    def _end(self, state: ChannelState, now: float) -> None:
        """The pass or the burst is sent: park the channel."""
        pace = state.channel.pace
        self._queues[pace].served(state, now=now)
        if state.state is State.PASS:
            state.passed_at = now
            self._raise_share(pace, -SHARE_DOWN)
            self.counters.passes += 1
            if self._is_short(state):
                return
        self._park(state, now)

    def _is_short(self, state: ChannelState) -> bool:
        """Whether somebody came while a pass went on that was not prolonged for him: then begin another one."""
        state.until = next(reversed(state.marks.values())) + state.k
        if state.until <= state.sent:
            return False
        self._start_pass(state)
        return True

    def _next_repair(self, node: Node, count: int, k: int) -> int:
        """Numbers of repair symbols that this link has not sent yet; wraps at the end of the 24-bit ESI space."""
        start = self._repairs.pop(node, None)
        if start is None:
            start = self._repair_start()
        if k + start + count > fec.MAX_ESI:
            start = 0
        self._repairs[node] = start + count
        if len(self._repairs) > REMEMBERED_REPAIRS:
            self._repairs.popitem(last=False)
        return start

    def _transmission(
        self, state: ChannelState, payload: Payload, start: int, count: int, *, repair: bool
    ) -> Transmission:
        self._ahead.discard(state.channel.node)
        bits = 8 * count * (state.size + wire.LINK_OVERHEAD)
        return Transmission(state.channel.group, payload, start, count, repair, bits)

    def _account(self, state: ChannelState, transmission: Transmission) -> None:
        pace = state.channel.pace
        self._pacer.spend(pace, transmission.wire_bits)
        self.counters.slow_symbols += transmission.count if pace else 0

    def _segments(self, state: ChannelState) -> int:
        most = min(MAX_SEGMENTS, MAX_SUPER_DATAGRAM // state.size)
        bits = self._pacer.burst_bits(state.channel.pace)
        return most if bits == math.inf else max(1, min(most, int(bits) // (8 * (state.size + wire.LINK_OVERHEAD))))
