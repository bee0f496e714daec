"""Both listener tables, in literal times; then the exact one against a model that keeps one deadline per pair and
nothing else. What only the Bloom table does is in test_bloom.py."""

from __future__ import annotations

import random

import pytest

from mcfs.protocol.ids import Group, Host
from mcfs.protocol.mld import Record, RecordType
from mcfs.serve.listening import KINDS, Kind
from mcfs.serve.membership import (
    Event,
    GroupEmpty,
    HostRefreshed,
    ListenerJoined,
    ListenerLeft,
    Membership,
)
from tests.serve.sender import Sender

IS_IN, IS_EX, TO_IN, TO_EX, ALLOW, BLOCK = RecordType

ALICE, BOB = (Host(bytes.fromhex("fe80") + bytes(13) + bytes((i,))) for i in (1, 2))
OURS, OURS_TOO, THEIRS = (bytes.fromhex("20010db8") + bytes(11) + bytes((i,)) for i in (1, 2, 3))


def group(number: int) -> Group:
    return Group(bytes.fromhex("ff15") + number.to_bytes(14, "big"))


G, H = group(1), group(2)
FOREIGN = Group(bytes.fromhex("ff18") + bytes(14))

# Robustness 2, query interval 30, response interval 1: a host is believed for 61 s.


def ours(candidate: Group) -> bool:
    return candidate[1] == 0x15


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = request.param
    return made


@pytest.fixture
def table(kind: Kind) -> Sender:
    return Sender.of(kind, ours, frozenset((OURS,)))


def tell(table: Sender, host: Host, *records: Record, now: float) -> list[Event]:
    return table.report(host, records, now=now)


def join(table: Sender, host: Host, *groups: Group, now: float) -> list[Event]:
    return tell(table, host, *(Record(TO_EX, group) for group in groups), now=now)


def leave(table: Sender, host: Host, *groups: Group, now: float) -> list[Event]:
    return tell(table, host, *(Record(TO_IN, group) for group in groups), now=now)


class TestJoiningAndLeaving:
    def test_join(self, table: Sender) -> None:
        assert join(table, ALICE, G, now=0.0) == [ListenerJoined(G, ALICE)]
        assert G in table
        assert table.listeners(G) == {ALICE}

    @pytest.mark.parametrize("type_", [TO_EX, IS_EX])
    def test_second_copy_refreshes(self, table: Sender, type_: RecordType) -> None:
        join(table, ALICE, G, now=0.0)
        assert tell(table, ALICE, Record(type_, G), now=0.8) == [HostRefreshed(ALICE, (G,))]

    @pytest.mark.parametrize("type_", [TO_IN, IS_IN])
    def test_last_leave_is_certain(self, table: Sender, type_: RecordType) -> None:
        join(table, ALICE, G, now=0.0)
        assert tell(table, ALICE, Record(type_, G), now=1.0) == [ListenerLeft(G, ALICE), GroupEmpty(G, certain=True)]
        assert G not in table
        assert table.table.host_count == table.table.listener_count == len(table.groups()) == 0
        assert table.next_timeout() is None

    def test_leave_of_one_of_two(self, table: Sender) -> None:
        join(table, ALICE, G, now=0.0)
        join(table, BOB, G, now=0.0)
        assert leave(table, ALICE, G, now=1.0) == [ListenerLeft(G, ALICE)]
        assert table.listeners(G) == {BOB}

    def test_second_copy_of_a_leave_is_nothing(self, table: Sender) -> None:
        join(table, ALICE, G, now=0.0)
        leave(table, ALICE, G, now=1.0)
        assert leave(table, ALICE, G, now=1.5) == []

    def test_one_report_may_leave_and_join(self, table: Sender) -> None:
        join(table, ALICE, G, now=0.0)
        assert tell(table, ALICE, Record(TO_IN, G), Record(TO_EX, H), now=1.0) == [
            ListenerLeft(G, ALICE),
            GroupEmpty(G, certain=True),
            ListenerJoined(H, ALICE),
        ]

    def test_leaving_and_joining_again_in_one_report(self) -> None:
        table = Sender.of("exact", ours)
        join(table, ALICE, G, now=0.0)
        events = tell(table, ALICE, Record(TO_IN, G), Record(TO_EX, G), now=1.0)
        assert events == [ListenerLeft(G, ALICE), GroupEmpty(G, certain=True), ListenerJoined(G, ALICE)]
        assert table.listeners(G) == {ALICE}


