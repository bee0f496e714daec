"""Reading a block from where it should be: a file, or the files of a pack.

What is read may be anything, since files change; only what `fits` is given out. Paths are followed anew whenever a file
is opened, beneath the directory that was scanned and never through a link.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from mcfs.serve.beneath import open_regular
from mcfs.serve.descriptors import Descriptors
from mcfs.serve.reading import Unsteady, read_exactly

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcfs.serve.beneath import Beneath
    from mcfs.serve.index import Index
    from mcfs.serve.lookup import Place

    Fits: TypeAlias = Callable[[bytearray], bool]

T = TypeVar("T")


class Source:
    """Reads blocks into private buffers. Thread-safe."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._descriptors = Descriptors()

    def file_block(self, row: int, place: Place, offset: int, size: int, fits: Fits) -> bytearray | None:
        """A piece of a file that is object `row`: from a descriptor that is still open, or else from the path as it is
        now. So who reads a file that is replaced by another one goes on, beside those who read the other one."""
        key = (row, place.root, place.directory, place.members[0][0])
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
        if sum(length for _, length in place.members) != size:
            return None
        data = bytearray(size)

        def read(beneath: Beneath) -> bytearray:
            with beneath.directory(place.directory) as directory:
                _read_members(place, directory, memoryview(data))
            return data

        return data if self._below(place, read) is not None and fits(data) else None

    def age(self) -> None:
        """Close the files that nobody has read since this was called last."""
        self._descriptors.age()

    def clear(self) -> None:
        """Close the files that are kept open."""
        self._descriptors.clear()

    def _open(self, place: Place) -> int | None:
        return self._below(place, lambda beneath: beneath.open_file(place.directory, place.members[0][0]))

    def _below(self, place: Place, do: Callable[[Beneath], T]) -> T | None:
        """What `do` gives for the root of a place; None if it cannot read.

        Once more if the share's directory was replaced by another one meanwhile, which closes this one.
        """
        beneath = self._index.root(place.root)
        while beneath is not None:
            try:
                beneath.forget()
                return do(beneath)
            except (OSError, Unsteady):
                before, beneath = beneath, self._index.root(place.root)
                if beneath is before:
                    return None
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
