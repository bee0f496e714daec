"""A few open descriptors of the files that were read last: large files are read block by block."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Final

KEPT: Final = 64
"""Descriptors kept open, beside those in use: far below the usual limit of 1,024 for a process."""


class Descriptors:
    """Lends descriptors out. One that is in use is not in here, so that nobody else can close it. Thread-safe."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._idle: OrderedDict[object, int] = OrderedDict()
        self._unused: set[object] = set()
        """Keys of those that were idle when `age` was called, and still are."""
        self._lock = threading.Lock()

    def take(self, key: object) -> int | None:
        """An idle descriptor, now the caller's to put back or close."""
        with self._lock:
            self._unused.discard(key)
            return self._idle.pop(key, None)

    def put(self, key: object, fd: int) -> None:
        """Keep a descriptor for the next reader."""
        with self._lock:
            old = self._idle.pop(key, None)
            self._idle[key] = fd
            if old is None and len(self._idle) > self._kept:
                _, old = self._idle.popitem(last=False)
        if old is not None:
            os.close(old)

    def age(self) -> None:
        """Close those that nobody has taken since this was called last."""
        with self._lock:
            unused = [self._idle.pop(key) for key in self._unused if key in self._idle]
            self._unused = set(self._idle)
        for fd in unused:
            os.close(fd)

    def clear(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, OrderedDict()
        for fd in idle.values():
            os.close(fd)
