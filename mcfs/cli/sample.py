"""What `mcfs demo` serves when the user names nothing: Python's standard library and one large file made from it."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import struct
import sysconfig
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE_FILE: Final = "large.bin"
_NOT_LIBRARY: Final = ("site-packages", "dist-packages", "__pycache__")
_PIECE: Final = 60_000
"""Bytes of the library between two counters: less than the smallest block, so that no two blocks are equal."""
_COUNTER: Final = struct.Struct(">QQ")
_DISK_BLOCK: Final = 4096


@dataclass(frozen=True, slots=True)
class Amount:
    """How much a file or a tree holds: regular files, their bytes, and what these take on a disk of 4 KiB blocks."""

    files: int = 0
    size: int = 0
    on_disk: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.files + other.files, self.size + other.size, self.on_disk + other.on_disk)


def library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def measure(path: Path, *, leave_out: tuple[str, ...] = ()) -> Amount:
    """Counts regular files at or below `path`; links are not followed."""
    files = size = on_disk = 0
    for _, status in _files(path, leave_out):
        files += 1
        size += status.st_size
        on_disk += _on_disk(status.st_size)
    return Amount(files, size, on_disk)


def measure_sample(large_size: int) -> Amount:
    """What `make_sample` will make."""
    return measure(library(), leave_out=_NOT_LIBRARY) + Amount(1, large_size, _on_disk(large_size))


def _on_disk(size: int) -> int:
    return -(-size // _DISK_BLOCK) * _DISK_BLOCK


def make_sample(directory: Path, large_size: int) -> None:
    """Copies the library below `directory` and writes the large file beside it."""
    source = library()
    copied = directory / source.name
    shutil.copytree(source, copied, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_LIBRARY))
    with open(directory / LARGE_FILE, "wb") as large:
        _write_large(large, copied, large_size)


def _write_large(large: BinaryIO, tree: Path, size: int) -> None:
    """The files of the tree over and over, cut into pieces that begin with a counter."""
    left = size
    pieces = itertools.chain.from_iterable(_pieces(tree) for _ in itertools.count())
    for number, piece in enumerate(pieces):
        if left <= 0:
            return
        left -= large.write((_COUNTER.pack(number, size) + piece)[:left])


def _pieces(tree: Path) -> Iterator[bytes]:
    yield b""  # a tree without any byte still makes a file of counters
    for path in sorted(path for path, _ in _files(tree)):
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                yield piece


def _files(path: Path, leave_out: tuple[str, ...] = ()) -> Iterator[tuple[str, os.stat_result]]:
    """Regular files at or below `path`, without those that vanish meanwhile or that may not be looked at."""
    names = [str(path)]
    if path.is_dir():
        names = [os.path.join(folder, name) for folder, name in _entries(path, leave_out)]
    for name in names:
        with suppress(OSError):
            status = os.lstat(name)
            if stat.S_ISREG(status.st_mode):
                yield name, status


def _entries(top: Path, leave_out: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if name not in leave_out]
        yield from ((folder, name) for name in names)
