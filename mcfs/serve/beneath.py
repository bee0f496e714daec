"""Opening what lies below a directory, and nothing else.

Every path is opened component by component from the directory's own descriptor, with O_NOFOLLOW: a symbolic link is
never followed, whoever puts it there and whenever, so no file outside is read. A few directories are kept open because
neighbours are opened after each other; with them a tree 3,000 levels deep does not cost 3,000 opens per file.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A FIFO that takes a file's place must not block the opener, nor a terminal become the controlling one.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CLOSED: Final = -1


class Beneath:
    """The directories and regular files below one directory. Thread-safe; owns `root`."""

    def __init__(self, root: int, keep: int = 64) -> None:
        """`keep` (2 at least) is how many directories stay open."""
        self._root = root
        self._keep = keep
        self._open: OrderedDict[bytes, int] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def directory(self, path: bytes) -> Iterator[int]:
        """A descriptor of directory `path` ("" is the root), for the `with` block. Raises OSError."""
        with self._lock:
            fd = os.open(b".", _DIRECTORY, dir_fd=self._reach(path))
        try:
            yield fd
        finally:
            os.close(fd)

    def open_file(self, path: bytes, name: bytes) -> int:
        """A new descriptor of the regular file `name` in directory `path`. Raises OSError."""
        with self._lock:
            return open_regular(name, self._reach(path))

    @contextmanager
    def file(self, path: bytes, name: bytes) -> Iterator[int]:
        """As open_file, for the `with` block."""
        fd = self.open_file(path, name)
        try:
            yield fd
        finally:
            os.close(fd)

    def forget(self) -> None:
        """Close the directories that are kept open: what is opened next follows the names as they are now."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1])

    def close(self) -> None:
        """What is opened later raises OSError."""
        self.forget()
        with self._lock:
            os.close(self._root)
            self._root = _CLOSED

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode of the root. Raises OSError once it is closed."""
        with self._lock:
            status = os.fstat(self._root)
        return status.st_dev, status.st_ino

    def successor(self, keep: int) -> Beneath:
        """Another one on the same root."""
        with self._lock:
            return Beneath(os.dup(self._root), keep)

    def _reach(self, path: bytes) -> int:
        """The kept descriptor of a directory, opened from the nearest ancestor that is open."""
        missing = []
        while path and path not in self._open:
            path, _, name = path.rpartition(b"/")
            missing.append(name)
        fd = self._root
        if path:
            self._open.move_to_end(path)
            fd = self._open[path]
        for name in reversed(missing):
            fd = os.open(name, _DIRECTORY, dir_fd=fd)
            path = join(path, name)
            self._retain(path, fd)
        return fd

    def _retain(self, path: bytes, fd: int) -> None:
        self._open[path] = fd
        if len(self._open) > self._keep:
            os.close(self._open.popitem(last=False)[1])


def open_root(path: bytes) -> int:
    """Open a directory that the user named; it may be reached through links, being his own words. Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def open_regular(name: bytes, directory: int) -> int:
    """Open a regular file in an open directory, without following a link. Raises OSError."""
    fd = os.open(name, _FILE, dir_fd=directory)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.ENOTSUP, "not a regular file")


def upward(path: bytes) -> list[bytes]:
    """A directory and all that it is below of, down to b""."""
    paths = [path]
    while path:
        path = path.rpartition(b"/")[0]
        paths.append(path)
    return paths


def join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name
