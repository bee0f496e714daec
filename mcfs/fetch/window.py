"""How much a sequential reader keeps asked for: enough to fill the link, little enough not to queue.

There is no rate to be told and none to be measured well: a window that is too small looks like a slow link, and a busy
client like a fast one. What can be measured is how long a channel waits from its join to its first symbol. With batches
every 40 ms and a report's way of 10 to 20 ms, a full link shows 50 to 100 ms; less means that the link runs dry between
batches, more that requests queue at the server or in our own receive buffer. Loss does not disturb it: the first symbol
that arrives counts, whichever it is.
"""

from __future__ import annotations

from typing import Final

START: Final = 8 << 20
MIN: Final = 2 << 20
MAX: Final = 64 << 20
SHORT: Final = 0.050
LONG: Final = 0.100
"""Seconds from join to first symbol below which the window grows, and above which it shrinks."""


class Window:
    """Bytes. Half as large again per round trip at most, and down to a fraction within one."""

    def __init__(self, limit: int = MAX) -> None:
        self._limit = max(MIN, min(MAX, limit))
        self._size = float(min(START, self._limit))

    @property
    def size(self) -> int:
        return int(self._size)

    def first_symbol(self, delay: float, node_size: int, *, filled: bool) -> None:
        """The first symbol of a node came `delay` seconds after its join; `filled`: the window was in use then."""
        if delay > LONG:
            self._size = max(MIN, self._size - node_size)
        elif delay < SHORT and filled:
            self._size = min(self._limit, self._size + node_size / 2)

    def overrun(self) -> None:
        """What came was more than the receive buffer took."""
        self._size = max(MIN, self._size * 3 / 4)

    def slower(self) -> None:
        """The server sends in a slower class from now on: begin at the least, as queues are long there."""
        self._size = MIN

    @property
    def is_smallest(self) -> bool:
        return self._size <= MIN
