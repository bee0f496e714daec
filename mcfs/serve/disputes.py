"""Leaves that may be forged: anybody on the link can send one in the name of a host.

A leave normally counts at once, which is what lets a pass follow the other without a gap. But a host that answers a
query for a group soon after it has "left" it has not left it. From the third time on it is *disputed* for a while, and
its leaves only count when it does not answer two specific queries, as for any leave at a router (RFC 9777 section 7.6).
Until then the leave is *withheld*: the listener table has taken note of it, the sender has not.

::

    leave, host not disputed -> it counts; a current-state record of the same group within CONTRADICTED: a contradiction
    leave, host disputed     -> withheld, ask -+- report of the group: it did not leave; a contradiction
                                               +- none within the last listener query time: it counts

No host contradicts itself without a forger: what Linux sends is in the order in which it happened.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from mcfs.serve.membership import DOUBT_TIME, LAST_LISTENER_QUERY_TIME

if TYPE_CHECKING:
    from mcfs.protocol.ids import Group, Host

CONTRADICTED: Final = 2.0
"""Seconds from a leave within which an answer contradicts it."""
CONTRADICTIONS: Final = 3
"""A host that leaves a group, joins it anew and is asked in between may seem to contradict itself once."""
DISPUTED: Final = 60.0
"""Seconds since the last contradiction for which a host is disputed, and contradictions are counted."""
APART: Final = 0.2
"""Seconds between two contradictions that count. A host that goes over to MLDv1 says leaves of that version while its
answers of the other one, which come through another socket, still wait to be read."""
MAX_DISPUTED: Final = 256
MAX_REMEMBERED: Final = 4096
"""Leaves that may still be contradicted: those of 2 s."""
MAX_WITHHELD: Final = 4096
"""Leaves. Further ones count at once."""


class Disputes:
    """Of one interface."""

    def __init__(self) -> None:
        self.contradictions = 0
        self._left: OrderedDict[tuple[Group, Host], float] = OrderedDict()
        self._doubted: OrderedDict[Host, tuple[int, float]] = OrderedDict()
        """How often each has contradicted itself, and when it did last."""
        self._withheld: dict[Group, dict[Host, float]] = {}
        """By when each has to have answered."""
        self._count = 0
        self._due: list[tuple[float, Group, Host]] = []

    def hosts(self, group: Group) -> dict[Host, float]:
        """Those whose leave of the group is withheld."""
        return self._withheld.get(group, {})

    # --- what is told ---

    def left(self, host: Host, group: Group, *, now: float) -> bool:
        """The host says that it left. Returns whether to withhold that, and ask."""
        if host in self.hosts(group):
            return True
        if self._count < MAX_WITHHELD and self.is_disputed(host, now=now):
            self._withhold(group, host, now + DOUBT_TIME)
            return True
        self._left.pop((group, host), None)
        self._left[group, host] = now
        if len(self._left) > MAX_REMEMBERED:
            self._left.popitem(last=False)
        return False

    def is_disputed(self, host: Host, *, now: float) -> bool:
        count, at = self._doubted.get(host, (0, now))
        return count >= CONTRADICTIONS and now < at + DISPUTED

    def joined(self, host: Host, group: Group, *, answered: bool, now: float) -> bool:
        """The host says that it listens; `answered`: in answer to a query. Returns whether a leave was withheld."""
        withheld = self._forget(group, host)
        at = self._left.pop((group, host), float("-inf"))
        if withheld or (answered and now < at + CONTRADICTED):
            self._contradicted(host, now)
        return withheld

    def query_sent(self, group: Group, *, now: float) -> None:
        """A specific query went out: who does not answer has left."""
        for host, deadline in self.hosts(group).items():
            if now + LAST_LISTENER_QUERY_TIME < deadline:
                self._withhold(group, host, now + LAST_LISTENER_QUERY_TIME)

    # --- time ---

    def expire(self, *, now: float) -> list[tuple[Group, Host]]:
        """Leaves that count now, as nobody has contradicted them."""
        found = []
        while self._due and self._due[0][0] <= now:
            deadline, group, host = heappop(self._due)
            if self.hosts(group).get(host) == deadline:
                self._forget(group, host)
                found.append((group, host))
        return found

    def next_timeout(self) -> float | None:
        return self._due[0][0] if self._due else None

    # --- inside ---

    def _withhold(self, group: Group, host: Host, deadline: float) -> None:
        hosts = self._withheld.setdefault(group, {})
        self._count += host not in hosts
        hosts[host] = deadline
        heappush(self._due, (deadline, group, host))

    def _forget(self, group: Group, host: Host) -> bool:
        hosts = self.hosts(group)
        if hosts.pop(host, None) is None:
            return False
        self._count -= 1
        if not hosts:
            del self._withheld[group]
        return True

    def _contradicted(self, host: Host, now: float) -> None:
        self.contradictions += 1
        count, at = self._doubted.get(host, (0, float("-inf")))
        if now < at + APART:
            return
        self._doubted.pop(host, None)
        self._doubted[host] = (count + 1 if now < at + DISPUTED else 1, now)
        if len(self._doubted) > MAX_DISPUTED:
            self._doubted.popitem(last=False)
