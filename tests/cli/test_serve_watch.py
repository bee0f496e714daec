"""What changes while the server runs is indexed again and announced, or stays as it was."""
# ruff: noqa: ASYNC110, ASYNC240 - real files, and conditions that tell nobody when they become true

from __future__ import annotations

import contextlib
import os
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import pytest
import trio

from mcfs.cli import serve_watch
from mcfs.cli.serve_watch import Breather, Reindexing, Stopped
from mcfs.protocol.errors import Gone
from mcfs.protocol.ids import Node
from mcfs.serve.index import Index
from mcfs.serve.store import NodeStore
from tests.serve.test_index_restart import damage_in_use
from tests.serve.tree import Reader, source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

    from mcfs.net.server import Server
    from mcfs.protocol.announce import Announcement
    from mcfs.protocol.keys import ShareKeys
    from mcfs.serve.index import Snapshot

BLOCK = 64 << 10
DEADLINE = 30.0


class FakeServer:
    """Keeps what is announced."""

    def __init__(self) -> None:
        self.sent_at = float("-inf")
        self.sends_all = True
        self.announced: list[dict[bytes, Announcement]] = []
        self.listener = trio.Event()

    def publish(self, announcements: Mapping[bytes, Announcement], keys: Mapping[bytes, ShareKeys]) -> None:
        self.announced.append(dict(announcements))
        self.listener.set()


class Site:
    """A share that is served to nobody."""

    def __init__(self, shares: Reindexing, server: FakeServer, store: NodeStore, first: list[Snapshot]) -> None:
        self.shares = shares
        self.server = server
        self.store = store
        self.first = first

    @property
    def snapshot(self) -> Snapshot:
        snapshot = self.shares.shares[0].snapshot
        assert snapshot is not None
        return snapshot

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(DEADLINE):
            while not condition():
                await trio.sleep(0.01)

    async def published(self, number: int = 1) -> Snapshot:
        await self.until(lambda: len(self.server.announced) >= number)
        return self.snapshot


@pytest.fixture
def share(tmp_path: Path) -> Path:
    share = tmp_path / "share"
    (share / "sub").mkdir(parents=True)
    (share / "sub" / "file").write_bytes(os.urandom(3 * BLOCK))
    (share / "small").write_text("small")
    return share


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index.open(tmp_path / "state", block_size=BLOCK) as index:
        yield index


@asynccontextmanager
async def serving(index: Index, share: Path, *, watch: bool = True) -> AsyncIterator[Site]:
    store = NodeStore(index)
    shares = Reindexing([(share, b"s")], index, store, {}, watch=watch)
    first = shares.index_first()
    server = FakeServer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shares.run, cast("Server", server))
        yield Site(shares, server, store, first)
        shares.stop()
        nursery.cancel_scope.cancel()
    store.close()


async def test_a_change_is_published(index: Index, share: Path) -> None:
    async with serving(index, share) as site:
        (share / "sub" / "new").write_text("new")
        snapshot = await site.published()
        assert snapshot.version > site.first[0].version
        assert site.server.announced[0][b"s"].version == snapshot.version
        assert Reader(site.store).tree(snapshot) == source(share)
        (share / "sub" / "new").unlink()
        snapshot = await site.published(2)
        assert Reader(site.store).tree(snapshot) == source(share)


async def test_what_changes_between_the_first_look_and_the_start_is_published(index: Index, share: Path) -> None:
    store = NodeStore(index)
    shares = Reindexing([(share, b"s")], index, store, {}, watch=True)
    shares.index_first()
    (share / "sub" / "new").write_text("new")
    server = FakeServer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shares.run, cast("Server", server))
        with trio.fail_after(DEADLINE):
            await server.listener.wait()
        nursery.cancel_scope.cancel()
    store.close()


async def test_without_watching_only_when_told(index: Index, share: Path) -> None:
    async with serving(index, share, watch=False) as site:
        (share / "new").write_text("new")
        await trio.sleep(1.5)
        assert site.server.announced == []
        site.shares.look()
        assert Reader(site.store).tree(await site.published()) == source(share)


async def test_a_look_that_finds_nothing_announces_nothing(index: Index, share: Path) -> None:
    async with serving(index, share) as site:
        before = index.statistics.files_read
        os.utime(share / "small", ns=(5, (share / "small").stat().st_mtime_ns))
        site.shares.look()
        await site.until(lambda: index.statistics.files_read > before)  # its change time is another one
        (share / "sub").chmod(0o700)
        await site.published()
        assert len(site.server.announced) == 1


