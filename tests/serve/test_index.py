"""What a scan makes of a tree."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from mcfs.protocol.catalog import DirectoryEntry, FileEntry, LinkEntry
from mcfs.protocol.errors import UserError
from mcfs.protocol.ids import ObjectRef
from mcfs.serve.index import Index, Order, ScanProgress, Snapshot
from mcfs.serve.scan import MAX_WARNINGS
from mcfs.serve.store import NodeStore
from tests.serve.tree import Reader, source, walk_files

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 64 << 10
NOW = 1_700_000_000_000


def read(index: Index, snapshot: Snapshot) -> Reader:
    store = NodeStore(index)
    store.replace([snapshot])
    return Reader(store)


def assert_same(index: Index, share: Path) -> Snapshot:
    """Scan, read everything back through groups, and compare with the disk."""
    snapshot = index.scan(share, b"s", now_ms=NOW)
    tree = read(index, snapshot).tree(snapshot)
    expected = source(share)
    assert tree.keys() == expected.keys()
    assert tree == expected
    files = [about[-1] for about in expected.values() if about[0] == "file"]
    assert snapshot.total_files == len(files)
    assert snapshot.total_bytes == sum(len(content) for content in files if isinstance(content, bytes))
    return snapshot


def test_empty_directory(index: Index, share: Path) -> None:
    snapshot = assert_same(index, share)
    assert isinstance(snapshot.entry, DirectoryEntry)
    assert isinstance(snapshot.entry.content, ObjectRef)
    assert snapshot.entry.name == snapshot.name == b"s"


def test_names_are_bytes(index: Index, share: Path) -> None:
    for name in (b"new\nline", b"\xff\xfe invalid", b" ", b"-rf", "\u00fcml\u00e4ut".encode(), b"x" * 255):
        (share / os.fsdecode(name)).write_bytes(name)
        (share / os.fsdecode(b"d" + name[:250])).mkdir()
    assert_same(index, share)


def test_links_are_entries_and_are_not_followed(index: Index, share: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (share / "dangling").symlink_to("nowhere")
    (share / "absolute").symlink_to("/etc/passwd")
    (share / "out").symlink_to(tmp_path / "outside")
    (share / "loop").symlink_to(".")
    snapshot = assert_same(index, share)
    entries = read(index, snapshot).entries(snapshot.entry.content)  # type: ignore[union-attr]
    assert all(isinstance(entry, LinkEntry) for entry in entries)


def test_special_files_are_left_out_with_a_warning(
    index: Index, share: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(share / "fifo")
    monkeypatch.chdir(share)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("socket")
        (share / "file").write_text("x")
        snapshot = assert_same(index, share)
    assert sorted(line.rpartition("/")[2] for line in snapshot.warnings) == [
        "fifo': FIFO left out",
        "socket': socket left out",
    ]
    assert len(caplog.records) == 2


def test_warnings_are_bounded(index: Index, share: Path) -> None:
    for i in range(MAX_WARNINGS + 20):
        os.mkfifo(share / f"fifo{i}")
    warnings = index.scan(share, b"s", now_ms=NOW).warnings
    assert len(warnings) == MAX_WARNINGS + 1
    assert warnings[-1] == "20 more left out"


def test_a_name_cannot_write_to_the_terminal(index: Index, share: Path) -> None:
    os.mkfifo(share / "\x1b[2J")
    (warning,) = index.scan(share, b"s", now_ms=NOW).warnings
    assert "\x1b" not in warning


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_files_and_directories_are_left_out(index: Index, share: Path) -> None:
    for name in ("a", "b", "c"):
        (share / name).write_text(name)
    (share / "b").chmod(0)
    (share / "large").write_bytes(bytes(100_000))
    (share / "large").chmod(0)
    (share / "closed").mkdir(mode=0)
    snapshot = index.scan(share, b"s", now_ms=NOW)
    names = [name for name, _ in walk_files(read(index, snapshot), snapshot.entry)]
    assert names == [b"a", b"c"]
    assert len(snapshot.warnings) == 3


def test_files_that_cannot_be_opened_are_left_out(
    index: Index, share: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As above, also for root."""
    for name in ("a", "b", "c", "denied1", "denied2"):
        (share / name).write_text(name)
    (share / "denied-large").write_bytes(os.urandom(100_000))
    monkeypatch.setattr("mcfs.serve.beneath.open_regular", _deny)
    snapshot = index.scan(share, b"s", now_ms=NOW)
    monkeypatch.undo()
    assert [name for name, _ in walk_files(read(index, snapshot), snapshot.entry)] == [b"a", b"b", b"c"]
    assert len(caplog.records) == len(snapshot.warnings) == 3
    # Another scan tries again.
    assert_same(index, share)


