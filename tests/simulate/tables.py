"""The page docs/benchmarks/simulated.md, its table in CSV and its picture.

    script/bench-simulated [--quick] [--to DIR]

Each row is one command, `mcfs simulate` and options, and the page gives it. All of them together take about
ten minutes of one core; `--quick` leaves out more than 300 readers. The picture needs matplotlib.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mcfs.cli.simulate import simulate
from tests.simulate import ablations

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PAGE: Final = Path(__file__).parents[2] / "docs" / "benchmarks"
QUICK_READERS: Final = 300
LEAST_PER_SYMBOL: Final = 1494 / 1424
"""Bytes on the wire for each byte of payload."""


@dataclass(frozen=True, slots=True)
class Case:
    section: str
    label: str
    options: str
    readers: int = 4
    x: float | None = None
    """Its place in the picture."""

    @property
    def command(self) -> str:
        return f"mcfs simulate --readers {self.readers} {self.options}".rstrip()


@dataclass(frozen=True, slots=True)
class Result:
    case: Case
    figures: dict[str, Any]
    alone: float
    """Seconds of a lone reader without loss."""
    took: float
    """Seconds of this computer."""

    def seconds(self, who: str = "fast", which: str = "median") -> float:
        return float(self.figures[who][which])

    @property
    def against_alone(self) -> float:
        return self.seconds() / self.alone


READERS: Final = (1, 2, 4, 8, 16, 64, 250, 1000, 4000, 10000)
READERS_WITH_LOSS: Final = (1, 4, 16, 64, 250, 1000)
LOSSES: Final = (0, 0.5, 1, 2, 5, 10, 20)
STAGGERS: Final = (0, 0.1, 0.25, 0.5, 1, 1.5, 2, 2.5)
PORTS: Final = ("50M", "100M", "200M", "300M", "500M", "800M")


def cases() -> Iterator[Case]:
    for count in READERS:
        yield Case("readers", f"{count:,}", "--size 64M", count, count)
    for count in READERS_WITH_LOSS:
        yield Case("readers with loss", f"{count:,}", "--size 64M --loss 1", count, count)
    for loss in LOSSES:
        yield Case("loss", f"{loss:g} %", f"--loss {loss:g}", x=loss)
    for stagger in STAGGERS:
        yield Case("stagger", f"{stagger:g} s", f"--stagger {stagger:g}", x=stagger)
    yield Case("stagger", "0.5 s, 5 % loss", "--stagger 0.5 --loss 5")
    yield Case("stagger", "16 readers, 0.1 s", "--stagger 0.1", 16)
    for rate in PORTS:
        yield Case("slow reader", f"one of four at {rate}bit/s", f"--slow 1:{rate}", x=float(rate[:-1]))
    yield Case("slow reader", "two of eight at 100Mbit/s", "--slow 2:100M", 8)
    yield Case("slow reader", "one of four takes 200 Mbit/s", "--busy 1:200M")
    yield Case("unplugged", "one of four, after 0.3 s", "--unplug 1:0.3")
    yield Case("unplugged", "eight of 16, after 0.3 s", "--unplug 8:0.3", 16)
    yield Case("random reads", "one reader", "--random 200 --size 10G", 1)
    yield Case("random reads", "four readers", "--random 200 --size 10G", 4)


def run(case: Case) -> Result:
    output, start = StringIO(), time.perf_counter()
    with redirect_stdout(output):
        simulate.main(args=[*case.command.split()[2:], "--json"], standalone_mode=False)
    found = json.loads(output.getvalue())
    return Result(case, found["figures"], float(found["alone"]["fast"]["median"]), time.perf_counter() - start)


# --- the table of everything ---

COLUMNS: Final = (
    "section", "case", "command", "sent_per_data", "symbols_per_data", "repair", "seconds_min", "seconds_median",
    "seconds_max", "seconds_alone", "slow_seconds", "reports_per_mib", "reports_per_second", "simulated_in",
)  # fmt: skip


def csv_row(result: Result) -> list[str]:
    figures, case = result.figures, result.case
    slow = f"{result.seconds('slow'):.3f}" if figures["slow"] else ""
    return [
        case.section, case.label, case.command, f"{figures['sent']:.4f}", f"{figures['symbols']:.4f}",
        f"{figures['repair']:.4f}", *(f"{result.seconds('fast', each):.3f}" for each in ("least", "median", "most")),
        f"{result.alone:.3f}", slow, f"{figures['reports_per_mib']:.3f}", f"{figures['reports_per_second']:.0f}",
        f"{result.took:.1f}",
    ]  # fmt: skip


def write_csv(results: Iterable[Result], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(csv_row(result) for result in results)


# --- the page ---


def table(results: Iterable[Result]) -> Iterator[str]:
    yield "| case | sent / data | symbols | repair | median and last, s | / alone | reports per MiB | command |"
    yield "|---|---|---|---|---|---|---|---|"
    for result in results:
        yield f"| {' | '.join(cells(result))} |"


def cells(result: Result) -> Iterator[str]:
    figures, case = result.figures, result.case
    yield case.label
    yield f"{figures['sent']:.3f}"
    yield f"{figures['symbols']:.3f}"
    yield f"{figures['repair']:.1%}"
    yield f"{result.seconds():.2f}, {result.seconds('fast', 'most'):.2f}"
    yield f"{result.against_alone:.2f}"
    yield f"{figures['reports_per_mib']:.2f}"
    yield f"`{case.command}`"


def slow_table(results: Iterable[Result]) -> Iterator[str]:
    yield "| case | sent / data | the others, against one alone | the slow one | command |"
    yield "|---|---|---|---|---|"
    for result in results:
        seconds = result.seconds("slow")
        slow = f"{seconds:.1f} s, {256 * 8 * 1.048576 / seconds:.0f} Mbit/s" if isfinite(seconds) else "not in 300 s"
        figures = result.figures
        sent, others = f"{figures['sent']:.2f}", f"{result.against_alone:.2f}"
        yield f"| {result.case.label} | {sent} | {others} | {slow} | `{result.case.command}` |"


def random_table(results: Iterable[Result]) -> Iterator[str]:
    yield "| case | reads a second, each | command |"
    yield "|---|---|---|"
    for result in results:
        yield f"| {result.case.label} | {200 / result.seconds():.1f} | `{result.case.command}` |"


def page(results: Sequence[Result]) -> str:
    def of(section: str) -> list[Result]:
        return [result for result in results if result.case.section == section]

    text = TEMPLATE
    for section in ("readers", "readers with loss", "loss", "stagger", "unplugged"):
        text = text.replace(f"[{section}]", "\n".join(table(of(section))))
    text = text.replace("[slow reader]", "\n".join(slow_table(of("slow reader"))))
    text = text.replace("[parts]", "\n".join(ablations.table()))
    return text.replace("[random reads]", "\n".join(random_table(of("random reads"))))


TEMPLATE: Final = """\
# Simulated

