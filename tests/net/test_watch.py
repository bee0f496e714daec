"""What inotify tells of a tree, as notes for the next look."""

from __future__ import annotations

import logging
import os
import resource
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mcfs.net import watch as watch_module
from mcfs.net.watch import Watch, file_system, is_remote, replaceable
from mcfs.serve.changes import EVERYTHING, QUIET, Changes, Touched
from mcfs.serve.index import Index, Order

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1_700_000_000_000


class Watched:
    """A share that is watched, and indexed when it is told to."""

    def __init__(self, index: Index, path: Path) -> None:
        self.path = path
        self.changes = Changes(now=0.0)
        self.watch = Watch(self.changes, path)
        self._index = index
        self._now = 0.0

    def look(self, touched: Touched = EVERYTHING) -> None:
        self.watch.begin()
        self._index.run(Order(self.path, b"s", NOW, touched, observe=self.watch.observe))
        self.watch.finish(touched)

    def touched(self) -> Touched | None:
        """What was told since the last time."""
        self._now += 100.0
        self.watch.read(now=self._now)
        touched = self.changes.take(now=self._now + QUIET)
        assert self.changes.next_timeout() is None
        return touched

    def follow(self) -> Touched:
        """Look where something was touched."""
        touched = self.touched()
        assert touched is not None
        self.look(touched)
        return touched


@pytest.fixture
def share(tmp_path: Path) -> Path:
    share = tmp_path / "share"
    (share / "a" / "b").mkdir(parents=True)
    (share / "a" / "file").write_text("file")
    return share


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index.open(tmp_path / "state") as index:
        yield index


@pytest.fixture
def watched(index: Index, share: Path) -> Iterator[Watched]:
    watched = Watched(index, share)
    watched.look()
    assert watched.touched() is None
    yield watched
    watched.watch.close()


def directories(touched: Touched | None) -> set[bytes]:
    assert touched is not None
    assert not touched.everything
    return set(touched.directories)


def test_files(watched: Watched) -> None:
    file = watched.path / "a" / "file"
    with file.open("a") as stream:
        stream.write("more")
    assert watched.touched() == Touched(directories=frozenset({b"a"}))
    file.chmod(0o600)
    assert watched.touched() == Touched(directories=frozenset({b"a"}))
    os.truncate(file, 1)
    assert watched.touched() == Touched(directories=frozenset({b"a"}))
    file.rename(watched.path / "other")
    assert watched.touched() == Touched(directories=frozenset({b"a", b""}))
    (watched.path / "other").unlink()
    assert watched.touched() == Touched(directories=frozenset({b""}))
    (watched.path / "link").symlink_to("nowhere")
    assert watched.touched() == Touched(directories=frozenset({b""}))


def test_reading_touches_nothing(watched: Watched) -> None:
    (watched.path / "a" / "file").read_bytes()
    list((watched.path / "a").iterdir())
    watched.look()
    assert watched.touched() is None


def test_names_are_bytes(watched: Watched) -> None:
    name = os.fsdecode(b"\xff\xfe\n")
    (watched.path / name).mkdir()
    assert watched.follow().trees == {b"\xff\xfe\n"}
    (watched.path / name / name).touch()
    assert directories(watched.touched()) == {b"\xff\xfe\n"}


def test_new_directories_are_watched_once_they_were_looked_at(watched: Watched) -> None:
    new = watched.path / "a" / "new" / "sub"
    new.mkdir(parents=True)
    touched = watched.follow()
    assert touched == Touched(directories=frozenset({b"a"}), trees=frozenset({b"a/new"}))
    (new / "file").touch()
    assert directories(watched.touched()) == {b"a/new/sub"}


def test_what_comes_between_the_watch_and_the_look_is_told(watched: Watched, index: Index) -> None:
    def observe(fd: int, path: bytes) -> None:
        watched.watch.observe(fd, path)
        if path == b"a/new":
            os.mkdir("made-meanwhile", dir_fd=fd)

    (watched.path / "a" / "new").mkdir()
    touched = watched.touched()
    assert touched is not None
    watched.watch.begin()
    index.run(Order(watched.path, b"s", NOW, touched, observe=observe))
    watched.watch.finish(touched)
    again = watched.touched()
    assert again is not None
    assert again.trees == {b"a/new/made-meanwhile"}


def test_a_directory_that_moved_is_watched_at_its_new_place(watched: Watched) -> None:
    (watched.path / "a").rename(watched.path / "c")
    assert watched.follow().trees == {b"a", b"c"}
    (watched.path / "c" / "b" / "file").touch()
    assert directories(watched.touched()) == {b"c/b"}
    assert len(watched.watch) == 3


def test_directories_that_change_places(watched: Watched) -> None:
    (watched.path / "c").mkdir()
    watched.follow()
    (watched.path / "a").rename(watched.path / "aside")
    (watched.path / "c").rename(watched.path / "a")
    (watched.path / "aside").rename(watched.path / "c")
    watched.follow()
    (watched.path / "a" / "one").touch()
    assert directories(watched.touched()) == {b"a"}
    (watched.path / "c" / "b" / "two").touch()
    assert directories(watched.touched()) == {b"c/b"}


def test_a_directory_that_left_is_watched_no_more(watched: Watched, tmp_path: Path) -> None:
    (watched.path / "a").rename(tmp_path / "outside")
    watched.follow()
    assert len(watched.watch) == 1
    (tmp_path / "outside" / "b" / "file").touch()
    assert watched.touched() is None


def test_a_directory_that_was_deleted_is_forgotten(watched: Watched) -> None:
    shutil.rmtree(watched.path / "a")
    watched.follow()
    assert len(watched.watch) == 1


