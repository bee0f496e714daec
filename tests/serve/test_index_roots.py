"""A share whose path leads to another directory from time to time, as a link to the newest release does."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from mcfs.protocol.errors import Gone
from mcfs.protocol.ids import Node
from mcfs.serve.index import Index
from mcfs.serve.store import NodeStore
from tests.serve.tree import NOW, Reader, object_at, publish, source

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 64 << 10
KEPT = os.urandom(3 * BLOCK)


class Releases:
    """Directories beside each other, and a link to one of them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.current = directory / "current"

    def __getitem__(self, number: int) -> Path:
        return self._directory / f"release-{number}"

    def make(self, number: int) -> None:
        """With files of its own, and one that all have."""
        (self[number] / "d").mkdir(parents=True)
        (self[number] / "d" / "kept").write_bytes(KEPT)
        (self[number] / "large").write_bytes(os.urandom(3 * BLOCK))
        (self[number] / "small").write_bytes(os.urandom(1000))
        self.switch(number)

    def switch(self, number: int) -> None:
        (self._directory / "new").symlink_to(self[number])
        (self._directory / "new").rename(self.current)


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path)


def count(index: Index, table: str) -> int:
    return int(index.reader.rows(f"SELECT count(*) FROM {table}")[0][0])


def test_who_reads_the_release_before_can_go_on(index: Index, store: NodeStore, releases: Releases) -> None:
    releases.make(1)
    old = publish(index, store, releases.current)
    content = {path: about for path, about in source(releases[1]).items() if about[0] == "file"}
    releases.make(2)
    publish(index, store, releases.current)
    tree = Reader(store).tree(old)
    assert {path: about for path, about in tree.items() if about[0] == "file"} == content
    ref = object_at(store, old, b"large")
    os.truncate(releases[1] / "large", 2 * BLOCK)
    assert len(store.load(Node(ref, 0, 1))) == BLOCK
    with pytest.raises(Gone):
        store.load(Node(ref, 0, 2))


def test_releases_that_were_deleted_do_not_stand_in_the_way(index: Index, store: NodeStore, releases: Releases) -> None:
    """All of them had the same file, and it is there still."""
    for number in range(8):
        releases.make(number)
        snapshot = publish(index, store, releases.current)
        shutil.rmtree(releases[number - 1], ignore_errors=True)
        assert Reader(store).tree(snapshot) == source(releases[number])


def test_copies_under_a_share_that_is_no_longer_served_do_not_either(state: Path, share: Path, tmp_path: Path) -> None:
    for number in range(8):
        (share / f"copy{number}").write_bytes(KEPT)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "kept").write_bytes(KEPT)
    with Index.open(state, block_size=BLOCK) as index:
        index.scan(share, b"before", now_ms=NOW)
    with Index.open(state, block_size=BLOCK) as index, closing(NodeStore(index)) as store:
        snapshot = publish(index, store, tmp_path / "other")
        assert Reader(store).tree(snapshot) == source(tmp_path / "other")


def test_no_more_than_two_releases_are_remembered(index: Index, store: NodeStore, releases: Releases) -> None:
    sizes = []
    for number in range(6):
        releases.make(number)
        publish(index, store, releases.current)
        sizes.append([count(index, table) for table in ("roots", "directories", "files", "objects", "nodes")])
        descriptors = len(os.listdir("/proc/self/fd"))
        sizes[-1].append(descriptors)
    assert sizes[1] == sizes[-1]


def test_a_way_back_costs_nothing(index: Index, store: NodeStore, releases: Releases) -> None:
    for number in (1, 2):
        releases.make(number)
        publish(index, store, releases.current)
    read = index.statistics.files_read
    for number in (1, 2, 1):
        releases.switch(number)
        snapshot = publish(index, store, releases.current)
        assert Reader(store).tree(snapshot) == source(releases[number])
    assert index.statistics.files_read == read


def test_a_directory_that_another_share_has_is_not_forgotten(
    index: Index, store: NodeStore, releases: Releases
) -> None:
    releases.make(0)
    other = index.scan(releases[0], b"other", now_ms=NOW)
    for number in range(4):
        if number:
            releases.make(number)
        store.replace([index.scan(releases.current, b"s", now_ms=NOW), other])
    assert Reader(store).tree(other) == source(releases[0])
