"""From a multicast group to verified bytes, whatever happens to the files meanwhile."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from mcfs.protocol.addressing import Addresser, Coordinate, addresser_of, node_group
from mcfs.protocol.errors import Gone
from mcfs.protocol.ids import Node, ObjectRef
from mcfs.protocol.keys import ShareKeys
from mcfs.protocol.merkle import leaf_hash
from mcfs.serve.beneath import Beneath
from mcfs.serve.descriptors import Descriptors
from mcfs.serve.index import Index
from mcfs.serve.store import MAX_KEYS, NodeStore
from mcfs.serve.walk import stamp_of
from tests.serve.tree import NOW, Reader, object_at, publish, source, walk_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BLOCK = 64 << 10


def random_tree(top: Path, rng: random.Random, depth: int = 0) -> None:
    for i in range(rng.randrange(2, 12)):
        size = rng.choice([0, 1, 100, 5000, BLOCK, BLOCK + 1, 3 * BLOCK, 20 * BLOCK + 17])
        (top / f"file{i}").write_bytes(rng.randbytes(size))
    for i in range(rng.randrange(1, 4) if depth < 3 else 0):
        (top / f"d{i}").mkdir()
        random_tree(top / f"d{i}", rng, depth + 1)


@pytest.mark.parametrize("seed", range(4))
def test_every_node_of_a_random_tree_loads(index: Index, store: NodeStore, share: Path, seed: int) -> None:
    random_tree(share, random.Random(seed))
    (share / "three-levels").touch()
    os.truncate(share / "three-levels", (1024 * 3 + 5) * BLOCK + 1)
    snapshot = publish(index, store, share)
    reader = Reader(store)
    assert reader.tree(snapshot) == source(share)
    for ref in reader.objects:
        for level, count in enumerate(ref.geometry.counts):
            for position in range(count):
                reader.node(Node(ref, level, position))
    assert len(reader.objects) == len(store)


def test_groups_that_are_not_ours(index: Index, store: NodeStore, share: Path) -> None:
    (share / "file").write_bytes(os.urandom(3 * BLOCK))
    snapshot = publish(index, store, share)
    ref = object_at(store, snapshot, b"file")
    addresser = addresser_of(ref)
    assert store.resolve(node_group(Node(ref, 0, 2), 7, addresser, 5)) is not None
    assert store.resolve(node_group(Node(ref, 0, 2), 7, addresser, 8)) is None, "another scope"
    for kind, position in ((0, 3), (1, 1), (2, 0), (14, 0), (15, 0), (0, (1 << 40) - 1)):
        assert store.resolve(addresser.group(Coordinate(kind, 0, position))) is None
    assert store.resolve(node_group(Node(ref, 0, 0), 0, addresser_of(ref, ShareKeys(bytes(32))), 5)) is None
    for group in (b"\xff\x15" + bytes(14), b"\xff\x15" + b"\xff" * 14):
        assert store.resolve(group) is None


def test_bit_31_clear_is_no_group_of_ours(index: Index, store: NodeStore, share: Path) -> None:
    snapshot = publish(index, store, share)
    ref = snapshot.entry.content  # type: ignore[union-attr]
    assert isinstance(ref, ObjectRef)
    group = bytearray(node_group(Node(ref, 0, 0), 0, addresser_of(ref), 5))
    assert store.resolve(bytes(group)) is not None
    group[12] &= 0x7F
    assert store.resolve(bytes(group)) is None


def test_scope(index: Index, share: Path) -> None:
    (share / "file").write_bytes(os.urandom(3 * BLOCK))
    store = NodeStore(index, scope=8)
    snapshot = publish(index, store, share)
    assert Reader(store, 8).tree(snapshot) == source(share)
    store.close()


def test_shares_with_different_keys(index: Index, tmp_path: Path) -> None:
    """The same tree without a key and under two: each way has groups of its own, and gives all of it."""
    content = os.urandom(3 * BLOCK)
    one, other = (ShareKeys(bytes((i,)) * 32) for i in (1, 2))
    keys = {b"one": one, b"other": other}
    snapshots = []
    for name in ("open", "one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(content)
        os.utime(tmp_path / name / "file", ns=(0, 0))
        os.utime(tmp_path / name, ns=(0, 0))
        snapshots.append(index.scan(tmp_path / name, name.encode(), now_ms=NOW))
    with closing(NodeStore(index)) as store:
        store.replace(snapshots, keys)
        assert len(store) == 6, "a listing and a file, three times"
        for snapshot in snapshots:
            mine = keys.get(snapshot.name)
            reader = Reader(store, keys=mine)
            assert reader.tree(snapshot) == source(tmp_path / snapshot.name.decode())
            assert {channel.shares for channel in reader.channels} == {frozenset((snapshot.name,))}
        assert {(each.keys, each.meta) for each in store.contents()} == {
            (key, meta) for key in (None, one, other) for meta in (False, True)
        }
        for each in store.contents():
            group = store.group(each.node(0, 0))
            channel = store.resolve(group)
            assert channel is not None
            assert channel.node == each.node(0, 0)
            assert group == node_group(channel.node, 0, addresser_of(each.object, each.keys), 5)


def test_what_had_a_key_has_it_still_when_it_is_gone(index: Index, store: NodeStore, share: Path) -> None:
    (share / "file").write_bytes(os.urandom(3 * BLOCK))
    keys = {b"s": ShareKeys(b"k" * 32)}
    store.replace([snapshot := index.scan(share, b"s", now_ms=NOW)], keys)
    ref = snapshot.entry.content  # type: ignore[union-attr]
    assert isinstance(ref, ObjectRef)
    (share / "file").write_bytes(os.urandom(3 * BLOCK))
    store.replace([index.scan(share, b"s", now_ms=NOW)], keys)
    assert store.resolve(node_group(Node(ref, 0, 0), 0, addresser_of(ref), 5)) is None
    channel = store.resolve(node_group(Node(ref, 0, 0), 0, addresser_of(ref, keys[b"s"]), 5))
    assert channel is not None
    assert channel.node.keys == keys[b"s"]


def test_more_keys_than_there_is_room_for(index: Index, store: NodeStore, share: Path) -> None:
    snapshot = index.scan(share, b"s", now_ms=NOW)
    for number in range(MAX_KEYS):
        store.replace([snapshot], {b"s": ShareKeys(number.to_bytes(32, "big"))})
    with pytest.raises(ValueError, match="too many"):
        store.replace([snapshot], {b"s": ShareKeys(b"k" * 32)})


def test_tags_may_collide(index: Index, share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two objects of one tag: the coordinate tells which one is meant, as long as only one of them has that node."""
    monkeypatch.setattr("mcfs.serve.store.addresser_of", _colliding)
    (share / "file").write_bytes(os.urandom(3 * BLOCK))
    store = NodeStore(index)
    snapshot = publish(index, store, share)
    ref = snapshot.entry.content  # type: ignore[union-attr]
    assert isinstance(ref, ObjectRef)
    assert len(store) == 2
    channel = store.resolve(node_group(Node(ref, 0, 0), 0, _colliding(ref), 5))
    assert channel is not None
    assert channel.node.object == ref


