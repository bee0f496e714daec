"""How fast the server hears who listens, on this machine: prints tables in Markdown. `script/bench-mld` starts it.

    script/bench-mld [--listeners N[,N]...] [--seconds S] [--runs N] [--only tables | reports]

*Tables*: both listener tables by themselves, each size in a process of its own: microseconds for each record in reports
of 72 that join, refresh and leave, for each listener in a sweep that finds nobody expired; and how much memory the
table takes, without the addresses, which the sender's tables hold as well.

*Reports*: 200 hosts' reports, 5,000 a second with 50 records each, through a raw socket into a real server
(`report_load.py`): how much of one core the server's process takes, and how many reports were lost.

Of several runs the best is printed: others only add to the time.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from mcfs.cli.lab import Host as LabHost
from mcfs.cli.lab import Lab, missing_capabilities
from mcfs.protocol.ids import Group, Host
from mcfs.protocol.mld import MAX_RECORDS, Record, RecordType
from mcfs.serve.bloom import BloomMembership
from mcfs.serve.listening import KINDS
from mcfs.serve.membership import HostRefreshed, Membership
from tests.netlab.report_load import PATTERNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mcfs.serve.listening import Kind, ListenerTable

    Reports = list[tuple[Host, list[Record]]]

PREFIX: Final = "mcfs-bench-mld"
ROOT: Final = Path(__file__).parents[2]
LISTENERS: Final = (1_000, 100_000, 1_000_000)
REPORTS_PER_HOST: Final = 3
WARMING_LISTENERS: Final = 1_000
WARM_UP: Final = 2.0
"""Seconds of load before the time is taken: the first reports join, and memory is new."""
SETTLED: Final = 4.0
"""Seconds after which the kernels of the lab have answered the first queries: the next one comes after 30."""
CATCHING_UP: Final = 2.0
"""Seconds after the load in which what still waits in the server's socket is read."""
DEADLINE: Final = 120.0


# --- the tables by themselves ----------------------------------------------------------------------------------------


class Measured(NamedTuple):
    memory: float
    """Bytes for each listener; the rest is microseconds for each."""
    join: float
    refresh: float
    sweep: float
    leave: float


class Served:
    """The sender's side: it serves all, as its own tables would."""

    def __init__(self, reports: Reports) -> None:
        self._hosts = {record.group: (host,) for host, records in reports for record in records}

    def listeners(self, group: Group) -> tuple[Host, ...]:
        return self._hosts[group]

    def groups(self) -> Iterator[tuple[Group, tuple[Host, ...]]]:
        return iter(self._hosts.items())


