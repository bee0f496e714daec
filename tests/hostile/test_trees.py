"""Trees that are too deep, too wide, too large or not true: bounded in memory and time, and never wrong bytes."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from mcfs.fetch.listings import KEPT_ENTRIES
from mcfs.fuse.inodes import DirectoryNode
from mcfs.fuse.tree import MAX_LISTED
from mcfs.protocol import catalog, merkle
from mcfs.protocol.addressing import Addresser, addresser_of
from mcfs.protocol.ids import FAN_OUT, Digest, Node, ObjectRef
from tests.fuse.kernel_fake import CONTEXT, failure
from tests.hostile.publisher import BIG, BLOCK, directory, file, link, listing, made_up, top_over
from tests.hostile.test_listings import expect_unreadable, publish

if TYPE_CHECKING:
    from tests.hostile.site import Site

HUGE_BLOCK = BLOCK << 8
TIMEOUT = 30.0
MAX_WAIT = 300.0
LEVELS = 5
"""A block and the pages above it, of the largest object."""
WRONG = (errno.EIO, errno.ETIMEDOUT)
"""What comes first: so many wrong nodes, or the time-out, as a source that was wrong is set aside ever longer."""


async def root(site: Site, content: bytes) -> None:
    site.announce(site.evil.share(b"evil", content))


# --- depth -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [64, 65, 200, 5000, 100_000])
async def test_directories_inlined_too_deep(site: Site, depth: int) -> None:
    """Made by hand: no encoder goes that deep."""
    head = msgspec.msgpack.encode(directory(b"d"))
    assert head.endswith(b"\x90")
    open_, innermost = head[:-1] + b"\x91", head
    bad = b"\x96\x01\x90\x80\x80\x90\x91" + open_ * (depth - 1) + innermost
    await publish(site, bad)
    await expect_unreadable(site)


@pytest.mark.parametrize("depth", [1000, 1_000_000])
async def test_arrays_in_arrays_where_an_element_is_to_be_skipped(site: Site, depth: int) -> None:
    bad = b"\x97\x01\x90\x80\x80\x90\x90" + b"\x91" * depth + b"\xc0"
    await publish(site, bad)
    await expect_unreadable(site)


async def test_a_very_deep_path(site: Site) -> None:
    """Each directory an object of its own. The kernel walks step by step, and so do we."""
    depth = 1500
    inner = site.store.add(listing(link(b"end")))
    for _ in range(depth):
        inner = site.store.add(listing(directory(b"n" * 255, 0), objects=[inner]))
    await publish(site, inner)
    await site.kernel.walk(b"evil/bad/" + b"/".join([b"n" * 255] * depth) + b"/end")
    await site.expect_honest()
    # A new version of the share, seen from the bottom: all of the way is looked at again, one after the other.
    bottom = await site.kernel.walk(b"evil/bad/" + b"/".join([b"n" * 255] * depth))
    await publish(site, inner)
    assert [row.name for row in await site.kernel.rows(bottom.st_ino)] == [b"end"]


async def test_a_directory_that_contains_itself_many_times(site: Site) -> None:
    """No hash stands for itself, but sixty objects make 2^60 paths. Memory goes by objects and by what is looked at."""
    inner = site.store.add(listing(link(b"end")))
    for _ in range(60):
        inner = site.store.add(listing(directory(b"a", 0), directory(b"b", 0), objects=[inner]))
    await publish(site, inner)
    for way in (b"ab" * 30, b"ba" * 30, b"a" * 60, b"b" * 60):
        path = b"/".join(way[i : i + 1] for i in range(60))
        assert (await site.kernel.walk(b"evil/bad/" + path + b"/end")).st_ino
    assert len(site.client._listings) <= 70
    assert len(site.store.loaded) <= 70
    await site.kernel.forget()
    assert len(site.kernel.operations._table) == 1


# --- width -----------------------------------------------------------------------------------------------------------


def claiming(count: int) -> bytes:
    """A listing that says that it has so many entries, and has none."""
    return b"\x96\x01\x90\x80\x80\x90\xdd" + count.to_bytes(4, "big")


@pytest.mark.parametrize("count", [10_000_000, 0xFFFFFFFF, catalog.MAX_ENTRIES + 1])
async def test_a_count_of_entries_is_not_believed(site: Site, count: int) -> None:
    await publish(site, claiming(count))
    await expect_unreadable(site)


async def test_ten_million_entries_in_one_listing(site: Site) -> None:
    """It is too long, which its triple says: not a byte of it is fetched."""
    await publish(site, made_up(10_000_000 * 14, HUGE_BLOCK))
    before = len(site.store.loaded)
    await expect_unreadable(site)
    assert all(node.object.size != 140_000_000 for node in site.store.loaded[before:])


async def test_ten_million_entries_in_parts(site: Site) -> None:
    """As many listings as are allowed, each as long as is allowed. None is fetched."""
    parts = [made_up(catalog.MAX_LISTING_SIZE, HUGE_BLOCK, n.to_bytes(32, "big")) for n in range(100)]
    await publish(site, listing(objects=parts, parts=list(range(100))))
    await expect_unreadable(site)
    assert not site.client._tree._pending


async def test_entries_that_are_short_are_counted_as_they_come(site: Site) -> None:
    """Parts that together are not too long, with more entries than are allowed."""
    dense = listing(*(directory(b"~%06d" % n) for n in range(400_000)))
    parts = [site.store.add(dense.replace(b"~", letter)) for letter in (b"a", b"b", b"c")]
    await publish(site, listing(objects=parts, parts=[0, 1, 2]))
    bad = await site.kernel.walk(b"evil/bad")
    assert await failure(site.kernel.rows(bad.st_ino)) == errno.EIO
    assert len(site.client._listings) == 1  # that of the share's root
    await site.expect_honest()


async def test_a_dense_listing_is_counted_with_what_is_inlined(site: Site) -> None:
    """A hundred entries with 5,000 each, in two parts; and one part too many."""
    children = [directory(b"%c%c" % (a, b)) for a in range(48, 118) for b in range(48, 118)]
    dense = listing(*(directory(b"~%05d" % n, None, children) for n in range(100)))
    assert len(dense) < catalog.MAX_LISTING_SIZE
    parts = [site.store.add(dense.replace(b"~", letter)) for letter in (b"a", b"b", b"c")]
    await publish(site, listing(objects=parts[:2], parts=[0, 1]))
    bad = await site.kernel.walk(b"evil/bad")
    assert len(await site.kernel.rows(bad.st_ino, 1000)) == 200
    await publish(site, listing(objects=parts, parts=[0, 1, 2]))
    assert await failure(site.kernel.rows(bad.st_ino)) == errno.EIO
    await site.expect_honest()


async def test_as_many_parts_as_are_allowed_and_all_empty(site: Site) -> None:
    """65,536 parts: one object, read over and over. It ends."""
    empty = site.store.add(listing())
    await publish(site, listing(objects=[empty], parts=[0] * catalog.MAX_PARTS))
    bad = await site.kernel.walk(b"evil/bad")
    assert await site.kernel.rows(bad.st_ino) == []
    await site.expect_honest()


async def test_many_long_directories_are_not_all_kept(site: Site) -> None:
    refs = [site.store.add(listing(*(link(b"%02d%05d" % (d, n)) for n in range(20_000)))) for d in range(70)]
    await publish(site, listing(*(directory(b"%02d" % n, n) for n in range(70)), objects=refs))
    numbers = []
    for n in range(70):
        found = await site.kernel.walk(b"evil/bad/%02d" % n)
        numbers.append(found.st_ino)
        handle = await site.kernel.operations.opendir(found.st_ino, CONTEXT)
        await site.kernel.operations.releasedir(handle)
    assert site.client._listings._weight <= KEPT_ENTRIES
    nodes = site.kernel.operations._table._by_number.values()
    held = [node.listing for node in nodes if isinstance(node, DirectoryNode) and node.listing]
    assert sum(len(each.entries) for each in held) <= MAX_LISTED
    # What was dropped is there again when it is asked for, under the same number.
    assert (await site.kernel.walk(b"evil/bad/00")).st_ino == numbers[0]
    assert (await site.kernel.lookup(numbers[0], b"0000007")).st_size == 1


async def test_many_who_look_into_a_long_directory_decode_it_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await publish(site, listing(*(link(b"%05d" % n) for n in range(20_000))))
    bad = await site.kernel.walk(b"evil/bad")
    decoded = []
    decode = site.client._decode

    async def counting(data: bytes) -> catalog.Listing:
        decoded.append(len(data))
        await trio.sleep(1.0)
        return await decode(data)

    monkeypatch.setattr(site.client, "_decode", counting)
    async with trio.open_nursery() as nursery:
        for n in range(50):
            nursery.start_soon(site.kernel.lookup, bad.st_ino, b"%05d" % n)
    assert len(decoded) == 1
    # One that fails fails for all of them, each in its own time.
    await publish(site, made_up(1000))
    start = trio.current_time()
    errors = []

    async def look() -> None:
        errors.append(await failure(site.kernel.rows(bad.st_ino)))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(look)
    assert errors == [errno.ETIMEDOUT] * 5
    assert trio.current_time() - start <= MAX_WAIT + 1
    await site.expect_honest()


# --- time ------------------------------------------------------------------------------------------------------------


async def test_a_listing_that_never_comes(site: Site) -> None:
    await publish(site, made_up(1000))
    bad = await site.kernel.walk(b"evil/bad")
    start = trio.current_time()
    assert await failure(site.kernel.rows(bad.st_ino)) == errno.ETIMEDOUT
    assert trio.current_time() - start <= TIMEOUT + 1
    await site.expect_honest()


async def test_parts_that_come_just_in_time_each(site: Site) -> None:
    """A hundred parts, each after 25 seconds: the directory fails when `max_wait` is over, not after 40 minutes."""
    parts = [site.store.add(listing(link(b"%04d" % n))) for n in range(100)]
    top = listing(objects=parts, parts=list(range(100)))
    await publish(site, top)
    bad = await site.kernel.walk(b"evil/bad")
    slow = {Node(ref, 0, 0): number for number, ref in enumerate(parts)}
    start = trio.current_time()
    resolve = site.store.resolve

    def later(group: bytes) -> object:
        channel = resolve(group)
        number = slow.get(channel.node) if channel is not None else None
        return None if number is not None and trio.current_time() < start + 25 * (1 + number) else channel

    site.store.resolve = later  # type: ignore[method-assign,assignment]
    assert await failure(site.kernel.rows(bad.st_ino)) == errno.ETIMEDOUT
    assert trio.current_time() - start <= MAX_WAIT + 1
    await site.expect_honest()


async def test_new_versions_all_the_time(site: Site) -> None:
    """Each lookup starts anew at the root, and ends all the same."""
    await publish(site, listing(link(b"0")))
    bad = await site.kernel.walk(b"evil/bad")
    for n in range(1, 30):
        await publish(site, listing(link(b"%d" % n)))
        assert [row.name for row in await site.kernel.rows(bad.st_ino)] == [b"%d" % n]
    await site.expect_honest()


# --- objects that are not true ---------------------------------------------------------------------------------------


async def publish_file(site: Site, ref: ObjectRef, size: int) -> int:
    """The share "evil" with a file of this object; the file's inode."""
    await root(site, listing(file(b"f", size=size), objects=[ref]))
    return (await site.kernel.walk(b"evil/f")).st_ino


