"""Whoever may write to a share must not be able to publish what lies outside it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from mcfs.protocol.errors import Gone
from mcfs.protocol.ids import Node
from mcfs.serve.lookup import Lookup
from tests.serve.tree import NOW, object_at, publish

if TYPE_CHECKING:
    from pathlib import Path

    from mcfs.serve.index import Index
    from mcfs.serve.store import NodeStore

BLOCK = 64 << 10


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Inodes of all regular files that were opened beneath a share."""
    inodes: list[int] = []
    original = os.fstat

    def fstat(fd: int) -> os.stat_result:
        status = original(fd)
        inodes.append(status.st_ino)
        return status

    monkeypatch.setattr("mcfs.serve.beneath.os.fstat", fstat)
    return inodes


@pytest.mark.parametrize("size", [1000, 3 * BLOCK])
def test_a_directory_swapped_for_a_link_is_not_entered(
    index: Index, store: NodeStore, share: Path, tmp_path: Path, opened: list[int], size: int
) -> None:
    """Even the very same content outside is not read: it is not ours to publish."""
    (share / "d" / "e").mkdir(parents=True)
    (share / "d" / "e" / "file").write_bytes(os.urandom(size))
    snapshot = publish(index, store, share)
    ref = object_at(store, snapshot, b"d/e/file")
    (share / "d").rename(tmp_path / "outside")
    (share / "d").symlink_to(tmp_path / "outside")
    opened.clear()
    store.close()
    with pytest.raises(Gone):
        store.load(Node(ref, 0, 0))
    assert index.scan(share, b"s", now_ms=NOW).total_files == 0
    assert (tmp_path / "outside" / "e" / "file").stat().st_ino not in opened


@pytest.mark.parametrize("size", [1000, 3 * BLOCK])
def test_a_file_swapped_for_a_link_is_not_read(
    index: Index, store: NodeStore, share: Path, tmp_path: Path, opened: list[int], size: int
) -> None:
    (share / "file").write_bytes(os.urandom(size))
    snapshot = publish(index, store, share)
    ref = object_at(store, snapshot, b"file")
    store.close()
    (share / "file").rename(tmp_path / "outside")
    (share / "file").symlink_to(tmp_path / "outside")
    opened.clear()
    with pytest.raises(Gone):
        store.load(Node(ref, 0, 0))
    assert (tmp_path / "outside").stat().st_ino not in opened


def test_swapping_while_scanning(index: Index, share: Path, tmp_path: Path, opened: list[int]) -> None:
    """Between the walk and the hashing a directory becomes a link."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("secret")
    for i in range(30):
        (share / f"d{i:02}").mkdir()
        (share / f"d{i:02}" / "file").write_text("public")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for i in range(30):
                (share / f"d{i:02}").rename(tmp_path / "aside")
                (share / f"d{i:02}").symlink_to(tmp_path / "outside")
                (share / f"d{i:02}").unlink()
                (tmp_path / "aside").rename(share / f"d{i:02}")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for i in range(20):
            (share / "d00-new").write_text(f"{i}")
            index.scan(share, b"s", now_ms=NOW)
    finally:
        stop.set()
        thread.join()
    assert (tmp_path / "outside" / "file").stat().st_ino not in opened


def test_groups_of_nobody_cost_a_look_into_a_table(
    index: Index, store: NodeStore, share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever joins groups at random makes nobody read the database, nor remember anything."""
    for i in range(100):
        (share / f"file{i}").write_bytes(os.urandom(2 * BLOCK))
    publish(index, store, share)

    def read(*_: object) -> None:
        raise AssertionError("the database was asked")

    monkeypatch.setattr(Lookup, "ref", read)
    monkeypatch.setattr(Lookup, "row", read)
    for _ in range(10_000):
        assert store.resolve(b"\xff\x15" + os.urandom(14)) is None
    assert store._ref.cache_info().currsize == store._addresser.cache_info().currsize == 0
