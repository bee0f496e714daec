"""The sockets against the kernel's own MLD: a server and a client in two namespaces, joined by a cable."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from mcfs.net.listeners import OldReportReader, ReportReader
from mcfs.net.reportload import LEAST_PART, Kind, Sampling
from mcfs.protocol import mld
from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.ids import Group, Host
from mcfs.protocol.mld import OldMessage, Query, Record, RecordType
from mcfs.serve.membership import (
    Event,
    GroupEmpty,
    HostRefreshed,
    ListenerJoined,
    ListenerLeft,
    Membership,
)
from mcfs.serve.querier import Outgoing
from tests.netlab.attacker import icmp
from tests.netlab.members import Member
from tests.netlab.namespaces import inside

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.netlab, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SERVER = Host(socket.inet_pton(socket.AF_INET6, "fe80::1"))
CLIENT = Host(socket.inet_pton(socket.AF_INET6, "fe80::2"))
GROUP = Group(socket.inet_pton(socket.AF_INET6, "ff15::8000:1"))
OTHER = Group(socket.inet_pton(socket.AF_INET6, "ff15::8000:2"))
SPECIFIC = Outgoing(GROUP, mld.build_query(Query(GROUP, 0.2, robustness=2, interval=30)))
GENERAL = Outgoing(mld.ALL_NODES, mld.build_query(Query(max_response=0.2, robustness=2, interval=30)))
PATIENCE = 5.0
"""Seconds until a test gives up. What it waits for takes 10 to 30 ms on an idle machine."""

JOIN_AND_WAIT = """
import socket, struct, sys, time
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
request = bytes.fromhex(sys.argv[1]) + struct.pack("@I", socket.if_nametoindex("cable0"))
sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
time.sleep(60)
"""


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=10)


@contextlib.contextmanager
def namespace(name: str) -> Iterator[str]:
    run("ip", "netns", "add", name)
    try:
        # Without duplicate address detection an address can be used at once.
        for interface in ("all", "default"):
            run("ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv6.conf.{interface}.accept_dad=0")
        yield name
    finally:
        run("ip", "netns", "del", name)


def wait_for_multicast_route(name: str) -> None:
    """A link is up a little before one can send on it."""
    deadline = time.monotonic() + PATIENCE
    with inside(name), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        destination = ("ff02::1", 9, 0, socket.if_nametoindex("cable0"))
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                probe.connect(destination)
                return
            time.sleep(0.01)
    pytest.fail(f"the cable did not come up in {name}")


class Cable:
    """Two namespaces; the server has fe80::1 and the client fe80::2 on `cable0`."""

    def __init__(self, server: str, client: str) -> None:
        self.server = server
        self.client = client
        run("ip", "-n", server, "link", "add", "cable0", "type", "veth", "peer", "name", "cable0", "netns", client)
        for name, address in ((server, "fe80::1/64"), (client, "fe80::2/64")):
            # The only link-local address is to be ours, and reports are to come from it.
            run("ip", "-n", name, "link", "set", "cable0", "addrgenmode", "none")
            run("ip", "-n", name, "addr", "add", address, "dev", "cable0", "nodad")
        for name in (server, client):
            run("ip", "-n", name, "link", "set", "cable0", "up")
        for name in (server, client):
            wait_for_multicast_route(name)
        with inside(server):
            self.ifindex = socket.if_nametoindex("cable0")

    def open_reader(self) -> ReportReader:
        with inside(self.server):
            return ReportReader(self.ifindex, "cable0")

    def open_old_reader(self) -> OldReportReader:
        with inside(self.server):
            return OldReportReader(self.ifindex, "cable0")

    def open_member(self, *groups: Group) -> Member:
        with inside(self.client):
            return Member(socket.if_nametoindex("cable0"), groups)

    def say(self, *messages: OldMessage) -> None:
        """Messages of MLDv1 in the client's name, one right after the other."""
        with inside(self.client):
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with raw:
            raw.bind(("cable0", 0))
            for message in messages:
                destination = mld.ALL_ROUTERS if message.done else message.group
                raw.send(icmp(CLIENT, destination, mld.build_old(message)))

    def speak_version(self, version: int) -> None:
        setting = f"net.ipv6.conf.cable0.force_mld_version={version}"
        run("ip", "netns", "exec", self.client, "sysctl", "-qw", setting)


