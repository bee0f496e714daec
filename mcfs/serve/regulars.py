"""Hosts that behave as readers do: they have joined channels of nodes and left them again.

Somebody who forges joins makes up hosts, and these leave nothing. So where there is not enough for all, time to read
reports or turns to send, those come first who have left something. That is no proof, as a leave can be forged too: but
who has a place here keeps it while it goes on reading, so new hosts cannot push out those that were there before.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mcfs.protocol.ids import Host

MAX_REGULARS: Final = 1024
IDLE: Final = 300.0
"""Seconds without a leave after which another host may have the place."""

MAX_NEW: Final = 1024
"""Hosts that were not heard before, at once: as many answer the first query of a server that was started again."""
NEW_RATE: Final = 128.0
"""A second. A report of such a host opens up to 70 channels, 10 us each."""
MAX_ADMITTED: Final = 4096


class Regulars:
    def __init__(self) -> None:
        self._left_at: dict[Host, float] = {}
        """In the order of coming."""

    def __contains__(self, host: object) -> bool:
        return host in self._left_at

    def left(self, host: Host, *, now: float) -> None:
        """The host has said that it left a channel of a node."""
        if host not in self._left_at and len(self._left_at) >= MAX_REGULARS and not self._make_room(now):
            return
        self._left_at[host] = now

    def first(self, count: int) -> Iterable[Host]:
        """Up to so many, those that came first."""
        return islice(self._left_at, count)

    def _make_room(self, now: float) -> bool:
        idle = next((host for host, at in self._left_at.items() if at < now - IDLE), None)
        if idle is not None:
            del self._left_at[idle]
        return idle is not None


class Newcomers:
    """Which hosts may be listened to that were not heard before, so that who makes up hosts cannot have us do nothing
    else than enter them: so many at once, and so many a second."""

    def __init__(self) -> None:
        self._admitted: OrderedDict[Host, None] = OrderedDict()
        self._tokens = float(MAX_NEW)
        self._filled_at = 0.0

    def admit(self, host: Host, *, now: float) -> bool:
        """Whether to listen to this one; again, if it was admitted before."""
        if host in self._admitted:
            return True
        self._tokens = min(MAX_NEW, self._tokens + (now - self._filled_at) * NEW_RATE)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        self._admitted[host] = None
        if len(self._admitted) > MAX_ADMITTED:
            self._admitted.popitem(last=False)
        return True
