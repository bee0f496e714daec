"""The querier in literal times: start-up, election, specific queries, advertisements."""

from __future__ import annotations

import itertools
import random

import pytest

from mcfs.protocol import mld
from mcfs.protocol.ids import Group, Host
from mcfs.protocol.mld import Advertisement, Envelope, Query, Termination
from mcfs.serve.querier import (
    MAX_OTHER_QUERIER,
    MAX_QUERIERS_TOLD,
    MAX_WAITING,
    Mode,
    OldQuerier,
    OtherQuerier,
    Outgoing,
    Querier,
    Timers,
)


def link_local(number: int) -> Host:
    return Host(bytes.fromhex("fe80") + number.to_bytes(14, "big"))


def group(number: int) -> Group:
    return Group(bytes.fromhex("ff15") + number.to_bytes(14, "big"))


LOWER, OURS, HIGHER = link_local(1), link_local(2), link_local(3)
G = group(1)
GENERAL = Query(max_response=1.0, robustness=2, interval=30)
SPECIFIC = Query(G, max_response=0.2, robustness=2, interval=30)
THEIRS = Query(max_response=10.0, robustness=3, interval=100)


def parse(outgoing: Outgoing) -> Query | mld.RouterDiscovery:
    envelope = Envelope(OURS, outgoing.destination, hop_limit=1, router_alert=True, ifindex=1)
    if outgoing.message[0] == mld.QUERY:
        return mld.parse_query_untrusted(outgoing.message, envelope)
    return mld.parse_router_discovery_untrusted(outgoing.message, envelope)


def make(mode: Mode = "auto", now: float = 0.0) -> Querier:
    return Querier(OURS, now=now, rng=random.Random(1), mode=mode)


def queries(querier: Querier, now: float) -> list[Query]:
    parsed = map(parse, querier.messages_to_send(now=now))
    return [message for message in parsed if isinstance(message, Query)]


def run(querier: Querier, until: float) -> list[tuple[float, Query | mld.RouterDiscovery]]:
    """Whatever goes out at the times that the querier asks for, up to `until`."""
    sent: list[tuple[float, Query | mld.RouterDiscovery]] = []
    while (now := querier.next_timeout()) <= until:
        sent.extend((now, parse(outgoing)) for outgoing in querier.messages_to_send(now=now))
        assert querier.next_timeout() > now
    return sent


def query_times(querier: Querier, until: float) -> list[float]:
    return [now for now, message in run(querier, until) if message == GENERAL]


def settled(mode: Mode = "auto") -> Querier:
    """A querier past its start-up: it is 10.0, and the next general query goes at 32.0."""
    querier = make(mode)
    run(querier, 10.0)
    return querier


class TestGeneralQueries:
    @pytest.mark.parametrize("mode", ["auto", "on"])
    def test_three_at_the_start_then_one_every_interval(self, mode: Mode) -> None:
        assert query_times(make(mode), 100.0) == [0.0, 1.0, 2.0, 32.0, 62.0, 92.0]

    def test_go_to_all_nodes(self) -> None:
        assert {
            outgoing.destination for outgoing in make().messages_to_send(now=0.0) if outgoing.message[0] == mld.QUERY
        } == {mld.ALL_NODES}

    def test_off_sends_none(self) -> None:
        querier = make("off")
        assert not querier.is_querier
        assert query_times(querier, 100.0) == []


class TestRestart:
    def test_it_queries_as_at_the_start(self) -> None:
        querier = settled()
        querier.restart(OURS, now=10.0)
        assert query_times(querier, 50.0) == [10.0, 11.0, 12.0, 42.0]

    def test_the_other_querier_is_not_believed_any_more(self) -> None:
        querier = settled()
        querier.query_heard(THEIRS, LOWER, now=10.0)
        querier.restart(OURS, now=11.0)
        assert (querier.is_querier, querier.other, querier.timers) == (True, None, Timers())
        assert query_times(querier, 13.0) == [11.0, 12.0, 13.0]

    def test_the_new_address_counts_in_the_election(self) -> None:
        querier = settled()
        querier.restart(link_local(9), now=10.0)
        assert querier.query_heard(GENERAL, link_local(9), now=10.0) == []
        assert querier.query_heard(GENERAL, HIGHER, now=10.0) == [OtherQuerier(HIGHER)]

    def test_it_advertises_at_once_and_forgets_what_it_would_have_asked(self) -> None:
        querier = settled()
        querier.ask(G, now=10.0)
        querier.restart(OURS, now=10.0)
        sent = [parse(outgoing) for outgoing in querier.messages_to_send(now=10.0)]
        assert sent == [Advertisement(20, 30, 2), GENERAL]


