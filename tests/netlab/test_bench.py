"""The benchmark's own lab: each tool brings the right bytes, and wrong ones are noticed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.bench import transfer
from tests.bench.bench import Bench, Options
from tests.bench.conditions import MIB, Conditions, Mode
from tests.bench.install import install, missing
from tests.bench.measures import on_link
from tests.bench.peers import TOOLS
from tests.bench.peers.mcfs import Mcfs
from tests.netlab.conftest import IN_CI
from tests.netlab.harness import random_file

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 8 * MIB


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source" / "data"
    directory.mkdir(parents=True)
    return random_file(directory / "file", SIZE)


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_brings_the_file_to_all_readers(name: str, source: Path) -> None:
    if IN_CI:
        install(TOOLS[name].programs)
    elif absent := missing(TOOLS[name].programs):
        pytest.skip(f"needs {', '.join(absent)}, which script/bench installs")
    given = Conditions(Mode.WIRE, 2, SIZE, 1_000_000_000)
    trial = transfer.measure("readers", TOOLS[name], given, 1, source)
    assert trial.problem == ""
    assert 0 < trial.fastest <= trial.seconds
    assert trial.sent > SIZE * (2 if name in ("rsync", "nginx") else 1)
    if name == "mcfs":  # the others may need less than a tick of the clock for so little
        assert trial.sender_user + trial.sender_system > 0
        assert trial.reader_cpu > 0


def test_wrong_bytes_are_a_problem(source: Path, tmp_path: Path) -> None:
    other = random_file(tmp_path / "other", SIZE, seed=2)

    class Wrong(Mcfs):
        def copies(self) -> list[Path]:
            return [other for _ in super().copies()]

    trial = transfer.measure("readers", Wrong, Conditions(Mode.OFFLOAD, 1, SIZE), 1, source)
    assert trial.problem.startswith("wrong bytes")


def test_who_is_late_is_given_up(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "deadline", lambda _conditions: 0.05)
    trial = transfer.measure("readers", Mcfs, Conditions(Mode.WIRE, 1, SIZE, 100_000_000), 1, source)
    assert trial.problem.startswith("not within")


def test_readers_are_released_together(tmp_path: Path) -> None:
    bench = Bench(Options(tmp_path, shared_size=SIZE, runs=1, readers=(2,), cold=True))
    rows = list(on_link.together(bench))
    assert [row.what.partition(": ")[2] for row in rows][:2] == [
        "bytes sent / data",
        "MLD messages for each MiB and client",
    ]
    assert 1.0 < float(rows[0].value) < 2.0
