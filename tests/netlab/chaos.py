"""A tree that is changed at random while it is read, and readers that notice a wrong byte.

    python -m tests.netlab.chaos change DIRECTORY LOG SECONDS SEED
    python -m tests.netlab.chaos read MOUNT LOG SECONDS SEED
    python -m tests.netlab.chaos announcements SHARE

Who changes a file first writes the hash of what it is going to be to a log, before each single system call; so what was
ever published is in the log, and whatever a reader gets that is not is a wrong byte, or old and new mixed.
"""

from __future__ import annotations

import errno
import json
import os
import random
import select
import socket
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from mcfs.cli.lab import INTERFACE
from mcfs.net.receive import Receiver
from mcfs.protocol import wire
from mcfs.protocol.addressing import SITE_LOCAL, share_group
from mcfs.protocol.announce import decode_announcement_untrusted
from mcfs.protocol.wire import DEFAULT_PORT

if TYPE_CHECKING:
    from collections.abc import Callable

MIB: Final = 1 << 20
FILES: Final = 24
SIZES: Final = (0, 700, 40_000, 300_000, MIB, 3 * MIB + 5, 6 * MIB)
ALLOWED: Final = frozenset({errno.ESTALE, errno.ENOENT, errno.EIO, errno.ETIMEDOUT})
"""What a reader may be told instead of bytes."""


class Changer:
    """Keeps what each file holds, and changes one after the other."""

    def __init__(self, directory: Path, log: Path, seed: int) -> None:
        self._directory = directory
        self._random = random.Random(seed)
        self._log = log.open("a")
        self._contents: dict[Path, bytes] = {}
        self.done: Counter[str] = Counter()

    def make(self) -> None:
        for number in range(FILES):
            place = self._directory / f"d{number % 3}"
            place.mkdir(exist_ok=True)
            self.replace(place / f"file{number}")

    def step(self) -> None:
        path = self._directory / f"d{(n := self._random.randrange(FILES)) % 3}" / f"file{n}"
        if path not in self._contents:
            self.replace(path)
            return
        changes: list[Callable[[Path], None]] = [
            self.replace, self.rewrite, self.truncate, self.append, self.grow, self.delete, self.forbid, self.rename
        ]  # fmt: skip
        change = self._random.choice(changes)
        self.done[change.__name__] += 1
        change(path)

    # --- ways to change a file ---

    def replace(self, path: Path) -> None:
        """As an editor does that saves."""
        new = self._announce(self._bytes())
        other = path.with_name(f".{path.name}.new")
        other.write_bytes(new)
        other.rename(path)
        self._contents[path] = new

    def rewrite(self, path: Path) -> None:
        """One piece in place."""
        old = self._contents[path]
        if not old:
            return
        at = self._random.randrange(len(old))
        piece = self._random.randbytes(min(len(old) - at, self._random.choice((1, 4096, MIB))))
        self._write(path, at, piece)

    def truncate(self, path: Path) -> None:
        size = self._random.randrange(len(self._contents[path]) + 1)
        self._contents[path] = self._announce(self._contents[path][:size])
        os.truncate(path, size)

    def append(self, path: Path) -> None:
        self._write(path, len(self._contents[path]), self._random.randbytes(self._random.choice((1, 100_000))))

    def grow(self, path: Path) -> None:
        """For longer than a reader takes to open it, and than the server waits for."""
        for _ in range(self._random.randrange(20)):
            self.append(path)
            time.sleep(0.05)

    def delete(self, path: Path) -> None:
        path.unlink()
        del self._contents[path]

    def forbid(self, path: Path) -> None:
        path.chmod(0o000 if self._random.random() < 0.5 else 0o644)

    def rename(self, path: Path) -> None:
        """Its content goes to another file's place."""
        other = self._random.choice(list(self._contents))
        if other != path:
            path.rename(other)
            self._contents[other] = self._contents.pop(path)

    # --- helpers ---

    def _write(self, path: Path, at: int, piece: bytes) -> None:
        old = self._contents[path]
        self._contents[path] = self._announce(old[:at] + piece + old[at + len(piece) :])
        fd = os.open(path, os.O_WRONLY)
        try:
            assert os.pwrite(fd, piece, at) == len(piece)
        finally:
            os.close(fd)

    def _bytes(self) -> bytes:
        return self._random.randbytes(self._random.choice(SIZES))

    def _announce(self, content: bytes) -> bytes:
        print(blake3(content).hexdigest(), file=self._log, flush=True)
        return content


def change(directory: str, log: str, seconds: str, seed: str) -> None:
    """Prints how often it did what."""
    os.umask(0o022)
    changer = Changer(Path(directory), Path(log), int(seed))
    changer.make()
    print("ready", flush=True)
    end = time.monotonic() + float(seconds)
    pause = random.Random(int(seed))
    while time.monotonic() < end:
        changer.step()
        time.sleep(pause.choice((0.0, 0.0, 0.02, 0.05, 0.1, 0.7)))
    print(json.dumps(changer.done))


def read(mount: str, log: str, seconds: str, seed: str) -> None:
    """Reads whole files, and pieces of files that stay open; prints how often what came of it."""
    chance = random.Random(int(seed))
    known = Known(Path(log))
    found: Counter[str] = Counter()
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        number = chance.randrange(FILES)
        path = Path(mount) / f"d{number % 3}" / f"file{number}"
        try:
            content = _read_slowly(path, chance)
        except OSError as error:
            if error.errno not in ALLOWED:
                raise
            found[errno.errorcode[error.errno]] += 1
            time.sleep(0.05)
            continue
        if not known.has(content):
            sys.exit(f"wrong bytes: {path}: {len(content)} bytes that were never published")
        found["right"] += 1
        found["bytes"] += len(content)
    print(json.dumps(found))


def _read_slowly(path: Path, chance: random.Random) -> bytes:
    """With one descriptor, so of one snapshot, whatever happens meanwhile."""
    pause = chance.choice((0.0, 0.0, 0.3))
    pieces = []
    with path.open("rb", buffering=0) as file:
        while piece := file.read(MIB):
            pieces.append(piece)
            time.sleep(pause)
    return b"".join(pieces)


class Known:
    """The hashes in a log that grows."""

    def __init__(self, log: Path) -> None:
        self._file = log.open()
        self._hashes: set[str] = set()

    def has(self, content: bytes) -> bool:
        wanted = blake3(content).hexdigest()
        if wanted not in self._hashes:
            self._hashes.update(line.strip() for line in self._file)
        return wanted in self._hashes


def announcements(share: str) -> None:
    """Prints the time (of the monotonic clock) and the version whenever a new one is announced, until it is killed."""
    newest = -1
    with closing(Receiver(DEFAULT_PORT)) as receiver:
        receiver.join(share_group(os.fsencode(share), SITE_LOCAL), socket.if_nametoindex(INTERFACE))
        while select.select([receiver.socket], [], []):
            now = time.monotonic()
            for run in receiver.receive() or ():
                for row in run.rows():
                    if row[1] != wire.ANNOUNCEMENT:
                        continue
                    _, body = wire.control_untrusted(row.tobytes())
                    version = decode_announcement_untrusted(body).version
                    if version > newest:
                        newest = version
                        print(now, version, flush=True)


COMMANDS: Final[dict[str, Callable[..., None]]] = {"change": change, "read": read, "announcements": announcements}

if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        COMMANDS[sys.argv[1]](*sys.argv[2:])
