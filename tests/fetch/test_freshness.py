"""What is repeated is told from what is said, by the times of the servers' own clocks."""

from __future__ import annotations

import itertools

from mcfs.fetch.freshness import MAX_SERVERS, RESET, TOLERANCE, Freshness

A, B = (b"a" * 16,), (b"b" * 16, b"c" * 16)
NOW_MS = 1_795_000_000_000


def test_each_time_counts_once() -> None:
    freshness = Freshness()
    assert freshness.heard(A, NOW_MS, now=0.0)
    assert not freshness.heard(A, NOW_MS, now=1.0)
    assert not freshness.heard(A, NOW_MS - 1, now=1.0)
    assert freshness.heard(A, NOW_MS + 1, now=2.0)


def test_servers_have_clocks_of_their_own() -> None:
    freshness = Freshness()
    assert freshness.heard(A, NOW_MS, now=0.0)
    assert freshness.heard(B, NOW_MS - 30_000, now=0.0)
    assert not freshness.heard(B, NOW_MS - 30_000, now=0.1)
    assert freshness.heard(B, NOW_MS - 29_000, now=1.0)


def test_a_recording_of_a_server_that_is_no_more_does_not_count() -> None:
    freshness = Freshness()
    freshness.heard(A, NOW_MS, now=0.0)
    assert not freshness.heard(B, NOW_MS - TOLERANCE - 1, now=0.0)
    assert not freshness.heard(B, 0, now=RESET)


def test_a_clock_that_was_set_back_is_believed_after_a_while() -> None:
    freshness = Freshness()
    assert freshness.heard(A, NOW_MS, now=0.0)
    hour_ago = NOW_MS - 3_600_000
    heard = [freshness.heard(A, hour_ago + 1000 * second, now=float(second)) for second in range(1, 120)]
    assert not any(heard[: int(RESET) - 1])
    assert all(heard[int(RESET) + 1 :])
    assert freshness.is_recent(hour_ago + 119_000)
    assert freshness.is_recent(hour_ago + 119_000 - TOLERANCE)
    assert not freshness.is_recent(hour_ago - TOLERANCE)


def test_a_recording_does_not_count_while_the_server_speaks() -> None:
    freshness = Freshness()
    recorded = [NOW_MS + 1000 * second for second in range(600)]
    assert all(freshness.heard(A, time_ms, now=float(i)) for i, time_ms in enumerate(recorded))
    later = 600.0
    assert not any(freshness.heard(A, time_ms, now=later) for time_ms in recorded)


def test_what_was_said_within_the_tolerance_is_recent() -> None:
    freshness = Freshness()
    freshness.heard(A, NOW_MS, now=0.0)
    assert freshness.is_recent(NOW_MS - TOLERANCE)
    assert freshness.is_recent(NOW_MS + 10**9)
    assert not freshness.is_recent(NOW_MS - TOLERANCE - 1)


def test_it_is_bounded() -> None:
    freshness = Freshness()
    for number, time_ms in zip(range(100), itertools.count(NOW_MS), strict=False):
        assert freshness.heard((bytes([number]) * 16,), time_ms, now=1.0)
    assert len(freshness._newest) == MAX_SERVERS
