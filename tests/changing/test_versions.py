"""New versions, one case after the other: what is shown when, and what becomes of files that are open."""

from __future__ import annotations

import errno
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from mcfs.protocol.ids import Group
from tests.changing.world import MAX_WAIT, TIMEOUT, Old, World
from tests.hostile.publisher import BLOCK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

SIZE = 2 * BLOCK + 1
SHOWN = 0.3
"""Seconds within which a new version is shown whose top object arrives."""
GIVEN_UP = 8.0
"""Seconds within which it is clear that a server knows nothing of what is waited for."""


def made(seed: int) -> bytes:
    return random.Random(seed).randbytes(SIZE)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(World(tmp_path / "cache")) as world:
        yield world


@asynccontextmanager
async def open_world(world: World) -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        await nursery.start(world.run)
        world.publish({b"a": made(1), b"b": made(2), b"d/x": made(3)})
        await world.wait(1.5)
        yield world
        nursery.cancel_scope.cancel()


async def read(world: World, path: bytes) -> bytes:
    return await world.do(lambda: world.kernel.read_all(path))


async def failure(world: World, step: Callable[[], Awaitable[object]]) -> int | None:
    with pytest.raises(OSError, match=r"Stale|timed out|No such") as caught:
        await world.do(step)
    return caught.value.errno


def lose_caches(world: World) -> None:
    world.kernel.drop_pages()
    world.evict(lambda: False)


async def test_a_new_version_is_shown(world: World) -> None:
    assert await read(world, b"a") == made(1)
    world.publish({b"a": made(4), b"d/y": made(5)})
    await world.wait(SHOWN)
    assert await read(world, b"a") == made(4)
    assert await world.do(lambda: world.kernel.names_in(b"")) == [b"a", b"d"]
    assert await world.do(lambda: world.kernel.names_in(b"d")) == [b"y"]
    assert await failure(world, lambda: world.kernel.open(b"b")) == errno.ENOENT


async def test_files_of_one_name_are_not_versions_of_each_other(world: World) -> None:
    world.publish({b"x": made(4), b"d/x": made(3)})
    await world.wait(SHOWN)
    for _ in range(2):
        assert await read(world, b"x") == made(4)
        assert await read(world, b"d/x") == made(3)
        await world.do(world.kernel.forget)
    assert not world.client._tree._versions
    world.publish({b"x": made(5), b"d/x": made(3)})
    await world.wait(SHOWN)
    assert await read(world, b"x") == made(5)
    assert set(world.client._tree._versions) == {world.ref(made(5))}


async def test_a_version_whose_top_never_comes_is_not_shown(world: World) -> None:
    """What is cached of the one before can be read although the server has announced another one and gone."""
    assert await read(world, b"d/x") == made(3)
    assert await world.do(lambda: world.kernel.names_in(b"")) == [b"a", b"b", b"d"]
    world.publish({b"other": made(4)})
    world.stop_server()
    for _ in range(3):
        await world.wait(TIMEOUT)
        assert await read(world, b"d/x") == made(3)
        assert await world.do(lambda: world.kernel.names_in(b"")) == [b"a", b"b", b"d"]
    world.start_server()
    await world.wait(TIMEOUT)
    assert await world.do(lambda: world.kernel.names_in(b"")) == [b"other"]
    assert await read(world, b"other") == made(4)


async def test_who_reads_an_open_file_uses_the_share(world: World) -> None:
    """So what is cached of it can be read although a version was announced whose top never comes."""
    assert await world.do(lambda: world.kernel.names_in(b"")) == [b"a", b"b", b"d"]
    file = await world.do(lambda: world.kernel.open(b"a"))
    for _ in range(10):
        assert await world.do(lambda: world.kernel.read(file, 0, SIZE)) == made(1)
        world.kernel.drop_pages()
        await world.wait(10.0)
    world.publish({b"other": made(4)})
    world.stop_server()
    await world.wait(TIMEOUT)
    assert await world.do(lambda: world.kernel.names_in(b"")) == [b"a", b"b", b"d"]
    assert await read(world, b"a") == made(1)


async def test_an_open_file_stays_what_it_was(world: World) -> None:
    file = await world.do(lambda: world.kernel.open(b"a"))
    world.publish({b"a": made(4)}, Old.KEPT)
    await world.wait(SHOWN)
    assert await read(world, b"a") == made(4)
    assert await world.do(lambda: world.kernel.read(file, 0, SIZE)) == made(1), "the server has it still"
    world.publish({b"a": made(5)}, Old.UNKNOWN)
    await world.wait(SHOWN)
    world.kernel.drop_pages()
    assert await read(world, b"a") == made(5)
    assert await world.do(lambda: world.kernel.read(file, 0, SIZE)) == made(1), "the cache has it still"


