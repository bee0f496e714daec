"""The server's and a client's cores on a link on which somebody sends under the server's address, in virtual time."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest

from mcfs.protocol import fec, wire
from mcfs.protocol.ids import MIN_BLOCK_SIZE, Group, ObjectRef
from tests.fakelink import ORIGIN, SERVER, FakeClient, FakeNetwork, MemoryStore
from tests.test_fakelink import nodes_of, read_sequentially

if TYPE_CHECKING:
    from mcfs.protocol.fec import Symbols

STEP = 0.002
T = wire.max_symbol_size()
MBITS = 200.0
PER_STEP = MBITS * 1e6 / 8 / (T + wire.HEADER_SIZE + wire.LINK_OVERHEAD) * STEP


@dataclass
class Forger:
    """Sends 200 Mbit/s of symbols with right headers in the channels that a client has joined."""

    network: FakeNetwork
    client: FakeClient
    kind: Literal["blocks", "symbols"]
    size: int
    """Of the nodes that it imitates."""
    numbers: random.Random
    going: bool = True
    _owed: float = 0.0
    _group: Group = field(default_factory=lambda: Group(b""))
    _next: int = 0

    def step(self) -> None:
        if not self.going:
            return
        self._owed += PER_STEP
        count, groups = int(self._owed), sorted(self.client.joined)
        self._owed -= count
        if groups:
            self._send(count, groups)
        self.network.at(self.network.now + STEP, self.step)

    def _send(self, count: int, groups: list[Group]) -> None:
        k = fec.source_symbols(self.size, T)
        if self.kind == "symbols":
            for _ in range(count):
                self.client.receive(self.numbers.choice(groups), SERVER, self._symbols([self.numbers.randrange(2 * k)]))
            return
        if self._next == 0 or self._group not in groups:
            self._group, self._next = self.numbers.choice(groups), 0
        self.client.receive(self._group, SERVER, self._symbols(list(range(self._next, min(k, self._next + count)))))
        self._next = (self._next + count) if self._next + count < k else 0

    def _symbols(self, esis: list[int]) -> Symbols:
        wrong = np.full((len(esis), T), 0x5A, dtype=np.uint8)
        return wire.frame(self.size, np.array(esis, dtype=np.uint32), wrong)


def attacked(
    kind: Literal["blocks", "symbols"], seed: int, blocks: int, block_size: int
) -> tuple[bytes, Forger, ObjectRef]:
    numbers = random.Random(seed)
    data = numbers.randbytes(blocks * block_size)
    store = MemoryStore()
    ref = store.add(data, block_size)
    network = FakeNetwork(store, seed)
    client = network.add_client()
    client.fetcher.sources.announced(ORIGIN, [SERVER])
    forger = Forger(network, client, kind, block_size, numbers)
    network.at(0.0, forger.step)
    return data, forger, ref


@pytest.mark.parametrize("kind", ["blocks", "symbols"])
@pytest.mark.parametrize("seed", range(3))
def test_a_reader_gets_the_right_bytes_or_an_error(kind: Literal["blocks", "symbols"], seed: int) -> None:
    data, forger, ref = attacked(kind, seed, 24, MIN_BLOCK_SIZE)
    network, client = forger.network, forger.client
    found = read_sequentially(network, client, ref)
    for node in nodes_of(ref):
        outcome = client.outcomes[node]
        at = node.index * MIN_BLOCK_SIZE
        assert outcome.data == data[at : at + MIN_BLOCK_SIZE] or outcome.error is not None
    assert found == data, "the server sends more than the forger"


@pytest.mark.parametrize("kind", ["blocks", "symbols"])
def test_reading_goes_on_when_the_forger_stops(kind: Literal["blocks", "symbols"]) -> None:
    data, forger, ref = attacked(kind, 7, 8, 1 << 20)
    network, client = forger.network, forger.client
    network.at(3.0, lambda: setattr(forger, "going", False))
    assert read_sequentially(network, client, ref) == data
    assert network.now < 10.0
