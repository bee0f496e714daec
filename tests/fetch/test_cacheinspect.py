"""Looking at a cache from outside."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from mcfs.fetch.cache import Cache
from mcfs.fetch.cachedir import is_cache, lock_existing, parts_of, root_of, user_of
from mcfs.fetch.cacheinspect import Inspection
from mcfs.protocol import merkle
from mcfs.protocol.ids import MIN_BLOCK_SIZE, Node, ObjectRef

from .cachefakes import object_file

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = MIN_BLOCK_SIZE
DATA = random.Random(1).randbytes(5 * BLOCK + 100)
REF, LEAVES = merkle.object_of(DATA, BLOCK)
PAGE = Node(REF, 1, 0)


def block(index: int) -> Node:
    return Node(REF, 0, index)


def fill(path: Path, *, page: bool = True) -> Cache:
    cache = Cache.open(path)
    for index in (0, 1, 3, 5):
        assert cache.store(block(index), DATA[index * BLOCK :][: block(index).size])
    if page:
        assert cache.store(PAGE, LEAVES)
    return cache


def damage(path: Path, ref: ObjectRef, offset_from_end: int) -> None:
    file = object_file(path, ref)
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size - offset_from_end)
        before = opened.read(1)
        opened.seek(-1, 1)
        opened.write(bytes((before[0] ^ 1,)))


def test_what_is_kept(tmp_path: Path) -> None:
    cache = fill(tmp_path)
    (kept,) = Inspection(tmp_path).kept()
    assert (kept.id, kept.ref) == (REF.id, REF)
    assert kept.cached == 3 * BLOCK + 100
    assert kept.allocated == cache.used
    cache.close()


def test_all_is_right(tmp_path: Path) -> None:
    cache = fill(tmp_path)
    verdict = Inspection(tmp_path).verify(REF.id)
    assert verdict is not None
    assert (verdict.good, verdict.bad, verdict.unknown) == (5, [], 0)
    assert verdict.good_bytes == 3 * BLOCK + 100
    cache.close()


def test_damaged_blocks_are_named(tmp_path: Path) -> None:
    fill(tmp_path).close()
    damage(tmp_path, REF, 100 + 2 * BLOCK)
    damage(tmp_path, REF, 1)
    verdict = Inspection(tmp_path).verify(REF.id)
    assert verdict is not None
    assert verdict.bad == [block(3), block(5)]
    assert verdict.good == 3


def test_without_its_page_nothing_is_known(tmp_path: Path) -> None:
    fill(tmp_path, page=False).close()
    verdict = Inspection(tmp_path).verify(REF.id)
    assert verdict is not None
    assert (verdict.good, verdict.bad, verdict.unknown) == (0, [], 4)


def test_a_damaged_page(tmp_path: Path) -> None:
    fill(tmp_path).close()
    damage(tmp_path, REF, len(DATA) + 4096)
    verdict = Inspection(tmp_path).verify(REF.id)
    assert verdict is not None
    assert (verdict.good, verdict.bad, verdict.unknown) == (0, [PAGE], 4)


def test_a_file_with_a_damaged_head(tmp_path: Path) -> None:
    fill(tmp_path).close()
    object_file(tmp_path, REF).write_bytes(b"short")
    (kept,) = Inspection(tmp_path).kept()
    assert (kept.ref, kept.cached) == (None, 0)
    assert Inspection(tmp_path).verify(REF.id) is None
    assert object_file(tmp_path, REF).exists()


def test_nothing_is_changed_by_looking(tmp_path: Path) -> None:
    fill(tmp_path).close()
    left = object_file(tmp_path, REF).with_suffix(".new")
    left.touch()
    assert len(list(Inspection(tmp_path).kept())) == 1
    assert left.exists()


def test_who_uses_it(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    assert not is_cache(root)
    with pytest.raises(FileNotFoundError):
        lock_existing(root)
    caches = [Cache.open(root) for _ in range(3)]
    second = caches[1].path
    assert second is not None
    assert [user_of(path) for path in parts_of(root)] == [os.getpid()] * 3
    assert Cache.open_existing(root) is None
    assert root_of(second) == root == root_of(root)
    caches[1].close()
    assert [user_of(path) for path in parts_of(root)] == [os.getpid(), None, os.getpid()]
    reopened = Cache.open_existing(second)
    assert reopened is not None
    assert reopened.limit > 1 << 50
    for cache in (reopened, caches[0], caches[2]):
        cache.close()
