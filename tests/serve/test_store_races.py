"""Names that are swapped while the server indexes and serves: at each single moment, and all the time.

What stands outside of the share is recognised by its inodes: no descriptor of one of them may ever be opened.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from mcfs.protocol.errors import Gone, UserError
from mcfs.protocol.ids import Node
from mcfs.serve.index import Index
from mcfs.serve.store import NodeStore
from tests.serve.tree import NOW, Reader, walk_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mcfs.protocol.ids import ObjectRef

BLOCK = 64 << 10
SMALL, LARGE = b"public" * 100, b"public" * 30_000
SECRET = b"secret" * 30_000
DEADLINE = 60.0
"""Seconds after which something has blocked."""


class Opened:
    """Every descriptor that os.open gives, by inode; and a look at each just before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inodes: set[tuple[int, int]] = set()
        self.kinds: set[int] = set()
        self.calls = 0
        self.before: Callable[[int, bytes], None] = lambda number, name: None
        original = os.open

        def spy(path: str | bytes, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if dir_fd is not None:
                self.calls += 1
                self.before(self.calls, os.fsencode(path))
            fd = original(path, flags, mode, dir_fd=dir_fd)
            status = os.fstat(fd)
            self.inodes.add((status.st_dev, status.st_ino))
            self.kinds.add(stat.S_IFMT(status.st_mode))
            return fd

        monkeypatch.setattr(os, "open", spy)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    return Opened(monkeypatch)


def make_share(share: Path) -> None:
    (share / "d" / "e").mkdir(parents=True)
    for directory in (share, share / "d", share / "d" / "e"):
        (directory / "file").write_bytes(LARGE)
        (directory / "small").write_bytes(SMALL)


def make_outside(outside: Path) -> set[tuple[int, int]]:
    """The same names with other content, and their inodes."""
    (outside / "e").mkdir(parents=True)
    for directory in (outside, outside / "e"):
        (directory / "file").write_bytes(SECRET)
        (directory / "small").write_bytes(SECRET[: len(SMALL)])
    return {(s.st_dev, s.st_ino) for s in (path.stat() for path in (outside, *outside.rglob("*")))}


def load_all(store: NodeStore, refs: list[ObjectRef]) -> None:
    """Every block is right, or gone."""
    for ref in refs:
        for index in range(ref.geometry.counts[0]):
            with suppress(Gone):
                assert b"secret" not in store.load(Node(ref, 0, index))


def objects_of(store: NodeStore, index: Index, share: Path) -> list[ObjectRef]:
    snapshot = index.scan(share, b"s", now_ms=NOW)
    store.replace([snapshot])
    files = walk_files(Reader(store), snapshot.entry)
    return [entry.extent.object for _, entry in files if entry.extent]


# --- at each single moment -------------------------------------------------------------------------------------------


def as_link(path: Path, outside: Path) -> None:
    target = outside if path.is_dir() else outside / path.name
    path.rename(path.with_name("aside"))
    path.symlink_to(target)


def as_pipe(path: Path, outside: Path) -> None:
    path.rename(path.with_name("aside"))
    os.mkfifo(path)


def as_device(path: Path, outside: Path) -> None:
    path.rename(path.with_name("aside"))
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))


def as_directory(path: Path, outside: Path) -> None:
    path.rename(path.with_name("aside"))
    path.mkdir()


SWAPS = [as_link, as_pipe, as_directory, *([as_device] if os.geteuid() == 0 else [])]


