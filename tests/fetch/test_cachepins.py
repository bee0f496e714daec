"""What the user wants to be kept, on the disk."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcfs.fetch import cachepins
from mcfs.fetch.cache import Cache
from mcfs.fetch.cachepins import Pin, PinDirectory, PinState

from .cachefakes import BLOCK, Sample

if TYPE_CHECKING:
    from pathlib import Path

PIN = Pin(b"share", b"dir/file \xff\n", "1")
STATE = PinState("1", 3, 1000, 10, "slow")
OBJECTS = [Sample(seed, 10).ref.id for seed in range(3)]


@pytest.fixture
def pins(tmp_path: Path) -> PinDirectory:
    return PinDirectory(tmp_path, tmp_path)


def test_a_pin_is_there_until_it_is_removed(pins: PinDirectory, tmp_path: Path) -> None:
    assert pins.pins() == []
    pins.add(PIN)
    assert pins.find(Pin(PIN.share, PIN.path, "other")) == PIN
    assert PinDirectory(tmp_path, tmp_path / "mount-2").pins() == [PIN]
    assert pins.remove(PIN)
    assert not pins.remove(PIN)
    assert pins.pins() == []
    assert pins.find(PIN) is None


def test_the_oldest_comes_first(pins: PinDirectory, tmp_path: Path) -> None:
    for number in range(5):
        pin = Pin(b"s", b"%d" % number, "n")
        pins.add(pin)
        os.utime(tmp_path / "pins" / pin.id, ns=(0, 1000 - number))
    assert [pin.path for pin in pins.pins()] == [b"4", b"3", b"2", b"1", b"0"]


def test_the_whole_share_has_its_name() -> None:
    assert Pin(b"s", b"", "").name == b"s"
    assert Pin(b"s", b"a", "").name == b"s/a"
    assert Pin(b"s", b"a", "1").id == Pin(b"s", b"a", "2").id != Pin(b"s", b"b", "1").id


def test_what_the_mount_says(pins: PinDirectory, tmp_path: Path) -> None:
    assert pins.state(PIN) is None
    pins.add(PIN)
    pins.write_state(PIN, STATE)
    assert pins.state(PIN) == STATE
    assert pins.state(Pin(PIN.share, PIN.path, "2")) is None
    assert not STATE.complete
    assert PinState("1", 3, 1000, 1000).complete
    # Another mount that uses the directory says things of its own.
    second = PinDirectory(tmp_path, tmp_path / "mount-2")
    assert second.state(PIN) is None


def test_objects_of_pins_that_are_no_more_are_forgotten(pins: PinDirectory, tmp_path: Path) -> None:
    other = Pin(b"s", b"", "1")
    for pin in (PIN, other):
        pins.add(pin)
        pins.write_objects(pin, OBJECTS)
        pins.write_state(pin, STATE)
    assert pins.objects() == {PIN.id: frozenset(OBJECTS), other.id: frozenset(OBJECTS)}
    pins.remove(other)
    assert pins.objects() == {PIN.id: frozenset(OBJECTS)}
    assert len(list((tmp_path / "pins").iterdir())) == 3
    pins.forget(PIN.id)
    assert pins.objects() == {}
    assert pins.pins() == [PIN]


def test_changes_are_noticed(pins: PinDirectory, tmp_path: Path) -> None:
    assert pins.has_changed()
    assert not any(pins.has_changed() for _ in range(5))
    pins.add(PIN)
    assert pins.has_changed()
    for _ in range(5):
        pins.has_changed()
    assert not pins.has_changed()
    os.utime(tmp_path / "pins", ns=(5, 5))
    assert pins.has_changed()


@given(st.binary(max_size=300) | st.from_type(dict).map(lambda words: json.dumps(words, default=str).encode()))
def test_what_is_no_pin_is_none(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    directory = tmp_path_factory.mktemp("cache")
    pins = PinDirectory(directory, directory)
    pins.add(PIN)
    for name in (Pin(b"a", b"", "").id, "short", f"{PIN.id}.state", f"{PIN.id}.objects"):
        (directory / "pins" / name).write_bytes(data)
    assert pins.pins() == [PIN]
    assert pins.state(PIN) is None
    assert pins.objects().keys() == {PIN.id}


def test_there_are_only_so_many(pins: PinDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cachepins, "MAX_PINS", 3)
    for number in range(5):
        pins.add(Pin(b"s", b"%d" % number, "n"))
    assert len(pins.pins()) == 3


def open_cache(path: Path, blocks: int) -> Cache:
    return Cache.open(path, max_bytes=blocks * (BLOCK + 4096) + 3 * 16 * 1024, min_free=0)


def store(cache: Cache, sample: Sample, count: int) -> None:
    for index in range(count):
        cache.store(sample.node(index), sample.bytes(sample.node(index)))


def test_a_pinned_object_is_spared_by_the_next_mount_as_well(tmp_path: Path) -> None:
    pinned = Sample(1, 4 * BLOCK)
    cache = open_cache(tmp_path, 8)
    assert cache.pins is not None
    cache.pins.add(PIN)
    cache.pins.write_objects(PIN, [pinned.ref.id])
    cache.close()
    cache = open_cache(tmp_path, 8)
    assert cache.pinned == {pinned.ref.id}
    store(cache, pinned, 4)
    store(cache, Sample(2, 80 * BLOCK), 80)
    assert cache.cached_bytes(pinned.ref, 0, pinned.ref.size) == 4 * BLOCK
    assert cache.used <= cache.limit
    cache.close()
    # A limit that has become less counts more.
    cache = open_cache(tmp_path, 6)
    assert cache.cached_bytes(pinned.ref, 0, pinned.ref.size) == 4 * BLOCK
    cache.prune(0)
    assert [ref for ref in cache.refs() if cache.cached_bytes(ref, 0, ref.size)] == [pinned.ref]
    cache.close()
    cache = open_cache(tmp_path, 2)
    assert cache.used <= cache.limit
    cache.close()


def test_when_all_is_pinned_nothing_else_is_kept(tmp_path: Path) -> None:
    pinned, other = Sample(1, 8 * BLOCK), Sample(2, BLOCK)
    cache = open_cache(tmp_path, 8)
    cache.pin(frozenset([pinned.ref.id]))
    store(cache, pinned, 8)
    before = cache.cached_bytes(pinned.ref, 0, pinned.ref.size)
    assert before >= 7 * BLOCK
    store(cache, other, 1)
    assert cache.cached_bytes(pinned.ref, 0, pinned.ref.size) == before
    assert cache.keeping
    cache.pin(frozenset())
    store(cache, Sample(3, 8 * BLOCK), 8)
    assert cache.cached_bytes(pinned.ref, 0, pinned.ref.size) < before
    cache.close()


def test_a_second_mount_takes_a_part_also_of_what_is_pinned(tmp_path: Path) -> None:
    pinned = Sample(1, 8 * BLOCK)
    cache = open_cache(tmp_path, 10)
    cache.pin(frozenset([pinned.ref.id]))
    store(cache, pinned, 8)
    second = open_cache(tmp_path, 10)
    store(cache, Sample(2, 8 * BLOCK), 8)
    assert cache.used <= cache.limit < 6 * (BLOCK + 4096) + 3 * 16 * 1024
    second.close()
    cache.close()


def test_missing_blocks(tmp_path: Path) -> None:
    sample = Sample(1, 30 * BLOCK)
    cache = open_cache(tmp_path, 100)
    assert cache.missing(sample.ref, range(3, 30), 5) == [3, 4, 5, 6, 7]
    for index in (0, 4, 5, 9, 29):
        cache.store(sample.node(index), sample.bytes(sample.node(index)))
    assert cache.missing(sample.ref, range(3, 12), 100) == [3, 6, 7, 8, 10, 11]
    assert cache.missing(sample.ref, range(30), 2) == [1, 2]
    assert cache.missing(sample.ref, range(29, 30), 9) == []
    cache.close()
