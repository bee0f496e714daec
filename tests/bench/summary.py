"""Medians over the runs of each tool under each condition, and tables of them."""

from __future__ import annotations

import csv
import statistics
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.bench.conditions import Trial

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tests.bench.conditions import Conditions


class Row(NamedTuple):
    """What a measure found: a line of a table."""

    what: str
    value: str
    goal: str = ""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """Medians of the runs that brought the right bytes to all readers."""

    tool: str
    conditions: Conditions
    trials: tuple[Trial, ...]

    @property
    def good(self) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if not trial.problem)

    @property
    def problem(self) -> str:
        return next((trial.problem for trial in self.trials if trial.problem), "")

    def median(self, name: str) -> float:
        """Of one column. Raises statistics.StatisticsError when no run was good."""
        return float(statistics.median(getattr(trial, name) for trial in self.good))

    @property
    def seconds(self) -> float:
        return self.median("seconds")

    @property
    def gbits(self) -> float:
        """Gbit/s of the file to the slowest reader."""
        return self.conditions.size * 8 / self.seconds / 1e9

    @property
    def sent(self) -> float:
        """Bytes sent for a byte of the file."""
        return self.median("sent") / self.conditions.size

    @property
    def spread(self) -> float:
        """The longest time over the shortest."""
        return max(trial.seconds for trial in self.good) / min(trial.seconds for trial in self.good)


def summarize(trials: Iterable[Trial]) -> list[Summary]:
    """One for each tool and condition, in the order in which they came first."""
    groups: dict[tuple[str, Conditions], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.tool, trial.conditions), []).append(trial)
    return [Summary(tool, conditions, tuple(group)) for (tool, conditions), group in groups.items()]


HEADINGS: Final = (
    "link",
    "packets",
    "loss",
    "readers",
    "tool",
    "Gbit/s to each",
    "seconds",
    "longest / shortest",
    "with its start, s",
    "bytes sent / data",
    "sender's CPU: user",
    "system",
    "a reader's CPU",
    "runs",
)


def cells(summary: Summary) -> list[str]:
    """A line under HEADINGS."""
    given, runs = summary.conditions, f"{len(summary.good)} of {len(summary.trials)}"
    start = [given.link_name, given.mode.value, f"{given.loss:g} %", str(given.readers), summary.tool]
    if not summary.good:
        return [*start, f"failed: {summary.problem}", *[""] * 7, runs]
    figures = [
        f"{summary.gbits:.2f}",
        f"{summary.seconds:.2f}",
        f"{summary.spread:.2f}",
        f"{summary.median('whole'):.2f}",
    ]
    cpu = [f"{summary.median(name):.2f}" for name in ("sender_user", "sender_system", "reader_cpu")]
    return [*start, *figures, f"{summary.sent:.3f}", *cpu, runs]


def line(texts: Iterable[str]) -> str:
    return f"| {' | '.join(text.replace('|', '/') for text in texts)} |"


def table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """In Markdown, with a newline at the end."""
    return "\n".join([line(headings), f"|{'---|' * len(headings)}", *map(line, lines)]) + "\n"


def write_csv(path: Path, trials: Iterable[Trial]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Trial)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(trial.to_text() for trial in trials)


def read_csv(path: Path) -> list[Trial]:
    """Raises KeyError or ValueError for a file that `write_csv` did not write."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Trial.from_text(row) for row in csv.DictReader(file)]
