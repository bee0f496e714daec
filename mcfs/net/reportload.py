"""How much time MLD messages may take: beyond that the kernel drops some of them, drawn at random.

A report costs 10 to 100 us, and a cable of 1 Gbit/s carries 80,000 of them a second. Whoever fills it with reports
would leave no time for sending. Messages are of several kinds, each with a part of the time of its own, so that who
floods the link with one kind has nothing of the others dropped. Reports of hosts that were served before
(`mcfs.serve.regulars`) are a kind of their own: a flood comes under addresses that are made up, as one address can open
only so many channels. What is dropped at random hits honest hosts as well, but they report each change twice, and
clients ask again when nothing comes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from mcfs.protocol import mld

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcfs.protocol.ids import Host
    from mcfs.serve.regulars import Regulars

LOOK: Final = 0.1
"""Seconds between two decisions."""
MARGIN: Final = 0.8
"""Of a kind's time that twice as many messages may be reckoned to take before they are handed up again: load is not
even."""
PEAKS: Final = 2
"""Looks in a row that must find too much: what all hosts say at once, after a query, is over by then."""
LEAST_PART: Final = 2.0**-10
MAX_REGULARS: Final = 64
"""Addresses that the filter tells apart: with 140 bytes for each it fits what a socket may use (20,480 bytes) before
Linux 6.7."""


class Kind(Enum):
    ROUTER = 0
    """Queries and router discovery: a few of them say all that there is to know."""
    OLD_REPORT = 1
    """Of MLDv1. They name one group each, and come again with each query."""
    DONE = 2
    """Of MLDv1, said once."""
    STRANGER = 3
    """Reports of MLDv2, of hosts that have not been served yet."""
    REGULAR = 4
    LEAVES = 5
    """Reports of MLDv2 whose last record is a leave, of anybody. Linux writes leaves before joins, so the joins of a
    client, with which its leaves go, are not among them."""


MOST: Final = {
    Kind.ROUTER: 0.05,
    Kind.OLD_REPORT: 0.05,
    Kind.DONE: 0.05,
    Kind.STRANGER: 0.1,
    Kind.REGULAR: 0.4,
    Kind.LEAVES: 0.05,
}
"""Of the time. 5,000 reports a second of 50 records each take 0.2 to 0.6."""
LEISURE: Final = 0.1
"""While sending takes less than this of the time, there is more of it for strangers: they may be many who begin."""
MOST_AT_LEISURE: Final = MOST | {Kind.STRANGER: MOST[Kind.REGULAR]}
_KINDS: Final = {mld.REPORT_V1: Kind.OLD_REPORT, mld.DONE_V1: Kind.DONE}


@dataclass(frozen=True, slots=True)
class Sampling:
    """What part of each kind to hand up; of reports by the regulars named here another one than of others."""

    parts: tuple[float, ...] = (1.0,) * len(Kind)
    regulars: frozenset[Host] = frozenset()

    def part(self, kind: Kind) -> float:
        return self.parts[kind.value]

    @property
    def everything(self) -> bool:
        return all(part >= 1 for part in self.parts)


class _Budget:
    """Of one kind."""

    def __init__(self) -> None:
        self.part = 1.0
        self.spent = 0.0
        self._peaks = 0

    def look(self, elapsed: float, most: float) -> None:
        share, self.spent = self.spent / elapsed, 0.0
        self._peaks = self._peaks + 1 if share > most else 0
        if self._peaks >= PEAKS:
            self.part = max(LEAST_PART, self.part / 2 ** math.ceil(math.log2(share / most)))
        elif 2 * share < MARGIN * most:
            self.part = min(1.0, self.part * 2)


class ReportLoad:
    """`sample` is told what to hand up, when that changes."""

    def __init__(self, sample: Callable[[Sampling], None]) -> None:
        self.sampling = Sampling()
        self._sample = sample
        self._budgets = {kind: _Budget() for kind in Kind}
        self._since = float("-inf")
        self._sending = 0.0

    @property
    def patience(self) -> float:
        """Seconds after which to call `look`, also if nothing came."""
        return float("inf") if self.sampling.everything else LOOK

    def spent(self, kind: Kind, seconds: float) -> None:
        """So much time was spent on a message."""
        self._budgets[kind].spent += seconds

    def look(self, regulars: Regulars, *, sending: float, now: float) -> None:
        """Decide, if it is time. `sending`: seconds that sending has taken since the server began."""
        elapsed = now - self._since
        if elapsed < LOOK:
            return
        most = MOST_AT_LEISURE if sending - self._sending < LEISURE * elapsed else MOST
        self._since, self._sending = now, sending
        for kind, budget in self._budgets.items():
            budget.look(elapsed, most[kind])
        parts = tuple(self._budgets[kind].part for kind in Kind)
        told_apart = parts[Kind.STRANGER.value] < 1
        sampling = Sampling(parts, frozenset(regulars.first(MAX_REGULARS) if told_apart else ()))
        if sampling != self.sampling:
            self.sampling = sampling
            self._sample(sampling)


def kind_of(message: bytes, source: Host, regulars: Regulars) -> Kind:
    """Of an ICMPv6 message that was handed up."""
    kind = message[0] if message else mld.QUERY
    if kind == mld.REPORT_V2:
        if len(message) > mld.RECORD_SIZE and message[-mld.RECORD_SIZE] == mld.RecordType.CHANGE_TO_INCLUDE_MODE:
            return Kind.LEAVES
        return Kind.REGULAR if source in regulars else Kind.STRANGER
    return _KINDS.get(kind, Kind.ROUTER)
