"""What a measure is given: sizes, a maker of labs, and the comparison of tools."""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mcfs.cli.lab import Lab
from tests.bench import memory, transfer
from tests.bench.conditions import MIB, Mode
from tests.bench.peers import TOOLS
from tests.bench.scene import PREFIX, make_lab
from tests.bench.summary import HEADINGS, Row, Summary, cells, line, summarize
from tests.netlab.harness import Site, random_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.bench.conditions import Conditions, Trial

DEADLINE: Final = 900.0
"""Seconds for one step of a measure that is not beside others."""


@dataclass(frozen=True, slots=True)
class Options:
    directory: Path
    """Where data, caches and copies are kept meanwhile."""
    size: int = 1024 * MIB
    """Bytes of the large file."""
    shared_size: int = 256 * MIB
    """Bytes of the file that several clients read."""
    runs: int = 3
    tools: tuple[str, ...] = tuple(TOOLS)
    readers: tuple[int, ...] = (1, 2, 4, 8)
    modes: tuple[Mode, ...] = ()
    """Empty: those that a measure is about."""
    links: tuple[int | None, ...] = ()
    """Bits per second; None: unshaped. Empty: those that a measure is about."""
    losses: tuple[float, ...] = (0, 1, 5, 20)
    """Percent."""
    files: int = 100
    """How many small files are opened for the first time."""
    quick: bool = False
    """Only the most important views of a measure."""
    cold: bool = False
    """Leave memory as the host gives it."""
    mld_size: int = 8192 * MIB
    """Bytes that one client reads through a default bridge."""
    kills: int = 200
    """How often a client is killed, and as often again when its cache is damaged meanwhile."""
    mld_minutes: float = 10.0
    """How long a slow copy takes through a bridge that forgets soon."""


@dataclass(slots=True)
class Bench:
    """Runs transfers, keeps what was measured, and prints each row as soon as it is known."""

    options: Options
    trials: list[Trial] = field(default_factory=list)
    """Of the measure that runs."""
    measure: str = ""
    _sources: dict[int, Path] = field(default_factory=dict)
    _start: float = field(default_factory=time.monotonic)

    @contextmanager
    def site(self, clients: int, *, wire: bool = False) -> Iterator[Site]:
        """A fresh lab with a site in it, for measures of mcfs alone."""
        with self.site_in(Mode.WIRE if wire else Mode.OFFLOAD, clients) as site:
            yield site

    @contextmanager
    def site_in(self, mode: Mode, clients: int) -> Iterator[Site]:
        with (
            tempfile.TemporaryDirectory(prefix=f"{PREFIX}-", dir=self.options.directory) as directory,
            make_lab(clients, mode) as lab,
            Site(lab, Path(directory)) as site,
        ):
            yield site

    def warm_memory(self, size: int, readers: int = 1) -> None:
        if not self.options.cold:
            memory.warm_memory(size, readers)

    def source(self, size: int) -> Path:
        """A file of random bytes, alone in a directory, the same for all who ask."""
        if size not in self._sources:
            directory = self.options.directory / f"source-{size}" / "data"
            directory.mkdir(parents=True)
            self._sources[size] = random_file(directory / "file", size)
        return self._sources[size]

    def compare(self, conditions: Conditions, tools: Iterable[str] = ()) -> Iterator[Row]:
        """Each tool in turn, as often as wanted. What was measured is added to `trials`; the rows are medians."""
        names = [name for name in (tools or self.options.tools) if name in self.options.tools]
        found: list[Trial] = []
        for run in range(1, self.options.runs + 1):
            found += self._one_run(turned(names, run - 1), conditions, run, given_up=hopeless(found))
        self.trials += found
        for summary in summarize(found):
            print(line(cells(summary)), flush=True)
            if not summary.good:
                yield Row(f"{summary.tool}, {conditions.label}", f"failed: {summary.problem}", failed=counts(summary))

    def _one_run(self, names: list[str], conditions: Conditions, run: int, given_up: set[str]) -> Iterator[Trial]:
        for name in names:
            if name in given_up:
                continue
            source = self.source(conditions.size)
            trial = transfer.measure(self.measure, TOOLS[name], conditions, run, source, cold=self.options.cold)
            self.progress(f"{conditions.label}, run {run}, {name}: {describe(trial)}")
            yield trial

    def progress(self, text: str) -> None:
        """Says what goes on, to who waits for it."""
        print(f"{time.monotonic() - self._start:6.0f} s  {self.measure}: {text}", file=sys.stderr, flush=True)

    def heading(self) -> None:
        """Prints the head of the table that `compare` fills."""
        print(f"\n{line(HEADINGS)}\n{line('---' for _ in HEADINGS)}", flush=True)

    def result(self, tool: str, conditions: Conditions) -> Summary | None:
        """The medians of what `compare` measured; None when there are none."""
        chosen = [trial for trial in self.trials if trial.tool == tool and trial.conditions == conditions]
        return next((summary for summary in summarize(chosen) if summary.good), None)


def turned(names: list[str], turns: int) -> list[str]:
    """The same in another order, as who comes after whom might matter."""
    turns %= max(1, len(names))
    return names[turns:] + names[:turns]


def describe(trial: Trial) -> str:
    if trial.problem:
        return f"failed: {trial.problem}"
    cpu = f"sender {trial.sender_user:.2f} + {trial.sender_system:.2f} s, a reader {trial.reader_cpu:.2f} s"
    return f"{trial.seconds:.2f} s, sent {trial.sent / trial.size:.3f}, CPU: {cpu}"


def hopeless(trials: Iterable[Trial]) -> set[str]:
    """Tools that did not end in time: they are not waited for again."""
    return {trial.tool for trial in trials if trial.problem.startswith("not within")}


def counts(summary: Summary) -> bool:
    """Whether a row without result is a failure of the benchmark. That a peer does not come to an end, as TCP at heavy
    loss, is what was measured."""
    return summary.tool == "mcfs" or not summary.problem.startswith("not within")


def gbits(size: int, seconds: float) -> str:
    return f"{size * 8 / seconds / 1e9:.2f} Gbit/s"


def cleanup() -> None:
    Lab.cleanup_stale(PREFIX)
