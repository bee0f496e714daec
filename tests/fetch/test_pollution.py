"""Wrong symbols: of strangers, of many addresses, and under the server's own, while the server sends as well."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest

from mcfs.fetch.batches import TICK
from mcfs.fetch.fetcher import MAX_PASS, MAX_WRONG, Fetcher, Limits
from mcfs.fetch.fetchevents import Assembled, Failed
from mcfs.fetch.sources import ACTIVE, MAX_PENALTY, MAX_SERVERS, PENALTY, Sources
from mcfs.fetch.strands import MAX_STRANDS, Strands
from mcfs.fetch.wanted import PASS
from mcfs.protocol import fec, wire
from mcfs.protocol.errors import BadNode
from mcfs.protocol.ids import MIN_BLOCK_SIZE, Digest, Group, Host, Node, ObjectRef

SERVER, LIAR = Host(b"s" * 16), Host(b"l" * 16)
T = 1424
SHARE = b"share"
REF = ObjectRef(100 * MIN_BLOCK_SIZE, MIN_BLOCK_SIZE, Digest(bytes(32)))
NODE = Node(REF, 0, 0)
GROUP = Group(b"g" * 16)
CONTENT = random.Random(1).randbytes(NODE.size)
K = fec.source_symbols(NODE.size, T)


def rows(content: bytes) -> fec.Symbols:
    return np.frombuffer(content.ljust(K * T, b"\0"), dtype=np.uint8).reshape(K, T)


RIGHT = wire.frame(NODE.size, np.arange(K, dtype=np.uint32), rows(CONTENT))
WRONG = wire.frame(NODE.size, np.arange(K, dtype=np.uint32), rows(random.Random(2).randbytes(NODE.size)))


@dataclass
class Reader:
    """A fetcher that wants one node, and what happens to what it assembles."""

    fetcher: Fetcher = field(default_factory=lambda: Fetcher(Limits()))
    now: float = 0.0
    joined: bool = False
    passes: int = 0
    rejected: list[Host] = field(default_factory=list)
    data: bytes | None = None
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.fetcher.sources.announced(SHARE, [SERVER])
        self.want()

    def want(self) -> None:
        self.fetcher.want(NODE, GROUP, SHARE, urgent=True, now=self.now)
        self.step(0.0)

    def step(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.fetcher.handle_timeout(now=self.now)
        changes = self.fetcher.changes(now=self.now)
        if changes is not None:
            self.joined = (self.joined and GROUP not in changes.leaves) or GROUP in changes.joins
            self.passes += GROUP in changes.joins
        self._look()

    def hear(self, source: Host, datagrams: fec.Symbols) -> None:
        if self.joined and len(datagrams):
            self.fetcher.receive(GROUP, source, datagrams, now=self.now)
            self._look()

    def _look(self) -> None:
        for event in self.fetcher.events():
            if isinstance(event, Failed):
                self.error = event.error
            elif bytes(event.data) == CONTENT:
                self.data = CONTENT
                self.fetcher.accept(NODE, now=self.now)
            else:
                self.rejected.append(event.source)
                if not self.fetcher.reject(NODE, event.source, now=self.now):
                    self.error = BadNode("too many")
                    self.fetcher.unwant(NODE, now=self.now)


def liar(number: int) -> Host:
    return Host(b"liar" + number.to_bytes(12, "big"))


# --- strangers -------------------------------------------------------------------------------------------------------


def test_however_many_strangers_send_the_server_has_a_place() -> None:
    reader = Reader()
    reader.step(2 * ACTIVE)
    for number in range(50):
        reader.hear(liar(number), WRONG[:-1])
    reader.hear(SERVER, RIGHT[:20])
    for number in range(50, 100):
        reader.hear(liar(number), WRONG[:-1])
    reader.hear(SERVER, RIGHT[20:])
    assert reader.data == CONTENT
    assert reader.rejected == []


def test_a_strangers_wrong_node_costs_nothing_of_what_the_server_has_sent() -> None:
    reader = Reader()
    reader.hear(liar(1), WRONG[:20])
    reader.hear(SERVER, RIGHT[:30])
    reader.step(2 * ACTIVE)
    reader.hear(liar(1), WRONG)
    assert reader.rejected == [liar(1)]
    reader.hear(SERVER, RIGHT[30:])
    assert reader.data == CONTENT
    assert reader.passes == 1, "it was not left"


def test_new_addresses_do_not_help_a_stranger() -> None:
    reader = Reader()
    tried = 0
    while reader.now < 300:
        reader.step(TICK)
        reader.hear(liar(tried), WRONG)
        tried += 1
        if reader.fetcher.wants(NODE) is False:
            reader.want()
    assert len(reader.rejected) <= 300 / MAX_PENALTY + 9, "each pause is twice as long"
    reader.hear(SERVER, RIGHT)
    assert reader.data == CONTENT


def test_no_stranger_is_heard_while_the_server_sends() -> None:
    reader = Reader()
    for at in range(0, K - 1, 10):
        reader.hear(SERVER, RIGHT[at : at + 10][: K - 1 - at])
        reader.hear(liar(at), WRONG)
        reader.step(ACTIVE / 2)
    assert reader.rejected == []
    reader.hear(SERVER, RIGHT[-1:])
    assert reader.data == CONTENT


def test_a_server_that_nobody_has_announced_yet_is_heard() -> None:
    reader = Reader()
    reader.hear(LIAR, RIGHT)
    assert reader.data == CONTENT


def test_where_no_address_is_known_a_node_fails_after_some() -> None:
    reader = Reader()
    reader.fetcher.sources = Sources()
    for number in range(MAX_WRONG):
        assert reader.error is None
        for _ in range(10):
            reader.step(TICK)
        reader.hear(liar(number), WRONG)
    assert isinstance(reader.error, BadNode)


# --- under the server's address --------------------------------------------------------------------------------------


def transfer(reader: Reader, forged: float, seed: int, *, seconds: float, late: float = 0.1) -> float:
    """The server sends a pass, in 9 ms, `late` seconds after each join; somebody sends `forged` symbols a second under
    its address, of any number. Returns the seconds that it took."""
    numbers = random.Random(seed)
    step, owed = 0.001, 0.0
    passes, due, at = 0, float("inf"), K
    while reader.data is None and reader.error is None and reader.now < seconds:
        reader.step(step)
        if reader.passes > passes:
            passes, due = reader.passes, reader.now + late
        if reader.now >= due:
            at, due = 0, float("inf")
        owed += forged * step
        while owed >= 1:
            owed -= 1
            number = numbers.randrange(2 * K)
            data = WRONG[number % K].copy()
            data[8:12] = np.frombuffer(number.to_bytes(4, "big"), dtype=np.uint8)
            reader.hear(SERVER, data.reshape(1, -1))
        reader.hear(SERVER, RIGHT[at : at + K // 9])
        at = min(K, at + K // 9)
    return reader.now


@pytest.mark.parametrize("forged", [0, 1, 10, 100])
@pytest.mark.parametrize("seed", range(5))
def test_a_node_comes_through_beside_a_forger(forged: float, seed: int) -> None:
    reader = Reader()
    transfer(reader, forged, seed, seconds=20.0)
    assert reader.data == CONTENT
    assert set(reader.rejected) <= {SERVER}


def test_one_forged_symbol_ahead_of_the_server_costs_nothing() -> None:
    """The pass takes its place."""
    reader = Reader()
    reader.hear(SERVER, WRONG[3:4])
    reader.hear(SERVER, RIGHT)
    assert reader.data == CONTENT
    assert reader.rejected == []


def test_a_whole_forged_node_costs_one_pass() -> None:
    reader = Reader()
    reader.hear(SERVER, WRONG)
    assert reader.rejected == [SERVER]
    for _ in range(5):
        reader.step(TICK)
    assert reader.passes == 2
    reader.hear(SERVER, RIGHT)
    assert reader.data == CONTENT


def test_who_is_ahead_of_the_server_wins_until_he_stops() -> None:
    reader = Reader()
    while reader.error is None and reader.now < 400:
        reader.step(TICK)
        reader.hear(SERVER, WRONG)
        for row in range(K):
            reader.hear(SERVER, WRONG[row : row + 1])
            reader.hear(SERVER, RIGHT[row : row + 1])
    assert reader.data is None
    assert isinstance(reader.error, BadNode), "an error, and soon enough"
    assert reader.now < 40
    reader.error = None
    reader.step(1.0)
    reader.want()
    for _ in range(100):
        reader.step(TICK)
        reader.hear(SERVER, RIGHT)
    assert reader.data == CONTENT


@pytest.mark.parametrize(("symbols", "most"), [(0, 6.0 / MAX_PASS + 4), (5, 6.0 / PASS)])
def test_a_doubted_node_is_not_joined_without_end(symbols: int, most: float) -> None:
    reader = Reader()
    reader.hear(SERVER, WRONG)
    while reader.now < 6.0:
        reader.step(TICK)
        reader.hear(SERVER, WRONG[:symbols])
    assert 3 <= reader.passes <= most


def test_a_doubted_node_is_left_until_that_was_reported() -> None:
    """Linux reports a leave up to 23 ms later, and what is joined again before that as though nothing had been: then
    the server goes on with repair symbols, which are of no use here."""
    reader = Reader()
    reader.hear(SERVER, WRONG)
    away: list[float] = []
    left = None
    while len(away) < 4:
        assert reader.now < 10.0
        before = reader.joined
        reader.step(0.001)
        if before and not reader.joined:
            left = reader.now
        elif reader.joined and left is not None:
            away.append(reader.now - left)
            left = None
        reader.hear(SERVER, WRONG[:5])
    assert min(away) >= TICK - 1e-9
    assert max(away) <= 3 * TICK


# --- sources ---------------------------------------------------------------------------------------------------------


def test_addresses_of_a_share_are_bounded_and_the_newest_stay() -> None:
    sources = Sources()
    for number in range(100):
        sources.announced(SHARE, [SERVER, liar(number)])
    assert len(sources.servers()) == MAX_SERVERS
    assert sources.is_server(SHARE, SERVER)
    assert not sources.is_server(b"other", SERVER)


def test_an_address_that_is_heard_stays() -> None:
    """It is that of a port which announces the share where we do not listen."""
    sources = Sources()
    sources.announced(SHARE, [SERVER])
    for number in range(100):
        sources.announced(SHARE, [liar(number)])
        assert sources.takes(SHARE, SERVER, now=float(number))
    assert sources.is_server(SHARE, SERVER)
    assert not sources.is_server(SHARE, liar(0))


def test_all_addresses_of_a_server_with_many_ports_count() -> None:
    sources = Sources()
    ports = [[liar(2 * port), liar(2 * port + 1)] for port in range(8)]
    for addresses in ports:
        sources.announced(SHARE, addresses)
    assert not any(sources.announced(SHARE, addresses) for addresses in ports), "none is new"


def test_nothing_but_servers_while_all_are_active() -> None:
    sources = Sources()
    sources.announced(SHARE, [SERVER])
    assert sources.only([SHARE], now=0.0) is None
    assert sources.takes(SHARE, SERVER, now=10.0)
    assert sources.only([SHARE], now=10.0) == frozenset((SERVER,))
    assert sources.only([SHARE, b"other"], now=10.0) is None
    assert sources.only([SHARE], now=10.1 + ACTIVE) is None
    sources.wrong(SHARE, LIAR, now=20.0)
    assert sources.only([SHARE], now=20.1) == frozenset((SERVER,))
    assert sources.takes(SHARE, LIAR, now=20.1 + PENALTY)


# --- strands ---------------------------------------------------------------------------------------------------------


def add(strands: Strands, datagrams: fec.Symbols) -> bytes | None:
    strands.add(wire.symbol_run_untrusted(datagrams, NODE.size))
    data = strands.data()
    return None if data is None else bytes(data)


def test_two_who_send_at_the_same_time_are_told_apart() -> None:
    strands, found = Strands(NODE.size, T), set()
    for at in range(0, 2 * K, 4):
        found.add(add(strands, WRONG[np.arange(at, at + 4) % K]))
        found.add(add(strands, RIGHT[np.arange(at + 20, at + 24) % K]))
    assert CONTENT in found


def test_symbols_at_random_places_do_no_harm() -> None:
    numbers = random.Random(3)
    strands, data = Strands(NODE.size, T), None
    for at in range(0, K, 3):
        strange = numbers.choice([row for row in range(K) if not at <= row <= at + 3])
        add(strands, WRONG[strange : strange + 1])
        data = data or add(strands, RIGHT[at : at + 3])
    assert data == CONTENT


def test_what_was_lost_comes_with_the_next_pass() -> None:
    strands = Strands(NODE.size, T)
    assert add(strands, RIGHT[[row for row in range(K) if row not in (5, 6, 30)]]) is None
    assert add(strands, WRONG[10:14]) is None
    strands.next_pass()
    assert add(strands, RIGHT[:20]) is None
    assert add(strands, RIGHT[20:]) == CONTENT


def test_a_strand_with_something_wrong_in_it_ends() -> None:
    strands = Strands(NODE.size, T)
    assert add(strands, RIGHT[:20]) is None
    assert add(strands, WRONG[20:21]) is None, "just what comes next"
    found = []
    for _ in range(3):
        found.append(add(strands, RIGHT[20:]))
        strands.next_pass()
        found.append(add(strands, RIGHT[:20]))
    assert CONTENT in found


def test_strands_are_bounded() -> None:
    strands = Strands(NODE.size, T)
    for number in range(200):
        add(strands, wire.frame(NODE.size, np.array([number % K], dtype=np.uint32), rows(bytes([number]) * 65536)[:1]))
        add(strands, WRONG[number * 7 % K :][:1])
    assert len(strands._strands) == MAX_STRANDS


def test_repair_symbols_are_not_taken() -> None:
    strands = Strands(NODE.size, T)
    assert add(strands, wire.frame(NODE.size, np.array([K, K + 5], dtype=np.uint32), rows(CONTENT)[:2])) is None
    assert strands.most == 0


def test_assembled_events_name_the_server() -> None:
    reader = Reader()
    reader.fetcher.receive(GROUP, SERVER, RIGHT, now=0.0)
    (event,) = reader.fetcher.events()
    assert isinstance(event, Assembled)
    assert event.source == SERVER
