"""One large file hashed by several threads, in whatever order they get on."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from mcfs.protocol.merkle import object_of, pages, tree_levels
from mcfs.serve.reading import Unsteady, read_exactly
from mcfs.serve.relay import PIECE, Abandoned, Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BLOCK = 64 << 10
SIZE = 9 * PIECE + 3 * BLOCK + 17
DEADLINE = 60.0


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """A file with data, a hole, data, and a hole at its end that is no whole block."""
    path = tmp_path / "file"
    with path.open("wb") as out:
        out.write(os.urandom(4 * PIECE + 5))
        out.seek(6 * PIECE)
        out.write(os.urandom(2 * PIECE))
        out.truncate(SIZE)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


class Kept:
    """What a relay gives out."""

    def __init__(self) -> None:
        self.pages: dict[tuple[int, int], bytes] = {}
        self.ticks = 0
        self._lock = threading.Lock()

    def emit(self, level: int, index: int, page: bytes) -> None:
        self.pages[level, index] = page

    def tick(self, size: int) -> None:
        with self._lock:
            self.ticks += size


def race(relay: Relay, threads: int) -> list[BaseException]:
    """Run it; returns what the threads raised. A thread that waits for ever fails the test by the deadline."""
    with ThreadPoolExecutor(threads) as pool:
        runners = [pool.submit(relay.run) for _ in range(threads)]
        return [error for runner in runners if (error := runner.exception(DEADLINE))]


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("block_size", [BLOCK, 4 * PIECE])
def test_hashes_do_not_depend_on_who_is_first(
    file: int, threads: int, shared: bool, block_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = random.Random(f"{threads} {shared}")

    def read_late(fd: int, place: memoryview, at: int) -> None:
        time.sleep(numbers.random() * 0.01)
        read_exactly(fd, place, at)

    monkeypatch.setattr("mcfs.serve.relay.read_exactly", read_late)
    kept = Kept()
    relay = Relay(file, SIZE, block_size, shared=shared, emit=kept.emit, tick=kept.tick)
    assert not race(relay, threads)
    content = os.pread(file, SIZE, 0)
    ref, leaves = object_of(content, block_size)
    assert relay.finish() == (ref, blake3(content).digest())
    assert kept.ticks == SIZE
    assert kept.pages == {
        (level, index): page
        for level, hashes in enumerate(tree_levels(leaves)[:-1], 1)
        for index, page in enumerate(pages(hashes))
    }


def fail_at(piece: int) -> Callable[[int, memoryview, int], None]:
    def read(fd: int, place: memoryview, at: int) -> None:
        if at == piece * PIECE:
            raise Unsteady
        read_exactly(fd, place, at)

    return read


@pytest.mark.parametrize("piece", [0, 1, 3, 7])
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_one_that_fails_ends_the_race_of_all(
    file: int, piece: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcfs.serve.relay.read_exactly", fail_at(piece))
    kept = Kept()
    relay = Relay(file, SIZE, BLOCK, shared=False, emit=kept.emit, tick=kept.tick)
    errors = race(relay, threads)
    assert sum(isinstance(error, Unsteady) for error in errors) == 1
    assert all(isinstance(error, Unsteady | Abandoned) for error in errors)
    assert kept.ticks < SIZE


def test_a_tick_that_raises_ends_it(file: int) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    relay = Relay(file, SIZE, BLOCK, shared=True, emit=Kept().emit, tick=stop)
    assert {type(error) for error in race(relay, 3)} <= {KeyboardInterrupt, Abandoned}
