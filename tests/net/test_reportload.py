"""What MLD messages may cost, and the filter that keeps to it."""

from __future__ import annotations

import socket

import pytest

from mcfs.net.listeners import attach_filter, sampled
from mcfs.net.reportload import LEAST_PART, LOOK, MARGIN, MOST, ReportLoad


def run(load: ReportLoad, cost: float, seconds: float, start: float) -> None:
    """Messages come that take `cost` of the time if all are handed up."""
    for step in range(int(seconds / 0.004)):
        load.spent(0.004 * cost * load.part, now=start + step * 0.004)


def test_what_is_usual_is_heard() -> None:
    load = ReportLoad(lambda _: pytest.fail("sampled"))
    run(load, MOST * 0.9, 10.0, 0.0)
    assert load.patience == float("inf")


@pytest.mark.parametrize("cost", [1.0, 8.0, 1000.0])
def test_a_flood_takes_no_more_than_its_part(cost: float) -> None:
    said: list[float] = []
    load = ReportLoad(said.append)
    run(load, cost, 10.0, 0.0)
    assert load.part == said[-1]
    assert cost * load.part <= MOST or load.part == LEAST_PART
    assert load.patience == LOOK
    for step in range(20):
        load.spent(0.0, now=10.0 + step * LOOK * 1.01)
    assert load.part == 1.0, "it is over"


@pytest.mark.parametrize("usual", [0.0, 0.3, MARGIN * MOST * 0.95])
@pytest.mark.parametrize("peak", [MOST * 1.4, 1.0, 10.0])
def test_after_a_peak_all_is_heard_again(peak: float, usual: float) -> None:
    load = ReportLoad(lambda _: None)
    run(load, usual, 1.0, 0.0)
    run(load, peak, 0.5, 1.0)
    assert load.part < 1
    run(load, usual, 2.0, 1.5)
    assert load.part == 1.0
    assert load.patience == float("inf")


def test_one_look_that_finds_too_much_is_no_flood() -> None:
    load = ReportLoad(lambda _: pytest.fail("sampled"))
    for look in range(100):
        load.spent(LOOK * MOST * (0.5 if look % 2 else 2.0), now=look * LOOK * 1.01)


@pytest.mark.parametrize("part", [1.0, 0.25, LEAST_PART])
def test_the_filter_passes_a_part(part: float) -> None:
    everything = ((0x06, 0, 0, 0xFFFF),)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("::1", 0))
        receiver.setblocking(False)
        attach_filter(receiver, (*sampled(part), *everything))
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            for _ in range(200):
                sender.sendto(b"x", receiver.getsockname())
        came = 0
        while True:
            try:
                came += len(receiver.recv(10))
            except BlockingIOError:
                break
    assert 200 * part / 2 - 5 < came < min(200, 200 * part * 2 + 5) + 1
