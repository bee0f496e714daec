"""How many control datagrams a second are looked at closely, for each kind apart: nobody can use up what others have.

What was sealed with a share key, and opened, is told apart from what came in the clear as well: who has no key takes
nothing from shares that have one.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final


class Kind(Enum):
    IN_USE = auto()
    """Announcements and gones from the addresses of servers of shares in use."""
    SERVER = auto()
    """From those of other servers."""
    CLAIMED = auto()
    """From others, announcements with a key that counts, or so they say."""
    OTHER = auto()
    GONE = auto()
    """From others as well."""
    BEACON = auto()


SIGNATURES: Final = 200
"""Signatures of each kind that are checked in a second: 100 us each, and up to seven times as much for a publisher that
has changed its key."""
BEACONS: Final = 500
"""Beacons in a second, of all shares: 20 shares in use."""
GRAIN: Final = 0.05
"""Seconds between two looks at what there is."""


class Budgets:
    def __init__(self) -> None:
        self._all = {
            (kind, sealed): _Budget(BEACONS if kind is Kind.BEACON else SIGNATURES)
            for kind in Kind
            for sealed in (False, True)
        }

    def take(self, kind: Kind, *, sealed: bool, now: float) -> bool:
        """Whether there is something left for one more."""
        return self._all[kind, sealed].take(now)


class _Budget:
    """At most so many a second."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._tokens = per_second
        self._updated = float("-inf")

    def take(self, now: float) -> bool:
        if now - self._updated > GRAIN:
            elapsed = min(1.0, now - self._updated)
            self._tokens = min(self._per_second, self._tokens + elapsed * self._per_second)
            self._updated = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


__all__ = ["Budgets", "Kind"]
