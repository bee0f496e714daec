"""Processes that read from a mount until they are killed:

    python -m tests.netlab.readers hash FILE...      prints "NAME HASH" of whole files, one after the other
    python -m tests.netlab.readers map FILE...       the same, through maps

Instead of a hash stands the name of the error, if there was one; SIGBUS is that of a page that cannot be had.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import mmap
import os
import random
import signal
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
    """In a process of its own, which a page that cannot be had would kill."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writer, _hash_mapped(path).encode())
        except OSError as error:
            os.write(writer, errno.errorcode[error.errno or 0].encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        found = pipe.read()
    _, status = os.waitpid(pid, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else found


def _hash_mapped(path: str) -> str:
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


if __name__ == "__main__":
    go_on(sys.argv[2:], {"hash": hash_read, "map": hash_mapped}[sys.argv[1]])
