"""The clock that counts only the time in which the process runs."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time

import pytest

from mcfs.net.awake import PAUSE, AwakeClock


class Raw:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def raw() -> Raw:
    return Raw()


@pytest.fixture
def clock(raw: Raw) -> AwakeClock:
    clock = AwakeClock(raw)
    clock.start_clock()
    return clock


def test_time_passes_while_it_is_awake(raw: Raw, clock: AwakeClock) -> None:
    start = clock.current_time()
    for _ in range(10):
        raw.now += PAUSE / 2
        clock.current_time()
    assert clock.current_time() - start == 5 * PAUSE


def test_a_sleep_counts(raw: Raw, clock: AwakeClock) -> None:
    start = clock.current_time()
    assert clock.deadline_to_sleep_time(start + 60) == 60
    raw.now += 60.2
    assert clock.current_time() - start == pytest.approx(60.2)


def test_a_sleep_without_end_counts(raw: Raw, clock: AwakeClock) -> None:
    start = clock.current_time()
    assert clock.deadline_to_sleep_time(math.inf) == math.inf
    raw.now += 5000
    assert clock.current_time() - start == 5000


def test_a_stop_does_not_count(raw: Raw, clock: AwakeClock) -> None:
    start = clock.current_time()
    raw.now += 100
    assert clock.current_time() == start
    assert clock.deadline_to_sleep_time(start + 2) == 2
    raw.now += 100
    assert clock.current_time() - start == pytest.approx(2), "the sleep, and not what came on top of it"
    raw.now += 0.5
    assert clock.current_time() - start == pytest.approx(2.5)


def test_a_deadline_that_is_over(raw: Raw, clock: AwakeClock) -> None:
    start = clock.current_time()
    assert clock.deadline_to_sleep_time(start - 5) == -5
    raw.now += 0.1
    assert clock.current_time() - start == pytest.approx(0.1)


PROGRAM = """
import time, trio
from mcfs.net.awake import AwakeClock

async def wait():
    awake, real = trio.current_time(), time.monotonic()
    print("ready", flush=True)
    with trio.move_on_after(2.5):
        while True:
            await trio.sleep(0.05)
    print(trio.current_time() - awake, time.monotonic() - real)

trio.run(wait, clock=AwakeClock())
"""


def test_an_event_loop_that_is_stopped_for_longer_than_its_deadline() -> None:
    """It is stopped in the middle of a wait of 2.5 s, for 4 s: the wait then goes on for the rest."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGSTOP)
        time.sleep(4)
        process.send_signal(signal.SIGCONT)
        awake, real = map(float, process.stdout.readline().split())
    assert awake >= 2.5
    assert real - awake > 3
