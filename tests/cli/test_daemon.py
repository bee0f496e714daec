"""Going into the background, each in a process of its own: a fork of the test runner would run its tests twice."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

PATIENCE = 60.0

PROGRAM = """
import logging, os, signal, sys, time
from pathlib import Path
from mcfs.cli import daemon, terminal
from mcfs.protocol.errors import UserError

pid_file = Path(sys.argv[2])

def note():
    pid_file.with_suffix(".new").write_text(str(os.getpid()))
    pid_file.with_suffix(".new").rename(pid_file)

def serves(ready):
    print("a warning before", file=sys.stderr, flush=True)
    ready()
    print("never seen", file=sys.stderr, flush=True)
    note()
    time.sleep(60)
    return 0

def slow(ready):
    note()
    time.sleep(60)
    return 0

def refuses(ready):
    raise ExceptionGroup("", [UserError("mend this", 5)])

def has_a_bug(ready):
    return 1 // 0

def is_killed(ready):
    os.kill(os.getpid(), signal.SIGKILL)

def exits(ready):
    os._exit(9)

def is_stopped(ready):
    return 0

def gives_a_code(ready):
    return 4

def breaks_later(ready):
    ready()
    note()
    raise ValueError("too late to tell")

def shows_itself(ready):
    null = os.stat("/dev/null").st_rdev
    assert os.getsid(0) == os.getpid()
    assert os.getcwd() == "/"
    assert os.stat(0).st_rdev == os.stat(1).st_rdev == null
    assert os.stat(2).st_rdev != null
    inherited = int(os.environ["INHERITED"])
    try:
        os.fstat(inherited)
    except OSError:
        ready()
        assert os.stat(2).st_rdev == null
        note()
    return 7

level = logging.DEBUG if os.environ.get("DEBUG") else logging.INFO
sys.exit(daemon.in_background(globals()[sys.argv[1]], program="prog", log_level=level))
"""


def start(work: str, pid_file: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, work, str(pid_file)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
        text=True,
    )


def outcome(work: str, pid_file: Path, **environment: str) -> tuple[int, str]:
    """Exit code and stderr. Returns when stderr is closed, so a child that held it open would be found out."""
    with start(work, pid_file, **environment) as process:
        _, errors = process.communicate(timeout=PATIENCE)
        return process.returncode, errors


def pid_in(pid_file: Path) -> int:
    deadline = time.monotonic() + PATIENCE
    while not pid_file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(pid_file.read_text())


def has_ended(pid: int) -> bool:
    """Waits for it. A zombie, of which its new parent has not taken notice, has ended as well."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_success_when_it_is_ready_and_the_child_lives_on(tmp_path: Path) -> None:
    code, errors = outcome("serves", tmp_path / "pid")
    pid = pid_in(tmp_path / "pid")
    os.kill(pid, 0)
    assert (code, errors) == (0, "a warning before\n")
    os.kill(pid, signal.SIGTERM)
    assert has_ended(pid)


@pytest.mark.parametrize(
    ("work", "code", "errors"),
    [
        ("refuses", 5, "prog: mend this\n"),
        ("gives_a_code", 4, ""),
        ("has_a_bug", 70, "prog: internal error: ZeroDivisionError: integer division or modulo by zero\n"),
        ("is_killed", 70, "prog: internal error: the background process was killed by SIGKILL\n"),
        ("exits", 70, "prog: internal error: the background process ended with code 9\n"),
        ("is_stopped", 1, "prog: stopped before it was ready\n"),
        ("breaks_later", 0, ""),
    ],
)
def test_the_parent_has_the_childs_error(work: str, code: int, errors: str, tmp_path: Path) -> None:
    assert outcome(work, tmp_path / "pid") == (code, errors)


def test_a_traceback_where_bugs_are_looked_for(tmp_path: Path) -> None:
    code, errors = outcome("has_a_bug", tmp_path / "pid", DEBUG="1")
    assert code == 70
    assert "in has_a_bug" in errors


def test_the_child_has_nothing_of_the_terminal(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    program = [sys.executable, "-c", PROGRAM, "shows_itself", str(tmp_path / "pid")]
    environment = {**os.environ, "INHERITED": str(writer)}
    done = subprocess.run(
        program, env=environment, pass_fds=[writer], check=False, capture_output=True, timeout=PATIENCE
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    assert os.read(reader, 1) == b""
    os.close(reader)
    pid_in(tmp_path / "pid")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_child_ends_with_a_parent_that_waits(number: signal.Signals, tmp_path: Path) -> None:
    with start("slow", tmp_path / "pid") as process:
        pid = pid_in(tmp_path / "pid")
        process.send_signal(number)
        process.communicate(timeout=PATIENCE)
    assert has_ended(pid)


def test_systemd_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service_manager:
        service_manager.bind(str(tmp_path / "notify"))
        service_manager.settimeout(PATIENCE)
        assert outcome("breaks_later", tmp_path / "pid", NOTIFY_SOCKET=str(tmp_path / "notify"))[0] == 0
        told = service_manager.recv(1000).decode()
    assert told == f"READY=1\nMAINPID={pid_in(tmp_path / 'pid')}"
