"""The shares that were heard of, and whether they are still there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mcfs.protocol.announce import Announcement

MAX_SHARES: Final = 4096
"""Shares of one link, a few hundred bytes each."""


@dataclass(slots=True)
class Share:
    announcement: Announcement
    last_heard: float
    time_ms: int = 0
    """Of its newest announcement: older ones are repeated by somebody."""
    period: int = 0
    """Seconds; see `Announcement`."""
    interfaces: dict[int, float] = field(default_factory=dict)
    """Indexes of the interfaces on which it was heard, and when."""


class ShareTable:
    """Newest announcement of each share. A share belongs to the publisher that was first heard of under its name."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._shares: dict[bytes, Share] = {}
        self.refused = 0

    def __contains__(self, name: object) -> bool:
        return name in self._shares

    def get(self, name: bytes) -> Share | None:
        return self._shares.get(name)

    def announcements(self) -> dict[bytes, Announcement]:
        return {name: share.announcement for name, share in self._shares.items()}

    def announced(self, announcement: Announcement, interface: int, *, now: float) -> bool:
        """A verified announcement came. Returns whether it is of a new share or a new version."""
        share = self._shares.get(announcement.name)
        if share is None:
            if len(self._shares) >= MAX_SHARES:
                self.refused += 1
                return False
            share = self._shares[announcement.name] = Share(announcement, now)
            self._heard(share, announcement, interface, now)
            return True
        known = share.announcement
        same = announcement.content == known.content  # another server may have given it another version
        if announcement.publisher != known.publisher or (announcement.version < known.version and not same):
            self.refused += 1
            return False
        self._heard(share, announcement, interface, now)
        if announcement.version <= known.version:
            return False
        share.announcement = announcement
        return True

    @staticmethod
    def _heard(share: Share, announcement: Announcement, interface: int, now: float) -> None:
        share.last_heard = share.interfaces[interface] = now
        if announcement.time_ms >= share.time_ms:
            share.time_ms, share.period = announcement.time_ms, announcement.period

    def is_down(self, name: bytes, symbol_at: float, *, now: float) -> bool:
        """Whether nothing was heard of a known share for the time-out; `symbol_at` is when its last symbol came."""
        share = self._shares.get(name)
        return share is not None and now - max(share.last_heard, symbol_at) > self._timeout

    def interfaces(self, name: bytes) -> tuple[int, ...]:
        share = self._shares.get(name)
        return tuple(share.interfaces) if share else ()

    def forget_interface(self, index: int) -> None:
        """It has gone: what is heard on one that has this index later is another matter."""
        for share in self._shares.values():
            share.interfaces.pop(index, None)