What no machine with two cores can measure: up to 10,000 readers, each behind a cable of its own. `mcfs simulate` runs
the classes that run on the network; [commands.md](../commands.md#mcfs-simulate) says what is made up. Every row is one
command, and gives the same figures on every computer. `script/bench-simulated` makes this page,
[the same in CSV](simulated.csv) and the picture.

![Bytes sent and time against readers, loss, time between starts, and the speed of a slow port](simulated.svg)

Unless a row says otherwise four readers read 256 MiB from one end to the other, all cables have 1 Gbit/s, and the
server sends at 950 Mbit/s. *Sent / data* counts what the server's interface sends, so headers alone make 1.053;
*symbols* is the same without headers, beacons and announcements; *repair* is the part of the symbols that were no
source symbols; */ alone* is the median reader's time against that of one reader alone, without loss.

## Beside the network

The same cases on a real network of namespaces in wire mode (README.md, `script/bench -m bc`):

| case | measured | simulated |
|---|---|---|
| four readers | 1.07 | [agree 0] |
| four readers that lose 5 % each | 1.16 | [agree 5] |
| a second reader that starts when the first is half through | 1.61 | [agree half] |

## Readers

64 MiB each, all at once.

[readers]

The same with 1 % loss at each. The more there are, the more probably one of them lacks symbols, and has to be sent
some more.

[readers with loss]

10,000 readers report 200,000 times within a second, and none of it takes the simulated server any time. A real one
hears 4,096 hosts (`mcfs/serve/membership.py`) and some ten thousand reports a second
([design.md](../design.md#what-a-report-costs)).

## Loss

Each reader loses datagrams at random and for itself. The least possible is 1 / (1 - loss) symbols.

[loss]

## Starts

Each reader starts so much later than the one before.

[stagger]

## Slow readers

A slow port has room for 600 kB, drops what finds it full, and carries what its reader has joined.

[slow reader]

## Cut cables

[unplugged]

## Reads at random places

200 reads of 4 KiB by each reader, one after the other, in a file of 10 GiB. Each costs a block of 1 MiB.

[random reads]

## What the parts of the rule are for

Each with that part of [the sending rule](../design.md#the-sending-rule), and without it (`tests/simulate/ablations.py`
says what is changed).

[parts]
"""

AGREEMENT: Final = {
    "[agree 0]": Case("beside", "four", "--rate 1G"),
    "[agree 5]": Case("beside", "four, 5 %", "--rate 1G --loss 5"),
    "[agree half]": Case("beside", "half through", "--rate 1G --stagger 1.13", 2),
}


# --- the picture ---


def draw(results: Sequence[Result], path: Path) -> None:
    """The same file for the same results. Raises ImportError without matplotlib."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 10), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(4, 2)
    _readers(panels[0], results)
    _loss(panels[1], results)
    _starts(panels[2], results)
    _slow(panels[3], results)
    for row in panels:
        for axes in row:
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "mcfs"}):
        figure.savefig(path, metadata={"Date": None})


def _points(results: Sequence[Result], section: str) -> list[tuple[float, Result]]:
    return [
        (result.case.x, result) for result in results if result.case.section == section and result.case.x is not None
    ]


def _readers(panels: Any, results: Sequence[Result]) -> None:  # noqa: ANN401
    for section, label in (("readers", "no loss"), ("readers with loss", "1 % loss")):
        points = _points(results, section)
        x = [number for number, _ in points]
        panels[0].semilogx(x, [result.figures["sent"] for _, result in points], "o-", label=label)
        panels[1].semilogx(x, [result.against_alone for _, result in points], "o-", label=label)
    panels[0].axhline(LEAST_PER_SYMBOL, color="grey", linestyle=":", label="data and headers")
    for axes in panels:
        axes.set_xlabel("readers")
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel("bytes sent / data")
    panels[1].set_ylabel("time / one alone")


def _loss(panels: Any, results: Sequence[Result]) -> None:  # noqa: ANN401
    points = _points(results, "loss")
    x = [number for number, _ in points]
    panels[0].plot(x, [result.figures["symbols"] for _, result in points], "o-", label="four readers")
    panels[0].plot(x, [1 / (1 - each / 100) for each in x], ":", color="grey", label="least possible")
    panels[0].set_ylabel("symbols sent / data")
    panels[1].plot(x, [result.against_alone for _, result in points], "o-", label="four readers")
    panels[1].set_ylabel("time / one alone")
    for axes in panels:
        axes.set_xlabel("% of datagrams lost at each reader")


def _starts(panels: Any, results: Sequence[Result]) -> None:  # noqa: ANN401
    points = _points(results, "stagger")
    x = [number for number, _ in points]
    panels[0].plot(x, [result.figures["symbols"] for _, result in points], "o-", label="four readers")
    panels[0].axhline(4, color="grey", linestyle=":", label="each by itself")
    panels[0].set_ylabel("symbols sent / data")
    panels[1].plot(x, [result.against_alone for _, result in points], "o-", label="median reader")
    most = [result.seconds("fast", "most") / result.alone for _, result in points]
    panels[1].plot(x, most, "o-", label="last reader")
    panels[1].set_ylabel("its own time / one alone")
    for axes in panels:
        axes.set_xlabel("seconds from start to start")
        axes.set_ylim(bottom=0)


def _slow(panels: Any, results: Sequence[Result]) -> None:  # noqa: ANN401
    points = _points(results, "slow reader")
    x, slow = [number for number, _ in points], [result for _, result in points]
    panels[0].plot(x, [result.figures["symbols"] for result in slow], "o-", label="three at 1 Gbit/s and this one")
    panels[0].set_ylabel("symbols sent / data")
    panels[1].plot(x, [result.against_alone for result in slow], "o-", label="the three: time / one alone")
    got = [256 * 8 * 1.048576 / result.seconds("slow") / rate for rate, result in zip(x, slow, strict=True)]
    panels[1].plot(x, got, "s-", label="the slow one: payload / its port's speed")
    for axes in panels:
        axes.set_xlabel("Mbit/s of the slow port")
        axes.set_ylim(bottom=0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"no more than {QUICK_READERS} readers")
    parser.add_argument("--to", type=Path, default=PAGE, metavar="DIR", help="where to write (docs/benchmarks)")
    given = parser.parse_args(arguments)
    results = []
    for case in cases():
        if given.quick and case.readers > QUICK_READERS:
            continue
        results.append(run(case))
        print(f"{results[-1].took:6.1f} s  {case.command}", file=sys.stderr, flush=True)
    text = page(results)
    for mark, case in AGREEMENT.items():
        text = text.replace(mark, f"{run(case).figures['sent']:.2f} (`{case.command}`)")
    given.to.mkdir(parents=True, exist_ok=True)
    (given.to / "simulated.md").write_text(text)
    write_csv(results, given.to / "simulated.csv")
    try:
        draw(results, given.to / "simulated.svg")
    except ImportError:
        print("no picture: it needs matplotlib", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
