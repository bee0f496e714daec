"""The cache as its caller sees it: what is stored is there, what is doubtful is not."""

from __future__ import annotations

import errno
import fcntl
import itertools
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mcfs.fetch import cacheroom
from mcfs.fetch.cache import Cache
from mcfs.fetch.cachedisk import Disk
from mcfs.fetch.cachefile import MAX_MAP_BYTES, can_keep, layout_of
from mcfs.protocol.ids import Digest, Node, ObjectRef

from .cachefakes import BLOCK, FaultyDisk, Sample, disk_usage, failing, object_file, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1024 * 1024
LIMIT = 64 * MIB


def open_cache(path: Path, disk: Disk | None = None, max_files: int = 256) -> Cache:
    return Cache.open(path, max_bytes=LIMIT, min_free=0, disk=disk, max_files=max_files)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    cache = open_cache(tmp_path / "cache")
    yield cache
    cache.close()


def test_every_node_of_a_tree_comes_back(cache: Cache) -> None:
    sample = Sample(1, 2050 * BLOCK + 7)
    nodes = [*sample.nodes()[2040:], sample.node(0), sample.node(1023), sample.node(1024)]
    assert {node.level for node in nodes} == {0, 1, 2}
    for node in nodes:
        assert not cache.has(node)
        assert cache.load(node) is None
        assert cache.store(node, sample.bytes(node))
    for node in nodes:
        assert cache.has(node)
        assert plain(cache.load(node)) == sample.bytes(node)
    assert not cache.has(sample.node(5))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8)])
def test_any_buffer_is_stored(cache: Cache, kind: type[bytes]) -> None:
    sample = Sample(1, 1000)
    node = sample.node(0)
    assert cache.store(node, kind(sample.bytes(node)))
    assert plain(cache.load(node)) == sample.bytes(node)


def test_bytes_of_another_length_are_a_mistake(cache: Cache) -> None:
    sample = Sample(1, 1000)
    with pytest.raises(ValueError, match="999 bytes for a node of 1000"):
        cache.store(sample.node(0), bytes(999))
    with pytest.raises(ValueError, match="no node 1"):
        cache.store_hole(sample.node(1))
    with pytest.raises(ValueError, match="of a node"):
        cache.load_range(sample.node(0), 500, 501)


def test_short_writes_are_completed(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, FaultyDisk(longest_write=1000))
    sample, copy = Sample(1, BLOCK), Sample(2, BLOCK)
    assert cache.store(sample.node(0), sample.bytes(sample.node(0)))
    assert cache.copy_block(sample.ref, 0, copy.ref, 0)
    assert plain(cache.load(copy.node(0))) == sample.bytes(sample.node(0))
    cache.close()


def test_ranges_only_of_what_this_process_verified(tmp_path: Path) -> None:
    sample = Sample(1, 3 * BLOCK)
    node, data = sample.node(1), sample.bytes(sample.node(1))
    cache = open_cache(tmp_path)
    assert cache.store(node, data)
    assert cache.is_verified(node)
    assert plain(cache.load_range(node, 100, 50)) == data[100:150]
    cache.close()

    cache = open_cache(tmp_path)
    assert cache.has(node)
    assert not cache.is_verified(node)
    assert cache.load_range(node, 100, 50) is None
    assert plain(cache.load(node)) == data
    cache.mark_verified(node)
    assert plain(cache.load_range(node, 100, 50)) == data[100:150]
    cache.close()


class Refusing(FaultyDisk):
    """A disk on whose files the kernel never says that it has something in memory."""

    def pread_at_once(self, fd: int, length: int, offset: int) -> memoryview | None:
        return None


