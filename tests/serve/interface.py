"""One interface of a server, without sockets: what the MLD messages do that a test makes up."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from mcfs.protocol import mld
from mcfs.protocol.ids import MIN_BLOCK_SIZE, Digest, Group, Host, Node, ObjectRef
from mcfs.protocol.mld import Envelope, OldMessage, Query, Record, RecordType
from mcfs.serve.announcer import Announcer
from mcfs.serve.channel import Channel
from mcfs.serve.link import Link
from mcfs.serve.payload import PayloadCache
from mcfs.serve.querier import Querier
from mcfs.serve.schedule import Scheduler
from mcfs.serve.senders import Senders
from mcfs.serve.tables import exact_table

if TYPE_CHECKING:
    from mcfs.serve.listening import TableMaker

REF = ObjectRef(1000 * MIN_BLOCK_SIZE, MIN_BLOCK_SIZE, Digest(bytes(32)))
CATALOGUE, SHARE = (Group(bytes.fromhex("ff15aaaa") + bytes(11) + bytes((i,))) for i in (1, 2))


def link_local(number: int) -> Host:
    return Host(bytes.fromhex("fe80") + number.to_bytes(14, "big"))


SERVER, ALICE, BOB = link_local(100), link_local(200), link_local(201)


def group(number: int) -> Group:
    return Group(bytes.fromhex("ff15") + number.to_bytes(14, "big"))


class Blocks:
    """Serves the groups numbered below 1,000."""

    def resolve(self, wanted: bytes) -> Channel | None:
        number = int.from_bytes(wanted[2:], "big")
        is_ours = wanted[:2] == b"\xff\x15" and number < 1000
        return Channel(Group(wanted), Node(REF, 0, number), 0) if is_ours else None


class Interface:
    def __init__(self, make_table: TableMaker = exact_table) -> None:
        self.warnings: list[str] = []
        announcer = Announcer(CATALOGUE)
        announcer.publish(SHARE, b"share", now=0.0)
        self.link = Link(
            resolver=Blocks(),
            scheduler=Scheduler(rate=1e9, payloads=PayloadCache(), max_symbol_size=1424, repair_start=lambda: 0),
            announcer=announcer,
            querier=Querier(SERVER, now=0.0, rng=random.Random(1)),
            senders=Senders(SERVER, now=0.0),
            warn=self.warnings.append,
            own_address=SERVER,
            make_table=make_table,
        )

    def report(self, host: Host, kind: RecordType, *groups: Group, now: float) -> None:
        records = [Record(kind, group) for group in groups]
        for start in range(0, len(records), mld.MAX_RECORDS):
            message = mld.build_report(records[start : start + mld.MAX_RECORDS])
            self.link.receive(Envelope(host, mld.ALL_MLDV2_ROUTERS, 1, True, 1), message, now=now)

    def join(self, host: Host, *groups: Group, now: float) -> None:
        self.report(host, RecordType.CHANGE_TO_EXCLUDE_MODE, *groups, now=now)

    def leave(self, host: Host, *groups: Group, now: float) -> None:
        self.report(host, RecordType.CHANGE_TO_INCLUDE_MODE, *groups, now=now)

    def answer(self, host: Host, *groups: Group, now: float) -> None:
        self.report(host, RecordType.MODE_IS_EXCLUDE, *groups, now=now)

    def old(self, host: Host, group: Group, *, now: float, done: bool = False) -> None:
        envelope = Envelope(host, mld.ALL_ROUTERS if done else group, 1, True, 1)
        self.link.receive(envelope, mld.build_old(OldMessage(group, done)), now=now)

    def query(self, query: Query, source: Host, destination: bytes, *, now: float) -> None:
        self.link.receive(Envelope(source, destination, 1, True, 1), mld.build_query(query), now=now)

    def run(self, until: float, *, start: float = 0.0) -> list[tuple[float, Group]]:
        """Lets time pass as the server does. Returns the specific queries that go out."""
        now, asked = start, []
        while now <= until:
            self.link.handle_timeout(now=now)
            sent = self.link.messages_to_send(now=now)
            asked += [(now, outgoing.specific) for outgoing in sent if outgoing.specific is not None]
            now = max(now + 1e-4, self.link.next_timeout(now) or until + 1)
        return asked


def assert_untouched(interface: Interface) -> None:
    link = interface.link
    assert link.scheduler.channels == 0
    assert link.scheduler.to_load() == []
    assert link.announcer.next_timeout() is None
    assert (len(link.membership.groups()), link.membership.host_count, link.counters.joins) == (0, 0, 0)
    assert link.hosts_seen == set()
