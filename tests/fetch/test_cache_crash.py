"""A process that dies at any step leaves a cache in which every bit that is set has the right bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mcfs.fetch.cache import Cache

from .cachefakes import BLOCK, FaultyDisk, PowerCut, Sample, cut_after, kill, object_file, plain

if TYPE_CHECKING:
    from pathlib import Path

    from mcfs.fetch.cachedisk import Disk
    from mcfs.protocol.ids import Node

MIB = 1024 * 1024
SMALL = Sample(1, 1000)
TREE = Sample(2, 3 * BLOCK + 5)
LARGE = Sample(3, 10 * BLOCK)
MOST_STEPS = 1000


def open_cache(path: Path, disk: Disk | None = None) -> Cache:
    # Six blocks: the seventh makes room.
    return Cache.open(path, max_bytes=6 * BLOCK + 3 * 16 * 1024, min_free=0, disk=disk)


def script(cache: Cache) -> None:
    """Something of everything that writes."""
    for node in (*SMALL.nodes(), *TREE.nodes()):
        cache.store(node, TREE.bytes(node) if node.object is TREE.ref else SMALL.bytes(node))
    cache.drop(TREE.node(1))
    cache.store(TREE.node(1), TREE.bytes(TREE.node(1)))
    for node in LARGE.nodes():
        cache.store(node, LARGE.bytes(node))
    cache.prune(2 * BLOCK)
    cache.store(TREE.node(3), TREE.bytes(TREE.node(3)))


def run_until_cut(path: Path, steps: int) -> bool:
    """Whether the script came to its end."""
    disk = FaultyDisk(longest_write=BLOCK // 2)
    cache = open_cache(path, disk)
    disk.before = cut_after(steps)
    try:
        script(cache)
    except PowerCut:
        return False
    finally:
        kill(cache)
    return True


def check(path: Path) -> int:
    """Every node that is there is right, and new ones can be stored; returns how many there were."""
    cache = open_cache(path)
    assert not cache.was_clean
    found = 0
    for sample in (SMALL, TREE, LARGE):
        for node in sample.nodes():
            found += check_node(cache, sample, node)
        assert cache.store(sample.node(0), sample.bytes(sample.node(0)))
        assert plain(cache.load(sample.node(0))) == sample.bytes(sample.node(0))
    cache.close()
    return found


def check_node(cache: Cache, sample: Sample, node: Node) -> bool:
    data = plain(cache.load(node))
    assert (data is not None) == cache.has(node)
    assert data is None or data == sample.bytes(node)
    return data is not None


def test_death_at_every_step(tmp_path: Path) -> None:
    found = []
    for steps in range(MOST_STEPS):
        path = tmp_path / str(steps)
        done = run_until_cut(path, steps)
        found.append(check(path))
        if done:
            break
    else:
        pytest.fail("the script does not end")
    assert found[0] == 0
    assert max(found) >= 6


def test_death_and_death_again_in_one_directory(tmp_path: Path) -> None:
    for steps in [*range(1, 80, 3), *range(80, 1, -7)]:
        run_until_cut(tmp_path, steps)
        check(tmp_path)


def test_a_bit_goes_before_its_data_and_comes_after_it(tmp_path: Path) -> None:
    """The same, seen from the other side: what the map on the disk says at each write."""
    path = object_file(tmp_path, TREE.ref)
    seen: list[tuple[str, int]] = []

    def note(name: str) -> None:
        if name in ("pwrite", "punch") and path.exists():
            seen.append((name, path.read_bytes()[256]))

    cache = open_cache(tmp_path, FaultyDisk(note))
    cache.store(TREE.node(0), TREE.bytes(TREE.node(0)))
    cache.store(TREE.node(2), TREE.bytes(TREE.node(2)))
    # The header was written before the file had its name. Then data, bit; data, bit.
    assert seen == [("pwrite", 0), ("pwrite", 0), ("pwrite", 1), ("pwrite", 1)]
    assert path.read_bytes()[256] == 5
    kill(cache)
    seen.clear()
    cache = open_cache(tmp_path, FaultyDisk(note))
    cache.opened(TREE.ref)
    cache.prune(0)
    # Bits, then the hole.
    assert seen == [("pwrite", 5), ("punch", 0)]
    cache.close()