def test_what_is_in_memory_is_loaded_at_once(tmp_path: Path) -> None:
    """The kernel may have thrown it out since it was written, or have a file system that does not tell: then None."""
    sample = Sample(1, 3 * BLOCK + 5)
    cache = open_cache(tmp_path)
    for node in sample.nodes():
        assert cache.load_at_once(node) is None
        assert cache.store(node, sample.bytes(node))
        assert plain(cache.load(node)) == sample.bytes(node)
        assert plain(cache.load_at_once(node)) in (sample.bytes(node), None)
    cache.drop(sample.node(0))
    assert cache.load_at_once(sample.node(0)) is None
    cache.close()
    assert cache.load_at_once(sample.node(1)) is None


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="/dev/shm is not a file system of its own")
def test_a_file_system_in_memory_never_waits() -> None:
    sample = Sample(1, BLOCK)
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix=f"mcfs-test-{os.getpid()}-") as directory:
        cache = open_cache(Path(directory))
        assert cache.store(sample.node(0), sample.bytes(sample.node(0)))
        assert plain(cache.load_at_once(sample.node(0))) == sample.bytes(sample.node(0))
        cache.close()


def test_what_would_wait_stays_and_what_cannot_be_read_goes(tmp_path: Path) -> None:
    sample = Sample(1, BLOCK)
    node = sample.node(0)
    cache = open_cache(tmp_path, Refusing())
    assert cache.store(node, sample.bytes(node))
    assert cache.load_at_once(node) is None
    assert plain(cache.load(node)) == sample.bytes(node)
    cache.close()

    cache = open_cache(tmp_path, FaultyDisk(failing(errno.EIO, "pread_at_once")))
    assert cache.has(node)
    assert cache.load_at_once(node) is None
    assert not cache.has(node)
    cache.close()


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_kernel_that_would_wait_or_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def preadv(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("mcfs.fetch.cachedisk.os.preadv", preadv)
    with (tmp_path / "file").open("wb+") as file:
        file.write(b"x")
        assert Disk().pread_at_once(file.fileno(), 1, 0) is None


def test_a_part_in_memory_is_not_enough(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"short")
    with (tmp_path / "file").open("rb") as file:
        assert Disk().pread_at_once(file.fileno(), 6, 0) is None


def test_what_is_not_there_cannot_be_marked(cache: Cache) -> None:
    sample = Sample(1, 2 * BLOCK)
    assert cache.store(sample.node(0), sample.bytes(sample.node(0)))
    cache.mark_verified(sample.node(1))
    assert not cache.is_verified(sample.node(1))


def test_a_dropped_node_is_gone_until_it_is_stored_again(tmp_path: Path) -> None:
    sample = Sample(1, 2 * BLOCK)
    node = sample.node(0)
    cache = open_cache(tmp_path)
    assert cache.store(node, bytes(BLOCK))
    cache.drop(node)
    assert not cache.has(node)
    assert not cache.is_verified(node)
    cache.close()

    cache = open_cache(tmp_path)
    assert not cache.has(node)
    assert cache.store(node, sample.bytes(node))
    assert plain(cache.load(node)) == sample.bytes(node)
    cache.close()


def test_a_hole_takes_no_room_and_hides_what_was_dropped(cache: Cache) -> None:
    sample = Sample(1, 64 * BLOCK)
    for index in range(64):
        assert cache.store_hole(sample.node(index))
    assert cache.used < BLOCK
    assert plain(cache.load(sample.node(63))) == bytes(BLOCK)
    other = Sample(2, BLOCK - 5)
    assert cache.store(other.node(0), other.bytes(other.node(0)))
    cache.drop(other.node(0))
    assert cache.store_hole(other.node(0))
    assert plain(cache.load(other.node(0))) == bytes(BLOCK - 5)


def test_zeros_are_written_where_holes_are_unknown(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, FaultyDisk(failing(errno.EOPNOTSUPP, "punch")))
    sample = Sample(1, BLOCK)
    assert cache.store_hole(sample.node(0))
    assert plain(cache.load(sample.node(0))) == bytes(BLOCK)
    cache.close()


def test_cached_bytes_counts_what_overlaps(cache: Cache) -> None:
    sample = Sample(1, 40 * BLOCK + 10)
    ref = sample.ref
    for index in (0, 1, 2, 9, 40):
        assert cache.store(sample.node(index), sample.bytes(sample.node(index)))
    have = [index in (0, 1, 2, 9, 40) for index in range(41)]

    def expected(offset: int, length: int) -> int:
        extents = [(i * BLOCK, min((i + 1) * BLOCK, ref.size)) for i in range(41) if have[i]]
        return sum(max(0, min(end, offset + length) - max(start, offset)) for start, end in extents)

    for offset in (
        0,
        1,
        BLOCK - 1,
        BLOCK,
        3 * BLOCK,
        9 * BLOCK + 5,
        40 * BLOCK,
        40 * BLOCK + 9,
        ref.size,
        ref.size + 5,
    ):
        for length in (0, 1, 5, BLOCK, 2 * BLOCK + 3, 100 * BLOCK):
            assert cache.cached_bytes(ref, offset, length) == expected(offset, length), (offset, length)
    assert cache.cached_bytes(Sample(2, 5).ref, 0, 5) == 0


def test_copying_a_block(cache: Cache) -> None:
    old, new = Sample(1, 4 * BLOCK), Sample(2, 5 * BLOCK)
    data = old.bytes(old.node(2))
    assert not cache.copy_block(old.ref, 2, new.ref, 3)
    assert cache.store(old.node(2), data)
    assert cache.copy_block(old.ref, 2, new.ref, 3)
    assert cache.copy_block(old.ref, 2, old.ref, 0)
    assert plain(cache.load(new.node(3))) == data
    assert plain(cache.load(old.node(0))) == data
    assert not cache.is_verified(new.node(3))
    with pytest.raises(ValueError, match="a block of"):
        cache.copy_block(old.ref, 2, Sample(3, 5).ref, 0)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP])
