"""One interface of the server, where it treats an MLD proxy otherwise than a host."""

from __future__ import annotations

import random

import pytest

from mcfs.protocol import addressing, mld, wire
from mcfs.protocol.ids import Group, Host, Node
from mcfs.protocol.mld import Envelope, Record, RecordType
from mcfs.serve.announcer import Announcer
from mcfs.serve.link import Link
from mcfs.serve.membership import MAX_GROUPS_PER_HOST
from mcfs.serve.payload import PayloadCache
from mcfs.serve.querier import Querier
from mcfs.serve.schedule import Scheduler
from mcfs.serve.senders import Senders
from tests.fakelink import ORIGIN, SCOPE, SERVER, MemoryStore, host

BLOCK = 65536
BLOCKS = MAX_GROUPS_PER_HOST + 44
SHARE = addressing.share_group(ORIGIN, SCOPE)


class Fixture:
    """A link and the groups of an object of BLOCKS blocks."""

    def __init__(self, *, proxies: bool) -> None:
        store = MemoryStore()
        ref = store.add(bytes(BLOCK * BLOCKS), BLOCK)
        addresser = addressing.addresser_of(ref)
        self.groups = [addressing.node_group(Node(ref, 0, n), 0, addresser, SCOPE) for n in range(BLOCKS)]
        announcer = Announcer(addressing.catalogue_group(SCOPE))
        announcer.publish(SHARE, ORIGIN, now=0.0)
        self.link = Link(
            resolver=store,
            scheduler=Scheduler(
                rate=1e9, payloads=PayloadCache(), max_symbol_size=wire.max_symbol_size(), repair_start=lambda: 0
            ),
            announcer=announcer,
            querier=Querier(SERVER, now=0.0, rng=random.Random(1)),
            senders=Senders(SERVER, now=0.0),
            warn=pytest.fail,
            own_address=SERVER,
            proxies=proxies,
        )

    def report(self, source: Host, groups: list[Group]) -> None:
        envelope = Envelope(source, mld.ALL_MLDV2_ROUTERS, mld.HOP_LIMIT, True, 1)
        for start in range(0, len(groups), mld.MAX_RECORDS):
            records = [Record(RecordType.CHANGE_TO_EXCLUDE_MODE, group) for group in groups[start:][: mld.MAX_RECORDS]]
            self.link.receive(envelope, mld.build_report(records), now=0.0)


@pytest.mark.parametrize(("proxies", "served"), [(False, MAX_GROUPS_PER_HOST), (True, BLOCKS)])
def test_a_proxy_may_hold_the_groups_of_many_hosts(proxies: bool, served: int) -> None:
    fixture = Fixture(proxies=proxies)
    fixture.report(host(1), fixture.groups)
    assert len(fixture.link.membership.groups()) == fixture.link.scheduler.channels == served


@pytest.mark.parametrize(("proxies", "listeners", "beacons"), [(False, 1, 0), (False, 2, 1), (True, 1, 1)])
def test_one_proxy_is_told_what_is_ahead_like_several_hosts(proxies: bool, listeners: int, beacons: int) -> None:
    fixture = Fixture(proxies=proxies)
    for number in range(listeners):
        fixture.report(host(number), [SHARE])
    fixture.report(host(0), fixture.groups[:1])
    assert [group for group, _, _ in fixture.link.beacons(now=1.0)] == [SHARE] * beacons
