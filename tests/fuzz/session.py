"""Many batches on several processes, each of which may crash or hang without more harm than a failure."""

from __future__ import annotations

import hashlib
import logging
import mmap
import multiprocessing
import multiprocessing.connection
import signal
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.fuzz.run import BATCH, Failure, Outcome, limit_memory, run_batch
from tests.fuzz.targets import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection

HANG: Final = 60.0
"""Seconds after which a batch of 500 inputs does not come to an end any more; most take a tenth of a second."""
_ROOM: Final = 1 << 17
"""Bytes for the input that is being tried, and its length before it."""

_processes: Final = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Task:
    target: str
    seed: int
    number: int


class Worker:
    """A process that runs batches, and a file that shows which input it is at."""

    def __init__(self, directory: Path) -> None:
        self._file = tempfile.NamedTemporaryFile(dir=directory)  # noqa: SIM115 - closed by `close`
        self._file.truncate(_ROOM)
        self.connection, theirs = _processes.Pipe()
        self._process = _processes.Process(target=work, args=(theirs, self._file.name), daemon=True)
        self._process.start()
        theirs.close()
        self.task: Task | None = None
        self._since = 0.0

    def give(self, task: Task) -> None:
        self.task, self._since = task, time.monotonic()
        self.connection.send(task)

    def take(self) -> Outcome | None:
        """The outcome of its task; None if the process has ended."""
        try:
            outcome: Outcome = self.connection.recv()
        except (EOFError, ConnectionError):
            return None
        self.task = None
        return outcome

    @property
    def hangs(self) -> bool:
        return self.task is not None and time.monotonic() - self._since > HANG

    def current(self) -> bytes:
        """The input that it was at."""
        data = Path(self._file.name).read_bytes()
        return data[8 : 8 + int.from_bytes(data[:8], "little")]

    def close(self) -> int | None:
        """Ends the process; its exit code if it had ended by itself."""
        self._process.join(0.2)
        code = self._process.exitcode
        self._process.kill()
        self._process.join()
        self.connection.close()
        self._file.close()
        return code


class _Log(logging.Handler):
    """Says nothing, but fails where a line cannot be put together."""

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()


def work(connection: Connection, path: str) -> None:
    """What a worker does, until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(handlers=[_Log()], force=True)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), _ROOM) as shown:

        def note(data: bytes) -> None:
            shown[: 8 + len(data)] = len(data).to_bytes(8, "little") + data

        tempfile.tempdir = str(Path(path).parent)  # removed by the parent, however this process ends
        made = {name: target.make() for name, target in BY_NAME.items()}
        limit_memory()
        with suppress(EOFError, ConnectionError):
            while True:
                task: Task = connection.recv()
                target = BY_NAME[task.target]
                connection.send(run_batch(target, made[task.target], task.seed, task.number, note=note))


@dataclass(slots=True)
class Session:
    """What came of all batches: one sum for each target."""

    keep: Path
    """Where inputs are kept that failed."""
    sums: dict[str, Outcome] = field(default_factory=dict)
    kept: dict[Path, Failure] = field(default_factory=dict)
    peaks: dict[int, int] = field(default_factory=dict)
    """Bytes of memory that each process had at most."""

    def run(self, names: Sequence[str], inputs: int, *, seed: int, jobs: int) -> None:
        """About `inputs` in all, the same number for each target."""
        batches = max(1, -(-inputs // (BATCH * len(names))))
        tasks = deque(Task(name, seed, number) for number in range(batches) for name in names)
        with tempfile.TemporaryDirectory(prefix="mcfs-fuzz-") as directory:
            workers = [Worker(Path(directory)) for _ in range(jobs)]
            try:
                self._share_out(tasks, workers, Path(directory))
            finally:
                for worker in workers:
                    worker.close()

    def _share_out(self, tasks: deque[Task], workers: list[Worker], directory: Path) -> None:
        while tasks or any(worker.task for worker in workers):
            for worker in workers:
                if tasks and not worker.task:
                    worker.give(tasks.popleft())
            for number in list(self._ready(workers)):
                outcome = workers[number].take() if not workers[number].hangs else None
                if outcome is None:
                    self._lost(workers[number])
                    workers[number] = Worker(directory)
                else:
                    self._add(outcome)

    @staticmethod
    def _ready(workers: Sequence[Worker]) -> Iterator[int]:
        """Those that have something to say, have ended, or take too long."""
        busy = [worker.connection for worker in workers if worker.task]
        ready = multiprocessing.connection.wait(busy, timeout=1.0)
        return (n for n, worker in enumerate(workers) if worker.connection in ready or worker.hangs)

    def _lost(self, worker: Worker) -> None:
        task, hangs, data = worker.task, worker.hangs, worker.current()
        code = worker.close()
        assert task is not None
        what = f"no end within {HANG:g} s" if hangs else f"the process ended with {code}"
        self._add(Outcome(task.target, failures=[Failure(task.target, what, data)]))

    def _add(self, outcome: Outcome) -> None:
        total = self.sums.setdefault(outcome.target, Outcome(outcome.target))
        total.inputs += outcome.inputs
        total.accepted += outcome.accepted
        total.seconds += outcome.seconds
        total.longest = max(total.longest, outcome.longest)
        if outcome.process:
            self.peaks[outcome.process] = max(outcome.peak, self.peaks.get(outcome.process, 0))
        for failure in outcome.failures:
            self._keep(failure)

    def _keep(self, failure: Failure) -> None:
        """One file for each kind of failure, as the first input that showed it."""
        if any(known.target == failure.target and known.what == failure.what for known in self.kept.values()):
            return
        self.keep.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(failure.data).hexdigest()[:12]
        path = self.keep / f"{failure.target.replace(' ', '_')}-{digest}"
        path.write_bytes(failure.data)
        self.kept[path] = failure
        print(f"{failure.target}: {failure.what}\n  again: script/fuzz --again {path}", file=sys.stderr, flush=True)


def target_of(path: Path) -> str:
    """The target that a kept input is for."""
    return path.name.rpartition("-")[0].replace("_", " ") if " " in path.name else _named(path.name.rpartition("-")[0])


def _named(stem: str) -> str:
    return next((name for name in BY_NAME if name.replace(" ", "_") == stem), stem)
