"""Measures of mcfs alone: whole trees, waits, errors, and servers and readers that die."""

from __future__ import annotations

import random
import statistics
import time
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Final

from mcfs.cli.lab import Lab
from tests.bench.bench import DEADLINE, Bench, gbits
from tests.bench.conditions import MIB
from tests.bench.scene import PREFIX
from tests.bench.summary import Row
from tests.netlab import routed
from tests.netlab.harness import (
    HARNESS,
    MCFS,
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
    from pathlib import Path

RATE: Final = ("--rate", "1G")
"""Files among which each of those is chosen that are opened for the first time."""
TIMEOUT: Final = 5
JOINS: Final = 20
IDLE: Final = 20.0


def data(place: Site) -> Path:
    directory = place.directory / "data"
    directory.mkdir()
    return directory


def copy(place: Site, mounted: Mounted, file: str = "file") -> float:
    """Seconds for one file; the copy goes nowhere, so that writing it is not measured."""
    return place.start(mounted.host, ["cp", mounted.path / file, "/dev/null"]).expect_success(DEADLINE)


def tree(bench: Bench) -> Iterator[Row]:
    """Python's library and a large file, copied with cp -r and compared."""
    with bench.site(1) as place:
        source = library_tree(place.directory / "library")
        random_file(source / "large", bench.options.size)
        size = sum(path.lstat().st_size for path in source.rglob("*") if path.is_file() and not path.is_symlink())
        place.serve(place.lab.server, source)
        mounted, copied = place.mount(place.lab.clients[0], "library"), place.directory / "copied"
        bench.warm_memory(size)
        job = place.start(mounted.host, ["cp", "-r", "--preserve=mode,timestamps", mounted.path, copied])
        seconds = job.expect_success(DEADLINE)
        place.start(mounted.host, [*HARNESS, "compare", source, copied]).expect_success(DEADLINE)
        yield Row(f"cp -r, {size // MIB} MiB, no difference", f"{seconds:.1f} s, {gbits(size, seconds)}")


def idle(bench: Bench) -> Iterator[Row]:
    """The server when nobody listens."""
    with bench.site(1) as place:
        random_file(data(place) / "file", 16 * MIB)
        serving = place.serve(place.lab.server, place.directory / "data")
        mounted = place.mount(place.lab.clients[0], "data")
        copy(place, mounted)
        mounted.umount()
        time.sleep(3)
        used, sent = serving.job.cpu_seconds(), place.sent()
        time.sleep(IDLE)
        percent = 100 * (serving.job.cpu_seconds() - used) / IDLE
        value = f"{percent:.2f} % CPU, {place.sent() - sent} bytes in {IDLE:g} s"
        yield Row("server, nobody listening", value, "< 1 % CPU")


def killed_server(bench: Bench) -> Iterator[Row]:
    """How long a reader waits for the error when the server is killed."""
    with bench.site(1) as place:
        random_file(data(place) / "file", bench.options.shared_size)
        serving = place.serve(place.lab.server, place.directory / "data", options=("--rate", "500M"))
        mounted = place.mount(place.lab.clients[0], "data", timeout=TIMEOUT)
        sent = place.sent()
        job = place.start(mounted.host, ["cp", mounted.path / "file", "/dev/null"])
        place.wait_sent(sent, bench.options.shared_size // 4, DEADLINE)
        serving.kill()
        start = time.monotonic()
        assert job.finish(DEADLINE) != 0, "the copy succeeded without a server"
        seconds = time.monotonic() - start
        what = f"server killed in mid-copy, timeout {TIMEOUT} s: error after"
        yield Row(what, f"{seconds:.1f} s", f"<= {TIMEOUT} s or little more")


def mounting(bench: Bench) -> Iterator[Row]:
    """How long a mount takes, and how long that of an absent share."""
    with bench.site(1) as place:
        random_file(data(place) / "file", MIB)
        place.serve(place.lab.server, place.directory / "data")
        start = time.monotonic()
        mounted = place.mount(place.lab.clients[0], "data")
        yield Row("mcfs mount until it serves", f"{time.monotonic() - start:.2f} s")
        start = time.monotonic()
        words: list[str | Path] = ["absent", place.new_directory("mount"), "-i", "eth0", "-o", "timeout=2"]
        mounted.host.run([*MCFS, "mount", *words], check=False)
        yield Row("mount of an absent share, timeout 2 s", f"{time.monotonic() - start:.2f} s", "about 2 s")


def dead_share(bench: Bench) -> Iterator[Row]:
    """Reads of one share beside readers of another whose server was killed."""
    with bench.site(2) as place:
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
        yield Row("read of 2 MiB beside 20 readers of a dead share, longest of 5", f"{max(times):.2f} s", "< 1 s")


def router(bench: Bench) -> Iterator[Row]:
    """Across a router that runs an MLD proxy: the first datagram, and bytes sent for two clients."""
    size = bench.options.shared_size
    with bench.site(1) as place, Lab(PREFIX, 2) as far:
        near = place.lab
        path = routed.Routed(near, far)
        path.connect()
        path.give_address()
        path.start_proxy(place)
        probe = random_file(data(place) / "probe", 2 * JOINS * MIB)
        random_file(place.directory / "data" / "file", size, seed=2)
        place.serve(path.server, probe.parent, options=(*routed.HOPS, *RATE))
        groups = routed.block_groups(probe.read_bytes())
        for host, where in ((near.clients[0], "beside the server"), (far.clients[0], "behind an MLD proxy")):
            times = sorted(routed.first_datagrams(host, [groups.pop() for _ in range(JOINS)]))
            value = f"median {statistics.median(times) * 1e3:.0f} ms, longest {times[-1] * 1e3:.0f} ms"
            yield Row(f"first datagram after a join {where}, {JOINS} joins", value)
        mounts = [place.mount(host, "data") for host in path.clients]
        bench.warm_memory(size, len(mounts))
        sent = place.sent()
        jobs = [place.start(each.host, ["cp", each.path / "file", "/dev/null"]) for each in mounts]
        seconds = max(join_all(jobs, DEADLINE))
        value = f"{(place.sent() - sent) / size:.3f} in {seconds:.1f} s"
        yield Row("two clients behind an MLD proxy, rate 1 Gbit/s: bytes sent / data", value, "<= 1.3")


def two_servers(bench: Bench) -> Iterator[Row]:
    """Two servers of one share, of which one sends; and what happens when that one is killed."""
    sent = [_from_servers(bench, count, kill=False)[0] for count in (1, 2)]
    yield Row("two servers of one share: bytes of both / bytes of one", f"{sent[1] / sent[0]:.3f}", "<= 1.15")
    total, seconds = _from_servers(bench, 2, kill=True)
    value = f"{seconds * 1e3:.0f} ms without data, {total / sent[0]:.3f} x the bytes"
    yield Row("the one that sends is killed in mid-copy; the copy completes", value)


def _from_servers(bench: Bench, count: int, *, kill: bool) -> tuple[int, float]:
    """Bytes that all servers send for one reader, and the longest time without data."""
    size = bench.options.shared_size
    with bench.site(2) as place:
        reader, second = place.lab.clients
        source = random_file(data(place) / "file", size)
        key = place.directory / "key"
        key.write_bytes(random.Random(6).randbytes(32))
        key.chmod(0o600)
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
            if kill and sum(map(place.lab.tx_bytes, hosts)) - before > size // 2:
                servers[0].kill()
                kill = False
        job.expect_success(DEADLINE)
        return sum(map(place.lab.tx_bytes, hosts)) - before, longest


MEASURES: Final[dict[str, Callable[[Bench], Iterator[Row]]]] = {
    "tree": tree,
    "idle": idle,
    "killed-server": killed_server,
    "mounting": mounting,
    "dead-share": dead_share,
    "router": router,
    "two-servers": two_servers,
}
