"""A new version of a file takes from the cache what is there, in whatever object and place; the rest is fetched."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mcfs.fetch import nodes
from mcfs.fetch.cache import Cache
from mcfs.fetch.fetcher import Fetcher, Limits
from mcfs.fetch.fetchevents import Assembled
from mcfs.fetch.leafindex import LeafIndex
from mcfs.fetch.nodes import Load, NodeTree, Ready, Store
from mcfs.protocol import addressing, merkle, wire
from mcfs.protocol.errors import BadNode
from mcfs.protocol.ids import MIN_BLOCK_SIZE, Digest, Host, Node, ObjectRef

from .cachefakes import FaultyDisk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mcfs.protocol.ids import Group

BLOCK = MIN_BLOCK_SIZE
SERVER = Host(b"s" * 16)
SCOPE = addressing.SITE_LOCAL
SHARE = b"share"


class Published:
    """An object of which the server has all nodes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.ref, leaves = merkle.object_of(data, BLOCK)
        self._levels = merkle.tree_levels(leaves)

    def nodes(self) -> Iterator[Node]:
        for level, count in enumerate(self.ref.geometry.counts):
            yield from (Node(self.ref, level, index) for index in range(count))

    def bytes(self, node: Node) -> bytes:
        if node.level == 0:
            return self.data[node.index * BLOCK :][: node.size]
        return self._levels[node.level - 1][node.index * 1024 * 32 :][: node.size]


class Reader:
    """A client's cores over a cache on disk; the server answers every join at once."""

    def __init__(self, path: Path, disk: FaultyDisk | None = None) -> None:
        self.cache = Cache.open(path, max_bytes=1 << 30, min_free=0, disk=disk)
        self.leaves = LeafIndex()
        for digest, node in self.cache.leaves():
            self.leaves.add_older(digest, node)
        self.fetcher = Fetcher(Limits(timeout=5.0))
        self.tree = NodeTree(
            self.fetcher, self.cache, SCOPE, is_down=lambda _: False, pace=lambda _: 0, leaves=self.leaves
        )
        self.now = 0.0
        self.sent: list[Node] = []
        self.copied = 0
        self._groups: dict[Group, tuple[Published, Node]] = {}

    def read(self, published: Published, indexes: range | None = None) -> bytes:
        addresser = addressing.addresser_of(published.ref, None)
        for node in published.nodes():
            self._groups[addressing.node_group(node, 0, addresser, SCOPE)] = published, node
        chosen = indexes or range(published.ref.geometry.counts[0])
        blocks = [Node(published.ref, 0, index) for index in chosen]
        data = b"".join(self._block(node) for node in blocks)
        self._step(blocks[-1])  # what is still to be written
        return data

    def _block(self, node: Node) -> bytes:
        data = self.tree.request(node, SHARE, urgent=True, now=self.now)
        for _ in range(1000):
            if data is not None:
                return bytes(data)
            data = self._step(node)
        raise AssertionError("it does not come")

    def _step(self, wanted: Node) -> merkle.Buffer | None:
        self.now += 0.1
        changes = self.fetcher.changes(now=self.now)
        for group in changes.joins if changes else ():
            published, node = self._groups[group]
            self.sent.append(node)
            self.fetcher.receive(group, SERVER, frame(published.bytes(node)), now=self.now)
        for event in self.fetcher.events():
            assert isinstance(event, Assembled)
            self.tree.assembled(event, now=self.now)
        for load in self.tree.loads():
            self.tree.loaded(load, self._load(load), now=self.now)
        for store in self.tree.stores():
            self._store(store)
            self.tree.stored(store)
        found = None
        for outcome in self.tree.events():
            assert isinstance(outcome, Ready)
            found = outcome.data if outcome.node == wanted else found
        return found

    def _load(self, load: Load) -> merkle.Buffer | None:
        data = self.cache.load(load.source)
        try:
            if data is not None:
                merkle.verify_node(load.node, data, load.digest)
        except BadNode:
            return None
        return data

    def _store(self, store: Store) -> None:
        source = store.source
        if source is not None and self.cache.copy_block(
            source.object, source.index, store.node.object, store.node.index
        ):
            self.copied += 1
        elif store.hole:
            assert self.cache.store_hole(store.node)
        else:
            assert self.cache.store(store.node, store.data)

    def blocks_sent(self) -> list[int]:
        return [node.index for node in self.sent if node.level == 0]