def _deny(name: bytes, directory: int) -> int:
    if name.startswith(b"denied"):
        raise PermissionError(13, "Permission denied")
    return os.open(name, os.O_RDONLY, dir_fd=directory)


def test_hard_links_are_two_entries(index: Index, share: Path) -> None:
    (share / "one").write_bytes(os.urandom(200_000))
    (share / "two").hardlink_to(share / "one")
    assert assert_same(index, share).total_files == 2


def test_set_user_id_is_dropped(index: Index, share: Path) -> None:
    (share / "su").write_text("x")
    (share / "su").chmod(0o6755)
    snapshot = index.scan(share, b"s", now_ms=NOW)
    ((_, entry),) = walk_files(read(index, snapshot), snapshot.entry)
    assert entry.attributes.mode == 0o755


def test_sizes_around_packs_and_blocks(index: Index, share: Path) -> None:
    for size in (0, 1, 65535, 65536, 65537, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1, 1025 * BLOCK + 5):
        (share / f"{size}").write_bytes(blake3(b"%d" % size).digest(length=size))
    assert_same(index, share)


@pytest.mark.parametrize("size", [17 << 20, (40 << 20) + 3])
def test_a_large_file_takes_several_threads(index: Index, share: Path, size: int) -> None:
    content = os.urandom(size)
    (share / "large").write_bytes(content)
    snapshot = assert_same(index, share)
    ((_, entry),) = walk_files(read(index, snapshot), snapshot.entry)
    assert entry.b3sum == blake3(content).digest()


def test_a_sparse_file(index: Index, share: Path) -> None:
    with (share / "sparse").open("wb") as file:
        file.truncate((100 << 20) + 77)
        for at in (0, (20 << 20) - 3, 50 << 20, (80 << 20) + 12345):
            file.seek(at)
            file.write(os.urandom(5000))
    (share / "hole").touch()
    os.truncate(share / "hole", 70 << 20)
    assert_same(index, share)


def test_one_regular_file(index: Index, tmp_path: Path) -> None:
    for content in (b"", b"small", os.urandom(300_000)):
        path = tmp_path / "one"
        path.write_bytes(content)
        (tmp_path / "neighbour").write_text("is not shared")
        snapshot = index.scan(path, b"s", now_ms=NOW)
        assert isinstance(snapshot.entry, FileEntry)
        assert snapshot.entry.name == b"s"
        assert read(index, snapshot).content(snapshot.entry.extent) == content
        assert (snapshot.total_files, snapshot.total_bytes) == (1, len(content))


def test_the_path_may_itself_be_a_link(index: Index, share: Path, tmp_path: Path) -> None:
    (share / "file").write_text("x")
    (tmp_path / "link").symlink_to(share)
    assert index.scan(tmp_path / "link", b"s", now_ms=NOW).total_files == 1


def test_what_cannot_be_shared(index: Index, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="No such file"):
        index.scan(tmp_path / "nothing", b"s", now_ms=NOW)
    with pytest.raises(UserError, match="neither"):
        index.scan(tmp_path / "fifo", b"s", now_ms=NOW)


