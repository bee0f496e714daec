"""What part of each pass arrives, of all shares: from that pace.py tells the class in which to ask.

What came while a node was doubted counts only when it made a right node, and no wrong one: what is forged has numbers
that look like loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mcfs.fetch.pace import Trail
from mcfs.fetch.wanted import State
from mcfs.protocol import wire

if TYPE_CHECKING:
    from mcfs.fetch.pace import Paces
    from mcfs.fetch.wanted import Fetch, Origin

MAX_WITHHELD: Final = 64
"""Passes, or pieces of them, of one node: 16 s."""


class Passes:
    def __init__(self, paces: Paces) -> None:
        self._paces = paces
        self._trailed: dict[Fetch, None] = {}
        """Those of which a pass is being received."""

    def came(self, fetch: Fetch, seen: tuple[int, int, int] | None, count: int, t: int, *, now: float) -> None:
        """So many symbols of `t` bytes came, new or not; `seen` is what `source_range` gives of them."""
        reception = self._paces.reception(fetch.origin.name)
        if reception is None:
            return
        if now >= fetch.origin.doubted_until:
            tag = wire.TAG_SIZE if fetch.seal else 0
            reception.heard(8 * count * (t + tag + wire.HEADER_SIZE + wire.LINK_OVERHEAD), now=now)
        if seen is None or fetch.state is not State.JOINED or fetch.joined_at < reception.changed_at:
            return
        if fetch.trail is None:
            fetch.trail = Trail(now, now)
            self._trailed[fetch] = None
        fetch.trail.add(*seen, now=now)

    def look(self, *, now: float) -> None:
        """Tell those that are over."""
        for fetch in list(self._trailed):
            trail = fetch.trail
            if trail is not None and fetch.state is State.JOINED and not trail.is_over(now):
                continue
            reception = self._paces.reception(fetch.origin.name)
            if trail is not None and reception is not None and fetch.joined_at >= reception.changed_at:
                if fetch.believed or now >= fetch.origin.doubted_until:
                    reception.passed(trail)
                elif len(fetch.withheld) < MAX_WITHHELD:
                    fetch.withheld.append(trail)
            del self._trailed[fetch]
            fetch.trail = None

    def doubted(self, origin: Origin) -> None:
        """Something forged came: what is being received of this share does not count."""
        for fetch in [fetch for fetch in self._trailed if fetch.origin is origin]:
            del self._trailed[fetch]
            fetch.trail = None

    def believe(self, fetch: Fetch) -> None:
        """The node is right. What came in doubt and made it, and made no wrong one, was the server's."""
        fetch.believed = not fetch.wrong
        reception = self._paces.reception(fetch.origin.name)
        if fetch.believed and reception is not None:
            for trail in fetch.withheld:
                if trail.begun >= reception.changed_at:
                    reception.passed(trail)
