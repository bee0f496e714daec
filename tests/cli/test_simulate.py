"""`mcfs simulate`: what it takes and what it prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mcfs.cli import picture
from mcfs.cli.main import mcfs
from mcfs.protocol.errors import UserError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(mcfs, ["simulate", *arguments], standalone_mode=False)


def test_figures_and_a_picture_are_printed() -> None:
    done = run("--size", "16M", "--readers", "3", "--loss", "2", "--slow", "1:200M", "--unplug", "1:0.1")
    assert done.return_value == 0
    lines = done.output.splitlines()
    assert lines[0].startswith("simulated       3 readers of 16M, server at 950 Mbit/s, 0.02 of all datagrams lost")
    for label in ("sent / data", "readers", "slow readers", "reports", "lost effort", "payload sent", "read:"):
        assert sum(line.startswith(label) for line in lines) == 1, label
    assert max(map(len, lines[8:])) <= 80
    assert any("#" in line for line in lines)


def test_json_has_every_reader_and_every_interval() -> None:
    found = json.loads(run("--size", "4M", "--readers", "5", "--json").output)
    assert len(found["readers"]) == 5
    assert found["scenario"]["size"] == 4 << 20
    assert all(reader["seconds"] > 0 for reader in found["readers"])
    assert sum(sample["source"] for sample in found["history"]) > 2900
    assert found["figures"]["fast"]["finished"] == 5


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--readers 0", "0 is not in the range 1<=x<=10000"),
        ("--slow 1", "'1' is not like 1:100M"),
        ("--slow 1:fast", "'fast' is not a number like"),
        ("--slow 1:1M:9", "'9' is not a whole number from 0 to 7"),
        ("--busy 0:1M", "'0' is not a whole number from 1"),
        ("--unplug 1", "'1' is not like 1:0.5"),
        ("--unplug 5:1", "5 readers are slow or unplugged, and there are only 4"),
        ("--size 0", "the file is empty"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(line: str, said: str) -> None:
    done = CliRunner().invoke(mcfs, ["simulate", *line.split()])
    assert done.exit_code == 2
    assert said in done.output


def test_a_picture_without_matplotlib_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run("--size", "1M", "--picture", str(tmp_path / "out.png"))
    assert isinstance(done.exception, UserError)
    assert str(done.exception) == "--picture needs matplotlib: pip install matplotlib"
    assert not (tmp_path / "out.png").exists()


def test_a_picture_has_a_format() -> None:
    with pytest.raises(UserError, match=r"out\.txt: a picture is \.png, \.svg, \.pdf"):
        picture.check(Path("out.txt"))
