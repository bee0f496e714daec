"""Versions, inode numbers and the order of files, without a kernel."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace

import pyfuse3
import trio
import trio.testing

from tests.fuse.fakes import DEFAULT, TREE, Directory, FakeBackend, File, changed
from tests.fuse.kernel_fake import CONTEXT, FakeKernel, failure

ROOT = pyfuse3.ROOT_INODE


# --- versions --------------------------------------------------------------------------------------------------------


async def test_new_content_is_a_new_inode_and_an_open_file_keeps_its_own(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    old = await kernel.walk(b"a")
    handle = await kernel.open(old.st_ino)
    backend.publish(b"s", changed(a=File(b"other")))
    assert await kernel.read(b"a") == b"other"
    assert (await kernel.walk(b"a")).st_ino != old.st_ino
    assert await kernel.read_handle(handle) == b"alpha"
    assert (await kernel.operations.getattr(old.st_ino, CONTEXT)).st_size == 5


async def test_new_attributes_keep_the_inode(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    old = await kernel.walk(b"a")
    backend.publish(b"s", changed(a=File(b"alpha", replace(DEFAULT, mode=0o600))))
    new = await kernel.walk(b"a")
    assert (new.st_ino, new.st_mode) == (old.st_ino, stat.S_IFREG | 0o600)


async def test_a_change_elsewhere_keeps_inodes(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    paths = (b"b", b"b/y/deep", b"c", b"c/z", b"e")
    before = [(await kernel.walk(path)).st_ino for path in paths]
    backend.publish(b"s", changed(a=File(b"other")))
    assert [(await kernel.walk(path)).st_ino for path in paths] == before


async def test_an_unchanged_directory_is_not_fetched_again(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    await kernel.read(b"c/z")
    backend.publish(b"s", changed(a=File(b"other")))
    backend.fetched.clear()
    await kernel.read(b"c/z")
    assert len(backend.fetched) == 1, "the root alone"


async def test_a_directory_that_is_gone_is_stale(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    for path in (b"c", b"b/y"):
        number = (await kernel.walk(path)).st_ino
        backend.publish(b"s", changed(b=File(b"now a file"), c=None))
        assert await failure(kernel.operations.opendir(number, CONTEXT)) == errno.ESTALE
        assert await failure(kernel.lookup(number, b"z")) == errno.ESTALE
        assert await failure(kernel.walk(path)) in (errno.ENOENT, errno.ENOTDIR)
        backend.publish(b"s", TREE)
        assert await kernel.rows(number), "the path is a directory again"


async def test_a_share_that_became_a_file_is_stale_among_all_shares(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend)
    number = (await kernel.walk(b"s")).st_ino
    backend.publish(b"s", File(b"a file now"))
    assert await failure(kernel.rows(number)) == errno.ESTALE
    assert await kernel.read(b"s") == b"a file now"


async def test_a_listing_stays_as_it_was_at_opendir(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    handle = await kernel.operations.opendir(ROOT, CONTEXT)
    first = await kernel.readdir(handle, 0, 3)
    backend.publish(b"s", changed(a=None, b=None, e=File(b"new")))
    assert (await kernel.walk(b"e")).st_size == 3
    rest = await kernel.readdir(handle, first[-1].offset, 100)
    assert [row.name for row in first + rest] == [b".", b"..", b"a", b"b", b"c", b"d", b"e"]
    assert rest[-1].size == 700
    again = await kernel.readdir(handle, first[-1].offset, 100)
    assert again == rest
    # The old entry that readdir showed does not take the place of the new one.
    assert await kernel.read(b"e") == b"new"


async def test_two_tasks_that_list_a_new_directory_agree_on_its_numbers(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    number = (await kernel.walk(b"c")).st_ino
    found: list[list[int]] = []

    async def listing() -> None:
        found.append([row.number for row in await kernel.rows(number)])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listing)
        nursery.start_soon(listing)
    assert found[0] == found[1]


async def test_a_version_that_comes_during_a_fetch_wins(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    number = (await kernel.walk(b"c")).st_ino
    async with trio.open_nursery() as nursery:

        async def publish() -> None:
            backend.publish(b"s", changed(c=Directory({b"new": File(b"")})))
            await kernel.rows(number)

        nursery.start_soon(kernel.rows, number)
        nursery.start_soon(publish)
    assert [row.name for row in await kernel.rows(number)] == [b"new"]


# --- what the kernel remembers ---------------------------------------------------------------------------------------


async def test_what_became_something_else_is_stale_unless_it_is_open(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    old, kept = (await kernel.walk(b"a")).st_ino, (await kernel.walk(b"c/z")).st_ino
    link, directory = (await kernel.walk(b"c/link")).st_ino, (await kernel.walk(b"b")).st_ino
    backend.publish(b"s", changed(a=File(b"other"), b=File(b"now a file"), c=Directory({b"z": File(b"in c")})))
    for request in (
        kernel.operations.getattr(old, CONTEXT),
        kernel.operations.open(old, os.O_RDONLY, CONTEXT),
        kernel.operations.getattr(directory, CONTEXT),
        kernel.operations.readlink(link, CONTEXT),
    ):
        assert await failure(request) == errno.ESTALE
    handle = await kernel.open(kept)
    assert await kernel.read_handle(handle) == b"in c"
    backend.publish(b"s", changed(c=None))
    assert (await kernel.operations.getattr(kept, CONTEXT)).st_size == 4, "it is open"
    await kernel.operations.release(handle)
    assert await failure(kernel.operations.getattr(kept, CONTEXT)) == errno.ESTALE


async def test_attributes_are_those_of_the_newest_version(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    numbers = [(await kernel.walk(path)).st_ino for path in (b"a", b"c", b"b/y")]
    mode = replace(DEFAULT, mode=0o600)
    c, b = TREE.children[b"c"], TREE.children[b"b"]
    assert isinstance(c, Directory)
    assert isinstance(b, Directory)
    y = Directory({b"deep": File(b"deep")}, mode, inlined=True)
    tree = changed(a=File(b"alpha", mode), c=replace(c, attributes=mode), b=replace(b, children={b"y": y}))
    backend.publish(b"s", tree)
    assert [(await kernel.operations.getattr(number, CONTEXT)).st_mode & 0o777 for number in numbers] == [0o600] * 3


async def test_a_share_of_one_file_that_became_another_is_stale(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend)
    number = (await kernel.walk(b"single")).st_ino
    backend.publish(b"single", File(b"other"))
    assert await failure(kernel.operations.open(number, os.O_RDONLY, CONTEXT)) == errno.ESTALE
    backend.publish(b"single", File(b"one file", replace(DEFAULT, mode=0o600)))
    assert (await kernel.operations.getattr(number, CONTEXT)).st_mode & 0o777 == 0o600, "the same content again"


async def test_a_share_that_was_withdrawn_is_shown_as_it_was(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    number = (await kernel.walk(b"a")).st_ino
    del backend.announcements[b"s"]
    assert (await kernel.operations.getattr(number, CONTEXT)).st_size == 5


async def test_the_kernel_is_told_to_ask_for_attributes_again(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend)
    told: list[int] = []

    def invalidate(number: int) -> None:
        told.append(number)
        raise FileNotFoundError  # as when the kernel has forgotten it

    paths = (b"s", b"s/a", b"s/c")
    numbers = [(await kernel.walk(path)).st_ino for path in paths]
    other = (await kernel.walk(b"single")).st_ino
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel.operations.tell_changes, invalidate)
        await trio.testing.wait_all_tasks_blocked()
        backend.publish(b"s", changed(a=File(b"other")))
        backend.publish(b"new", File(b""))
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(told) == sorted(numbers)
        assert other not in told
        # Whoever has looked it up just before may still open it, and that once only.
        old = kernel.references.keys() & {numbers[1]}
        await kernel.open(old.pop())
        backend.publish(b"s", changed(a=File(b"third")))
        await trio.testing.wait_all_tasks_blocked()
        assert await failure(kernel.operations.open(numbers[1], os.O_RDONLY, CONTEXT)) == errno.ESTALE
        nursery.cancel_scope.cancel()


# --- order -----------------------------------------------------------------------------------------------------------


async def test_numbers_rise_in_the_order_of_the_listing_whatever_was_looked_up_first(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    await kernel.walk(b"e")
    numbers = [row.number for row in await kernel.rows(ROOT)]
    assert numbers == sorted(numbers)
    inlined = [(await kernel.walk(path)).st_ino for path in (b"a", b"b", b"b/x", b"b/y", b"b/y/deep", b"c")]
    assert inlined == sorted(inlined)


async def test_a_number_returns_for_the_same_entry_after_it_was_forgotten(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    before = [row.number for row in await kernel.rows(ROOT)]
    await kernel.forget()
    assert [row.number for row in await kernel.rows(ROOT)] == before


async def test_upcoming_files_in_depth_first_order_as_far_as_known(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")

    async def upcoming(path: bytes) -> list[bytes]:
        await kernel.read(path)
        assert backend.upcoming is not None
        return [entry.name for entry in backend.upcoming() if entry is not None]

    assert await upcoming(b"a") == [b"x", b"deep", b"e"], "c is not listed yet, d is empty"
    await kernel.rows((await kernel.walk(b"c")).st_ino)
    assert await upcoming(b"a") == [b"x", b"deep", b"z", b"e"]
    assert await upcoming(b"b/x") == [b"deep", b"z", b"e"]
    assert await upcoming(b"b/y/deep") == [b"z", b"e"]
    assert await upcoming(b"e") == []
    assert await FakeKernel(backend).read(b"single") == b"one file"
    assert backend.upcoming is not None
    assert list(backend.upcoming()) == [], "a share of one file"


async def test_dot_and_dot_dot(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    b = (await kernel.walk(b"b")).st_ino
    y = (await kernel.lookup(b, b"y")).st_ino
    handle = await kernel.operations.opendir(y, CONTEXT)
    rows = await kernel.readdir(handle, 0, 2)
    assert [(row.name, row.number) for row in rows] == [(b".", y), (b"..", b)]