@pytest.fixture
def cable() -> Iterator[Cable]:
    prefix = f"mcfs-ls-{os.getpid()}"
    with namespace(f"{prefix}-s") as server, namespace(f"{prefix}-c") as client:
        yield Cable(server, client)


@pytest.fixture
def reader(cable: Cable) -> Iterator[ReportReader]:
    with cable.open_reader() as opened:
        yield opened


class Server:
    """A reader and the table that it feeds, in real time. Events gather in `events` until they are waited for."""

    def __init__(self, reader: ReportReader | OldReportReader) -> None:
        self.reader = reader
        self.table = Membership(lambda group: group in (GROUP, OTHER))
        self.events: list[Event] = []

    def wait_for(self, *wanted: Event) -> float:
        """Until all these have come, in any order; forgets what came before. Returns how many seconds it took."""
        start = time.monotonic()
        while not set(wanted) <= set(self.events):
            assert time.monotonic() < start + PATIENCE, self.events
            self.turn(0.05)
        self.events.clear()
        return time.monotonic() - start

    def turn(self, seconds: float) -> None:
        select.select([self.reader], [], [], seconds)
        now = time.monotonic()
        for envelope, message in self.reader.receive():
            if message[0] == mld.REPORT_V2:
                records = mld.parse_report_untrusted(message, envelope)
                self.events += one_by_one(self.table.report(envelope.source, records, now=now))
            elif message[0] in (mld.REPORT_V1, mld.DONE_V1):
                old = mld.parse_old_untrusted(message, envelope)
                tell = self.table.done_v1 if old.done else self.table.report_v1
                self.events += tell(envelope.source, old.group, now=now)
        self.events += self.table.expire(now=now)


def one_by_one(events: list[Event]) -> Iterator[Event]:
    for event in events:
        if isinstance(event, HostRefreshed):
            yield from (HostRefreshed(event.host, (group,)) for group in event.groups)
        else:
            yield event


JOINED = ListenerJoined(GROUP, CLIENT)
REFRESHED = HostRefreshed(CLIENT, (GROUP,))
LEFT = ListenerLeft(GROUP, CLIENT)
EMPTY = GroupEmpty(GROUP, certain=True)


class TestReports:
    def test_join_and_leave(self, cable: Cable, reader: ReportReader) -> None:
        server = Server(reader)
        with cable.open_member(GROUP) as member:
            server.wait_for(JOINED)
            member.leave(GROUP)
            server.wait_for(LEFT, EMPTY)

    def test_close_leaves_everything(self, cable: Cable, reader: ReportReader) -> None:
        server = Server(reader)
        with cable.open_member(GROUP, OTHER):
            server.wait_for(JOINED, ListenerJoined(OTHER, CLIENT))
        server.wait_for(EMPTY, GroupEmpty(OTHER, certain=True))
        assert len(server.table) == 0

    def test_kill_leaves_everything(self, cable: Cable, reader: ReportReader) -> None:
        server = Server(reader)
        command = ["nsenter", f"--net=/run/netns/{cable.client}", sys.executable, "-c", JOIN_AND_WAIT, GROUP.hex()]
        with subprocess.Popen(command) as process:
            try:
                server.wait_for(JOINED)
            finally:
                process.send_signal(signal.SIGKILL)
        server.wait_for(LEFT, EMPTY)

    def test_own_host_is_heard_too(self, cable: Cable, reader: ReportReader) -> None:
        server = Server(reader)
        with inside(cable.server), Member(cable.ifindex, (GROUP,)):
            server.wait_for(ListenerJoined(GROUP, SERVER))
        server.wait_for(GroupEmpty(GROUP, certain=True))

    def test_other_interfaces_are_not_heard(self, cable: Cable, reader: ReportReader) -> None:
        run("ip", "-n", cable.server, "link", "add", "other0", "type", "veth", "peer", "name", "other1")
        for end in ("other0", "other1"):
            run("ip", "-n", cable.server, "link", "set", end, "up")
        server = Server(reader)
        with inside(cable.server), Member(socket.if_nametoindex("other0"), (OTHER,)), cable.open_member(GROUP):
            server.wait_for(JOINED)
            server.turn(0.2)
            assert OTHER not in server.table


