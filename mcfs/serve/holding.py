"""How long new channels are held for hosts that come a little later.

On a link that is faster than its readers nothing queues, so hosts that read the same things a few milliseconds apart
would get a pass each. What is learnt here is whether they come too late for one another.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mcfs.protocol.ids import Host, Node

MAX_HOLD: Final = 0.2
"""Seconds that a new channel is held at most, if not all hosts that read now join it sooner: a beacon (40 ms), the
batch that it causes, its report (20 ms), and as much again for readers that are short of CPU. Chosen among 50 to 200 ms
by a few noisy runs each."""
FIRST_HOLD: Final = 0.1
"""Where learning begins; one host alone is never held."""
HOLD_UP: Final = 0.02
HOLD_DOWN: Final = 0.0002
"""Per join that came too late for the pass that another host had caused, and per join that did not: 1 % are late."""
HIDDEN_JOIN_BURST: Final = 3
"""A host behind a proxy whose other hosts have joined already is not heard to join. If it comes late it lacks much, and
a third burst, after 6 % of repair, tells that."""
SHARED_SECONDS: Final = 0.5
"""Two hosts that join a node within this time could have been served by one pass."""
ACTIVE_SECONDS: Final = 2.0
"""How long a host that joined a node counts as one that reads, and is waited for."""
ALONE: Final = 64
"""Joins in a row that no other host shares, after which nobody is waited for any more: one window's."""
REMEMBERED_JOINS: Final = 4096


class Holding:
    """Learns from joins. With `proxies` any host may stand for many, whose joins are not all heard."""

    def __init__(self, *, proxies: bool = False) -> None:
        self._proxies = proxies
        self._seconds = 0.0 if proxies else FIRST_HOLD
        self._joins: OrderedDict[Node, tuple[float, Host]] = OrderedDict()
        self._active: OrderedDict[Host, float] = OrderedDict()
        """Hosts that joined something in the last ACTIVE_SECONDS, and when."""
        self._alone = 0

    @property
    def seconds(self) -> float:
        """For which new channels wait for other hosts now, if there are any."""
        return self._seconds if self._proxies or len(self._active) > 1 else 0.0

    def is_complete(self, listeners: int) -> bool:
        """Whether so many are all who read now."""
        return not self._proxies and listeners >= len(self._active)

    def joined(self, host: Host, node: Node, *, ahead: bool, now: float) -> None:
        """A host joined a node; `ahead`: in time for the pass that another one has caused."""
        before, other = self._joins.pop(node, (float("-inf"), host))
        self._joins[node] = (now, host)
        if len(self._joins) > REMEMBERED_JOINS:
            self._joins.popitem(last=False)
        self._note_active(host, now)
        shared = other != host and now - before < SHARED_SECONDS
        self._alone = 0 if shared else self._alone + 1
        if self._alone >= ALONE and not self._proxies:
            self._seconds = 0.0
        elif shared and not ahead:
            self._longer()
        else:
            self._seconds = max(0.0, self._seconds - HOLD_DOWN)

    def forget(self, host: Host) -> None:
        """It reads in another pace class now: nobody waits for it here."""
        self._active.pop(host, None)

    def burst(self, number: int) -> None:
        """A channel gets its so-and-so-manyth burst of repair."""
        if number == HIDDEN_JOIN_BURST and self._proxies:
            self._longer()

    def _longer(self) -> None:
        self._seconds = min(MAX_HOLD, self._seconds + HOLD_UP)

    def _note_active(self, host: Host, now: float) -> None:
        self._active.pop(host, None)
        self._active[host] = now
        while next(iter(self._active.values())) < now - ACTIVE_SECONDS:
            self._active.popitem(last=False)
