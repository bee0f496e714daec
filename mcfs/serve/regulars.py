"""Hosts that behave as readers do: they have joined channels of nodes and left them again.

Somebody who forges joins makes up hosts, and these leave nothing. So where there is not enough for all, time to read
reports or turns to send, those come first who have left something. That is no proof, as a leave can be forged too: but
who has a place here keeps it while it goes on reading, so new hosts cannot push out those that were there before.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mcfs.protocol.ids import Host

MAX_REGULARS: Final = 1024
IDLE: Final = 300.0
"""Seconds without a leave after which another host may have the place."""


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
