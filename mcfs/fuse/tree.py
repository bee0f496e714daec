"""From a name to an entry: directories are listed in the newest version of their share.

A directory node that is older than its share is looked up again, from the root of the new version down, when it is
next used. A file's node never changes its content: `check` says whether it still is what its path means. If it is not,
the kernel is told ESTALE, and looks the path up again, asking at each step (do_filp_open and retry_estale in Linux's
fs). So what it remembers of names does no harm and need not be taken from it. For that it wants the directory's lock,
which whoever looks up a name there holds until he is answered: a daemon that is killed just then would leave a mount
that hangs for ever.

Between two awaits a directory node's entry, version, slot and listing belong together; where a function
relies on that a comment says so.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import trio

from mcfs.fuse.errnos import Stale
from mcfs.fuse.inodes import ROOT, DirectoryNode, EntryNode, InodeTable, Listing, SharesNode
from mcfs.fuse.links import Symlinks
from mcfs.protocol.catalog import Attributes, DirectoryEntry, Entry, FileEntry, LinkEntry
from mcfs.protocol.errors import NotAvailable, TimedOut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcfs.fuse.backend import Backend
    from mcfs.fuse.settings import FuseSettings
    from mcfs.protocol.announce import Announcement

MAX_LISTED: Final = 1 << 20
"""Entries of directories that are kept at hand; one that is used after it was dropped is read from the cache again. The
kernel may know directories by the thousand, each as long as its publisher likes."""
UNHEARD: Final = -1
"""The version of a share's root before its first announcement."""
GRACE: Final = 0.05
"""Seconds after a change in which a file of the version before may still be opened: the kernel tries only twice, and
who has looked the file up again just before the change must not be told once more that it is stale."""
_ROOT_MODE: Final = 0o555


def share_of(path: bytes) -> bytes:
    return path.partition(b"/")[0]


