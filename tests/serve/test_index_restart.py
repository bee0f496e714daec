"""What an index remembers, and how it copes with losing it."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

import pytest

from mcfs.protocol.errors import UserError
from mcfs.protocol.ids import Node
from mcfs.serve.index import Index, Order, ScanProgress
from mcfs.serve.store import NodeStore
from mcfs.serve.walk import TICK
from mcfs.serve.work import ATTEMPTS
from tests.serve.tree import Reader, source, walk_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK = 64 << 10
NOW = 1_700_000_000_000


@pytest.fixture
def files(share: Path) -> Path:
    """A share with packs, a file of several blocks and a sub-directory."""
    (share / "sub").mkdir()
    for i in range(20):
        (share / f"small{i}").write_text(f"{i}" * 1000)
        (share / "sub" / f"small{i}").write_text(f"{i}")
    (share / "large").write_bytes(os.urandom(10 * BLOCK))
    return share


def count(rows: str, state: Path) -> int:
    with sqlite3.connect(state / "state.sqlite") as connection:
        number: int = connection.execute(f"SELECT count(*) FROM {rows}").fetchone()[0]
    connection.close()
    return number


def check(index: Index, share: Path, now_ms: int = NOW) -> int:
    """Scan, compare with the disk, and return how many files were read."""
    before = index.statistics.files_read
    snapshot = index.scan(share, b"s", now_ms=now_ms)
    read = index.statistics.files_read - before
    store = NodeStore(index)
    store.replace([snapshot])
    assert Reader(store).tree(snapshot) == source(share)
    store.close()
    return read


def test_a_restart_reads_nothing(state: Path, files: Path) -> None:
    with Index.open(state) as index:
        assert check(index, files) == 41
        first = index.scan(files, b"s", now_ms=NOW)
    with Index.open(state) as index:
        assert index.scan(files, b"s", now_ms=NOW + 1) == first
        assert index.statistics.files_read == index.statistics.bytes_hashed == 0


def test_only_what_changed_is_read(state: Path, files: Path) -> None:
    with Index.open(state) as index:
        check(index, files)
        (files / "large").write_bytes(os.urandom(3 * BLOCK))
        assert check(index, files) == 1
        (files / "sub" / "small3").write_text("other")
        assert check(index, files) <= 20
        (files / "sub").rename(files / "moved")
        assert check(index, files) == 0
        (files / "large").unlink()
        assert check(index, files) == 0


def test_a_share_may_be_renamed_for_nothing(state: Path, files: Path) -> None:
    with Index.open(state) as index:
        check(index, files)
        index.scan(files, b"another name", now_ms=NOW)
        assert index.statistics.files_read == 41


def test_a_block_size_of_its_own(state: Path, files: Path) -> None:
    for block_size in (BLOCK, 1 << 20):
        with Index.open(state, block_size=block_size) as index:
            assert check(index, files) == 41
    with Index.open(state, block_size=1 << 20) as index:
        assert check(index, files) == 0
    with pytest.raises(UserError, match="power of two"):
        Index.open(state, block_size=100_000)


def test_rows_and_pages_do_not_pile_up(state: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcfs.serve.ledger.MAX_FORMER", 0)
    with Index.open(state, block_size=BLOCK) as index:
        store = NodeStore(index)
        for i in range(5):
            (files / "large").write_bytes(os.urandom((3 + i) * BLOCK))
            (files / f"large{i}").touch()
            (files / f"large{i - 1}").unlink(missing_ok=True)
            store.replace([index.scan(files, b"s", now_ms=NOW + i)])
        store.replace([index.scan(files, b"s", now_ms=NOW)])
        store.close()
    assert count("files WHERE name GLOB 'large*'", state) == 0  # names are blobs
    assert count("files WHERE CAST(name AS TEXT) GLOB 'large*'", state) == 1  # empty files need no row
    assert count("nodes WHERE level = 1", state) == 1
    assert count("nodes WHERE level = 0", state) == count("listings", state) == 1
    assert count("directories", state) == 2


def test_a_removed_directory_is_forgotten(state: Path, files: Path) -> None:
    with Index.open(state) as index:
        check(index, files)
        for file in (files / "sub").iterdir():
            file.unlink()
        (files / "sub").rmdir()
        check(index, files)
    assert count("directories", state) == 1
    assert count("files", state) == 21


def damage_all(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 1000)


def damage_middle(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 8192))


def damage_in_use(index: Index) -> None:
    """So that neither connection has anything left that is whole."""
    index._database.writer.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    path = index_state(index) / "state.sqlite"
    with path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(path.stat().st_size - 100))
    for connection in (index._database.writer, index._database.reader):
        connection.rows("PRAGMA cache_size = 0")
        connection.rows("PRAGMA shrink_memory")


def other_schema(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()


def foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE objects (id)")
    connection.close()


@pytest.mark.parametrize("damage", [damage_all, damage_middle, other_schema, foreign])
def test_a_damaged_database_is_made_anew(
    state: Path, files: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(damage)
    with Index.open(state) as index:
        check(index, files)
    damage(state / "state.sqlite")
    with Index.open(state) as index:
        assert check(index, files, NOW + 1) == 41
    (record,) = caplog.records
    assert "hashed anew" in record.message


def test_a_database_damaged_while_open(state: Path, files: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Index.open(state) as index:
        check(index, files)
    with Index.open(state) as index:
        damage_middle(state / "state.sqlite")
        assert check(index, files, NOW + 1) == 41
    assert len(caplog.records) == 1


def test_an_empty_database_is_no_damage(state: Path, files: Path) -> None:
    state.mkdir()
    (state / "state.sqlite").touch()
    with Index.open(state) as index:
        assert check(index, files) == 41


def test_what_a_crash_left_behind_is_removed(state: Path) -> None:
    with Index.open(state) as index:
        connection = index._database.writer
        connection.insert("INSERT INTO objects (id, size, block_size) VALUES (7, 1, 65536)")
        connection.insert("INSERT INTO nodes VALUES (7, 1, 0, x'00')")
    Index.open(state).close()
    assert count("objects", state) == count("nodes", state) == 0


def test_a_second_opener_is_refused(state: Path) -> None:
    with Index.open(state), pytest.raises(UserError, match="in use") as error:
        Index.open(state)
    assert error.value.exit_code == 1
    assert "\n" not in str(error.value)
    Index.open(state).close()


def test_the_state_directory_is_private(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o755)
    for name in ("there", "new/below"):
        Index.open(tmp_path / name).close()
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700


def test_a_state_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="exists"):
        Index.open(tmp_path / "file")


@pytest.mark.parametrize("size", [100, 3 * BLOCK])
def test_a_file_that_was_changed_a_moment_ago_is_hashed_once_more(index: Index, share: Path, size: int) -> None:
    """Its next change may leave the same times."""
    (share / "file").write_bytes(os.urandom(size))
    changed = os.lstat(share / "file").st_ctime_ns
    read = []
    for later in (0, 1, TICK - 1, TICK, 2 * TICK, -1):
        before = index.statistics.files_read
        index.run(Order(share, b"s", NOW, clock_ns=lambda at=changed + later: at))  # type: ignore[misc]
        read.append(index.statistics.files_read - before)
    assert read == [1, 1, 1, 1, 0, 0], "the last with a clock that was set back"


# --- files that change while they are hashed -------------------------------------------------------------------------


class Meddler:
    """Stands in for read_exactly, and changes a file each time when its first bytes are read."""

    def __init__(self, path: Path, changes: Iterator[bytes]) -> None:
        self._path = path
        self._changes = changes

    def __call__(self, fd: int, place: memoryview, at: int) -> None:
        content = next(self._changes, None) if at == 0 else None
        if content is not None and os.path.samestat(os.fstat(fd), self._path.stat()):
            with self._path.open("ab") as file:
                file.write(content)
        os.preadv(fd, [place], at)


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_file_that_changes_is_hashed_again(
    index: Index, share: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    (share / "file").write_bytes(bytes(size))
    monkeypatch.setattr("mcfs.serve.hashing.read_exactly", Meddler(share / "file", iter([b"x", b"y"])))
    assert check(index, share) == 3
    assert (share / "file").stat().st_size == size + 2


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_file_that_keeps_changing_is_left_out(
    index: Index, share: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    (share / "file").write_bytes(bytes(size))
    (share / "empty").touch()
    monkeypatch.setattr("mcfs.serve.hashing.read_exactly", Meddler(share / "file", iter([b"x"] * 1000)))
    snapshot = index.scan(share, b"s", now_ms=NOW)
    assert snapshot.total_files == 1
    assert len(snapshot.warnings) == 1
    assert "keeps changing" in snapshot.warnings[0]
    assert index.statistics.files_read == ATTEMPTS


def test_a_file_deleted_meanwhile_was_never_there(
    index: Index, share: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b", "c"):
        (share / name).write_text(name)

    monkeypatch.setattr("mcfs.serve.hashing.Meter.opened", lambda _: (share / "b").unlink(missing_ok=True))
    snapshot = index.scan(share, b"s", now_ms=NOW)
    assert (snapshot.total_files, snapshot.warnings) == (2, ())
    assert not caplog.records


# --- large files and long scans --------------------------------------------------------------------------------------

SPOOLED = 65 * 1024 * BLOCK
"""More pages than are held in memory."""


def test_pages_of_a_huge_file_are_spooled(index: Index, share: Path) -> None:
    (share / "huge").touch()
    os.truncate(share / "huge", SPOOLED)
    snapshot = index.scan(share, b"s", now_ms=NOW)
    store = NodeStore(index)
    store.replace([snapshot])
    ((_, entry),) = walk_files(Reader(store), snapshot.entry)
    assert entry.extent is not None
    reader = Reader(store)
    for index_ in (0, SPOOLED // BLOCK - 1):
        assert reader.node(Node(entry.extent.object, 0, index_)) == bytes(BLOCK)
    # A copy has the same object; the pages made for it are dropped.
    (share / "again").touch()
    os.truncate(share / "again", SPOOLED)
    index.scan(share, b"s", now_ms=NOW)
    assert count("nodes WHERE level > 0", index_state(index)) == 65 + 1


def index_state(index: Index) -> Path:
    return index._database._directory


def test_spooled_pages_of_a_file_that_changed_are_dropped(
    index: Index, share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (share / "huge").touch()
    os.truncate(share / "huge", SPOOLED)
    with (share / "huge").open("r+b") as file:
        file.write(b"some data")
    monkeypatch.setattr("mcfs.serve.relay.read_exactly", Meddler(share / "huge", iter([b"x"])))
    snapshot = index.scan(share, b"s", now_ms=NOW)
    assert (snapshot.total_bytes, snapshot.warnings) == (SPOOLED + 1, ())
    assert count("nodes WHERE level > 0", index_state(index)) == 66 + 1
    assert count("objects", index_state(index)) == 2


def test_a_large_file_can_be_abandoned(index: Index, share: Path) -> None:
    """Within what is being hashed, not at its end."""
    (share / "huge").touch()
    os.truncate(share / "huge", 1 << 43)

    def stop(progress: ScanProgress) -> None:
        if progress.bytes_hashed:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.scan(share, b"s", now_ms=NOW, progress=stop)
    assert 0 < index.statistics.bytes_hashed < 1 << 40


def test_a_long_scan_commits_on_its_way(
    index: Index, files: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcfs.serve.scan._COMMIT_FILES", 1)
    committed = []
    index.scan(files, b"s", now_ms=NOW, progress=lambda _: committed.append(count("files", state)))
    assert committed[-1] == 20


def test_on_a_full_disk_the_index_goes_on_in_memory(
    index: Index, files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert check(index, files) == 41
    for i in range(500):
        (files / f"more{i}").write_text("x")
    index._database.writer.rows("PRAGMA max_page_count = 1")  # no page more than there are
    assert check(index, files) < 2 * 520, "what was known is still known"
    (files / "new").write_text("new")
    check(index, files)
    assert caplog.text.count("kept in memory") == 1
    assert caplog.text.count("disk is full") == 1


def test_what_memory_has_taken_over_is_lost_at_the_end(state: Path, files: Path) -> None:
    with Index.open(state) as index:
        check(index, files)
        index._database.writer.rows("PRAGMA query_only = ON")
        (files / "new").write_bytes(os.urandom(2 * BLOCK))
        check(index, files)
        assert index._database.in_memory
    with Index.open(state) as index:
        assert check(index, files) == 1
        assert not index._database.in_memory


def test_a_damaged_database_is_made_anew_while_it_is_used(
    index: Index, files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check(index, files)
    damage_in_use(index)
    check(index, files)
    assert caplog.text.count("is damaged") == 1


def test_versions_do_not_go_back_when_the_database_is_lost_and_the_clock_set_back(index: Index, files: Path) -> None:
    version = index.scan(files, b"s", now_ms=NOW).version
    damage_in_use(index)
    (files / "new").write_text("new")
    assert index.scan(files, b"s", now_ms=NOW - 1000).version > version


def test_a_state_directory_without_a_database_file(tmp_path: Path) -> None:
    (tmp_path / "state" / "state.sqlite").mkdir(parents=True)
    with pytest.raises(UserError, match="unable to open"):
        Index.open(tmp_path / "state")
    # The lock is free again.
    (tmp_path / "state" / "state.sqlite").rmdir()
    Index.open(tmp_path / "state").close()
