"""Medians, tables, and what is kept of them."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import pytest

from tests.bench.conditions import Mode, failed
from tests.bench.made_up import SIZE, conditions, trial
from tests.bench.summary import HEADINGS, cells, read_csv, summarize, table, write_csv

if TYPE_CHECKING:
    from pathlib import Path


def test_medians_for_each_tool_and_condition_in_the_order_of_measuring() -> None:
    one, four = conditions(1), conditions(4)
    times = {("uftp", one): (3.0, 9.0, 4.0), ("mcfs", one): (2.0, 1.0, 8.0), ("mcfs", four): (5.0,)}
    found = summarize(
        trial(tool, seconds, given, run=run)
        for (tool, given), each in times.items()
        for run, seconds in enumerate(each)
    )
    assert [(each.tool, each.conditions) for each in found] == list(times)
    assert [each.seconds for each in found] == [4.0, 2.0, 5.0]
    assert found[0].gbits == pytest.approx(SIZE * 8 / 4.0 / 1e9)
    assert found[1].spread == 8.0


def test_runs_that_failed_do_not_count() -> None:
    bad = failed("readers", "mcfs", conditions(), 2, "wrong bytes")
    [found] = summarize([trial("mcfs", 2.0, conditions()), bad, trial("mcfs", 4.0, conditions(), run=3)])
    assert found.seconds == 3.0
    assert found.problem == "wrong bytes"
    assert cells(found)[-1] == "2 of 3"


def test_a_tool_that_never_succeeded_says_why_in_its_row() -> None:
    [found] = summarize([failed("readers", "uftp", conditions(), 1, "not within 9 s")])
    assert "failed: not within 9 s" in cells(found)
    with pytest.raises(statistics.StatisticsError):
        _ = found.seconds


def test_each_row_has_a_cell_for_each_heading() -> None:
    for result in (trial("mcfs", 2.0, conditions()), failed("readers", "mcfs", conditions(), 1, "x")):
        [found] = summarize([result])
        assert len(cells(found)) == len(HEADINGS)


def test_tables_keep_their_columns_whatever_a_cell_holds() -> None:
    assert table(("a", "b"), [("1", "2|3")]) == "| a | b |\n|---|---|\n| 1 | 2/3 |\n"


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    trials = [
        trial("mcfs", 2.5, conditions(8, mode=Mode.NIC, link=None, loss=0.5), sent=1.25),
        failed("readers", "rsync", conditions(), 3, 'it said "no", and ended'),
    ]
    write_csv(tmp_path / "file.csv", trials)
    assert read_csv(tmp_path / "file.csv") == trials
    assert [each.conditions for each in trials] == [each.conditions for each in read_csv(tmp_path / "file.csv")]


def test_labels() -> None:
    assert conditions(1, link=None, mode=Mode.OFFLOAD).label == "unshaped, offload, 1 reader"
    assert conditions(4, loss=5, link=500_000_000).label == "0.5 Gbit/s, wire, 5 % loss, 4 readers"
