"""Reading a directory: the listing is fixed at opendir, so offsets mean the same until releasedir.

Offset 0 is ".", 1 is "..", and offset 2 + i is entry i.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyfuse3 import ROOT_INODE, readdir_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyfuse3 import EntryAttributes, ReaddirToken

    from mcfs.fuse.attributes import AttributeWriter
    from mcfs.fuse.inodes import DirectoryNode, EntryNode, InodeTable, Listing
    from mcfs.fuse.tree import Tree


@dataclass(frozen=True, slots=True)
class OpenDirectory:
    """What one opendir saw."""

    itself: EntryAttributes
    parent: EntryAttributes
    listing: Listing
    path: bytes
    """b"" for the root of all shares."""
    versions: Callable[[int], int]
    """The version of the entry at a position."""

    def node(self, table: InodeTable, position: int) -> EntryNode:
        entry = self.listing.entries[position]
        path = self.path + b"/" + entry.name if self.path else entry.name
        return table.child(path, entry, self.versions(position), self.listing.numbers[position])


class DirectoryReader:
    """Answers readdir with attributes (READDIRPLUS): `ls -l` then needs no further requests."""

    def __init__(self, table: InodeTable, attributes: AttributeWriter, tree: Tree) -> None:
        self._table = table
        self._attributes = attributes
        self._tree = tree
        # One for all entries: the reply copies it at once, and there may be 100,000.
        self._scratch = attributes.blank()

    def reply(self, directory: OpenDirectory, start: int, token: ReaddirToken) -> None:
        """Add entries until the kernel's buffer is full. Each one added counts as a lookup, but for "." and ".."."""
        if start <= 0 and not readdir_reply(token, b".", directory.itself, 1):
            return
        if start <= 1 and not readdir_reply(token, b"..", directory.parent, 2):
            return
        for position in range(max(start - 2, 0), len(directory.listing.entries)):
            if self._tree.is_hidden(directory.listing.entries[position]):
                continue
            node = directory.node(self._table, position)
            self._attributes.write(self._scratch, node.number, self._tree.shown(node)[0])
            if not readdir_reply(token, node.entry.name, self._scratch, position + 3):
                return
            self._table.looked_up(node)


def parent_number(table: InodeTable, node: DirectoryNode) -> int:
    """The number shown for ".."; the root's own for the root, where the kernel puts what is outside of the mount."""
    parent = table.at(node.path.rpartition(b"/")[0])
    return parent.number if parent else ROOT_INODE