async def read_at(site: Site, number: int, offset: int, length: int = 4096) -> bytes:
    handle = await site.kernel.open(number)
    try:
        return bytes(await site.kernel.operations.read(handle, offset, length))
    finally:
        await site.kernel.operations.release(handle)


async def test_blocks_that_are_not_those_of_the_page(site: Site) -> None:
    """The page is right, the publisher signed for it, and no block fits it: an error, never the bytes that came."""
    leaves = b"".join(bytes([n]) * 32 for n in range(1, 5))
    ref = top_over(leaves, 4 * BLOCK)
    site.store._objects.update(_known(site, ref, leaves))
    for index in range(4):
        site.store.lies[Node(ref, 0, index)] = os.urandom(BLOCK)
    number = await publish_file(site, ref, 4 * BLOCK)
    assert await failure(read_at(site, number, 0)) in WRONG
    assert await failure(read_at(site, number, 3 * BLOCK)) in WRONG
    await trio.sleep(61)  # the source was set aside
    await site.expect_honest()


async def test_a_page_that_is_not_that_of_the_top(site: Site) -> None:
    content = os.urandom(3 * BLOCK)
    ref = site.store.add(content)
    site.store.lies[Node(ref, 1, 0)] = os.urandom(3 * 32)
    number = await publish_file(site, ref, len(content))
    assert await failure(read_at(site, number, 0)) in WRONG
    await trio.sleep(61)
    await site.expect_honest()


