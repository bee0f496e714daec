"""A seeded hostile link in virtual time: the server's and the clients' real cores, nothing of the kernel.

Datagrams are lost, doubled, delayed and so reordered, each client for itself; reports are lost and repeated as Linux
does. Time is a heap of events.
"""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mcfs.fetch.ahead import ReadAhead
from mcfs.fetch.fetcher import Fetcher, Limits
from mcfs.fetch.fetchevents import Assembled, Failed
from mcfs.fetch.nodes import NodeTree, Ready
from mcfs.protocol import addressing, merkle, mld, wire
from mcfs.protocol.addressing import Addresser, addresser_of
from mcfs.protocol.beacon import decode_beacon_untrusted
from mcfs.protocol.ids import Group, Host, Node, ObjectRef, node_under
from mcfs.protocol.seal import NodeSeal
from mcfs.serve.announcer import Announcer
from mcfs.serve.channel import Channel
from mcfs.serve.link import Link
from mcfs.serve.payload import Payload, PayloadCache
from mcfs.serve.querier import Querier
from mcfs.serve.schedule import RANDOM_REPAIR_START, Scheduler
from mcfs.serve.senders import Senders
from mcfs.serve.tables import exact_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mcfs.protocol.errors import BadNode, NotAvailable
    from mcfs.protocol.keys import ShareKeys
    from mcfs.serve.listening import TableMaker
    from mcfs.simulate.port import Port

SCOPE = addressing.SITE_LOCAL
SERVER = Host(bytes.fromhex("fe80" + "00" * 13 + "01"))
ORIGIN = b"data"


def host(number: int) -> Host:
    return Host(bytes.fromhex("fe80" + "00" * 12) + (0x100 + number).to_bytes(2, "big"))


@dataclass
class Hostility:
    loss: float = 0.0
    duplicate: float = 0.0
    jitter: float = 0.0
    """Seconds that each datagram is delayed at most, each by itself."""
    report_loss: float = 0.0


class MemoryStore:
    """Objects in memory, in the role of the server's node store; all of one share, which may have a key."""

    def __init__(self, keys: ShareKeys | None = None) -> None:
        self.keys = keys
        self._objects: dict[bytes, tuple[ObjectRef, Addresser]] = {}
        self._levels: dict[ObjectRef, tuple[bytes, list[bytes]]] = {}
        self.lost: set[Node] = set()

    def add(self, data: bytes, block_size: int) -> ObjectRef:
        ref, leaves = merkle.object_of(data, block_size)
        addresser = addresser_of(ref, self.keys)
        self._objects[addresser.tag] = ref, addresser
        self._levels[ref] = data, merkle.tree_levels(leaves)
        return ref

    def resolve(self, group: bytes) -> Channel | None:
        found = self._objects.get(addressing.tag_of(group))
        coordinate = found[1].coordinate(group) if found else None
        if found is None or coordinate is None or addressing.scope_of(group) != SCOPE:
            return None
        if not found[0].geometry.has(coordinate.kind, coordinate.index):
            return None
        node = node_under(self.keys, found[0], coordinate.kind, coordinate.index)
        return Channel(Group(group), node, coordinate.pace)

    def load(self, node: Node) -> bytes | None:
        if node in self.lost:
            return None
        data, levels = self._levels[node.object]
        if node.level == 0:
            at = node.index * node.object.block_size
            plain = data[at : at + node.object.block_size]
        else:
            plain = list(merkle.pages(levels[node.level - 1]))[node.index]
        if node.keys is None:
            return plain
        return NodeSeal(node.keys, node).seal(plain, merkle.node_hash(node.level, plain))


class DictCache:
    """The client's cache on disk, in memory."""

    def __init__(self) -> None:
        self.nodes: dict[Node, bytes] = {}

    def has(self, node: Node) -> bool:
        return node in self.nodes

    def load(self, node: Node) -> memoryview | None:
        data = self.nodes.get(node)
        return None if data is None else memoryview(data)

    def load_at_once(self, node: Node) -> memoryview | None:
        """As if every second block were on the disk alone."""
        return self.load(node) if node.index % 2 else None

    def drop(self, node: Node) -> None:
        self.nodes.pop(node, None)


@dataclass
class Outcome:
    data: bytes | None = None
    error: NotAvailable | BadNode | None = None
    at: float = 0.0


