"""Scans that go only where something changed find what a scan of everything finds."""

from __future__ import annotations

import os
import random
import shutil
from typing import TYPE_CHECKING

import pytest

from mcfs.protocol.errors import Gone
from mcfs.protocol.ids import Node
from mcfs.serve.changes import EVERYTHING, Touched
from mcfs.serve.index import Index, Order, Snapshot
from mcfs.serve.store import NodeStore
from tests.serve.tree import NOW, Reader, source, walk_files

if TYPE_CHECKING:
    from pathlib import Path

    from mcfs.protocol.catalog import FileEntry

BLOCK = 64 << 10
LARGE = 3 * BLOCK


class Looker:
    """Scans a share again and again; counts the directories that were read."""

    def __init__(self, index: Index, share: Path, name: bytes = b"s") -> None:
        self.index = index
        self.share = share
        self.name = name
        self.read: list[bytes] = []
        self.now = NOW

    def look(self, touched: Touched = EVERYTHING) -> Snapshot:
        self.read.clear()
        self.now += 1
        order = Order(self.share, self.name, self.now, touched, observe=lambda fd, path: self.read.append(path))
        return self.index.run(order)


@pytest.fixture
def looker(index: Index, share: Path) -> Looker:
    return Looker(index, share)


def make_tree(share: Path) -> None:
    for top in ("a", "b", "c"):
        for sub in ("x", "y", "y/deep/deeper"):
            directory = share / top / sub
            directory.mkdir(parents=True)
            for n in range(5):
                (directory / f"small{n}").write_text(f"{directory}{n}")
            (directory / "large").write_bytes(os.urandom(LARGE))
            (directory / "link").symlink_to("small1")
    wide = share / "wide"
    wide.mkdir()
    for n in range(400):
        (wide / f"{n:060d}").touch()


def touched(*directories: bytes, trees: tuple[bytes, ...] = ()) -> Touched:
    return Touched(directories=frozenset(directories), trees=frozenset(trees))


def check(looker: Looker, store: NodeStore, snapshot: Snapshot) -> None:
    """It is what is there, and what a scan of everything makes of it."""
    store.replace([snapshot])
    assert Reader(store).tree(snapshot) == source(looker.share)
    fresh = looker.look()
    assert fresh.entry == snapshot.entry
    assert (fresh.version, fresh.owners) == (snapshot.version, snapshot.owners)
    assert (fresh.total_files, fresh.total_bytes) == (snapshot.total_files, snapshot.total_bytes)


def test_only_what_was_touched_is_read(looker: Looker, store: NodeStore) -> None:
    make_tree(looker.share)
    looker.look()
    (looker.share / "b" / "y" / "deep" / "deeper" / "small3").write_text("other")
    snapshot = looker.look(touched(b"b/y/deep/deeper"))
    assert looker.read == [b"", b"b", b"b/y", b"b/y/deep", b"b/y/deep/deeper"]
    check(looker, store, snapshot)


def test_directories_that_come_and_go(looker: Looker, store: NodeStore) -> None:
    make_tree(looker.share)
    looker.look()
    shutil.rmtree(looker.share / "a" / "y")
    (looker.share / "b" / "x").rename(looker.share / "c" / "moved")
    (looker.share / "new" / "sub").mkdir(parents=True)
    (looker.share / "new" / "sub" / "file").write_bytes(os.urandom(LARGE))
    snapshot = looker.look(touched(b"", b"a", b"b", b"c", trees=(b"a/y", b"b/x", b"c/moved", b"new")))
    assert set(looker.read) == {b"", b"a", b"b", b"c", b"c/moved", b"new", b"new/sub"}
    check(looker, store, snapshot)


def test_a_directory_of_which_nobody_told_is_found_on_the_way(looker: Looker, store: NodeStore) -> None:
    make_tree(looker.share)
    looker.look()
    (looker.share / "c" / "z" / "y").mkdir(parents=True)
    (looker.share / "c" / "z" / "y" / "file").write_text("x")
    snapshot = looker.look(touched(b"c"))
    assert looker.read == [b"", b"c", b"c/z", b"c/z/y"]
    check(looker, store, snapshot)


def test_a_directory_in_the_place_of_another(looker: Looker, store: NodeStore) -> None:
    make_tree(looker.share)
    looker.look()
    (looker.share / "a").rename(looker.share / "aside")
    (looker.share / "c").rename(looker.share / "a")
    (looker.share / "aside").rename(looker.share / "c")
    check(looker, store, looker.look(touched(b"", trees=(b"a", b"c", b"aside"))))


def test_a_file_takes_the_place_of_a_directory(looker: Looker, store: NodeStore) -> None:
    make_tree(looker.share)
    looker.look()
    shutil.rmtree(looker.share / "a")
    (looker.share / "a").write_text("a file")
    check(looker, store, looker.look(touched(b"", trees=(b"a",))))


