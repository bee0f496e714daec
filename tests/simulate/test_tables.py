"""The page of simulated figures: its commands are such as a person can type, and each has its place."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import pytest

from mcfs.cli.simulate import simulate
from tests.simulate import ablations, tables
from tests.simulate.tables import Case, Result, cases

if TYPE_CHECKING:
    from pathlib import Path


def result(case: Case) -> Result:
    times = {"least": 2.0, "median": 3.0, "most": 4.0}
    figures = {"sent": 1.06, "symbols": 1.01, "repair": 0.01, "fast": times, "slow": times}
    return Result(case, figures | {"reports_per_mib": 0.3, "reports_per_second": 9.0}, 2.5, 0.1)


def test_every_command_can_be_typed() -> None:
    for case in (*cases(), *tables.AGREEMENT.values()):
        assert case.command.startswith("mcfs simulate ")
        assert simulate.make_context("mcfs", case.command.split()[2:]).params["readers"] == case.readers


def test_the_page_has_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablations, "table", lambda: iter(["the parts"]))
    page = tables.page([result(case) for case in cases()])
    assert all(f"`{case.command}`" in page for case in cases())
    assert not [case.section for case in cases() if f"[{case.section}]" in page]
    assert "the parts" in page


def test_the_csv_has_a_row_for_each(tmp_path: Path) -> None:
    tables.write_csv([result(case) for case in cases()], tmp_path / "out.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["command"] for row in rows] == [case.command for case in cases()]
    assert {row["seconds_max"] for row in rows} == {"4.000"}


@pytest.mark.parametrize("ablation", ablations.ABLATIONS, ids=lambda ablation: ablation.name)
def test_a_part_of_the_rule_that_is_taken_out_makes_a_difference(ablation: ablations.Ablation) -> None:
    """So that a name which has moved is noticed: a patch of what nobody looks at changes nothing."""
    whole, without = ablations.compare(ablation)
    assert whole != without
