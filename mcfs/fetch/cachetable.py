"""The open files of the cache: so many at most, none closed while a thread uses it. The caller holds the lock."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mcfs.fetch.cachefile import CacheFile
    from mcfs.protocol.ids import ObjectId

MAX_FILES: Final = 256
"""A quarter of the descriptors that a process gets by default."""
MAX_MEMORY: Final = 64 * 1024 * 1024
"""Bytes of maps held: those of 256 files of 1 TiB at the default block size."""


class FileTable:
    """Every `use` or `adopt` is followed by one `release`."""

    def __init__(self, max_files: int = MAX_FILES) -> None:
        self._max_files = max_files
        self._files: OrderedDict[ObjectId, CacheFile] = OrderedDict()
        self._memory = 0

    def __len__(self) -> int:
        return len(self._files)

    def use(self, name: ObjectId) -> CacheFile | None:
        file = self._files.get(name)
        if file is not None:
            file.users += 1
            self._files.move_to_end(name)
        return file

    def adopt(self, file: CacheFile) -> CacheFile:
        """Take in a file just opened and use it, or the one that another thread opened meanwhile."""
        present = self.use(file.ref.id)
        if present is not None:
            file.close()
            return present
        self._files[file.ref.id] = file
        self._memory += file.memory
        file.users += 1
        self._shrink()
        return file

    def release(self, file: CacheFile) -> None:
        file.users -= 1
        if file.doomed and not file.users:
            _close(file)

    def forget(self, name: ObjectId) -> None:
        """The object's file is gone. Who is reading it may finish."""
        file = self._files.pop(name, None)
        if file is not None:
            self._memory -= file.memory
            file.doomed = True
            if not file.users:
                _close(file)

    def forget_all(self) -> None:
        for name in list(self._files):
            self.forget(name)

    def _shrink(self) -> None:
        # A file in use must stay: opened a second time it would have a second map. Two threads use two or three.
        while len(self._files) > self._max_files or self._memory > MAX_MEMORY:
            name = next((name for name, file in self._files.items() if not file.users), None)
            if name is None:
                return
            self.forget(name)


def _close(file: CacheFile) -> None:
    # Whatever the close of a file says about delayed writes, its blocks are verified when it is opened again.
    with suppress(OSError):
        file.close()