class TestQueries:
    def test_specific_query_is_answered(self, cable: Cable, reader: ReportReader) -> None:
        server = Server(reader)
        with cable.open_member(GROUP):
            server.wait_for(JOINED, REFRESHED)  # the second copy, so that the next one is the answer
            assert reader.send(SPECIFIC, SERVER)
            assert server.wait_for(REFRESHED) < 1.0

    def test_specific_query_finds_out_that_nobody_is_left(self, cable: Cable, reader: ReportReader) -> None:
        server = Server(reader)
        with cable.open_member(GROUP):
            server.wait_for(JOINED, REFRESHED)
            # The cable is cut at the client's end: it leaves, and nobody hears it.
            run("ip", "-n", cable.client, "link", "set", "cable0", "down")
        reader.send(SPECIFIC, SERVER)
        server.table.query_sent(GROUP, now=time.monotonic())
        assert server.wait_for(LEFT, EMPTY) < 1.0

    def test_general_query_is_answered_by_all(self, cable: Cable, reader: ReportReader) -> None:
        with cable.open_member(GROUP, OTHER):
            server = Server(reader)
            server.wait_for(JOINED)
            assert reader.send(GENERAL, SERVER)
            server.wait_for(REFRESHED)

    def test_what_is_sent_passes_our_own_checks(self, cable: Cable, reader: ReportReader) -> None:
        with inside(cable.client):
            listener = ReportReader(socket.if_nametoindex("cable0"), "cable0")
        with listener:
            assert reader.send(Outgoing(mld.ALL_SNOOPERS, mld.build_router_discovery(mld.Termination())), SERVER)
            select.select([listener], [], [], PATIENCE)
            heard = [item for item in listener.receive() if item[1][0] == mld.TERMINATION]
        [(envelope, message)] = heard
        assert envelope.source == SERVER
        assert envelope.hop_limit == 1
        assert envelope.router_alert
        assert mld.parse_router_discovery_untrusted(message, envelope) == mld.Termination()

    def test_missing_address_and_missing_link_are_no_errors(self, cable: Cable, reader: ReportReader) -> None:
        assert not reader.send(SPECIFIC, CLIENT)
        run("ip", "-n", cable.server, "link", "set", "cable0", "down")
        assert not reader.send(SPECIFIC, SERVER)
        run("ip", "-n", cable.server, "link", "del", "cable0")
        assert not reader.send(SPECIFIC, SERVER)
        reader.receive()  # what came before
        assert reader.receive() == []


class TestVersion1:
    def test_report_and_done(self, cable: Cable) -> None:
        cable.speak_version(1)
        with cable.open_old_reader() as reader:
            server = Server(reader)
            with cable.open_member(GROUP) as member:
                server.wait_for(JOINED)
                member.leave(GROUP)
                server.wait_for(LEFT, GroupEmpty(GROUP, certain=False))
                server.table.query_sent(GROUP, now=time.monotonic())
                assert server.wait_for(EMPTY) < 1.0
            assert reader.refused == 0

    def test_what_a_host_says_again_and_again_comes_once(self, cable: Cable) -> None:
        """It is made to by a flood of queries. After a done the same report says something again."""
        again = [OldMessage(GROUP, done=False)] * 50
        done = OldMessage(GROUP, done=True)
        with cable.open_old_reader() as old:
            cable.say(*again, OldMessage(OTHER, done=False), *again, done, *again, done)
            found: list[tuple[int, Group]] = []
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end and found.count((mld.DONE_V1, GROUP)) < 2:
                found += [(message[0], Group(message[8:24])) for _, message in old.receive()]
            assert (mld.REPORT_V1, OTHER) in found
            kinds = [kind for kind, group in found if group == GROUP]
            assert kinds[-3:] == [mld.DONE_V1, mld.REPORT_V1, mld.DONE_V1]
            assert kinds.count(mld.REPORT_V1) < 50, "and not 150"

    def test_version_2_is_filtered_out(self, cable: Cable) -> None:
        with cable.open_old_reader() as reader, cable.open_reader() as new, cable.open_member(GROUP):
            Server(new).wait_for(JOINED)
            assert reader.receive() == []


