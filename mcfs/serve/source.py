"""Reading a block from where it should be: a file, or the files of a pack.

What is read may be anything, since files change; only what `fits` is given out. Paths are followed anew whenever a file
is opened, beneath the directory that was scanned and never through a link.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from mcfs.serve.beneath import open_regular
from mcfs.serve.descriptors import Descriptors
from mcfs.serve.reading import Unsteady, read_exactly

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcfs.serve.index import Index
    from mcfs.serve.lookup import Place

    Fits: TypeAlias = Callable[[bytearray], bool]


class Source:
    """Reads blocks into private buffers. Thread-safe."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._descriptors = Descriptors()

    def file_block(self, place: Place, offset: int, size: int, fits: Fits) -> bytearray | None:
        """A piece of a file: from a descriptor that is still open, or else from the path as it is now."""
        key = (place.root, place.directory, place.members[0][0])
        for take in (self._descriptors.take, lambda _: self._open(place)):
            fd = take(key)
            if fd is None:
                continue
            data = _read(fd, offset, size)
            if data is not None and fits(data):
                self._descriptors.put(key, fd)
                return data
            os.close(fd)
        return None

    def pack_block(self, place: Place, size: int, fits: Fits) -> bytearray | None:
        """A whole pack, from its members."""
        beneath = self._index.root(place.root)
        if beneath is None or sum(length for _, length in place.members) != size:
            return None
        data = bytearray(size)
        try:
            beneath.forget()
            with beneath.directory(place.directory) as directory:
                _read_members(place, directory, memoryview(data))
        except (OSError, Unsteady):
            return None
        return data if fits(data) else None

    def clear(self) -> None:
        """Close the files that are kept open."""
        self._descriptors.clear()

    def _open(self, place: Place) -> int | None:
        beneath = self._index.root(place.root)
        if beneath is None:
            return None
        try:
            beneath.forget()
            return beneath.open_file(place.directory, place.members[0][0])
        except OSError:
            return None


def _read(fd: int, offset: int, size: int) -> bytearray | None:
    data = bytearray(size)
    try:
        read_exactly(fd, memoryview(data), offset)
    except (OSError, Unsteady):
        return None
    return data


def _read_members(place: Place, directory: int, data: memoryview) -> None:
    at = 0
    for name, size in place.members:
        fd = open_regular(name, directory)
        try:
            read_exactly(fd, data[at : at + size], 0)
        finally:
            os.close(fd)
        at += size
