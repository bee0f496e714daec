"""Virtual time: what happens when, in order, and always in the same order."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Timeline:
    """Seconds. What is due at the same time happens in the order in which it was asked for."""

    def __init__(self, start: float = 0.0) -> None:
        self.now = start
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, action))

    def run(self, until: Callable[[], bool], limit: float) -> bool:
        """Let time pass until the condition holds. Returns whether it did before time `limit`."""
        while not until():
            if not self._events or self._events[0][0] > limit:
                return False
            when, _, action = heapq.heappop(self._events)
            self.now = max(self.now, when)
            action()
        return True