async def test_one_wrong_block_among_right_ones(site: Site) -> None:
    content = os.urandom(4 * BLOCK)
    ref = site.store.add(content)
    site.store.lies[Node(ref, 0, 2)] = bytes(BLOCK)
    number = await publish_file(site, ref, len(content))
    assert await read_at(site, number, BLOCK) == content[BLOCK : BLOCK + 4096]
    assert await failure(read_at(site, number, 2 * BLOCK)) in WRONG
    await trio.sleep(61)
    assert await read_at(site, number, 3 * BLOCK) == content[3 * BLOCK : 3 * BLOCK + 4096]


async def test_a_page_used_as_a_block(site: Site) -> None:
    """The bytes of a page as a file: their hash is that of a leaf, and the page's own is another one."""
    page = b"".join(merkle.leaf_hash(bytes([n]) * BLOCK) for n in range(4))
    ref = ObjectRef(len(page), BLOCK, Digest(merkle.page_hash(1, page)))
    site.store._objects.update(_known(site, ref, merkle.leaf_hash(page)))
    site.store.lies[Node(ref, 0, 0)] = page
    number = await publish_file(site, ref, len(page))
    assert await failure(read_at(site, number, 0)) in WRONG


def _known(site: Site, ref: ObjectRef, leaves: bytes) -> dict[bytes, tuple[ObjectRef, Addresser]]:
    """As MemoryStore.add does, for an object whose content there is not."""
    addresser = addresser_of(ref)
    site.store._levels[ref] = b"", merkle.tree_levels(leaves)
    return {addresser.tag: (ref, addresser)}


