"""How the C library hands out memory in a process that moves blocks.

glibc gives a freed block of 1 MiB back to the kernel, which clears 256 pages when the next one is asked for. A server
and a client that read 1 GiB took 70,000 page faults, and a fifth to a tenth of their time, for memory that they had had
a moment before (`script/bench -m one-reader`).
"""

from __future__ import annotations

import ctypes
from typing import Final

# malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

FROM_HEAP: Final = 32 << 20
"""Bytes up to which memory comes from the heap: the largest value that glibc takes, and the largest block and more."""


def keep_freed_memory(kept: int) -> None:
    """Keep up to `kept` bytes of freed memory at the top of the heap, which is one for all threads, for what comes next.
    Does nothing with other C libraries."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in ((_M_MMAP_THRESHOLD, FROM_HEAP), (_M_TRIM_THRESHOLD, kept), (_M_ARENA_MAX, 1)):
        mallopt(parameter, value)
