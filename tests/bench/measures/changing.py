"""Shares that change while they are served: how soon clients hear of it, what it costs, and whether it is right."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from tests.bench.bench import DEADLINE, Bench
from tests.bench.conditions import MIB
from tests.bench.summary import Row
from tests.netlab.harness import differences, random_file, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.netlab.harness import Job, Serving

CHAOS: Final = (sys.executable, "-m", "tests.netlab.chaos")
CHAOS_SECONDS: Final = 60
CHAOS_CLIENTS: Final = 4
MANY: Final = 10_000
"""Files of the tree of which one changes."""
SMALL: Final = 4000
DIRECTORIES: Final = 100
ANNOUNCEMENTS: Final = 10
COPY_DEADLINE: Final = 300.0
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def small_change(bench: Bench) -> Iterator[Row]:
    """One of 10,000 small files changes: how soon it is announced, and what is sent to a client that has the rest."""
    with bench.site(1) as site:
        source = _many_files(site.new_directory("source"))
        serving = site.serve(site.lab.server, source)
        (client,) = site.lab.clients
        mounted = site.mount(client, source.name)
        site.start(client, ["cp", "-r", mounted.path, site.new_directory("copy")]).expect_success(COPY_DEADLINE)
        listener = site.start(client, [*CHAOS, "announcements", source.name])
        wait_until(lambda: listener.output.count("\n") == 1, DEADLINE, "the share is heard")
        delays, sent = [], []
        for number in range(bench.options.runs if bench.options.quick else ANNOUNCEMENTS):
            before, changed = site.sent(), time.monotonic()
            (source / f"d{number}" / "file0").write_bytes(os.urandom(SMALL))
            delays.append(_announced(listener, number + 1) - changed)
            wait_until(lambda: not differences(source, mounted.path), DEADLINE, "the client has all")
            sent.append(site.sent() - before)
            bench.progress(f"announced after {delays[-1]:.2f} s, {sent[-1] / MIB:.2f} MiB sent")
        listener.kill()
        serving.stop()
        what = f"one of {MANY} files of {SMALL} bytes changes"
        yield Row(f"{what}: MiB sent until a client has it, median and most",
                  f"{statistics.median(sent) / MIB:.2f}, {max(sent) / MIB:.2f}", "<= 2")  # fmt: skip
        yield Row(f"{what}: seconds until it is announced, median and most",
                  f"{statistics.median(delays):.2f}, {max(delays):.2f}", "<= 3")  # fmt: skip


def sending(bench: Bench) -> Iterator[Row]:
    """What one client's copy takes while the tree beside it changes all the time, and without that."""
    size = bench.options.size
    found: dict[bool, list[float]] = {False: [], True: []}
    for run in range(bench.options.runs):
        for changes in (False, True) if run % 2 == 0 else (True, False):
            found[changes].append(_copy_seconds(bench, size, changes=changes))
            bench.progress(f"run {run + 1}, {'with' if changes else 'without'} changes: {found[changes][-1]:.2f} s")
    still, moved = (statistics.median(found[changes]) for changes in (False, True))
    yield Row("copy of one file, nothing changes: seconds", f"{still:.2f}")
    yield Row(f"the same while one of {MANY} files changes four times a second: seconds", f"{moved:.2f}")
    yield Row("the second / the first", f"{moved / still:.2f}", "<= 1.3")


def chaos(bench: Bench) -> Iterator[Row]:
    """Files are truncated, rewritten, replaced, deleted, forbidden, appended to and renamed while four clients read."""
    seconds = CHAOS_SECONDS // 6 if bench.options.quick else CHAOS_SECONDS
    with bench.site(CHAOS_CLIENTS) as site:
        source, log = site.new_directory("source"), site.directory / "published"
        log.touch()
        changer = site.start(site.lab.switch, [*CHAOS, "change", source, log, str(seconds), "1"])
        wait_until(lambda: "ready" in changer.output, DEADLINE, "there are files")
        serving = site.serve(site.lab.server, source)
        readers = [
            site.start(
                host, [*CHAOS, "read", site.mount(host, source.name, timeout=10).path, log, str(seconds), str(n)]
            )
            for n, host in enumerate(site.lab.clients)
        ]
        memory = [_resident(serving) for _ in _ticks(seconds, lambda: changer.running)]
        changer.expect_success(DEADLINE)
        found: Counter[str] = Counter()
        wrong = 0
        for reader in readers:
            wrong += reader.finish(DEADLINE) != 0
            found.update(json.loads(reader.output.splitlines()[-1]) if not wrong else {})
        alive = serving.job.running
        changes = sum(json.loads(changer.output.splitlines()[-1]).values())
        versions = serving.job.output.count(": changed: version")
        lines = serving.job.output.count("\n")
        serving.stop()
    bench.progress(f"{changes} changes, {versions} versions, read: {dict(found)}, {lines} lines of log")
    bench.progress(f"MiB of memory: {[size // MIB for size in memory]}")
    half = len(memory) // 2
    growth = max(memory[half:]) / max(memory[:half]) - 1
    what = f"{changes} changes of 24 files in {seconds} s, {versions} versions"
    yield Row(f"{what}: readers that got a wrong byte", str(wrong), "0", failed=wrong > 0)
    yield Row(f"{what}: files read whole and right; errors instead",
              f"{found['right']}; {sum(n for name, n in found.items() if name.startswith('E'))}")  # fmt: skip
    yield Row(f"{what}: the server is alive", str(alive), "True", failed=not alive)
    yield Row(f"{what}: most memory of the server in the second half / first half - 1", f"{growth:.1%}", "<= 10 %")


def _many_files(source: Path) -> Path:
    for number in range(DIRECTORIES):
        place = source / f"d{number}"
        place.mkdir()
        for n in range(MANY // DIRECTORIES):
            random_file(place / f"file{n}", SMALL, seed=number * DIRECTORIES + n)
    return source


def _announced(listener: Job, number: int) -> float:
    """When the so-and-so-manyth version after the first was announced."""
    wait_until(lambda: listener.output.count("\n") > number, DEADLINE, "a new version is announced")
    return float(listener.output.splitlines()[number].split()[0])


def _copy_seconds(bench: Bench, size: int, *, changes: bool) -> float:
    with bench.site(1) as site:
        source = _many_files(site.new_directory("source"))
        os.link(bench.source(size), source / "large")
        serving = site.serve(site.lab.server, source)
        (client,) = site.lab.clients
        mounted = site.mount(client, source.name)
        bench.warm_memory(size)
        script = 'while sleep 0.25; do echo $RANDOM$RANDOM >"$1/d5/file5"; done'
        changer = site.start(site.lab.switch, ["bash", "-c", script, "bash", source]) if changes else None
        time.sleep(1.0)
        seconds = site.start(client, ["cp", mounted.path / "large", "/dev/null"]).expect_success(DEADLINE)
        if changer is not None:
            changer.kill()
        serving.stop()
        return seconds


def _ticks(seconds: float, condition: Callable[[], bool]) -> Iterator[int]:
    """Once a second."""
    tick = 0
    while condition() and tick < 2 * seconds:
        time.sleep(1.0)
        yield (tick := tick + 1)


def _resident(serving: Serving) -> int:
    with open(f"/proc/{serving.job.process.pid}/statm") as file:
        return int(file.read().split()[1]) * _PAGE


MEASURES: Final[dict[str, Callable[[Bench], Iterator[Row]]]] = {
    "small-change": small_change,
    "changing": sending,
    "chaos": chaos,
}
