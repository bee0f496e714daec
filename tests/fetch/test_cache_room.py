"""Limits: the cache never takes more than it may, and what goes is what was used least."""

from __future__ import annotations

import errno
import random
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from mcfs.fetch.cache import Cache
from mcfs.fetch.cachequota import GIB, MIB, default_max_bytes, default_min_free, runs

from .cachefakes import BLOCK, FaultyDisk, Sample, disk_usage, failing, plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mcfs.fetch.cachedisk import Disk


def open_cache(path: Path, limit: int, disk: Disk | None = None, min_free: int = 0) -> Cache:
    return Cache.open(path, max_bytes=limit, min_free=min_free, disk=disk)


def store(cache: Cache, sample: Sample, *indexes: int) -> bool:
    kept = [cache.store(sample.node(index), sample.bytes(sample.node(index))) for index in indexes]
    return all(kept)


def present(cache: Cache, sample: Sample) -> list[int]:
    return [index for index in range(sample.ref.geometry.counts[0]) if cache.has(sample.node(index))]


def test_defaults() -> None:
    assert default_max_bytes(100 * GIB) == 10 * GIB
    assert default_max_bytes(1000 * GIB) == 20 * GIB
    assert default_min_free(10 * GIB) == 10 * GIB // 100
    assert default_min_free(1000 * GIB) == 512 * MIB


def test_runs_cut_at_what_stays() -> None:
    assert runs(0, 5, set()) == [(0, 5)]
    assert runs(0, 5, {0, 2, 4, 9}) == [(1, 2), (3, 4)]
    assert runs(3, 5, {3, 4}) == []


def test_the_limit_holds_at_every_moment(tmp_path: Path) -> None:
    limit = 24 * MIB
    cache = open_cache(tmp_path, limit)
    rng = random.Random(1)
    samples = [Sample(seed, size, MIB) for seed, size in enumerate([60 * MIB, 5 * MIB + 3, MIB, 900, 8 * MIB])]
    small = [Sample(seed, 5000) for seed in range(100, 300)]
    for sample in (rng.choice(samples + small[:5]) for _ in range(300)):
        assert store(cache, sample, rng.randrange(sample.ref.geometry.counts[0]))
        assert cache.used <= limit
    for sample in small:
        assert store(cache, sample, 0)
    # The 256 directories take 4 KiB each.
    assert disk_usage(tmp_path) <= limit + 2 * MIB
    assert abs(disk_usage(tmp_path / "objects") - cache.used) <= 2 * MIB
    assert cache.used >= limit // 2
    cache.close()


def test_accounting_agrees_with_a_scan(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 10 * MIB)
    sample, other = Sample(1, 30 * MIB, MIB), Sample(2, 700)
    assert store(cache, sample, *range(30))
    assert store(cache, other, 0)
    used = cache.used
    cache.close()
    cache = open_cache(tmp_path, 10 * MIB)
    # ext4 gives the blocks of its tree of extents when it writes the data, not before.
    assert abs(cache.used - used) <= 64 * 1024
    cache.close()


def test_a_limit_that_became_less_is_kept_from_the_start(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 20 * MIB)
    assert store(cache, Sample(1, 16 * MIB, MIB), *range(16))
    cache.close()
    cache = open_cache(tmp_path, 4 * MIB)
    assert cache.used <= 4 * MIB
    cache.close()


def test_the_least_recently_used_object_goes_first(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 10 * BLOCK)
    one, two, three = (Sample(seed, 3 * BLOCK) for seed in range(3))
    for sample in (one, two, three):
        assert store(cache, sample, 0, 1, 2)
    assert cache.load(one.node(0)) is not None
    for seed in range(10, 13):
        assert store(cache, Sample(seed, BLOCK), 0)
    assert present(cache, two) == []
    assert cache.has(one.node(0))
    cache.close()


def test_the_order_is_known_after_a_restart(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, GIB)
    samples = [Sample(seed, BLOCK) for seed in range(5)]
    for sample in samples:
        assert store(cache, sample, 0)
    cache.close()
    cache = open_cache(tmp_path, GIB)
    assert len(cache.refs()) == 5
    cache.prune(3 * BLOCK)
    assert len(cache.refs()) == 2
    cache.close()


def test_of_one_large_object_the_oldest_ranges_go(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 80 * MIB)
    sample = Sample(1, 120 * MIB, MIB)
    cache.opened(sample.ref)
    assert store(cache, sample, *range(120))
    there = present(cache, sample)
    assert there == list(range(there[0], 120))
    assert 50 <= len(there) <= 80
    for index in there:
        assert plain(cache.load(sample.node(index))) == sample.bytes(sample.node(index))
    cache.close()


def test_pinned_objects_go_last(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 12 * BLOCK)
    pinned, idle = Sample(1, 4 * BLOCK), Sample(2, 4 * BLOCK)
    cache.opened(pinned.ref)
    cache.opened(pinned.ref)
    cache.closed(pinned.ref)
    assert store(cache, pinned, *range(4))
    assert store(cache, idle, *range(4))
    for seed in range(10, 20):
        assert store(cache, Sample(seed, BLOCK), 0)
    assert present(cache, pinned) == [0, 1, 2, 3]
    cache.closed(pinned.ref)
    for seed in range(20, 30):
        assert store(cache, Sample(seed, BLOCK), 0)
    assert present(cache, pinned) == []
    cache.close()


def test_the_last_accesses_stay(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 200 * BLOCK)
    sample = Sample(1, 150 * BLOCK)
    assert store(cache, sample, *range(150))
    cache.prune(0)
    assert present(cache, sample) == list(range(150 - 64, 150))
    cache.close()


