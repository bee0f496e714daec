"""Measures of mcfs alone on a link of 1 Gbit/s in wire mode: several readers, together, apart, slow, or unplugged."""

from __future__ import annotations

import os
import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.bench.accounting import Cpu, cpu_of, end_times
from tests.bench.bench import DEADLINE, Bench
from tests.bench.conditions import MIB, Mode
from tests.bench.summary import Row
from tests.bench.transfer import SETTLE
from tests.netlab.harness import Mounted, join_all, same_bytes, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.netlab.harness import Job, Serving, Site

LINK: Final = "1gbit"
RATE: Final = ("--rate", "1G")
TOGETHER: Final[tuple[int, ...]] = (1, 4, 8)
GAP: Final = 0.5
"""Seconds between the starts of staggered readers."""
STAGGERED: Final = 4
SLOW: Final = "100mbit"
FAST: Final = 3
"""Readers beside the slow one, and beside the unplugged one."""
OPENED_DEADLINE: Final = 30.0
# It opens its file, says so, waits until somebody opens the other end of the pipe, and reads.
_READ_WHEN_TOLD: Final = 'exec 3<"$1"; echo opened; read -r _ <"$2"; exec cat <&3 >/dev/null'


@dataclass(frozen=True, slots=True)
class Served:
    """A file that is served and mounted by all clients of a lab."""

    site: Site
    serving: Serving
    mounts: list[Mounted]
    source: Path

    def copy(self, mounted: Mounted) -> Job:
        return self.site.start(mounted.host, ["cp", mounted.path / self.source.name, "/dev/null"])

    def cpu(self) -> Cpu:
        return cpu_of([self.serving.job.process.pid])

    def check(self, mounts: Sequence[Mounted] = ()) -> None:
        """Raises AssertionError when a reader has other bytes than the server."""
        pairs = [(mounted.host, mounted.path / self.source.name) for mounted in mounts or self.mounts]
        join_all([self.site.start(host, same_bytes(self.source, path)) for host, path in pairs], DEADLINE)


@contextmanager
def served(bench: Bench, clients: int) -> Iterator[Served]:
    """All is ready to be read, and nothing of the file has been."""
    source = bench.source(bench.options.shared_size)
    with bench.site_in(Mode.WIRE, clients) as site:
        site.lab.rate_limit(site.lab.server, LINK)
        serving = site.serve(site.lab.server, source.parent, options=RATE)
        mounts = [site.mount(host, source.parent.name) for host in site.lab.clients]
        bench.warm_memory(bench.options.shared_size, clients)
        yield Served(site, serving, mounts, source)


def seconds_of(jobs: Sequence[Job], deadline: float = DEADLINE) -> list[float]:
    """How long each took from its own start. Raises AssertionError when one failed or was late."""
    ended = end_times(jobs, deadline)
    join_all(jobs, 1.0)
    return [end - job.started for end, job in zip(ended, jobs, strict=True)]


def shown(values: Sequence[float], digits: int = 2) -> str:
    """The median, and the range it comes from."""
    middle, *ends = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({' to '.join(ends)})" if len(values) > 1 else middle


# --- together --------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    sent: float
    """Bytes sent for a byte of data."""
    seconds: float
    user: float
    system: float
    reports: float
    """MLD messages that the server received, for a MiB and a client."""


def together(bench: Bench) -> Iterator[Row]:
    """Files are opened first, then all reads are released at the same moment."""
    numbers = [number for number in TOGETHER if number in bench.options.readers] or list(bench.options.readers)
    found: dict[int, list[Found]] = {number: [] for number in numbers}
    for _ in range(bench.options.runs):
        for number in numbers:
            found[number].append(_released(bench, number))
            bench.progress(f"{number} readers: {found[number][-1]}")
    for number, results in found.items():
        what = f"{number} {'reader' if number == 1 else 'readers'} at 1 Gbit/s, reads released together"
        yield Row(f"{what}: bytes sent / data", shown([one.sent for one in results], 3), "<= 1.09")
        yield Row(f"{what}: MLD messages for each MiB and client", shown([one.reports for one in results]), "<= 0.5")
        yield Row(f"{what}: seconds", shown([one.seconds for one in results]))
        cpu = f"{shown([one.user for one in results])} user, {shown([one.system for one in results])} system"
        yield Row(f"{what}: the server's CPU seconds", cpu)
    if 1 in found and len(found) > 1:
        most = max(found)
        ratio = statistics.median(one.user for one in found[most]) / statistics.median(one.user for one in found[1])
        yield Row(f"the server's user CPU seconds, {most} readers / 1 reader", f"{ratio:.2f}", "<= 1.15")


def _released(bench: Bench, number: int) -> Found:
    with served(bench, number) as at:
        gate = at.site.directory / "gate"
        os.mkfifo(gate)
        names = [mounted.path / at.source.name for mounted in at.mounts]
        words = ["sh", "-c", _READ_WHEN_TOLD, "sh"]
        sent, used = at.site.sent(), at.cpu()  # mcfs fetches the first block of a file that is opened
        jobs = [at.site.start(each.host, [*words, name, gate]) for each, name in zip(at.mounts, names, strict=True)]
        wait_until(lambda: all(job.output for job in jobs), OPENED_DEADLINE, "all have opened the file")
        time.sleep(SETTLE)
        start = time.monotonic()
        gate.open("wb").close()  # all who wait for a writer wake up
        seconds = max(end_times(jobs, DEADLINE)) - start
        join_all(jobs, 1.0)
        time.sleep(SETTLE)
        cpu, sent = at.cpu().since(used), at.site.sent() - sent
        at.check()
        reports = at.serving.stop()["reports"] / (bench.options.shared_size / MIB * number)
        return Found(sent / bench.options.shared_size, seconds, *cpu, reports)


