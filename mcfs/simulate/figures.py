"""What a simulation has shown, in figures: bytes, times and reports."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

from mcfs.simulate.history import INTERVAL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mcfs.simulate.scenario import Outcome, ReaderFigures

_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds from opening the file to its last byte, of those who have read it."""

    readers: int
    finished: int
    least: float
    median: float
    most: float


@dataclass(frozen=True, slots=True)
class Figures:
    sent: float
    """Bytes that left the server's interface / bytes of the file."""
    symbols: float
    """Symbols sent / source symbols of the file: the same without headers and without what is sent beside."""
    repair: float
    """Of the symbols sent."""
    classes: dict[int, float]
    """Symbols sent in each pace class / source symbols of the file."""
    fast: Times | None
    slow: Times | None
    """Of readers that are slow by themselves."""
    reports: int
    reports_per_mib: float
    """For each MiB that a reader has read."""
    reports_per_second: float
    """In the busiest interval of 50 ms."""
    rejoins: int
    dropped: int
    """Datagrams at slow readers."""
    duplicates: float
    """Of the symbols that came to readers who still wanted their node."""


def figures(outcome: Outcome) -> Figures:
    sent, k = outcome.sent, outcome.source_symbols
    symbols = sum(sent.values())
    readers, size = outcome.readers, outcome.scenario.size
    came = sum(reader.symbols for reader in readers)
    read = sum(reader.read for reader in readers)
    reports = sum(sample.reports for sample in outcome.history)
    return Figures(
        sent=outcome.wire_bytes / size,
        symbols=symbols / k,
        repair=sum(count for (_, repair), count in sent.items() if repair) / max(1, symbols),
        classes={
            pace: sum(count for (at, _), count in sent.items() if at == pace) / k
            for pace in sorted({p for p, _ in sent})
        },
        fast=times(reader for reader in readers if not reader.slow and not reader.unplugged),
        slow=times(reader for reader in readers if reader.slow),
        reports=reports,
        reports_per_mib=reports / max(1.0, read / _MIB),
        reports_per_second=max((sample.reports for sample in outcome.history), default=0) / INTERVAL,
        rejoins=sum(reader.rejoins for reader in readers),
        dropped=sum(reader.dropped for reader in readers),
        duplicates=sum(reader.duplicates for reader in readers) / max(1, came),
    )


def times(readers: Iterable[ReaderFigures]) -> Times | None:
    """None if there are no such readers."""
    all_of_them = list(readers)
    seconds = sorted(reader.seconds for reader in all_of_them if reader.seconds is not None)
    if not all_of_them:
        return None
    if not seconds:
        return Times(len(all_of_them), 0, *[float("inf")] * 3)
    return Times(len(all_of_them), len(seconds), seconds[0], median(seconds), seconds[-1])
