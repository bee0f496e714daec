"""A token bucket: how fast a link is filled (RFC 8085 section 3.1.1: a sender must not exceed what it was given)."""

from __future__ import annotations

from typing import Final

MIN_DEPTH: Final = 2 * 65536 * 8
"""Bits: two super-datagrams, or the sender could never send one while the next is being made."""
MAX_DEPTH: Final = 1 << 23
"""1 MiB: less than a switch's port buffer."""
DEPTH_SECONDS: Final = 0.004
"""What a task that was not scheduled for a while may catch up: a time slice of Linux."""


class Pacer:
    """Tokens are bits; they accrue at `rate` bits per second up to a small depth."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._depth = max(MIN_DEPTH, min(MAX_DEPTH, rate * DEPTH_SECONDS))
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