class TestElection:
    def test_lower_address_silences(self) -> None:
        querier = settled()
        assert querier.query_heard(GENERAL, LOWER, now=10.0) == [OtherQuerier(LOWER)]
        assert not querier.is_querier
        assert querier.other == LOWER
        assert query_times(querier, 70.0) == []

    def test_its_silence_ends_that(self) -> None:
        querier = settled()
        querier.query_heard(GENERAL, LOWER, now=10.0)
        # 2 * 30 + 1 / 2 later; then every 30 s, without another start-up.
        assert query_times(querier, 140.0) == [70.5, 100.5, 130.5]
        assert querier.is_querier
        assert querier.other is None

    def test_turns_of_two_others_are_told_once_each(self) -> None:
        querier = settled("off")
        for _ in range(3):
            querier.query_heard(GENERAL, HIGHER, now=10.0)
            assert querier.query_heard(GENERAL, HIGHER, now=10.0) == []
            querier.query_heard(GENERAL, LOWER, now=10.0)
            assert querier.query_heard(GENERAL, LOWER, now=10.0) == []
        told = sum(len(querier.query_heard(GENERAL, link_local(1000 + i), now=11.0)) for i in range(100))
        assert told == MAX_QUERIERS_TOLD - 2

    def test_each_of_its_queries_prolongs(self) -> None:
        querier = settled()
        querier.query_heard(GENERAL, LOWER, now=10.0)
        assert querier.query_heard(GENERAL, LOWER, now=40.0) == []
        assert query_times(querier, 101.0) == [100.5]

    def test_higher_address_does_not(self) -> None:
        querier = settled()
        assert querier.query_heard(THEIRS, HIGHER, now=10.0) == []
        assert querier.timers == Timers()
        assert query_times(querier, 32.0) == [32.0]

    def test_own_query_looped_back_is_nothing(self) -> None:
        querier = settled("off")
        assert querier.query_heard(Query(version=1), OURS, now=10.0) == []
        assert querier.other is None

    def test_on_yields_to_nobody(self) -> None:
        querier = settled("on")
        assert querier.query_heard(THEIRS, LOWER, now=10.0) == []
        assert querier.timers == Timers()
        assert query_times(querier, 32.0) == [32.0]

    def test_off_takes_over_the_timers_of_any(self) -> None:
        querier = settled("off")
        assert querier.query_heard(THEIRS, HIGHER, now=10.0) == [OtherQuerier(HIGHER)]
        assert querier.timers == Timers(3, 100.0, 10.0)

    def test_start_up_is_cut_short(self) -> None:
        querier = make()
        run(querier, 0.5)
        querier.query_heard(GENERAL, LOWER, now=0.5)
        assert query_times(querier, 60.0) == []


class TestAdoption:
    def test_one_forged_query_silences_for_minutes_and_not_for_hours(self) -> None:
        querier = settled()
        querier.query_heard(Query(max_response=8387.0, robustness=7, interval=31744), LOWER, now=10.0)
        assert queries(querier, 10.0 + MAX_OTHER_QUERIER - 1) == []
        assert not querier.is_querier
        assert len(queries(querier, 10.0 + MAX_OTHER_QUERIER)) == 1
        assert querier.is_querier

    def test_timers_come_and_go_with_the_querier(self) -> None:
        querier = settled()
        querier.query_heard(THEIRS, LOWER, now=10.0)
        assert querier.timers == Timers(3, 100.0, 10.0)
        querier.messages_to_send(now=314.9)
        assert querier.timers == Timers(3, 100.0, 10.0)
        querier.messages_to_send(now=315.0)
        assert querier.timers == Timers()

    def test_specific_query_does_not_set_the_response_interval(self) -> None:
        querier = settled()
        querier.query_heard(THEIRS, LOWER, now=10.0)
        querier.query_heard(Query(G, 1.0, robustness=3, interval=100), LOWER, now=11.0)
        assert querier.timers == Timers(3, 100.0, 10.0)

    @pytest.mark.parametrize(
        ("query", "timers"),
        [
            (Query(max_response=10.0, version=1), Timers(2, 125.0, 10.0)),
            (Query(max_response=10.0, robustness=0, interval=0), Timers(2, 125.0, 10.0)),
            (Query(max_response=10.0, robustness=1, interval=1), Timers(2, 5.0, 5.0)),
            (Query(max_response=8387.0, robustness=7, interval=31744), Timers(7, 600.0, 600.0)),
        ],
    )
    def test_defaults_and_bounds(self, query: Query, timers: Timers) -> None:
        querier = settled()
        querier.query_heard(query, LOWER, now=10.0)
        assert querier.timers == timers


class TestOldQuerier:
    def test_is_told_once_for_each_address(self) -> None:
        querier = settled()
        old = Query(max_response=10.0, version=1)
        assert querier.query_heard(old, HIGHER, now=10.0) == [OldQuerier(HIGHER)]
        assert querier.query_heard(old, HIGHER, now=11.0) == []
        assert querier.query_heard(old, LOWER, now=12.0) == [OldQuerier(LOWER), OtherQuerier(LOWER)]

    def test_higher_one_is_overruled(self) -> None:
        querier = settled()
        querier.query_heard(Query(max_response=10.0, version=1), HIGHER, now=10.0)
        assert query_times(querier, 32.0) == [32.0]

    def test_memory_is_bounded(self) -> None:
        querier = settled()
        old = Query(version=1)
        told = sum(len(querier.query_heard(old, link_local(1000 + i), now=10.0)) for i in range(100))
        assert told == MAX_QUERIERS_TOLD


