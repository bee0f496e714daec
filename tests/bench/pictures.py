"""Pictures of what was measured beside other tools: which points, and, with matplotlib, how they are drawn."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.bench.summary import summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from tests.bench.conditions import Trial
    from tests.bench.summary import Summary

ENDING: Final = "svg"
"""Half the size of a PNG of the same picture."""
COLOURS: Final = {"mcfs": "#d62728", "uftp": "#1f77b4", "udpcast": "#2ca02c", "rsync": "#9467bd", "nginx": "#7f7f7f"}
_WIDTH: Final = 4.2
_HEIGHT: Final = 3.4
"""Of a panel, in inches."""


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    label: str
    """Of the vertical axis."""
    lines: dict[str, list[tuple[float, float]]]
    """For each tool: points in the order of x."""


@dataclass(frozen=True, slots=True)
class Picture:
    name: str
    title: str
    across: str
    """Label of the horizontal axis."""
    panels: list[Panel]


@dataclass(frozen=True, slots=True)
class Quantity:
    """What is drawn upwards."""

    label: str
    value: Callable[[Summary], float]


SECONDS: Final = Quantity("seconds", lambda summary: summary.seconds)
BYTES: Final = Quantity("bytes sent / bytes of the file", lambda summary: summary.sent)
USER: Final = Quantity("user CPU seconds of the sender", lambda summary: summary.median("sender_user"))
SYSTEM: Final = Quantity("system CPU seconds of the sender", lambda summary: summary.median("sender_system"))


def by_readers(summary: Summary) -> float:
    return summary.conditions.readers


def by_loss(summary: Summary) -> float:
    return summary.conditions.loss


def panels(trials: Iterable[Trial], across: Callable[[Summary], float], quantities: Sequence[Quantity]) -> list[Panel]:
    """One for each quantity, link and mode, in the order in which these were measured."""
    views: dict[str, list[Summary]] = {}
    for summary in summarize(trials):
        if summary.good:
            views.setdefault(f"{summary.conditions.link_name}, {summary.conditions.mode.value}", []).append(summary)
    return [
        Panel(title, quantity.label, points(summaries, across, quantity))
        for quantity in quantities
        for title, summaries in views.items()
    ]


def points(
    summaries: Iterable[Summary], across: Callable[[Summary], float], quantity: Quantity
) -> dict[str, list[tuple[float, float]]]:
    """For each tool, sorted by x."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for summary in summaries:
        lines.setdefault(summary.tool, []).append((across(summary), quantity.value(summary)))
    return {tool: sorted(line) for tool, line in lines.items()}


def pictures(measure: str, trials: Sequence[Trial]) -> list[Picture]:
    """Those of a measure; none for a measure that has none, or that has measured nothing."""
    if not any(not trial.problem for trial in trials):
        return []
    size = statistics.mode(trial.size for trial in trials) >> 20
    if measure == "readers":
        wanted = (
            ("time", "Time until the slowest of N readers has", (SECONDS,)),
            ("bytes", "Bytes sent for N readers of", (BYTES,)),
            ("cpu", "What the sender spends for N readers of", (USER, SYSTEM)),
        )
        return [
            Picture(f"readers-{name}", f"{title} {size} MiB", "readers", panels(trials, by_readers, quantities))
            for name, title, quantities in wanted
        ]
    if measure == "loss":
        readers = trials[0].readers
        title = f"{size} MiB for {readers} readers that each lose packets"
        return [Picture("loss", title, "% of packets lost at each reader", panels(trials, by_loss, (SECONDS, BYTES)))]
    return []


def draw(picture: Picture, directory: Path) -> Path:
    """Writes one picture. Raises ImportError without matplotlib."""
    import matplotlib  # a dependency of the group `bench` alone
    from matplotlib.figure import Figure

    rows = len({panel.label for panel in picture.panels})
    columns = len(picture.panels) // rows
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": picture.name, "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for panel, axes in zip(picture.panels, grid.flat, strict=True):
            _draw_panel(panel, axes, picture.across)
        handles, names = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
        figure.suptitle(picture.title)
        path = directory / f"{picture.name}.{ENDING}"
        figure.savefig(path, metadata={"Date": None})
    return path


def _draw_panel(panel: Panel, axes: Axes, across: str) -> None:
    places = sorted({x for line in panel.lines.values() for x, _ in line})
    for tool, line in panel.lines.items():
        xs = [places.index(x) for x, _ in line]
        color, width = COLOURS.get(tool, "black"), 2.2 if tool == "mcfs" else 1.3
        axes.plot(xs, [y for _, y in line], marker="o", markersize=4, label=tool, color=color, linewidth=width)
    axes.set_xticks(range(len(places)), [f"{x:g}" for x in places])
    axes.set(title=panel.title, xlabel=across, ylabel=panel.label)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