class Tree:
    """The shares as the mount shows them."""

    def __init__(self, backend: Backend, settings: FuseSettings) -> None:
        self._backend = backend
        self._settings = settings
        self.table = InodeTable(_root_node(settings.share))
        self._listed = _Listed()
        self._changes: dict[bytes, tuple[float, int]] = {}
        """When a share was shown in another version than before, a moment ago, and in which it was before."""

    # --- names -------------------------------------------------------------------------------------------------------

    async def find(self, node: SharesNode | DirectoryNode, name: bytes) -> EntryNode | None:
        """The node of a name in a directory, None if there is none. Raises NotAvailable, BadNode, BadObject, Stale."""
        if isinstance(node, SharesNode):
            return await self._find_share(name)
        listing = await self.listing(node)
        # No await from here on: the listing is the one of the node's version.
        position = listing.find(name)
        if position is None or self.is_hidden(listing.entries[position]):
            return None
        return self.child(node, listing, position)

    def is_hidden(self, entry: Entry) -> bool:
        return self._settings.symlinks is Symlinks.HIDE and isinstance(entry, LinkEntry)

    def child(self, directory: DirectoryNode, listing: Listing, position: int) -> EntryNode:
        entry = listing.entries[position]
        path = directory.path + b"/" + entry.name
        return self.table.child(path, entry, directory.version, listing.numbers[position])

    async def _find_share(self, name: bytes) -> EntryNode | None:
        announcement = self._backend.share(name)
        if announcement is None:
            try:
                announcement = await self._backend.wait_share(name, self._settings.share_wait)
            except TimedOut:
                # Among all shares, one that does not exist and one that is silent look the same.
                return None
        entry = announcement.entry
        return self.table.child(name, entry, announcement.version, self.table.number_entry(entry))

    def shares(self) -> list[tuple[Entry, int]]:
        """The entries of the root of all shares, each with its version."""
        heard = sorted(self._backend.shares().items())
        return [(announcement.entry, announcement.version) for _, announcement in heard]

    # --- listings ----------------------------------------------------------------------------------------------------

    async def listing(self, node: DirectoryNode) -> Listing:
        """The entries of a directory in the newest version. When it returns, node.version is the listing's version.

        Raises NotAvailable, BadNode, BadObject; Stale if the newest version has no directory there.
        """
        share = share_of(node.path)
        announcement = await self._announcement(share)
        longest = self._backend.max_wait(share)
        # However deep it is, and however often there is a new version meanwhile.
        with trio.move_on_after(longest):
            while True:
                listing = await self._try_listing(node, announcement)
                newest = self._backend.share(share) or announcement
                if listing is not None and node.version >= newest.version:
                    return listing
                announcement = newest
        raise TimedOut(f"directory not complete after {longest:g} s")

    async def _try_listing(self, node: DirectoryNode, announcement: Announcement) -> Listing | None:
        """The entries of a directory in this version or a newer one; None if they cannot be had while there is a newer
        one, as a server may have forgotten this one."""
        try:
            if node.version < announcement.version:
                await self._follow(node, announcement)
            return await self._entries(node)
        except (NotAvailable, Stale):
            newest = self._backend.share(announcement.name) or announcement
            if newest.version <= announcement.version:
                raise
            return None

    async def _announcement(self, share: bytes) -> Announcement:
        announcement = self._backend.share(share)
        if announcement is not None:
            return announcement
        return await self._backend.wait_share(share, self._settings.timeout)

    async def _follow(self, node: DirectoryNode, announcement: Announcement) -> None:
        """Bring a directory up to a version, walking down from its root."""
        at = self._share_root(announcement)
        for name in node.path.split(b"/")[1:]:
            # A walk that runs beside this one may have taken `at` to a still newer version: then this one follows it.
            listing = await self._entries(at)
            position = listing.find(name)
            child = None if position is None else self.child(at, listing, position)
            if not isinstance(child, DirectoryNode):
                raise Stale(f"no directory {node.path!r}")
            at = child
        if at is not node:
            _copy(at, node)

    def _share_root(self, announcement: Announcement) -> DirectoryNode:
        entry = self.top(announcement)
        node = self.table.child(announcement.name, entry, announcement.version, self.table.number_entry(entry))
        if not isinstance(node, DirectoryNode):
            raise Stale("the share is no longer a directory")
        return node

    async def _entries(self, node: DirectoryNode) -> Listing:
        while True:
            listing = node.listing
            if listing is not None:
                self._listed.used(node)
                return listing
            await self._load(node)

    async def _load(self, node: DirectoryNode) -> None:
        """Give a node its listing, unless it moves on to other content meanwhile."""
        content = node.entry.content
        if isinstance(content, tuple):
            node.listing = Listing(content, node.slot + 1)
            return
        entries = await self._backend.entries(share_of(node.path), content)
        # Another task may have done the same: the numbers of the first one count.
        if node.listing is None and node.entry.content == content:
            node.listing = self.table.number_listing(entries)
            self._listed.add(node, len(entries))

    # --- versions ----------------------------------------------------------------------------------------------------

    async def check(self, node: EntryNode) -> None:
        """Bring a node up to the newest version. Raises Stale if its path leads to something else now; NotAvailable,
        BadNode, BadObject."""
        announcement = self._backend.share(share_of(node.path))
        if announcement is None or node.version >= announcement.version:
            return
        path, slash, name = node.path.rpartition(b"/")
        if not slash:
            entry = self.top(announcement)
            still = node.adopt(entry, announcement.version, self.table.number_entry(entry))
        else:
            still = await self._is_in(path, name, node)
        if not still:
            raise Stale(f"{node.path!r} is something else now")

    async def _is_in(self, path: bytes, name: bytes, node: EntryNode) -> bool:
        known = self.table.at(path)
        parent = known if isinstance(known, DirectoryNode) else _unheard(0, path)
        listing = await self.listing(parent)
        # No await from here on: the listing is the one of the parent's version.
        position = listing.find(name)
        return position is not None and node.adopt(listing.entries[position], parent.version, listing.numbers[position])

    def changed(self, share: bytes, before: int, *, now: float) -> None:
        """A share is shown in another version from now on."""
        self._changes = {name: change for name, change in self._changes.items() if now < change[0] + GRACE}
        self._changes[share] = now, before

    def has_just_changed(self, node: EntryNode, *, now: float) -> bool:
        """Whether a node is of the version that was shown until a moment ago."""
        at, before = self._changes.get(share_of(node.path), (0.0, 0))
        return node.version >= before and now < at + GRACE

    # --- what is known without the network ---------------------------------------------------------------------------

    def top(self, announcement: Announcement) -> DirectoryEntry | FileEntry:
        """A share's root as the mount shows it: a mount of a share of one file is a directory that holds it."""
        entry = announcement.entry
        if self._settings.share is None or isinstance(entry, DirectoryEntry):
            return entry
        attributes = Attributes(_ROOT_MODE, entry.attributes.uid, entry.attributes.gid, entry.attributes.mtime_ns)
        return DirectoryEntry(entry.name, attributes, (entry,))

    def shown(self, node: EntryNode) -> tuple[Entry, int]:
        """The entry to show for a node and its version, without the network.

        The kernel does not look the root up again: a share's root shows the newest version at once.
        """
        if isinstance(node, DirectoryNode) and b"/" not in node.path:
            announcement = self._backend.share(node.path)
            if announcement and isinstance(top := self.top(announcement), DirectoryEntry):
                return top, announcement.version
        return node.entry, node.version

    def upcoming(self, path: bytes) -> Iterator[FileEntry | None]:
        """The files after this one, depth first in the order of the listings, as far as these are known.

        None for each step that leads to no file, so that the caller can bound the time of looking.
        """
        pending = self._rest_of_ancestors(path)
        while pending:
            entry = next(pending[-1][1], None)
            if entry is None:
                pending.pop()
            elif isinstance(entry, DirectoryEntry):
                below = pending[-1][0] + b"/" + entry.name
                pending.append((below, iter(self._known(below, entry))))
            yield entry if isinstance(entry, FileEntry) and entry.extent else None

    def _rest_of_ancestors(self, path: bytes) -> list[tuple[bytes, Iterator[Entry]]]:
        """For each directory above a path, outermost first, the entries after the one that leads to it."""
        found: list[tuple[bytes, Iterator[Entry]]] = []
        while b"/" in path:
            path, _, name = path.rpartition(b"/")
            node = self.table.at(path)
            if isinstance(node, DirectoryNode) and node.listing is not None:
                found.append((path, iter(node.listing.entries[node.listing.after(name) :])))
        return found[::-1]

    def _known(self, path: bytes, entry: DirectoryEntry) -> tuple[Entry, ...]:
        if isinstance(entry.content, tuple):
            return entry.content
        node = self.table.at(path)
        if isinstance(node, DirectoryNode) and node.listing is not None and node.entry.content == entry.content:
            return node.listing.entries
        return ()


