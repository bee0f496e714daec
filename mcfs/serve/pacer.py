"""Token buckets: how fast a link is filled (RFC 8085 section 3.1.1: a sender must not exceed what it was given), and
what of that each pace class gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mcfs.protocol.ids import PACE_CLASSES

if TYPE_CHECKING:
    from collections.abc import Collection

MIN_DEPTH: Final = 2 * 65536 * 8
"""Bits: two super-datagrams, or the sender could never send one while the next is being made."""
MAX_DEPTH: Final = 1 << 23
"""1 MiB: less than a switch's port buffer."""
DEPTH_SECONDS: Final = 0.004
"""What a task that was not scheduled for a while may catch up: a time slice of Linux."""
MIN_BURST: Final = 12000 * 8
"""Bits of a slow class that are sent together: eight datagrams, or it would be all system calls."""


class Pacer:
    """Tokens are bits; they accrue at `rate` bits per second up to a small depth."""

    def __init__(self, rate: float, min_depth: float = MIN_DEPTH) -> None:
        self.rate = rate
        self._depth = max(min_depth, min(MAX_DEPTH, rate * DEPTH_SECONDS))
        self._tokens = self._depth
        self._updated: float | None = None

    def ready_at(self, now: float) -> float:
        """When the next burst may be sent: `now` or later."""
        self._accrue(now)
        return now if self._tokens > 0 else now - self._tokens / self.rate

    def spend(self, bits: int) -> None:
        """Take what was sent; the bucket may go below zero by one burst."""
        self._tokens -= bits

    def _accrue(self, now: float) -> None:
        if self._updated is not None and now > self._updated:
            self._tokens = min(self._depth, self._tokens + (now - self._updated) * self.rate)
        self._updated = now


class ClassPacer:
    """One bucket for the link and one for each pace class; class c gets rate / 2^c at most, and classes that want more
    than there is get equal parts (start-time fair queueing, Goyal et al. 1996). Always the fastest one first would
    starve the others, and always the slowest would leave the fastest 1 % of the rate when all are in use."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._link = Pacer(rate)
        self._classes = [Pacer(rate / 2**pace, MIN_BURST) for pace in range(1, PACE_CLASSES)]
        self._served = 0.0
        """Virtual time: the tag of what was sent last."""
        self._tags = [0.0] * PACE_CLASSES
        """Virtual time at which the last burst of each class ends."""

    def turns(self, waiting: Collection[int], now: float) -> list[int]:
        """Which of these classes may send at `now`, in the order of their turns."""
        if self._link.ready_at(now) > now:
            return []
        return sorted((pace for pace in waiting if self._class_ready_at(pace, now) <= now), key=self._tag)

    def ready_at(self, waiting: Collection[int], now: float) -> float:
        """When one of these classes may send; there is at least one."""
        return max(self._link.ready_at(now), min(self._class_ready_at(pace, now) for pace in waiting))

    def burst_bits(self, pace: int) -> float:
        """How much of a class may be sent together: a port that is as slow as the class has little buffer."""
        return max(MIN_BURST, self.rate / 2**pace * DEPTH_SECONDS) if pace else float("inf")

    def spend(self, pace: int, bits: int) -> None:
        self._link.spend(bits)
        if pace:
            self._classes[pace - 1].spend(bits)
        self._served = self._tag(pace)
        self._tags[pace] = self._served + bits

    def _tag(self, pace: int) -> float:
        return max(self._served, self._tags[pace])

    def _class_ready_at(self, pace: int, now: float) -> float:
        return self._classes[pace - 1].ready_at(now) if pace else now
