"""A share read back, as a client would: from the top entry down, every node checked against its parent page."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, TypeAlias

from blake3 import blake3

from mcfs.protocol.addressing import addresser_of, node_group
from mcfs.protocol.catalog import DirectoryEntry, Entry, Extent, FileEntry, LinkEntry, decode_listing_untrusted
from mcfs.protocol.ids import DIGEST_SIZE, FAN_OUT, Node, ObjectRef, node_under
from mcfs.protocol.merkle import child_hash, verify_node
from mcfs.protocol.seal import NodeSeal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mcfs.protocol.keys import ShareKeys
    from mcfs.serve.channel import Channel
    from mcfs.serve.index import Index, Snapshot
    from mcfs.serve.store import NodeStore

About: TypeAlias = tuple[object, ...]
NOW = 1_700_000_000_000
Tree: TypeAlias = dict[bytes, About]
"""Path -> (kind, permissions, mtime, content or target)."""


class Reader:
    """Reads objects through groups, as if every datagram arrived."""

    def __init__(self, store: NodeStore, scope: int = 5, keys: ShareKeys | None = None) -> None:
        self._store = store
        self._scope = scope
        self._keys = keys
        self.channels: set[Channel] = set()
        self.objects: dict[ObjectRef, bytes] = {}
        self.listings: set[ObjectRef] = set()

    def tree(self, snapshot: Snapshot) -> Tree:
        return dict(self._entry(b"", snapshot.entry))

    def content(self, extent: Extent | None) -> bytes:
        if extent is None:
            return b""
        return self.object(extent.object)[extent.offset : extent.offset + extent.length]

    def object(self, ref: ObjectRef) -> bytes:
        """All bytes of an object."""
        if ref not in self.objects:
            self.objects[ref] = b"".join(bytes(self.node(Node(ref, 0, i))) for i in range(ref.geometry.counts[0]))
        return self.objects[ref]

    def entries(self, content: ObjectRef | tuple[Entry, ...]) -> tuple[Entry, ...]:
        if isinstance(content, tuple):
            return content
        self.listings.add(content)
        listing = decode_listing_untrusted(self.object(content))
        parts = [self.entries(part) for part in listing.parts]
        return listing.entries + tuple(entry for part in parts for entry in part)

    def node(self, node: Node) -> bytes | bytearray:
        """Ask for a node by its group and check it."""
        pace = node.index % 8
        channel = self._store.resolve(node_group(node, pace, addresser_of(node.object, self._keys), self._scope))
        assert channel is not None
        assert channel.node == node_under(self._keys, node.object, node.level, node.index)
        assert channel.pace == pace
        self.channels.add(channel)
        data = self._store.load(channel.node)
        assert len(data) == channel.node.length
        parent = node.parent()
        expected = child_hash(self._page(parent), node.index) if parent else node.object.top
        if self._keys is not None:
            data = NodeSeal(self._keys, node).open_untrusted(data, expected)
        verify_node(node, data, expected)
        return data

    def _page(self, node: Node) -> bytes | bytearray:
        page = self.node(node)
        assert len(page) <= DIGEST_SIZE * FAN_OUT
        return page

    def _entry(self, path: bytes, entry: Entry) -> Iterator[tuple[bytes, About]]:
        about = (entry.attributes.mode, entry.attributes.mtime_ns)
        if isinstance(entry, LinkEntry):
            yield path, ("link", about[1], entry.target)
        elif isinstance(entry, FileEntry):
            content = self.content(entry.extent)
            assert blake3(content).digest() == entry.b3sum
            yield path, ("file", *about, content)
        else:
            yield path, ("directory", *about)
            for child in self.entries(entry.content):
                yield from self._entry(os.path.join(path, child.name), child)


def source(top: Path) -> Tree:
    """What a Reader should find: the tree as it is on disk."""
    root = os.fsencode(top)
    tree: Tree = {b"": _about(root)}
    for where, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(where, name)
            if stat.S_IFMT(os.lstat(path).st_mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                tree[os.path.relpath(path, root)] = _about(path)
    return tree


def _about(path: bytes) -> About:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return "link", status.st_mtime_ns, os.readlink(path)
    about = (status.st_mode & 0o777, status.st_mtime_ns)
    if stat.S_ISDIR(status.st_mode):
        return "directory", *about
    with open(path, "rb") as file:
        return "file", *about, file.read()


def walk_files(reader: Reader, entry: Entry, path: bytes = b"") -> Iterator[tuple[bytes, FileEntry]]:
    """Path and entry of every file below an entry."""
    if isinstance(entry, FileEntry):
        yield path, entry
    elif isinstance(entry, DirectoryEntry):
        for child in reader.entries(entry.content):
            yield from walk_files(reader, child, os.path.join(path, child.name))


def publish(index: Index, store: NodeStore, share: Path, name: bytes = b"s") -> Snapshot:
    snapshot = index.scan(share, name, now_ms=NOW)
    store.replace([snapshot])
    return snapshot


def object_at(store: NodeStore, snapshot: Snapshot, path: bytes) -> ObjectRef:
    entry = dict(walk_files(Reader(store), snapshot.entry))[path]
    assert entry.extent is not None
    return entry.extent.object
