"""Loss while a node is doubted, and symbols of other sizes: a server, a lossy link and a reader, in virtual time."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

import numpy as np
import pytest

from mcfs.fetch.assemble import Assembly
from mcfs.fetch.doubted import LENIENT, Doubted
from mcfs.fetch.fetcher import DOUBT, Fetcher, Limits
from mcfs.fetch.fetchevents import Assembled, Failed
from mcfs.fetch.gathered import FEW, MAX_SERVED, MAX_SIZES, MAX_STRANGERS, Gathered
from mcfs.protocol import fec, wire
from mcfs.protocol.ids import Digest, Group, Host, Node, ObjectRef

SERVER, OTHER = Host(b"s" * 16), Host(b"o" * 16)
SHARE = b"share"
T = 1424
SIZE = 256 << 10
REF = ObjectRef(1000 * SIZE, SIZE, Digest(bytes(32)))
CONTENT = random.Random(1).randbytes(SIZE)
K = fec.source_symbols(SIZE, T)
SOURCE = np.frombuffer(CONTENT.ljust(K * T, b"\0"), dtype=np.uint8).reshape(K, T)
REPAIR = fec.Encoder(SOURCE).repair(0, 4 * K)
RIGHT = wire.frame(SIZE, np.arange(5 * K, dtype=np.uint32), np.concatenate([SOURCE, REPAIR]))
STEP, WAY, PASS_TIME, PAUSE = 0.002, 0.02, 0.01, 0.15


def forged(esi: int, t: int = T) -> fec.Symbols:
    return wire.frame(SIZE, np.array([esi], dtype=np.uint32), np.full((1, t), 0x5A, dtype=np.uint8))


def node_of(number: int) -> Node:
    return Node(REF, 0, number)


def group_of(number: int) -> Group:
    return Group(number.to_bytes(16, "big"))


@dataclass
class Sender:
    """What the server does with one channel: a pass after a join, and then more and more repair."""

    script: list[tuple[float, int, int]] = field(default_factory=list)
    """When to send which symbols."""

    def joined(self, now: float) -> None:
        at, cuts = now, [*range(0, K, 32), K]
        self.script = [(at + PASS_TIME * first / K, first, end) for first, end in itertools.pairwise(cuts)]
        at, first, burst = at + PASS_TIME + PAUSE, K, 16
        while first < 5 * K:
            self.script.append((at, first, min(5 * K, first + burst)))
            at, first, burst = at + PAUSE, first + burst, 2 * burst

    def due(self, now: float) -> list[tuple[int, int]]:
        found = [(first, end) for at, first, end in self.script if at <= now]
        self.script = [entry for entry in self.script if entry[0] > now]
        return found


@dataclass
class Link:
    loss: float
    every: float = 0.0
    """Seconds between symbols that are forged under the server's address; 0: none."""
    until: float = float("inf")
    sizes: tuple[int, ...] = (T,)
    way: float = WAY
    """Seconds from a join to the pass."""
    proxied: bool = False
    """Whether joining again makes no report, as another host behind the proxy listens."""
    fetcher: Fetcher = field(default_factory=lambda: Fetcher(Limits()))
    now: float = 0.0
    joins: int = 0
    sent: int = 0
    rejected: int = 0
    _next_forged: float = 0.0
    _senders: dict[int, Sender] = field(default_factory=dict)
    _joined: set[int] = field(default_factory=set)
    _wanted: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._rng = random.Random(5)
        self.fetcher.sources.announced(SHARE, [SERVER])

    def read(self, numbers: range, seconds: float = 30.0) -> float:
        """Fetch these nodes at once; returns the seconds that it took."""
        begun = self.now
        self._wanted = set(numbers)
        for number in numbers:
            self.fetcher.want(node_of(number), group_of(number), SHARE, urgent=True, now=self.now)
        while self._wanted:
            assert self.now < begun + seconds, f"{len(self._wanted)} of {len(numbers)} did not come"
            self._step()
        return self.now - begun

    def _step(self) -> None:
        self.now += STEP
        self.fetcher.handle_timeout(now=self.now)
        changes = self.fetcher.changes(now=self.now)
        if changes is not None:
            self._joined.difference_update(int.from_bytes(group, "big") for group in changes.leaves)
            for number in (int.from_bytes(group, "big") for group in changes.joins):
                self.joins += 1
                self._joined.add(number)
                if number not in self._senders or not self.proxied:
                    self._senders.setdefault(number, Sender()).joined(self.now + self.way)
        if self.every and self._next_forged <= self.now < self.until:
            for number in sorted(self._joined):
                self._next_forged = self.now + self.every
                self._hear(number, forged(self._rng.randrange(2 * K), self._rng.choice(self.sizes)))
        for number, sender in self._senders.items():
            for first, end in sender.due(self.now):
                if number in self._joined:
                    self.sent += end - first
                    arrived = [esi for esi in range(first, end) if self._rng.random() >= self.loss]
                    self._hear(number, RIGHT[arrived])
        self._look()

    def _hear(self, number: int, datagrams: fec.Symbols) -> None:
        if len(datagrams):
            self.fetcher.receive(group_of(number), SERVER, datagrams, now=self.now)

    def _look(self) -> None:
        for event in self.fetcher.events():
            assert not isinstance(event, Failed), event.error
            if bytes(event.data) == CONTENT:
                self.fetcher.accept(event.node, now=self.now)
                self._wanted.discard(event.node.index)
            else:
                self.rejected += 1
                self.fetcher.reject(event.node, event.source, now=self.now)

    def be_doubted(self) -> None:
        """A node is wrong, as somebody sends all of it."""
        self.fetcher.want(node_of(999), group_of(999), SHARE, urgent=True, now=self.now)
        self._step()
        wrong = wire.frame(SIZE, np.arange(K, dtype=np.uint32), np.zeros((K, T), dtype=np.uint8))
        self._hear(999, wrong)
        self._look()
        assert self.rejected
        self.fetcher.unwant(node_of(999), now=self.now)


