"""Memory that was never touched costs time when it is: each measure of speed touches what it needs first.

A virtual machine that gives free memory back to its host pays for each page that it takes again, up to ten times what a
warm page costs. What was touched stays warm for some seconds only, so this is done right before a measure, and the same
amount for every tool.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.bench.conditions import MIB

MEMORY: Final = Path("/dev/shm")
TOUCHED: Final = 3
"""Bytes of memory for a byte of data at each reader: mcfs' cache, the kernel's page cache, and some to spare. Others
need one copy."""


def touch_memory(size: int) -> float:
    """Seconds for taking `size` bytes of memory into use; they are free again afterwards."""
    chunk = b"\1" * MIB
    start = time.monotonic()
    with tempfile.TemporaryFile(dir=MEMORY) as file:
        for _ in range(size // MIB):
            file.write(chunk)
    return time.monotonic() - start


def roomy_size(wanted: int) -> int:
    """As much of `wanted` as is safe to touch."""
    return min(wanted, shutil.disk_usage(MEMORY).free // 2) if MEMORY.is_dir() else 0


def warm_memory(size: int, readers: int = 1) -> None:
    if wanted := roomy_size(TOUCHED * size * readers):
        touch_memory(wanted)


def place_for(size: int) -> Path:
    """Where files are kept meanwhile: in memory if that has room, as the disk is not what is measured."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 * size
    return MEMORY if roomy else Path(tempfile.gettempdir())
