"""Measures that live beside what they measure: functions of a maker of sites and a size, which yield (what, value,
goal)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.bench.summary import Row
from tests.netlab import bench_mld

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.bench.bench import Bench, Options
    from tests.netlab.harness import Site

    Figures = Iterator[tuple[str, str, str]]
    Function = Callable[[Callable[[int], AbstractContextManager[Site]], int], Figures]


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


MEASURES: Final[dict[str, Callable[[Bench], Iterator[Row]]]] = {
    "mld": mld,
}