class TestTimers:
    def test_silent_host_expires(self, table: Sender) -> None:
        join(table, ALICE, G, now=100.0)
        assert table.expire(now=160.9) == []
        assert table.next_timeout() == pytest.approx(161.0, abs=1 / 16)
        assert table.expire(now=161.1) == [ListenerLeft(G, ALICE), GroupEmpty(G, certain=True)]
        assert table.table.host_count == 0

    def test_refresh_keeps_it(self, table: Sender) -> None:
        join(table, ALICE, G, now=0.0)
        join(table, ALICE, G, now=30.0)
        assert table.expire(now=61.1) == []
        assert table.next_timeout() == pytest.approx(91.0, abs=1 / 16)
        assert table.expire(now=91.1) == [ListenerLeft(G, ALICE), GroupEmpty(G, certain=True)]

    def test_each_host_has_its_own(self, table: Sender) -> None:
        join(table, ALICE, G, now=0.0)
        join(table, BOB, G, now=10.0)
        assert table.expire(now=61.1) == [ListenerLeft(G, ALICE)]
        assert table.expire(now=71.1) == [ListenerLeft(G, BOB), GroupEmpty(G, certain=True)]

    def test_next_timeout_is_always_ahead_after_expire(self, table: Sender) -> None:
        join(table, ALICE, G, now=0.03)
        for step in range(200):
            now = step * 0.37
            table.expire(now=now)
            timeout = table.next_timeout()
            assert timeout is None or timeout > now

    def test_set_timers_counts_from_the_next_report(self, table: Sender) -> None:
        join(table, ALICE, G, now=0.0)
        table.set_timers(2, 125.0, 10.0)
        assert table.listening_interval == 260.0
        join(table, ALICE, H, now=0.0)
        assert table.expire(now=61.1) == [ListenerLeft(G, ALICE), GroupEmpty(G, certain=True)]
        assert table.expire(now=260.1) == [ListenerLeft(H, ALICE), GroupEmpty(H, certain=True)]

    def test_shorter_timers_do_not_wait_for_longer_ones(self, table: Sender) -> None:
        join(table, ALICE, G, now=0.0)
        table.set_timers(2, 5.0, 1.0)
        join(table, BOB, H, now=0.0)
        assert table.expire(now=11.1) == [ListenerLeft(H, BOB), GroupEmpty(H, certain=True)]


class TestSpecificQuery:
    def test_no_answer_empties_the_group(self, table: Sender) -> None:
        join(table, ALICE, G, H, now=0.0)
        table.query_sent(G, now=10.0)
        assert table.expire(now=10.4) == []
        assert table.expire(now=10.6) == [ListenerLeft(G, ALICE), GroupEmpty(G, certain=True)]
        assert table.listeners(H) == {ALICE}

    def test_answer_keeps_the_listener(self, table: Sender) -> None:
        join(table, ALICE, G, now=0.0)
        join(table, BOB, G, now=0.0)
        table.query_sent(G, now=10.0)
        assert tell(table, BOB, Record(IS_EX, G), now=10.15) == [HostRefreshed(BOB, (G,))]
        assert table.expire(now=10.6) == [ListenerLeft(G, ALICE)]
        assert table.expire(now=71.0) == []
        assert table.expire(now=71.3) == [ListenerLeft(G, BOB), GroupEmpty(G, certain=True)]

    def test_second_query_does_not_prolong(self, table: Sender) -> None:
        join(table, ALICE, G, now=0.0)
        table.query_sent(G, now=10.0)
        table.query_sent(G, now=10.2)
        assert table.expire(now=10.6) == [ListenerLeft(G, ALICE), GroupEmpty(G, certain=True)]

    def test_of_a_group_without_listeners(self, table: Sender) -> None:
        table.query_sent(G, now=0.0)
        assert table.next_timeout() is None