def test_more_than_the_queue_holds_is_everything(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    seen = []
    monkeypatch.setattr(watched.changes, "everything", lambda *, now: seen.append(now))
    for turn in (1.0, 2.0, 3.0):
        for number in range(limit + 10):
            (watched.path / "a" / f"x{number % 2}").touch()
        for _ in range(limit):
            watched.watch.read(now=turn)
    assert seen == [1.0, 2.0, 3.0]
    assert caplog.text.count("lost count") == 1, "it may do so all the time"


def test_the_share_itself_is_replaced(watched: Watched, tmp_path: Path) -> None:
    watched.path.rename(tmp_path / "before")
    watched.path.mkdir()
    (watched.path / "file").touch()
    touched = watched.touched()
    assert touched is not None
    assert touched.everything
    watched.look(touched)
    assert len(watched.watch) == 1
    (watched.path / "file").write_text("x")
    assert directories(watched.touched()) == {b""}
    (tmp_path / "before" / "a" / "file").touch()
    assert watched.touched() is None


def test_a_link_to_the_share_is_changed(index: Index, share: Path, tmp_path: Path) -> None:
    shutil.copytree(share, tmp_path / "elsewhere" / "next")
    link = tmp_path / "current"
    link.symlink_to(share)
    watched = Watched(index, link)
    watched.look()
    (tmp_path / "new").symlink_to(tmp_path / "elsewhere" / "next")
    (tmp_path / "new").rename(link)
    touched = watched.touched()
    assert touched is not None
    assert touched.everything
    watched.look(touched)
    (tmp_path / "elsewhere" / "next" / "a" / "file").write_text("changed")
    assert directories(watched.touched()) == {b"a"}
    watched.watch.close()


def test_links_on_the_way(index: Index, share: Path, tmp_path: Path) -> None:
    """current/a, where current leads to stable, which leads to the share; each is made to lead elsewhere."""
    shutil.copytree(share, tmp_path / "elsewhere" / "next")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "stable").symlink_to("../share")
    (tmp_path / "current").symlink_to(tmp_path / "links" / "stable")
    watched = Watched(index, tmp_path / "current" / "a")
    watched.look()
    for link, target in (("links/stable", "../elsewhere/next"), ("current", str(share)), ("current", "elsewhere/next")):
        (tmp_path / "new").symlink_to(target)
        (tmp_path / "new").rename(tmp_path / link)
        touched = watched.touched()
        assert touched is not None
        assert touched.everything
        watched.look(touched)
        (watched.path / "file").write_text(link)
        assert directories(watched.touched()) == {b""}
    shutil.rmtree(tmp_path / "links")
    assert watched.touched() is None, "the way leads there no more"
    watched.watch.close()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("real/sub", ["real/sub"]),
        ("link", ["link", "real"]),
        ("up/sub", ["up", "link", "real/sub"]),
        ("link/missing/sub", ["link", "real/missing/sub"]),
    ],
)
def test_what_may_be_replaced(tmp_path: Path, path: str, expected: list[str]) -> None:
    top = tmp_path.resolve()
    (top / "real" / "sub").mkdir(parents=True)
    (top / "link").symlink_to(top / "real")
    (top / "up").symlink_to("./real/../link")
    assert list(replaceable(os.fsencode(top / path))) == [os.fsencode(top / each) for each in expected]


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert {os.fsencode(tmp_path / name) for name in "ab"} < set(replaceable(os.fsencode(tmp_path / "a")))


def test_a_single_file(index: Index, share: Path) -> None:
    watched = Watched(index, share / "a" / "file")
    watched.look()
    (share / "a" / "other").touch()
    (share / "a" / "sub").mkdir()
    assert watched.touched() is None
    (share / "a" / "file").write_text("changed")
    assert directories(watched.touched()) == {b""}
    (share / "a" / "other").rename(share / "a" / "file")
    assert watched.touched() is not None
    watched.look()
    (share / "a" / "file").write_text("changed")
    assert directories(watched.touched()) == {b""}
    watched.watch.close()


def test_a_limit_ends_the_watch_and_not_the_scan(index: Index, share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(index, share)
    monkeypatch.setattr(
        watched.watch._inotify, "add_watch", lambda path, mask: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    watched.look()
    assert watched.watch.failure is not None
    assert watched.watch.failure.errno == 28
    watched.watch.close()


def test_events_are_not_held_up_by_a_scan_that_ends(watched: Watched) -> None:
    """The event loop would wait for the lock."""

    class Everything(Touched):
        def within(self, path: bytes) -> bool:
            assert not watched.watch._lock.locked()
            return path == b"a/b"

    before = len(watched.watch)
    watched.watch.begin()
    watched.watch.finish(Everything(everything=True))
    assert len(watched.watch) == before - 1


def test_descriptors_are_not_used_up(watched: Watched) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(50):
        (watched.path / f"d{number}").mkdir()
        watched.follow()
    assert len(os.listdir("/proc/self/fd")) == before
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > before


def test_file_systems(tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch, index: Index) -> None:
    assert file_system(os.stat("/proc").st_dev) == "proc"
    assert file_system(0xFFFFF) is None
    assert is_remote("nfs4")
    assert is_remote("fuse.sshfs")
    assert not is_remote("ext4")
    assert watched.watch.remote is None
    monkeypatch.setattr(watch_module, "file_system", lambda device: "nfs4")
    other = Watched(index, tmp_path / "share")
    other.look()
    assert other.watch.remote == "nfs4"
    other.watch.close()