def make_reports(listeners: int) -> Reports:
    """Each group has one listener; a host sends three full reports."""
    groups = [Group(bytes.fromhex("ff15") + os.urandom(14)) for _ in range(listeners)]
    joins = [Record(RecordType.CHANGE_TO_EXCLUDE_MODE, group) for group in groups]
    hosts = range(listeners // MAX_RECORDS + 1)
    names = [Host(bytes.fromhex("fe80") + (number // REPORTS_PER_HOST).to_bytes(14, "big")) for number in hosts]
    return [(names[at // MAX_RECORDS], joins[at : at + MAX_RECORDS]) for at in range(0, listeners, MAX_RECORDS)]


def make_table(kind: Kind, listeners: int, reports: Reports) -> Callable[[], ListenerTable]:
    served = Served(reports)
    if kind == "exact":
        return lambda: Membership(lambda _: True, max_hosts=listeners, max_listeners=listeners)
    return lambda: BloomMembership(
        lambda _: True, served, secret=os.urandom(32), expected_listeners=listeners, max_hosts=listeners
    )


def memory_of(make: Callable[[], ListenerTable], reports: Reports) -> int:
    """Bytes that a table allocates until all have joined."""
    gc.collect()
    tracemalloc.start()
    table = make()
    for host, records in reports:
        table.report(host, records, now=0.0)
    gc.collect()
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return memory


def measure(kind: Kind, listeners: int) -> Measured:
    """Once more than it looks: what is done for the first time in a process takes longer and leaves memory behind."""
    once(kind, WARMING_LISTENERS)
    return once(kind, listeners)


def once(kind: Kind, listeners: int) -> Measured:
    reports = make_reports(listeners)
    leaves = [(host, [Record(RecordType.CHANGE_TO_INCLUDE_MODE, r.group) for r in some]) for host, some in reports]
    make = make_table(kind, listeners, reports)
    memory = memory_of(make, reports)
    table = make()

    def tell(what: Reports, now: float) -> float:
        seconds = 0.0
        for host, records in what:
            start = time.perf_counter()
            events = table.report(host, records, now=now)
            seconds += time.perf_counter() - start
            if now == 0.0:  # a join that looks like a refresh is settled as `Link` does
                for event in events:
                    for group in event.groups if isinstance(event, HostRefreshed) else ():
                        table.admit(host, group, now=now)
        return seconds

    join = tell(reports, 0.0)
    refresh = min(tell(reports, 30.0 + again) for again in range(3))
    start = time.perf_counter()
    gone = table.expire(now=65.0)
    sweep = time.perf_counter() - start
    leave = tell(leaves, 66.0)
    assert not gone
    assert table.listener_count == 0
    return Measured(memory / listeners, *(1e6 * seconds / listeners for seconds in (join, refresh, sweep, leave)))


def in_own_process(kind: Kind, listeners: int) -> Measured:
    command = [sys.executable, "-m", "tests.netlab.bench_listeners", "--measure", f"{kind},{listeners}"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return Measured(*json.loads(done.stdout))


def best(runs: list[Measured]) -> Measured:
    return Measured(*map(min, zip(*runs, strict=True)))


def print_tables(sizes: list[int], runs: int) -> None:
    print("| listeners | table | bytes each | us: join | refresh | sweep | leave |\n|---|---|---|---|---|---|---|")
    for listeners in sizes:
        found = {kind: best([in_own_process(kind, listeners) for _ in range(runs)]) for kind in KINDS}
        for kind, measured in found.items():
            figures = " | ".join(f"{value:.2f}" for value in measured[1:])
            print(f"| {listeners:,} | {kind} | {measured.memory:.0f} | {figures} |", flush=True)
        exact, bloom = found["exact"], found["bloom"]
        faster = [name for name in Measured._fields if getattr(bloom, name) < getattr(exact, name)]
        part = bloom.memory / exact.memory
        print(f"| | | bloom is better at: {', '.join(faster) or 'nothing'}; in memory above {part:.0%} of its size |")


# --- the way of a report ---------------------------------------------------------------------------------------------


class ReportCost(NamedTuple):
    cpu: float
    lost: int
    dropped: int
    late: float


def start(host: LabHost, role: str, *arguments: str) -> subprocess.Popen[str]:
    """Returns when it is ready. It ends at the end of its input, or by itself."""
    command = host.argv([sys.executable, "-m", "tests.netlab.report_load", role, *arguments])
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    return process


def last_line(process: subprocess.Popen[str]) -> dict[str, float]:
    output, _ = process.communicate(timeout=DEADLINE)
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def tell(server: subprocess.Popen[str], word: str, pause: float = 0.0) -> None:
    assert server.stdin
    server.stdin.write(word + "\n")
    server.stdin.flush()
    time.sleep(pause)


def replay(kind: Kind, pattern: str, seconds: float) -> ReportCost:
    with Lab(PREFIX, 1, snooping=False) as lab, start(lab.server, "serve", kind) as server:
        time.sleep(SETTLED)
        tell(server, "begin")
        with start(lab.clients[0], "send", pattern, str(seconds + 2 * WARM_UP)) as sender:
            time.sleep(WARM_UP)
            tell(server, "start", seconds)
            tell(server, "stop")
            sent = last_line(sender)
        time.sleep(CATCHING_UP)
        heard = last_line(server)
    assert not heard["bad_messages"], heard
    lost = int(sent["sent"] - heard["reports"])
    return ReportCost(heard["cpu"], lost, int(heard["dropped"]), sent["late"])


def print_reports(seconds: float, runs: int) -> None:
    print("| reports | table | % of one core | lost | dropped by the kernel | seconds that the sender was late |")
    print("|---|---|---|---|---|---|")
    for pattern in PATTERNS:
        for kind in KINDS:
            found = min(replay(kind, pattern, seconds) for _ in range(runs))
            print(
                f"| {pattern} | {kind} | {found.cpu:.0%} | {found.lost} | {found.dropped} | {found.late:.2f} |",
                flush=True,
            )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="script/bench-mld", description="Measure how the server hears listeners.")
    default = ",".join(map(str, LISTENERS))
    parser.add_argument("--listeners", default=default, metavar="N[,N]...", help=f"sizes of the tables ({default})")
    parser.add_argument("--seconds", type=float, default=10.0, help="of load for each run (10)")
    parser.add_argument("--runs", type=int, default=3, help="of each measure; the best counts (3)")
    parser.add_argument("--only", choices=("tables", "reports"), help="one half")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.measure:
        kind, listeners = options.measure.split(",")
        print(json.dumps(measure(kind, int(listeners))))
        return 0
    if options.only != "reports":
        print_tables([int(number) for number in options.listeners.split(",")], options.runs)
        print()
    if options.only != "tables":
        if missing := missing_capabilities():
            print(f"bench-mld: needs {', '.join(missing)}", file=sys.stderr)
            return 3
        Lab.cleanup_stale(PREFIX)
        print_reports(options.seconds, options.runs)
    kernel, load = os.uname().release, ", ".join(f"{value:.1f}" for value in os.getloadavg())
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"\nLinux {kernel}, {os.cpu_count()} processors, load {load}, Python {version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
