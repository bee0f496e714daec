"""When a server announces what: each announcement only while somebody listens for it.

On a share's own channel: at once on a join, then every second, and three times when there is a new version. On a
catalogue channel: its shares in turn, once a second and on each join, at most 50 datagrams a second. There is a
catalogue for shares without a key, and one for each key.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from mcfs.protocol.ids import Group, Host
    from mcfs.protocol.keys import ShareKeys

INTERVAL: Final = 1.0
MIN_INTERVAL: Final = 0.1
"""Seconds between two announcements of a share, however many hosts join its channel: each costs a signature."""
CATALOGUE_GAP: Final = 1 / 50
NEW_VERSION_COPIES: Final = 3
NEW_VERSION_GAP: Final = 0.02


KEYED: Final = b""
"""In place of the name of a share: that there are shares with a key."""


@dataclass(slots=True)
class _ShareChannel:
    name: bytes
    listeners: set[Host]
    due: float
    catalogue: Group
    keys: ShareKeys | None
    announced: float = float("-inf")
    copies: int = 0


class _Catalogue:
    """A channel in which several shares are announced, one after the other."""

    __slots__ = ("_left", "_next", "_started", "listeners", "turn")

    def __init__(self) -> None:
        self.listeners: set[Host] = set()
        self.turn: deque[bytes] = deque()
        self._left = 0
        self._started = 0.0
        self._next = 0.0

    def start_round(self, now: float) -> None:
        self._started, self._left = now, len(self.turn)
        self._next = max(now, self._next)

    def due(self, now: float) -> bytes | None:
        """The share to announce now."""
        if not self.listeners or not self.turn:
            return None
        if not self._left and now >= self._started + INTERVAL:
            self.start_round(now)
        if not self._left or now < self._next:
            return None
        self._left -= 1
        self._next = now + CATALOGUE_GAP
        self.turn.rotate(-1)
        return self.turn[-1]

    def next_timeout(self) -> float | None:
        if not self.listeners or not self.turn:
            return None
        return self._next if self._left else self._started + INTERVAL


class Announcer:
    """Which shares to announce now on one link. Names go in, (group, name) pairs come out."""

    def __init__(self, catalogue: Group) -> None:
        """`catalogue` is for shares of which nothing else is said."""
        self._catalogue = catalogue
        self._catalogues: dict[Group, _Catalogue] = {catalogue: _Catalogue()}
        self._shares: dict[Group, _ShareChannel] = {}
        self._silent: frozenset[bytes] = frozenset()

    def __contains__(self, group: object) -> bool:
        return group in self._catalogues or group in self._shares

    def publish(
        self, group: Group, name: bytes, *, now: float, catalogue: Group | None = None, keys: ShareKeys | None = None
    ) -> None:
        """A share, or a new version of it, is there. One with a key has the catalogue of that key."""
        share = self._shares.get(group)
        if share is None:
            in_catalogue = catalogue or self._catalogue
            self._shares[group] = _ShareChannel(name, set(), now, in_catalogue, keys)
            self._catalogues.setdefault(in_catalogue, _Catalogue()).turn.append(name)
        else:
            share.copies, share.due = NEW_VERSION_COPIES - 1, now

    def tell_keyed(self, group: Group) -> None:
        """Say in this channel, once a second while somebody listens, that there are shares with a key."""
        catalogue = self._catalogues.setdefault(group, _Catalogue())
        if not catalogue.turn:
            catalogue.turn.append(KEYED)

    def withdraw(self, group: Group) -> None:
        share = self._shares.pop(group, None)
        if share is not None:
            self._catalogues[share.catalogue].turn.remove(share.name)

    def silence(self, names: frozenset[bytes], *, now: float) -> None:
        """Another server announces these shares; the rest is announced at once, as it may be new to listeners."""
        woken = self._silent - names
        self._silent = names
        for share in self._shares.values():
            if share.name in woken:
                share.due = now

    def joined(self, host: Host, group: Group, *, now: float) -> None:
        if (catalogue := self._catalogues.get(group)) is not None:
            catalogue.listeners.add(host)
            catalogue.start_round(now)
        elif (share := self._shares.get(group)) is not None:
            share.listeners.add(host)
            share.due = min(share.due, max(now, share.announced + MIN_INTERVAL))

    def left(self, host: Host, group: Group) -> None:
        listeners = self._listeners(group)
        if listeners is not None:
            listeners.discard(host)

    def listeners(self, group: Group) -> Collection[Host]:
        return self._listeners(group) or ()

    def groups(self) -> Iterator[tuple[Group, Collection[Host]]]:
        """All channels with their listeners."""
        yield from ((group, catalogue.listeners) for group, catalogue in self._catalogues.items())
        yield from ((group, share.listeners) for group, share in self._shares.items())

    def due(self, *, now: float) -> list[tuple[Group, bytes]]:
        """What to announce now."""
        out = [(group, share.name) for group, share in self._shares.items() if share.listeners and share.due <= now]
        for group, _ in out:
            share = self._shares[group]
            share.announced = now
            share.due = now + (NEW_VERSION_GAP if share.copies else INTERVAL)
            share.copies = max(0, share.copies - 1)
        for group, catalogue in self._catalogues.items():
            name = catalogue.due(now)
            if name is not None:
                out.append((group, name))
        return [(group, name) for group, name in out if name not in self._silent]

    def next_timeout(self) -> float | None:
        times = [share.due for share in self._shares.values() if share.listeners]
        times += [at for each in self._catalogues.values() if (at := each.next_timeout()) is not None]
        return min(times, default=None)

    def beacon_channels(self, listeners: int) -> list[tuple[Group, ShareKeys | None]]:
        """Channels of shares that at least so many hosts listen to, with the share keys."""
        return [
            (group, share.keys)
            for group, share in self._shares.items()
            if len(share.listeners) >= listeners and share.name not in self._silent
        ]

    def _listeners(self, group: Group) -> set[Host] | None:
        known = self._catalogues.get(group) or self._shares.get(group)
        return known.listeners if known is not None else None
