"""The token bucket, with literal times."""

from __future__ import annotations

import pytest

from mcfs.serve.pacer import MIN_DEPTH, ClassPacer, Pacer


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


def spent(rate: float, waiting: list[int], seconds: float, burst: int = 96_000) -> dict[int, float]:
    """Parts of the rate that classes get which always have something to send."""
    pacer, now = ClassPacer(rate), 0.0
    bits = dict.fromkeys(waiting, 0)
    while now < seconds:
        turns = pacer.turns(waiting, now)
        if turns:
            pacer.spend(turns[0], burst)
            bits[turns[0]] += burst
        else:
            now = max(now + 1e-6, pacer.ready_at(waiting, now))
    return {pace: count / rate / seconds for pace, count in bits.items()}


@pytest.mark.parametrize(
    ("waiting", "parts"),
    [
        ([0], [1.0]),
        ([3], [1 / 8]),
        ([0, 3], [7 / 8, 1 / 8]),
        ([0, 1], [1 / 2, 1 / 2]),
        ([0, 1, 2], [3 / 8, 3 / 8, 1 / 4]),
    ],
)
def test_classes_get_equal_parts_but_none_more_than_its_own_rate(waiting: list[int], parts: list[float]) -> None:
    found = spent(1e8, waiting, 10.0)
    assert list(found.values()) == pytest.approx(parts, rel=0.05)


def test_a_class_that_was_away_does_not_make_up_for_it() -> None:
    pacer = ClassPacer(1e9)
    for step in range(1000):
        if pacer.turns([0], step * 0.001):
            pacer.spend(0, 96_000)
    order = []
    for _ in range(8):
        pacer.spend(turn := pacer.turns([0, 1], 1.0)[0], 48_000)
        order.append(turn)
    assert order.count(0) >= 3
