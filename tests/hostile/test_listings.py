"""Listings that break the rules: the directory cannot be read, and what lies beside it can."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import msgspec
import pytest

from mcfs.cli.ls import Style, entry_table
from mcfs.fuse.links import Symlinks
from mcfs.protocol import catalog
from mcfs.protocol.catalog import DirectoryEntry
from tests.fuse.kernel_fake import CONTEXT, failure
from tests.hostile.publisher import BIG, BLOCK, HASH, Raw, directory, file, link, listing, made_up

if TYPE_CHECKING:
    from mcfs.protocol.ids import ObjectRef
    from tests.hostile.site import Site

FINE = b"beside it\n"


async def publish(site: Site, bad: bytes | ObjectRef) -> None:
    """The share "evil" with a directory "bad", whose listing this is, and a file beside it."""
    ref = bad if not isinstance(bad, bytes) else site.store.add(bad)
    fine = site.store.add(FINE)
    root = listing(directory(b"bad", 0), file(b"fine", size=len(FINE), number=1), objects=[ref, fine])
    await site.announce_and_wait(site.evil.share(b"evil", root))


async def expect_unreadable(site: Site, error: int = errno.EIO) -> None:
    """The directory gives an error for all that is asked of it, and nothing else is the worse for it."""
    bad = await site.kernel.walk(b"evil/bad")
    assert await failure(site.kernel.rows(bad.st_ino)) == error
    assert await failure(site.kernel.lookup(bad.st_ino, b"x")) == error
    assert await site.kernel.read(b"evil/fine", 100) == FINE
    await site.expect_honest()


async def expect_names(site: Site, *names: bytes) -> None:
    bad = await site.kernel.walk(b"evil/bad")
    assert [row.name for row in await site.kernel.rows(bad.st_ino)] == list(names)


# --- names -----------------------------------------------------------------------------------------------------------

BAD_NAMES = {
    "a slash": b"../etc/passwd",
    "only a slash": b"/",
    "a slash inside": b"a/b",
    "this directory": b".",
    "the directory above": b"..",
    "a NUL": b"a\0b",
    "only a NUL": b"\0",
    "empty": b"",
    "too long": b"n" * 256,
    "text instead of bytes": "name",
    "a number": 7,
    "nothing": None,
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())
@pytest.mark.parametrize("entry", [file, directory, link])
async def test_names_that_no_directory_has(site: Site, name: object, entry: type) -> None:
    more = {"size": 0} if entry is file else {}
    await publish(site, listing(entry(name, **more)))
    await expect_unreadable(site)


async def test_a_bad_name_deep_in_what_is_inlined(site: Site) -> None:
    await publish(site, listing(directory(b"a", None, [directory(b"b", None, [link(b"c/d")])])))
    await expect_unreadable(site)


async def test_one_name_twice(site: Site) -> None:
    await publish(site, listing(link(b"same", b"x"), directory(b"same")))
    await expect_unreadable(site)


async def test_one_name_twice_over_two_parts(site: Site) -> None:
    parts = [site.store.add(listing(link(b"a"), link(b"same"))), site.store.add(listing(link(b"same", b"y")))]
    await publish(site, listing(objects=parts, parts=[0, 1]))
    await expect_unreadable(site)


async def test_parts_that_overlap(site: Site) -> None:
    parts = [site.store.add(listing(link(b"a"), link(b"z"))), site.store.add(listing(link(b"b")))]
    await publish(site, listing(objects=parts, parts=[0, 1]))
    await expect_unreadable(site)


async def test_one_part_twice(site: Site) -> None:
    await publish(site, listing(objects=[site.store.add(listing(link(b"a")))], parts=[0, 0]))
    await expect_unreadable(site)


async def test_names_out_of_order(site: Site) -> None:
    """A search by halves would find one and not the other."""
    await publish(site, listing(link(b"b"), link(b"a")))
    await expect_unreadable(site)


TERMINAL = b"\x1b]0;title\x07\x1b[2J\x9b31m\r\n\xe2\x80\xae\xff"


async def test_control_characters_are_shown_as_they_are_and_printed_escaped(site: Site) -> None:
    """They are legal in names, and a mount that hides files would be wrong; a terminal never gets them."""
    await publish(site, listing(link(TERMINAL, TERMINAL)))
    await expect_names(site, TERMINAL)
    root = site.client.shares()[b"evil"].entry
    assert isinstance(root, DirectoryEntry)
    bad, _ = await site.client.entries(b"evil", root.content)
    assert isinstance(bad, DirectoryEntry)
    entries = await site.client.entries(b"evil", bad.content)
    (line,) = entry_table(entries, Style(human=False, escape=True))
    assert line.isprintable()
    await site.expect_honest()


# --- kinds, modes, owners, times -------------------------------------------------------------------------------------

DEVICES = {"FIFO": stat.S_IFIFO, "socket": stat.S_IFSOCK, "block device": stat.S_IFBLK, "character": stat.S_IFCHR}


@pytest.mark.parametrize("kind", DEVICES.values(), ids=DEVICES.keys())
@pytest.mark.parametrize("entry", [file, directory, link])
async def test_a_kind_in_the_mode_is_dropped(site: Site, kind: int, entry: type) -> None:
    """What an entry is says its first element alone."""
    more = {"size": 0} if entry is file else {}
    await publish(site, listing(entry(b"x", mode=kind | 0o666, **more)))
    found = await site.kernel.walk(b"evil/bad/x")
    expected = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "link": stat.S_IFLNK}[entry.__name__]
    assert found.st_mode == expected | 0o666
    assert found.st_rdev == 0


@pytest.mark.parametrize("bits", [stat.S_ISUID, stat.S_ISGID, stat.S_ISVTX, 0xFFFFFFFF])
async def test_set_user_id_and_the_like_are_dropped(site: Site, bits: int) -> None:
    await publish(site, listing(file(b"su", size=0, mode=bits | 0o755)))
    found = await site.kernel.walk(b"evil/bad/su")
    assert found.st_mode & ~0o777 == stat.S_IFREG


@pytest.mark.parametrize("kind", [3, 4, 6, 12, 255, -1, b"0", None])
async def test_entries_of_kinds_that_there_are_not(site: Site, kind: object) -> None:
    await publish(site, listing([kind, *file(size=0)[1:]]))
    await expect_unreadable(site)


@pytest.mark.parametrize("entry", [[], [0], [0, b"f"], file(size=0)[:-1], {}, 5, b"entry"])
async def test_entries_that_are_cut_off(site: Site, entry: Raw) -> None:
    await publish(site, listing(entry))
    await expect_unreadable(site)


@pytest.mark.parametrize("mtime", [-(1 << 63), (1 << 63) - 1, -1, -(10**18)])
async def test_times_at_the_ends(site: Site, mtime: int) -> None:
    await publish(site, listing(file(b"f", size=0, mtime=mtime)))
    assert (await site.kernel.walk(b"evil/bad/f")).st_mtime_ns == mtime


@pytest.mark.parametrize(
    "more",
    [
        {"mtime": 1 << 63},
        {"mtime": -(1 << 63) - 1},
        {"mtime": 1.5},
        {"uid": 1 << 32},
        {"uid": -1},
        {"gid": 1 << 32},
        {"mode": 1 << 32},
        {"mode": -1},
    ],
    ids=str,
)
async def test_numbers_that_do_not_fit(site: Site, more: dict[str, object]) -> None:
    try:
        bad = listing(file(size=0, **more))
    except OverflowError:
        bad = listing(file(size=0, mtime=b"\xff" * 9))
    await publish(site, bad)
    await expect_unreadable(site)


async def test_owners_at_the_end(site: Site) -> None:
    """2^32 - 1 means nobody to chown(2)."""
    await publish(site, listing(file(b"f", size=0, uid=0xFFFFFFFF, gid=0xFFFFFFFF)))
    found = await site.kernel.walk(b"evil/bad/f")
    assert (found.st_uid, found.st_gid) == (0xFFFFFFFF, 0xFFFFFFFF)


async def test_names_of_owners_are_not_believed(site: Site) -> None:
    users = {0: b"\0/root\x1b[2J", 1000: b"x" * 100_000}
    await publish(site, listing(file(b"f", size=0, uid=1000), users=users, groups={0: b""}))
    assert (await site.kernel.walk(b"evil/bad/f")).st_uid == 1000


# --- sizes and extents -----------------------------------------------------------------------------------------------

CONTENT = b"0123456789"

BAD_EXTENTS = {
    "longer than its object": (file(size=11), [len(CONTENT)]),
    "behind the end": (file(size=1, offset=10), [len(CONTENT)]),
    "over the end": (file(size=5, offset=6), [len(CONTENT)]),
    "size and offset overflow": (file(size=BIG, offset=BIG), [BIG]),
    "overflow by one": (file(size=BIG, offset=1), [BIG]),
    "size of 2^63": (file(size=1 << 63), [BIG]),
    "offset of 2^63": (file(offset=1 << 63), [BIG]),
    "negative size": (file(size=-1), [10]),
    "negative offset": (file(offset=-1), [10]),
    "no object": (file(number=None), [10]),
    "object that is not there": (file(number=1), [10]),
    "object of a negative number": (file(number=-1), [10]),
}


@pytest.mark.parametrize(("entry", "sizes"), BAD_EXTENTS.values(), ids=BAD_EXTENTS.keys())
async def test_extents_outside_of_their_objects(site: Site, entry: Raw, sizes: list[int]) -> None:
    await publish(site, listing(entry, objects=[made_up(size, BLOCK << 8) for size in sizes]))
    await expect_unreadable(site)


BAD_TRIPLES = {
    "no bytes": [0, BLOCK, HASH],
    "2^63 bytes": [1 << 63, BLOCK << 8, HASH],
    "blocks of nothing": [5, 0, HASH],
    "blocks of one byte": [5, 1, HASH],
    "blocks that are no power of two": [5, BLOCK + 1, HASH],
    "blocks too small": [5, BLOCK // 2, HASH],
    "blocks too large": [5, BLOCK << 9, HASH],
    "more than 2^40 blocks": [BIG, BLOCK, HASH],
    "a short hash": [5, BLOCK, HASH[:-1]],
    "a long hash": [5, BLOCK, HASH + b"\0"],
    "cut off": [5, BLOCK],
}


@pytest.mark.parametrize("bad", BAD_TRIPLES.values(), ids=BAD_TRIPLES.keys())
async def test_objects_of_impossible_shapes(site: Site, bad: Raw) -> None:
    """Also when no entry refers to them."""
    await publish(site, listing(file(size=0), objects=[bad]))
    await expect_unreadable(site)


async def test_extents_that_overlap_are_just_bytes(site: Site) -> None:
    pack = site.store.add(CONTENT)
    entries = [file(b"a", size=10), file(b"b", size=10), file(b"c", size=3, offset=2), file(b"d", size=1, offset=9)]
    await publish(site, listing(*entries, objects=[pack]))
    kernel = site.kernel
    contents = [await kernel.read(b"evil/bad/" + name, 100) for name in (b"a", b"b", b"c", b"d")]
    assert contents == [CONTENT, CONTENT, CONTENT[2:5], CONTENT[9:]]


async def test_a_file_of_a_listing_is_its_bytes(site: Site) -> None:
    """And a directory of a file's bytes is none."""
    inner = listing(link(b"x", b"y"))
    await publish(site, listing(file(b"f", size=len(inner)), directory(b"g", 0), objects=[site.store.add(inner)]))
    assert await site.kernel.read(b"evil/bad/f", 1000) == inner
    assert (await site.kernel.walk(b"evil/bad/g/x")).st_size == 1


