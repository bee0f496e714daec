"""What stat shows."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from pyfuse3 import EntryAttributes

from mcfs.protocol.catalog import DirectoryEntry, Entry, FileEntry

if TYPE_CHECKING:
    from mcfs.fuse.settings import FuseSettings

BLOCK_SIZE: Final = 128 * 1024
"""st_blksize: what cp and Python's open() read at a time. The kernel's own read-ahead makes larger requests of a
sequential reader's; a larger value here would make the random reader of a few bytes fetch more than he wants."""
ROOT_MODE: Final = 0o555
ABSENT: Final = 1.0
"""Seconds for which the kernel may remember at most that a name does not exist: whoever asks for it is answered by the
kernel alone, so a new file stays unseen for as long."""


class AttributeWriter:
    """Fills in EntryAttributes, as the mount's settings have them."""

    def __init__(self, settings: FuseSettings) -> None:
        self._settings = settings

    def blank(self) -> EntryAttributes:
        """Attributes with all that is the same for every entry."""
        out = EntryAttributes()
        out.entry_timeout = self._settings.entry_timeout
        out.attr_timeout = self._settings.attr_timeout
        out.st_blksize = BLOCK_SIZE
        return out

    def write(self, out: EntryAttributes, number: int, entry: Entry) -> None:
        """Everything that differs. `out` may have been used for another entry."""
        attributes = entry.attributes
        out.st_ino = number
        if isinstance(entry, FileEntry):
            self._write_kind(out, stat.S_IFREG | attributes.mode, 1, entry.size)
        elif isinstance(entry, DirectoryEntry):
            self._write_kind(out, stat.S_IFDIR | attributes.mode, 2, 0)
        else:
            self._write_kind(out, stat.S_IFLNK | attributes.mode, 1, len(entry.target))
        self._write_owner_and_time(out, attributes.uid, attributes.gid, attributes.mtime_ns)

    def entry(self, number: int, entry: Entry) -> EntryAttributes:
        out = self.blank()
        self.write(out, number, entry)
        return out

    def shares(self, number: int, mtime_ns: int) -> EntryAttributes:
        """The root of all shares: it belongs to who mounted it."""
        out = self.blank()
        out.st_ino = number
        self._write_kind(out, stat.S_IFDIR | ROOT_MODE, 2, 0)
        self._write_owner_and_time(out, os.getuid(), os.getgid(), mtime_ns)
        return out

    def absent(self) -> EntryAttributes:
        """The answer that lets the kernel remember for entry_timeout that a name does not exist."""
        out = self.blank()
        out.st_ino = 0
        out.entry_timeout = min(ABSENT, self._settings.entry_timeout)
        return out

    def _write_kind(self, out: EntryAttributes, mode: int, links: int, size: int) -> None:
        out.st_mode = mode
        out.st_nlink = links
        out.st_size = size
        out.st_blocks = (size + 511) // 512

    def _write_owner_and_time(self, out: EntryAttributes, uid: int, gid: int, time_ns: int) -> None:
        settings = self._settings
        out.st_uid = uid if settings.uid is None else settings.uid
        out.st_gid = gid if settings.gid is None else settings.gid
        out.st_mtime_ns = time_ns
        out.st_ctime_ns = time_ns
        out.st_atime_ns = time_ns
