"""When a server announces what: each announcement only while somebody listens for it.

On a share's own channel: at once on a join, then every second, and three times when there is a new version. On the
catalogue channel: all shares in turn, once a second and on each join, at most 50 datagrams a second.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from mcfs.protocol.ids import Group, Host

INTERVAL: Final = 1.0
MIN_INTERVAL: Final = 0.1
"""Seconds between two announcements of a share, however many hosts join its channel: each costs a signature."""
CATALOGUE_GAP: Final = 1 / 50
NEW_VERSION_COPIES: Final = 3
NEW_VERSION_GAP: Final = 0.02


@dataclass(slots=True)
class _ShareChannel:
    name: bytes
    listeners: set[Host]
    due: float
    announced: float = float("-inf")
    copies: int = 0


class Announcer:
    """Which shares to announce now on one link. Names go in, (group, name) pairs come out."""

    def __init__(self, catalogue: Group) -> None:
        self._catalogue = catalogue
        self._catalogue_listeners: set[Host] = set()
        self._shares: dict[Group, _ShareChannel] = {}
        self._turn: deque[bytes] = deque()
        self._round_start = 0.0
        self._next_catalogue = 0.0
        self._left_in_round = 0
        self._silent: frozenset[bytes] = frozenset()

    def __contains__(self, group: object) -> bool:
        return group == self._catalogue or group in self._shares

    def publish(self, group: Group, name: bytes, *, now: float) -> None:
        """A share, or a new version of it, is there."""
        share = self._shares.get(group)
        if share is None:
            self._shares[group] = _ShareChannel(name, set(), now)
            self._turn.append(name)
        else:
            share.copies, share.due = NEW_VERSION_COPIES - 1, now

    def withdraw(self, group: Group) -> None:
        share = self._shares.pop(group, None)
        if share is not None:
            self._turn.remove(share.name)

    def silence(self, names: frozenset[bytes], *, now: float) -> None:
        """Another server announces these shares; the rest is announced at once, as it may be new to listeners."""
        woken = self._silent - names
        self._silent = names
        for share in self._shares.values():
            if share.name in woken:
                share.due = now

    def joined(self, host: Host, group: Group, *, now: float) -> None:
        if group == self._catalogue:
            self._catalogue_listeners.add(host)
            self._start_round(now)
        elif (share := self._shares.get(group)) is not None:
            share.listeners.add(host)
            share.due = min(share.due, max(now, share.announced + MIN_INTERVAL))

    def left(self, host: Host, group: Group) -> None:
        if group == self._catalogue:
            self._catalogue_listeners.discard(host)
        elif (share := self._shares.get(group)) is not None:
            share.listeners.discard(host)

    def listeners(self, group: Group) -> Collection[Host]:
        if group == self._catalogue:
            return self._catalogue_listeners
        share = self._shares.get(group)
        return share.listeners if share is not None else ()

    def groups(self) -> Iterator[tuple[Group, Collection[Host]]]:
        """All channels with their listeners."""
        yield self._catalogue, self._catalogue_listeners
        yield from ((group, share.listeners) for group, share in self._shares.items())

    def due(self, *, now: float) -> list[tuple[Group, bytes]]:
        """What to announce now."""
        out = [(group, share.name) for group, share in self._shares.items() if share.listeners and share.due <= now]
        for group, _ in out:
            share = self._shares[group]
            share.announced = now
            share.due = now + (NEW_VERSION_GAP if share.copies else INTERVAL)
            share.copies = max(0, share.copies - 1)
        out += self._catalogue_due(now)
        return [(group, name) for group, name in out if name not in self._silent]

    def next_timeout(self) -> float | None:
        times = [share.due for share in self._shares.values() if share.listeners]
        if self._catalogue_listeners and self._turn:
            times.append(self._next_catalogue if self._left_in_round else self._round_start + INTERVAL)
        return min(times, default=None)

    def beacon_channels(self, listeners: int) -> list[Group]:
        """Channels of shares that at least so many hosts listen to."""
        return [
            group
            for group, share in self._shares.items()
            if len(share.listeners) >= listeners and share.name not in self._silent
        ]

    def _start_round(self, now: float) -> None:
        self._round_start, self._left_in_round = now, len(self._turn)
        self._next_catalogue = max(now, self._next_catalogue)

    def _catalogue_due(self, now: float) -> list[tuple[Group, bytes]]:
        if not self._catalogue_listeners or not self._turn:
            return []
        if not self._left_in_round and now >= self._round_start + INTERVAL:
            self._start_round(now)
        if not self._left_in_round or now < self._next_catalogue:
            return []
        self._left_in_round -= 1
        self._next_catalogue = now + CATALOGUE_GAP
        self._turn.rotate(-1)
        return [(self._catalogue, self._turn[-1])]
