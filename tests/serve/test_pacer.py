"""The token bucket, with literal times."""

from __future__ import annotations

import pytest

from mcfs.serve.pacer import MIN_DEPTH, Pacer


def test_a_full_bucket_sends_at_once_and_then_waits_for_what_it_spent() -> None:
    pacer = Pacer(8e6)
    assert pacer.ready_at(10.0) == 10.0
    pacer.spend(MIN_DEPTH + 8_000_000)
    assert pacer.ready_at(10.0) == pytest.approx(11.0)
    assert pacer.ready_at(11.5) == 11.5


def test_the_bucket_does_not_fill_past_its_depth() -> None:
    pacer = Pacer(8e6)
    pacer.ready_at(0.0)
    pacer.ready_at(1000.0)
    pacer.spend(MIN_DEPTH + 8)
    assert pacer.ready_at(1000.0) == pytest.approx(1000.0 + 1e-6)


def test_time_that_goes_back_gives_nothing() -> None:
    pacer = Pacer(8e6)
    pacer.ready_at(5.0)
    pacer.spend(MIN_DEPTH + 8_000_000)
    assert pacer.ready_at(4.0) > 4.0