# --- loss ------------------------------------------------------------------------------------------------------------

LOSSES = (0.0, 0.01, 0.05, 0.2, 0.35)


@pytest.mark.parametrize("loss", [*LOSSES, 0.6])
def test_doubted_nodes_come_as_soon_and_as_cheap_as_others(loss: float) -> None:
    plain, doubted = Link(loss), Link(loss)
    doubted.be_doubted()
    before = doubted.joins
    for number in range(6):
        plain.read(range(number, number + 1))
        doubted.read(range(number, number + 1))
    assert doubted.now < 1.3 * plain.now + 0.2
    assert doubted.joins - before == plain.joins
    assert doubted.sent < 1.3 * plain.sent


@pytest.mark.parametrize("loss", LOSSES)
def test_a_node_that_was_wrong_needs_one_pass_more(loss: float) -> None:
    """Somebody forges until a node was wrong, and then stops."""
    link = Link(loss, every=0.005, until=0.1)
    link.read(range(8))
    plain = Link(loss)
    plain.read(range(8))
    assert link.rejected
    assert link.now < plain.now + 1.5
    assert link.joins <= 3 * plain.joins


@pytest.mark.parametrize("loss", LOSSES)
def test_a_symbol_forged_now_and_then_does_not_stop_a_reader(loss: float) -> None:
    link = Link(loss, every=0.5)
    for first in range(0, 32, 8):
        link.read(range(first, first + 8))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_doubted_node_comes_where_joining_again_makes_no_pass(loss: float) -> None:
    link = Link(loss, every=0.005, until=0.1, proxied=True)
    link.read(range(4))
    assert link.rejected


@pytest.mark.parametrize("forges", [False, True])
def test_a_slow_reader_tries_a_slower_class_also_where_all_is_doubted(forges: bool) -> None:
    assert slowest_class(Link(0.7), forges=forges) > 0


def test_what_is_forged_does_not_change_the_class() -> None:
    assert slowest_class(Link(0.0, every=STEP, way=0.4), forges=True) == 0