class FakeClient:
    """One host: the fetching cores, and as much of the kernel as joins and leaves need."""

    def __init__(self, network: FakeNetwork, number: int, hostility: Hostility, limits: Limits) -> None:
        self.host = host(number)
        self.cache = DictCache()
        self.fetcher = Fetcher(limits)
        self.keys = network.store.keys
        self.tree = NodeTree(
            self.fetcher,
            self.cache,
            SCOPE,
            is_down=lambda _: False,
            pace=self.fetcher.paces.pace,
            keys=lambda _: self.keys,
        )
        self.fetcher.paces.announced(ORIGIN, SERVER, int(network.rate), now=network.now)
        self.port: Port | None = None
        """What its link carries; None: as much as the server's."""
        self.kernel_drops = 0
        self.joined: set[Group] = set()
        self.ahead = ReadAhead(self.fetcher, self.tree)
        self.outcomes: dict[Node, Outcome] = {}
        self.hostility = hostility
        self.unplugged = False
        self._network = network
        self._due: float | None = None

    def request(self, node: Node, *, urgent: bool = True) -> None:
        data = self.tree.request(node, ORIGIN, urgent=urgent, now=self._network.now)
        if data is not None:
            self.outcomes[node] = Outcome(bytes(data), at=self._network.now)
        self.pump()

    def receive(self, group: Group, source: Host, datagrams: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> None:
        if group in self.joined and not self.unplugged:
            self.fetcher.receive(group, source, datagrams, now=self._network.now)
            self.pump()

    def beacon(self, groups: list[Group], hold: float) -> None:
        """As the client on the network does."""
        self.ahead.named(groups, hold, now=self._network.now)
        self.pump()

    def pump(self) -> None:
        now = self._network.now
        self.fetcher.paces.dropped(self.kernel_drops)
        self.fetcher.handle_timeout(now=now)
        self.fetcher.repace(self.tree.group, now=now)
        for event in self.fetcher.events():
            self.tree.assembled(event, now=now) if isinstance(event, Assembled) else self.tree.failed(event, now=now)
        for load in self.tree.loads():
            self.tree.loaded(load, self.cache.load(load.node), now=now)
        for store in self.tree.stores():
            self.cache.nodes[store.node] = bytes(store.data)
            self.tree.stored(store)
        for outcome in self.tree.events():
            self._outcome(outcome)
        self._change()
        self._schedule()

    def _outcome(self, outcome: Ready | Failed) -> None:
        if outcome.node.level:
            return
        ready = isinstance(outcome, Ready)
        self.outcomes[outcome.node] = Outcome(
            bytes(outcome.data) if isinstance(outcome, Ready) else None,
            None if ready else outcome.error,  # type: ignore[union-attr]
            self._network.now,
        )

    def _change(self) -> None:
        changes = self.fetcher.changes(now=self._network.now)
        if changes is None:
            return
        left, joined = set(changes.leaves) - set(changes.joins), set(changes.joins) - set(changes.leaves)
        self.joined -= left
        self.joined |= joined
        records = [mld.Record(mld.RecordType.CHANGE_TO_INCLUDE_MODE, group) for group in left]
        records += [mld.Record(mld.RecordType.CHANGE_TO_EXCLUDE_MODE, group) for group in joined]
        if not self.unplugged:
            self._network.report(self, records)

    def _schedule(self) -> None:
        due = self.fetcher.next_timeout(now=self._network.now)
        if due is not None and (self._due is None or due < self._due or self._due <= self._network.now):
            self._due = max(due, self._network.now + 1e-4)
            self._network.at(self._due, self.pump)


@dataclass
class FakeNetwork:
    """One server, its clients, and the link between."""

    store: MemoryStore
    seed: int = 1
    rate: float = 1e9
    make_table: TableMaker = exact_table
    forge: bool = False
    """Somebody sends a datagram with the same header and another symbol before each of the server's."""
    now: float = 0.0
    symbols_sent: int = 0
    reports: int = 0
    clients: list[FakeClient] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self.warnings: list[str] = []
        self.start_server()

    def start_server(self) -> None:
        self.scheduler: Scheduler | None = Scheduler(
            rate=self.rate,
            payloads=PayloadCache(),
            max_symbol_size=wire.max_symbol_size(),
            repair_start=lambda: self.rng.randrange(RANDOM_REPAIR_START),
        )
        self.link = Link(
            resolver=self.store,
            scheduler=self.scheduler,
            announcer=self._announcer(),
            querier=Querier(SERVER, now=self.now, rng=self.rng),
            senders=Senders(SERVER, now=self.now),
            warn=self.warnings.append,
            own_address=SERVER,
            make_table=self.make_table,
        )
        self._server_due = float("inf")
        self._serving = False

    def _announcer(self) -> Announcer:
        """With two listeners in the channel of a share, so that beacons are sent."""
        announcer = Announcer(addressing.catalogue_group(SCOPE))
        channel = addressing.share_group(ORIGIN, SCOPE, self.store.keys)
        announcer.publish(channel, ORIGIN, now=0.0, keys=self.store.keys)
        for number in range(2):
            announcer.joined(host(number), channel, now=0.0)
        return announcer

    def stop_server(self) -> None:
        self.scheduler = None

    def add_client(self, hostility: Hostility | None = None, limits: Limits | None = None) -> FakeClient:
        client = FakeClient(self, len(self.clients), hostility or Hostility(), limits or Limits())
        self.clients.append(client)
        return client

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._count), action))

    def run(self, until: Callable[[], bool], limit: float = 120.0) -> None:
        """Let time pass until the condition holds. Raises TimeoutError after `limit` seconds of virtual time."""
        end = self.now + limit
        while not until():
            if not self._events:
                raise TimeoutError("nothing will ever happen")
            when, _, action = heapq.heappop(self._events)
            if when > end:
                raise TimeoutError(f"not after {limit} s")
            self.now = max(self.now, when)
            action()

    def report(self, client: FakeClient, records: list[mld.Record]) -> None:
        """As Linux does: after a short delay, and once more within a second."""
        message = mld.build_report(records)
        first = self.now + self.rng.uniform(0.008, 0.019)
        for when in (first, first + self.rng.uniform(0.1, 1.0)):
            if self.rng.random() >= client.hostility.report_loss:
                current = when == first
                self.at(when, lambda c=client, m=message, k=current: self._reported(c, m, k))  # type: ignore[misc]

    def _reported(self, client: FakeClient, message: bytes, current: bool) -> None:
        if self.scheduler is None:
            return
        if not current:  # the kernel repeats the state that holds when it does
            message = self._still_true(client, message)
        self.reports += 1
        envelope = mld.Envelope(client.host, mld.ALL_MLDV2_ROUTERS, 1, True, 1)
        self.link.receive(envelope, message, now=self.now)
        self._serve()

    def _answer(self, group: Group) -> None:
        """Hosts answer a specific query, and that within less than the server waits."""
        for client in self.clients:
            if group in client.joined and not client.unplugged:
                self.report(client, [mld.Record(mld.RecordType.MODE_IS_EXCLUDE, group)])

    @staticmethod
    def _still_true(client: FakeClient, message: bytes) -> bytes:
        envelope = mld.Envelope(client.host, mld.ALL_MLDV2_ROUTERS, 1, True, 1)
        groups = [record.group for record in mld.parse_report_untrusted(message, envelope)]
        kinds = (mld.RecordType.CHANGE_TO_INCLUDE_MODE, mld.RecordType.CHANGE_TO_EXCLUDE_MODE)
        return mld.build_report([mld.Record(kinds[g in client.joined], g) for g in groups])

    def _serve(self) -> None:
        """Everything the server can do at `now`; then ask to be called again."""
        scheduler = self.scheduler
        if scheduler is None:
            return
        self.link.handle_timeout(now=self.now)
        for outgoing in self.link.messages_to_send(now=self.now):
            if outgoing.specific is not None:
                self._answer(outgoing.specific)
        self.link.announcer.due(now=self.now)
        for node in scheduler.to_load():
            data = self.store.load(node)
            if data is None:
                scheduler.gone(node, now=self.now)
            else:
                scheduler.loaded(Payload(node, data, wire.max_symbol_size()))
        for _, body, hold in self.link.beacons(now=self.now):
            self._beacon(decode_beacon_untrusted(body, bytes((0xFF, 0x10 | SCOPE))), hold)
        transmission = scheduler.next(self.now)
        if transmission is not None:
            self.symbols_sent += transmission.count
            self._deliver(transmission.group, transmission.datagrams())
            if not self._serving:
                self._serving = True
                self.at(self.now, self._go_on)
            return
        due = [t for t in (scheduler.next_timeout(self.now), self.link.next_timeout(self.now)) if t is not None]
        if due and (min(due) < self._server_due or self._server_due <= self.now):
            self._server_due = max(min(due), self.now + 1e-5)
            self.at(self._server_due, self._serve)

    def _go_on(self) -> None:
        self._serving = False
        self._serve()

    def _beacon(self, groups: list[Group], hold: float) -> None:
        """To clients that merge: those that follow something."""
        for client in self.clients:
            if self.rng.random() >= client.hostility.loss:
                self.at(self.now + 0.0005, lambda c=client: c.beacon(groups, hold))  # type: ignore[misc]

    def _deliver(self, group: Group, datagrams: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> None:
        for client in self.clients:
            if group not in client.joined:
                continue
            h = client.hostility
            kept = [row for row in datagrams if self.rng.random() >= h.loss]
            kept += [row for row in kept if self.rng.random() < h.duplicate]
            delay = 0.0005
            if client.port is not None:
                bits = 8 * (datagrams.shape[1] + wire.LINK_OVERHEAD)
                count, when = client.port.take(len(kept), bits, self.now)
                kept, delay = kept[:count], when - self.now
            if not kept:
                continue
            if not h.jitter:
                self._arrive(client, group, kept, delay)
                continue
            for piece in _pieces(kept, self.rng):
                self._arrive(client, group, piece, self.rng.uniform(0.0002, h.jitter))

    def _arrive(
        self, client: FakeClient, group: Group, rows: list[np.ndarray[tuple[int], np.dtype[np.uint8]]], delay: float
    ) -> None:
        if self.forge:
            rows = [row for genuine in rows for row in (_forged(genuine), genuine)]
        batch = np.stack(rows)
        self.at(self.now + delay, lambda: client.receive(group, SERVER, batch))


def _forged(datagram: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    forged = datagram.copy()
    forged[wire.HEADER_SIZE :] ^= 0x55
    return forged


def _pieces(
    rows: list[np.ndarray[tuple[int], np.dtype[np.uint8]]], rng: random.Random
) -> Iterable[list[np.ndarray[tuple[int], np.dtype[np.uint8]]]]:
    """Shuffled and cut into pieces of one to eight."""
    rng.shuffle(rows)
    while rows:
        n = rng.randint(1, 8)
        yield rows[:n]
        del rows[:n]
