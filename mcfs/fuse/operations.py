"""The requests of the kernel, each translated into a question to the tree or the client."""

from __future__ import annotations

import errno
import itertools
import os
from collections import Counter
from typing import TYPE_CHECKING, Final, NoReturn, cast

import trio
from pyfuse3 import ENOATTR, FileInfo, FUSEError, StatvfsData

from mcfs.fuse import xattrs
from mcfs.fuse.attributes import AttributeWriter
from mcfs.fuse.changes import Changes
from mcfs.fuse.errnos import translated
from mcfs.fuse.inodes import DirectoryNode, FileNode, LinkNode, Node, SharesNode
from mcfs.fuse.links import Symlinks, stays_inside
from mcfs.fuse.readdir import DirectoryReader, OpenDirectory, parent_number
from mcfs.fuse.readonly import ReadOnly
from mcfs.fuse.tree import Tree
from mcfs.protocol.catalog import MAX_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyfuse3 import EntryAttributes, FileHandleT, FileNameT, FlagT, InodeT, ModeT, ReaddirToken, RequestContext

    from mcfs.fuse.backend import Backend, FileReader
    from mcfs.fuse.settings import FuseSettings
    from mcfs.protocol.announce import Announcement

_STATFS_BLOCK: Final = 4096
_ANY_EXECUTE: Final = 0o111
_MAX_COUNT: Final = (1 << 63) - 1
"""What each share may claim to have of files; all of them together have to fit the same field."""


