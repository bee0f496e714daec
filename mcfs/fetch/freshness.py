"""Telling what a publisher says from what somebody repeats of it, by the times that are signed.

The times are those of the servers' clocks, which may differ from ours by years. What counts is that they go on: each
server of a share signs a later time each time. Several servers of one share have clocks of their own; one that is far
behind the newest is not told from a recording.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

TOLERANCE: Final = 60_000
"""Milliseconds by which servers of one share may differ: twice what makes them leave the sending to each other."""
RESET: Final = 60.0
"""Seconds without anything new after which an earlier time is believed: a server's clock may have been set back."""
MAX_SERVERS: Final = 32
"""Servers of one share whose times are kept; one with several ports may count once for each."""


class Freshness:
    """The newest times of one share."""

    def __init__(self) -> None:
        self._newest: OrderedDict[tuple[bytes, ...], int] = OrderedDict()
        self._latest = 0
        self._heard_at = float("-inf")

    def heard(self, server: tuple[bytes, ...], time_ms: int, *, now: float) -> bool:
        """An announcement of the server of these addresses was signed at `time_ms` by its clock, and came at `now` by
        ours. Returns whether it is new, and not one that is repeated."""
        if now - self._heard_at > RESET:
            self._newest.clear()
            self._latest = time_ms
        elif time_ms <= self._newest.get(server, -1) or not self.is_recent(time_ms):
            return False
        self._newest[server] = time_ms
        self._newest.move_to_end(server)
        if len(self._newest) > MAX_SERVERS:
            self._newest.popitem(last=False)
        self._latest = max(self._latest, time_ms)
        self._heard_at = now
        return True

    @property
    def latest(self) -> int:
        """The latest signed time, in ms."""
        return self._latest

    def is_recent(self, time_ms: int) -> bool:
        """Whether something signed at that time may have been said just now."""
        return time_ms >= self._latest - TOLERANCE
