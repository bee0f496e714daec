"""How much time MLD messages may take: beyond that the kernel drops some of them, drawn at random.

A report costs 10 to 100 us, and a cable of 1 Gbit/s carries 80,000 of them a second. Whoever fills it with reports
would leave no time for sending. What is dropped at random hits honest hosts as well, but they report each change twice,
and clients ask again when nothing comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK: Final = 0.1
"""Seconds between two decisions."""
MOST: Final = 0.5
"""Of the time. 5,000 reports a second of 50 records each take 0.2 to 0.6."""
MARGIN: Final = 0.8
"""Of MOST that twice as many messages may be reckoned to take before they are handed up again: load is not even."""
PEAKS: Final = 2
"""Looks in a row that must find too much: what all hosts say at once, after a query, is over by then."""
LEAST_PART: Final = 2.0**-10


class ReportLoad:
    """`sample` is told what part of the messages to hand up."""

    def __init__(self, sample: Callable[[float], None]) -> None:
        self.part = 1.0
        self._sample = sample
        self._spent = 0.0
        self._peaks = 0
        self._since = float("-inf")

    @property
    def patience(self) -> float:
        """Seconds after which to call `spent`, also if nothing came."""
        return LOOK if self.part < 1 else float("inf")

    def spent(self, seconds: float, *, now: float) -> None:
        """So much time was spent on messages."""
        self._spent += seconds
        elapsed = now - self._since
        if elapsed < LOOK:
            return
        share, self._spent, self._since = self._spent / elapsed, 0.0, now
        part = self.part
        self._peaks = self._peaks + 1 if share > MOST else 0
        if self._peaks >= PEAKS:
            part = max(LEAST_PART, part / 2)
        elif 2 * share < MARGIN * MOST:
            part = min(1.0, part * 2)
        if part != self.part:
            self.part = part
            self._sample(part)
