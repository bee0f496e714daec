"""Walking a tree: what is there, before anything is read.

Directories come after all that is below them, so that listings can be built bottom-up. The walk keeps a stack of its
own: a tree may be deeper than Python recurses and than a process may hold descriptors.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mcfs.protocol.catalog import MAX_NAME, MAX_TARGET, PERMISSIONS, Attributes, LinkEntry
from mcfs.serve.beneath import join

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mcfs.serve.beneath import Beneath

_STAMP: Final = struct.Struct("<QqqQ")
_MAX_TIME: Final = (1 << 63) - 1


@dataclass(slots=True)
class FoundFile:
    """A regular file as lstat sees it."""

    name: bytes
    attributes: Attributes
    size: int
    stamp: bytes
    """What tells that it has changed (see stamp_of)."""


@dataclass(slots=True)
class FoundDirectory:
    path: bytes
    """Below the share's root, which is b""."""
    attributes: Attributes
    files: list[FoundFile]
    """Sorted by name."""
    links: list[LinkEntry]
    subdirectories: list[bytes]
    """Names, last one first; empty once the walk has been there."""

    @property
    def name(self) -> bytes:
        return self.path.rpartition(b"/")[2]


def stamp_of(status: os.stat_result) -> bytes:
    """Size, times and inode, of which at least one differs once a file was written to, replaced or restored.

    Not the device number: network and btrfs file systems get another one at each mount.
    """
    mtime, ctime = _clamp(status.st_mtime_ns), _clamp(status.st_ctime_ns)
    return _STAMP.pack(status.st_size, mtime, ctime, status.st_ino)


def attributes_of(status: os.stat_result) -> Attributes:
    mtime = _clamp(status.st_mtime_ns)
    return Attributes(status.st_mode & PERMISSIONS, status.st_uid, status.st_gid, mtime)


def found_file(name: bytes, status: os.stat_result) -> FoundFile:
    return FoundFile(name, attributes_of(status), status.st_size, stamp_of(status))


def walk(beneath: Beneath, warn: Callable[[str, bytes], None]) -> Iterator[FoundDirectory]:
    """Every directory, post-order, the root (path b"") last. Raises OSError if the root itself cannot be read.

    `warn` is told what is left out and where: special files, directories that cannot be read.
    """
    stack = [_read(beneath, b"", warn)]
    while stack:
        if not stack[-1].subdirectories:
            yield stack.pop()
            continue
        path = join(stack[-1].path, stack[-1].subdirectories.pop())
        try:
            stack.append(_read(beneath, path, warn))
        except OSError as error:
            warn(f"directory left out: {error.strerror}", path)


def _read(beneath: Beneath, path: bytes, warn: Callable[[str, bytes], None]) -> FoundDirectory:
    with beneath.directory(path) as fd:
        found = FoundDirectory(path, attributes_of(os.fstat(fd)), [], [], [])
        with os.scandir(fd) as entries:
            for entry in entries:
                _sort_in(found, entry, fd, warn)
    found.files.sort(key=lambda file: file.name)
    found.links.sort(key=lambda link: link.name)
    found.subdirectories.sort(reverse=True)
    return found


def _sort_in(found: FoundDirectory, entry: os.DirEntry[str], fd: int, warn: Callable[[str, bytes], None]) -> None:
    name = os.fsencode(entry.name)
    try:
        if len(name) > MAX_NAME:
            warn("left out: name of more than 255 bytes", join(found.path, name))
        elif entry.is_symlink():
            found.links.append(_link(name, entry, fd))
        elif entry.is_dir(follow_symlinks=False):
            found.subdirectories.append(name)
        elif entry.is_file(follow_symlinks=False):
            found.files.append(found_file(name, entry.stat(follow_symlinks=False)))
        else:
            kind = _KINDS.get(stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode), "special file")
            warn(f"{kind} left out", join(found.path, name))
    except FileNotFoundError:
        return  # deleted since it was listed: as if it had never been there
    except OSError as error:
        warn(f"left out: {error.strerror}", join(found.path, name))


def _link(name: bytes, entry: os.DirEntry[str], fd: int) -> LinkEntry:
    target = os.readlink(name, dir_fd=fd)
    if not 1 <= len(target) <= MAX_TARGET:
        raise OSError(0, f"link target of {len(target)} bytes")
    return LinkEntry(name, attributes_of(entry.stat(follow_symlinks=False)), target)


def _clamp(time_ns: int) -> int:
    """Years that a signed 64-bit number of nanoseconds cannot hold (after 2262) become its ends."""
    return max(-_MAX_TIME, min(time_ns, _MAX_TIME))


_KINDS: Final = {
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
}
