"""Whose symbols are taken.

A share's announcement is signed and names the addresses of its server. Symbols of these are always taken, and nothing
that somebody else sends puts them aside. Everybody else is a *stranger*: he is heard while no such server sends (its
address may have changed a moment ago), and after a wrong node all strangers together are set aside, for twice as long
each time, since who has one address has as many as he likes.

Where no addresses are known each source stands for itself.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mcfs.protocol.ids import Host

MAX_SERVERS: Final = 32
"""Addresses of one share, those that were announced or heard last: an announcement has up to four, a server with
several ports may announce other ones at each, and another server may take over."""
MAX_ORIGINS: Final = 4096
"""As many shares as are remembered."""
ACTIVE: Final = 1.0
"""Seconds after a server's symbol in which no stranger is needed; announcements come as often."""
PENALTY: Final = 0.5
"""Seconds that a source is set aside for after a node of it failed; doubles to MAX_PENALTY, and starts anew when it
was right for as long as that."""
MAX_PENALTY: Final = 60.0
MAX_PENALISED: Final = 256
_NEVER: Final = float("-inf")


class Sources:
    def __init__(self) -> None:
        self._servers: OrderedDict[bytes, OrderedDict[Host, None]] = OrderedDict()
        self._heard: dict[bytes, float] = {}
        self._penalties: dict[Host | None, tuple[float, float]] = {}
        """Until when, and for how long; None stands for all strangers."""

    def announced(self, origin: bytes, addresses: Iterable[Host]) -> bool:
        """The server of a share has these addresses, says its publisher. Returns whether one is new."""
        known = self._servers.setdefault(origin, OrderedDict())
        before = frozenset(known)
        for address in addresses:
            known[address] = None
            known.move_to_end(address)
        while len(known) > MAX_SERVERS:
            known.popitem(last=False)
        self._servers.move_to_end(origin)
        while len(self._servers) > MAX_ORIGINS:
            forgotten, _ = self._servers.popitem(last=False)
            self._heard.pop(forgotten, None)
        return not before.issuperset(known)

    def servers(self, origins: Iterable[bytes] | None = None) -> set[Host]:
        """Those of these shares; without any, of all."""
        shares = self._servers if origins is None else origins
        return {address for origin in shares for address in self._servers.get(origin, ())}

    def are_known(self, origin: bytes) -> bool:
        return bool(self._servers.get(origin))

    def is_server(self, origin: bytes, source: Host) -> bool:
        return source in self._servers.get(origin, ())

    def takes(self, origin: bytes, source: Host, *, now: float) -> bool:
        """Whether symbols of this source are looked at; if so, and it is the server, it is active from now on."""
        known = self._servers.get(origin)
        if known is not None and source in known:
            known.move_to_end(source)
            self._heard[origin] = now
            return True
        if not known:
            return not self._is_aside(source, now)
        return not self._is_aside(None, now) and now > self._heard.get(origin, _NEVER) + ACTIVE

    def only(self, origins: Iterable[bytes], *, now: float) -> frozenset[Host] | None:
        """The addresses outside of which nothing is taken for these shares now; None if there is no such limit."""
        found: set[Host] = set()
        for origin in origins:
            if not self.are_known(origin):
                return None
            if not self._is_aside(None, now) and now > self._heard.get(origin, _NEVER) + ACTIVE:
                return None
            found.update(self._servers[origin])
        return frozenset(found)

    def wrong(self, origin: bytes, source: Host, *, now: float) -> None:
        """What this source sent made a wrong node. Of a server it may have been somebody who took its address."""
        if self.is_server(origin, source):
            return
        who = None if self.are_known(origin) else source
        until, pause = self._penalties.pop(who, (now, PENALTY / 2))
        pause = PENALTY if now > until + MAX_PENALTY else min(MAX_PENALTY, pause * 2)
        if len(self._penalties) >= MAX_PENALISED:
            self._penalties.pop(next(iter(self._penalties)))
        self._penalties[who] = (now + pause, pause)

    def _is_aside(self, source: Host | None, now: float) -> bool:
        return bool(self._penalties) and now < self._penalties.get(source, (now, 0.0))[0]
