"""Time that passes only while this process can run.

A daemon that was stopped (SIGSTOP, a paused virtual machine, a debugger, a machine that swaps) has heard nothing in the
meantime, and that was nobody's fault but its own. By the usual clock every read that waits would fail at the first look
afterwards. So all deadlines of a mount go by this clock. It needs no excuse where the machine itself was suspended:
CLOCK_MONOTONIC stands still then.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE: Final = 1.0
"""Seconds by which the event loop may be late before they do not count: longer than any turn of it, but where the
machine has no time for it either."""


class AwakeClock(trio.abc.Clock):
    """A clock for `trio.run`, of its thread alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._read_at = clock()
        self._missed = 0.0
        self._sleeps = 0.0
        """Seconds for which the event loop meant to sleep since the clock was read."""

    def start_clock(self) -> None:
        self._read_at = self._clock()

    def current_time(self) -> float:
        now = self._clock()
        late = now - self._read_at - self._sleeps
        if late > PAUSE:
            self._missed += late
        self._read_at, self._sleeps = now, 0.0
        return now - self._missed

    def deadline_to_sleep_time(self, deadline: float) -> float:
        seconds = deadline - self.current_time()
        self._sleeps = max(0.0, seconds)
        return seconds