def _colliding(ref: ObjectRef, keys: ShareKeys | None = None) -> Addresser:
    addresser = addresser_of(ref, keys)
    addresser.tag = b"same tag"
    return addresser


# --- files that are no longer what they were -------------------------------------------------------------------------


def truncate(path: Path) -> None:
    os.truncate(path, 10)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def overwrite(path: Path) -> None:
    """In place, with the times put back."""
    status = path.stat()
    with path.open("r+b") as file:
        file.write(os.urandom(100))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def rename_over(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(os.urandom(path.stat().st_size))
    new.rename(path)


def delete(path: Path) -> None:
    path.unlink()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
@pytest.mark.parametrize("name", ["large", "small"])
@pytest.mark.parametrize("change", [truncate, empty, overwrite, rename_over, delete, fifo, directory])
def test_gone(
    index: Index, store: NodeStore, share: Path, change: Callable[[Path], None], name: str, is_open: bool
) -> None:
    (share / "large").write_bytes(os.urandom(3 * BLOCK))
    for other in ("another", "small", "small too"):
        (share / other).write_bytes(os.urandom(1000))
    snapshot = publish(index, store, share)
    ref = object_at(store, snapshot, name.encode())
    if is_open:
        store.load(Node(ref, 0, 0))
    change(share / name)
    unlinked_but_open = is_open and name == "large" and change not in (truncate, empty, overwrite)
    if unlinked_but_open:
        # The old file lives on as long as it is open, and has the right bytes.
        assert len(store.load(Node(ref, 0, 0))) == BLOCK
    else:
        with pytest.raises(Gone):
            store.load(Node(ref, 0, 0))
    if name == "large":
        assert len(store.load(Node(ref, 1, 0))) == 3 * 32


@pytest.mark.parametrize("change", [rename_over, delete])
def test_who_reads_a_file_reads_on_when_it_is_replaced(
    index: Index, store: NodeStore, share: Path, change: Callable[[Path], None]
) -> None:
    """Over new versions, and while others read what took its place; until nobody has read it for a while."""
    path, content = share / "large", os.urandom(9 * BLOCK)
    path.write_bytes(content)
    old = object_at(store, publish(index, store, share), b"large")
    store.load(Node(old, 0, 0))
    for number in range(1, 8):
        change(path)
        snapshot = publish(index, store, share)
        Reader(store).tree(snapshot)
        store.close_unused()
        assert store.load(Node(old, 0, number)) == content[number * BLOCK : (number + 1) * BLOCK]
        path.write_bytes(os.urandom(9 * BLOCK))
    store.close_unused()
    assert store.load(Node(old, 0, 0)) == content[:BLOCK]
    for _ in range(2):
        store.close_unused()
    with pytest.raises(Gone):
        store.load(Node(old, 0, 8))


@pytest.mark.parametrize("size", [1000, 3 * BLOCK])
def test_what_proved_wrong_is_hashed_by_the_next_scan(index: Index, store: NodeStore, share: Path, size: int) -> None:
    """Even if size, times and inode tell nothing, as after two writes within a tick of the kernel's clock."""
    (share / "file").write_bytes(os.urandom(size))
    snapshot = publish(index, store, share)
    ref = object_at(store, snapshot, b"file")
    store.close()
    content = os.urandom(size)
    (share / "file").write_bytes(content)
    index._database.writer.insert("UPDATE files SET stamp = ?", (stamp_of((share / "file").stat()),))
    publish(index, store, share)
    with pytest.raises(Gone):
        store.load(Node(ref, 0, 0))
    snapshot = publish(index, store, share)
    assert Reader(store).tree(snapshot)[b"file"][-1] == content


def test_old_versions_live_on_while_they_are_kept(
    index: Index, store: NodeStore, share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (share / "file").write_bytes(os.urandom(3 * BLOCK))
    (share / "other").write_bytes(os.urandom(3 * BLOCK))
    old = publish(index, store, share)
    listing = old.entry.content  # type: ignore[union-attr]
    assert isinstance(listing, ObjectRef)
    ref = object_at(store, old, b"file")
    group = node_group(Node(ref, 0, 0), 0, addresser_of(ref), 5)
    rename_over(share / "file")
    store.replace([index.scan(share, b"s", now_ms=NOW)])
    assert Reader(store).object(listing)
    channel = store.resolve(group)
    assert channel is not None
    assert len(store.load(Node(ref, 1, 0))) == 96
    with pytest.raises(Gone):
        store.load(channel.node)
    store.replace([index.scan(share, b"s", now_ms=NOW)])
    assert store.resolve(group) == channel
    monkeypatch.setattr("mcfs.serve.ledger.MAX_FORMER", 0)
    store.replace([index.scan(share, b"s", now_ms=NOW)])
    assert store.resolve(group) is None
    with pytest.raises(Gone):
        store.load(channel.node)


def test_a_share_that_is_no_longer_served(index: Index, store: NodeStore, share: Path, tmp_path: Path) -> None:
    (share / "file").write_bytes(os.urandom(3 * BLOCK))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "file").write_bytes(os.urandom(2 * BLOCK))
    one = index.scan(share, b"one", now_ms=NOW)
    two = index.scan(tmp_path / "more", b"two", now_ms=NOW)
    store.replace([one, two])
    assert len(store) == 4
    store.replace([two])
    store.replace([two])
    assert len(store) == 2
    assert Reader(store).tree(two) == source(tmp_path / "more")


def test_a_copy_elsewhere_serves_as_well(index: Index, store: NodeStore, share: Path) -> None:
    (share / "d").mkdir()
    (share / "d" / "small").write_bytes(b"small")
    (share / "d" / "large").write_bytes(os.urandom(3 * BLOCK))
    shutil.copytree(share / "d", share / "e")
    snapshot = publish(index, store, share)
    shutil.rmtree(share / "d")
    reader = Reader(store)
    assert len([reader.content(entry.extent) for _, entry in walk_files(reader, snapshot.entry)]) == 4


# --- the rest --------------------------------------------------------------------------------------------------------


def test_zero_blocks_need_no_file(index: Index, store: NodeStore, share: Path) -> None:
    (share / "hole").touch()
    os.truncate(share / "hole", 3 * BLOCK + 5)
    snapshot = publish(index, store, share)
    ref = object_at(store, snapshot, b"hole")
    (share / "hole").unlink()
    assert [store.load(Node(ref, 0, i)) for i in range(4)] == [bytes(BLOCK)] * 3 + [bytes(5)]


def test_many_threads(index: Index, store: NodeStore, share: Path) -> None:
    for i in range(100):
        (share / f"large{i}").write_bytes(os.urandom(3 * BLOCK))
        (share / f"small{i}").write_bytes(os.urandom(3000))
    snapshot = publish(index, store, share)
    expected = source(share)
    with ThreadPoolExecutor(8) as pool:
        for tree in pool.map(lambda _: Reader(store).tree(snapshot), range(8)):
            assert tree == expected


def test_loading_while_scanning(index: Index, store: NodeStore, share: Path) -> None:
    for i in range(100):
        (share / f"large{i}").write_bytes(os.urandom(3 * BLOCK))
    snapshot = publish(index, store, share)
    expected = source(share)
    with ThreadPoolExecutor(2) as pool:
        scans = pool.submit(lambda: [index.scan(share, b"s", now_ms=NOW) for _ in range(20)])
        while not scans.done():
            assert Reader(store).tree(snapshot) == expected
        assert scans.result()


@pytest.mark.parametrize("size", [1000, 3 * BLOCK])
def test_loading_while_the_directory_is_replaced(
    index: Index, store: NodeStore, share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """By another one with the same files: the one that a thread is about to read from is closed."""
    (share / "file").write_bytes(os.urandom(size))
    shutil.copytree(share, tmp_path / "other")
    snapshot = publish(index, store, share)
    ref = object_at(store, snapshot, b"file")
    serving = index.root(1)
    forget = Beneath.forget

    def replace_first(beneath: Beneath) -> None:
        if beneath is index.root(1) is serving:
            share.rename(tmp_path / "aside")
            (tmp_path / "other").rename(share)
            index.scan(share, b"s", now_ms=NOW)
        forget(beneath)

    monkeypatch.setattr(Beneath, "forget", replace_first)
    assert store.load(Node(ref, 0, 0)) == (share / "file").read_bytes()[:BLOCK]
    assert index.root(1) is not serving


def test_a_damaged_page_is_never_sent(index: Index, store: NodeStore, share: Path) -> None:
    (share / "file").write_bytes(os.urandom(3 * BLOCK))
    snapshot = publish(index, store, share)
    ref = object_at(store, snapshot, b"file")
    index._database.writer.insert("UPDATE nodes SET data = zeroblob(96)")
    store.replace([snapshot])
    for node in (Node(ref, 1, 0), Node(ref, 0, 0)):
        with pytest.raises(Gone):
            store.load(node)


def test_a_damaged_pack_is_made_anew_by_the_next_scan(index: Index, store: NodeStore, share: Path) -> None:
    for name in ("one", "two"):
        (share / name).write_text(name)
    snapshot = publish(index, store, share)
    ref = object_at(store, snapshot, b"one")
    index._database.writer.insert("UPDATE packs SET members = x'FF00'")
    with pytest.raises(Gone, match=r"any more$"):
        store.load(Node(ref, 0, 0))
    publish(index, store, share)
    assert store.load(Node(ref, 0, 0)) == b"onetwo"


def test_a_closed_index_has_nothing(state: Path, share: Path) -> None:
    (share / "file").write_bytes(os.urandom(3 * BLOCK))
    with Index.open(state) as index:
        store = NodeStore(index)
        snapshot = publish(index, store, share)
        ref = object_at(store, snapshot, b"file")
    store.close()
    with pytest.raises(Gone):
        store.load(Node(ref, 0, 0))


def test_a_node_of_another_index(index: Index, store: NodeStore) -> None:
    other = ObjectRef(5, BLOCK, leaf_hash(b"other"))
    with pytest.raises(Gone, match="no such object"):
        store.load(Node(other, 0, 0))


def test_descriptors_are_bounded(tmp_path: Path) -> None:
    descriptors = Descriptors(kept=2)
    fds = [os.open(tmp_path, os.O_RDONLY) for _ in range(4)]
    for key, fd in zip("abca", fds, strict=True):
        descriptors.put(key, fd)
    assert descriptors.take("b") is None
    assert descriptors.take("a") == fds[3]
    assert descriptors.take("a") is None, "it is in use"
    os.close(fds[3])
    descriptors.put("d", os.open(tmp_path, os.O_RDONLY))
    descriptors.age()
    taken = descriptors.take("d")
    assert taken is not None
    descriptors.put("d", taken)
    descriptors.age()
    assert descriptors.take("c") is None, "it was not used for a while"
    assert descriptors.take("d") == taken
    descriptors.put("d", taken)
    descriptors.clear()
    for fd in (*fds, taken):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_the_database_can_be_read_by_others_meanwhile(index: Index, store: NodeStore, share: Path, state: Path) -> None:
    publish(index, store, share)
    with sqlite3.connect(state / "state.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM snapshots").fetchone() == (1,)
    connection.close()
