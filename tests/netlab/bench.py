"""How fast it is, on this machine: prints a table in Markdown. `script/bench` starts it.

    script/bench [-m LETTERS] [--size MIB] [--shared-size MIB] [--files N] [--dir DIR] [--mld-size MIB]
                 [--mld-minutes N]

Each measure builds a lab of its own. The letters:

    a  the library and a large file, copied with cp -r and compared
    b  bytes that the server sends for four clients, without and with loss
    c  the same for two clients of which one starts in the middle
    d  throughput of one client: unshaped, in wire mode, behind 1 Gbit/s
    e  the first byte of a file never read before; a second read
    f  the server when nobody listens
    g  how long a reader waits for the error when the server is killed
    h  how long a mount takes, and how long that of an absent share
    i  a dead share, and an unplugged host, beside readers that are not concerned
    j  across a router that runs an MLD proxy: the first datagram, and bytes sent for two clients
    s  two servers of one share
    m  MLD: the bridge's table, how soon the server falls silent, hostile hosts; only if asked for: a quarter of an hour

Figures mean something only on a machine that does nothing else: the load is printed below the table. A virtual
machine that gives free memory back to its host pays for each page that it touches again; here that can be six times
what a warm page costs, and a copy of 1 GiB touches 2 GiB (its cache and the kernel's page cache). So each measure of
speed first touches that much, and both costs are printed. With --cold it does not.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from mcfs.cli.lab import Lab, missing_capabilities
from tests.netlab import bench_mld, routed
from tests.netlab.harness import (
    HARNESS,
    MCFS,
    MIB,
    Mounted,
    Site,
    join_all,
    library_tree,
    random_file,
    same_bytes,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PREFIX: Final = "mcfs-bench"
MEMORY: Final = Path("/dev/shm")
DEADLINE: Final = 900.0
SHARED_RATE: Final = "1G"
"""For measures with several clients: what they all keep up with is what a shared link is about."""
BLOCKS_APART: Final = 0.1
NEIGHBOURS: Final = 10
"""Files among which each of those is chosen that are opened for the first time."""
FRESH: Final = 2048 * MIB
TOUCHED: Final = 3
"""Bytes of memory that one client touches for a byte of data: its cache, the kernel's page cache, and some to spare."""
TIMEOUT: Final = 5
JOINS: Final = 20


class Row(NamedTuple):
    letter: str
    measure: str
    value: str
    goal: str = ""


class Options(NamedTuple):
    directory: Path
    size: int
    """Bytes of the large file."""
    shared_size: int
    """Bytes of the file that several clients read."""
    files: int
    """How many small files are opened for the first time."""
    cold: bool
    """Leave memory as the host gives it."""
    mld_size: int
    """Bytes that one client reads through a default bridge."""
    mld_minutes: float
    """How long a slow copy takes through a bridge that forgets soon."""


@contextmanager
def site(options: Options, clients: int, *, wire: bool = False) -> Iterator[Site]:
    with (
        tempfile.TemporaryDirectory(prefix=f"{PREFIX}-", dir=options.directory) as directory,
        Lab(PREFIX, clients, wire=wire) as lab,
        Site(lab, Path(directory)) as made,
    ):
        yield made


def data(place: Site) -> Path:
    directory = place.directory / "data"
    directory.mkdir()
    return directory


