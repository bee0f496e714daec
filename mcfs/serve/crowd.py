"""Hosts that listen to nodes and never left one: so many of them that they cannot all be true.

Joins in the name of hosts that do not exist have no end; what tells these from readers is that they leave nothing
(`regulars`). While there are too many of them all of them come last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Container

    from mcfs.protocol.ids import Host

CROWD: Final = 256
"""Hosts up to which they are taken for readers: so many do not begin to read at the same moment."""
CROWDED: Final = 30.0
"""Seconds for which it is a crowd after there were so many last: queries without an answer thin it out, and what comes
after them is no better."""


class Crowd:
    """:param regulars: hosts that are above doubt"""

    def __init__(self, regulars: Container[Host]) -> None:
        self._regulars = regulars
        self._new: set[Host] = set()
        """Those that listen to something."""
        self._until = float("-inf")
        self._is_one = False

    def came(self, host: Host) -> None:
        """It listens to something."""
        if host not in self._regulars:
            self._new.add(host)

    def went(self, host: Host) -> None:
        """It listens to nothing any more, or has left something."""
        self._new.discard(host)

    def look(self, *, now: float) -> None:
        if len(self._new) > CROWD:
            self._until = now + CROWDED
        self._is_one = now < self._until

    def has(self, host: Host) -> bool:
        """Whether this host comes last, at the time of the last look."""
        return self._is_one and host not in self._regulars

    def is_all(self, hosts: Collection[Host]) -> bool:
        return self._is_one and all(map(self.has, hosts))

    def has_any(self, hosts: Collection[Host]) -> bool:
        return self._is_one and any(map(self.has, hosts))
