"""The channels of a link that have something to send, in the order of their turns."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mcfs.protocol.ids import Host, Node
    from mcfs.serve.channel import Channel

JUST_BEGUN: Final = 0.1
"""Of its pass that a channel may have sent for a beacon to name it: one who joins later gets another pass."""
URGENT_BURSTS: Final = 3
LOAD_AHEAD: Final = 16 << 20
"""Bytes of nodes being loaded, or loaded and not begun, for each queue of passes: enough to hide a disk's latency,
little enough to stay in the cache. What is loaded too early is thrown out and loaded again, for ever. So for a crowd,
whose turn comes seldom, it is as little as will do: with as much as for others a file of 1,024 blocks took 2,100 loads
beside forged joins at 200 Mbit/s, and takes 1,200 (m)."""
MIN_LOAD_AHEAD: Final = 2
MAX_LOAD_AHEAD: Final = 64
"""Nodes, whatever their size."""
PASSES_BEFORE_LATE: Final = 3
"""In slow classes. A class that its reader does not quite fill always has passes to send, and what lacks more than
three bursts would wait until the reader can go no further ahead; what an unplugged host can spoil is a part of it."""
PASSES_BEFORE_GREEDY: Final = 3
"""What hosts get that ask for more than anybody needs: a quarter of the link beside one who reads."""
PASSES_BEFORE_CROWD: Final = 7
"""What hosts get of whom there are too many (`serve.crowd`): an eighth."""
CROWD_PAUSE: Final = 0.1
"""Seconds after somebody else's pass in which these wait for the next one even if the link is idle. Who cannot read
faster, because somebody keeps his host or ours busy, has nothing of a link that sends what nobody may need."""
SMALL_K: Final = 64
"""A first pass of at most this many symbols (pages, listings) goes before longer ones: 0.8 ms at 1 Gbit/s."""


class State(Enum):
    LOADING = 0
    PASS = 1
    PARKED = 2
    BURST = 3
    ASKED = 4
    GONE = 5
    HELD = 6


@dataclass(slots=True, eq=False)
class ChannelState:
    channel: Channel
    k: int
    size: int
    """Bytes of a datagram."""
    state: State = State.LOADING
    marks: dict[Host, int] = field(default_factory=dict)
    """Per listener, in the order of joining and so never falling: source symbols that the channel had sent then."""
    sent: int = 0
    until: int = 0
    firm: int = 0
    """Up to where it is sent for somebody who does not come last; `until` may lie behind that."""
    share: float | None = None
    repair_left: int | None = None
    """Repair symbols still to send in this pass or burst; None while the pass has not come to them."""
    bursts: int = 0
    burst: int = 0
    unanswered: int = 0
    """Repair symbols since the last report."""
    burst_at: float = float("-inf")
    """When its last burst began."""
    passed_at: float = float("-inf")
    """When its last pass ended."""
    waits_for_answer: bool = False
    """Whether it stays PARKED until one who may have left reports again."""
    parked_at: float = float("-inf")
    confirmed_at: float = float("-inf")
    """When a listener reported again."""
    wake: float = 0.0
    """When it leaves PARKED, or tells again in GONE."""

    @property
    def wanted(self) -> bool:
        return bool(self.marks)

    @property
    def is_ahead(self) -> bool:
        """Whether its pass has not begun, or only just."""
        left = self.until - self.sent
        return self.state in (State.HELD, State.LOADING, State.PASS) and left > self.k * (1 - JUST_BEGUN)


class Kind(Enum):
    """Which queue of passes a channel is for: that of small nodes, else the first one that fits a listener of it."""

    SMALL = 0
    LIGHT = 1
    """For hosts that listen to little: who reads a byte here and there."""
    MODEST = 2
    GREEDY = 3
    """For hosts that listen to more than anybody needs."""
    CROWD = 4
    """For hosts that may not exist."""


_LONGER: Final = (Kind.LIGHT, Kind.MODEST, Kind.GREEDY, Kind.CROWD)
"""Of nodes that are not small."""

LoadQueue = tuple[int, Kind]
"""A pace class and a kind: one queue of passes must not hold up the loading for another."""


class LoadedAhead:
    """Which nodes are being loaded, or are loaded and nothing of them is sent yet; by the queue that they waited in.

    To forget one too early does no harm; to keep one for ever would stop the loading.
    """

    __slots__ = ("_counts", "_queue_of")

    def __init__(self) -> None:
        self._queue_of: dict[Node, LoadQueue] = {}
        self._counts: dict[LoadQueue, int] = {}

    def has_room(self, queue: LoadQueue, node: Node) -> bool:
        pace, kind = queue
        least = MIN_LOAD_AHEAD if pace == 0 else 1
        ahead = 0 if kind is Kind.CROWD else LOAD_AHEAD >> pace
        allowed = min(max(ahead // node.size, least), MAX_LOAD_AHEAD)
        return self._counts.get(queue, 0) < allowed

    def add(self, queue: LoadQueue, node: Node) -> None:
        self.discard(node)
        self._queue_of[node] = queue
        self._counts[queue] = self._counts.get(queue, 0) + 1

    def move(self, node: Node, before: LoadQueue, after: LoadQueue) -> None:
        if self._queue_of.get(node) == before:
            self.add(after, node)

    def discard(self, node: Node) -> None:
        queue = self._queue_of.pop(node, None)
        if queue is not None:
            self._counts[queue] -= 1


class Queues:
    """The channels of one pace class that have something to send.

    Entries of channels that were closed or moved on are dropped when they come to the front.
    """

    __slots__ = (
        "_bursts",
        "_crowd_at",
        "_late",
        "_light_next",
        "_modest_passes",
        "_passes",
        "_passes_since_crowd",
        "_passes_since_late",
        "_slow",
    )

    def __init__(self, *, slow: bool = False) -> None:
        """`slow`: late bursts get a turn after every PASSES_BEFORE_LATE passes."""
        self._slow = slow
        self._passes_since_late = 0
        self._bursts: dict[ChannelState, None] = {}
        self._late: dict[ChannelState, None] = {}
        self._passes: dict[Kind, dict[ChannelState, None]] = {kind: {} for kind in Kind}
        self._light_next = True
        self._modest_passes = 0
        self._passes_since_crowd = 0
        self._crowd_at = float("-inf")
        """From when on passes for a crowd need not wait for others."""

    def ready_at(self, now: float) -> float | None:
        """From when on something may be sent; None if there is nothing."""
        small, light, modest, greedy, crowd = self._passes.values()
        if self._bursts or self._late or small or light or modest or greedy:
            return now
        if not crowd:
            return None
        return now if self._passes_since_crowd >= PASSES_BEFORE_CROWD else max(now, self._crowd_at)

    @property
    def length(self) -> int:
        """Passes that wait for hosts that read as fast as they can."""
        return len(self._passes[Kind.MODEST])

    def push_pass(self, state: ChannelState, kind: Kind) -> None:
        self.remove(state)
        self._passes[kind][state] = None

    def part(self, state: ChannelState, kind: Kind) -> bool:
        """Its listeners are of a kind that comes later: its pass, if one waits, goes from the others. Returns whether
        it was among them."""
        return self._move(state, kind, [each for each in _LONGER if each.value < kind.value])

    def hasten(self, state: ChannelState, kind: Kind) -> None:
        """One of its listeners is of a kind that comes sooner: its pass, if one waits, goes from behind the others."""
        self._move(state, kind, [each for each in _LONGER if each.value > kind.value])

    def is_for_crowd(self, state: ChannelState) -> bool:
        """Whether its pass waits among those for hosts that may not exist."""
        return state in self._passes[Kind.CROWD]

    def _move(self, state: ChannelState, kind: Kind, before: Sequence[Kind]) -> bool:
        for each in before:
            if state in self._passes[each]:
                del self._passes[each][state]
                self._passes[kind][state] = None
                return True
        return False

    def push_burst(self, state: ChannelState, *, late: bool) -> None:
        """`late`: behind first passes, although it is one of the first bursts."""
        self.remove(state)
        (self._late if late or state.bursts > URGENT_BURSTS else self._bursts)[state] = None

    def remove(self, state: ChannelState) -> None:
        """It has nothing to send now, or waits for its payload."""
        for queue in (self._bursts, self._late, *self._passes.values()):
            queue.pop(state, None)

    def served(self, state: ChannelState, *, now: float) -> None:
        """It has had its turn: the next one is another's."""
        kind = next((kind for kind, passes in self._passes.items() if state in passes), None)
        if kind is not None and kind is not Kind.SMALL:
            self._light_next = kind is not Kind.LIGHT
            self._passes_since_late += 1
            self._modest_passes = self._modest_passes + (kind is Kind.MODEST) if kind is not Kind.GREEDY else 0
            self._count_for_crowd(kind, now)
        elif state in self._late:
            self._passes_since_late = 0
        self.remove(state)

    def urgent(self) -> Iterator[ChannelState]:
        return self._live(self._bursts)

    def _count_for_crowd(self, kind: Kind, now: float) -> None:
        if kind is Kind.CROWD:
            self._passes_since_crowd = 0
        else:
            self._passes_since_crowd += 1
            self._crowd_at = now + CROWD_PAUSE

    def passes(self, now: float) -> Iterator[ChannelState]:
        """Small ones first. Those for hosts that listen to little take turns with the others, and among these those for
        greedy hosts; now and then comes one for a crowd. Whose turn it is changes with each one that has come to its
        end."""
        if self._slow and self._passes_since_late >= PASSES_BEFORE_LATE and not self._front(Kind.SMALL):
            yield from self._live(self._late)
        while (state := next(filter(None, map(self._front, self._turns(now))), None)) is not None:
            yield state
            if any(state is self._front(kind) for kind in Kind):  # the caller could not use it
                return

    def _turns(self, now: float) -> tuple[Kind, ...]:
        others = (
            (Kind.GREEDY, Kind.MODEST) if self._modest_passes >= PASSES_BEFORE_GREEDY else (Kind.MODEST, Kind.GREEDY)
        )
        turns = (Kind.LIGHT, *others) if self._light_next else (*others, Kind.LIGHT)
        if self._passes_since_crowd >= PASSES_BEFORE_CROWD:
            return (Kind.SMALL, Kind.CROWD, *turns)
        return (Kind.SMALL, *turns, Kind.CROWD) if now >= self._crowd_at else (Kind.SMALL, *turns)

    def _front(self, kind: Kind) -> ChannelState | None:
        return next(self._live(self._passes[kind]), None)

    def late(self) -> Iterator[ChannelState]:
        return self._live(self._late)

    @staticmethod
    def _live(queue: dict[ChannelState, None]) -> Iterator[ChannelState]:
        while queue:
            state = next(iter(queue))
            if state.wanted:
                yield state
                if queue and next(iter(queue)) is state:  # still at the front: the caller could not use it
                    return
            else:
                del queue[state]