class _Listed:
    """The directories whose listings are at hand, least recently used first. Those of inlined directories are not
    counted: their entries are part of the node's own."""

    def __init__(self) -> None:
        self._lengths: OrderedDict[DirectoryNode, int] = OrderedDict()
        self._total = 0

    def used(self, node: DirectoryNode) -> None:
        if node in self._lengths:
            self._lengths.move_to_end(node)

    def add(self, node: DirectoryNode, length: int) -> None:
        self._total += length - self._lengths.pop(node, 0)
        self._lengths[node] = length
        while self._total > MAX_LISTED and len(self._lengths) > 1:
            oldest, its_length = self._lengths.popitem(last=False)
            self._total -= its_length
            oldest.listing = None


def _root_node(share: bytes | None) -> SharesNode | DirectoryNode:
    if share is None:
        return SharesNode()
    return _unheard(ROOT, share)


def _unheard(number: int, path: bytes) -> DirectoryNode:
    """A directory that is of no version yet."""
    entry = DirectoryEntry(path.rpartition(b"/")[2], Attributes(_ROOT_MODE, 0, 0, 0), ())
    return DirectoryNode(number, path, entry, UNHEARD, number, lookups=1)


def _copy(source: DirectoryNode, target: DirectoryNode) -> None:
    """For a directory whose path was something else in between: the kernel has an old and a new node of it."""
    target.adopt(source.entry, source.version, source.slot)
    if target.listing is None and target.version == source.version:
        target.listing = source.listing
