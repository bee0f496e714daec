"""When batches may be made, in literal times."""

from __future__ import annotations

import pytest

from mcfs.fetch.batches import DEPTH, HURRY, TICK, BatchBucket, hurry


def spent(now: float) -> BatchBucket:
    """One that has just given all its tokens."""
    bucket = BatchBucket()
    assert [bucket.take(now) for _ in range(DEPTH + 1)] == [True] * DEPTH + [False]
    return bucket


def test_a_few_at_once_then_one_per_tick() -> None:
    bucket = spent(5.0)
    assert bucket.ready_at(5.0) == pytest.approx(5.0 + TICK)
    assert not bucket.take(5.0 + TICK - 0.001)
    assert bucket.take(5.0 + TICK)
    assert bucket.ready_at(5.0 + TICK) == pytest.approx(5.0 + 2 * TICK)


def test_who_is_in_a_hurry_waits_half_a_tick() -> None:
    bucket = spent(5.0)
    assert bucket.ready_at(5.0, hurried=True) == pytest.approx(5.0 + HURRY)
    assert not bucket.take(5.0 + HURRY - 0.001, hurried=True)
    assert bucket.take(5.0 + HURRY, hurried=True)
    assert not bucket.take(5.0 + 2 * HURRY - 0.001, hurried=True)
    assert bucket.take(5.0 + 2 * HURRY, hurried=True)


def test_a_token_taken_early_has_to_accrue_anew() -> None:
    bucket = spent(5.0)
    assert bucket.take(5.0 + HURRY, hurried=True)
    assert bucket.ready_at(5.0 + HURRY) == pytest.approx(5.0 + HURRY + TICK)


def test_after_a_quiet_time_nobody_waits() -> None:
    bucket = spent(5.0)
    assert bucket.ready_at(6.0) == bucket.ready_at(6.0, hurried=True) == 6.0
    assert [bucket.take(6.0, hurried=True) for _ in range(DEPTH)] == [True] * DEPTH


def test_hurry_is_never_shorter_than_the_kernels_report_delay() -> None:
    assert hurry(0.001) == hurry(0.004) == HURRY
    assert hurry(0.010) == TICK, "three jiffies are 30 ms there"