async def test_a_file_that_cannot_be_read_is_left_out_and_said_once(
    index: Index, share: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.open

    def denied(path: object, *arguments: object, **words: object) -> int:
        if path == b"secret":
            raise PermissionError(13, "Permission denied")
        return int(original(path, *arguments, **words))  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", denied)
    async with serving(index, share) as site:
        for number in range(3):
            (share / "secret").write_bytes(os.urandom(2 * BLOCK + number))
            (share / f"other{number}").touch()
            await site.published(number + 1)
    lines = [record.getMessage() for record in caplog.records if "secret" in record.getMessage()]
    assert len(lines) == 1
    assert "Permission denied" in lines[0]


async def test_a_share_that_vanishes_stays_as_it_was_until_it_is_back(
    index: Index, share: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcfs.serve.changes.RETRY", 0.2)
    async with serving(index, share) as site:
        share.rename(tmp_path / "away")
        await site.until(lambda: "stays as it was" in caplog.text)
        await trio.sleep(1.0)
        assert caplog.text.count("stays as it was") == 1
        assert site.server.announced == []
        assert Reader(site.store).tree(site.first[0]) == source(tmp_path / "away")
        share.mkdir()
        (share / "file").write_text("another")
        snapshot = await site.published()
        assert Reader(site.store).tree(snapshot) == source(share)


async def test_what_nobody_told_of_is_found_when_it_is_asked_for(index: Index, share: Path, tmp_path: Path) -> None:
    """Written through a hard link from outside, which inotify does not tell."""
    os.link(share / "sub" / "file", tmp_path / "outside")
    async with serving(index, share) as site:
        (tmp_path / "outside").write_bytes(os.urandom(3 * BLOCK))
        await trio.sleep(1.5)
        assert site.server.announced == []
        ref = next(content.object for content in site.store.contents() if content.object.size == 3 * BLOCK)
        with pytest.raises(Gone, match="sub/file"):
            await trio.to_thread.run_sync(site.store.load, Node(ref, 0, 0))
        snapshot = await site.published()
        assert Reader(site.store).tree(snapshot) == source(share)


async def test_where_not_all_can_be_watched_it_looks_now_and_then(
    index: Index, share: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mcfs.net.watch.INotify.add_watch", full)
    monkeypatch.setattr(serve_watch, "POLL_INTERVAL", 0.3)
    async with serving(index, share) as site:
        assert caplog.text.count("looking for changes every") == 1
        assert "sysctl -w fs.inotify.max_user_watches=" in caplog.text
        (share / "new").write_text("new")
        assert Reader(site.store).tree(await site.published()) == source(share)


async def test_without_inotify_it_looks_now_and_then(
    index: Index, share: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("mcfs.net.watch.INotify.__init__", full)
    monkeypatch.setattr(serve_watch, "POLL_INTERVAL", 0.3)
    async with serving(index, share) as site:
        assert caplog.text.count("looking for changes every") == 1
        assert "Too many open files" in caplog.text
        (share / "new").write_text("new")
        assert Reader(site.store).tree(await site.published()) == source(share)


async def test_stopping_does_not_wait_for_what_is_being_hashed(
    index: Index, share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = threading.Event()

    def slowly(self: Breather) -> None:
        reading.set()
        if self.stopped:
            raise Stopped
        time.sleep(0.1)

    monkeypatch.setattr(Breather, "__call__", slowly)
    async with serving(index, share) as site:
        with (share / "large").open("wb") as file:
            file.truncate(400 * (256 << 10))
            file.seek(0)
            file.write(os.urandom(1 << 20))
        site.shares.look()
        await site.until(reading.is_set)
        start = time.monotonic()
    assert time.monotonic() - start < 5.0
    assert site.server.announced == []


async def test_a_state_directory_that_cannot_be_written(
    index: Index, share: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The index goes on in memory, and says so once. (A full file system is in tests/netlab.)"""
    async with serving(index, share) as site:
        index._database.writer._sqlite.execute("PRAGMA query_only = ON")
        for number in range(3):
            (share / f"new{number}").write_bytes(os.urandom(2 * BLOCK))
            snapshot = await site.published(number + 1)
            assert Reader(site.store).tree(snapshot) == source(share)
    assert caplog.text.count("kept in memory") == 1


@pytest.mark.parametrize("watch", [True, False])
async def test_files_that_nobody_reads_any_more_are_closed(
    index: Index, share: Path, monkeypatch: pytest.MonkeyPatch, watch: bool
) -> None:
    monkeypatch.setattr(serve_watch, "UNUSED", 0.1)
    async with serving(index, share, watch=watch) as site:
        ref = next(content.object for content in site.store.contents() if content.object.size == 3 * BLOCK)
        await trio.to_thread.run_sync(site.store.load, Node(ref, 0, 0))
        (share / "sub" / "file").unlink()
        await site.until(lambda: not any("file (deleted)" in link for link in open_files()))


def open_files() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            yield os.readlink(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize("watch", [True, False])
async def test_all_shares_are_indexed_again_when_one_has_met_a_damaged_database(
    index: Index, share: Path, tmp_path: Path, watch: bool
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_bytes(os.urandom(2 * BLOCK))
    store = NodeStore(index)
    shares = Reindexing([(share, b"s"), (other, b"other")], index, store, {}, watch=watch)
    shares.index_first()
    server = FakeServer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shares.run, cast("Server", server))
        damage_in_use(index)
        shares.shares[0].changes.everything(now=time.monotonic(), at_once=True)
        shares._wake.set()
        with trio.fail_after(DEADLINE):
            while not any(b"other" in each for each in server.announced):
                await trio.sleep(0.01)
        snapshot = shares.shares[1].snapshot
        assert snapshot is not None
        assert Reader(store).tree(snapshot) == source(other)
        shares.stop()
        nursery.cancel_scope.cancel()
    store.close()


def test_a_breath_is_as_long_as_the_work() -> None:
    now, slept, sent = [100.0], [0.0], [100.0]

    def sleep(seconds: float) -> None:
        slept[0] += seconds
        now[0] += seconds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mcfs.cli.serve_watch.time.sleep", sleep)
        breather = Breather(lambda: sent[0], clock=lambda: now[0])
        for _ in range(1000):
            breather()
            now[0] += 0.0005
            sent[0] = now[0]
        assert 0.4 < slept[0] < 0.6
        slept[0], sent[0] = 0.0, 0.0
        for _ in range(1000):
            breather()
            now[0] += 0.0005
        assert slept[0] == 0.0
        breather.stopped = True
        with pytest.raises(Stopped):
            breather()
