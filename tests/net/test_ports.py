"""Ports that come and go, and two of them on one link: with real links and without sockets."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import pytest

from mcfs.net.listeners import DeafReader
from mcfs.net.ports import PASSIVE_SECONDS, Port, Ports
from mcfs.net.reconcile import Update
from mcfs.net.reportload import Kind
from mcfs.protocol import addressing, mld, wire
from mcfs.protocol.ids import Group, Host
from mcfs.protocol.mld import Advertisement, Envelope, Query, Record, RecordType, Termination
from mcfs.serve.announcer import Announcer
from mcfs.serve.link import Link
from mcfs.serve.payload import PayloadCache
from mcfs.serve.querier import Outgoing, Querier
from mcfs.serve.schedule import Scheduler
from mcfs.serve.senders import Senders
from tests.fakelink import MemoryStore
from tests.net.test_reconcile import ETH0, ETH1, ONE, TWO

if TYPE_CHECKING:
    from mcfs.net.interfaces import Interface
    from mcfs.net.listeners import ReportReader
    from mcfs.net.peers import PeerSocket
    from mcfs.net.transmit import Transmitter

SHARE = addressing.share_group(b"share", addressing.SITE_LOCAL)
CLIENT = Host(bytes.fromhex("fe80") + bytes(13) + b"\x77")
FAST = replace(ETH1, speed_bits=10**10)
QUERY = mld.build_query(Query(max_response=1.0, robustness=2, interval=30))
ADVERTISEMENT = mld.build_router_discovery(Advertisement(20, 30, 2))
TERMINATION = mld.build_router_discovery(Termination())


@dataclass
class FakeReader:
    sent: list[tuple[bytes, Host]] = field(default_factory=list)
    closed: bool = False
    rejoined: int = 0

    def receive(self) -> list[tuple[Envelope, bytes]]:
        return []

    def rejoin(self) -> None:
        self.rejoined += 1

    def send(self, outgoing: Outgoing, source: Host) -> bool:
        self.sent.append((outgoing.message, source))
        return True

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeTransmitter:
    bytes_sent: int = 0
    datagrams_sent: int = 0
    closed: bool = False

    def close(self) -> None:
        self.closed = True

    def source(self, group: bytes) -> bytes | None:
        return None


@dataclass
class FakePeers:
    joined: set[Group] = field(default_factory=set)
    rejoined: int = 0
    closed: bool = False

    def join(self, channel: Group) -> None:
        self.joined.add(channel)

    def rejoin(self) -> None:
        self.rejoined += 1

    def leave_all(self) -> None:
        self.joined.clear()

    def close(self) -> None:
        self.closed = True


def make_link(interface: Interface, rate: int) -> Link:
    address = Host(interface.link_local or bytes(16))
    announcer = Announcer(addressing.catalogue_group(addressing.SITE_LOCAL))
    announcer.publish(SHARE, b"share", now=0.0)
    return Link(
        resolver=MemoryStore(),
        scheduler=Scheduler(
            rate=rate, payloads=PayloadCache(), max_symbol_size=wire.max_symbol_size(), repair_start=lambda: 0
        ),
        announcer=announcer,
        querier=Querier(address, now=0.0, rng=random.Random(1)),
        senders=Senders(address, now=0.0),
        warn=lambda text: None,
        own_address=address,
    )


def make_port(interface: Interface) -> Port:
    reader, transmitter = cast("ReportReader", FakeReader()), cast("Transmitter", FakeTransmitter())
    peers = cast("PeerSocket", FakePeers())
    return Port(interface, make_link(interface, 10**9), reader, None, transmitter, peers, 10**9)


def make_ports(*interfaces: Interface) -> tuple[Ports, list[Port]]:
    ports = Ports(make_link)
    for interface in interfaces:
        ports.add(make_port(interface), now=0.0)
    return ports, list(ports)


def from_router(source: bytes) -> Envelope:
    return Envelope(Host(source), mld.ALL_NODES, hop_limit=1, router_alert=True, ifindex=2)


def listen(port: Port, group: Group = SHARE) -> None:
    """As if a client had joined there."""
    port.link._apply(
        port.link.membership.report(CLIENT, (Record(RecordType.CHANGE_TO_EXCLUDE_MODE, group),), now=0.0), 0.0
    )


def passive(*ports: Port) -> list[bool]:
    return [port.passive for port in ports]


def sent(port: Port) -> list[tuple[bytes, Host]]:
    return cast("FakeReader", port.reader).sent


@pytest.mark.parametrize("message", [QUERY, ADVERTISEMENT])
def test_the_slower_port_that_hears_the_faster_is_passive(message: bytes) -> None:
    ports, (slow, fast) = make_ports(ETH0, FAST)
    listen(slow)
    assert ports.is_own(slow, from_router(TWO), message, now=1.0)
    assert passive(slow, fast) == [True, False]
    assert SHARE not in slow.link.membership
    assert (TERMINATION, Host(ONE)) in sent(slow)
    assert slow.link.announcer is not fast.link.announcer


def test_the_faster_port_that_hears_the_slower_goes_on_and_does_not_yield_as_querier() -> None:
    ports, (slow, fast) = make_ports(ETH0, FAST)
    assert ports.is_own(fast, from_router(ONE), QUERY, now=1.0)
    assert passive(slow, fast) == [False, False]


def test_of_two_equal_ports_the_first_serves() -> None:
    ports, (first, second) = make_ports(ETH0, ETH1)
    assert ports.is_own(first, from_router(TWO), QUERY, now=1.0)
    assert ports.is_own(second, from_router(ONE), QUERY, now=1.0)
    assert (first.passive, second.passive) == (False, True)


def test_messages_of_others_and_our_own_looped_back_are_not_ours_from_elsewhere() -> None:
    ports, (slow, _) = make_ports(ETH0, FAST)
    assert not ports.is_own(slow, from_router(CLIENT), QUERY, now=1.0)
    assert not ports.is_own(slow, from_router(ONE), QUERY, now=1.0)
    assert not ports.is_own(slow, from_router(TWO), b"", now=1.0)
    assert passive(slow) == [False]


def test_two_vlans_with_one_address_are_not_taken_for_one_link() -> None:
    ports, (one, other) = make_ports(ETH0, replace(FAST, link_local=ONE))
    assert not ports.is_own(one, from_router(ONE), QUERY, now=1.0)
    assert not ports.is_own(other, from_router(ONE), QUERY, now=1.0)


def test_what_came_from_off_the_link_proves_nothing() -> None:
    ports, (slow, _) = make_ports(ETH0, FAST)
    assert ports.is_own(slow, replace(from_router(TWO), hop_limit=64), QUERY, now=1.0)
    assert ports.is_own(slow, from_router(TWO), QUERY[:10], now=1.0)
    assert passive(slow) == [False]


@pytest.mark.parametrize("now", [replace(FAST, running=False), replace(FAST, up=False), replace(FAST, link_local=None)])
def test_the_passive_port_serves_when_the_other_cannot(now: Interface) -> None:
    ports, (slow, fast) = make_ports(ETH0, FAST)
    ports.is_own(slow, from_router(TWO), QUERY, now=1.0)
    ports.update(fast, Update(FAST, now), None, now=2.0)
    assert passive(slow) == [False]
    ports.update(fast, Update(now, FAST), None, now=3.0)
    assert passive(slow) == [False], "they may be on different links now"
    ports.is_own(slow, from_router(TWO), QUERY, now=4.0)
    assert passive(slow) == [True]


def test_the_passive_port_serves_when_the_other_vanishes() -> None:
    ports, (slow, fast) = make_ports(ETH0, FAST)
    ports.is_own(slow, from_router(TWO), QUERY, now=1.0)
    ports.remove(fast, now=2.0)
    assert passive(slow) == [False]
    assert SHARE in slow.link.announcer


def test_the_passive_port_serves_when_the_other_was_not_heard_for_long() -> None:
    ports, (slow, _) = make_ports(ETH0, FAST)
    ports.is_own(slow, from_router(TWO), QUERY, now=1.0)
    ports.is_own(slow, from_router(TWO), ADVERTISEMENT, now=20.0)
    ports.review(now=20.0 + PASSIVE_SECONDS - 0.1)
    assert passive(slow) == [True]
    ports.review(now=20.0 + PASSIVE_SECONDS)
    assert passive(slow) == [False]


def test_of_three_on_one_link_one_serves() -> None:
    middle = replace(ETH0, index=8, link_local=CLIENT, speed_bits=2 * 10**9)
    ports, (slow, mid, fast) = make_ports(ETH0, middle, FAST)
    ports.is_own(slow, from_router(CLIENT), QUERY, now=1.0)
    assert slow.twin is mid
    ports.is_own(mid, from_router(TWO), QUERY, now=1.1)
    ports.review(now=1.1)
    assert passive(slow) == [False], "the one that it left the link to serves no more"
    ports.is_own(slow, from_router(CLIENT), QUERY, now=1.2)
    assert passive(slow) == [False]
    ports.is_own(slow, from_router(TWO), QUERY, now=1.3)
    assert passive(slow, mid, fast) == [True, True, False]


def test_a_carrier_that_comes_back_restarts_the_querier_and_keeps_the_listeners() -> None:
    ports, (port,) = make_ports(ETH0)
    port.link.querier.messages_to_send(now=0.0)
    listen(port)
    gone = replace(ETH0, running=False, speed_bits=None)
    ports.update(port, Update(ETH0, gone), None, now=10.0)
    assert not port.ready
    assert port.rate == 10**9, "without a carrier the speed is not known"
    port.link.querier.messages_to_send(now=10.0)
    ports.update(port, Update(gone, ETH0), None, now=11.0)
    assert any(m.destination == mld.ALL_NODES for m in port.link.querier.messages_to_send(now=11.0))
    assert cast("FakeReader", port.reader).rejoined == 1
    assert SHARE in port.link.membership


def test_another_speed_is_another_rate_unless_one_was_asked_for() -> None:
    for asked, rate in [(None, 95 * 10**8), (10**9, 10**9)]:
        ports, (port,) = make_ports(ETH0)
        ports.update(port, Update(ETH0, replace(ETH0, speed_bits=10**10)), asked, now=1.0)
        assert port.rate == rate


def test_without_an_address_nothing_is_sent_and_another_one_is_used() -> None:
    ports, (port,) = make_ports(ETH0)
    listen(port)
    without = replace(ETH0, link_local=None, addresses=frozenset())
    ports.update(port, Update(ETH0, without), None, now=1.0)
    port.send_mld(port.link.querier.messages_to_send(now=1.0))
    assert sent(port) == []
    other = replace(ETH0, link_local=TWO, addresses=frozenset({TWO}))
    ports.update(port, Update(without, other), None, now=2.0)
    port.send_mld(port.link.querier.messages_to_send(now=2.0))
    assert {source for _, source in sent(port)} == {Host(TWO)}
    assert port.link.querier.query_heard(Query(), Host(TWO), now=2.0) == []
    assert SHARE in port.link.membership


def test_statistics_of_ports_that_have_gone_count() -> None:
    ports, (one, other) = make_ports(ETH0, ETH1)
    assert ports.statistics()["bytes_sent"] == 0
    for port in (one, other):
        cast("FakeTransmitter", port.transmitter).bytes_sent = 100
        listen(port)
    before = ports.statistics()
    assert (before["bytes_sent"], before["joins"], before["listeners_seen"]) == (200, 2, 1)
    ports.remove(one, now=1.0)
    assert ports.statistics() == before
    ports.is_own(other, from_router(ONE), QUERY, now=2.0)
    ports.remove(other, now=3.0)
    assert ports.statistics() == before


def test_closing_says_goodbye_unless_another_port_serves() -> None:
    ports, (slow, fast) = make_ports(ETH0, FAST)
    ports.is_own(slow, from_router(TWO), QUERY, now=1.0)
    said = len(sent(slow))
    for port in (slow, fast):
        port.close()
        assert cast("FakeReader", port.reader).closed
        assert cast("FakeTransmitter", port.transmitter).closed
    assert len(sent(slow)) == said
    assert sent(fast) == [(TERMINATION, Host(TWO))]


def test_without_a_reader_the_load_of_other_things_harms_nothing() -> None:
    """A turn of the loop may stall while it drains what is not there."""
    ports, (port,) = make_ports(ETH0)
    port.reader = DeafReader()
    for step in range(5):
        port.load.spent(Kind.STRANGER, 1.0)
        port.load.look(port.link.regulars, sending=0.0, now=float(step))
    assert not port.load.sampling.everything
    port.close()
    assert len(ports) == 1