class TestHostileInput:
    def test_reports_without_the_marks_of_the_link(self, cable: Cable, reader: ReportReader) -> None:
        """The kernel hands them up; the codec is what refuses them."""
        report = mld.build_report([Record(RecordType.CHANGE_TO_EXCLUDE_MODE, GROUP)])
        with inside(cable.client):
            forger = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            scope = socket.if_nametoindex("cable0")
        with forger:
            forger.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
            forger.sendto(report, ("ff02::16", 0, 0, scope))
            forger.sendto(report, ("fe80::1", 0, 0, scope))
            forger.sendto(b"\x8f" + bytes(7) + b"\xff" * 1000, ("ff02::16", 0, 0, scope))
            forger.sendto(b"\x82\0\0\0", ("ff02::16", 0, 0, scope))
        refused = self.heard_from_client(reader, 3)
        for envelope, message in refused:
            with pytest.raises(BadDatagram):
                mld.parse_report_untrusted(message, envelope)
        assert {envelope.router_alert for envelope, _ in refused} == {False}
        assert {envelope.destination for envelope, _ in refused} == {mld.ALL_MLDV2_ROUTERS, SERVER}
        assert {envelope.hop_limit for envelope, _ in refused} == {1, 64}

    @staticmethod
    def heard_from_client(reader: ReportReader, count: int) -> list[tuple[mld.Envelope, bytes]]:
        heard: list[tuple[mld.Envelope, bytes]] = []
        deadline = time.monotonic() + PATIENCE
        while len(heard) < count and time.monotonic() < deadline:
            select.select([reader], [], [], 0.05)
            heard += [item for item in reader.receive() if item[0].source == CLIENT and not item[0].router_alert]
        return heard

    def test_receive_is_bounded(self, cable: Cable, reader: ReportReader) -> None:
        with inside(cable.client):
            forger = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            scope = socket.if_nametoindex("cable0")
        with forger:
            for _ in range(20):
                forger.sendto(b"\x8f" + bytes(7), ("ff02::16", 0, 0, scope))
        time.sleep(0.1)
        assert len(reader.receive(5)) == 5
        assert len(reader.receive()) >= 15


SPOKEN = 2.5
"""Seconds in which a host has said everything twice."""


def heard(reader: ReportReader | OldReportReader) -> list[tuple[int, bytes]]:
    """Types of the messages of the client that come up, and of reports the last record."""
    found, end = [], time.monotonic() + SPOKEN
    while time.monotonic() < end:
        found += [(message[0], message[-20:]) for envelope, message in reader.receive() if envelope.source == CLIENT]
        time.sleep(0.01)
    return found


def least(*kinds: Kind) -> tuple[float, ...]:
    return tuple(LEAST_PART if kind in kinds else 1.0 for kind in Kind)


class TestSampling:
    """What a flood of one kind has the filter drop; that a message of it passes is an accident of one in a thousand."""

    @pytest.mark.parametrize("regulars", [frozenset[Host](), frozenset({CLIENT})])
    def test_strangers_and_regulars(self, cable: Cable, reader: ReportReader, regulars: frozenset[Host]) -> None:
        reader.sample(Sampling(least(Kind.STRANGER), regulars))
        with cable.open_member(GROUP):
            assert bool(heard(reader)) == bool(regulars)

    def test_leaves_and_joins(self, cable: Cable, reader: ReportReader) -> None:
        with cable.open_member(GROUP) as member:
            heard(reader)
            reader.sample(Sampling(least(Kind.LEAVES)))
            member.leave(GROUP)
            assert heard(reader) == []
            member.join(GROUP)
            assert [kind for kind, _ in heard(reader)].count(mld.REPORT_V2) == 2

    def test_version_1(self, cable: Cable) -> None:
        cable.speak_version(1)
        with cable.open_old_reader() as old, cable.open_member(GROUP) as member:
            old.sample(Sampling(least(Kind.OLD_REPORT)))
            heard(old)
            member.leave(GROUP)
            member.join(GROUP)
            kinds = [kind for kind, _ in heard(old)]
            assert mld.DONE_V1 in kinds
            assert mld.REPORT_V1 not in kinds