@pytest.mark.parametrize(("old", "seconds"), [(Old.GONE, 1.0), (Old.UNKNOWN, GIVEN_UP)])
async def test_a_block_that_is_gone_is_stale(tmp_path: Path, old: Old, seconds: float) -> None:
    async with open_world(World(tmp_path / "cache", timeout=100.0, max_wait=300.0)) as world:
        file = await world.do(lambda: world.kernel.open(b"a"))
        world.publish({b"a": made(1)[:BLOCK] + made(4)[BLOCK:]}, old)
        await world.wait(SHOWN)
        lose_caches(world)
        start = trio.current_time()
        assert await failure(world, lambda: world.kernel.read(file, 0, SIZE)) == errno.ESTALE
        assert trio.current_time() - start < seconds
        assert await read(world, b"a") == made(1)[:BLOCK] + made(4)[BLOCK:]


@pytest.mark.parametrize("away", [2.0, 5.0, 9.0])
async def test_a_read_goes_on_when_the_server_comes_back_with_another_version(tmp_path: Path, away: float) -> None:
    """What is waited for is in the new version as well, so it can still be had."""
    async with open_world(World(tmp_path / "cache", timeout=100.0, max_wait=300.0)) as world:
        file = await world.do(lambda: world.kernel.open(b"a"))
        lose_caches(world)
        world.stop_server()
        found: list[bytes] = []

        async def read_on() -> None:
            found.append(await world.kernel.read(file, 0, SIZE))

        async def come_back() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_on)
                await trio.sleep(away)
                world.publish({b"a": made(1), b"c": made(6)}, Old.UNKNOWN)
                world.start_server()

        await world.do(come_back)
        assert found == [made(1)]


async def test_a_change_in_the_middle_of_a_walk(world: World) -> None:
    """The directory on the way is of a version that the server has forgotten when it is asked for it."""
    async with trio.open_nursery() as nursery:
        found: list[bytes] = []

        async def walk() -> None:
            found.append(await read(world, b"d/x"))

        nursery.start_soon(walk)
        await trio.lowlevel.checkpoint()
        world.publish({b"d/x": made(7), b"d/z": made(8)}, Old.UNKNOWN)
    assert found in ([made(3)], [made(7)])


async def test_many_versions_at_once_are_passed_over(world: World) -> None:
    assert await read(world, b"a") == made(1)
    seen = set()
    for number in range(10, 60):
        world.publish({b"a": made(number)}, Old.UNKNOWN)
        await world.wait(0.02)
        try:
            seen.add(await read(world, b"a"))
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    await world.wait(SHOWN)
    assert await read(world, b"a") == made(59)
    assert seen <= {made(number) for number in (1, *range(10, 60))}
    assert len(seen) > 3


# --- waits -----------------------------------------------------------------------------------------------------------


async def test_what_is_promised_for_ever_ends_after_max_wait(world: World) -> None:
    """Beacons name the node again and again, and nothing comes."""
    world.network._deliver = lambda *_: None  # type: ignore[method-assign]

    async def promise() -> None:
        while True:
            groups = [Group(group) for group in world.receiver.joined]
            world.client._ahead.named(groups, 0.0, now=trio.current_time())
            await trio.sleep(0.1)

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(promise)
        assert await failure(world, lambda: world.kernel.read_all(b"a")) == errno.ETIMEDOUT
        nursery.cancel_scope.cancel()
    assert MAX_WAIT - 1 < trio.current_time() - start < MAX_WAIT + 1


async def test_silence_ends_after_the_timeout_and_then_at_once(world: World) -> None:
    assert await read(world, b"b") == made(2)
    file = await world.do(lambda: world.kernel.open(b"a"))
    world.stop_server()
    lose_caches(world)
    start = trio.current_time()
    assert await failure(world, lambda: world.kernel.read(file, 0, SIZE)) == errno.ETIMEDOUT
    assert TIMEOUT - 1.5 < trio.current_time() - start < TIMEOUT + 0.5
    for _ in range(20):
        start = trio.current_time()
        assert await failure(world, lambda: world.kernel.read(file, 0, SIZE)) == errno.ETIMEDOUT
        assert trio.current_time() - start < 0.1, "the share is down"
        await world.wait(0.3)
    world.start_server()
    await world.wait(1.0)
    assert await world.do(lambda: world.kernel.read(file, 0, SIZE)) == made(1)


async def test_nothing_stays_joined_that_nobody_waits_for(world: World) -> None:
    before = set(world.receiver.joined)
    file = await world.do(lambda: world.kernel.open(b"a"))
    world.stop_server()
    lose_caches(world)
    assert await failure(world, lambda: world.kernel.read(file, 0, SIZE)) == errno.ETIMEDOUT
    await world.wait(2 * TIMEOUT)
    shares = {group for group in world.receiver.joined if world.client._memberships.is_control(group)}
    assert world.receiver.joined == shares
    assert before <= shares
