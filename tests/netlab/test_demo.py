"""`mcfs demo` as a user runs it, on little data; it leaves nothing behind however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mcfs.cli.demo import PREFIX
from mcfs.cli.lab import NAMESPACES

DEADLINE = 120.0


def start_demo(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    """Its copies go to `tmp_path`, or below /dev/shm where there is room. Who runs the tests may ignore signals."""
    argv = ["env", "--default-signal", sys.executable, "-m", "mcfs.cli.main", "demo", *arguments]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        argv, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def leftovers(tmp_path: Path, pid: int) -> list[Path]:
    places = (NAMESPACES, Path("/dev/shm"), tmp_path)
    return [path for place in places for path in place.glob(f"{PREFIX}-{pid}-*")]


def test_copies_of_a_tree_are_the_same_on_all_clients(tmp_path: Path) -> None:
    with start_demo(tmp_path, "--clients", "2", "--size", "8M") as process:
        output, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, errors) == (0, "")
    assert output.count("silent") == 2
    assert "listeners seen: 2" in output
    assert leftovers(tmp_path, process.pid) == []


def test_one_file_with_loss(tmp_path: Path) -> None:
    with start_demo(tmp_path, sys.executable, "--clients", "1", "--loss", "5") as process:
        output, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, errors) == (0, "")
    assert output.count("silent") == 1


def test_a_difference_is_shown_and_is_a_failure(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("text")
    subprocess.run(["mkfifo", source / "pipe"], check=True)  # special files are not shared
    with start_demo(tmp_path, str(source), "--clients", "1") as process:
        output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert "client1: Only in" in output
    assert ": pipe" in output


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGHUP, 129)]
)
def test_a_signal_in_the_middle_cleans_up(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with start_demo(tmp_path, "--clients", "2", "--size", "64M", "--rate", "20M") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("copying"):
                break
        assert leftovers(tmp_path, process.pid)
        process.send_signal(number)
        process.communicate(timeout=DEADLINE)
    assert process.returncode == code
    assert leftovers(tmp_path, process.pid) == []
