"""Datagrams on a real socket, and how they become runs."""

from __future__ import annotations

import itertools
import random
import socket
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mcfs.net.receive import SCATTERED, Receiver, brought_together

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcfs.net.receive import Run

SIZES = (100, 101, 300, 1436)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver(0)
    yield receiver
    receiver.close()


def sent(receiver: Receiver, sizes: list[int]) -> list[Run]:
    """Runs of datagrams of these sizes that came at once, each with its number in front."""
    port = receiver.socket.getsockname()[1]
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        for number, size in enumerate(sizes):
            sender.sendto(number.to_bytes(4, "big") + bytes(size - 4), ("::1", port))
    runs = receiver.receive()
    assert runs is not None
    assert receiver.receive() is None
    return runs


def numbers(run: Run) -> list[int]:
    return [int.from_bytes(row[:4].tobytes(), "big") for row in run.rows()]


def test_what_comes_in_order_is_not_moved(receiver: Receiver) -> None:
    runs = sent(receiver, [size for size in SIZES for _ in range(50)])
    assert [run.datagrams.shape for run in runs] == [(50, size) for size in SIZES]
    assert [number for run in runs for number in numbers(run)] == list(range(200))
    assert all(np.shares_memory(run.datagrams, receiver._data) for run in runs)


def test_what_somebody_sends_in_between_does_not_make_many_runs(receiver: Receiver) -> None:
    drawn = random.Random(1)
    sizes = [drawn.choice(SIZES) for _ in range(250)]
    runs = sent(receiver, sizes)
    assert sorted(run.datagrams.shape[1] for run in runs) == list(SIZES)
    for run in runs:
        found = numbers(run)
        assert found == sorted(found)
        assert {sizes[number] for number in found} == {run.datagrams.shape[1]}
    assert sorted(number for run in runs for number in numbers(run)) == list(range(250))


def test_a_few_runs_stay_as_they_came(receiver: Receiver) -> None:
    sizes = [size for _ in range(SCATTERED // 4) for size in SIZES]
    runs = sent(receiver, sizes)
    assert [number for run in runs for number in numbers(run)] == list(range(len(sizes)))


@pytest.mark.parametrize("seed", range(20))
def test_order_is_kept_within_what_belongs_together(seed: int) -> None:
    drawn = np.random.default_rng(seed)
    n = int(drawn.integers(1, 257))
    keys = drawn.integers(0, 3, (n, 9)) * np.array([0, 0, 0, 1, 0, 0, 0, 0, 1])
    sizes, mix = drawn.integers(0, 2, n), drawn.integers(-(1 << 62), 1 << 62, 10) | 1
    order = brought_together(keys, sizes, mix).tolist()
    assert sorted(order) == list(range(n))
    whole = [(*keys[row].tolist(), int(sizes[row])) for row in order]
    groups = [key for key, _ in itertools.groupby(whole)]
    assert len(groups) == len(set(groups)), "each is in one piece"
    for _, found in itertools.groupby(zip(whole, order, strict=True), key=lambda pair: pair[0]):
        rows = [row for _, row in found]
        assert rows == sorted(rows)
