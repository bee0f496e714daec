"""The measures first-byte and random-reads: how long those wait who read a little. tests/netlab/bench.py prints them.

Each takes a maker of sites and a size, and yields (what, value, goal). What is timed is timed in a process of its own:

    python -m tests.netlab.bench_latency open PAUSE FILE...
    python -m tests.netlab.bench_latency read THREADS FILE BLOCK...

The first opens each file, reads one byte, and waits PAUSE seconds. The second reads 4 KiB in each of these blocks, with
so many threads, each with a descriptor of its own. Both print JSON: the seconds of each read, and of all.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.netlab.harness import MIB, random_file
from tests.netlab.listening import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.netlab.harness import Mounted, Site

    SiteMaker = Callable[[int], AbstractContextManager[Site]]
    Figures = Iterator[tuple[str, str, str]]

BENCH: Final = (sys.executable, "-m", "tests.netlab.bench_latency")
PAUSE: Final = 0.1
GIB: Final = 1024 * MIB
SPARSE: Final = 10 * GIB
"""Bytes of the file that is read at random; only some of its blocks have data, and only these are read."""
PIECE: Final = 4096
SEQUENTIAL: Final = 768 * MIB
"""Bytes that are read from end to end meanwhile: 6.5 s at 1 Gbit/s."""
OPENS_BESIDE: Final = 24
WIRE_RATE: Final = "1G"


class Timed(NamedTuple):
    """Seconds."""

    each: list[float]
    total: float

    def percentile(self, percent: float) -> float:
        """By nearest rank."""
        ranked = sorted(self.each)
        return ranked[math.ceil(percent / 100 * len(ranked)) - 1]

    def __str__(self) -> str:
        median, late = statistics.median(self.each), self.percentile(99)
        return f"median {median * 1e3:.0f} ms, p99 {late * 1e3:.0f} ms, longest {max(self.each) * 1e3:.0f} ms"


# --- first byte ------------------------------------------------------------------------------------------------------


def first_byte(make: SiteMaker, files: int) -> Figures:
    """Opens of `files` files of one block, and of as many of 1 GiB, alone and beside a reader who fills the link."""
    for rate in (None, WIRE_RATE):
        with make(1) as site:
            one_block, with_page = fresh_files(site, files)
            mounted = served(site, rate)[0]
            where = f"link of {rate}bit/s" if rate else "unshaped"
            timed = opened(site, mounted, one_block)
            yield f"first byte, {files} files of one block, {where}", str(timed), "median <= 30 ms, p99 <= 120 ms"
            timed = opened(site, mounted, with_page)
            yield f"first byte, {files} files of 1 GiB, {where}", str(timed), "median <= 40 ms, p99 <= 120 ms"
    for number, what in enumerate(("one block", "1 GiB")):
        with make(2) as site:
            chosen = fresh_files(site, OPENS_BESIDE)[number]
            random_file(chosen[0].parent / "sequential", SEQUENTIAL)
            timed, seconds = opened_beside(site, chosen)
            speed = f"{SEQUENTIAL * 8 / seconds / 1e9:.2f} Gbit/s"
            measure = f"first byte, {len(timed.each)} files of {what} beside a sequential reader on a 1 Gbit/s link"
            yield measure, f"{timed}, reader {speed}", "median <= 150 ms"


def fresh_files(site: Site, count: int) -> tuple[list[Path], list[Path]]:
    """Files of one block, and of 1,024 blocks of which one has data; opened backwards none is the next of another."""
    data = site.new_directory("data")
    one_block, with_page = [], []
    for number in reversed(range(count)):
        one_block.append(random_file(data / f"block{number:03}", MIB, seed=number))
        with_page.append(random_file(data / f"page{number:03}", MIB, seed=number + count))
        os.truncate(with_page[-1], GIB)
    return one_block, with_page


def served(site: Site, rate: str | None) -> list[Mounted]:
    """The last directory made, served and mounted at all clients; on a link of this rate, if given."""
    data = max(site.directory.glob("data-*"), key=lambda path: path.stat().st_mtime)
    if rate is not None:
        limit(site, rate)
    options = ("--name", "data", *(("--rate", rate) if rate else ()))
    site.serve(site.lab.server, data, options=options)
    return [site.mount(host, "data") for host in site.lab.clients]


def limit(site: Site, rate: str) -> None:
    """As a cable would; but two processors cannot send and receive more than some 2 Gbit/s packet by packet."""
    for host in (site.lab.server, *site.lab.clients) if rate == WIRE_RATE else ():
        site.lab.wire_mode(host)
    site.lab.rate_limit(site.lab.server, f"{rate.lower()}bit")


def opened(site: Site, mounted: Mounted, files: Sequence[Path]) -> Timed:
    list(mounted.path.iterdir())
    paths = [mounted.path / file.name for file in files]
    job = site.start(mounted.host, [*BENCH, "open", str(PAUSE), *paths])
    job.expect_success(DEADLINE)
    return Timed(*json.loads(job.output))


def opened_beside(site: Site, files: Sequence[Path]) -> tuple[Timed, float]:
    """Also the seconds that the sequential reader took."""
    reader, other = served(site, WIRE_RATE)
    sent = site.sent()
    job = site.start(reader.host, ["cp", reader.path / "sequential", "/dev/null"])
    site.wait_sent(sent, SEQUENTIAL // 16, DEADLINE)
    timed = opened(site, other, files)
    assert job.running, "the sequential reader was through before all files were opened"
    return timed, job.expect_success(DEADLINE)


# --- random reads ----------------------------------------------------------------------------------------------------


def random_reads(make: SiteMaker, reads: int) -> Figures:
    """4 KiB at random places of a large file, no block twice: `reads` with 16 threads, an eighth with one."""
    few = max(1, reads // 8)
    for rate, goals in ((WIRE_RATE, {1: 15, 16: 90}), ("4G", {1: 15, 16: 200})):
        with make(1) as site:
            source = site.new_directory("data") / "sparse"
            numbers = sparse_file(source, few + reads)
            mounted = served(site, rate)[0]
            for threads, count in ((1, few), (16, reads)):
                chosen, numbers = numbers[:count], numbers[count:]
                sent = site.sent()
                job = site.start(mounted.host, [*BENCH, "read", str(threads), mounted.path / source.name, *chosen])
                job.expect_success(DEADLINE)
                timed = Timed(*json.loads(job.output))
                factor = (site.sent() - sent) / (count * MIB)
                measure = f"4 KiB at {count} random places of {SPARSE // GIB} GiB, {threads} threads, {rate}bit/s"
                value = f"{count / timed.total:.1f} a second, {timed}, {factor:.2f} blocks sent for each"
                yield measure, value, f">= {goals[threads]}"


def sparse_file(path: Path, count: int) -> list[str]:
    """A large file with data in so many of its blocks, which are read one by one. Their numbers, in random order."""
    source = random.Random(7)
    numbers = source.sample(range(SPARSE // MIB), count)
    with path.open("wb") as file:
        file.truncate(SPARSE)
        for number in numbers:
            file.seek(number * MIB)
            file.write(source.randbytes(MIB))
    return [str(number) for number in numbers]


# --- what runs in a process of its own -------------------------------------------------------------------------------


def open_each(pause: str, *paths: str) -> Timed:
    start = time.monotonic()
    seconds = []
    for path in paths:
        time.sleep(float(pause))
        seconds.append(first_byte_of(path))
    return Timed(seconds, time.monotonic() - start)


def first_byte_of(path: str) -> float:
    start = time.monotonic()
    with open(path, "rb", buffering=0) as file:
        assert len(file.read(1)) == 1
        return time.monotonic() - start


def read_blocks(threads: str, path: str, *blocks: str) -> Timed:
    source = random.Random(8)
    offsets = [int(block) * MIB + source.randrange(MIB - PIECE) for block in blocks]
    start = time.monotonic()
    with ThreadPoolExecutor(int(threads)) as pool:
        shares = [offsets[number :: int(threads)] for number in range(int(threads))]
        seconds = [each for found in pool.map(lambda share: read_at(path, share), shares) for each in found]
    return Timed(seconds, time.monotonic() - start)


def read_at(path: str, offsets: Sequence[int]) -> list[float]:
    seconds = []
    with open(path, "rb", buffering=0) as file:
        for offset in offsets:
            start = time.monotonic()
            assert len(os.pread(file.fileno(), PIECE, offset)) == PIECE
            seconds.append(time.monotonic() - start)
    return seconds


COMMANDS: Final[dict[str, Callable[..., Timed]]] = {"open": open_each, "read": read_blocks}

if __name__ == "__main__":
    print(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])))
