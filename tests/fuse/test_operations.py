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
from tests.fuse.fakes import DEFAULT, TREE, Directory, FakeBackend, File
from tests.fuse.kernel_fake import CONTEXT, FakeKernel, failure

ROOT = pyfuse3.ROOT_INODE

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
    assert (absent.st_ino, absent.entry_timeout) == (0, 1.0)
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


async def test_a_link_has_the_length_of_its_target(backend: FakeBackend) -> None:
    link = await FakeKernel(backend, b"s").walk(b"c/link")
    assert stat.S_ISLNK(link.st_mode)
    assert link.st_size == len(b"../../outside")


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
