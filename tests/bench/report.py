"""What a measure leaves: a page, CSV files, pictures, and tables between markers in other pages."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.bench import measures
from tests.bench.conditions import Mode
from tests.bench.pictures import ENDING, draw, pictures
from tests.bench.summary import HEADINGS, Row, cells, read_csv, summarize, table, write_csv

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.bench.conditions import Trial
    from tests.bench.summary import Summary

GOALS: Final = ("what", "measured", "goal")
RUNS: Final = "-runs.csv"
BEGIN: Final = "<!-- {name}: written by script/bench -->"
END: Final = "<!-- end of {name} -->"
MAIN_VIEWS: Final = ((Mode.OFFLOAD, None), (Mode.WIRE, 1_000_000_000))
"""What README.md shows."""
NOT_MEASURED: Final = "-"


@dataclass(frozen=True, slots=True)
class Measured:
    """All that a measure found."""

    name: str
    rows: Sequence[Row]
    trials: Sequence[Trial]
    machine: Sequence[str]
    command: str


def write(measured: Measured, directory: Path) -> list[str]:
    """Writes the page, the tables and the pictures of a measure. Returns what could not be done, one line each."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_rows(directory / f"{measured.name}.csv", measured.rows)
    if measured.trials:
        write_csv(directory / f"{measured.name}{RUNS}", measured.trials)
    drawn, problems = _draw_all(measured, directory)
    (directory / f"{measured.name}.md").write_text(page(measured, drawn), encoding="utf-8")
    return problems


def _draw_all(measured: Measured, directory: Path) -> tuple[list[str], list[str]]:
    drawn: list[str] = []
    for picture in pictures(measured.name, measured.trials):
        try:
            drawn.append(draw(picture, directory).name)
        except ImportError:
            return drawn, ["no pictures without matplotlib: script/setup --bench installs it"]
    return drawn, []


def page(measured: Measured, drawn: Sequence[str] = ()) -> str:
    """The page of a measure, in Markdown."""
    parts = [f"# {measured.name}\n", f"{measures.about(measured.name)}.\n", f"    {measured.command}\n"]
    parts += ["\n".join(f"- {fact}" for fact in measured.machine) + "\n"]
    parts += [f"![{name.removesuffix('.' + ENDING)}]({name})\n" for name in drawn]
    if measured.rows:
        parts.append(table(GOALS, [row[:3] for row in measured.rows]))
    if measured.trials:
        parts.append("Medians; the time is that of the slowest reader. Each run is in "
                     f"[{measured.name}{RUNS}]({measured.name}{RUNS}).\n")  # fmt: skip
        parts.append(table(HEADINGS, map(cells, summarize(measured.trials))))
    return "\n".join(parts)


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(GOALS)
        writer.writerows(row[:3] for row in rows)


def _read_rows(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return [Row(what, value, goal) for what, value, goal in list(csv.reader(file))[1:]]


# --- tables in pages that people write -------------------------------------------------------------------------------


def replace_between(text: str, name: str, content: str) -> str:
    """Puts `content` between the markers of this name. Raises ValueError when the text does not have both, in order."""
    begin, end = BEGIN.format(name=name), END.format(name=name)
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"no place for {name}: it needs the lines {begin} and {end}")
    return f"{head}{begin}\n\n{content.strip()}\n\n{end}{tail}"


def overview(directory: Path) -> str:
    """A table of all results that a directory holds, with a link to each page."""
    lines = []
    for name in measures.MEASURES:
        if (path := directory / f"{name}.csv").exists():
            lines += [(f"[{name}]({name}.md)", *row[:3]) for row in _read_rows(path)]
    return table(("measure", *GOALS), lines)


def comparison(trials: Sequence[Trial]) -> str:
    """A line for each tool: Gbit/s to each reader, and in brackets what the server sent for a byte of the file."""
    summaries = [one for one in summarize(trials) if _view(one) in MAIN_VIEWS]
    columns = list(dict.fromkeys((_view(one), one.conditions.readers) for one in summaries))
    columns.sort(key=lambda column: (MAIN_VIEWS.index(column[0]), column[1]))
    heads = [f"{'unshaped' if link is None else '1 Gbit/s'}, {readers}" for (_, link), readers in columns]
    found = {(one.tool, _view(one), one.conditions.readers): one for one in summaries}
    tools = dict.fromkeys(one.tool for one in summaries)
    return table(
        ("tool", *heads), [[tool, *(_cell(found.get((tool, *column))) for column in columns)] for tool in tools]
    )


def _view(summary: Summary) -> tuple[Mode, int | None]:
    return summary.conditions.mode, summary.conditions.link


def _cell(summary: Summary | None) -> str:
    if summary is None:
        return NOT_MEASURED
    return f"{summary.gbits:.2f} [{summary.sent:.2f}]" if summary.good else "failed"


def rewrite_pages(directory: Path, readme: Path) -> None:
    """The tables in the directory's own README.md and in that of the repository. Raises ValueError without markers."""
    own = directory / "README.md"
    own.write_text(replace_between(own.read_text(encoding="utf-8"), "results", overview(directory)), encoding="utf-8")
    if (runs := directory / f"readers{RUNS}").exists():
        text = replace_between(readme.read_text(encoding="utf-8"), "comparison", comparison(read_csv(runs)))
        readme.write_text(text, encoding="utf-8")
