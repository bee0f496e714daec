"""The run: python -m tests.soak --help (script/soak)."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from mcfs.cli.lab import Lab
from tests.netlab.harness import Mounted, Site, groups_joined, wait_until
from tests.soak.content import whole
from tests.soak.samples import Life, Sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcfs.cli.lab import Host
    from tests.netlab.harness import Job, Serving

PREFIX: Final = "mcfs-soak"
FILES: Final = 24
PAGES: Final = 2048
"""Of each file: 8 MiB."""
CACHE: Final = 512 << 20
"""Bytes of the file system that a cache is on. A cache takes a tenth of it, which is a quarter of the files."""
RATE: Final = "200M"
TIMEOUT: Final = 15
SAMPLE: Final = 2.0
WARM_UP: Final = 1 / 15
"""Of the run: from the start of each process, three times that of the run's start. It is not counted, as memory fills
what it may."""
CONTROL_GROUPS: Final = 4
"""The channels of the share and of the catalogue, and those of a change that is under way."""
MAX_GROUPS: Final = 64
DEADLINE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    seconds: float = 900.0
    clients: int = 4
    loss: float = 2.0
    change_every: float = 5.0
    """Seconds from one version to the next."""
    restarts: int = 3
    """Of the server, in the first three fifths of the run."""
    pause: float = 0.05
    """Seconds that a reader rests between two files."""


@dataclass
class Result:
    seconds: float
    versions: int
    restarts: int
    counts: Counter[str]
    lives: list[Life]
    problems: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        did = ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))
        yield f"{self.seconds:.0f} s, {self.versions} versions, {self.restarts} restarts; readers: {did}"
        yield from (life.line() for life in self.lives)
        yield from (f"PROBLEM {problem}" for problem in self.problems)


class Soak:
    def __init__(self, site: Site, options: Options) -> None:
        self._site = site
        self._options = options
        self._directory = site.new_directory("tree") / "data"
        self._directory.mkdir()
        self._state = site.new_directory("state")
        self._numbers = random.Random(1)
        self._generation = 0
        self._serving: Serving | None = None
        self._result = Result(0.0, 0, 0, Counter(), [])
        self._lives: dict[int, Life] = {}

    def run(self) -> Result:
        options = self._options
        for file in range(FILES):
            self._write(file)
        self._start_server()
        with contextlib.ExitStack() as stack:
            mounts = [self._mount(stack, host) for host in self._site.lab.clients]
            for host in self._site.lab.clients:
                self._site.lab.loss(host, options.loss)
            readers = [self._start_reader(mounted, number) for number, mounted in enumerate(mounts)]
            start = time.monotonic()
            self._go_on(start, mounts, readers)
            self._result.seconds = time.monotonic() - start
            for reader in readers:
                self._stop_reader(reader)
            self._expect_rest(mounts)
            for mounted in mounts:
                mounted.umount()
        self._result.lives = sorted(self._lives.values(), key=lambda life: life.name)
        self._result.problems += [problem for life in self._result.lives for problem in life.problems()]
        return self._result

    # --- the server ---

    def _write(self, file: int) -> None:
        self._generation += 1
        new = self._directory.parent / "new"
        new.write_bytes(whole(file, PAGES, self._generation))
        new.replace(self._directory / str(file))

    def _start_server(self) -> None:
        options = ("--rate", RATE)
        self._serving = self._site.serve(self._site.lab.server, self._directory, state=self._state, options=options)

    def _publish(self) -> None:
        before = self._versions()
        self._write(self._numbers.randrange(FILES))
        wait_until(lambda: self._versions() > before, DEADLINE, "the new version is published")
        self._result.versions += 1

    def _versions(self) -> int:
        assert self._serving is not None
        return self._serving.job.output.count(": changed: version ")

    def _restart(self) -> None:
        """Now in good order, now killed."""
        assert self._serving is not None
        if self._result.restarts % 2:
            self._serving.stop()
        else:
            self._serving.kill()
        self._write(self._numbers.randrange(FILES))
        self._start_server()
        self._result.restarts += 1

    # --- clients ---

    def _mount(self, stack: contextlib.ExitStack, host: Host) -> Mounted:
        cache = self._site.new_directory("cache")
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={CACHE},mode=0700", "tmpfs", cache], check=True)
        stack.callback(lambda: subprocess.run(["umount", "-l", cache], check=False, capture_output=True))
        return self._site.mount(host, "data", cache=cache / "mcfs", timeout=TIMEOUT)

    def _start_reader(self, mounted: Mounted, seed: int) -> Job:
        command: list[str | Path] = [sys.executable, "-m", "tests.soak.reader"]
        return self._site.start(mounted.host, [*command, mounted.path, str(seed), str(self._options.pause)])

    def _stop_reader(self, reader: Job) -> None:
        reader.process.terminate()
        code = reader.finish(DEADLINE)
        if code:
            self._result.problems.append(f"a reader ended with code {code}: {reader.output.strip()[-300:]}")
        else:
            self._result.counts.update(json.loads(reader.output.splitlines()[-1]))

    def _expect_rest(self, mounts: list[Mounted]) -> None:
        """When nobody reads, only control channels are joined."""
        for mounted in mounts:
            try:
                wait_until(lambda m=mounted: self._groups(m.host) <= CONTROL_GROUPS, DEADLINE, "groups are left")  # type: ignore[misc]
            except AssertionError:
                self._result.problems.append(f"{mounted.host.name}: {self._groups(mounted.host)} groups at rest")

    # --- the run ---

    def _go_on(self, start: float, mounts: list[Mounted], readers: list[Job]) -> None:
        options = self._options
        restarts = [start + options.seconds * (n + 1) / (options.restarts + 1) * 0.6 for n in range(options.restarts)]
        next_change, next_sample = start + options.change_every, start + 3 * WARM_UP * options.seconds
        while (now := time.monotonic()) < start + options.seconds and all(reader.running for reader in readers):
            if restarts and now >= restarts[0]:
                restarts.pop(0)
                self._restart()
            elif now >= next_change:
                next_change = now + options.change_every
                self._publish()
            elif now >= next_sample:
                next_sample = now + SAMPLE
                self._sample(mounts)
            time.sleep(0.05)

    def _sample(self, mounts: list[Mounted]) -> None:
        assert self._serving is not None
        self._sample_process(self._site.lab.server, self._serving.job.process.pid)
        for mounted in mounts:
            for pid in self._site.lab.pids(mounted.host):
                with contextlib.suppress(psutil.NoSuchProcess):
                    command = psutil.Process(pid).cmdline()
                    if str(mounted.path) in command and "tests.soak.reader" not in command:
                        self._sample_process(mounted.host, pid)

    def _sample_process(self, host: Host, pid: int) -> None:
        process = psutil.Process(pid)
        if time.time() - process.create_time() < WARM_UP * self._options.seconds:
            return
        life = self._lives.setdefault(pid, Life(f"{host.name} {pid}"))
        groups = self._groups(host)
        if groups > MAX_GROUPS + CONTROL_GROUPS and host is not self._site.lab.server:
            self._result.problems.append(f"{host.name}: {groups} groups at once")
        life.samples.append(Sample(process.memory_full_info().uss, process.num_fds(), groups))

    def _groups(self, host: Host) -> int:
        pid = min(self._site.lab.pids(host), default=None)
        return 0 if pid is None else sum(group.startswith("ff15") for group in groups_joined(str(pid)))


def run(options: Options) -> Result:
    with (
        tempfile.TemporaryDirectory(prefix=f"{PREFIX}-") as directory,
        Lab(PREFIX, options.clients, wire=True) as lab,
        Site(lab, Path(directory)) as site,
    ):
        return Soak(site, options).run()
