"""The server's and the clients' cores together, over a hostile link in virtual time."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from mcfs.fetch.fetcher import Limits
from mcfs.protocol.errors import TimedOut
from mcfs.protocol.ids import MIN_BLOCK_SIZE, Host, Node, ObjectRef, SealedNode
from mcfs.protocol.keys import ShareKeys
from mcfs.serve.bloom import BloomMembership
from mcfs.serve.payload import Payload
from mcfs.serve.tables import exact_table, table_maker
from tests.fakelink import FakeClient, FakeNetwork, Hostility, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcfs.protocol.ids import Group
    from mcfs.serve.listening import Known, ListenerTable


def nodes_of(ref: ObjectRef) -> list[Node]:
    return [Node(ref, 0, i) for i in range(ref.geometry.counts[0])]


def read_sequentially(network: FakeNetwork, client: FakeClient, ref: ObjectRef, window: int = 8) -> bytes:
    """As a reader with read-ahead does."""
    nodes = nodes_of(ref)
    for i, node in enumerate(nodes):
        for ahead in nodes[i : i + window]:
            if ahead not in client.outcomes and not client.tree.is_pending(ahead):
                client.request(ahead, urgent=ahead is node)
        network.run(lambda n=node: n in client.outcomes)  # type: ignore[misc]
    return b"".join(client.outcomes[node].data or b"" for node in nodes)


def mistaken_table(may_accept: Callable[[Group], bool], known: Known, max_groups_per_host: int) -> ListenerTable:
    """With room for what the readers below need, and then every fifth join looks like a refresh."""
    return BloomMembership(may_accept, known, secret=bytes(32), expected_listeners=42, false_positives=0.2)


TABLES = {"exact": exact_table, "bloom": table_maker("bloom", secret=bytes(32)), "mistaken": mistaken_table}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("seed", range(200))
def test_hostile_link_gives_the_right_bytes(seed: int, table: str) -> None:
    rng = random.Random(seed)
    data = rng.randbytes(rng.randint(1, 12 * MIN_BLOCK_SIZE))
    store = MemoryStore()
    ref = store.add(data, MIN_BLOCK_SIZE)
    network = FakeNetwork(store, seed, make_table=TABLES[table])
    hostility = Hostility(rng.uniform(0, 0.3), rng.uniform(0, 0.1), rng.choice((0.0, 0.02, 0.1)), rng.uniform(0, 0.2))
    clients = [network.add_client(hostility) for _ in range(rng.randint(1, 3))]
    for client in clients:
        for node in nodes_of(ref):
            client.request(node)
    network.run(lambda: all(len(c.outcomes) == ref.geometry.counts[0] for c in clients))
    for client in clients:
        assert b"".join(client.outcomes[node].data or b"" for node in nodes_of(ref)) == data


@pytest.mark.parametrize("seed", range(40))
def test_hostile_link_with_a_key(seed: int) -> None:
    """Somebody sends, beside each datagram and under the server's address, one that looks like it. What comes alone is
    found at once, the rest when a node cannot be opened: once for each node, as then all are looked at."""
    rng = random.Random(seed)
    data = rng.randbytes(rng.randint(1, 12 * MIN_BLOCK_SIZE))
    store = MemoryStore(ShareKeys(rng.randbytes(32)))
    ref = store.add(data, MIN_BLOCK_SIZE)
    network = FakeNetwork(store, seed, forge=True)
    hostility = Hostility(rng.uniform(0, 0.3), rng.uniform(0, 0.1), rng.choice((0.0, 0.02, 0.1)), rng.uniform(0, 0.2))
    clients = [network.add_client(hostility) for _ in range(rng.randint(1, 3))]
    for client in clients:
        for node in nodes_of(ref):
            client.request(node)
    network.run(lambda: all(len(c.outcomes) == ref.geometry.counts[0] for c in clients))
    for client in clients:
        assert b"".join(client.outcomes[node].data or b"" for node in nodes_of(ref)) == data
        counters = client.fetcher.counters
        assert counters.failed_nodes <= len(client.outcomes)
        assert counters.forged_datagrams > 0


def test_nothing_comes_to_who_has_another_key() -> None:
    store = MemoryStore(ShareKeys(b"k" * 32))
    ref = store.add(b"x" * 100_000, MIN_BLOCK_SIZE)
    network = FakeNetwork(store)
    for keys in (None, ShareKeys(b"o" * 32)):
        client = network.add_client(limits=Limits(timeout=3.0))
        client.keys = keys
        client.request(Node(ref, 0, 0))
        network.run(lambda client=client: bool(client.outcomes))  # type: ignore[misc]
        assert isinstance(client.outcomes[Node(ref, 0, 0)].error, TimedOut)
    assert network.symbols_sent == 0


def test_one_who_has_the_key_and_sends_other_bytes_is_set_aside() -> None:
    """Symbols with right tags that make up a node which the seal, or the hash, refuses."""
    keys = ShareKeys(b"k" * 32)
    store = MemoryStore(keys)
    data = random.Random(5).randbytes(3 * MIN_BLOCK_SIZE)
    ref = store.add(data, MIN_BLOCK_SIZE)
    network = FakeNetwork(store)
    client = network.add_client()
    node = Node(ref, 0, 1)
    client.request(node)
    network.run(lambda: bool(client.joined))
    wrong = Payload(SealedNode(ref, 0, 1, keys), bytes(node.size + 16), 1424)
    (group,) = [g for g in client.joined if (channel := store.resolve(g)) and channel.node.level == 0]
    client.receive(group, Host(b"l" * 16), wrong.source(0, 1000))
    network.run(lambda: node in client.outcomes)
    assert client.outcomes[node].data == data[MIN_BLOCK_SIZE : 2 * MIN_BLOCK_SIZE]
    assert client.fetcher.counters.failed_nodes == 1


@pytest.mark.parametrize("keys", [None, ShareKeys(b"k" * 32)], ids=["open", "with a key"])
def test_without_loss_nothing_is_sent_twice(keys: ShareKeys | None) -> None:
    store = MemoryStore(keys)
    data = random.Random(1).randbytes(64 * MIN_BLOCK_SIZE)
    ref = store.add(data, MIN_BLOCK_SIZE)
    network = FakeNetwork(store)
    client = network.add_client()
    assert read_sequentially(network, client, ref, 32) == data
    source = sum(-(-(node.size + 16) // 1424) for node in nodes_of(ref))
    assert network.symbols_sent <= 1.03 * source + 10


def test_a_node_that_cannot_be_produced_is_not_waited_for_by_others() -> None:
    store = MemoryStore()
    ref = store.add(bytes(range(256)) * 2048, MIN_BLOCK_SIZE)
    network = FakeNetwork(store)
    client = network.add_client(limits=Limits(timeout=5.0))
    lost, there = Node(ref, 0, 1), Node(ref, 0, 2)
    store.lost.add(lost)
    client.request(lost)
    client.request(there)
    network.run(lambda: there in client.outcomes)
    assert client.outcomes[there].data is not None
    network.run(lambda: lost in client.outcomes)
    assert isinstance(client.outcomes[lost].error, TimedOut)


def test_silence_ends_with_an_error_in_time() -> None:
    store = MemoryStore()
    ref = store.add(bytes(100), MIN_BLOCK_SIZE)
    ref = store.add(b"x" * 100, MIN_BLOCK_SIZE)
    network = FakeNetwork(store)
    network.stop_server()
    client = network.add_client(limits=Limits(timeout=3.0))
    node = Node(ref, 0, 0)
    client.request(node)
    network.run(lambda: node in client.outcomes)
    assert isinstance(client.outcomes[node].error, TimedOut)
    assert 3.0 <= network.now <= 3.5


def test_a_restarted_server_is_found_again() -> None:
    store = MemoryStore()
    data = random.Random(3).randbytes(200 * MIN_BLOCK_SIZE)
    ref = store.add(data, MIN_BLOCK_SIZE)
    network = FakeNetwork(store, rate=1e8)
    client = network.add_client()
    for node in nodes_of(ref):
        client.request(node)
    network.run(lambda: len(client.outcomes) > 50)
    network.stop_server()
    network.at(network.now + 5.0, network.start_server)
    network.run(lambda: len(client.outcomes) == 200)
    assert b"".join(client.outcomes[node].data or b"" for node in nodes_of(ref)) == data


def test_an_unplugged_host_does_not_stop_the_others() -> None:
    store = MemoryStore()
    data = random.Random(4).randbytes(300 * MIN_BLOCK_SIZE)
    ref = store.add(data, MIN_BLOCK_SIZE)

    def duration(unplug: bool) -> float:
        network = FakeNetwork(store, rate=2e8)
        living = [network.add_client() for _ in range(3)]
        dead = network.add_client()
        for client in (*living, dead):
            for node in nodes_of(ref):
                client.request(node, urgent=False)
        network.run(lambda: len(dead.outcomes) > 30)
        dead.unplugged = unplug
        network.run(lambda: all(len(c.outcomes) == 300 for c in living))
        return network.now

    assert duration(True) <= 1.4 * duration(False)
