"""Writing past the page cache."""

from __future__ import annotations

import errno
import os
import random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mcfs.fetch.direct import ALIGNMENT, MIN_SIZE, PAUSE, DirectWrites, aligned, aligned_empty
from tests.fetch.cachefakes import FaultyDisk, failing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = MIN_SIZE + ALIGNMENT


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(opened, 4 * SIZE)
    yield opened
    os.close(opened)


def block(size: int = SIZE) -> memoryview:
    memory = aligned_empty(size)
    memory[:] = np.random.default_rng(7).integers(0, 256, size, dtype=np.uint8)
    return memory.data


def write(writes: DirectWrites, disk: FaultyDisk, fd: int, data: memoryview, offset: int) -> bool:
    """As the cache does: returns whether it went past the page cache."""
    done = writes.write(fd, data, offset)
    if not done:
        disk.pwrite(fd, data, offset)
    return done


def test_memory_is_aligned() -> None:
    for size in (1, ALIGNMENT, 1 << 20):
        memory = aligned_empty(size)
        assert memory.ctypes.data % ALIGNMENT == 0
        assert memory.shape == (size,)


def test_what_is_written_is_read(fd: int) -> None:
    disk, data = FaultyDisk(), block()
    writes = DirectWrites(disk)
    for number in range(3):
        write(writes, disk, fd, data, number * SIZE)
    assert disk.calls["pwrite_direct"] >= 1
    assert os.pread(fd, 3 * SIZE, 0) == bytes(data) * 3


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (block(ALIGNMENT), 0),
        (block(SIZE)[: SIZE - 1], 0),
        (block(SIZE + ALIGNMENT)[1:][:SIZE], 0),
        (block(), 512),
    ],
    ids=["short", "odd length", "odd address", "odd offset"],
)
def test_what_the_kernel_would_refuse_is_not_tried(fd: int, data: memoryview, offset: int) -> None:
    disk = FaultyDisk()
    assert not DirectWrites(disk).write(fd, data, offset)
    assert disk.calls["pwrite_direct"] == 0


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOENT, errno.EMFILE])
def test_where_it_does_not_work_it_is_tried_again_much_later(fd: int, number: int) -> None:
    disk, data = FaultyDisk(failing(number, "pwrite_direct")), block()
    writes = DirectWrites(disk)
    for _ in range(PAUSE + 1):
        assert not write(writes, disk, fd, data, SIZE)
    assert disk.calls["pwrite_direct"] == 1
    assert not writes.write(fd, data, 0)
    assert disk.calls["pwrite_direct"] == 2
    assert os.pread(fd, SIZE, SIZE) == bytes(data)


def test_a_full_disk_is_an_error(fd: int) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        DirectWrites(FaultyDisk(failing(errno.ENOSPC, "pwrite_direct"))).write(fd, block(), 0)


def test_a_short_write_is_not_taken_for_a_whole_one(fd: int) -> None:
    disk, data = FaultyDisk(longest_write=ALIGNMENT), block()
    assert not DirectWrites(disk).write(fd, data, 0)


@pytest.mark.parametrize(
    ("size", "is_copied"), [(MIN_SIZE, True), (1 << 20, True), (MIN_SIZE - 4096, False), (MIN_SIZE + 1, False)]
)
def test_opened_nodes_can_be_written_past_the_page_cache(size: int, is_copied: bool) -> None:
    data = random.Random(1).randbytes(size)
    found = aligned(data)
    assert found == data
    assert (found is not data) == is_copied
    assert not is_copied or DirectWrites._suits(memoryview(found), 0)
