"""Measures of mcfs beside other tools: one reader, several readers, loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.bench.conditions import Conditions, Mode
from tests.bench.summary import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.bench import Bench
    from tests.bench.summary import Summary

GIGABIT: Final = 1_000_000_000
PAYLOAD: Final = 1424 / 1498
"""Of a link that carries frames of mcfs: a symbol, and with it 12 + 8 + 40 + 14 bytes of headers."""
SINGLE_GOALS: Final = {Mode.OFFLOAD: (1.5, 4.0, 6.0), Mode.WIRE: (1.0, 2.5, 4.0), Mode.NIC: (0.0, 4.0, 5.0)}
"""Times UFTP in the same run, Gbit/s, and the Gbit/s that one would like to have."""
EIGHT_GOALS: Final = {Mode.OFFLOAD: 2.5, Mode.WIRE: 1.5}
LINK_GOALS: Final = {1: 0.93, 2: 0.93, 4: 0.93, 8: 0.80}
EIGHT_ON_LINK: Final = 2.0
LOSS_LINK: Final = 500_000_000
LOSS_GOALS: Final = {1: (1.12, 1.12), 5: (1.18, 1.20), 20: (1.45, 1.50)}
"""For percent of loss: bytes sent for a byte of data, and the time over that without loss."""
LOSS_READERS: Final = 4
QUICK_AT_LOSS: Final = ("mcfs", "uftp")
"""udpcast hangs in one lossy run of four, until its deadline."""


def one_reader(bench: Bench) -> Iterator[Row]:
    """One reader of a large file, beside other tools, in each mode."""
    bench.heading()
    for mode in bench.options.modes or ((Mode.OFFLOAD, Mode.WIRE) if bench.options.quick else tuple(Mode)):
        for link in bench.options.links or (None,):
            conditions = Conditions(mode, 1, bench.options.size, link)
            yield from bench.compare(conditions)
            if link is None:
                yield from _beside_uftp(bench, conditions)


def _beside_uftp(bench: Bench, conditions: Conditions) -> Iterator[Row]:
    mcfs, uftp = bench.result("mcfs", conditions), bench.result("uftp", conditions)
    if mcfs is None:
        return
    times, least, wish = SINGLE_GOALS[conditions.mode]
    yield Row(f"mcfs, {conditions.label}: Gbit/s", f"{mcfs.gbits:.2f}", f">= {least:g}, better {wish:g}")
    if uftp is not None and times:
        yield _ratio(f"mcfs / UFTP, {conditions.label}", mcfs, uftp, times)


def readers(bench: Bench) -> Iterator[Row]:
    """One to eight readers of a file at once, beside other tools, unshaped and on a link of 1 Gbit/s."""
    bench.heading()
    for mode, link in _views(
        bench, ((Mode.OFFLOAD, None), (Mode.WIRE, None), (Mode.WIRE, GIGABIT), (Mode.NIC, GIGABIT))
    ):
        for number in bench.options.readers:
            conditions = Conditions(mode, number, bench.options.shared_size, link)
            yield from bench.compare(conditions)
            yield from (_shared_link if link == GIGABIT else _eight_unshaped)(bench, conditions)


def _views(bench: Bench, usual: tuple[tuple[Mode, int | None], ...]) -> tuple[tuple[Mode, int | None], ...]:
    """Modes and links: the usual ones, or each wanted mode with each wanted link."""
    wanted = bench.options
    if not wanted.modes and not wanted.links:
        return usual[::2] if wanted.quick else usual
    modes = wanted.modes or tuple(dict.fromkeys(mode for mode, _ in usual))
    links = wanted.links or tuple(dict.fromkeys(link for _, link in usual))
    return tuple((mode, link) for link in links for mode in modes)


def _eight_unshaped(bench: Bench, conditions: Conditions) -> Iterator[Row]:
    mcfs, uftp = bench.result("mcfs", conditions), bench.result("uftp", conditions)
    times = EIGHT_GOALS.get(conditions.mode)
    if mcfs is not None and uftp is not None and times is not None and conditions.readers == 8:
        yield _ratio(f"mcfs / UFTP, {conditions.label}", mcfs, uftp, times)


def _shared_link(bench: Bench, conditions: Conditions) -> Iterator[Row]:
    mcfs, uftp = bench.result("mcfs", conditions), bench.result("uftp", conditions)
    if mcfs is None or conditions.link is None:
        return
    part = mcfs.gbits * 1e9 / (conditions.link * PAYLOAD)
    goal = LINK_GOALS.get(conditions.readers)
    text = f"mcfs, {conditions.label}: part of the link's payload rate"
    yield Row(text, f"{part:.1%}", f">= {goal:.0%}" if goal else "")
    if uftp is not None and conditions.readers == 8:
        yield _ratio(f"mcfs / UFTP, {conditions.label}", mcfs, uftp, EIGHT_ON_LINK)


def _ratio(what: str, mcfs: Summary, other: Summary, goal: float) -> Row:
    return Row(what, f"{mcfs.gbits / other.gbits:.2f} ({mcfs.gbits:.2f} / {other.gbits:.2f} Gbit/s)", f">= {goal:g}")


def loss(bench: Bench) -> Iterator[Row]:
    """Four readers of which each loses packets, beside other tools, in wire mode on a link of 500 Mbit/s."""
    bench.heading()
    number = LOSS_READERS if LOSS_READERS in bench.options.readers else max(bench.options.readers)
    whole: Summary | None = None
    for percent in bench.options.losses:
        conditions = Conditions(Mode.WIRE, number, bench.options.shared_size, LOSS_LINK, percent)
        yield from bench.compare(conditions, QUICK_AT_LOSS if bench.options.quick else ())
        mcfs = bench.result("mcfs", conditions)
        if percent == 0:
            whole = mcfs
        if mcfs is not None:
            yield from _at_loss(mcfs, whole)


def _at_loss(mcfs: Summary, whole: Summary | None) -> Iterator[Row]:
    percent = mcfs.conditions.loss
    sent, slower = LOSS_GOALS.get(int(percent), (None, None))
    goal = f"<= {sent:g}" if sent else ""
    yield Row(f"mcfs, {mcfs.conditions.label}: bytes sent / data", f"{mcfs.sent:.3f}", goal)
    if whole is not None and percent:
        value = f"{mcfs.seconds / whole.seconds:.3f} ({mcfs.seconds:.2f} / {whole.seconds:.2f} s)"
        yield Row(f"mcfs, {mcfs.conditions.label}: time / time without loss", value, f"<= {slower:g}" if slower else "")


MEASURES: Final[dict[str, Callable[[Bench], Iterator[Row]]]] = {
    "one-reader": one_reader,
    "readers": readers,
    "loss": loss,
}
