"""Measures that live beside what they measure: functions of a maker of sites and a size, which yield (what, value,
goal)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.bench.summary import Row
from tests.netlab import bench_attacker, bench_files, bench_latency, bench_mld

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.bench.bench import Bench, Options
    from tests.netlab.harness import Site

    Figures = Iterator[tuple[str, str, str]]
    Function = Callable[[Callable[[int], AbstractContextManager[Site]], int], Figures]


RANDOM_READS: Final = 640
FILES: Final = {
    "small-files": "10,000 files of 2 KiB through cp, tar and rsync",
    "listing": "ls -lR of 100,000 entries",
    "indexing": "How fast a large file is indexed, beside other hashes of it",
    "restart": "A server's start with 100,000 files that it knows",
    "memory": "The most memory that a server of 1 TiB and a client have",
    "cached": "A file read again, from the disk cache and from the page cache",
}


def plugged(function: Function, size: Callable[[Options], int], about: str) -> Callable[[Bench], Iterator[Row]]:
    """Makes a measure of such a function; `size` chooses among the options."""

    def measure(bench: Bench) -> Iterator[Row]:
        for what, value, goal in function(bench.site, size(bench.options)):
            yield Row(what, value, goal)

    measure.__doc__ = about
    return measure


def mld(bench: Bench) -> Iterator[Row]:
    """The bridge's table, how soon the server falls silent, hostile hosts; takes a quarter of an hour."""
    options = bench.options
    for figures in (
        bench_mld.silence(bench.site, options.shared_size),
        bench_mld.fuzz(bench.site, options.shared_size),
        bench_mld.flooded(bench.site, options.shared_size),
        bench_mld.one_reader(bench.site, options.mld_size),
        bench_mld.gaps(bench.site, options.mld_minutes),
    ):
        for what, value, goal in figures:
            yield Row(what, value, goal)


def _warm_sites(bench: Bench) -> Callable[[int], AbstractContextManager[Site]]:
    """Makes labs, each after memory was warmed: transfers in different ones are compared."""

    def make(clients: int) -> AbstractContextManager[Site]:
        bench.warm_memory(bench.options.size)
        return bench.site(clients, wire=True)

    return make


def attacker(bench: Bench) -> Iterator[Row]:
    """A transfer beside a host that sends noise, forged and old datagrams and reports at 200 Mbit/s."""
    for what, value, goal in bench_attacker.attacker(_warm_sites(bench), bench.options.size):
        yield Row(what, value, goal)


def forged_mld(bench: Bench) -> Iterator[Row]:
    """Of the measure attacker only the rows about MLD messages."""
    for what, value, goal in bench_attacker.membership(_warm_sites(bench), bench.options.size):
        yield Row(what, value, goal)


MEASURES: Final[dict[str, Callable[[Bench], Iterator[Row]]]] = {
    "first-byte": plugged(
        bench_latency.first_byte,
        lambda options: options.files,
        "The first byte of files never read before, alone and beside a reader that fills the link",
    ),
    "random-reads": plugged(
        bench_latency.random_reads,
        lambda _: RANDOM_READS,
        "4 KiB at random places of a file of 10 GiB, by one thread and by sixteen",
    ),
    **{
        name: plugged(function, lambda options: options.size, FILES[name])
        for name, function in bench_files.MEASURES.items()
    },
    "mld": mld,
    "attacker": attacker,
    "forged-mld": forged_mld,
}