def touch_memory(size: int) -> float:
    """Seconds for taking `size` bytes of memory into use; they are free again afterwards."""
    chunk = b"\1" * MIB
    start = time.monotonic()
    with tempfile.TemporaryFile(dir=MEMORY) as file:
        for _ in range(size // MIB):
            file.write(chunk)
    return time.monotonic() - start


def roomy_size(wanted: int) -> int:
    return min(wanted, shutil.disk_usage(MEMORY).free // 2) if MEMORY.is_dir() else 0


def warm_memory(options: Options, size: int, clients: int = 1) -> None:
    """Right before the measure, as the host has free pages back within seconds."""
    if not options.cold and (wanted := roomy_size(TOUCHED * size * clients)):
        touch_memory(wanted)


def copy(place: Site, mounted: Mounted, file: str = "file") -> float:
    """Seconds for one file; the copy goes nowhere, so that writing it is not measured."""
    return place.start(mounted.host, ["cp", mounted.path / file, "/dev/null"]).expect_success(DEADLINE)


def gbits(size: int, seconds: float) -> str:
    return f"{size * 8 / seconds / 1e9:.2f} Gbit/s"


def whole_tree(options: Options) -> Iterator[Row]:
    with site(options, 1) as place:
        source = library_tree(place.directory / "library")
        random_file(source / "large", options.size)
        size = sum(path.lstat().st_size for path in source.rglob("*") if path.is_file() and not path.is_symlink())
        place.serve(place.lab.server, source)
        mounted, copied = place.mount(place.lab.clients[0], "library"), place.directory / "copied"
        warm_memory(options, size)
        job = place.start(mounted.host, ["cp", "-r", "--preserve=mode,timestamps", mounted.path, copied])
        seconds = job.expect_success(DEADLINE)
        place.start(mounted.host, [*HARNESS, "compare", source, copied]).expect_success(DEADLINE)
        yield Row("a", f"cp -r, {size // MIB} MiB, no difference", f"{seconds:.1f} s, {gbits(size, seconds)}")


def four_clients(options: Options) -> Iterator[Row]:
    for percent, goal in ((0, 1.12), (5, 1.25)):
        with site(options, 4, wire=True) as place:
            source = random_file(data(place) / "file", options.shared_size)
            place.serve(place.lab.server, source.parent, options=("--rate", SHARED_RATE))
            mounts = [place.mount(host, "data") for host in place.lab.clients]
            for host in place.lab.clients:
                place.lab.loss(host, percent)
            warm_memory(options, options.shared_size, len(mounts))
            sent = place.sent()
            seconds = join_all(
                [place.start(each.host, same_bytes(source, each.path / "file")) for each in mounts], DEADLINE
            )
            factor = (place.sent() - sent) / options.shared_size
            measure = f"four clients at {SHARED_RATE}, {percent} % loss: bytes sent / bytes of data"
            yield Row("b", measure, f"{factor:.3f} in {max(seconds):.1f} s", f"<= {goal}")


def staggered_start(options: Options) -> Iterator[Row]:
    with site(options, 2, wire=True) as place:
        source = random_file(data(place) / "file", options.shared_size)
        place.serve(place.lab.server, source.parent, options=("--rate", SHARED_RATE))
        first, second = (place.mount(host, "data") for host in place.lab.clients)
        warm_memory(options, options.shared_size, 2)
        sent = place.sent()
        jobs = [place.start(first.host, same_bytes(source, first.path / "file"))]
        place.wait_sent(sent, options.shared_size // 2, DEADLINE)
        jobs.append(place.start(second.host, same_bytes(source, second.path / "file")))
        join_all(jobs, DEADLINE)
        factor = (place.sent() - sent) / options.shared_size
        yield Row("c", "second client starts half through: bytes sent / bytes of data", f"{factor:.3f}", "<= 2.0")


def throughput(options: Options) -> Iterator[Row]:
    for name, wire, limit, goal in (
        ("unshaped", False, None, ">= 1.5 Gbit/s"),
        ("wire mode", True, None, ">= 1 Gbit/s"),
        ("1 Gbit/s link", True, "1gbit", ">= 0.90 Gbit/s"),
    ):
        with site(options, 1, wire=wire) as place:
            random_file(data(place) / "file", options.size)
            if limit is not None:
                place.lab.rate_limit(place.lab.server, limit)
            rate = ("--rate", "1G") if limit is not None else ()
            place.serve(place.lab.server, place.directory / "data", options=rate)
            mounted = place.mount(place.lab.clients[0], "data")
            warm_memory(options, options.size)
            sent = place.sent()
            seconds = copy(place, mounted)
            factor = (place.sent() - sent) / options.size
            measure = f"cp of {options.size // MIB} MiB, one client, {name}"
            yield Row("d", measure, f"{gbits(options.size, seconds)}, sent {factor:.2f} x", goal)


def latency(options: Options) -> Iterator[Row]:
    with site(options, 1) as place:
        directory = data(place)
        names = [f"{number:03}" for number in range(options.files * NEIGHBOURS)]
        for number, name in enumerate(names):
            random_file(directory / name, 2 * MIB + 17, seed=number)
        random_file(directory / "large", options.shared_size)
        place.serve(place.lab.server, directory)
        mounted = place.mount(place.lab.clients[0], "data")
        os.listdir(mounted.path)
        chosen = random.Random(4).sample(names, options.files)  # the next one of each might be fetched ahead
        times = sorted(map(first_byte, (mounted.path / name for name in chosen)))
        value = f"median {statistics.median(times) * 1e3:.0f} ms, longest {times[-1] * 1e3:.0f} ms"
        yield Row("e", f"first byte of {len(times)} files never read before", value, "median <= 60 ms")
        copy(place, mounted, "large")
        again = gbits(options.shared_size, copy(place, mounted, "large"))
        yield Row("e", "second read, page cache", again, "page cache speed")


def first_byte(path: Path) -> float:
    time.sleep(BLOCKS_APART)
    start = time.monotonic()
    with path.open("rb", buffering=0) as file:
        file.read(1)
        return time.monotonic() - start


def idle_server(options: Options) -> Iterator[Row]:
    with site(options, 1) as place:
        random_file(data(place) / "file", 16 * MIB)
        serving = place.serve(place.lab.server, place.directory / "data")
        mounted = place.mount(place.lab.clients[0], "data")
        copy(place, mounted)
        mounted.umount()
        time.sleep(3)
        used, sent, span = serving.job.cpu_seconds(), place.sent(), 20.0
        time.sleep(span)
        percent = 100 * (serving.job.cpu_seconds() - used) / span
        value = f"{percent:.2f} % CPU, {place.sent() - sent} bytes in {span:g} s"
        yield Row("f", "server, nobody listening", value, "< 1 % CPU")


def killed_server(options: Options) -> Iterator[Row]:
    with site(options, 1) as place:
        random_file(data(place) / "file", options.shared_size)
        serving = place.serve(place.lab.server, place.directory / "data", options=("--rate", "500M"))
        mounted = place.mount(place.lab.clients[0], "data", timeout=TIMEOUT)
        sent = place.sent()
        job = place.start(mounted.host, ["cp", mounted.path / "file", "/dev/null"])
        place.wait_sent(sent, options.shared_size // 4, DEADLINE)
        serving.kill()
        start = time.monotonic()
        job.finish(DEADLINE)
        seconds = time.monotonic() - start
        measure = f"server killed in mid-copy, timeout {TIMEOUT} s: error after"
        yield Row("g", measure, f"{seconds:.1f} s", f"<= {TIMEOUT} s or little more")


def mounting(options: Options) -> Iterator[Row]:
    with site(options, 1) as place:
        random_file(data(place) / "file", MIB)
        place.serve(place.lab.server, place.directory / "data")
        start = time.monotonic()
        mounted = place.mount(place.lab.clients[0], "data")
        yield Row("h", "mcfs mount until it serves", f"{time.monotonic() - start:.2f} s")
        start = time.monotonic()
        words: list[str | Path] = ["absent", place.new_directory("mount"), "-i", "eth0", "-o", "timeout=2"]
        mounted.host.run([*MCFS, "mount", *words], check=False)
        yield Row("h", "mount of an absent share, timeout 2 s", f"{time.monotonic() - start:.2f} s", "about 2 s")


def dead_share(options: Options) -> Iterator[Row]:
    with site(options, 2) as place:
        client, other_server = place.lab.clients
        alive, dead = place.directory / "alive", place.directory / "dead"
        for number, directory in enumerate((alive, dead)):  # no content in common: whoever has it serves it
            directory.mkdir()
            for n in range(20):
                random_file(directory / f"file{n}", 2 * MIB, seed=n + 100 * number)
        place.serve(place.lab.server, alive)
        doomed = place.serve(other_server, dead)
        mounted = place.mount(client, None, timeout=TIMEOUT)
        for directory in (alive, dead):
            wait_until((mounted.path / directory.name / "file0").exists, 15, f"{directory.name} is heard")
        doomed.kill()
        paths = [mounted.path / "dead" / f"file{n}" for n in range(20)]
        readers = [place.start(client, [*HARNESS, "read-for", path, "60"]) for path in paths]
        wait_until(lambda: all(reader.output for reader in readers), DEADLINE, "the first time-outs")
        times = [copy(place, mounted, f"alive/file{n}") for n in range(5)]
        yield Row("i", "read of 2 MiB beside 20 readers of a dead share, longest of 5", f"{max(times):.2f} s", "< 1 s")


def unplugged_host(options: Options) -> Iterator[Row]:
    seconds = [unplugging(options, unplug=unplug) for unplug in (False, True)]
    value = f"{seconds[1] / seconds[0]:.2f} ({seconds[0]:.1f} s, {seconds[1]:.1f} s)"
    yield Row("i", "three readers beside an unplugged one: time / time without", value, "<= 1.4")


def unplugging(options: Options, *, unplug: bool) -> float:
    """Seconds until the slowest of three readers has a file, and a fourth perhaps cannot."""
    with site(options, 4) as place:
        random_file(data(place) / "file", options.shared_size)
        place.serve(place.lab.server, place.directory / "data", options=("--rate", SHARED_RATE))
        mounts = [place.mount(host, "data") for host in place.lab.clients]
        warm_memory(options, options.shared_size, len(mounts))
        sent = place.sent()
        jobs = [place.start(each.host, ["cp", each.path / "file", "/dev/null"]) for each in mounts]
        place.wait_sent(sent, options.shared_size // 4, DEADLINE)
        if unplug:
            place.lab.link(place.lab.clients[3], up=False)
        return max(join_all(jobs[:3], DEADLINE))


def across_a_router(options: Options) -> Iterator[Row]:
    with (
        tempfile.TemporaryDirectory(prefix=f"{PREFIX}-", dir=options.directory) as directory,
        Lab(PREFIX, 1) as near,
        Lab(PREFIX, 2) as far,
        Site(near, Path(directory)) as place,
    ):
        path = routed.Routed(near, far)
        path.connect()
        path.give_address()
        path.start_proxy(place)
        probe = random_file(data(place) / "probe", 2 * JOINS * MIB)
        random_file(place.directory / "data" / "file", options.shared_size, seed=2)
        place.serve(path.server, probe.parent, options=(*routed.HOPS, "--rate", SHARED_RATE))
        groups = routed.block_groups(probe.read_bytes())
        for host, where in ((near.clients[0], "beside the server"), (far.clients[0], "behind an MLD proxy")):
            times = sorted(routed.first_datagrams(host, [groups.pop() for _ in range(JOINS)]))
            value = f"median {statistics.median(times) * 1e3:.0f} ms, longest {times[-1] * 1e3:.0f} ms"
            yield Row("j", f"first datagram after a join {where}, {JOINS} joins", value)
        mounts = [place.mount(host, "data") for host in path.clients]
        warm_memory(options, options.shared_size, len(mounts))
        sent = place.sent()
        jobs = [place.start(each.host, ["cp", each.path / "file", "/dev/null"]) for each in mounts]
        seconds = max(join_all(jobs, DEADLINE))
        value = f"{(place.sent() - sent) / options.shared_size:.3f} in {seconds:.1f} s"
        yield Row("j", f"two clients behind an MLD proxy at {SHARED_RATE}: bytes sent / bytes of data", value, "<= 1.3")


def two_servers(options: Options) -> Iterator[Row]:
    sent = [from_servers(options, count, kill=False)[0] for count in (1, 2)]
    yield Row("s", "two servers of one share: bytes of both / bytes of one", f"{sent[1] / sent[0]:.3f}", "<= 1.15")
    total, seconds = from_servers(options, 2, kill=True)
    value = f"{seconds * 1e3:.0f} ms without data, {total / sent[0]:.3f} x the bytes"
    yield Row("s", "the one that sends is killed in mid-copy; the copy completes", value)


def from_servers(options: Options, count: int, *, kill: bool) -> tuple[int, float]:
    """Bytes that all servers send for one reader, and the longest time without data."""
    with site(options, 2) as place:
        reader, second = place.lab.clients
        source = random_file(data(place) / "file", options.shared_size)
        key = place.directory / "key"
        key.write_bytes(random.Random(6).randbytes(32))
        hosts = sorted((place.lab.server, second), key=lambda host: IPv6Address(place.lab.link_local(host)))[:count]
        words = ("--signing-key", str(key), "--rate", "500M")
        servers = [place.serve(host, source.parent, options=words) for host in hosts]
        mounted = place.mount(reader, "data")
        before = sum(map(place.lab.tx_bytes, hosts))
        job = place.start(reader, same_bytes(source, mounted.path / "file"))
        longest, came, at = 0.0, place.lab.rx_bytes(reader), time.monotonic()
        while job.running:
            now, received = time.monotonic(), place.lab.rx_bytes(reader)
            if received - came > MIB // 4:
                longest, came, at = max(longest, now - at), received, now
            if kill and sum(map(place.lab.tx_bytes, hosts)) - before > options.shared_size // 2:
                servers[0].kill()
                kill = False
        job.expect_success(DEADLINE)
        return sum(map(place.lab.tx_bytes, hosts)) - before, longest


def listeners(options: Options) -> Iterator[Row]:
    for figures in (
        bench_mld.silence(partial(site, options), options.shared_size),
        bench_mld.fuzz(partial(site, options), options.shared_size),
        bench_mld.flooded(partial(site, options), options.shared_size),
        bench_mld.one_reader(partial(site, options), options.mld_size),
        bench_mld.gaps(partial(site, options), options.mld_minutes),
    ):
        yield from (Row("m", *figure) for figure in figures)


MEASURES: Final[dict[str, tuple[Callable[[Options], Iterator[Row]], ...]]] = {
    "a": (whole_tree,),
    "b": (four_clients,),
    "c": (staggered_start,),
    "d": (throughput,),
    "e": (latency,),
    "f": (idle_server,),
    "g": (killed_server,),
    "h": (mounting,),
    "i": (dead_share, unplugged_host),
    "j": (across_a_router,),
    "s": (two_servers,),
    "m": (listeners,),
}
LONG: Final = "m"
"""Measured only if asked for."""


def place_for(size: int) -> Path:
    """In memory if that has room: the disk is not what is measured."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 * size
    return MEMORY if roomy else Path(tempfile.gettempdir())


def parse(arguments: list[str] | None) -> tuple[str, Options]:
    parser = argparse.ArgumentParser(prog="script/bench", description="Measure mcfs in network namespaces.")
    usual = "".join(letter for letter in MEASURES if letter not in LONG)
    parser.add_argument("-m", "--measures", default=usual, metavar="LETTERS", help=f"which; default: {usual}")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="the large file (1024)")
    parser.add_argument("--shared-size", type=int, default=256, metavar="MIB", help="read by several clients (256)")
    parser.add_argument("--files", type=int, default=30, metavar="N", help="files for the first byte (30)")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where data, caches and copies are kept meanwhile")
    parser.add_argument("--mld-size", type=int, default=8192, metavar="MIB", help="read through a bridge (8192)")
    parser.add_argument("--mld-minutes", type=float, default=10, metavar="N", help="of a slow copy (10)")
    parser.add_argument("--cold", action="store_true", help="do not touch memory before each measure")
    given = parser.parse_args(arguments)
    if unknown := set(given.measures) - MEASURES.keys():
        parser.error(f"unknown measure: {', '.join(sorted(unknown))}")
    if min(given.size, given.shared_size, given.files, given.mld_size) < 1 or given.mld_minutes <= 0:
        parser.error("sizes and numbers start at 1")
    size, shared_size = given.size * MIB, given.shared_size * MIB
    mld_size = given.mld_size * MIB
    directory = given.dir or place_for(max(size, 2 * shared_size))
    return given.measures, Options(directory, size, shared_size, given.files, given.cold, mld_size, given.mld_minutes)


def print_row(row: Row) -> None:
    print(f"| {' | '.join(row)} |", flush=True)


def main(arguments: list[str] | None = None) -> int:
    letters, options = parse(arguments)
    if missing := missing_capabilities():
        print(f"bench: needs {', '.join(missing)}", file=sys.stderr)
        return 3
    Lab.cleanup_stale(PREFIX)
    fresh = roomy_size(FRESH)
    touched = [touch_memory(fresh), touch_memory(fresh)] if fresh else []
    print_row(Row("", "measure", "here", "goal"))
    print_row(Row(*["---"] * 4))
    failed = False
    for measure in (measure for letter in dict.fromkeys(letters) for measure in MEASURES[letter]):
        try:
            for row in measure(options):
                print_row(row)
        except AssertionError as error:
            failed = True
            print_row(Row("", measure.__name__, f"failed: {' '.join(str(error).split())[:200]}"))
    kernel, load = os.uname().release, ", ".join(f"{value:.1f}" for value in os.getloadavg())
    version = ".".join(map(str, sys.version_info[:3]))
    memory = ", then ".join(f"{seconds:.2f}" for seconds in touched)
    print(f"\nSeconds for touching {fresh // MIB} MiB of memory at the start: {memory}")
    print(f"Linux {kernel}, {os.cpu_count()} processors, load {load}, Python {version}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
