"""Pictures of a simulation: what was sent when, and how far the readers were. In text, or by matplotlib if it is there.

Not a dependency: only who wants such a file needs it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from mcfs.cli.exits import Exit
from mcfs.protocol.errors import UserError
from mcfs.simulate.content import SYMBOL_SIZE
from mcfs.simulate.history import INTERVAL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mcfs.simulate.history import Sample
    from mcfs.simulate.scenario import Outcome

WIDTH: Final = 58
HEIGHT: Final = 6
FORMATS: Final = (".png", ".svg", ".pdf")


def check(path: Path) -> None:
    """Before a long simulation: raises UserError if there is no way to draw."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path}: a picture is {', '.join(FORMATS)}", Exit.USAGE)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError("--picture needs matplotlib: pip install matplotlib", Exit.ERROR) from None


def draw(outcome: Outcome, path: Path) -> None:
    """Two charts above each other. Raises OSError if the file cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    samples = _until_end(outcome)
    times = [sample.time for sample in samples]
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    sending, reading = figure.subplots(2, 1, sharex=True)
    sending.stackplot(
        times,
        [_megabits(sample.source) for sample in samples],
        [_megabits(sample.repair) for sample in samples],
        labels=["source symbols", "repair symbols"],
        colors=["#4477aa", "#ee6677"],
    )
    sending.set_ylabel("sent, Mbit/s of payload")
    sending.legend(loc="upper right")
    mib = 1 << 20
    least, most = [s.least / mib for s in samples], [s.most / mib for s in samples]
    reading.fill_between(times, least, most, color="#bbbbbb", label="first to last reader")
    reading.plot(times, [s.median / mib for s in samples], color="#222222", label="median reader")
    reading.set_ylabel("read, MiB")
    reading.set_xlabel("seconds")
    reading.legend(loc="upper left")
    figure.savefig(path)


def text(outcome: Outcome) -> Iterator[str]:
    """The same in characters."""
    samples = _until_end(outcome)
    columns = [_merged(part) for part in _parts(samples, WIDTH)]
    size, end = outcome.scenario.size, samples[-1].time
    top = max((source + repair for source, repair, _, _ in columns), default=0.0) or 1.0
    yield "payload sent: # source, + repair symbols"
    bars = [(source / top, (source + repair) / top) for source, repair, _, _ in columns]
    yield from _chart(bars, "#+", f"{top:.0f} Mbit/s", end)
    yield "read: # by the last reader, + by the first"
    yield from _chart([(least / size, most / size) for _, _, least, most in columns], "#+", "all", end)


def _until_end(outcome: Outcome) -> list[Sample]:
    """Without the second at the end in which nothing happens."""
    samples = outcome.history
    busy = [i for i, sample in enumerate(samples) if sample.source or sample.repair]
    return samples[: busy[-1] + 1] if busy else samples[:1]


def _parts(samples: Sequence[Sample], count: int) -> Iterator[Sequence[Sample]]:
    step = max(1.0, len(samples) / count)
    cuts = [round(i * step) for i in range(min(count, len(samples)) + 1)]
    return (samples[a:b] for a, b in pairwise(cuts) if a < b)


def _merged(part: Sequence[Sample]) -> tuple[float, float, int, int]:
    source = sum(_megabits(sample.source) for sample in part) / len(part)
    repair = sum(_megabits(sample.repair) for sample in part) / len(part)
    return source, repair, part[-1].least, part[-1].most


def _megabits(symbols: int) -> float:
    return symbols * SYMBOL_SIZE * 8 / INTERVAL / 1e6


def _chart(bars: Sequence[tuple[float, float]], marks: str, top: str, end: float) -> Iterator[str]:
    """Of each bar the first part and the sum of both, between 0 and 1."""
    for row in range(HEIGHT, 0, -1):
        level = (row - 0.5) / HEIGHT
        cells = "".join(marks[0] if first >= level else marks[1] if both >= level else " " for first, both in bars)
        yield f"{top if row == HEIGHT else '':>12} |{cells.rstrip()}"
    yield f"{'0':>12} +{'-' * len(bars)} {end:.1f} s"