def frame(data: bytes) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    size = min(1424, -(-len(data) // 8) * 8)
    count = -(-len(data) // size)
    symbols = np.frombuffer(data.ljust(count * size, b"\0"), np.uint8).reshape(count, size)
    return wire.frame(len(data), np.arange(count, dtype=np.uint32), symbols)


def random_bytes(blocks: float, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(int(blocks * BLOCK))


def replaced(data: bytes, *indexes: int) -> bytes:
    changed = bytearray(data)
    for index in indexes:
        changed[index * BLOCK + 7] ^= 1
    return bytes(changed)


OLD = random_bytes(20.5)


def read_both(path: Path, new: bytes, *, again: bool) -> Reader:
    """The old version, then the new one: by the same client, or by one that finds the old one in the cache."""
    reader = Reader(path)
    assert reader.read(Published(OLD)) == OLD
    if again:
        reader.cache.close()
        reader = Reader(path)
    reader.sent.clear()
    published = Published(new)
    reader.tree.expect_known(published.ref)
    assert reader.read(published) == new
    assert [node for node in reader.sent if node.level] == [Node(published.ref, 1, 0)]
    return reader


@pytest.mark.parametrize("again", [False, True])
def test_only_what_has_changed_is_fetched(tmp_path: Path, again: bool) -> None:
    reader = read_both(tmp_path, replaced(OLD, 0, 7, 19), again=again)
    assert reader.blocks_sent() == [0, 7, 19]
    assert reader.copied == 18
    reader.cache.close()
    reader = Reader(tmp_path)
    assert reader.read(Published(replaced(OLD, 0, 7, 19))) == replaced(OLD, 0, 7, 19)
    assert reader.sent == []
    reader.cache.close()


def test_pages_are_kept_also_where_the_disk_is_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "MAX_UNWRITTEN", 0)
    reader = Reader(tmp_path)
    published = Published(OLD)
    assert reader.read(published) == OLD
    assert not reader.cache.has(Node(published.ref, 0, 3))
    assert reader.cache.has(Node(published.ref, 1, 0))
    reader.cache.close()


@pytest.mark.parametrize("again", [False, True])
def test_after_an_insertion_at_a_block_boundary(tmp_path: Path, again: bool) -> None:
    new = OLD[: 3 * BLOCK] + random_bytes(2, seed=2) + OLD[3 * BLOCK :]
    reader = read_both(tmp_path, new, again=again)
    assert reader.blocks_sent() == [3, 4]
    reader.cache.close()


def test_of_another_file_and_of_the_same_one(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    assert reader.read(Published(OLD)) == OLD
    reader.sent.clear()
    mixed = random_bytes(1, seed=3) + OLD[4 * BLOCK : 6 * BLOCK] + random_bytes(1, seed=3)
    published = Published(mixed)
    reader.tree.expect_known(published.ref)
    assert reader.read(published) == mixed
    assert reader.blocks_sent() == [0]
    reader.cache.close()


def test_a_file_that_grows_beyond_one_block(tmp_path: Path) -> None:
    small, large = OLD[:BLOCK], OLD[: 2 * BLOCK]
    reader = Reader(tmp_path)
    reader.read(Published(small))
    reader.cache.close()
    reader = Reader(tmp_path)
    reader.tree.expect_known(Published(large).ref)
    assert reader.read(Published(large)) == large
    assert reader.blocks_sent() == [1]
    reader.cache.close()


def test_a_file_never_seen_is_asked_for_beside_its_page(tmp_path: Path) -> None:
    """It would take a round trip more otherwise."""
    reader = Reader(tmp_path)
    published = Published(OLD)
    reader.read(published, range(1))
    assert reader.sent == [Node(published.ref, 1, 0), Node(published.ref, 0, 0)]
    reader.cache.close()


def test_a_block_that_was_damaged_in_the_cache_is_fetched(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    reader.read(Published(OLD))
    reader.cache.close()
    (path,) = [path for path in tmp_path.glob("objects/*/*") if path.stat().st_size > 20 * BLOCK]
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - len(OLD) + 5 * BLOCK)
        file.write(b"damaged")
    reader = Reader(tmp_path)
    new = replaced(OLD, 1)
    reader.tree.expect_known(Published(new).ref)
    assert reader.read(Published(new)) == new
    assert sorted(reader.blocks_sent()) == [1, 5]
    reader.cache.close()


def test_a_block_that_is_gone_is_fetched(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    old, new = Published(OLD), Published(replaced(OLD, 1))
    reader.read(old)
    reader.cache.drop(Node(old.ref, 0, 4))
    reader.sent.clear()
    reader.tree.expect_known(new.ref)
    assert reader.read(new) == new.data
    assert reader.blocks_sent() == [1, 4]
    reader.cache.close()


def test_what_cannot_be_copied_is_written(tmp_path: Path) -> None:
    def before(name: str) -> None:
        if name == "copy":
            raise OSError(5, "a bad spot")

    reader = Reader(tmp_path, FaultyDisk(before))
    reader.read(Published(OLD), range(3))
    new = Published(replaced(OLD, 1))
    reader.tree.expect_known(new.ref)
    assert reader.read(new, range(1)) == new.data[:BLOCK]
    assert reader.copied == 0
    reader.cache.close()


def test_only_so_many_new_versions_are_known(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    for number in range(2000):
        reader.tree.expect_known(ObjectRef(5 * BLOCK, BLOCK, Digest(number.to_bytes(32, "big"))))
    assert len(reader.tree._versions) == 1024
    reader.cache.close()