# --- apart -----------------------------------------------------------------------------------------------------------


def staggered(bench: Bench) -> Iterator[Row]:
    """Four readers that start half a second apart, and one that is alone."""
    sent, alone, times = [], [], []
    for _ in range(bench.options.runs):
        alone.append(_apart(bench, 1)[1][0])
        factor, seconds = _apart(bench, STAGGERED)
        sent.append(factor)
        times.append([own / alone[-1] for own in seconds])
        bench.progress(
            f"alone {alone[-1]:.2f} s; staggered {', '.join(f'{own:.2f}' for own in seconds)} s, {factor:.3f}"
        )
    what = f"{STAGGERED} readers at 1 Gbit/s that start {GAP} s apart"
    yield Row(f"{what}: bytes sent / data", shown(sent, 3), "<= 2.1")
    yield Row(f"{what}: the longest own time / that of one alone", shown([max(own) for own in times]), "<= 1.8")
    each = "; ".join(shown([own[number] for own in times]) for number in range(STAGGERED))
    yield Row(f"{what}: own time / that of one alone, in the order of their starts", each)
    yield Row("one reader alone: seconds", shown(alone))


def _apart(bench: Bench, number: int) -> tuple[float, list[float]]:
    """Bytes sent for a byte of data, and each reader's own seconds."""
    with served(bench, number) as at:
        sent, start = at.site.sent(), time.monotonic()
        jobs: list[Job] = []
        for turn, mounted in enumerate(at.mounts):
            time.sleep(max(0.0, start + turn * GAP - time.monotonic()))
            jobs.append(at.copy(mounted))
        seconds = seconds_of(jobs)
        time.sleep(SETTLE)
        factor = (at.site.sent() - sent) / bench.options.shared_size
        at.check()
        return factor, seconds


def late_reader(bench: Bench) -> Iterator[Row]:
    """The second reader starts when half of the file has been sent."""
    sent = []
    for _ in range(bench.options.runs):
        with served(bench, 2) as at:
            before = at.site.sent()
            jobs = [at.copy(at.mounts[0])]
            at.site.wait_sent(before, bench.options.shared_size // 2, DEADLINE)
            jobs.append(at.copy(at.mounts[1]))
            seconds_of(jobs)
            sent.append((at.site.sent() - before) / bench.options.shared_size)
            at.check()
    yield Row("a second reader starts when the first is half through: bytes sent / data", shown(sent, 3), "<= 2.0")


# --- unequal ---------------------------------------------------------------------------------------------------------


def slow_reader(bench: Bench) -> Iterator[Row]:
    """Three readers with and without one more that is behind a port of 100 Mbit/s."""
    size = bench.options.shared_size
    times, rates, sent = [], [], []
    for _ in range(bench.options.runs):
        without, _, _ = _beside(bench, FAST, lambda _at: None)
        seconds, own, factor = _beside(bench, FAST + 1, lambda at: at.site.lab.slow_port(at.mounts[-1].host, SLOW))
        times.append(seconds / without)
        rates.append(size * 8 / own / 1e6)
        sent.append(factor)
        bench.progress(f"three alone {without:.2f} s, beside it {seconds:.2f} s; it {own:.2f} s; sent {factor:.3f}")
    what = "one reader behind 100 Mbit/s beside three at 1 Gbit/s"
    yield Row(f"{what}: the three's time / without it", shown(times), "<= 1.25")
    yield Row(f"{what}: the slow one's Mbit/s", shown(rates, 0), ">= 80")
    yield Row(f"{what}: bytes sent / data", shown(sent, 3), "<= 2.6")


def _beside(bench: Bench, number: int, arrange: Callable[[Served], None]) -> tuple[float, float, float]:
    """Seconds of the slowest of the first three, of the last reader, and bytes sent for a byte of data."""
    with served(bench, number) as at:
        arrange(at)
        sent = at.site.sent()
        seconds = seconds_of([at.copy(mounted) for mounted in at.mounts])
        time.sleep(SETTLE)
        factor = (at.site.sent() - sent) / bench.options.shared_size
        at.check()
        return max(seconds[:FAST]), seconds[-1], factor


def unplugged(bench: Bench) -> Iterator[Row]:
    """Four readers, of which one loses its cable when a quarter of the file has been sent, or does not."""
    ratios = []
    for _ in range(bench.options.runs):
        whole, torn = (_unplugging(bench, unplug=unplug) for unplug in (False, True))
        ratios.append(torn / whole)
        bench.progress(f"three readers {whole:.2f} s, beside an unplugged one {torn:.2f} s")
    yield Row(
        "three readers beside one that is unplugged in mid-copy: time / time beside one that is not",
        shown(ratios),
        "<= 1.4",
    )


def _unplugging(bench: Bench, *, unplug: bool) -> float:
    with served(bench, FAST + 1) as at:
        sent = at.site.sent()
        jobs = [at.copy(mounted) for mounted in at.mounts]
        at.site.wait_sent(sent, bench.options.shared_size // 4, DEADLINE)
        if unplug:
            at.site.lab.link(at.mounts[-1].host, up=False)
        seconds = seconds_of(jobs[:FAST])
        at.check(at.mounts[:FAST])
        return max(seconds)


MEASURES: Final[dict[str, Callable[[Bench], Iterator[Row]]]] = {
    "together": together,
    "staggered": staggered,
    "late-reader": late_reader,
    "slow-reader": slow_reader,
    "unplugged": unplugged,
}