class TestSpecificQueries:
    def test_ask_sends_two(self) -> None:
        querier = settled()
        assert querier.ask(G, now=10.0)
        assert queries(querier, 10.0) == [SPECIFIC]
        assert querier.next_timeout() == 10.2
        assert queries(querier, 10.19) == []
        assert queries(querier, 10.2) == [SPECIFIC]
        assert queries(querier, 10.4) == []

    def test_forget_sends_one(self) -> None:
        querier = settled()
        assert querier.forget(G, now=10.0)
        assert queries(querier, 10.0) == [SPECIFIC]
        assert queries(querier, 11.0) == []

    def test_go_to_the_group(self) -> None:
        querier = settled()
        querier.forget(G, now=10.0)
        assert [outgoing.destination for outgoing in querier.messages_to_send(now=10.0)] == [G]

    def test_ask_outdoes_forget(self) -> None:
        querier = settled()
        querier.forget(G, now=10.0)
        querier.ask(G, now=10.0)
        querier.forget(G, now=10.0)
        assert queries(querier, 10.0) + queries(querier, 10.2) == [SPECIFIC, SPECIFIC]

    def test_asking_twice_is_asking_once(self) -> None:
        querier = settled()
        querier.ask(G, now=10.0)
        assert queries(querier, 10.0) == [SPECIFIC]
        querier.ask(G, now=10.1)
        assert queries(querier, 10.1) == []
        assert queries(querier, 10.2) == [SPECIFIC]

    def test_cancel(self) -> None:
        querier = settled()
        querier.ask(G, now=10.0)
        assert queries(querier, 10.0) == [SPECIFIC]
        querier.cancel(G)
        assert queries(querier, 10.2) == []
        querier.forget(G, now=10.3)
        querier.cancel(G)
        assert queries(querier, 10.3) == []

    def test_non_querier_sends_none(self) -> None:
        querier = settled()
        querier.ask(G, now=10.0)
        querier.query_heard(GENERAL, LOWER, now=10.0)
        assert not querier.ask(G, now=10.0)
        assert not querier.forget(G, now=10.0)
        assert queries(querier, 10.0) == []

    def test_rate_is_bounded(self) -> None:
        querier = settled()
        run(querier, 12.0)
        for number in range(1000):
            assert querier.forget(group(number), now=12.0)
        assert len(queries(querier, 12.0)) == 64
        assert querier.next_timeout() == pytest.approx(12.004, abs=1e-4)
        sent = [message for _, message in run(querier, 12.1) if isinstance(message, Query)]
        assert len(sent) == pytest.approx(400, abs=16)
        run(querier, 12.3)
        assert querier.counters.specific == 1000

    def test_queue_is_bounded(self) -> None:
        querier = settled()
        assert [querier.forget(group(number), now=10.0) for number in range(MAX_WAITING + 2)].count(False) == 2
        assert querier.counters.dropped == 2


class TestRouterDiscovery:
    def test_three_soon_then_one_every_20_seconds(self) -> None:
        messages = run(make("off"), 100.0)
        assert {message for _, message in messages} == {Advertisement(20, 30, 2)}
        times = [now for now, _ in messages]
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert times[0] == 0.0
        assert all(1.0 <= gap <= 2.0 for gap in gaps[:2])
        assert all(19.5 <= gap <= 20.5 for gap in gaps[2:])
        assert len(set(gaps)) == len(gaps) == 6

    def test_go_to_all_snoopers(self) -> None:
        assert [outgoing.destination for outgoing in make("off").messages_to_send(now=0.0)] == [mld.ALL_SNOOPERS]

    def test_tells_the_variables_of_the_querier(self) -> None:
        querier = make()
        querier.query_heard(THEIRS, LOWER, now=0.0)
        assert parse(querier.messages_to_send(now=0.0)[0]) == Advertisement(20, 100, 3)

    def test_solicitation_is_answered_within_two_seconds(self) -> None:
        querier = settled("off")
        querier.solicited(now=10.0)
        assert [message for _, message in run(querier, 12.0)] == [Advertisement(20, 30, 2)]

    def test_flood_of_solicitations_is_not(self) -> None:
        querier = settled("off")
        sent = 0
        for millisecond in range(10_000):
            now = 10.0 + millisecond / 1000
            querier.solicited(now=now)
            sent += len(querier.messages_to_send(now=now))
        assert 5 <= sent <= 10

    def test_stop_says_so(self) -> None:
        [outgoing] = make().stop()
        assert outgoing.destination == mld.ALL_SNOOPERS
        assert parse(outgoing) == Termination()
