"""What a tool must say of itself so that it can be measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from tests.bench.accounting import end_times

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.bench.scene import Scene
    from tests.netlab.harness import Job


class Timing(NamedTuple):
    each: tuple[float, ...]
    """Seconds of each reader until it had the file."""
    whole: float
    """Seconds from the first command until the last reader had the file."""


class Tool(ABC):
    """A transfer of one file from the server of a scene to all its readers at once, in steps."""

    name: ClassVar[str]
    programs: ClassVar[Mapping[str, str]]
    """What it needs, and the Debian package of each."""
    about: ClassVar[str]
    """How it is run, for the documentation: what is measured and where each copy ends up."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    @abstractmethod
    def prepare(self) -> None:
        """Starts what runs before anybody wants the file; nothing of it is sent yet."""

    @abstractmethod
    def transfer(self, deadline: float) -> Timing:
        """Brings the file to all readers. Raises Late after `deadline` seconds. Leaves zombies, whose processor time
        is read next."""

    @abstractmethod
    def finish(self) -> None:
        """Raises AssertionError when a program has not ended as it should."""

    @abstractmethod
    def copies(self) -> list[Path]:
        """Where each reader has what it received."""


class Pulling(Tool):
    """A tool whose readers each run a program that ends when it has the file."""

    _started: list[Job]

    @abstractmethod
    def command(self, number: int) -> list[str | Path]:
        """What reader `number`, counted from 0, runs."""

    def transfer(self, deadline: float) -> Timing:
        self._started = [self.scene.start(host, self.command(n)) for n, host in enumerate(self.scene.readers)]
        ended = end_times(self._started, deadline)
        each = tuple(end - job.started for end, job in zip(ended, self._started, strict=True))
        return Timing(each, max(ended) - self._started[0].started)

    def finish(self) -> None:
        for job in self._started:
            job.expect_success(1.0)
