"""On what is measured: machine, kernel, versions; and what of it is changed meanwhile."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import mcfs
from tests.bench.install import version
from tests.bench.peers import TOOLS
from tests.netlab.harness import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BUFFERS: Final = ("rmem_max", "wmem_max")
ROOMY: Final = 4 << 20
"""Bytes that UFTP asks for; mcfs as root gets what it asks for in any case."""


@contextmanager
def roomy_buffers() -> Iterator[None]:
    """Lets every process have socket buffers of 4 MiB, which Debian by default does not, as UFTP loses much without."""
    paths = [Path("/proc/sys/net/core") / name for name in BUFFERS]
    before = {path: int(path.read_text()) for path in paths}
    small = [path for path, value in before.items() if value < ROOMY]
    for path in small:
        path.write_text(str(ROOMY))
    try:
        yield
    finally:
        for path in small:
            path.write_text(str(before[path]))


def processor(text: str) -> str:
    """The model, from /proc/cpuinfo; empty when it does not say."""
    names = (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    return next(names, "")


def describe(tools: Iterable[str]) -> list[str]:
    """Lines about this machine and what runs on it."""
    model = processor(Path("/proc/cpuinfo").read_text()) or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return [
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"{os.cpu_count()} processors ({model}), {memory} MiB of memory, Linux {os.uname().release}",
        f"mcfs {mcfs.__version__}{_commit()}, Python {platform.python_version()}",
        ", ".join(filter(None, map(_versions, tools))) or "no other tools",
    ]


def _versions(tool: str) -> str:
    packages = dict.fromkeys(TOOLS[tool].programs.values())
    return ", ".join(f"{package} {version(package) or '(not from Debian)'}" for package in packages)


def _commit() -> str:
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""
    return f" ({found})" if found else ""
