"""What one interface makes of MLD messages, in literal times: who is asked, who is forgotten, and what is only counted.

The long fuzzing run is `script/bench -m mld`.
"""

from __future__ import annotations

import gc
import random
import tracemalloc

import pytest

from mcfs.protocol import mld
from mcfs.protocol.ids import Host
from mcfs.protocol.mld import Query, RecordType
from mcfs.serve.link import MAX_LEAVES_SAID
from mcfs.serve.membership import LAST_LISTENER_QUERY_TIME, MAX_GROUPS_PER_HOST
from mcfs.serve.querier import MAX_QUERIERS_TOLD
from tests.serve.hostile_reports import KINDS, HostileReports
from tests.serve.interface import ALICE, BOB, CATALOGUE, SERVER, SHARE, Interface, assert_untouched, group, link_local


@pytest.fixture
def interface() -> Interface:
    made = Interface()
    made.run(10.0)
    return made


class TestLeaving:
    def test_the_last_leave_ends_the_channel_at_once(self, interface: Interface) -> None:
        interface.join(ALICE, group(1), now=10.0)
        assert interface.link.scheduler.channels == 1
        interface.report(ALICE, RecordType.CHANGE_TO_INCLUDE_MODE, group(1), now=10.5)
        assert interface.link.scheduler.channels == 0

    def test_switches_are_told_to_forget_the_group(self, interface: Interface) -> None:
        interface.join(ALICE, group(1), now=10.0)
        interface.report(ALICE, RecordType.CHANGE_TO_INCLUDE_MODE, group(1), now=10.5)
        assert interface.run(12.0, start=10.5) == [(10.5, group(1))]

    def test_silence_of_a_version_1_host_is_asked_about(self, interface: Interface) -> None:
        interface.old(ALICE, group(1), now=10.0)
        interface.old(ALICE, group(1), now=11.0, done=True)
        asked = interface.run(14.0, start=11.0)
        assert [found for _, found in asked] == [group(1)] * 3  # is anybody left, twice; and then: forget it
        assert group(1) not in interface.link.membership


class TestAsking:
    def test_who_does_not_answer_is_forgotten(self, interface: Interface) -> None:
        interface.join(ALICE, group(1), now=10.0)
        interface.link._ask(group(1), 10.0)
        interface.run(10.0 + LAST_LISTENER_QUERY_TIME - 0.01, start=10.0)
        assert group(1) in interface.link.membership
        interface.run(11.0, start=10.0 + LAST_LISTENER_QUERY_TIME)
        assert group(1) not in interface.link.membership

    def test_nobody_is_forgotten_before_he_was_asked(self, interface: Interface) -> None:
        """More groups than the token bucket lets pass at once: the last is asked after the first had to answer."""
        hosts = [link_local(200 + number) for number in range(3)]
        groups = [group(number) for number in range(3 * MAX_GROUPS_PER_HOST)]
        for number, host in enumerate(hosts):
            interface.join(host, *groups[number * MAX_GROUPS_PER_HOST : (number + 1) * MAX_GROUPS_PER_HOST], now=10.0)
        for each in groups:
            interface.link._ask(each, 10.0)
        now, last, refreshed = 10.0, groups[-1], False
        while now < 20.0:
            interface.link.handle_timeout(now=now)
            if any(outgoing.specific == last for outgoing in interface.link.messages_to_send(now=now)):
                interface.report(hosts[-1], RecordType.MODE_IS_EXCLUDE, last, now=now + 0.18)
                refreshed = True
            now += 0.01
        assert refreshed
        assert interface.link.counters.joins == len(groups)  # nobody had to join again
        assert len(interface.link.membership.groups()) == 1


class TestQueriesOfOthers:
    @pytest.mark.parametrize(
        ("destination", "query", "forgotten"),
        [
            (group(1), Query(group(1), 0.2, robustness=2, interval=30), True),
            (mld.ALL_MLDV2_ROUTERS, Query(group(1), 0.2, robustness=2, interval=30), False),
            (mld.ALL_NODES, Query(group(1), 0.2, robustness=2, interval=30), False),
            (group(1), Query(group(1), 0.2, suppress=True, robustness=2, interval=30), False),
            (group(1), Query(group(1), 0.2, robustness=2, interval=30, sources=(bytes(16),)), False),
        ],
    )
    def test_listeners_that_were_asked_have_to_answer(
        self, interface: Interface, destination: bytes, query: Query, forgotten: bool
    ) -> None:
        interface.join(ALICE, group(1), now=10.0)
        interface.query(query, link_local(1), destination, now=10.0)
        interface.run(12.0, start=10.0)
        assert (group(1) not in interface.link.membership) == forgotten

    def test_their_interval_holds_while_they_query(self, interface: Interface) -> None:
        interface.query(Query(max_response=10.0, robustness=2, interval=125), link_local(1), mld.ALL_NODES, now=10.0)
        assert interface.link.membership.listening_interval == 260
        interface.run(300.0, start=10.0)
        assert interface.link.membership.listening_interval == 61

    def test_ever_new_queriers_do_not_fill_the_log(self, interface: Interface) -> None:
        for number in range(99):
            for version in (1, 2):
                query = Query(max_response=1.0, interval=30 * (version - 1), version=version)
                interface.query(query, link_local(99 - number), mld.ALL_NODES, now=10.0)
        assert len(interface.warnings) == 2 * MAX_QUERIERS_TOLD