def slowest_class(link: Link, *, forges: bool) -> int:
    """That was tried while some nodes were read. Random loss is not the rate's fault, so none is kept."""
    link.fetcher.paces.announced(SHARE, b"server", 1_000_000_000, now=0.0)
    slowest = 0
    for first in range(0, 64, 4):
        if forges:
            link.be_doubted()
        link.read(range(first, first + 4))
        slowest = max(slowest, link.fetcher.paces.pace(SHARE))
    return slowest


def test_doubt_ends_although_doubted_nodes_are_joined() -> None:
    link = Link(loss=1.0)
    link.be_doubted()
    link.fetcher.want(node_of(0), group_of(0), SHARE, urgent=True, now=link.now)
    begun = link.now
    while link.now < begun + DOUBT + 0.1:
        link._step()
        link._hear(0, RIGHT[:5])
    link.fetcher.want(node_of(1), group_of(1), SHARE, urgent=True, now=link.now)
    while 1 not in link._joined:
        link._step()
    link.fetcher.receive(group_of(1), SERVER, RIGHT[:K], now=link.now)
    changes = link.fetcher.changes(now=link.now + 1.0)
    assert changes is not None
    assert group_of(1) in changes.leaves, "as it is not doubted it is left at once"


def test_a_server_that_sends_round_and_round_is_not_joined_again() -> None:
    link = Link(loss=0.0)
    link.fetcher.announced(SHARE, 60.0, now=0.0)
    link.be_doubted()
    link.fetcher.want(node_of(0), group_of(0), SHARE, urgent=True, now=link.now)
    begun, before = link.now, link.joins
    link.loss = 1.0
    while link.now < begun + 5.0:
        link._step()
        link._hear(0, forged(link._rng.randrange(K)))
    assert link.joins == before + 1


# --- what is complete is tried, within bounds ------------------------------------------------------------------------


def add(doubted: Doubted, datagrams: fec.Symbols) -> int:
    return doubted.add(wire.symbol_run_untrusted(datagrams, SIZE))


def test_repair_makes_up_for_loss() -> None:
    doubted = Doubted(SIZE, T)
    add(doubted, RIGHT[20:K])
    assert doubted.cost == 0
    add(doubted, RIGHT[K : K + 25])
    assert doubted.cost > SIZE, "it has to be decoded"
    assert doubted.data() == memoryview(CONTENT)


def test_what_is_not_tried_yet_does_not_grow() -> None:
    doubted = Doubted(SIZE, T)
    for _ in range(100):
        add(doubted, wire.frame(SIZE, np.arange(K, 6 * K, dtype=np.uint32), np.zeros((5 * K, T), dtype=np.uint8)))
    assert doubted._assembly is not None
    assert doubted._assembly.count == 5 * K, "what came first"


def test_wrong_nodes_are_no_progress_without_end() -> None:
    doubted, news = Doubted(SIZE, T), []
    for _ in range(2 * LENIENT):
        news.append(add(doubted, RIGHT[:K]))
        while doubted.cost:
            assert doubted.data() is not None
        doubted.wrong()
    assert news[: LENIENT + 1] == [K] * (LENIENT + 1)
    assert not any(news[LENIENT + 1 :])


def test_symbols_that_come_again_take_no_memory() -> None:
    assembly = Assembly(SIZE, T)
    same = wire.symbol_run_untrusted(RIGHT[:64], SIZE)
    assembly.add(same)
    while assembly.count < K:  # a decoder is there from K symbols on
        assembly.add(wire.symbol_run_untrusted(RIGHT[K + assembly.count :][:1], SIZE))
    assembly._decode()
    waiting = len(assembly._repair)
    for _ in range(1000):
        assembly.add(same)
    assert len(assembly._repair) == waiting


def whole(content: bytes) -> fec.Symbols:
    rows = np.frombuffer(content.ljust(K * T, b"\0"), dtype=np.uint8).reshape(K, T)
    return wire.frame(SIZE, np.arange(K, dtype=np.uint32), rows)