def test_nothing_changed_is_the_same_version(looker: Looker) -> None:
    make_tree(looker.share)
    before = looker.look()
    assert looker.look(touched(b"a/x", trees=(b"wide",))) == before


def test_attributes_of_a_directory(looker: Looker, store: NodeStore) -> None:
    make_tree(looker.share)
    before = looker.look()
    (looker.share / "a" / "y").chmod(0o700)
    os.utime(looker.share / "wide", ns=(5, 5))
    snapshot = looker.look(touched(b"a/y", b"wide"))
    assert snapshot.version > before.version
    check(looker, store, snapshot)


@pytest.mark.parametrize("seed", range(4))
def test_random_changes(looker: Looker, store: NodeStore, seed: int) -> None:
    """Each step is told of, as inotify tells it, and looked at after some steps."""
    chance = random.Random(seed)
    share = looker.share
    make_tree(share)
    shutil.rmtree(share / "wide")
    looker.look()
    for _ in range(10):
        directories: set[bytes] = set()
        trees: set[bytes] = set()
        for _ in range(chance.randrange(1, 5)):
            change(chance, share, directories, trees)
        check(looker, store, looker.look(Touched(directories=frozenset(directories), trees=frozenset(trees))))


def change(chance: random.Random, share: Path, directories: set[bytes], trees: set[bytes]) -> None:
    places = [share, *sorted(path for path in share.rglob("*") if path.is_dir() and not path.is_symlink())]
    place = chance.choice(places)
    below = os.fsencode(place.relative_to(share)) if place != share else b""
    files = sorted(path for path in place.iterdir() if path.is_file() and not path.is_symlink())
    kind = chance.randrange(6)
    if kind == 0:
        (place / f"new{chance.randrange(100)}").write_bytes(chance.randbytes(chance.choice((0, 10, LARGE))))
    elif kind == 1 and files:
        chance.choice(files).unlink()
    elif kind == 2 and files:
        with chance.choice(files).open("ab") as file:
            file.write(b"more")
    elif kind == 3 and place != share:
        other = chance.choice([p for p in places if place not in (p, *p.parents)])
        target = other / f"moved{chance.randrange(1000)}"
        place.rename(target)
        directories.add(os.fsencode(other.relative_to(share)) if other != share else b"")
        directories.add(below.rpartition(b"/")[0])
        trees.update((below, os.fsencode(target.relative_to(share))))
        return
    elif kind == 4 and place != share:
        shutil.rmtree(place)
        directories.add(below.rpartition(b"/")[0])
        trees.add(below)
        return
    else:
        name = f"dir{chance.randrange(1000)}"
        (place / name / "sub").mkdir(parents=True, exist_ok=True)
        trees.add(os.fsencode((place / name).relative_to(share)))
    directories.add(below)


@pytest.mark.parametrize("damaged", [b"", b"\xff" * 100, b"\x96\x00\x00\x00\x00\x00\xc4\x00"])
def test_a_damaged_note_of_a_directory_is_made_anew(looker: Looker, store: NodeStore, damaged: bytes) -> None:
    make_tree(looker.share)
    looker.look()
    looker.index._database.writer.insert("UPDATE items SET item = ? WHERE item IS NOT NULL", (damaged,))
    (looker.share / "a" / "x" / "small3").write_text("other")
    check(looker, store, looker.look(touched(b"a/x")))


# --- files that are being written ------------------------------------------------------------------------------------


def files_of(store: NodeStore, snapshot: Snapshot) -> dict[bytes, FileEntry]:
    store.replace([snapshot])
    return dict(walk_files(Reader(store), snapshot.entry))


def growing(*files: tuple[bytes, bytes]) -> Touched:
    return Touched(directories=frozenset({b""}), unsettled=frozenset(files))


def test_a_file_that_grows_stays_as_it_was(looker: Looker, store: NodeStore) -> None:
    (looker.share / "log").write_bytes(b"a" * LARGE)
    (looker.share / "small").write_text("small")
    before = files_of(store, looker.look())
    with (looker.share / "log").open("ab") as log:
        log.write(b"b" * LARGE)
    (looker.share / "other").write_text("other")
    (looker.share / "new").write_bytes(b"n" * LARGE)
    hashed = looker.index.statistics.bytes_hashed
    now = files_of(store, looker.look(growing((b"", b"log"), (b"", b"new"))))
    assert now.keys() == {b"log", b"small", b"other"}
    assert now[b"log"] == before[b"log"]
    assert looker.index.statistics.bytes_hashed - hashed < BLOCK
    assert Reader(store).content(now[b"log"].extent) == b"a" * LARGE
    settled = files_of(store, looker.look(touched(b"")))
    assert settled[b"log"].size == 2 * LARGE
    assert settled[b"new"].size == LARGE


