"""What went on when: symbols sent, reports heard, and how far the readers were."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcfs.simulate.reader import Reader
    from mcfs.simulate.timeline import Timeline

INTERVAL: Final = 0.05
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Of one interval."""

    time: float
    """Its end."""
    source: int
    repair: int
    """Symbols sent in it."""
    reports: int
    least: int
    median: int
    most: int
    """Bytes that the readers have read in order until its end, of those who have started and are not unplugged."""


class History:
    """Samples are taken from time 0 on."""

    def __init__(self, timeline: Timeline, readers: Sequence[Reader]) -> None:
        self.samples: list[Sample] = []
        self._timeline = timeline
        self._readers = readers
        self._sent = {False: 0, True: 0}
        self._reports = 0
        timeline.at(0.0, self._begin)

    def sent(self, count: int, *, repair: bool) -> None:
        self._sent[repair] += count

    def report(self) -> None:
        self._reports += 1

    def _begin(self) -> None:
        """What was sent for mounts does not count."""
        self._reports = 0
        self._timeline.at(INTERVAL, partial(self._sample, 1))

    def _sample(self, number: int) -> None:
        now = self._timeline.now
        positions = [r.application.position for r in self._readers if r.started <= now and not r.unplugged] or [0]
        least, median, most = np.quantile(positions, (0.0, 0.5, 1.0), method="lower").tolist()
        self.samples.append(Sample(now, self._sent[False], self._sent[True], self._reports, least, median, most))
        self._sent, self._reports = {False: 0, True: 0}, 0
        self._timeline.at((number + 1) * INTERVAL, partial(self._sample, number + 1))