def test_a_block_larger_than_the_limit_is_not_kept_and_nothing_goes_for_it(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, MIB)
    small = Sample(1, BLOCK)
    assert store(cache, small, 0)
    assert not store(cache, Sample(2, 4 * MIB, 4 * MIB), 0)
    assert cache.has(small.node(0))
    assert cache.keeping
    cache.close()


def test_where_holes_are_unknown_whole_objects_go(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 10 * BLOCK, FaultyDisk(failing(errno.EOPNOTSUPP, "punch")))
    sample = Sample(1, 40 * BLOCK)
    cache.opened(sample.ref)
    for index in range(40):
        assert store(cache, sample, index)
        assert cache.used <= 10 * BLOCK
    cache.close()


def test_a_file_that_cannot_be_punched_does_not_stop_evictions(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 10 * BLOCK, FaultyDisk(failing(errno.EIO, "punch")))
    sample = Sample(1, 40 * BLOCK)
    assert store(cache, sample, *range(40))
    assert cache.keeping
    cache.close()


def test_a_page_that_cannot_be_written_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    """They stand one behind the other, at no multiples of anything."""
    disk = FaultyDisk()
    cache = open_cache(tmp_path, 64 * MIB, disk)
    sample = Sample(1, 1030 * BLOCK)
    top, short = sample.node(0, 2), sample.node(1, 1)
    assert cache.store(top, sample.bytes(top))
    disk.before = failing(errno.EIO, "pwrite", "pwrite_direct")
    assert not cache.store(short, sample.bytes(short))
    assert plain(cache.load(top)) == sample.bytes(top)
    cache.close()


def test_others_fill_the_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class FullDisk(FaultyDisk):
        left = GIB

        def free(self, at: int) -> int:
            return self.left

    disk = FullDisk()
    cache = open_cache(tmp_path, 100 * MIB, disk, min_free=MIB)
    sample = Sample(1, 80 * BLOCK)
    assert store(cache, sample, *range(70))
    disk.left = MIB
    assert not store(cache, sample, 70)
    # All but the last 64 went to make room, in vain.
    assert len(present(cache, sample)) == 64
    assert not any(store(cache, sample, index) for index in range(70, 80))
    assert caplog.text.count("serving without keeping") == 1
    cache.close()


def test_a_disk_that_gets_full_under_a_write_is_tried_again_after_an_eviction(tmp_path: Path) -> None:
    full = [0]

    def before(name: str) -> None:
        if name == "punch":
            full[0] = 0
        if name == "pwrite" and full[0]:
            raise OSError(errno.ENOSPC, "full")

    cache = open_cache(tmp_path, GIB, FaultyDisk(before))
    sample = Sample(1, 200 * BLOCK)
    assert store(cache, sample, *range(100))
    full[0] = 1
    assert store(cache, sample, 100)
    assert cache.keeping
    cache.close()


def test_reading_while_another_thread_stores_and_evicts(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 40 * BLOCK)
    samples = [Sample(seed, 24 * BLOCK) for seed in range(4)]
    whole = {(seed, index): samples[seed].bytes(samples[seed].node(index)) for seed in range(4) for index in range(24)}

    def write() -> None:
        rng = random.Random(1)
        for _ in range(1500):
            seed, index = rng.randrange(4), rng.randrange(24)
            cache.store(samples[seed].node(index), whole[seed, index])

    writer = threading.Thread(target=write)
    writer.start()
    rng, hits = random.Random(2), 0
    while writer.is_alive():
        hits += read_one(cache, samples, whole, rng)
    assert hits > 100
    assert cache.used <= 40 * BLOCK
    cache.close()


def read_one(cache: Cache, samples: list[Sample], whole: dict[tuple[int, int], bytes], rng: random.Random) -> bool:
    seed, index = rng.randrange(4), rng.randrange(24)
    node = samples[seed].node(index)
    if rng.random() < 0.01:
        cache.drop(node)
    data = plain(cache.load_range(node, 100, 60_000))
    assert data is None or data == whole[seed, index][100:60_100]
    return data is not None


# With real file systems.


@contextmanager
def mounted(path: Path, options: str) -> Iterator[None]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.netlab
@pytest.mark.parametrize("options", ["size=8m", "size=64m,nr_inodes=300"])
def test_a_small_file_system(tmp_path: Path, options: str) -> None:
    """The disk is full, or out of inodes, long before the limit."""
    path = tmp_path / "mount"
    with mounted(path, options):
        cache = open_cache(path, GIB)
        samples = [Sample(seed, 3 * BLOCK) for seed in range(200)]
        for sample in samples:
            store(cache, sample, 0, 1, 2)
            for index in present(cache, sample):
                assert plain(cache.load(sample.node(index))) == sample.bytes(sample.node(index))
        kept = sum(len(present(cache, sample)) for sample in samples)
        assert kept >= 20
        assert present(cache, samples[0]) == []
        assert store(cache, samples[0], 1)
        cache.close()


@pytest.mark.netlab
def test_a_file_system_that_becomes_read_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "mount"
    sample = Sample(1, 3 * BLOCK)
    with mounted(path, "size=8m"):
        cache = open_cache(path, GIB)
        assert store(cache, sample, 0)
        cache.close()
        subprocess.run(["mount", "-o", "remount,ro", path], check=True)
        cache = open_cache(path, GIB)
        assert plain(cache.load(sample.node(0))) == sample.bytes(sample.node(0))
        assert not store(cache, sample, 1)
        assert not store(cache, Sample(2, 5), 0)
        cache.drop(sample.node(0))
        assert not cache.has(sample.node(0))
        assert cache.prune(0) == 0
        assert caplog.text.count("serving without keeping") >= 1
        cache.close()
