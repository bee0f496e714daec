"""A bar on the terminal for bytes that come; nothing where stderr is no terminal."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

if TYPE_CHECKING:
    from collections.abc import Iterator


class Bar:
    def __init__(self, progress: Progress, name: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=total)

    def show(self, done: int, total: int | None = None) -> None:
        """Bytes."""
        self._progress.update(self._task, completed=done, total=total)

    def advance(self, size: int) -> None:
        self._progress.advance(self._task, size)


class Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def add(self, name: str, total: int | None = None) -> Bar:
        """A bar for so many bytes, if that is known."""
        return Bar(self._progress, name, total)

    def say(self, line: str) -> None:
        """A line above the bars."""
        self._progress.console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def bars() -> Iterator[Bars]:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Bars(progress)
