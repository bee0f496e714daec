"""Walking a tree: what is there, before anything is read.

Directories come after all that is below them, so that listings can be built bottom-up. The walk keeps a stack of its
own: a tree may be deeper than Python recurses and than a process may hold descriptors.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from mcfs.protocol.catalog import MAX_NAME, MAX_TARGET, PERMISSIONS, Attributes, LinkEntry
from mcfs.serve.beneath import join

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mcfs.serve.beneath import Beneath

_STAMP: Final = struct.Struct("<QqqQ")
STAMP_SIZE: Final = _STAMP.size
TICK: Final = 20_000_000
"""Nanoseconds for which a file may get the same times again when it is written to: the kernel's clock for them advances
every 1 to 10 ms (before Linux 6.13, and on file systems without multigrain timestamps)."""
_BREATH: Final = 256
"""Names that are read in 1 ms."""
_MAX_TIME: Final = (1 << 63) - 1
_NO_INODE: Final = 0


@dataclass(slots=True)
class FoundFile:
    """A regular file as lstat sees it."""

    name: bytes
    attributes: Attributes
    size: int
    stamp: bytes
    """What tells that it has changed (see stamp_of)."""
    is_fresh: bool = False
    """It was changed so shortly before that the next change may leave the same stamp."""


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


@dataclass(frozen=True, slots=True)
class Guide:
    """Where a walk goes, and whom it tells."""

    warn: Callable[[str, bytes], None]
    """What is left out and where: special files, directories that cannot be read."""
    enter: Callable[[bytes], bool] = lambda _: True
    """Whether to go into a directory below the root."""
    observe: Callable[[int, bytes], None] = lambda _, __: None
    """An open directory that is read next, and its path: what changes from now on may be missed by the walk."""
    breathe: Callable[[], None] = lambda: None
    """Called every few hundred names."""
    clock_ns: Callable[[], int] = lambda: 0
    """Unix time."""
    leave_out: tuple[int, int] | None = None
    """Device and inode of a directory that is not to be shared: it is the server's own."""


def stamp_of(status: os.stat_result) -> bytes:
    """Size, times and inode, of which at least one differs once a file was written to, replaced or restored.

    Not the device number: network and btrfs file systems get another one at each mount.
    """
    mtime, ctime = _clamp(status.st_mtime_ns), _clamp(status.st_ctime_ns)
    return _STAMP.pack(status.st_size, mtime, ctime, status.st_ino)


def attributes_of(status: os.stat_result) -> Attributes:
    mtime = _clamp(status.st_mtime_ns)
    return Attributes(status.st_mode & PERMISSIONS, status.st_uid, status.st_gid, mtime)


def found_file(name: bytes, status: os.stat_result, now_ns: int) -> FoundFile:
    is_fresh = 0 <= now_ns - status.st_ctime_ns < TICK  # else the clock was set back, or it is another machine's
    return FoundFile(name, attributes_of(status), status.st_size, stamp_of(status), is_fresh)


def stale(stamp: bytes) -> bytes:
    """A stamp with the same size and times that no file has, so that the file is hashed again when it is come by."""
    size, mtime, ctime, _ = _STAMP.unpack(stamp)
    return _STAMP.pack(size, mtime, ctime, _NO_INODE)


def as_it_was(file: FoundFile, stamp: bytes) -> FoundFile:
    """The file when it had that stamp."""
    size, mtime, _, _ = _STAMP.unpack(stamp)
    return FoundFile(file.name, replace(file.attributes, mtime_ns=mtime), size, stamp)


def walk(beneath: Beneath, guide: Guide) -> Iterator[FoundDirectory]:
    """Every directory, post-order, the root (path b"") last. Raises OSError if the root itself cannot be read."""
    stack = [_read(beneath, b"", guide)]
    while stack:
        if not stack[-1].subdirectories:
            yield stack.pop()
            continue
        path = join(stack[-1].path, stack[-1].subdirectories.pop())
        if not guide.enter(path):
            continue
        try:
            stack.append(_read(beneath, path, guide))
        except OSError as error:
            if error.errno != errno.ENOENT:  # deleted meanwhile: as if it had never been there
                guide.warn(f"directory left out: {error.strerror}", path)


def _read(beneath: Beneath, path: bytes, guide: Guide) -> FoundDirectory:
    with beneath.directory(path) as fd:
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) == guide.leave_out:
            raise OSError(errno.EBUSY, "it is the state directory of this server")
        guide.observe(fd, path)
        found = FoundDirectory(path, attributes_of(os.fstat(fd)), [], [], [])
        with os.scandir(fd) as entries:
            for count, entry in enumerate(entries, 1):
                _sort_in(found, entry, fd, guide)
                if not count % _BREATH:
                    guide.breathe()
    found.files.sort(key=lambda file: file.name)
    found.links.sort(key=lambda link: link.name)
    found.subdirectories.sort(reverse=True)
    return found


def _sort_in(found: FoundDirectory, entry: os.DirEntry[str], fd: int, guide: Guide) -> None:
    name, warn = os.fsencode(entry.name), guide.warn
    try:
        if len(name) > MAX_NAME:
            warn("left out: name of more than 255 bytes", join(found.path, name))
        elif entry.is_symlink():
            found.links.append(_link(name, entry, fd))
        elif entry.is_dir(follow_symlinks=False):
            found.subdirectories.append(name)
        elif entry.is_file(follow_symlinks=False):
            found.files.append(found_file(name, entry.stat(follow_symlinks=False), guide.clock_ns()))
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
