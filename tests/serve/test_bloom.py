"""What only the Bloom table does; what it has in common with the exact one is in test_membership.py."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcfs.protocol.ids import Group, Host
from mcfs.protocol.mld import Record, RecordType
from mcfs.serve import bloom
from mcfs.serve.bloom import BloomMembership
from mcfs.serve.membership import GroupEmpty, HostRefreshed, ListenerJoined, ListenerLeft
from mcfs.serve.timedfilter import slots_for
from tests.serve.sender import SECRET, Sender

_, IS_EX, TO_IN, TO_EX, ALLOW, BLOCK = RecordType
OURS, OURS_TOO = (bytes.fromhex("20010db8") + bytes(11) + bytes((i,)) for i in (1, 2))


def host(number: int) -> Host:
    return Host(bytes.fromhex("fe80") + number.to_bytes(14, "big"))


def group(number: int) -> Group:
    return Group(bytes.fromhex("ff15") + number.to_bytes(14, "big"))


def ours(candidate: Group) -> bool:
    return candidate[1] == 0x15


def records(kind: RecordType, numbers: range) -> list[Record]:
    return [Record(kind, group(number)) for number in numbers]


G, H, ALICE, BOB = group(1), group(2), host(1), host(2)
JOIN = [Record(TO_EX, G)]
LEAVE = [Record(TO_IN, G)]


def full(rate: float, count: int = 1000) -> Sender:
    """A table that holds as many as it is made for: 100 hosts."""
    table = Sender.of("bloom", ours, max_listeners=count, false_positives=rate)
    for number in range(100):
        table.report(host(number), records(TO_EX, range(number, number + count // 100)), now=0.0)
    return table


class TestFalsePositives:
    def test_who_looks_refreshed_is_admitted_and_can_leave(self) -> None:
        table = Sender.of("bloom", ours, max_listeners=1000, false_positives=0.5)
        for number in range(10):
            table.report(host(number), records(TO_EX, range(100)), now=0.0)
        assert table.mistaken > 20
        assert table.table.listener_count == 1000
        assert {len(hosts) for _, hosts in table.groups()} == {10}
        for number in range(10):
            table.report(host(number), records(TO_IN, range(100)), now=1.0)
        assert table.groups() == []
        assert table.table.listener_count == table.table.host_count == 0

    def test_foreign_groups_are_not_admitted(self) -> None:
        table = full(0.5)
        foreign = [Record(TO_EX, Group(bytes.fromhex("ff18") + bytes(13) + bytes((i,)))) for i in range(72)]
        events = table.report(ALICE, foreign, now=1.0)
        assert events
        assert all(isinstance(event, HostRefreshed) for event in events)
        assert all(ours(known) for known, _ in table.groups())

    def test_they_are_as_rare_as_they_should_be(self) -> None:
        table = Sender.of("bloom", ours, max_listeners=10_000)
        for number in range(100):
            table.report(host(number), records(TO_EX, range(100)), now=0.0)
        assert table.mistaken < 15


class TestHostileHosts:
    def test_leaves_of_what_was_never_joined_take_nothing_from_others(self) -> None:
        table = full(0.3)
        before = dict(table.groups())
        for start in range(10_000, 20_000, 72):
            assert table.report(host(1000), records(TO_IN, range(start, start + 72)), now=1.0) == []
        self.all_are_refreshed(table, before)

    def test_nor_do_joins_and_leaves_that_hit_by_chance(self) -> None:
        table = Sender.of("bloom", ours, max_listeners=1000, false_positives=0.3)
        for number in range(90):
            table.report(host(number), records(TO_EX, range(number, number + 10)), now=0.0)
        before = dict(table.groups())
        for start in range(10_000, 20_000, 72):
            for kind in (TO_EX, TO_EX, TO_IN, TO_IN):
                table.report(host(1000), records(kind, range(start, start + 72)), now=1.0)
        assert table.mistaken > 1000
        assert table.table.listener_count == 900
        self.all_are_refreshed(table, before)

    @staticmethod
    def all_are_refreshed(table: Sender, before: dict[Group, frozenset[Host]]) -> None:
        assert dict(table.groups()) == before
        for known, hosts in before.items():
            for one in hosts:
                assert table.report(one, [Record(TO_EX, known)], now=2.0) == [HostRefreshed(one, (known,))]

    def test_what_the_sender_refused_is_forgotten_by_the_next_sweep(self) -> None:
        class Refusing(Sender):
            def listeners(self, group: Group) -> frozenset[Host]:
                return frozenset()

            def groups(self) -> list[tuple[Group, frozenset[Host]]]:
                return []

        refusing = Refusing(lambda sender: BloomMembership(ours, sender, secret=SECRET, expected_listeners=100))
        refusing.table.report(ALICE, records(TO_EX, range(72)), now=0.0)
        assert refusing.table.listener_count == 72
        assert refusing.table.expire(now=61.1) == []
        assert refusing.table.listener_count == refusing.table.host_count == 0
        assert refusing.table.report(ALICE, JOIN, now=62.0) == [ListenerJoined(G, ALICE)]


class TestOneReport:
    def test_the_last_record_of_a_group_counts(self) -> None:
        table = Sender.of("bloom", ours)
        assert table.report(ALICE, LEAVE + JOIN, now=0.0) == [ListenerJoined(G, ALICE)]
        assert table.report(ALICE, LEAVE + JOIN, now=1.0) == [HostRefreshed(ALICE, (G,))]
        assert table.report(ALICE, JOIN + LEAVE, now=1.0) == [ListenerLeft(G, ALICE), GroupEmpty(G, certain=True)]

    def test_what_is_blocked_in_part_stays(self) -> None:
        table = Sender.of("bloom", ours, frozenset((OURS, OURS_TOO)))
        part, all_ = [Record(BLOCK, G, (OURS,))], [Record(BLOCK, G, (OURS, OURS_TOO))]
        assert table.report(ALICE, part, now=0.0) == []
        table.report(ALICE, JOIN, now=0.0)
        assert table.report(ALICE, part, now=1.0) == [HostRefreshed(ALICE, (G,))]
        assert table.report(ALICE, all_, now=2.0) == [ListenerLeft(G, ALICE), GroupEmpty(G, certain=True)]

    def test_new_sources_beside_blocked_ones(self) -> None:
        table = Sender.of("bloom", ours, frozenset((OURS,)))
        changes = [Record(ALLOW, G, (OURS,)), Record(BLOCK, G, (OURS_TOO,))]
        assert table.report(ALICE, changes, now=0.0) == [ListenerJoined(G, ALICE)]


class TestTime:
    def test_sweeps_leave_time_between_them(self) -> None:
        table = Sender.of("bloom", ours, max_listeners=20_000)
        for number in range(100):
            table.report(host(number), records(TO_EX, range(200)), now=number / 100)
        first = table.expire(now=61.1)
        assert 0.99 * 7 * 200 <= len(first) <= 7 * 200, "a few slots have later deadlines, of others"
        due = table.next_timeout()
        assert due == pytest.approx(61.1 + (20_000 - len(first)) * bloom.SWEEP_GAP)
        assert table.expire(now=62.0) == []
        events = table.expire(now=62.1)
        assert sum(isinstance(event, ListenerLeft) for event in events) == 20_000 - len(first)
        assert sum(isinstance(event, GroupEmpty) for event in events) == 200
        assert table.next_timeout() is None

    def test_there_are_few_sweeps_while_all_refresh(self) -> None:
        class Counting(Sender):
            sweeps = 0

            def groups(self) -> list[tuple[Group, frozenset[Host]]]:
                self.sweeps += 1
                return super().groups()

        table = Counting(lambda sender: BloomMembership(ours, sender, secret=SECRET))
        for second in range(600):
            if second % 30 == 0:
                table.report(ALICE, records(IS_EX, range(64)), now=second)
            assert table.expire(now=second) == []
        assert table.sweeps <= 20

    def test_a_shorter_interval_does_not_drop_who_answers(self) -> None:
        table = Sender.of("bloom", ours)
        table.report(ALICE, JOIN, now=0.0)
        table.query_sent(G, now=10.0)
        table.set_timers(2, 10.0, 1.0)
        assert table.report(ALICE, [Record(IS_EX, G)], now=10.2) == [HostRefreshed(ALICE, (G,))]
        assert table.expire(now=10.6) == []

    def test_an_answer_counts_among_many(self) -> None:
        """Slots that others refresh keep hardly anybody who is silent."""
        table = full(0.001)
        for number in range(1, 100):
            table.report(host(number), records(IS_EX, range(number, number + 10)), now=5.0)
        for number in range(10):
            table.query_sent(group(number), now=4.0)
        left = [event for event in table.expire(now=4.5) if isinstance(event, ListenerLeft)]
        assert {event.host for event in left} == {host(0)}
        assert len(left) >= 9

    def test_asked_groups_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bloom, "MAX_ASKED", 3)
        table = Sender.of("bloom", ours)
        table.report(ALICE, records(TO_EX, range(10)), now=0.0)
        for number in range(10):
            table.query_sent(group(number), now=1.0)
            table.query_sent(group(100 + number), now=1.0)
        assert sum(isinstance(event, ListenerLeft) for event in table.expire(now=1.5)) == 3

    def test_doubts_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bloom, "MAX_ASKED", 3)
        table = Sender.of("bloom", ours)
        for number in range(5):
            table.report_v1(ALICE, group(number), now=0.0)
        events = [event for n in range(5) for event in table.done_v1(ALICE, group(n), now=1.0)]
        assert [event.certain for event in events if isinstance(event, GroupEmpty)] == [False] * 3 + [True] * 2
        assert table.expire(now=3.0) == [GroupEmpty(group(n), certain=True) for n in range(3)]


class TestMemory:
    def test_it_is_what_the_size_says(self) -> None:
        table = Sender.of("bloom", ours, max_listeners=65_536)
        assert isinstance(table.table, BloomMembership)
        assert table.table.nbytes == 5 * slots_for(65_536) < 5e6

    def test_it_does_not_grow(self) -> None:
        class Nobody:
            def listeners(self, group: Group) -> tuple[Host, ...]:
                return ()

            def groups(self) -> tuple[tuple[Group, tuple[Host, ...]], ...]:
                return ()

        table = BloomMembership(ours, Nobody(), secret=SECRET, expected_listeners=20_000)
        fill = itertools.count()

        def report(count: int) -> None:
            for _ in range(count):
                number = next(fill)
                table.report(host(number % 512), records(TO_EX, range(64 * number, 64 * number + 64)), now=0.0)

        report(512)
        tracemalloc.start()
        try:
            report(1000)
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert table.counters.too_many_listeners > 0
        assert grown < 500_000, "hosts are counted, groups are not"


STEPS = st.lists(
    st.tuples(
        st.sampled_from((0, 1, 1, 4, 40)),
        st.integers(0, 3),
        st.one_of(
            st.lists(st.tuples(st.sampled_from(list(RecordType)), st.integers(0, 5)), unique_by=lambda item: item[1]),
            st.integers(0, 5),
        ),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_it_comes_to_what_the_exact_table_comes_to(
    steps: list[tuple[int, int, list[tuple[RecordType, int]] | int]],
) -> None:
    """At a low rate of false positives. An integer instead of records is a query for that group."""
    tables = Sender.of("exact", ours), Sender.of("bloom", ours)
    now, asked = 0.0, dict.fromkeys(range(6), -1.0)
    for quarters, who, what in steps:
        now += quarters / 4
        if isinstance(what, int):
            now += 0.25  # one who reports in the same moment has answered
            if now < asked[what] + 1.0:
                continue
            asked[what] = now
        told = []
        for table in tables:
            table.expire(now=now - 1 / 16)  # a query has no effect while answers to the last one are not looked at
            if isinstance(what, int):
                table.query_sent(group(what), now=now)
            else:
                told.append(table.report(host(who), [Record(kind, group(g)) for kind, g in what], now=now))
            table.expire(now=now + 1 / 16)
        assert told[:1] == told[1:]
        exact, filtered = (dict(table.groups()) for table in tables)
        assert exact == filtered
        assert tables[0].table.listener_count == tables[1].table.listener_count
    assert tables[1].mistaken == 0
