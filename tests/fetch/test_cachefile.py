"""What only shows when two threads meet: arranged here by a disk that calls back in the middle of a read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mcfs.fetch.cachefile import CacheFile, create_file, file_name
from mcfs.fetch.cachetable import FileTable

from .cachefakes import BLOCK, FaultyDisk, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SAMPLE = Sample(1, 4 * BLOCK)
NODE = SAMPLE.node(1)
DATA = SAMPLE.bytes(NODE)


@pytest.fixture
def at(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def at_next_read(disk: FaultyDisk, action: Callable[[], None]) -> None:
    """Run the action between the look at the map and the read."""

    def before(name: str) -> None:
        if name == "pread":
            disk.before = lambda name: None
            action()

    disk.before = before


def stored(disk: FaultyDisk, at: int) -> CacheFile:
    file = create_file(disk, at, SAMPLE.ref)
    file.write(NODE, memoryview(DATA))
    return file


def test_a_block_evicted_under_a_read_is_not_there(at: int) -> None:
    disk = FaultyDisk()
    file = stored(disk, at)
    at_next_read(disk, lambda: file.evict(0, 4))
    assert file.read(NODE, 0, BLOCK) is None
    file.close()


def test_a_block_evicted_and_stored_again_under_a_read_is_read_again(at: int) -> None:
    disk = FaultyDisk()
    file = stored(disk, at)

    def evict_and_store() -> None:
        file.evict(0, 4)
        at_next_read(disk, lambda: file.write(NODE, memoryview(DATA)))

    at_next_read(disk, evict_and_store)
    assert file.read(NODE, 5, 10) in (None, DATA[5:15])
    file.close()


def test_a_source_dropped_under_its_copy_is_not_copied(at: int) -> None:
    disk = FaultyDisk()
    file = stored(disk, at)
    disk.before = lambda name: file.drop(NODE) if name == "copy" else None
    assert not file.copy(file, NODE, SAMPLE.node(0))
    assert not file.has(SAMPLE.node(0))
    file.close()


def test_a_file_in_use_stays_open_and_is_opened_once(at: int) -> None:
    disk = FaultyDisk()
    table = FileTable(max_files=1)
    used = table.adopt(stored(disk, at))
    other = Sample(2, BLOCK)
    table.release(table.adopt(create_file(disk, at, other.ref)))
    assert table.use(SAMPLE.ref.id) is used
    table.release(used)
    table.forget(SAMPLE.ref.id)
    assert used.read(NODE, 0, BLOCK) == DATA
    table.release(used)
    with pytest.raises(OSError, match="Bad file descriptor"):
        used.read(NODE, 0, BLOCK)
    table.forget_all()
    assert len(table) == 0


def test_two_threads_that_open_one_file_share_it(at: int) -> None:
    disk = FaultyDisk()
    table = FileTable()
    first = table.adopt(stored(disk, at))
    second = CacheFile(disk, disk.open(at, file_name(SAMPLE.ref.id)), SAMPLE.ref, bytearray(1))
    assert table.adopt(second) is first
    assert first.users == 2
    table.forget_all()
    table.release(first)
    table.release(first)


def test_a_leftover_of_this_process_is_no_obstacle(at: int, tmp_path: Path) -> None:
    name = tmp_path / (file_name(SAMPLE.ref.id) + ".new")
    name.parent.mkdir()
    name.write_bytes(b"half")
    stored(FaultyDisk(), at).close()
