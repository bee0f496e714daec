"""Reading a file that may change meanwhile, and where its holes are."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class Unsteady(Exception):
    """The file changed while it was read."""


class Piece(NamedTuple):
    """A part of a file that begins at a block, and ends at one or at the end of the file."""

    start: int
    end: int
    is_hole: bool
    """All zeros, and nothing has to be read to know it."""


def read_exactly(fd: int, place: memoryview, at: int) -> None:
    """Fill `place` from offset `at`. Raises OSError; Unsteady if the file is shorter."""
    while place:
        n = os.preadv(fd, [place], at)
        if n == 0:
            raise Unsteady
        place, at = place[n:], at + n


def pieces(fd: int, size: int, block_size: int, longest: int) -> Iterator[Piece]:
    """Cut a file into runs of whole blocks in holes, of any length, and pieces of at most `longest` bytes of the rest.

    `longest` is a multiple of the block size.
    """
    at = 0
    while at < size:
        data = min(_seek(fd, at, os.SEEK_DATA, size), size)
        start = size if data == size else data - data % block_size
        if start > at:
            yield Piece(at, start, True)
        # Up to the next hole, blocks that it touches included.
        hole = min(_seek(fd, data, os.SEEK_HOLE, size), size) if data < size else size
        at = min(-(-hole // block_size) * block_size, size)
        for begin in range(start, at, longest):
            yield Piece(begin, min(begin + longest, at), False)


_NO_MORE_DATA: Final = errno.ENXIO


def _seek(fd: int, at: int, whence: int, size: int) -> int:
    """Where data or a hole begins. A file system that does not know says that all is data."""
    try:
        return os.lseek(fd, at, whence)
    except OSError as error:
        return at if whence == os.SEEK_DATA and error.errno != _NO_MORE_DATA else size