def test_copying_without_the_kernels_help(tmp_path: Path, number: int) -> None:
    cache = open_cache(tmp_path, FaultyDisk(failing(number, "copy")))
    old, new = Sample(1, BLOCK), Sample(2, BLOCK)
    assert cache.store(old.node(0), old.bytes(old.node(0)))
    assert cache.copy_block(old.ref, 0, new.ref, 0)
    assert plain(cache.load(new.node(0))) == old.bytes(old.node(0))
    cache.close()


def test_what_was_verified_does_not_outlive_a_drop(cache: Cache) -> None:
    sample, other = Sample(1, BLOCK), Sample(2, BLOCK)
    for each in (sample, other):
        assert cache.store(each.node(0), each.bytes(each.node(0)))
    cache.drop(sample.node(0))
    assert cache.copy_block(other.ref, 0, sample.ref, 0)
    assert not cache.is_verified(sample.node(0))


def test_open_files_are_few_and_what_was_verified_is_forgotten_with_them(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, max_files=4)
    before = len(os.listdir("/proc/self/fd"))
    samples = [Sample(seed, 100) for seed in range(20)]
    for sample in samples:
        assert cache.store(sample.node(0), sample.bytes(sample.node(0)))
    assert len(os.listdir("/proc/self/fd")) <= before + 4
    assert not cache.is_verified(samples[0].node(0))
    for sample in samples:
        assert plain(cache.load(sample.node(0))) == sample.bytes(sample.node(0))
    assert [ref.id for ref in cache.refs()] == [sample.ref.id for sample in samples]
    cache.close()
    assert len(os.listdir("/proc/self/fd")) == before - 2  # the lock and the directory