class TestVersion1:
    def test_done_leaves_doubt_that_a_query_decides(self, table: Sender) -> None:
        assert table.report_v1(ALICE, G, now=0.0) == [ListenerJoined(G, ALICE)]
        assert table.done_v1(ALICE, G, now=1.0) == [ListenerLeft(G, ALICE), GroupEmpty(G, certain=False)]
        assert G in table
        assert table.listeners(G) == frozenset()
        table.query_sent(G, now=1.0)
        assert table.expire(now=1.4) == []
        assert table.expire(now=1.6) == [GroupEmpty(G, certain=True)]
        assert G not in table

    def test_suppressed_listener_answers(self, table: Sender) -> None:
        table.report_v1(ALICE, G, now=0.0)
        table.done_v1(ALICE, G, now=1.0)
        table.query_sent(G, now=1.0)
        assert table.report_v1(BOB, G, now=1.1) == [ListenerJoined(G, BOB)]
        assert table.expire(now=1.6) == []
        assert table.listeners(G) == {BOB}

    def test_doubt_ends_without_a_query_too(self, table: Sender) -> None:
        table.report_v1(ALICE, G, now=0.0)
        table.done_v1(ALICE, G, now=1.0)
        assert table.expire(now=3.1) == [GroupEmpty(G, certain=True)]

    def test_a_leave_of_version_2_is_no_proof_either(self, table: Sender) -> None:
        join(table, ALICE, G, now=0.0)
        table.report_v1(BOB, H, now=1.0)
        assert leave(table, ALICE, G, now=2.0) == [ListenerLeft(G, ALICE), GroupEmpty(G, certain=False)]

    def test_after_a_listening_interval_it_is(self, table: Sender) -> None:
        table.suppression_seen(now=0.0)
        join(table, ALICE, G, now=60.0)
        assert leave(table, ALICE, G, now=61.1) == [ListenerLeft(G, ALICE), GroupEmpty(G, certain=True)]

    def test_done_of_an_unknown_host_is_nothing(self, table: Sender) -> None:
        table.report_v1(ALICE, G, now=0.0)
        assert table.done_v1(BOB, G, now=1.0) == []

    def test_done_of_one_of_two(self, table: Sender) -> None:
        table.report_v1(ALICE, G, now=0.0)
        table.report_v1(BOB, G, now=0.0)
        assert table.done_v1(ALICE, G, now=1.0) == [ListenerLeft(G, ALICE)]


class TestSources:
    @pytest.mark.parametrize(
        ("record", "listens"),
        [
            (Record(TO_IN, G, (OURS, THEIRS)), True),
            (Record(IS_IN, G, (OURS,)), True),
            (Record(TO_IN, G, (THEIRS,)), False),
            (Record(TO_EX, G, (THEIRS,)), True),
            (Record(TO_EX, G, (OURS, THEIRS)), False),
            (Record(IS_EX, G, (OURS,)), False),
            (Record(ALLOW, G, (OURS,)), True),
            (Record(ALLOW, G, (THEIRS,)), False),
            (Record(BLOCK, G, (OURS,)), False),
            (Record(BLOCK, G, (THEIRS,)), False),
            (Record(ALLOW, G), False),
            (Record(BLOCK, G), False),
        ],
    )
    def test_from_nothing(self, table: Sender, record: Record, listens: bool) -> None:
        assert tell(table, ALICE, record, now=0.0) == ([ListenerJoined(G, ALICE)] if listens else [])
        assert table.table.host_count == int(listens)

    @pytest.mark.parametrize(
        ("record", "events"),
        [
            (Record(ALLOW, G, (THEIRS,)), []),
            (Record(BLOCK, G, (THEIRS,)), []),
            (Record(ALLOW, G, (OURS,)), [HostRefreshed(ALICE, (G,))]),
            (Record(BLOCK, G, (OURS,)), [ListenerLeft(G, ALICE), GroupEmpty(G, certain=True)]),
            (Record(TO_IN, G, (THEIRS,)), [ListenerLeft(G, ALICE), GroupEmpty(G, certain=True)]),
            (Record(TO_EX, G, (OURS,)), [ListenerLeft(G, ALICE), GroupEmpty(G, certain=True)]),
        ],
    )
    @pytest.mark.parametrize("first", [Record(TO_EX, G), Record(TO_IN, G, (OURS,))])
    def test_of_a_listener(self, table: Sender, first: Record, record: Record, events: list[Event]) -> None:
        tell(table, ALICE, first, now=0.0)
        assert tell(table, ALICE, record, now=1.0) == events

    @pytest.mark.parametrize("first", [Record(TO_EX, G), Record(TO_IN, G, (OURS, OURS_TOO))])
    def test_two_addresses_of_ours(self, first: Record) -> None:
        table = Sender.of("exact", ours, frozenset((OURS, OURS_TOO)))
        tell(table, ALICE, first, now=0.0)
        assert tell(table, ALICE, Record(BLOCK, G, (OURS,)), now=1.0) == [HostRefreshed(ALICE, (G,))]
        assert tell(table, ALICE, Record(BLOCK, G, (OURS_TOO,)), now=2.0) == [
            ListenerLeft(G, ALICE),
            GroupEmpty(G, certain=True),
        ]

    def test_without_addresses_exclusion_means_nothing(self, kind: Kind) -> None:
        table = Sender.of(kind, ours)
        assert tell(table, ALICE, Record(TO_EX, G, (OURS,)), now=0.0) == [ListenerJoined(G, ALICE)]


