"""The file system without a kernel."""

from __future__ import annotations

import errno
import inspect
import os
import stat
from dataclasses import replace

import pyfuse3
import pytest
import trio
import trio.testing

from mcfs.protocol.catalog import DirectoryEntry
from mcfs.protocol.errors import BadNode, BadObject, Gone, NotAvailable, ShareDown, TimedOut
from mcfs.protocol.ids import ObjectRef
from tests.fuse.fakes import DEFAULT, Directory, FakeBackend, File, Link
from tests.fuse.kernel_fake import CONTEXT, FakeKernel, failure

ROOT = pyfuse3.ROOT_INODE

TREE = Directory(
    {
        b"a": File(b"alpha"),
        b"b": Directory({b"x": File(b"in b"), b"y": Directory({b"deep": File(b"deep")}, inlined=True)}, inlined=True),
        b"c": Directory({b"z": File(b"in c"), b"link": Link(b"../../outside")}),
        b"d": File(b""),
        b"e": File(b"epsilon" * 100),
    }
)


@pytest.fixture
def backend() -> FakeBackend:
    backend = FakeBackend()
    backend.publish(b"s", TREE)
    backend.publish(b"single", File(b"one file"))
    return backend


def changed(**children: File | Directory | None) -> Directory:
    """TREE with some children replaced, or left out where None."""
    merged = {**TREE.children, **{name.encode(): item for name, item in children.items()}}
    return Directory({name: item for name, item in merged.items() if item is not None})


# --- names -----------------------------------------------------------------------------------------------------------