def test_a_closed_cache_finds_nothing(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    sample = Sample(1, 100)
    assert cache.store(sample.node(0), sample.bytes(sample.node(0)))
    cache.close()
    cache.close()
    assert not cache.has(sample.node(0))
    assert not cache.store(sample.node(0), sample.bytes(sample.node(0)))
    assert cache.path is None


def test_objects_of_too_many_nodes_are_not_kept(cache: Cache) -> None:
    huge = ObjectRef(BLOCK * MAX_MAP_BYTES * 8, BLOCK, Digest(bytes(32)))
    assert not can_keep(huge)
    assert not cache.store(Node(huge, 0, 0), bytes(BLOCK))
    assert not cache.has(Node(huge, 0, 0))
    assert cache.keeping


# The directory.


def test_directory_is_private_and_says_whether_its_end_was_orderly(tmp_path: Path) -> None:
    path = tmp_path / "a" / "cache"
    cache = open_cache(path)
    assert not cache.was_clean
    assert path.stat().st_mode & 0o777 == 0o700
    assert not (path / "clean").exists()
    cache.close()
    assert (path / "clean").exists()
    cache = open_cache(path)
    assert cache.was_clean
    assert not (path / "clean").exists()
    cache.close()


def test_a_second_mount_has_a_directory_of_its_own_and_half_of_the_limit(tmp_path: Path) -> None:
    first = open_cache(tmp_path)
    second = open_cache(tmp_path)
    assert first.path == tmp_path
    assert second.path == tmp_path / "mount-2"
    assert second.limit == LIMIT // 2
    sample = Sample(1, BLOCK)
    assert second.store(sample.node(0), sample.bytes(sample.node(0)))
    assert not first.has(sample.node(0))
    second.close()
    again = open_cache(tmp_path)
    assert again.path == tmp_path / "mount-2"
    assert again.has(sample.node(0))
    again.close()
    first.close()


def test_the_first_mount_takes_back_the_room_of_one_that_is_no_more(tmp_path: Path) -> None:
    first, second = open_cache(tmp_path), open_cache(tmp_path)
    sample = Sample(1, LIMIT, MIB)
    for index in range(LIMIT // 2 // MIB + 4):
        assert first.store(sample.node(index), bytes(MIB))
    assert first.limit == LIMIT // 2
    second.close()
    for index in range(LIMIT // MIB):
        assert first.store(sample.node(index), bytes(MIB))
    assert not (tmp_path / "mount-2").exists()
    assert disk_usage(tmp_path) <= LIMIT
    first.close()


def test_who_looks_whose_directory_it_is_does_not_take_it_from_a_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_cache(tmp_path).close()
    fd = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    monkeypatch.setattr(os, "sched_yield", lambda: fcntl.flock(fd, fcntl.LOCK_UN))
    cache = open_cache(tmp_path)
    assert cache.path == tmp_path
    cache.close()
    os.close(fd)


def test_a_first_mount_gives_way_to_a_second_one(tmp_path: Path) -> None:
    """Also when it stores nothing, or has room enough itself."""
    first = open_cache(tmp_path)
    sample = Sample(1, LIMIT, MIB)
    for index in range(LIMIT // MIB - 1):
        assert first.store(sample.node(index), bytes(MIB))
    assert first.used > LIMIT // 2
    second = open_cache(tmp_path)
    first.keep_limit()
    assert 0 < first.used <= LIMIT // 2
    first.keep_limit()
    assert first.used > LIMIT // 4
    second.close()
    first.close()
    first.keep_limit()


def test_a_mount_below_its_limit_notices_that_that_has_become_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cacheroom, "_DIVIDED", 2 * MIB)
    first, second = open_cache(tmp_path), open_cache(tmp_path)
    sample = Sample(1, LIMIT, MIB)
    for index in range(LIMIT // MIB - 1):
        assert first.store(sample.node(index), bytes(MIB))
        assert first.used <= LIMIT // 2 + 3 * MIB
    second.close()
    first.close()


def test_two_mounts_together_keep_the_limit(tmp_path: Path) -> None:
    caches = [open_cache(tmp_path), open_cache(tmp_path)]
    sample = Sample(1, 2 * LIMIT, MIB)
    for index in range(2 * LIMIT // MIB):
        for cache in caches:
            assert cache.store(sample.node(index), bytes(MIB))
    assert disk_usage(tmp_path) <= LIMIT + MIB
    for cache in caches:
        cache.close()


def test_a_damaged_version_is_another_format(tmp_path: Path) -> None:
    cache = Cache.open(tmp_path)
    cache.close()
    (tmp_path / "version").write_bytes(b"\xff\xfe" * 40)
    cache = Cache.open(tmp_path)
    assert cache.path == tmp_path
    cache.close()
    assert (tmp_path / "version").read_text() == "mcfs cache 1\n"


def test_files_of_another_format_are_thrown_away(tmp_path: Path) -> None:
    sample = Sample(1, BLOCK)
    cache = open_cache(tmp_path)
    assert cache.store(sample.node(0), sample.bytes(sample.node(0)))
    cache.close()
    (tmp_path / "version").write_text("mcfs cache 99\n")
    (tmp_path / "objects" / "mine").write_text("not of the cache")
    cache = open_cache(tmp_path)
    assert not cache.has(sample.node(0))
    assert cache.used == 0
    assert (tmp_path / "objects" / "mine").exists()
    cache.close()


def test_a_directory_that_others_can_write_is_not_trusted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects").chmod(0o777)
    cache = open_cache(tmp_path)
    assert not cache.keeping
    assert not cache.store(Sample(1, 5).node(0), bytes(5))
    assert "can be written by others" in caplog.text
    cache.close()


# Damage.


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "cut in the header": lambda good: good[:100],
    "cut in the map": lambda good: good[:256],
    "cut in the data": lambda good: good[:-1],
    "longer": lambda good: good + b"x",
    "magic": lambda good: b"x" + good[1:],
    "version": lambda good: good[:8] + b"\xff" + good[9:],
    "size": lambda good: good[:16] + bytes(8) + good[24:],
    "hash": lambda good: good[:230] + bytes(26) + good[256:],
    "zeros": lambda good: bytes(len(good)),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_is_thrown_away(tmp_path: Path, kind: str) -> None:
    sample = Sample(1, 3 * BLOCK)
    node = sample.node(1)
    cache = open_cache(tmp_path)
    assert cache.store(node, sample.bytes(node))
    cache.close()
    path = object_file(tmp_path, sample.ref)
    path.write_bytes(DAMAGES[kind](path.read_bytes()))

    cache = open_cache(tmp_path)
    assert cache.load(node) is None
    assert not path.exists()
    assert cache.used == 0
    assert cache.store(node, sample.bytes(node))
    assert plain(cache.load(node)) == sample.bytes(node)
    cache.close()


def test_a_map_holds_for_its_own_object_only(tmp_path: Path) -> None:
    one, two = Sample(1, 3 * BLOCK), Sample(2, 3 * BLOCK)
    cache = open_cache(tmp_path)
    assert cache.store(one.node(1), one.bytes(one.node(1)))
    assert cache.store(two.node(2), two.bytes(two.node(2)))
    cache.close()
    object_file(tmp_path, one.ref).replace(object_file(tmp_path, two.ref))
    cache = open_cache(tmp_path)
    assert not cache.has(two.node(1))
    assert not cache.has(two.node(2))
    cache.close()


def test_a_file_cut_off_while_it_is_open_is_no_answer(cache: Cache) -> None:
    sample = Sample(1, 3 * BLOCK)
    node = sample.node(2)
    assert cache.store(node, sample.bytes(node))
    assert cache.path
    os.truncate(object_file(cache.path, sample.ref), 5000)
    assert cache.load(node) is None
    assert not cache.has(node)
    assert cache.store(node, sample.bytes(node))
    assert plain(cache.load(node)) == sample.bytes(node)


def test_what_a_dead_process_left_half_made_is_swept(tmp_path: Path) -> None:
    open_cache(tmp_path).close()
    left = object_file(tmp_path, Sample(1, 5).ref).with_suffix(".new")
    left.parent.mkdir()
    left.write_bytes(b"half")
    open_cache(tmp_path).close()
    assert not left.exists()


def test_the_directory_may_be_deleted_under_way(cache: Cache) -> None:
    sample = Sample(1, BLOCK)
    assert cache.path
    assert cache.store(sample.node(0), sample.bytes(sample.node(0)))
    shutil.rmtree(cache.path)
    assert plain(cache.load(sample.node(0))) == sample.bytes(sample.node(0))
    # A process that makes it anew has it alone.
    other = open_cache(cache.path)
    assert other.path == cache.path
    assert not cache.store(Sample(2, 5).node(0), bytes(5))
    assert other.refs() == []
    other.close()


# Disks that fail.


def assert_keeping(cache: Cache, *, expected: bool) -> None:
    assert cache.keeping is expected


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.ENOSPC])
@pytest.mark.parametrize("call", ["create", "truncate", "rename", "pwrite"])
def test_a_disk_that_cannot_be_written_is_served_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int, call: str
) -> None:
    disk = FaultyDisk(failing(number, call))
    cache = open_cache(tmp_path, disk)
    samples = [Sample(seed, 100) for seed in range(100)]
    for sample in samples:
        assert not cache.store(sample.node(0), sample.bytes(sample.node(0)))
        assert not cache.has(sample.node(0))
    assert_keeping(cache, expected=False)
    assert disk.calls["create"] <= 8
    assert [record.levelno for record in caplog.records if record.levelno >= logging.WARNING] == [logging.WARNING]

    # Better again: a try comes after a while, and works.
    disk.before = lambda name: None
    assert any(cache.store(samples[0].node(0), samples[0].bytes(samples[0].node(0))) for _ in range(200))
    assert_keeping(cache, expected=True)
    assert plain(cache.load(samples[0].node(0))) == samples[0].bytes(samples[0].node(0))
    cache.close()


def test_an_object_too_large_for_the_file_system_does_not_stop_the_others(tmp_path: Path) -> None:
    disk = FaultyDisk(failing(errno.EFBIG, "truncate"))
    cache = open_cache(tmp_path, disk)
    sample = Sample(1, 100)
    assert not cache.store(sample.node(0), sample.bytes(sample.node(0)))
    disk.before = lambda name: None
    assert cache.store(sample.node(0), sample.bytes(sample.node(0)))
    cache.close()


def test_a_read_error_is_a_miss(tmp_path: Path) -> None:
    disk = FaultyDisk()
    cache = open_cache(tmp_path, disk)
    sample = Sample(1, BLOCK)
    assert cache.store(sample.node(0), sample.bytes(sample.node(0)))
    disk.before = failing(errno.EIO, "pread", "pwrite")
    assert cache.load(sample.node(0)) is None
    assert not cache.has(sample.node(0))
    cache.drop(sample.node(0))
    cache.close()


def test_a_directory_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    cache = open_cache(tmp_path / "file" / "cache")
    sample = Sample(1, BLOCK)
    assert not cache.store(sample.node(0), sample.bytes(sample.node(0)))
    assert cache.load(sample.node(0)) is None
    assert cache.prune(0) == 0
    cache.opened(sample.ref)
    cache.closed(sample.ref)
    assert "serving without keeping" in caplog.text
    cache.close()


def test_layout_has_no_overlap() -> None:
    for size in (1, BLOCK, BLOCK + 1, 1024 * BLOCK, 1025 * BLOCK, 2100 * BLOCK + 5):
        geometry = Sample(1, size).ref.geometry
        layout = layout_of(geometry)
        nodes = Sample(1, size).nodes()
        assert sorted(map(layout.bit, nodes)) == list(range(len(nodes)))
        spans = sorted((layout.offset(node), layout.offset(node) + node.size) for node in nodes)
        assert spans[0][0] >= 256 + layout.map_bytes
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
        assert spans[-1][1] == layout.file_size
        assert layout.data_at % 4096 == 0


def test_a_directory_that_cannot_be_opened_at_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place, sample = tmp_path / "cache", Sample(1, 400 * BLOCK)
    place.write_bytes(b"a file")
    cache = Cache.open(place)
    assert not cache.store(sample.node(0), sample.bytes(sample.node(0)))
    assert (cache.path, cache.pins, cache.keeping) == (None, None, False)
    place.unlink()
    kept = [cache.store(sample.node(index), sample.bytes(sample.node(index))) for index in range(70)]
    assert kept.index(True) == 63
    assert all(kept[63:])
    assert cache.path == place
    assert cache.pins is not None
    assert cache.keeping
    assert cache.load(sample.node(69)) is not None
    assert caplog.text.count("serving without keeping") == 1
    cache.close()
    assert not cache.store(sample.node(70), sample.bytes(sample.node(70)))


def test_one_that_never_could_be_opened_is_not_opened_after_its_end(tmp_path: Path) -> None:
    place, sample = tmp_path / "cache", Sample(1, 400 * BLOCK)
    place.write_bytes(b"a file")
    cache = Cache.open(place)
    cache.close()
    place.unlink()
    assert not any(cache.store(sample.node(index), sample.bytes(sample.node(index))) for index in range(100))
    assert not place.exists()