class McfsOperations(ReadOnly):
    """The file system. Handlers that read the tree may block; the others answer from memory."""

    # Without this the kernel would hand out file handles (NFS export) that outlive the inode table.
    supports_dot_lookup = False

    def __init__(self, backend: Backend, settings: FuseSettings) -> None:
        super().__init__()
        self._backend = backend
        self._settings = settings
        self._tree = Tree(backend, settings)
        self._table = self._tree.table
        self._attributes = AttributeWriter(settings)
        self._directory_reader = DirectoryReader(self._table, self._attributes, self._tree)
        self._handles = itertools.count(1)
        self._files: dict[int, FileReader] = {}
        self._numbers: dict[int, InodeT] = {}
        self._opened: Counter[InodeT] = Counter()
        """How often each file is open: its attributes are those of its snapshot."""
        self._directories: dict[int, OpenDirectory] = {}

    # --- names and attributes ----------------------------------------------------------------------------------------

    @translated
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        if len(name) > MAX_NAME:
            raise FUSEError(errno.ENAMETOOLONG)
        node = await self._tree.find(self._directory(parent_inode), name)
        if node is None:
            return self._attributes.absent()
        self._table.looked_up(node)
        return self._shown(node)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for number, lookups in inode_list:
            self._table.forget(number, lookups)

    @translated
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        node = self._table.get(inode)
        if not isinstance(node, SharesNode) and not self._opened[inode]:
            await self._tree.check(node)
        return self._shown(node)

    @translated
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        node = self._table.get(inode)
        if not isinstance(node, LinkNode):
            raise FUSEError(errno.EINVAL)
        await self._tree.check(node)
        if self._settings.symlinks is Symlinks.CONTAIN and not stays_inside(node.path, node.entry.target):
            raise FUSEError(errno.EPERM)
        return node.entry.target

    @translated
    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        # Asked only without default_permissions, that is on behalf of the one user whose mount it is.
        node = self._table.get(inode)
        if mode & os.W_OK:
            raise FUSEError(errno.EROFS)
        if mode & os.X_OK and isinstance(node, FileNode):
            return bool(node.entry.attributes.mode & _ANY_EXECUTE)
        return True

    def _shown(self, node: Node) -> EntryAttributes:
        if isinstance(node, SharesNode):
            newest = max((a.time_ms for a in self._backend.shares().values()), default=0)
            return self._attributes.shares(node.number, newest * 1_000_000)
        return self._attributes.entry(node.number, self._tree.shown(node)[0])

    def _directory(self, inode: InodeT) -> SharesNode | DirectoryNode:
        node = self._table.get(inode)
        if not isinstance(node, SharesNode | DirectoryNode):
            raise FUSEError(errno.ENOTDIR)
        return node

    # --- directories -------------------------------------------------------------------------------------------------

    @translated
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        node = self._directory(inode)
        if isinstance(node, SharesNode):
            directory = self._open_shares(node)
        else:
            directory = await self._open_directory(node)
        handle = next(self._handles)
        self._directories[handle] = directory
        return handle

    def _open_shares(self, node: SharesNode) -> OpenDirectory:
        shares = self._tree.shares()
        listing = self._table.number_listing(tuple(entry for entry, _ in shares))
        versions = [version for _, version in shares]
        itself = self._shown(node)
        return OpenDirectory(itself, itself, listing, b"", versions.__getitem__)

    async def _open_directory(self, node: DirectoryNode) -> OpenDirectory:
        listing = await self._tree.listing(node)
        # No await from here on: the listing is the one of the node's version.
        version = node.version
        parent = self._table.get(parent_number(self._table, node))
        return OpenDirectory(self._shown(node), self._shown(parent), listing, node.path, lambda _: version)

    @translated
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        self._directory_reader.reply(self._directories[fh], start_id, token)

    @translated
    async def releasedir(self, fh: FileHandleT) -> None:
        self._directories.pop(fh, None)

    # --- files -------------------------------------------------------------------------------------------------------

    @translated
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        node = self._table.get(inode)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise FUSEError(errno.EROFS)
        if not isinstance(node, FileNode):
            raise FUSEError(errno.EISDIR if isinstance(node, DirectoryNode | SharesNode) else errno.ELOOP)
        if not self._tree.has_just_changed(node, now=trio.current_time()):
            await self._tree.check(node)
        handle = next(self._handles)
        self._files[handle] = self._reader(node)
        self._numbers[handle] = inode
        self._opened[inode] += 1
        # The content of an inode never changes, so what the kernel has of it stays right.
        return FileInfo(fh=handle, keep_cache=True)

    def _reader(self, node: FileNode) -> FileReader:
        if node.entry.extent is None:
            return _EmptyFile()
        return self._backend.open(node.path, node.entry, lambda: self._tree.upcoming(node.path))

    @translated
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        # pyfuse3 takes any contiguous buffer, whatever its type hints say: no copy is made here.
        return cast("bytes", await self._files[fh].read(off, size))

    @translated
    async def release(self, fh: FileHandleT) -> None:
        reader = self._files.pop(fh, None)
        if reader is not None:
            reader.close()
            self._closed(self._numbers.pop(fh))

    def _closed(self, inode: InodeT) -> None:
        self._opened[inode] -= 1
        if not self._opened[inode]:
            del self._opened[inode]

    # --- the rest ----------------------------------------------------------------------------------------------------

    @translated
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        announcements = self._counted()
        out = StatvfsData()
        out.f_bsize = out.f_frsize = _STATFS_BLOCK
        out.f_blocks = min(_MAX_COUNT, -(-sum(a.total_bytes for a in announcements) // _STATFS_BLOCK))
        out.f_files = min(_MAX_COUNT, sum(a.total_files for a in announcements))
        out.f_namemax = MAX_NAME
        return out

    def _counted(self) -> list[Announcement]:
        if self._settings.share is None:
            return list(self._backend.shares().values())
        announcement = self._backend.share(self._settings.share)
        return [announcement] if announcement is not None else []

    @translated
    async def getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        self._refuse_xattrs()
        if not name.startswith(xattrs.NAMESPACE):
            raise FUSEError(errno.EOPNOTSUPP)
        node = self._table.get(inode)
        value = None
        if name == xattrs.CACHE:
            value = xattrs.cache(self._backend, ctx.uid)
        elif name == xattrs.PATH:
            value = None if isinstance(node, SharesNode) else node.path
        elif not isinstance(node, SharesNode):
            value = xattrs.value(self._backend, *self._tree.shown(node), name)
        if value is None:
            raise FUSEError(ENOATTR)
        return value

    @translated
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[bytes]:
        self._refuse_xattrs()
        return ()

    def _refuse_xattrs(self) -> None:
        if self._settings.noxattr:
            # The kernel asks no more after this answer.
            raise FUSEError(errno.ENOSYS)

    async def tell_changes(self, invalidate: Callable[[int], None]) -> NoReturn:
        """Have the kernel ask again for attributes whenever a share is shown in another version."""
        await Changes(self._backend, self._tree, invalidate).follow()

    def close(self) -> None:
        """Close what the kernel left open: after an unmount by force it sends no release."""
        while self._files:
            self._files.popitem()[1].close()
        self._directories.clear()


class _EmptyFile:
    async def read(self, offset: int, length: int) -> bytes:
        return b""

    def close(self) -> None:
        pass
