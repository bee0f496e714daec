"""When membership may be changed: in batches, because each change restarts the kernel's report timer.

Joins spaced 7 ms or less apart send no report at all until they stop (measured on Linux 6.18). So changes are collected
and made together: a few batches at once after a quiet time, then one per tick. When somebody waits for what is to be
joined, half a tick has to do: each report loads switches and the server, so this is not for what is fetched ahead.
"""

from __future__ import annotations

from typing import Final

TICK: Final = 0.04
"""Seconds: more than three jiffies at HZ=100, the kernel's report delay."""
HURRY: Final = 0.02
"""Seconds between a batch and one that somebody waits for. Joins and leaves 16, 18, 20 and 25 ms apart were each
reported after 8 to 12 ms at HZ=250 (4 ms a jiffy), 12 ms apart mostly."""
HURRY_JIFFIES: Final = 4
"""The same in the kernel's own measure of time, where its jiffies are longer."""
DEPTH: Final = 3
"""Batches in hand after a quiet time: a fetch that depends on another then waits 26 to 30 ms and not 57."""


def hurry(jiffy: float) -> float:
    """Seconds after a batch in which the next one may be made if somebody waits for it, on a kernel whose timers have
    this resolution in seconds."""
    return min(TICK, max(HURRY, HURRY_JIFFIES * jiffy))


class BatchBucket:
    """A token bucket whose tokens are batches. Who is in a hurry takes one early, which has to accrue anew."""

    def __init__(self, tick: float = TICK, depth: int = DEPTH, hurry: float = HURRY) -> None:
        self._tick = tick
        self._depth = float(depth)
        self._hurry = hurry
        self._tokens = float(depth)
        self._updated: float | None = None
        self._last = float("-inf")

    def take(self, now: float, *, hurried: bool = False) -> bool:
        """Whether a batch may be made now; if so it is counted."""
        if self.ready_at(now, hurried=hurried) > now:
            return False
        self._tokens = max(0.0, self._tokens - 1)
        self._last = now
        return True

    def ready_at(self, now: float, *, hurried: bool = False) -> float:
        """When the next batch may be made: `now` or later. `hurried`: somebody waits for it."""
        if self._updated is not None and now > self._updated:
            self._tokens = min(self._depth, self._tokens + (now - self._updated) / self._tick)
        self._updated = now if self._updated is None else max(now, self._updated)
        wait = max(0.0, 1 - self._tokens) * self._tick
        if hurried:
            wait = min(wait, self._last + self._hurry - now)
        return now + wait if wait > 1e-9 else now
