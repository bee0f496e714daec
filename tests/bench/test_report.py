"""Pages, pictures' data, and tables between markers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.bench import report
from tests.bench.conditions import Mode, failed
from tests.bench.made_up import SIZE, conditions, trial
from tests.bench.measures import MEASURES, about
from tests.bench.pictures import pictures
from tests.bench.report import Measured, comparison, overview, page, replace_between, rewrite_pages
from tests.bench.summary import Row, write_csv

if TYPE_CHECKING:
    from pathlib import Path

TRIALS = [
    trial("mcfs", 2.0, conditions(1), sent=1.05),
    trial("mcfs", 3.0, conditions(8), sent=1.06),
    trial("uftp", 4.0, conditions(1)),
    failed("readers", "uftp", conditions(8), 1, "not within 5 s"),
    trial("mcfs", 1.0, conditions(1, mode=Mode.OFFLOAD, link=None)),
    trial("mcfs", 1.0, conditions(1, mode=Mode.NIC)),
]
MARKED = f"before\n{report.BEGIN.format(name='x')}\nold\n{report.END.format(name='x')}\nafter\n"


def gbits(seconds: float) -> str:
    return f"{SIZE * 8 / seconds / 1e9:.2f}"


def test_only_what_is_between_the_markers_is_replaced() -> None:
    once = replace_between(MARKED, "x", "new\n")
    assert "old" not in once
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert replace_between(once, "x", "new\n") == once


@pytest.mark.parametrize("text", ["", MARKED.partition("old")[0], MARKED.partition("old")[2]])
def test_a_page_without_both_markers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no place for x"):
        replace_between(text, "x", "new")


def test_main_table_has_a_line_for_each_tool_and_a_column_for_each_number_of_readers() -> None:
    lines = comparison(TRIALS).splitlines()
    assert lines[0] == "| tool | unshaped, 1 | 1 Gbit/s, 1 | 1 Gbit/s, 8 |"
    assert lines[2] == f"| mcfs | {gbits(1)} [1.00] | {gbits(2)} [1.05] | {gbits(3)} [1.06] |"
    assert lines[3] == f"| uftp | - | {gbits(4)} [1.00] | failed |"
    assert len(lines) == 4


def test_page_of_a_measure() -> None:
    rows = [Row("what it is", "12", "<= 13"), Row("other", "failed: why", failed=True)]
    text = page(Measured("readers", rows, TRIALS, ["a machine"], "script/bench -m readers"), ["readers-time.svg"])
    assert text.startswith("# readers\n")
    for part in ("    script/bench -m readers\n", "- a machine\n", "(readers-time.svg)", "| what it is | 12 | <= 13 |",
                 "| other | failed: why |  |", "failed: not within 5 s"):  # fmt: skip
        assert part in text


def test_pages_are_rewritten_from_what_a_directory_holds(tmp_path: Path) -> None:
    directory, readme = tmp_path / "benchmarks", tmp_path / "README.md"
    directory.mkdir()
    for path, name in ((directory / "README.md", "results"), (readme, "comparison")):
        path.write_text(f"{report.BEGIN.format(name=name)}\n{report.END.format(name=name)}\n")
    report.write(
        Measured("idle", [Row("server", "0 %", "< 1 %")], [], ["a machine"], "script/bench -m idle"), directory
    )
    write_csv(directory / "readers-runs.csv", TRIALS)
    rewrite_pages(directory, readme)
    assert "| [idle](idle.md) | server | 0 % | < 1 % |" in (directory / "README.md").read_text()
    assert comparison(TRIALS).strip() in readme.read_text()
    assert overview(directory).count("\n") == 3


def test_pictures_of_readers() -> None:
    found = {picture.name: picture for picture in pictures("readers", TRIALS)}
    assert list(found) == ["readers-time", "readers-bytes", "readers-cpu"]
    time = found["readers-time"]
    assert [panel.title for panel in time.panels] == ["1 Gbit/s, wire", "unshaped, offload", "1 Gbit/s, nic"]
    assert time.panels[0].lines == {"mcfs": [(1, 2.0), (8, 3.0)], "uftp": [(1, 4.0)]}
    sent = found["readers-bytes"].panels[0].lines["mcfs"]
    assert [x for x, _ in sent] == [1, 8]
    assert [y for _, y in sent] == pytest.approx([1.05, 1.06])
    assert len(found["readers-cpu"].panels) == 6


def test_picture_of_loss() -> None:
    at = [trial("mcfs", 2 + loss, conditions(4, loss=loss)) for loss in (5.0, 0.0, 1.0)]
    [picture] = pictures("loss", at)
    assert picture.panels[0].lines == {"mcfs": [(0.0, 2.0), (1.0, 3.0), (5.0, 7.0)]}


def test_nothing_to_draw() -> None:
    assert pictures("readers", [failed("readers", "mcfs", conditions(), 1, "x")]) == []
    assert pictures("idle", TRIALS) == []


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_says_what_it_measures(name: str) -> None:
    assert len(about(name)) > 20