def test_a_file_that_grows_stays_as_it_was_also_when_the_database_fails(looker: Looker, store: NodeStore) -> None:
    (looker.share / "log").write_bytes(b"a" * LARGE)
    before = files_of(store, looker.look())
    with (looker.share / "log").open("ab") as log:
        log.write(b"b" * LARGE)
    (looker.share / "other").write_text("other")
    looker.index._database.writer.rows("PRAGMA query_only = ON")
    assert files_of(store, looker.look(growing((b"", b"log"))))[b"log"] == before[b"log"]
    assert looker.index._database.in_memory


def test_small_files_that_grow(looker: Looker, store: NodeStore) -> None:
    for name in ("a", "b", "c"):
        (looker.share / name).write_text(name)
    before = files_of(store, looker.look())
    (looker.share / "b").write_text("longer")
    assert files_of(store, looker.look(growing((b"", b"b")))) == before
    (looker.share / "c").write_text("another")
    now = files_of(store, looker.look(growing((b"", b"b"))))
    assert {name: Reader(store).content(entry.extent) for name, entry in now.items()} == {
        b"a": b"a",
        b"b": b"longer",
        b"c": b"another",
    }


# --- what earlier snapshots had --------------------------------------------------------------------------------------


def test_blocks_that_did_not_change_are_still_there(looker: Looker, store: NodeStore) -> None:
    content = bytearray(os.urandom(10 * BLOCK))
    (looker.share / "file").write_bytes(content)
    old = files_of(store, looker.look())[b"file"].extent
    assert old is not None
    for version in range(3):
        content[version * BLOCK] ^= 0xFF
        with (looker.share / "file").open("r+b") as file:
            file.seek(version * BLOCK)
            file.write(content[version * BLOCK : (version + 1) * BLOCK])
        store.replace([looker.look(touched(b""))])
        assert Reader(store).node(Node(old.object, 0, 9)) == content[9 * BLOCK :]
        for changed in range(version + 1):
            with pytest.raises(Gone):
                store.load(Node(old.object, 0, changed))


def test_former_objects_survive_a_restart(state: Path, share: Path) -> None:
    content = os.urandom(4 * BLOCK)
    (share / "file").write_bytes(content)
    with Index.open(state, block_size=BLOCK) as index:
        store = NodeStore(index)
        old = files_of(store, Looker(index, share).look())[b"file"].extent
        store.close()
    assert old is not None
    with (share / "file").open("r+b") as file:
        file.write(b"changed")
    with Index.open(state, block_size=BLOCK) as index:
        store = NodeStore(index)
        store.replace([Looker(index, share).look()])
        assert Reader(store).node(Node(old.object, 0, 3)) == content[3 * BLOCK :]
        with pytest.raises(Gone):
            store.load(Node(old.object, 0, 0))
        store.close()


def test_a_file_that_was_deleted_is_known_to_be_gone(looker: Looker, store: NodeStore) -> None:
    (looker.share / "d").mkdir()
    (looker.share / "d" / "file").write_bytes(os.urandom(LARGE))
    (looker.share / "e").write_bytes(os.urandom(LARGE))
    old = files_of(store, looker.look())
    shutil.rmtree(looker.share / "d")
    (looker.share / "e").unlink()
    store.replace([looker.look(touched(b"", trees=(b"d",)))])
    for name in (b"d/file", b"e"):
        extent = old[name].extent
        assert extent is not None
        channel = store.resolve(store.group(Node(extent.object, 0, 0)))
        assert channel is not None
        with pytest.raises(Gone):
            store.load(channel.node)


def test_former_objects_are_bounded(
    looker: Looker, store: NodeStore, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcfs.serve.ledger.MAX_FORMER", 5)
    sizes = []
    for version in range(20):
        (looker.share / "file").write_bytes(bytes([version]) * LARGE)
        store.replace([looker.look(touched(b""))])
        sizes.append(len(store))
    assert max(sizes) <= 2 + 5
    assert len(looker.index.reader.rows("SELECT 1 FROM objects")) <= 2 + 5
    assert len(looker.index.reader.rows("SELECT 1 FROM nodes")) <= 2 + 5


def test_what_comes_back_is_no_longer_a_former_object(looker: Looker, store: NodeStore) -> None:
    original = os.urandom(LARGE)
    for content in (original, os.urandom(LARGE), original):
        (looker.share / "file").write_bytes(content)
        store.replace([looker.look(touched(b""))])
    assert looker.index.reader.rows("SELECT 1 FROM former JOIN files ON files.object = former.object") == []
    assert [content.object.size for content in store.contents()].count(LARGE) == 1


@pytest.mark.timeout(60)
def test_a_directory_below_itself_in_the_database(looker: Looker, store: NodeStore) -> None:
    """As no scan writes it; it must not be followed for ever when the directory has gone."""
    make_tree(looker.share)
    looker.look()
    looker.index._database.writer.rows(
        "UPDATE directories SET parent = (SELECT id FROM directories WHERE path = CAST('a/y' AS BLOB))"
        " WHERE path = CAST('a' AS BLOB)"
    )
    shutil.rmtree(looker.share / "a" / "y")
    looker.look(touched(b"a", trees=(b"a/y",)))
    check(looker, store, looker.look())
