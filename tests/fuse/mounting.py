"""Real mounts of a fake client, each in a process of its own."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DEADLINE = 20.0
NOBODY = 65534


@dataclass
class Mounted:
    path: Path
    process: subprocess.Popen[str]
    errors: Path
    source: Path

    def wait(self, timeout: float = DEADLINE) -> int:
        """The exit code of the process."""
        return self.process.wait(timeout)

    def stderr(self) -> str:
        return self.errors.read_text()


@contextmanager
def mounted(tmp_path: Path, source: Path | None = None, *, name: str = "mnt", **options: object) -> Iterator[Mounted]:
    """A mount, ready. Whatever happens, none is left behind."""
    with started(tmp_path, source, name, options) as mount:
        assert mount.process.stdout is not None
        readable, _, _ = select.select([mount.process.stdout], [], [], DEADLINE)
        assert readable, "not ready in time"
        assert mount.process.stdout.readline() == "ready\n", mount.stderr()
        yield mount


@contextmanager
def started(tmp_path: Path, source: Path | None, name: str, options: dict[str, object]) -> Iterator[Mounted]:
    path, errors = tmp_path / name, tmp_path / f"{name}.stderr"
    path.mkdir(exist_ok=True)
    job: dict[str, object] = {"source": str(source)} if source else {}
    command = [sys.executable, "-m", "tests.fuse.serve_fake", str(path), json.dumps(_merge(options, job))]
    with errors.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        yield Mounted(path, process, errors, source or tmp_path)
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
        subprocess.run(["umount", "-l", path], check=False, capture_output=True)


def _merge(options: dict[str, object], job: dict[str, object]) -> dict[str, object]:
    given = options.get("job", {})
    assert isinstance(given, dict)
    return {**options, "job": job | given}


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def running(commands: Sequence[Sequence[str | Path]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes side by side; killed at the end."""
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for command in commands]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=DEADLINE)


def is_mounted(path: Path) -> bool:
    return any(line.split()[1] == str(path) for line in Path("/proc/mounts").read_text().splitlines())


def until(condition: Callable[[], bool], timeout: float = DEADLINE) -> float:
    """Seconds until a condition holds."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < timeout
        time.sleep(0.02)
    return time.monotonic() - start


def describe(root: Path) -> dict[str, tuple[int, int, int, int, str]]:
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        size = status.st_size if path.is_file() else 0
        target = os.readlink(path) if path.is_symlink() else ""
        found[str(path.relative_to(root))] = (status.st_mode, status.st_mtime_ns, status.st_uid, size, target)
    return found
