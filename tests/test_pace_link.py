"""Pace classes over the fake link, in virtual time: who changes class, who does not, and when."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import pytest

from mcfs.fetch.pace import PROBE
from mcfs.protocol.ids import Node
from mcfs.simulate.port import Port
from tests.fakelink import ORIGIN, FakeNetwork, Hostility, MemoryStore

if TYPE_CHECKING:
    from mcfs.protocol.ids import ObjectRef
    from tests.fakelink import FakeClient

RATE: Final = 1e8
BLOCK: Final = 1 << 18
SLOW: Final = 1e7
BUFFER: Final = 100_000
FITTING: Final = 3
"""The class of a tenth of the rate."""


def network_with(blocks: int, seed: int) -> tuple[FakeNetwork, ObjectRef, bytes]:
    store = MemoryStore()
    data = random.Random(seed).randbytes(blocks * BLOCK)
    ref = store.add(data, BLOCK)
    return FakeNetwork(store, seed, rate=RATE), ref, data


def start(client: FakeClient, ref: ObjectRef) -> None:
    for index in range(ref.geometry.counts[0]):
        client.request(Node(ref, 0, index), urgent=False)


def is_done(client: FakeClient, ref: ObjectRef) -> bool:
    return len(client.outcomes) == ref.geometry.counts[0]


def content(client: FakeClient, ref: ObjectRef) -> bytes:
    return b"".join(client.outcomes[Node(ref, 0, i)].data or b"" for i in range(ref.geometry.counts[0]))


def pace(client: FakeClient) -> int:
    return client.fetcher.paces.pace(ORIGIN)


@pytest.mark.parametrize("seed", range(20))
def test_a_reader_behind_a_slow_port_goes_to_the_class_that_fits(seed: int) -> None:
    network, ref, data = network_with(48, seed)
    clients = [network.add_client() for _ in range(3)]
    slow = clients[-1]
    slow.port = Port(SLOW, BUFFER)
    for client in clients:
        start(client, ref)
    network.run(lambda: pace(slow) > 0, limit=1.5)
    assert pace(slow) in (FITTING, FITTING + 1)
    network.run(lambda: all(is_done(client, ref) for client in clients))
    assert [pace(client) for client in clients[:-1]] == [0, 0]
    assert all(content(client, ref) == data for client in clients)


@pytest.mark.parametrize("loss", [0.2, 0.4])
@pytest.mark.parametrize("seed", range(10))
def test_random_loss_is_no_reason_to_change(seed: int, loss: float) -> None:
    network, ref, data = network_with(32, seed)
    clients = [network.add_client(Hostility(loss=loss)) for _ in range(2)]
    for client in clients:
        start(client, ref)
    while not all(is_done(client, ref) for client in clients):
        network.run(lambda end=network.now + 0.1: network.now >= end)  # type: ignore[misc]
        assert [pace(client) for client in clients] == [0, 0]
    assert all(content(client, ref) == data for client in clients)


@pytest.mark.parametrize("seed", range(5))
def test_loss_that_a_slower_class_does_not_mend_leads_back(seed: int) -> None:
    network, ref, data = network_with(64, seed)
    client = network.add_client(Hostility(loss=0.7))
    start(client, ref)
    network.run(lambda: pace(client) > 0)
    network.run(lambda: pace(client) == 0, limit=30.0)
    network.run(lambda: is_done(client, ref))
    assert pace(client) == 0
    assert content(client, ref) == data


def test_a_port_that_becomes_fast_is_noticed() -> None:
    network, ref, data = network_with(400, 1)
    client = network.add_client()
    client.port = Port(SLOW, BUFFER)
    start(client, ref)
    network.run(lambda: pace(client) > 0)
    changed = network.now
    client.port = None
    network.run(lambda: pace(client) < FITTING)
    assert network.now >= changed + PROBE
    first = network.now
    network.run(lambda: is_done(client, ref) or pace(client) < FITTING - 1)
    assert is_done(client, ref) or network.now >= first + PROBE
    network.run(lambda: is_done(client, ref))
    assert content(client, ref) == data


def test_readers_of_one_slow_class_share_its_passes() -> None:
    network, ref, data = network_with(48, 1)
    clients = [network.add_client() for _ in range(2)]
    for client in clients:
        client.port = Port(SLOW, BUFFER)
        start(client, ref)
    network.run(lambda: all(is_done(client, ref) for client in clients))
    assert all(content(client, ref) == data for client in clients)
    source = 48 * -(-BLOCK // 1424)
    assert network.symbols_sent < 1.9 * source, "one pass for both, a third of repair, and what the change cost"


def test_a_class_is_remembered_for_what_is_read_later() -> None:
    network, ref, _ = network_with(32, 1)
    other = network.store.add(random.Random(2).randbytes(4 * BLOCK), BLOCK)
    client = network.add_client()
    client.port = Port(SLOW, BUFFER)
    start(client, ref)
    network.run(lambda: is_done(client, ref))
    assert network.scheduler is not None
    fast = network.scheduler.counters.source_symbols - network.scheduler.counters.slow_symbols
    start(client, other)
    network.run(lambda: len(client.outcomes) == 36)
    assert network.scheduler.counters.source_symbols - network.scheduler.counters.slow_symbols <= fast
