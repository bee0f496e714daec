"""The command line, and what decides whether a run has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.bench import command
from tests.bench.bench import Bench, Options, counts, hopeless, turned
from tests.bench.command import DOCUMENTED, ELSEWHERE, parse
from tests.bench.conditions import MIB, Mode, failed
from tests.bench.install import missing
from tests.bench.made_up import conditions, trial
from tests.bench.measures import LONG, MEASURES, compared
from tests.bench.peers import PEERS
from tests.bench.summary import Row, summarize
from tests.bench.transfer import deadline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_a_whole_run_goes_into_the_documentation() -> None:
    given = parse([])
    assert given.output == DOCUMENTED
    assert set(MEASURES) - set(given.names) == set(LONG)
    assert given.options.runs == 3
    assert given.tools == ("mcfs", *PEERS)


def test_a_part_goes_elsewhere_unless_asked_for() -> None:
    assert parse(["-m", "loss,idle"]).output == ELSEWHERE
    assert parse(["--quick"]).output == ELSEWHERE
    assert parse(["-m", "loss", "--write"]).output == DOCUMENTED
    assert parse(["-m", "loss,idle"]).names == ("loss", "idle")


def test_quick_can_be_told_otherwise() -> None:
    given = parse(["--quick", "--runs", "5"])
    assert given.options.quick
    assert given.options.runs == 5
    assert given.options.shared_size == 64 * MIB


def test_options() -> None:
    words = ["--peers", "uftp", "--links", "unshaped,500M,2.5G", "--modes", "nic,wire", "--readers", "1,3"]
    given = parse(words)
    assert given.tools == ("mcfs", "uftp")
    assert given.options.links == (None, 500_000_000, 2_500_000_000)
    assert given.options.modes == (Mode.NIC, Mode.WIRE)
    assert given.options.readers == (1, 3)
    assert parse(["--peers", "none"]).tools == ("mcfs",)


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "speed"],
        ["--peers", "ftp"],
        ["--links", "1T"],
        ["--readers", "0"],
        ["--losses", "100"],
        ["--runs", "x"],
    ],
)
def test_nonsense_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        parse(words)
    assert raised.value.code == 2
    assert words[1] in capsys.readouterr().err


def test_tools_take_turns() -> None:
    names = ["a", "b", "c"]
    assert [turned(names, run) for run in range(4)] == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], names]
    assert turned([], 2) == []


def test_who_was_late_is_not_waited_for_again() -> None:
    late = failed("loss", "nginx", conditions(), 1, "not within 60 s")
    wrong = failed("loss", "rsync", conditions(), 1, "cmp: differ")
    assert hopeless([late, wrong, trial("mcfs", 1.0, conditions())]) == {"nginx"}


@pytest.mark.parametrize(
    ("tool", "problem", "is_failure"),
    [("nginx", "not within 60 s", False), ("nginx", "cmp: differ", True), ("mcfs", "not within 60 s", True)],
)
def test_a_peer_that_does_not_end_is_a_result(tool: str, problem: str, is_failure: bool) -> None:
    [found] = summarize([failed("loss", tool, conditions(), 1, problem)])
    assert counts(found) is is_failure


def test_deadlines_leave_room_for_unicast() -> None:
    assert deadline(conditions(8)) > 2 * 8 * conditions().size * 8 / 1e9
    assert deadline(conditions(1, link=100_000_000)) > 2 * conditions().size * 8 / 1e8


def test_a_failed_measure_is_a_row_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_bench: Bench) -> Iterator[Row]:
        """It ends in the middle of what it does."""
        yield Row("first", "1")
        raise AssertionError("exit code 1:\nno such file")

    def works(_bench: Bench) -> Iterator[Row]:
        """It does what it should, and says so."""
        yield Row("second", "2", "< 3")

    monkeypatch.setitem(MEASURES, "idle", broken)
    monkeypatch.setitem(MEASURES, "tree", works)
    monkeypatch.setattr(command, "touched", lambda: "memory")
    given = parse(["-m", "idle,tree", "--output", str(tmp_path)])
    assert command.run(given, []) == 1
    printed = capsys.readouterr().out
    assert "| idle | first | 1 |" in printed
    assert "| idle | idle | failed: exit code 1: no such file |" in printed
    assert "| tree | second | 2 | < 3 |" in printed
    assert "| second | 2 | < 3 |" in (tmp_path / "tree.md").read_text()
    assert "failed: exit code 1" in (tmp_path / "idle.csv").read_text()
    assert command.run(parse(["-m", "tree", "--output", str(tmp_path)]), []) == 0


def test_each_page_has_the_command_for_it() -> None:
    assert command.command_for("loss", []) == "script/bench -m loss"
    words = ["-m", "loss,idle", "--runs", "5", "--write"]
    assert command.command_for("idle", words) == "script/bench -m idle --runs 5"


def test_programs_that_are_missing() -> None:
    assert missing({"sh": "dash", "no-such-program": "nothing"}) == ["no-such-program"]


# --- goals -----------------------------------------------------------------------------------------------------------


class Recorded(Bench):
    """Has measured what it is given, and measures nothing."""

    def compare(self, conditions: object, tools: object = ()) -> Iterator[Row]:
        return iter(())


def recorded(tmp_path: Path, *trials: object, **options: object) -> Recorded:
    bench = Recorded(Options(tmp_path, **options))  # type: ignore[arg-type]
    bench.trials = list(trials)  # type: ignore[arg-type]
    return bench


def test_goals_of_loss(tmp_path: Path) -> None:
    size = 256 * MIB
    at = {loss: conditions(4, link=500_000_000, loss=loss, size=size) for loss in (0.0, 5.0)}
    times = {0.0: 4.0, 5.0: 5.0}
    trials = [trial("mcfs", times[loss], given, sent=1 + loss / 100) for loss, given in at.items()]
    rows = list(compared.loss(recorded(tmp_path, *trials, losses=(0.0, 5.0))))
    assert [(row.value, row.goal) for row in rows] == [
        ("1.000", ""),
        ("1.050", "<= 1.18"),
        ("1.250 (5.00 / 4.00 s)", "<= 1.2"),
    ]


def test_goals_of_one_reader(tmp_path: Path) -> None:
    given = conditions(1, mode=Mode.OFFLOAD, link=None)
    trials = [trial("mcfs", 1.0, given), trial("uftp", 2.0, given)]
    rows = list(compared.one_reader(recorded(tmp_path, *trials, size=given.size, modes=(Mode.OFFLOAD,))))
    assert [row.goal for row in rows] == [">= 4, better 6", ">= 1.5"]
    assert rows[1].value.startswith("2.00 (")


def test_goals_of_a_shared_link(tmp_path: Path) -> None:
    eight = conditions(8)
    trials = [trial("mcfs", 1.0, eight), trial("uftp", 3.0, eight)]
    options = {"shared_size": eight.size, "modes": (Mode.WIRE,), "links": (1_000_000_000,), "readers": (8,)}
    rows = list(compared.readers(recorded(tmp_path, *trials, **options)))
    assert [row.goal for row in rows] == [">= 80%", ">= 2"]
    assert rows[0].value == f"{eight.size * 8 / 1e9 / compared.PAYLOAD:.1%}"