def test_a_very_deep_tree(index: Index, share: Path) -> None:
    """Paths longer than PATH_MAX, more levels than descriptors or than Python recurses."""
    depth = 3000
    fd = os.open(share, os.O_RDONLY)
    for i in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        file = os.open(f"{i}", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        os.write(file, b"%d" % i)
        os.close(file)
        os.close(fd)
        fd = below
    os.close(fd)
    snapshot = index.scan(share, b"s", now_ms=NOW)
    assert snapshot.total_files == depth
    reader = read(index, snapshot)
    content: object = snapshot.entry.content  # type: ignore[union-attr]
    for i in range(depth):
        file_entry, directory = reader.entries(content)  # type: ignore[arg-type]
        assert isinstance(directory, DirectoryEntry)
        assert isinstance(file_entry, FileEntry)
        content = directory.content
        if i % 500 == 0:
            assert reader.content(file_entry.extent) == b"%d" % i
    _remove_deep(share, depth)


def _remove_deep(share: Path, depth: int) -> None:
    """pytest's own clean-up would recurse."""
    for _ in range(depth):
        inner = share / "inner"
        (share / "d").rename(inner)
        for entry in list(inner.iterdir()):
            if entry.name != "d":
                entry.unlink()
        if (inner / "d").exists():
            (inner / "d").rename(share / "d")
        inner.rmdir()


def test_a_large_directory_is_split(index: Index, share: Path) -> None:
    for i in range(5000):
        (share / f"file-{i:05}-with-a-longer-name").touch()
    snapshot = index.scan(share, b"s", now_ms=NOW)
    reader = read(index, snapshot)
    assert len(reader.entries(snapshot.entry.content)) == 5000  # type: ignore[union-attr]
    assert 4 <= len(reader.listings) <= 30
    before = reader.listings
    (share / "file-02500-with-a-longer-name-too").touch()
    snapshot = index.scan(share, b"s", now_ms=NOW + 1)
    reader = read(index, snapshot)
    assert len(reader.entries(snapshot.entry.content)) == 5001  # type: ignore[union-attr]
    # The list of parts, and the part with the new name.
    assert len(before - reader.listings) == 2


def test_small_directories_are_inlined(index: Index, share: Path) -> None:
    for i in range(20):
        (share / f"d{i}" / "sub").mkdir(parents=True)
        (share / f"d{i}" / "sub" / "file").write_text(f"{i}")
    snapshot = index.scan(share, b"s", now_ms=NOW)
    reader = read(index, snapshot)
    assert len(list(walk_files(reader, snapshot.entry))) == 20
    assert len(reader.listings) == 1


def packs_of(index: Index, snapshot: Snapshot) -> set[ObjectRef]:
    files = walk_files(read(index, snapshot), snapshot.entry)
    return {entry.extent.object for _, entry in files if entry.extent}


def test_one_more_file_changes_one_pack(tmp_path: Path, share: Path) -> None:
    for i in range(3000):
        (share / f"{i:05}").write_bytes(blake3(b"%d" % i).digest(length=i))
    with Index.open(tmp_path / "state") as index:
        before = packs_of(index, index.scan(share, b"s", now_ms=NOW))
        assert 5 <= len(before) <= 40
        assert all(pack.geometry.counts == (1,) for pack in before)
        for i in range(0, 3000, 300):
            read_before = index.statistics.bytes_hashed
            (share / f"{i:05}-new").write_bytes(os.urandom(1000))
            after = packs_of(index, index.scan(share, b"s", now_ms=NOW + i))
            assert len(before - after) <= 1
            assert len(after - before) <= 2
            assert index.statistics.bytes_hashed - read_before <= 1 << 20
            before = after


def test_the_version_grows_with_the_content(index: Index, share: Path) -> None:
    first = index.scan(share, b"s", now_ms=NOW)
    assert first.version == NOW
    assert index.scan(share, b"s", now_ms=NOW + 5).version == NOW
    (share / "new").touch()
    assert index.scan(share, b"s", now_ms=NOW - 1000).version == NOW + 1
    (share / "new").chmod(0o600)
    assert index.scan(share, b"s", now_ms=NOW + 10).version == NOW + 10
    assert index.scan(share, b"other", now_ms=NOW + 11).version == NOW + 11


def test_owners_have_names(index: Index, share: Path) -> None:
    owners = index.scan(share, b"s", now_ms=NOW).owners
    assert os.getuid() in owners.users
    if os.geteuid() == 0:
        (share / "nobody-has-this-number").touch()
        os.chown(share / "nobody-has-this-number", 3_999_999_999, 3_999_999_998)
        assert index.scan(share, b"s", now_ms=NOW).owners.users.keys() == owners.users.keys()


def test_progress_may_stop_a_scan(index: Index, share: Path) -> None:
    (share / "done").mkdir()
    (share / "done" / "file").write_bytes(os.urandom(100_000))

    def stop(progress: ScanProgress) -> None:
        if progress.files:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.scan(share, b"s", now_ms=NOW, progress=stop)
    read_so_far = index.statistics.files_read
    assert read_so_far == 1
    assert_same(index, share)
    assert index.statistics.files_read == read_so_far


def test_progress_grows(index: Index, share: Path) -> None:
    for i in range(5):
        (share / f"d{i}").mkdir()
        (share / f"d{i}" / "file").write_bytes(os.urandom(100_000))
    seen: list[ScanProgress] = []
    index.scan(share, b"s", now_ms=NOW, progress=seen.append)
    assert seen[-1] == ScanProgress(5, 500_000, 500_000)
    assert seen == sorted(seen, key=lambda progress: progress.files)


def test_the_state_directory_is_not_shared(share: Path, caplog: pytest.LogCaptureFixture) -> None:
    (share / "file").write_text("x")
    observed = []
    with Index.open(share / "a" / "state") as index:
        order = Order(share, b"s", NOW, observe=lambda fd, path: observed.append(path))
        snapshot = index.run(order)
        assert set(read(index, snapshot).tree(snapshot)) == {b"", b"a", b"file"}
        assert observed == [b"", b"a"], "its changes would be told, and looked at, and change it"
        with pytest.raises(UserError, match="state directory"):
            index.scan(share / "a" / "state", b"t", now_ms=NOW)
    assert "state directory of this server" in caplog.text
