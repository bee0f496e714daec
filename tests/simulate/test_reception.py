"""Who has which symbols, against sets of numbers."""

from __future__ import annotations

import random

import numpy as np
import pytest

from mcfs.simulate.reception import Burst, Reception

K = 100


def reception(seed: int = 1) -> Reception:
    return Reception(K, np.random.default_rng(seed))


def losses(*shares: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(shares, dtype=np.float32)


def test_source_symbols_count_once() -> None:
    r = reception()
    r.listen(7)
    for _ in range(2):
        list(r.take(r.listeners(), Burst(10, 20, repair=False), None))
    assert r.missing(r.row(7)) == K - 20


def test_repair_symbols_are_new_to_everybody() -> None:
    r = reception()
    r.listen(7)
    for _ in range(2):
        list(r.take(r.listeners(), Burst(10, 20, repair=True), None))
    assert r.missing(r.row(7)) == K - 40


def test_who_listens_is_told_of_the_first_symbols_of_quarters_and_of_the_end() -> None:
    r = reception()
    r.listen(7)
    told = [len(list(r.take(r.listeners(), Burst(i, 1, repair=False), None))) for i in range(K)]
    assert [i for i, times in enumerate(told) if times] == [0, 25, 50, 75, 99]
    assert r.has_enough(r.row(7))
    assert len(r.listeners()) == 0


def test_what_is_told_adds_up() -> None:
    r = reception()
    r.listen(7)
    tellings = [t for i in range(K) for t in r.take(r.listeners(), Burst(i, 1, repair=False), None)]
    assert sum(t[2] for t in tellings) == sum(t[3] for t in tellings) == K


def test_who_does_not_listen_gets_nothing_and_keeps_what_came() -> None:
    r = reception()
    r.listen(7)
    list(r.take(r.listeners(), Burst(0, 30, repair=False), None))
    r.stop(7)
    assert len(r.listeners()) == 0
    r.listen(7)
    assert r.missing(r.row(7)) == K - 30


def test_a_freed_row_is_as_new() -> None:
    r = reception()
    r.listen(7)
    list(r.take(r.listeners(), Burst(0, K, repair=False), None))
    r.free(7)
    r.listen(8)
    assert len(r) == 1
    assert r.missing(r.row(8)) == K
    assert not r.has_enough(r.row(8))


def test_loss_is_as_frequent_as_it_should_be() -> None:
    r = reception()
    for reader in range(500):
        r.listen(reader)
    shares = losses(*[0.1] * 250, *[0.4] * 250)
    list(r.take(r.listeners(), Burst(0, 50, repair=False), shares))
    list(r.take(r.listeners(), Burst(0, 40, repair=True), shares))
    came = np.array([K - r.missing(r.row(reader)) for reader in range(500)])
    assert came[:250].mean() == pytest.approx(90 * 0.9, abs=1.5)
    assert came[250:].mean() == pytest.approx(90 * 0.6, abs=1.5)


def test_now_and_then_k_symbols_do_not_suffice() -> None:
    """RFC 6330: 1 % of all decodes with K symbols fail, and no decode of source symbols alone."""
    repaired, whole = reception(), reception()
    for r, repair in ((repaired, True), (whole, False)):
        for reader in range(5000):
            r.listen(reader)
        list(r.take(r.listeners(), Burst(0, K, repair=repair), None))
    assert 20 <= len(repaired.listeners()) <= 90
    assert len(whole.listeners()) == 0
    list(repaired.take(repaired.listeners(), Burst(0, 2, repair=True), None))
    assert len(repaired.listeners()) == 0


@pytest.mark.parametrize("seed", range(20))
def test_against_sets(seed: int) -> None:
    rng = random.Random(seed)
    r, model, listening = reception(seed), dict[int, set[int]](), set[int]()
    for step in range(300):
        reader = rng.randrange(12)
        match rng.randrange(5):
            case 0:
                r.listen(reader)
                listening.add(reader)
                model.setdefault(reader, set())
            case 1:
                r.stop(reader)
                listening.discard(reader)
            case 2 if rng.random() < 0.2:
                r.free(reader)
                listening.discard(reader)
                model.pop(reader, None)
            case _:
                start, count = rng.randrange(K - 8), rng.randint(1, 8)
                repair = rng.random() < 0.2
                numbers = range(K + 10 * step, K + 10 * step + count) if repair else range(start, start + count)
                for each in listening:
                    if r.needing(each) is not None:
                        model[each].update(numbers)
                list(r.take(r.listeners(), Burst(start, count, repair), None))
        assert {each: r.missing(r.row(each)) for each in model} == {e: max(0, K - len(s)) for e, s in model.items()}
