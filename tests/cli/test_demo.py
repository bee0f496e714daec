"""What `mcfs demo` decides without a network: where the copies go, and what it says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mcfs.cli import demo
from mcfs.cli.lab import Stale
from mcfs.protocol.errors import UserError

MIB = 1 << 20
NO_PROCESS = 1 << 30
"""Above the highest process number of Linux (2^22)."""


def test_space_is_a_cache_and_a_copy_for_each_client(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(MIB))
    one, three = (demo.needed_space(tmp_path, 0, clients) for clients in (1, 3))
    assert three - one == 4 * MIB


def test_a_sample_needs_its_own_space_too() -> None:
    small, large = (demo.needed_space(None, size, 1) for size in (0, 100 * MIB))
    assert large - small == pytest.approx(300 * MIB, rel=0.05)


def test_too_little_space_is_one_line_that_says_so() -> None:
    with pytest.raises(UserError, match=r"^the copies need 1\.0E of space, and \S+ has \S+: take less data"):
        demo.choose_place(1 << 60)


def test_a_place_is_found() -> None:
    assert demo.choose_place(0).is_dir()


def test_the_workspace_goes_with_its_content(tmp_path: Path) -> None:
    with demo.workspace(tmp_path, "mcfs-demo-1-1", keep=False) as directory:
        (directory / "file").touch()
    assert list(tmp_path.iterdir()) == []


def test_a_kept_workspace_stays_and_is_never_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with demo.workspace(tmp_path, "mcfs-demo-1-1", keep=True) as directory:
        (directory / "file").touch()
    assert (directory / "file").exists()
    assert str(directory) in capsys.readouterr().out
    assert not Stale(demo.PREFIX)(directory)


@pytest.mark.parametrize(
    ("name", "stale"),
    [
        (f"mcfs-demo-{NO_PROCESS}-1-server", True),
        (f"mcfs-demo-{NO_PROCESS}-12-abcd/client1/mnt", True),
        (f"mcfs-demo-{os.getpid()}-1-server", False),
        (f"mcfs-demo-{NO_PROCESS}", False),
        (f"other-{NO_PROCESS}-1-server", False),
        ("mcfs-demo-kept-1-1", False),
    ],
)
def test_what_is_stale(name: str, stale: bool) -> None:
    assert Stale("mcfs-demo")(Path("/somewhere") / name) == stale


def test_without_root_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match=r"^mcfs demo needs root"):
        demo.demo(None)


@pytest.mark.parametrize(
    ("text", "line"),
    [("", "it said nothing"), ("\n\n", "it said nothing"), ("a\n b \n\nc\nd\n", "b | c | d")],
)
def test_last_lines(text: str, line: str) -> None:
    assert demo.last_lines(text) == line