@pytest.mark.parametrize("swap", SWAPS, ids=lambda swap: swap.__name__)
@pytest.mark.parametrize("serving", [False, True], ids=["indexing", "serving"])
def test_a_swap_before_each_open(
    tmp_path: Path, opened: Opened, swap: Callable[[Path, Path], None], serving: bool
) -> None:
    """Between the look at a name and its open: each name of each open is swapped in a run of its own."""
    outside = tmp_path / "outside"
    secret = make_outside(outside)
    number = swapped = 0
    while True:
        number += 1
        share, state = tmp_path / f"share{number}", tmp_path / f"state{number}"
        make_share(share)
        with Index.open(state, block_size=BLOCK, threads=1) as index:
            store = NodeStore(index)
            refs = objects_of(store, index, share) if serving else []
            first = opened.calls
            done = threading.Event()

            def before(call: int, name: bytes) -> None:
                if call - first == number and name not in (b".", b".."):  # noqa: B023
                    for path in sorted(share.rglob(os.fsdecode(name))):  # noqa: B023
                        with suppress(FileNotFoundError):
                            swap(path, outside)
                            done.set()  # noqa: B023

            opened.before = before
            store.close()
            if serving:
                load_all(store, refs)
            else:
                with suppress(UserError):
                    refs = objects_of(store, index, share)
            opened.before = lambda call, name: None
            load_all(store, refs)
            store.close()
            last = opened.calls - first
        shutil.rmtree(share)
        swapped += done.is_set()
        if number > last:
            break
    assert swapped >= 4
    assert not opened.inodes & secret
    assert stat.S_IFLNK not in opened.kinds


# --- all the time ----------------------------------------------------------------------------------------------------


@contextmanager
def swapping(share: Path, outside: Path) -> Iterator[None]:
    """Another process's thread of work: everything is something else again and again."""
    stop = threading.Event()
    thread = threading.Thread(target=_swap, args=(share, outside, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(DEADLINE)
    assert not thread.is_alive()


def _swap(share: Path, outside: Path, stop: threading.Event) -> None:
    aside = share.parent / "aside"
    paths = [share / name for name in ("file", "small", "d", "d/e", "d/file", "d/e/small")]
    turn = 0
    while not stop.is_set():
        path = paths[turn % len(paths)]
        turn += 1
        if not path.exists():
            continue
        target = outside / "e" if path.is_dir() else outside / path.name
        path.rename(aside)
        for make in (_link_to(target), os.mkfifo, _listen, _zeros):
            with suppress(PermissionError):
                make(path)
                path.unlink()
        aside.rename(path)


def _link_to(target: Path) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))


def _zeros(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))


def test_swaps_all_the_time(tmp_path: Path, opened: Opened) -> None:
    share, outside = tmp_path / "share", tmp_path / "outside"
    make_share(share)
    secret = make_outside(outside)
    start = time.monotonic()
    with Index.open(tmp_path / "state", block_size=BLOCK, threads=4) as index:
        store = NodeStore(index)
        whole = objects_of(store, index, share)
        with swapping(share, outside):
            for _ in range(60):
                load_all(store, objects_of(store, index, share))
                load_all(store, whole)
                store.close()
        # Nothing has been lost by it: when all is quiet everything is there again.
        refs = objects_of(store, index, share)
        assert len(refs) == 6
        assert all(store.load(Node(ref, 0, 0)) for ref in refs)
        store.close()
    assert time.monotonic() - start < DEADLINE
    assert not opened.inodes & secret


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device"])
def test_what_blocks_whoever_opens_it_is_not_opened(tmp_path: Path, opened: Opened, kind: str) -> None:
    share = tmp_path / "share"
    make_share(share)
    if kind == "FIFO":
        os.mkfifo(share / "blocks")
    elif kind == "socket":
        _listen(share / "blocks")
    elif os.geteuid() == 0:
        os.mknod(share / "blocks", stat.S_IFCHR | 0o666, os.makedev(4, 0))  # a terminal
    else:
        (share / "blocks").symlink_to("/dev/tty")
    blocks = os.lstat(share / "blocks")
    with Index.open(tmp_path / "state", block_size=BLOCK, threads=2) as index:
        snapshot = index.scan(share, b"s", now_ms=NOW)
    assert snapshot.total_files == 6
    assert (blocks.st_dev, blocks.st_ino) not in opened.inodes
