"""As much of a reader's kernel as membership needs: when Linux reports what (net/ipv6/mcast.c, and measured on 6.18).

Each change of membership restarts one timer of the whole interface. When it ends, one report tells all changes that
have been told less than twice, and a second copy follows within a second, or with the next change if that is sooner.
"""

from __future__ import annotations

import bisect
from functools import partial
from typing import TYPE_CHECKING, Final

from mcfs.protocol import mld
from mcfs.protocol.mld import Record, RecordType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

    from mcfs.protocol.ids import Group
    from mcfs.simulate.timeline import Timeline

ROBUSTNESS: Final = 2
REPEAT: Final = 1.0
"""Seconds within which the second copy follows."""
DELAYS: Final = (0.008, 0.0116, 0.016, 0.023)
DELAY_SHARES: Final = (0.0, 0.5, 0.9, 1.0)
"""From the change to the report: least, median, 90 % and most of 200 joins at HZ=250."""


def report_delay(rng: Random) -> float:
    """Seconds, distributed as they were measured."""
    share = rng.random()
    i = bisect.bisect_right(DELAY_SHARES, share) - 1
    part = (share - DELAY_SHARES[i]) / (DELAY_SHARES[i + 1] - DELAY_SHARES[i])
    return DELAYS[i] + part * (DELAYS[i + 1] - DELAYS[i])


class ReportingHost:
    """Groups of one host. `send` gets the records of each report."""

    def __init__(self, timeline: Timeline, rng: Random, send: Callable[[list[Record]], None]) -> None:
        self.groups: dict[Group, None] = {}
        self._timeline = timeline
        self._rng = rng
        self._send = send
        self._changes: dict[Group, int] = {}
        """Groups of which a change has still to be told so many times."""
        self._reports_left = 0
        self._timer = 0

    def change(self, joins: Iterable[Group], leaves: Iterable[Group]) -> None:
        for group in leaves:
            self.groups.pop(group, None)
            self._changes[group] = ROBUSTNESS
        for group in joins:
            self.groups[group] = None
            self._changes[group] = ROBUSTNESS
        if self._changes:
            self._reports_left = ROBUSTNESS
            self._report_in(report_delay(self._rng))

    def query(self, group: Group | None, max_response: float) -> None:
        """A query came, general if `group` is None: answer what holds then, some time within `max_response`."""
        asked = self.groups if group is None else [group] if group in self.groups else []
        if asked:
            delay = self._rng.uniform(0.0, max_response)
            self._timeline.at(self._timeline.now + delay, partial(self._answer, list(asked)))

    def _answer(self, asked: list[Group]) -> None:
        self._tell([Record(RecordType.MODE_IS_EXCLUDE, group) for group in asked if group in self.groups])

    def _report_in(self, delay: float) -> None:
        self._timer += 1
        self._timeline.at(self._timeline.now + delay, partial(self._report, self._timer))

    def _report(self, timer: int) -> None:
        if timer != self._timer:  # restarted since
            return
        kinds = (RecordType.CHANGE_TO_INCLUDE_MODE, RecordType.CHANGE_TO_EXCLUDE_MODE)
        self._tell([Record(kinds[group in self.groups], group) for group in reversed(self._changes)])
        self._changes = {group: left - 1 for group, left in self._changes.items() if left > 1}
        self._reports_left -= 1
        if self._reports_left and self._changes:
            self._report_in(self._rng.uniform(0.0, REPEAT))

    def _tell(self, records: list[Record]) -> None:
        for at in range(0, len(records), mld.MAX_RECORDS):
            self._send(records[at : at + mld.MAX_RECORDS])
