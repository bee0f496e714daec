"""When membership may be changed: in batches, because each change restarts the kernel's report timer.

Joins spaced 7 ms or less apart send no report at all until they stop (measured on Linux 6.18). So changes are collected
and made together: a few batches at once after a quiet time, then one per tick.
"""

from __future__ import annotations

from typing import Final

TICK: Final = 0.04
"""Seconds: more than three jiffies at HZ=100, the kernel's report delay."""
DEPTH: Final = 3
"""Batches in hand after a quiet time: a fetch that depends on another then waits 26 to 30 ms and not 57."""


class BatchBucket:
    """A token bucket whose tokens are batches."""

    def __init__(self, tick: float = TICK, depth: int = DEPTH) -> None:
        self._tick = tick
        self._depth = float(depth)
        self._tokens = float(depth)
        self._updated: float | None = None

    def take(self, now: float) -> bool:
        """Whether a batch may be made now; if so it is counted."""
        if self.ready_at(now) > now:
            return False
        self._tokens -= 1
        return True

    def ready_at(self, now: float) -> float:
        """When the next batch may be made: `now` or later."""
        if self._updated is not None and now > self._updated:
            self._tokens = min(self._depth, self._tokens + (now - self._updated) / self._tick)
        self._updated = now if self._updated is None else max(now, self._updated)
        return now if self._tokens >= 1 - 1e-9 else now + (1 - self._tokens) * self._tick