@pytest.mark.parametrize("answer", [SERVER, OTHER])
def test_while_a_node_is_checked_nobody_else_makes_an_event(answer: Host) -> None:
    """The page with its hash has not come yet, and the server is silent."""
    link = Link(0.0)
    link.be_doubted()
    link.fetcher.want(node_of(0), group_of(0), SHARE, urgent=True, now=link.now)
    while 0 not in link._joined:
        link._step()
    link.loss = 1.0
    link._hear(0, whole(b"\1" * SIZE))
    assert [event.source for event in link.fetcher.events() if isinstance(event, Assembled)] == [SERVER]
    for _ in range(800):
        link._step()
    link.fetcher.receive(group_of(0), OTHER, whole(b"\2" * SIZE), now=link.now)
    assert list(link.fetcher.events()) == []
    link.fetcher.reject(node_of(0), answer, now=link.now)
    link._hear(0, RIGHT[:K])
    assert [bytes(event.data) for event in link.fetcher.events() if isinstance(event, Assembled)] == [CONTENT]


# --- symbols of another size -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sizes", [(T - 8,), tuple(range(T - 80, T, 8))])
def test_symbols_of_another_size_cost_nothing(loss: float, sizes: tuple[int, ...]) -> None:
    link, plain = Link(loss, every=0.01, sizes=sizes), Link(loss)
    link.read(range(8))
    plain.read(range(8))
    assert link.rejected == 0
    assert link.joins == plain.joins
    assert link.now < 1.3 * plain.now + 0.2


def test_symbols_of_another_size_cost_nothing_where_nodes_are_doubted() -> None:
    link = Link(0.05, every=STEP, sizes=(T - 8, T - 16, T - 24, T - 32))
    link.be_doubted()
    link.read(range(8), seconds=5.0)


def served(source: Host) -> bool:
    return source in (SERVER, OTHER)


def gathered(*sizes: int, symbols: int) -> Gathered:
    """Of a server: of each size so many symbols came."""
    found = Gathered(SIZE)
    for t in sizes:
        found.make_room(SERVER, served, T)
        assembly = Assembly(SIZE, t)
        assembly.add(
            wire.symbol_run_untrusted(
                wire.frame(SIZE, np.arange(symbols, dtype=np.uint32), np.zeros((symbols, t), dtype=np.uint8)), SIZE
            )
        )
        found.put(SERVER, assembly)
    return found


def sizes_of(found: Gathered) -> list[int]:
    return [collected.t for _, collected in found]


def test_sizes_of_a_server_are_bounded_and_the_usual_one_stays() -> None:
    found = gathered(T, *range(800, 1400, 8), symbols=FEW + 1)
    assert len(sizes_of(found)) == MAX_SIZES
    assert T in sizes_of(found)


def test_of_sizes_that_of_which_little_came_gives_way() -> None:
    found = gathered(1000, 1008, 1016, symbols=FEW + 1)
    found.grown(SERVER, 1000)
    found.put(SERVER, Assembly(SIZE, 1024))
    found.make_room(SERVER, served, T)
    assert sizes_of(found) == [1008, 1016, 1000]
    found.make_room(SERVER, served, T)
    assert sizes_of(found) == [1016, 1000], "who has not grown for longest"


def test_sources_are_bounded() -> None:
    found = Gathered(SIZE)
    everybody = [Host(number.to_bytes(16, "big")) for number in range(100)]
    for source in everybody:
        found.make_room(source, lambda _: True, T)
        found.put(source, Assembly(SIZE, T))
    assert len(sizes_of(found)) == MAX_SERVED
    found.keep_only(served)
    assert sizes_of(found) == []
    found.put(SERVER, Assembly(SIZE, T))
    for source in everybody:
        found.make_room(source, served, T)
        found.put(source, Assembly(SIZE, T))
    assert len(sizes_of(found)) == MAX_STRANGERS + 1
    assert found.find(SERVER, T) is not None


def test_events_name_the_source_also_where_nodes_are_doubted() -> None:
    link = Link(0.0)
    link.be_doubted()
    link.fetcher.want(node_of(0), group_of(0), SHARE, urgent=True, now=link.now)
    while 0 not in link._joined:
        link._step()
    link._hear(0, RIGHT[:K])
    (event,) = link.fetcher.events()
    assert isinstance(event, Assembled)
    assert event.source == SERVER
