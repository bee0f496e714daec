"""The inodes that the kernel refers to, and their numbers.

A *path* here is the share's name and the names below it, joined by "/": b"share/dir/file".

- A file node stands for one content at one path. The kernel's page cache belongs to the inode, so other content at the
  same path is another node with another number; only attributes may change. The same holds for links.
- A directory node stands for a path in whatever version the share has; see `tree`.
- Numbers are never reused for something else. A directory's entries get their numbers when its listing is first used,
  rising in the order of the listing, with room for inlined subdirectories in depth-first order: cp sorts by inode
  number, so it reads in that order, which is the order of the blocks.
- A node lives while its lookup count is not zero, so the table is bounded by what the kernel remembers.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, TypeAlias

from mcfs.fuse.errnos import Stale
from mcfs.protocol.catalog import DirectoryEntry, Entry, FileEntry, LinkEntry, walk_inlined

ROOT: Final = 1
"""The number that FUSE gives to the root of a mount."""

_name: Final = attrgetter("name")


class Listing:
    """The entries of a directory, sorted by name, and the inode number reserved for each."""

    __slots__ = ("end", "entries", "numbers")

    def __init__(self, entries: tuple[Entry, ...], first: int) -> None:
        self.entries = entries
        self.numbers = array("Q")
        for entry in entries:
            self.numbers.append(first)
            first += room(entry)
        self.end = first
        """The first number after those of the listing."""

    def find(self, name: bytes) -> int | None:
        """The position of an entry."""
        position = bisect_left(self.entries, name, key=_name)
        if position < len(self.entries) and self.entries[position].name == name:
            return position
        return None

    def after(self, name: bytes) -> int:
        """The position of the first entry whose name is greater."""
        return bisect_right(self.entries, name, key=_name)


def room(entry: Entry) -> int:
    """How many numbers an entry needs: its own and those of the entries inlined in it."""
    if isinstance(entry, DirectoryEntry) and isinstance(entry.content, tuple):
        return 1 + sum(1 for _ in walk_inlined(entry.content))
    return 1


@dataclass(slots=True, eq=False)
class SharesNode:
    """The root of a mount that shows all shares."""

    number: int = ROOT
    lookups: int = 1


@dataclass(slots=True, eq=False)
class DirectoryNode:
    number: int
    path: bytes
    entry: DirectoryEntry
    version: int
    """The version of the share that `entry` is from."""
    slot: int
    """The number reserved for `entry` in its parent's listing; those of inlined entries follow it."""
    listing: Listing | None = None
    """What `entry.content` lists, once it was asked for."""
    lookups: int = 0

    def adopt(self, entry: Entry, version: int, slot: int) -> bool:
        """Whether the node stands for an entry; if the entry is not older, the node takes it over.

        Content that did not change keeps its listing and so its numbers.
        """
        if not isinstance(entry, DirectoryEntry):
            return False
        if version >= self.version:
            if entry.content != self.entry.content:
                self.listing = None
                self.slot = slot
            self.entry, self.version = entry, version
        return True


@dataclass(slots=True, eq=False)
class FileNode:
    number: int
    path: bytes
    entry: FileEntry
    version: int
    lookups: int = 0

    def adopt(self, entry: Entry, version: int, slot: int) -> bool:
        """Whether the node stands for an entry; if the entry is not older, the node takes over its attributes."""
        if not isinstance(entry, FileEntry) or (entry is not self.entry and entry.extent != self.entry.extent):
            return False
        if version >= self.version:
            self.entry, self.version = entry, version
        return True


@dataclass(slots=True, eq=False)
class LinkNode:
    number: int
    path: bytes
    entry: LinkEntry
    version: int
    lookups: int = 0

    def adopt(self, entry: Entry, version: int, slot: int) -> bool:
        """Whether the node stands for an entry; if the entry is not older, the node takes over its attributes."""
        if not isinstance(entry, LinkEntry) or entry.target != self.entry.target:
            return False
        if version >= self.version:
            self.entry, self.version = entry, version
        return True


EntryNode: TypeAlias = DirectoryNode | FileNode | LinkNode
Node: TypeAlias = SharesNode | EntryNode


class InodeTable:
    """The nodes that the kernel knows, by number and by path."""

    def __init__(self, root: SharesNode | DirectoryNode) -> None:
        self.root = root
        self._by_number: dict[int, Node] = {root.number: root}
        self._by_path: dict[bytes, EntryNode] = {}
        if isinstance(root, DirectoryNode):
            self._by_path[root.path] = root
        self._next = ROOT + 1

    def __len__(self) -> int:
        return len(self._by_number)

    def of_share(self, share: bytes) -> list[EntryNode]:
        """The nodes of a share."""
        below = share + b"/"
        nodes = (node for node in self._by_number.values() if not isinstance(node, SharesNode))
        return [node for node in nodes if node.path == share or node.path.startswith(below)]

    def get(self, number: int) -> Node:
        """Raises Stale."""
        node = self._by_number.get(number)
        if node is None:
            raise Stale(f"inode {number}")
        return node

    def at(self, path: bytes) -> EntryNode | None:
        """The newest node of a path."""
        return self._by_path.get(path)

    def number_listing(self, entries: tuple[Entry, ...]) -> Listing:
        """Reserve numbers for the entries of a directory."""
        listing = Listing(entries, self._next)
        self._next = listing.end
        return listing

    def number_entry(self, entry: Entry) -> int:
        """Reserve the numbers that one entry needs."""
        first = self._next
        self._next += room(entry)
        return first

    def child(self, path: bytes, entry: Entry, version: int, slot: int) -> EntryNode:
        """The node that stands for an entry: one that the kernel knows, or a new one that is not in the table yet.

        It joins the table by `looked_up`, so what is only passed through leaves nothing behind.
        """
        # The second look finds the node of an older listing that is still open while the path has newer content.
        for node in (self._by_path.get(path), self._by_number.get(slot)):
            if node is not None and not isinstance(node, SharesNode) and node.adopt(entry, version, slot):
                return node
        return _new_node(path, entry, version, slot)

    def looked_up(self, node: EntryNode) -> None:
        """Count one reference that the kernel now has."""
        node.lookups += 1
        if node.lookups == 1 and node.number != ROOT:
            self._by_number[node.number] = node
            newest = self._by_path.get(node.path)
            if newest is None or newest.version <= node.version:
                self._by_path[node.path] = node

    def forget(self, number: int, lookups: int) -> None:
        """Drop references of the kernel; the last one ends the node."""
        node = self._by_number.get(number)
        if node is None or number == ROOT or isinstance(node, SharesNode):
            return
        node.lookups -= lookups
        if node.lookups <= 0:
            del self._by_number[number]
            if self._by_path.get(node.path) is node:
                del self._by_path[node.path]


def _new_node(path: bytes, entry: Entry, version: int, slot: int) -> EntryNode:
    if isinstance(entry, FileEntry):
        return FileNode(slot, path, entry, version)
    if isinstance(entry, LinkEntry):
        return LinkNode(slot, path, entry, version)
    return DirectoryNode(slot, path, entry, version, slot)
