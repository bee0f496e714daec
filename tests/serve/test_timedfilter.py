"""The filter by itself: what is in it is found, what is not hardly ever, and positions hang on the secret."""

from __future__ import annotations

import random

import numpy as np
import pytest

from mcfs.protocol.ids import Group, Host
from mcfs.serve.timedfilter import BYTES_PER_SLOT, TimedFilter, probes_for, slots_for

SECRET = bytes(32)


def host(number: int) -> Host:
    return Host(bytes.fromhex("fe80") + number.to_bytes(14, "big"))


def groups(count: int, seed: int = 0) -> list[Group]:
    rng = random.Random(seed)
    return [Group(bytes.fromhex("ff15") + rng.randbytes(14)) for _ in range(count)]


def neighbours(count: int) -> list[Group]:
    """As an object's channels are: they differ in few bits."""
    return [Group(bytes.fromhex("ff15") + bytes(10) + number.to_bytes(4, "big")) for number in range(count)]


def test_size() -> None:
    assert slots_for(1_000_000) == 14_377_588
    assert probes_for() == 10
    assert TimedFilter(1000, SECRET).nbytes == slots_for(1000) * BYTES_PER_SLOT


def test_what_was_added_is_found_until_it_is_removed() -> None:
    table = TimedFilter(1000, SECRET)
    mine, others = table.positions(host(1), groups(500)), table.positions(host(2), groups(500))
    table.add(mine, 10)
    table.add(others, 20)
    assert table.present(mine).all()
    assert table.present(others).all()
    table.remove(mine)
    assert table.present(others).all()
    assert table.present(mine).sum() < 10
    table.remove(others)
    assert not table.present(np.concatenate((mine, others))).any()


@pytest.mark.parametrize("make", [groups, neighbours])
@pytest.mark.parametrize("rate", [0.1, 0.01, 0.001])
def test_false_positives_are_as_rare_as_was_asked(rate: float, make: type) -> None:
    table = TimedFilter(10_000, SECRET, rate)
    for number in range(100):
        table.add(table.positions(host(number), make(100)), 1)
    found = sum(int(table.present(table.positions(host(1000 + n), make(100))).sum()) for n in range(500))
    assert found < 50_000 * rate * 2
    assert found > 50_000 * rate / 4


def test_deadlines_are_never_early_and_hardly_ever_late() -> None:
    table = TimedFilter(1000, SECRET)
    for number in range(10):
        table.add(table.positions(host(number), groups(100)), 100 + number)
    late = 0
    for number in range(10):
        deadlines = table.deadlines(table.positions(host(number), groups(100)))
        assert deadlines.min() >= 100 + number
        late += int((deadlines > 100 + number).sum())
    assert late < 20


def test_refreshing_never_lowers() -> None:
    table = TimedFilter(1000, SECRET)
    pair = table.positions(host(1), groups(1))
    table.add(pair, 100)
    table.refresh(pair, 50)
    assert table.deadlines(pair).tolist() == [100]


def test_a_count_that_overflows_is_never_taken_for_none() -> None:
    table = TimedFilter(1, SECRET)
    pair = table.positions(host(1), groups(1))
    for _ in range(300):
        table.add(pair, 1)
    for _ in range(300):
        table.remove(pair)
    assert table.present(pair).all()
    table.rebuild(pair[:0])
    assert not table.present(pair).any()


def test_rebuilding_forgets_all_others() -> None:
    table = TimedFilter(1000, SECRET)
    mine, others = table.positions(host(1), groups(100)), table.positions(host(2), groups(100))
    table.add(mine, 1)
    table.add(others, 1)
    table.add(others, 1)
    table.rebuild(mine)
    assert table.present(mine).all()
    assert not table.present(others).all()
    table.remove(mine)
    assert not table.present(mine).any()


def test_positions_depend_on_secret_host_and_group_and_on_nothing_else() -> None:
    several = groups(50)
    base = TimedFilter(1000, SECRET).positions(host(1), several)
    assert (base == TimedFilter(1000, SECRET).positions(host(1), several)).all()
    assert (base[7:8] == TimedFilter(1000, SECRET).positions(host(1), several[7:8])).all()
    for other in (
        TimedFilter(1000, bytes([1]) * 32).positions(host(1), several),
        TimedFilter(1000, SECRET).positions(host(2), several),
    ):
        assert (base == other).mean() < 0.05
    assert 0 <= base.min() <= base.max() < slots_for(1000)
