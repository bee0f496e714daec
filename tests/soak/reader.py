"""A process that reads at random from a mount until it is told to stop:

    python -m tests.soak.reader DIRECTORY SEED PAUSE

At SIGTERM it prints what it did, as JSON. Wrong bytes end it at once, with exit code 1.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final

from tests.soak.content import PAGE, Wrong, generation_of

READS: Final = 8
"""Of one open file."""
LONGEST: Final = 64
"""Pages read at a time."""


class Stop(Exception):
    """SIGTERM came."""


def read_some(path: Path, numbers: random.Random, counts: Counter[str]) -> None:
    file = int(path.name)
    with path.open("rb", buffering=0) as opened:
        pages = os.fstat(opened.fileno()).st_size // PAGE
        generations = set()
        for _ in range(READS):
            first = numbers.randrange(pages)
            length = min(pages - first, numbers.randrange(1, LONGEST))
            data = _read(opened.fileno(), first, length, mapped=numbers.random() < 0.3)
            generations.add(generation_of(file, first, data))
            counts["reads"] += 1
            counts["bytes"] += len(data)
        if len(generations) > 1:
            raise Wrong(f"{len(generations)} generations in one open file {file}")


def _read(fd: int, first: int, pages: int, *, mapped: bool) -> bytes:
    if not mapped:
        data = b""
        while len(data) < pages * PAGE:  # a read that fails in its middle is short
            data += os.pread(fd, pages * PAGE - len(data), first * PAGE + len(data))
        return data
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as whole, memoryview(whole) as view:
        return _copy(view[first * PAGE : (first + pages) * PAGE])


def _copy(mapped: memoryview) -> bytes:
    """By way of the kernel, which says EFAULT of a page that cannot be had, where we would be killed by SIGBUS."""
    with mapped, open(os.memfd_create("copy"), "w+b", buffering=0) as copy:
        done = 0
        while done < len(mapped):
            done += os.pwrite(copy.fileno(), mapped[done:], done)
        return os.pread(copy.fileno(), done, 0)


def main(directory: Path, seed: int, pause: float) -> None:
    numbers, counts = random.Random(seed), Counter[str]()

    def stop(*_: object) -> None:
        raise Stop

    signal.signal(signal.SIGTERM, stop)
    try:
        while True:
            try:
                read_some(directory / numbers.choice(os.listdir(directory)), numbers, counts)
            except OSError as error:
                counts[errno.errorcode.get(error.errno or 0, "unknown")] += 1
                time.sleep(0.1)
            time.sleep(pause)
    except Stop:
        print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