class TestHostileReports:
    @pytest.mark.parametrize("kind", KINDS)
    def test_each_kind_triggers_nothing_and_is_counted(self, interface: Interface, kind: str) -> None:
        hostile = HostileReports(random.Random(1), (group(1), CATALOGUE, SHARE), host=ALICE, server=SERVER)
        for _ in range(100):
            interface.link.receive(*hostile.of_kind(kind), now=11.0)
        assert_untouched(interface)
        counted = interface.link.counters.bad_messages + interface.link.membership.counters.refused
        if kind not in ("unknown type", "low scope"):  # which RFC 9777 wants ignored without a word
            assert counted >= 100

    def test_a_hundred_thousand_at_random(self, interface: Interface) -> None:
        hostile = HostileReports(random.Random(2), (group(1), CATALOGUE, SHARE), host=ALICE, server=SERVER)
        for _ in range(1000):  # what is made at the first use stays
            interface.link.receive(*hostile.any(), now=11.0)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for number in range(100_000):
                interface.link.receive(*hostile.any(), now=11.0 + number / 10_000)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert_untouched(interface)
        assert interface.link.counters.bad_messages > 50_000
        assert grown < 64 << 10

    def test_a_flood_of_joins_by_one_host_is_capped(self, interface: Interface) -> None:
        for number in range(0, 1000, 50):
            interface.join(ALICE, *(group(number + n) for n in range(50)), now=10.0)
        interface.join(BOB, group(999), now=10.0)
        assert interface.link.scheduler.channels == MAX_GROUPS_PER_HOST + 1
        assert interface.link.membership.counters.too_many_groups == 1000 - MAX_GROUPS_PER_HOST


class TestOwnHost:
    def test_an_interface_that_loses_its_address_in_version_1_mode_does_no_harm(self, interface: Interface) -> None:
        link = interface.link
        interface.query(Query(max_response=1.0, version=1), link_local(1), mld.ALL_NODES, now=10.0)
        link.own_groups([group(1)], now=10.1)
        assert group(1) in link.membership
        link.set_addresses(Host(bytes(16)), frozenset(), now=11.0)
        link.own_groups([group(1), group(2)], now=11.1)
        assert group(2) not in link.membership
        link.set_addresses(SERVER, frozenset([SERVER]), now=12.0)
        link.own_groups([group(1)], now=12.1)
        link.handle_timeout(now=1000.0)
        assert group(1) not in link.membership

    def test_what_it_leaves_is_left(self, interface: Interface) -> None:
        interface.query(Query(max_response=1.0, version=1), link_local(1), mld.ALL_NODES, now=10.0)
        interface.link.own_groups([group(1)], now=10.1)
        interface.link.own_groups([], now=10.2)
        interface.run(14.0, start=10.3)
        assert group(1) not in interface.link.membership
        assert interface.link.scheduler.channels == 0


class TestSaidAgain:
    """A report of nothing but leaves that is the same as the last one of its host is not looked at."""

    def test_a_group_that_was_joined_in_between_is_left(self, interface: Interface) -> None:
        for step in range(3):
            interface.join(ALICE, group(1), group(2), now=10.0 + step)
            assert interface.link.scheduler.channels == 2
            for again in range(3):
                interface.leave(ALICE, group(1), group(2), now=10.1 + step + again / 10)
                assert interface.link.scheduler.channels == 0

    def test_one_that_was_joined_in_version_1_is_left_too(self, interface: Interface) -> None:
        for step in range(3):
            interface.old(ALICE, group(1), now=10.0 + step)
            interface.leave(ALICE, group(1), now=10.1 + step)
            assert ALICE not in interface.link.scheduler.listeners(group(1))

    def test_what_others_leave_is_their_own(self, interface: Interface) -> None:
        interface.join(BOB, group(1), now=10.0)
        interface.leave(ALICE, group(1), now=10.1)
        interface.leave(BOB, group(1), now=10.2)
        assert interface.link.scheduler.channels == 0

    def test_it_is_counted_and_bounded(self, interface: Interface) -> None:
        for number in range(2 * MAX_LEAVES_SAID):
            interface.leave(link_local(number), group(1), now=10.0)
            interface.leave(link_local(number), group(1), now=10.0)
        assert interface.link.counters.reports == 4 * MAX_LEAVES_SAID
        assert len(interface.link._leaves_said) == MAX_LEAVES_SAID
