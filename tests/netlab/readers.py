"""Processes that read from a mount until they are killed:

    python -m tests.netlab.readers hash FILE...      prints "NAME HASH" of whole files, one after the other
    python -m tests.netlab.readers map FILE...       the same, through maps
    python -m tests.netlab.readers hold FILE         maps it; at each line of input prints the hash, through the map

Instead of a hash stands the name of the error, if there was one.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import mmap
import os
import random
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE: Final = 128 << 10


def hash_read(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while data := file.read(PIECE):
            digest.update(data)
    return digest.hexdigest()


def hash_mapped(path: str) -> str:
    """The pages are first touched in any order."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        for page in random.sample(range(0, len(mapped), PIECE), -(-len(mapped) // PIECE)):
            mapped[page]
        return hashlib.sha256(mapped).hexdigest()


def go_on(paths: list[str], work: Callable[[str], str]) -> None:
    for path in itertools.cycle(paths):
        try:
            found = work(path)
        except OSError as error:
            found = errno.errorcode[error.errno or 0]
        print(os.path.basename(path), found, flush=True)


def hold(path: str) -> None:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        print(mapped[0], flush=True)
        for _ in sys.stdin:
            print(hashlib.sha256(mapped).hexdigest(), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "hold":
        hold(sys.argv[2])
    else:
        go_on(sys.argv[2:], {"hash": hash_read, "map": hash_mapped}[sys.argv[1]])
