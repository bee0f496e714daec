"""Memory, descriptors and memberships of processes over time, and whether they grow."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Final

MOST_GROWTH: Final = 0.10
"""Of a process's memory, from the first third of its samples to the last third."""
MOST_MORE: Final = 4
"""Descriptors or groups that a process may have more at the end: files of the cache come and go."""
FEWEST: Final = 30
"""Samples of a process from which growth can be told."""


@dataclass(frozen=True, slots=True)
class Sample:
    memory: int
    """Bytes that are resident, of its own."""
    descriptors: int
    groups: int


@dataclass
class Life:
    """The samples of one process, in the order of time."""

    name: str
    samples: list[Sample] = field(default_factory=list)

    def thirds(self, what: str) -> tuple[float, float]:
        """Medians of the first third and of the last."""
        values = [float(getattr(sample, what)) for sample in self.samples]
        third = max(1, len(values) // 3)
        return statistics.median(values[:third]), statistics.median(values[-third:])

    @property
    def growth(self) -> float:
        first, last = self.thirds("memory")
        return last / first - 1

    def most(self, what: str) -> int:
        return max(int(getattr(sample, what)) for sample in self.samples)

    def problems(self) -> list[str]:
        """What grows; nothing is said of a process that was not looked at for long."""
        if len(self.samples) < FEWEST:
            return []
        found = [f"{self.name}: memory grew by {self.growth:.0%}"] if self.growth > MOST_GROWTH else []
        for what in ("descriptors", "groups"):
            first, last = self.thirds(what)
            if last > first + MOST_MORE:
                found.append(f"{self.name}: {what} grew from {first:g} to {last:g}")
        return found

    def line(self) -> str:
        first, last = self.thirds("memory")
        fds, groups = self.thirds("descriptors"), self.thirds("groups")
        return (
            f"{self.name:16} {len(self.samples):4} samples  memory {first / 2**20:6.1f} -> {last / 2**20:6.1f} MiB"
            f" ({self.growth:+.1%})  fds {fds[0]:g} -> {fds[1]:g} (most {self.most('descriptors')})"
            f"  groups {groups[0]:g} -> {groups[1]:g} (most {self.most('groups')})"
        )
