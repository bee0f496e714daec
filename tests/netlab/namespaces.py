"""Sockets of this process in another network namespace."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Sockets opened here belong to the namespace, wherever they are used. setns moves this thread alone."""
    setns = ctypes.CDLL(None, use_errno=True).setns
    home = Path("/proc/thread-self/ns/net").open("rb")  # noqa: SIM115
    with home, Path("/run/netns", name).open("rb") as there:
        assert setns(there.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert setns(home.fileno(), 0) == 0, os.strerror(ctypes.get_errno())