@pytest.mark.parametrize(
    "content",
    [
        b"\0",
        b"no listing at all",
        msgspec.msgpack.encode([]),
        msgspec.msgpack.encode({}),
        b"\x96" * 5000,
        os.urandom(999),
    ],
    ids=["zeros", "text", "empty array", "map", "arrays", "noise"],
)
async def test_a_directory_that_is_something_else(site: Site, content: bytes) -> None:
    await publish(site, content)
    await expect_unreadable(site)


async def test_entries_beside_parts(site: Site) -> None:
    part = site.store.add(listing(link(b"a")))
    await publish(site, listing(link(b"b"), objects=[part], parts=[0]))
    await expect_unreadable(site)


async def test_parts_of_parts(site: Site) -> None:
    """However deep these go: the first level is refused."""
    inner = site.store.add(listing(link(b"a")))
    for _ in range(50):
        inner = site.store.add(listing(objects=[inner], parts=[0]))
    await publish(site, inner)
    await expect_unreadable(site)


async def test_a_directory_with_both_an_object_and_entries(site: Site) -> None:
    inner = site.store.add(listing(link(b"a")))
    await publish(site, listing(directory(b"d", 0, [link(b"b")]), objects=[inner]))
    await expect_unreadable(site)


async def test_bytes_behind_the_end(site: Site) -> None:
    await publish(site, listing(link(b"a")) + listing(link(b"b")))
    await expect_unreadable(site)