@pytest.mark.parametrize("block", [BLOCK << 7, HUGE_BLOCK])
async def test_a_file_of_2_63_bytes(site: Site, block: int) -> None:
    """Its size is shown; a read anywhere ends in time, and nothing is asked for that grows with the size."""
    number = await publish_file(site, made_up(BIG, block), BIG)
    shown = await site.kernel.operations.getattr(number, CONTEXT)
    assert (shown.st_size, shown.st_blocks) == (BIG, (BIG + 511) // 512)
    for offset in (0, 1 << 40, BIG - 1):
        start = trio.current_time()
        assert await failure(read_at(site, number, offset)) == errno.ETIMEDOUT
        assert trio.current_time() - start <= TIMEOUT + 1
        assert len(site.client._tree._pending) <= 300
        await site.expect_honest()
    assert await site.kernel.operations.getxattr(number, b"user.mcfs.cached", CONTEXT) == b"0"
    assert site.receiver.most_joined <= 64 + 10


async def test_a_huge_file_of_zeros(site: Site) -> None:
    """It is known without being fetched, and reading it takes no more memory than what is read."""
    blocks = 1 << 20
    leaf = merkle.zero_leaf(BLOCK)
    page = merkle.page_hash(1, leaf * FAN_OUT)
    top = merkle.page_hash(2, page * FAN_OUT)
    ref = ObjectRef(blocks * BLOCK, BLOCK, Digest(top))
    addresser = addresser_of(ref)
    site.store._objects[addresser.tag] = (ref, addresser)
    site.store.lies[Node(ref, 2, 0)] = page * FAN_OUT
    for index in range(FAN_OUT):
        site.store.lies[Node(ref, 1, index)] = leaf * FAN_OUT
    for index in (0, 512 * FAN_OUT, blocks - 1):
        site.store.lies[Node(ref, 0, index)] = bytes(BLOCK)
    number = await publish_file(site, ref, ref.size)
    assert await read_at(site, number, ref.size - 10) == bytes(10)
    assert await read_at(site, number, 512 * FAN_OUT * BLOCK) == bytes(4096)
    assert sum(node.level == 0 and node.object == ref for node in site.store.loaded) < 50
    assert site.client._cache.used < 50 << 20


async def test_reading_ahead_of_huge_files_is_bounded(site: Site) -> None:
    """Files in a row, each of which claims 8 EiB: what is looked at ahead goes by bytes and by files."""
    refs = [made_up(BIG, HUGE_BLOCK, n.to_bytes(32, "big")) for n in range(100)]
    await root(site, listing(*(file(b"%03d" % n, size=BIG, number=n) for n in range(100)), objects=refs))
    numbers = [(await site.kernel.walk(b"evil/%03d" % n)).st_ino for n in range(100)]
    handles = [await site.kernel.open(number) for number in numbers]
    assert len(site.client._tree._pending) <= 100 * LEVELS
    await site.expect_honest()
    for handle in handles:
        await site.kernel.operations.release(handle)


async def test_a_file_that_is_announced_and_never_sent(site: Site) -> None:
    number = await publish_file(site, made_up(5 * BLOCK, BLOCK), 5 * BLOCK)
    start = trio.current_time()
    assert await failure(read_at(site, number, 0)) == errno.ETIMEDOUT
    assert trio.current_time() - start <= TIMEOUT + 1
    await site.expect_honest()


async def test_a_page_above_blocks_that_never_come(site: Site) -> None:
    """A page of hashes that is right, above blocks that never come."""
    leaves = os.urandom(32 * 8)
    ref = top_over(leaves, 8 * BLOCK)
    site.store._objects.update(_known(site, ref, leaves))
    site.store.lost.update(Node(ref, 0, index) for index in range(8))
    number = await publish_file(site, ref, 8 * BLOCK)
    assert await failure(read_at(site, number, 0)) == errno.ETIMEDOUT
    await site.expect_honest()
