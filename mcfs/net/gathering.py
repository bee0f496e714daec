"""How long datagrams gather before they are looked at.

A look costs as much as 30 datagrams, so one for each would take a core at 100 Mbit/s. But who waits for the first block
of a file should not wait much longer for it: the time grows with that for which data have been coming.
"""

from __future__ import annotations

from typing import Final

ENOUGH: Final = 256 << 10
"""Bytes that are worth a look at once."""
SHORTEST: Final = 0.001
LONGEST: Final = 0.004
"""Seconds. At 1 Gbit/s that is 350 datagrams, and one look instead of four."""
ROOMY: Final = 8 << 20
"""Bytes that must have room in the receive buffer for the longest wait: 16 Gbit/s for 4 ms."""
PART: Final = 0.25
"""Of the time for which data have come: a transfer takes so much longer at most."""
PAUSE: Final = 0.01
"""Seconds without a look after which what comes is something new."""


class Gathering:
    def __init__(self, room: int) -> None:
        """`room`: bytes of datagrams that the receive buffer takes."""
        self._longest = LONGEST if room >= ROOMY else SHORTEST
        self._since = float("-inf")
        self._last = float("-inf")

    def seconds(self, came: int, *, now: float) -> float:
        """To wait before the next look, after one that brought so many bytes."""
        if now - self._last > PAUSE:
            self._since = now
        self._last = now
        if came >= ENOUGH:
            return 0.0
        return min(self._longest, max(SHORTEST, PART * (now - self._since)))