class TestLimits:
    def test_foreign_groups_are_ignored(self, table: Sender) -> None:
        assert join(table, ALICE, FOREIGN, now=0.0) == []
        assert leave(table, ALICE, FOREIGN, now=0.0) == []
        assert table.table.counters.foreign == 1
        assert table.table.host_count == 0

    def test_groups_per_host(self, kind: Kind) -> None:
        table = Sender.of(kind, ours, max_groups_per_host=3)
        join(table, ALICE, *map(group, range(5)), now=0.0)
        assert len(table.groups()) == 3
        assert table.table.counters.too_many_groups == 2
        leave(table, ALICE, group(0), now=1.0)
        assert join(table, ALICE, group(4), now=1.0) == [ListenerJoined(group(4), ALICE)]

    def test_hosts(self, kind: Kind) -> None:
        table = Sender.of(kind, ours, max_hosts=1)
        join(table, ALICE, G, now=0.0)
        assert join(table, BOB, G, now=0.0) == []
        assert table.table.counters.too_many_hosts == 1
        table.expire(now=61.1)
        assert join(table, BOB, G, now=62.0) == [ListenerJoined(G, BOB)]

    def test_listeners(self, kind: Kind) -> None:
        table = Sender.of(kind, ours, max_listeners=2)
        join(table, ALICE, G, H, now=0.0)
        assert join(table, BOB, G, now=0.0) == []
        assert table.table.counters.too_many_listeners == 1
        assert table.table.host_count == 1

    def test_churn_leaves_nothing_behind(self, table: Sender) -> None:
        for number in range(1000):
            join(table, ALICE, group(number), now=number * 0.04)
            leave(table, ALICE, group(number), now=number * 0.04)
        assert len(table.groups()) == table.table.host_count == table.table.listener_count == 0
        assert table.next_timeout() is None


class Model:
    """What the table must come to, for reports without sources on a link of version 2."""

    def __init__(self) -> None:
        self.deadlines: dict[tuple[Group, Host], float] = {}

    def report(self, host: Host, record: Record, now: float) -> None:
        if record.type in (IS_EX, TO_EX):
            self.deadlines[record.group, host] = now + 61.0
        elif record.type in (IS_IN, TO_IN):
            self.deadlines.pop((record.group, host), None)

    def query_sent(self, group: Group, now: float) -> None:
        for key, deadline in self.deadlines.items():
            if key[0] == group:
                self.deadlines[key] = min(deadline, now + 0.5)

    def expire(self, now: float) -> None:
        self.deadlines = {key: deadline for key, deadline in self.deadlines.items() if deadline > now}


def check_events(listening: set[tuple[Group, Host]], events: list[Event]) -> None:
    """Apply events to what a caller believes; each must be possible at its place."""
    for event in events:
        match event:
            case ListenerJoined(group, host):
                assert (group, host) not in listening
                listening.add((group, host))
            case HostRefreshed(host, groups):
                assert all((group, host) in listening for group in groups)
            case ListenerLeft(group, host):
                listening.remove((group, host))
            case GroupEmpty(group, certain):
                assert certain
                assert all(other != group for other, _ in listening)


@pytest.mark.parametrize("seed", range(20))
def test_random_operations_against_the_model(seed: int) -> None:
    rng = random.Random(seed)
    hosts = [Host(bytes.fromhex("fe80") + bytes(13) + bytes((i,))) for i in range(4)]
    table, model = Membership(ours), Model()
    believed: set[tuple[Group, Host]] = set()
    now = 0.0
    for _ in range(2000):
        # Whole quarters of a second: the wheel is exact at multiples of 1/16.
        now += rng.choice((0, 0, 0, 1, 4, 40)) / 4
        host, some_group = rng.choice(hosts), group(rng.randrange(6))
        if rng.random() < 0.1:
            table.query_sent(some_group, now=now)
            model.query_sent(some_group, now)
        else:
            record = Record(rng.choice(list(RecordType)), some_group)
            check_events(believed, table.report(host, [record], now=now))
            model.report(host, record, now)
        if rng.random() < 0.5:
            # One tick later everything that is due has expired; nothing else is due in between.
            check_events(believed, table.expire(now=now + 1 / 16))
            model.expire(now + 1 / 32)
            assert believed == model.deadlines.keys()
            assert table.listener_count == len(believed)
            assert {g for g, _ in believed} == {g for g in map(group, range(6)) if g in table}