async def test_another_format(site: Site) -> None:
    await publish(site, listing(link(b"a"), format=2))
    await expect_unreadable(site)


# --- links -----------------------------------------------------------------------------------------------------------

ESCAPES = [b"/etc/passwd", b"../../../../../etc/passwd", b"../../../x", b"up/../../..", b"/", b"//", b"./../../.."]


@pytest.mark.parametrize("target", ESCAPES)
async def test_links_that_lead_out_are_not_followed(site: Site, target: bytes) -> None:
    await publish(site, listing(link(b"in", b"../fine"), link(b"out", target), link(b"up", b"..")))
    out, inside = await site.kernel.walk(b"evil/bad/out"), await site.kernel.walk(b"evil/bad/in")
    assert await failure(site.kernel.operations.readlink(out.st_ino, CONTEXT)) == errno.EPERM
    assert await site.kernel.operations.readlink(inside.st_ino, CONTEXT) == b"../fine"
    hiding = site.mount(symlinks=Symlinks.HIDE)
    assert await failure(hiding.walk(b"evil/bad/out")) == errno.ENOENT


@pytest.mark.parametrize("target", [b"", b"a\0b", b"t" * 4096, None, "text"])
async def test_links_to_what_is_no_path(site: Site, target: object) -> None:
    await publish(site, listing(link(b"l", target)))
    await expect_unreadable(site)


