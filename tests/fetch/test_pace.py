"""Which class a reader takes, told what arrives in literal times."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from mcfs.fetch.pace import (
    BAD_SECONDS,
    JUDGE,
    MAX_PROBE,
    MAX_SERVERS,
    OVERRUN_SECONDS,
    PROBE,
    QUIET,
    Paces,
    Reception,
    Trail,
    pace_class,
    source_range,
)

RATE = 1_000_000_000
TICK = 0.04
DATAGRAM = 1502 * 8


class Way:
    """What comes to a reader of a busy server: `carried` bits per second at most, and `loss` of what is left."""

    def __init__(self, carried: float = float("inf"), loss: float = 0.0, dropped: float = 0.0) -> None:
        self.reception = Reception(RATE, 0, 0.0)
        self.carried, self.loss, self.dropped = carried, loss, dropped
        self.now = 0.0
        self.smallest = True

    def run(self, seconds: float) -> int:
        end = self.now + seconds
        while self.now < end:
            self._tick()
        return self.reception.pace

    def _tick(self) -> None:
        rate = RATE / 2**self.reception.pace
        sent = int(rate * TICK / DATAGRAM)
        came = int(min(sent, self.carried * TICK / DATAGRAM) * (1 - self.loss))
        drops = int(came * self.dropped)
        trail = Trail(self.now, self.now)
        trail.add(0, sent - 1, came - drops, now=self.now)
        for piece in range(8):
            self.reception.heard((came - drops) * DATAGRAM // 8, now=self.now + piece * TICK / 8)
        self.reception.passed(trail)
        self.now += TICK
        self.reception.look(drops, smallest=self.smallest, now=self.now)


@pytest.mark.parametrize(("carried", "fitting"), [(1e8, 3), (2.5e8, 2), (4.8e8, 1), (3e7, 5), (1e6, 7)])
def test_a_slow_way_leads_directly_to_the_class_that_fits(carried: float, fitting: int) -> None:
    way = Way(carried)
    assert way.run(BAD_SECONDS - TICK) == 0
    assert way.run(3 * TICK) == fitting
    assert way.run(5.0) == fitting


def test_more_than_half_is_enough() -> None:
    assert Way(loss=0.4).run(30.0) == 0


def test_a_short_burst_of_loss_changes_nothing() -> None:
    way = Way(1e8)
    way.run(0.16)
    way.carried = float("inf")
    assert way.run(1.0) == 0


def test_a_faster_class_is_tried_after_ten_seconds_and_then_ever_later() -> None:
    way = Way(1e8)
    way.run(1.0)
    tried = []
    for _ in range(int(200 / TICK)):
        before = way.reception.pace
        way.run(TICK / 2)
        if way.reception.pace < before:
            tried.append(way.now)
    assert [b - a for a, b in pairwise(tried)] == pytest.approx([20, 40, 80], rel=0.1)
    assert tried[0] == pytest.approx(PROBE, abs=1.0)


def test_a_way_that_becomes_fast_is_used() -> None:
    way = Way(1e8)
    way.run(1.0)
    way.carried = float("inf")
    assert way.run(3.5 * PROBE) == 0


def test_random_loss_of_more_than_half_leads_back_and_is_not_tried_again() -> None:
    way = Way(loss=0.6)
    assert way.run(1.0) > 0
    assert way.run(JUDGE) == 0
    assert way.run(MAX_PROBE - 10) == 0


def test_what_the_kernel_drops_is_no_slow_link() -> None:
    way = Way(dropped=0.8)
    way.smallest = False
    assert way.run(10.0) == 0


def test_a_host_that_cannot_take_the_rate_goes_one_class_down_at_a_time() -> None:
    way = Way(dropped=0.4)
    assert way.run(OVERRUN_SECONDS + 3 * TICK) == 1
    way.dropped = 0.0
    assert way.run(5.0) == 1


def test_a_host_that_is_too_slow_does_not_thrash() -> None:
    """It tries again and again, but ever later."""
    way, changes = Way(), 0
    for _ in range(int(300 / TICK)):
        before = way.reception.pace
        way.dropped = 0.4 if before == 0 else 0.0
        way.run(TICK / 2)
        changes += way.reception.pace != before
    assert changes <= 12


def test_few_symbols_prove_nothing() -> None:
    reception = Reception(RATE, 0, 0.0)
    for step in range(100):
        trail = Trail(step * TICK, step * TICK)
        trail.add(0, 3, 1, now=step * TICK)
        reception.passed(trail)
        reception.look(0, smallest=True, now=step * TICK)
        if step > 80:
            break
    assert reception.pace == 0


# --- trails ---


def test_a_trail_counts_in_any_order_and_across_the_end() -> None:
    trail = Trail(0.0, 0.0)
    for low, high in ((600, 699), (0, 99), (300, 599), (100, 299)):
        trail.add(low, high, high - low + 1, now=0.01)
    assert (trail.sent, trail.arrived) == (700, 700)
    assert not trail.is_over(0.01 + QUIET / 2)
    assert trail.is_over(0.011 + QUIET)


def test_what_comes_twice_counts_once() -> None:
    trail = Trail(0.0, 0.0)
    trail.add(0, 9, 25, now=0.0)
    assert trail.arrived == trail.sent == 10


@pytest.mark.parametrize(
    ("esis", "expected"),
    [
        ([0, 1, 2], (0, 2, 3)),
        ([8, 9, 10, 11], (8, 9, 2)),
        ([10, 11], None),
        ([2, 7, 15], (2, 7, 2)),
        ([12, 15], None),
        ([9, 0, 4], (0, 9, 3)),
    ],
)
def test_source_symbols_among_others(esis: list[int], expected: tuple[int, int, int] | None) -> None:
    contiguous = bool((np.diff(esis) == 1).all())
    assert source_range(np.array(esis, dtype=np.uint32), 10, contiguous=contiguous) == expected


# --- servers and origins ---


def test_shares_of_one_server_have_one_class_and_those_of_another_their_own() -> None:
    paces = Paces(1 << 30)
    for origin, server in ((b"a", b"1"), (b"b", b"1"), (b"c", b"2")):
        paces.announced(origin, server, RATE, now=0.0)
    reception = paces.reception(b"a")
    assert reception is not None
    reception.pace = 3
    assert [paces.pace(origin) for origin in (b"a", b"b", b"c", b"unknown")] == [3, 3, 0, 0]


def test_a_share_belongs_to_one_of_its_servers_until_that_falls_silent() -> None:
    paces = Paces(1 << 30)
    paces.announced(b"a", b"1", RATE, now=0.0)
    first = paces.reception(b"a")
    for now in range(1, 10):
        paces.announced(b"a", b"2", RATE, now=float(now))
        paces.announced(b"a", b"1", RATE, now=float(now))
        assert paces.reception(b"a") is first, "heard from two addresses, it would go to and fro"
    paces.announced(b"b", b"1", RATE, now=14.0)
    paces.announced(b"a", b"2", RATE, now=14.0)
    assert paces.reception(b"a") is not first, "another server has taken over"


def test_a_class_that_a_rate_has_caused_goes_with_it() -> None:
    paces = Paces(1 << 20)
    paces.announced(b"a", b"1", 1 << 62, now=0.0)
    assert paces.pace(b"a") == 7
    paces.announced(b"a", b"1", RATE, now=1.0)
    assert paces.pace(b"a") == 0
    reception = paces.reception(b"a")
    assert reception is not None
    reception.pace = 3
    paces.announced(b"a", b"1", RATE // 2, now=2.0)
    assert paces.pace(b"a") == 3, "what was found out by itself stays"


def test_what_is_sent_round_and_round_comes_in_the_fastest_class_only() -> None:
    paces = Paces(1000)
    paces.announced(b"a", b"1", RATE, now=0.0)
    assert paces.pace(b"a") > 0
    paces.rounds(b"a")
    assert paces.pace(b"a") == 0


def test_a_small_receive_buffer_is_a_class_to_begin_with() -> None:
    assert pace_class(RATE, 1 << 20) == 0
    assert pace_class(RATE, 1 << 17) == 2
    assert pace_class(1 << 62, 1) == 7


def test_servers_are_bounded() -> None:
    paces = Paces(1 << 20)
    for number in range(MAX_SERVERS + 10):
        paces.announced(b"%d" % number, b"%d" % number, RATE, now=0.0)
    assert paces.reception(b"0") is None
    assert paces.reception(b"%d" % (MAX_SERVERS + 9)) is not None


def test_drops_are_counted_from_the_first_look_on() -> None:
    paces = Paces(1 << 30)
    paces.announced(b"a", b"1", RATE, now=0.0)
    paces.dropped(1_000_000)
    reception = paces.reception(b"a")
    assert reception is not None
    trail = Trail(0.0, 0.0)
    trail.add(0, 999, 600, now=0.0)
    reception.passed(trail)
    assert not paces.look(smallest=True, now=0.04)
    paces.dropped(1_000_300)
    reception.passed(trail)
    assert paces.look(smallest=True, now=0.08)
