"""The window of sequential readers."""

from __future__ import annotations

from mcfs.fetch.window import MAX, MIN, START, Window

MIB = 1 << 20


def settle(rate: float, window: Window, rounds: int = 400) -> float:
    """A link of `rate` bytes a second, asked every 40 ms; returns the window in seconds of it."""
    queue = 0.0
    for _ in range(rounds):
        queue = max(0.0, queue - 0.04 * rate)
        for _ in range(max(0, int((window.size - queue) // MIB))):
            window.first_symbol(0.016 + queue / rate, MIB, filled=queue >= window.size / 2)
            queue += MIB
    return window.size / rate


def test_it_fills_links_of_any_speed_without_a_long_queue() -> None:
    for megabits in (500, 1000, 2500, 5000):
        assert 0.045 <= settle(megabits * 1e6 / 8, Window()) <= 0.13


def test_it_stays_within_its_limits() -> None:
    assert settle(1e6, Window()) == MIN / 1e6
    window = Window()
    for _ in range(1000):
        window.first_symbol(0.01, MIB, filled=True)
    assert window.size == MAX
    assert Window(3 * MIB).size == 3 * MIB
    assert Window(1000).size == MIN


def test_reads_that_do_not_fill_it_do_not_grow_it() -> None:
    window = Window()
    for _ in range(1000):
        window.first_symbol(0.01, MIB, filled=False)
    assert window.size == START