async def test_one_share_is_shown_at_the_root(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    assert [row.name for row in await kernel.rows(ROOT)] == [b"a", b"b", b"c", b"d", b"e"]
    assert await kernel.read(b"b/y/deep") == b"deep"
    assert await kernel.read(b"e", 1000) == b"epsilon" * 100


async def test_all_shares_are_shown_under_their_names(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend)
    rows = await kernel.rows(ROOT)
    assert [(row.name, stat.S_ISDIR(row.mode)) for row in rows] == [(b"s", True), (b"single", False)]
    assert await kernel.read(b"s/c/z") == b"in c"
    assert await kernel.read(b"single") == b"one file"
    assert (await kernel.walk(b"")).st_mode == stat.S_IFDIR | 0o555


async def test_a_share_of_one_file_is_a_directory_when_it_is_mounted_by_name(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"single")
    assert (await kernel.walk(b"")).st_mode == stat.S_IFDIR | 0o555
    assert [row.name for row in await kernel.rows(ROOT)] == [b"single"]
    before = await kernel.walk(b"single")
    backend.publish(b"single", File(b"new"))
    assert await kernel.read(b"single") == b"new"
    assert (await kernel.walk(b"single")).st_ino != before.st_ino


async def test_no_shares_is_an_empty_directory() -> None:
    assert await FakeKernel(FakeBackend()).rows(ROOT) == []


async def test_an_unheard_share_does_not_exist_after_a_wait(autojump_clock: trio.testing.MockClock) -> None:
    kernel = FakeKernel(FakeBackend(), share_wait=1.5)
    start = trio.current_time()
    assert await failure(kernel.walk(b"nobody")) == errno.ENOENT
    assert trio.current_time() - start == pytest.approx(1.5)


async def test_a_share_heard_during_the_wait_is_found(autojump_clock: trio.testing.MockClock) -> None:
    backend = FakeBackend()
    kernel = FakeKernel(backend, share_wait=1.5)
    async with trio.open_nursery() as nursery:

        async def announce() -> None:
            await trio.sleep(0.5)
            backend.publish(b"late", File(b"here"))

        nursery.start_soon(announce)
        assert await kernel.read(b"late") == b"here"


async def test_a_mounted_share_that_is_silent_times_out_and_never_looks_empty() -> None:
    kernel = FakeKernel(FakeBackend(), b"silent")
    assert (await kernel.walk(b"")).st_mode == stat.S_IFDIR | 0o555
    assert await failure(kernel.lookup(ROOT, b"x")) == errno.ETIMEDOUT
    assert await failure(kernel.rows(ROOT)) == errno.ETIMEDOUT
    assert (await kernel.operations.statfs(CONTEXT)).f_blocks == 0


async def test_absence_is_cached_only_when_a_listing_says_so(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s", entry_timeout=7.0)
    absent = await kernel.operations.lookup(ROOT, b"absent", CONTEXT)
    assert (absent.st_ino, absent.entry_timeout) == (0, 7.0)
    backend.failure = TimedOut("no listing")
    c = await kernel.walk(b"c")
    assert await failure(kernel.lookup(c.st_ino, b"absent")) == errno.ETIMEDOUT


async def test_a_name_that_is_too_long(backend: FakeBackend) -> None:
    assert await failure(FakeKernel(backend, b"s").lookup(ROOT, b"n" * 256)) == errno.ENAMETOOLONG


async def test_a_file_is_no_directory_and_a_directory_no_file(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    a, b, link = [(await kernel.walk(path)).st_ino for path in (b"a", b"b", b"c/link")]
    assert await failure(kernel.lookup(a, b"x")) == errno.ENOTDIR
    assert await failure(kernel.operations.opendir(a, CONTEXT)) == errno.ENOTDIR
    assert await failure(kernel.open(b)) == errno.EISDIR
    assert await failure(kernel.open(link)) == errno.ELOOP
    assert await failure(kernel.operations.readlink(a, CONTEXT)) == errno.EINVAL


async def test_a_link_is_passed_on_as_it_is(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    link = await kernel.walk(b"c/link")
    assert stat.S_ISLNK(link.st_mode)
    assert link.st_size == len(b"../../outside")
    assert await kernel.operations.readlink(link.st_ino, CONTEXT) == b"../../outside"


# --- attributes ------------------------------------------------------------------------------------------------------


async def test_attributes_are_as_published() -> None:
    backend = FakeBackend()
    old = replace(DEFAULT, mode=0o640, uid=7, gid=8, mtime_ns=-1_500_000_001)
    backend.publish(b"s", Directory({b"f": File(b"x" * 1025, old)}))
    f = await FakeKernel(backend, b"s", entry_timeout=2.0, attr_timeout=3.0).walk(b"f")
    assert (f.st_mode, f.st_uid, f.st_gid, f.st_nlink) == (stat.S_IFREG | 0o640, 7, 8, 1)
    assert (f.st_size, f.st_blocks) == (1025, 3)
    assert f.st_mtime_ns == f.st_ctime_ns == f.st_atime_ns == -1_500_000_001
    assert (f.entry_timeout, f.attr_timeout) == (2.0, 3.0)


async def test_owner_can_be_overridden(backend: FakeBackend) -> None:
    for share, path in ((b"s", b"a"), (None, b"")):
        shown = await FakeKernel(backend, share, uid=0, gid=42).walk(path)
        assert (shown.st_uid, shown.st_gid) == (0, 42)


async def test_root_shows_the_newest_version_without_a_lookup(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    assert (await kernel.walk(b"")).st_mode == stat.S_IFDIR | 0o755
    backend.publish(b"s", replace(TREE, attributes=replace(TREE.attributes, mode=0o700)))
    backend.failure = ShareDown("stat must not need the network")
    assert (await kernel.walk(b"")).st_mode == stat.S_IFDIR | 0o700


async def test_statfs(backend: FakeBackend) -> None:
    one = await FakeKernel(backend, b"single").operations.statfs(CONTEXT)
    assert (one.f_blocks, one.f_bfree, one.f_bavail, one.f_files, one.f_namemax) == (1, 0, 0, 1, 255)
    backend.publish(b"big", File(bytes(100_000)))
    every = await FakeKernel(backend).operations.statfs(CONTEXT)
    assert every.f_blocks == -(-sum(a.total_bytes for a in backend.shares().values()) // 4096)


@pytest.mark.parametrize(("mode", "allowed"), [(0o644, False), (0o654, True)])
async def test_access(mode: int, allowed: bool) -> None:
    backend = FakeBackend()
    backend.publish(b"s", Directory({b"f": File(b"x", replace(DEFAULT, mode=mode))}))
    kernel = FakeKernel(backend, b"s")
    f = (await kernel.walk(b"f")).st_ino
    assert await kernel.operations.access(f, os.R_OK, CONTEXT)
    assert await kernel.operations.access(f, os.X_OK, CONTEXT) == allowed
    assert await kernel.operations.access(ROOT, os.R_OK | os.X_OK, CONTEXT)
    assert await failure(kernel.operations.access(ROOT, os.W_OK, CONTEXT)) == errno.EROFS


async def test_extended_attributes(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    entry = backend.shares()[b"s"].entry
    values: dict[bytes, dict[bytes, bytes]] = {}
    for path in (b"", b"a", b"b", b"d"):
        number = (await kernel.walk(path)).st_ino
        assert await kernel.operations.listxattr(number, CONTEXT) == ()
        values[path] = {}
        for name in (b"object", b"b3sum", b"cached", b"version"):
            try:
                values[path][name] = await kernel.operations.getxattr(number, b"user.mcfs." + name, CONTEXT)
            except pyfuse3.FUSEError as error:
                assert error.errno == pyfuse3.ENOATTR  # noqa: PT017 - not the only outcome
    assert isinstance(entry, DirectoryEntry)
    assert isinstance(entry.content, ObjectRef)
    assert values[b""] == {b"object": entry.content.id.hex().encode(), b"version": b"1"}
    assert values[b"b"] == {b"version": b"1"}
    assert values[b"a"].keys() == {b"object", b"b3sum", b"cached", b"version"}
    assert values[b"a"][b"cached"] == b"2"
    assert values[b"d"].keys() == {b"b3sum", b"cached", b"version"}


async def test_noxattr_makes_the_kernel_stop_asking(backend: FakeBackend) -> None:
    operations = FakeKernel(backend, b"s", noxattr=True).operations
    assert await failure(operations.getxattr(ROOT, b"user.mcfs.version", CONTEXT)) == errno.ENOSYS
    assert await failure(operations.listxattr(ROOT, CONTEXT)) == errno.ENOSYS


async def test_unknown_attribute(backend: FakeBackend) -> None:
    operations = FakeKernel(backend).operations
    assert await failure(operations.getxattr(ROOT, b"security.capability", CONTEXT)) == errno.EOPNOTSUPP
    assert await failure(operations.getxattr(ROOT, b"user.mcfs.version", CONTEXT)) == errno.ENODATA


# --- read-only -------------------------------------------------------------------------------------------------------

MODIFYING = [
    "create",
    "link",
    "mkdir",
    "mknod",
    "removexattr",
    "rename",
    "rmdir",
    "setattr",
    "setxattr",
    "symlink",
    "unlink",
    "write",
]


@pytest.mark.parametrize("name", MODIFYING)
async def test_whatever_would_change_something_is_refused(backend: FakeBackend, name: str) -> None:
    operation = getattr(FakeKernel(backend, b"s").operations, name)
    arguments = len(inspect.signature(getattr(pyfuse3.Operations, name)).parameters) - 1
    assert await failure(operation(*[None] * arguments)) == errno.EROFS


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC])
async def test_open_for_writing_is_refused(backend: FakeBackend, flags: int) -> None:
    kernel = FakeKernel(backend, b"s")
    assert await failure(kernel.open((await kernel.walk(b"a")).st_ino, flags)) == errno.EROFS


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
        return [entry.name for entry in backend.upcoming()]

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


# --- references ------------------------------------------------------------------------------------------------------


async def test_nothing_is_kept_of_what_the_kernel_forgot(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend)
    await kernel.rows(ROOT)
    for path in (b"s/b/y/deep", b"s/c/link", b"single"):
        await kernel.walk(path)
    a = (await kernel.walk(b"s/a")).st_ino
    await kernel.forget()
    assert len(kernel.operations._table) == 1
    assert await failure(kernel.operations.getattr(a, CONTEXT)) == errno.ESTALE
    await kernel.operations.forget([(a, 1), (999, 1), (ROOT, 5)])
    assert await kernel.read(b"s/a") == b"alpha"


async def test_a_full_buffer_counts_no_lookup(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    handle = await kernel.operations.opendir(ROOT, CONTEXT)
    assert await kernel.readdir(handle, 2, 0) == []
    assert len(kernel.operations._table) == 1


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (TimedOut("t"), errno.ETIMEDOUT),
        (ShareDown("d"), errno.ETIMEDOUT),
        (Gone("g"), errno.ESTALE),
        (BadNode("n"), errno.EIO),
        (BadObject("o"), errno.EIO),
        (NotAvailable("?"), errno.EIO),
    ],
)
async def test_each_failure_has_its_error_number(backend: FakeBackend, error: Exception, number: int) -> None:
    kernel = FakeKernel(backend, b"s")
    c, a = [(await kernel.walk(path)).st_ino for path in (b"c", b"a")]
    backend.failure = error
    assert await failure(kernel.rows(c)) == number
    handle = await kernel.open(a)
    assert await failure(kernel.operations.read(handle, 0, 1)) == number
    backend.failure = None
    assert await kernel.rows(c), "a failure is not remembered"


async def test_a_bug_is_an_input_output_error_and_logged_once(
    backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = FakeKernel(backend, b"s")
    a = (await kernel.walk(b"a")).st_ino
    backend.failure = ZeroDivisionError("bug")
    handle = await kernel.open(a)
    for _ in range(3):
        assert await failure(kernel.operations.read(handle, 0, 1)) == errno.EIO
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_cancellation_is_not_an_error(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    with trio.CancelScope() as scope:
        scope.cancel()
        await kernel.rows(ROOT)
    assert scope.cancelled_caught
    assert await kernel.rows(ROOT)


async def test_release_and_close_close_the_readers(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    a = (await kernel.walk(b"a")).st_ino
    first, _ = await kernel.open(a), await kernel.open(a)
    await kernel.operations.release(first)
    assert [reader.closed for reader in backend.readers] == [True, False]
    kernel.operations.close()
    assert [reader.closed for reader in backend.readers] == [True, True]


async def test_known_names_need_no_network(backend: FakeBackend) -> None:
    kernel = FakeKernel(backend, b"s")
    await kernel.walk(b"c/z")
    backend.failure = ShareDown("down")
    assert (await kernel.walk(b"c/z")).st_size == 4
    assert await failure(kernel.walk(b"c/absent")) == errno.ENOENT