# --- extended attributes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"user." + TERMINAL, b"user.", b"user.mcfs.", b"user.mcfs.b3sum\xff", b"user.a/b"])
async def test_attributes_of_strange_names_are_absent(site: Site, name: bytes) -> None:
    """Nothing that a publisher writes becomes an attribute, but in hexadecimal or decimal digits."""
    await publish(site, listing(file(TERMINAL, size=3, offset=0), objects=[site.store.add(b"abc")]))
    found = await site.kernel.walk(b"evil/bad/" + TERMINAL)
    assert await failure(site.kernel.operations.getxattr(found.st_ino, name, CONTEXT)) == errno.ENODATA
    for known in (b"object", b"b3sum", b"cached", b"version"):
        value = await site.kernel.operations.getxattr(found.st_ino, b"user.mcfs." + known, CONTEXT)
        assert value.isalnum()
    assert await site.kernel.operations.listxattr(found.st_ino, CONTEXT) == ()


def test_the_limits_are_those_of_the_documents() -> None:
    assert (catalog.MAX_LISTING_SIZE, catalog.MAX_DIRECTORY_SIZE) == (8_388_608, 536_870_912)
    assert (catalog.MAX_ENTRIES, catalog.MAX_PARTS, catalog.MAX_DEPTH) == (1_048_576, 65_536, 64)
