"""What `mcfs demo` serves when the user names nothing: Python's standard library and one large file made from it."""

from __future__ import annotations

import itertools
import os
import shutil
import struct
import sysconfig
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
    """Counts regular files; links are not followed, and what vanishes meanwhile counts as nothing."""
    amount = Amount()
    for file in _files(path, leave_out):
        try:
            size = file.lstat().st_size
        except FileNotFoundError:
            continue
        amount += Amount(1, size, -(-size // _DISK_BLOCK) * _DISK_BLOCK)
    return amount


def measure_sample(large_size: int) -> Amount:
    """What `make_sample` will make."""
    return measure(library(), leave_out=_NOT_LIBRARY) + Amount(1, large_size, large_size)


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
    for path in sorted(_files(tree)):
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                yield piece


def _files(path: Path, leave_out: tuple[str, ...] = ()) -> Iterator[Path]:
    """Regular files at or below `path`."""
    if path.is_file() and not path.is_symlink():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if name not in leave_out]
        files = (Path(folder, name) for name in names if name not in leave_out)
        yield from (file for file in files if file.is_file() and not file.is_symlink())
