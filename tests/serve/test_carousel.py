"""Everything round and round, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcfs.protocol import wire
from mcfs.protocol.addressing import addresser_of, node_group
from mcfs.protocol.ids import Digest, Group, Host, Node, ObjectRef
from mcfs.serve.carousel import MAX_AHEAD, META_SHARE, Carousel, Content
from mcfs.serve.channel import Channel
from mcfs.serve.payload import Payload, PayloadCache
from mcfs.serve.schedule import Scheduler

if TYPE_CHECKING:
    from collections.abc import Sequence

RATE = 1e8
MIB = 1 << 20
SCOPE = 5
SYMBOL = wire.max_symbol_size()


def object_(number: int, size: int) -> ObjectRef:
    return ObjectRef(size, MIB, Digest(number.to_bytes(32, "big")))


class Ride:
    """A carousel and its scheduler, and what they send."""

    def __init__(self, contents: Sequence[Content], shares: dict[ObjectRef, frozenset[bytes]] | None = None) -> None:
        self.contents = list(contents)
        self.shares = shares or {}
        self.scheduler = Scheduler(
            rate=RATE, payloads=PayloadCache(), max_symbol_size=SYMBOL, repair_start=lambda: 0, min_share=0.05
        )
        self.carousel = Carousel(
            contents=lambda: self.contents, group=self.group, resolve=self.resolve, rate=RATE, max_symbol_size=SYMBOL
        )
        self.nodes: dict[Group, Node] = {}
        self.silent: frozenset[bytes] = frozenset()
        self.now = 0.0

    def group(self, node: Node) -> Group:
        group = node_group(node, 0, addresser_of(node.object), SCOPE)
        self.nodes[group] = node
        return group

    def resolve(self, group: Group) -> Channel | None:
        node = self.nodes[group]
        if not any(content.object == node.object for content in self.contents):
            return None
        return Channel(group, node, 0, self.shares.get(node.object, frozenset()))

    def run(self, seconds: float) -> list[Node]:
        """The nodes whose symbols were sent, in order; each as often as its pass began."""
        sent: list[Node] = []
        end = self.now + seconds
        while self.now < end:
            self.carousel.turn(self.scheduler, self.silent, now=self.now)
            for node in self.scheduler.to_load():
                self.scheduler.loaded(Payload(node, bytes(node.size), SYMBOL))
            while (transmission := self.scheduler.next(self.now)) is not None:
                if transmission.start == 0 and not transmission.repair:
                    sent.append(transmission.payload.node)
            due = self.scheduler.next_timeout(self.now)
            times = [self.carousel.next_timeout()] + ([due] if due is not None else [])
            self.now = max(self.now + 1e-4, min(times))
        return sent


def test_blocks_go_in_order_and_again_and_again() -> None:
    ref = object_(1, 5 * MIB)
    ride = Ride([Content(ref, meta=False)])
    sent = [node.index for node in ride.run(3.0) if node.level == 0]
    assert len(sent) > 20
    assert sent == [number % 5 for number in range(len(sent))]


def test_a_round_takes_what_it_says() -> None:
    ride = Ride([Content(object_(1, 40 * MIB), meta=False)])
    sent = [node for node in ride.run(30.0) if node.level == 0]
    assert 30.0 <= len(sent) / 40 * ride.carousel.period <= 34.0, "the time of listings is counted, and here are none"


def test_listings_and_pages_have_a_round_of_their_own() -> None:
    listing, large = object_(1, 3 * MIB // 4), object_(2, 200 * MIB)
    ride = Ride([Content(listing, meta=True), Content(large, meta=False)])
    sent = ride.run(10.0)
    meta = [node for node in sent if node.level or node.object == listing]
    assert {(node.object, node.level) for node in meta} == {(listing, 0), (large, 1)}
    share = sum(node.size for node in meta) / sum(node.size for node in sent)
    assert META_SHARE / 2 < share < META_SHARE * 1.5
    assert meta.count(Node(listing, 0, 0)) >= 5


def test_listings_alone_go_round_too() -> None:
    listing = object_(1, 100)
    ride = Ride([Content(listing, meta=True)])
    assert ride.run(0.5).count(Node(listing, 0, 0)) >= 3


def test_nothing_to_send_is_no_endless_loop() -> None:
    assert Ride([]).run(0.2) == []


def test_new_content_comes_in_the_next_round() -> None:
    first, second = object_(1, 2 * MIB), object_(2, 2 * MIB)
    ride = Ride([Content(first, meta=False)])
    ride.run(1.0)
    ride.contents = [Content(second, meta=False)]
    ride.run(1.0)
    assert {node.object for node in ride.run(1.0)} == {second}


def test_what_another_server_sends_is_left_out() -> None:
    ours, theirs = object_(1, 2 * MIB), object_(2, 2 * MIB)
    shares = {ours: frozenset([b"ours"]), theirs: frozenset([b"theirs"])}
    ride = Ride([Content(ours, meta=False), Content(theirs, meta=False)], shares)
    ride.silent = frozenset([b"theirs"])
    assert {node.object for node in ride.run(1.0)} == {ours}
    ride.silent = frozenset([b"theirs", b"ours"])
    ride.run(1.0)
    assert ride.run(0.5) == []


def test_no_more_channels_are_open_than_beacons_can_name() -> None:
    ride = Ride([Content(object_(number, 1000), meta=False) for number in range(5000)])
    ride.carousel.turn(ride.scheduler, frozenset(), now=0.0)
    assert ride.scheduler.channels == MAX_AHEAD


def test_a_real_listener_is_served_beside_it() -> None:
    ref = object_(1, 40 * MIB)
    ride = Ride([Content(ref, meta=False)])
    ride.run(0.1)
    channel = ride.resolve(ride.group(Node(ref, 0, 30)))
    assert channel is not None
    ride.scheduler.joined(Host(b"\xfe\x80" + bytes(14)), channel, now=ride.now)
    assert Node(ref, 0, 30) in ride.run(1.0)
