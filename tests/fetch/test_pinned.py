"""What a pinned path stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mcfs.fetch.cache import Cache
from mcfs.fetch.pinned import AT_A_TIME, PinStream, Wanted, pages_first, resolve
from mcfs.protocol.catalog import Attributes, DirectoryEntry, Entry, Extent, FileEntry, LinkEntry
from mcfs.protocol.errors import UserError
from mcfs.protocol.ids import Digest, Node

from .cachefakes import BLOCK, Sample

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = Attributes(0o644, 0, 0, 0)
LARGE, PACK, LISTING = Sample(1, 10 * BLOCK + 5), Sample(2, 3 * BLOCK), Sample(3, 500)


def file(name: bytes, extent: Extent | None) -> FileEntry:
    return FileEntry(name, PLAIN, extent, Digest(bytes(32)))


TREE = DirectoryEntry(
    b"share",
    PLAIN,
    (
        DirectoryEntry(b"dir", PLAIN, LISTING.ref),
        file(b"empty", None),
        file(b"large", Extent(LARGE.ref, 0, LARGE.ref.size)),
        LinkEntry(b"link", PLAIN, b"large"),
    ),
)
LISTED: tuple[Entry, ...] = (
    file(b"a", Extent(PACK.ref, 10, 100)),
    file(b"b", Extent(PACK.ref, BLOCK - 10, 20)),
)


async def entries(directory: DirectoryEntry) -> tuple[Entry, ...]:
    return directory.content if isinstance(directory.content, tuple) else LISTED


async def test_a_whole_share() -> None:
    wanted = await resolve(TREE, b"", 7, entries)
    assert (wanted.version, wanted.files) == (7, 4)
    assert wanted.blocks == {LARGE.ref: range(11), PACK.ref: range(2)}
    assert wanted.bytes == LARGE.ref.size + 2 * BLOCK
    assert wanted.objects == {LARGE.ref.id, PACK.ref.id, LISTING.ref.id}
    assert wanted.room > wanted.bytes


async def test_a_file_and_a_directory() -> None:
    assert (await resolve(TREE, b"large", 1, entries)).blocks == {LARGE.ref: range(11)}
    assert (await resolve(TREE, b"dir/a", 1, entries)).blocks == {PACK.ref: range(1)}
    assert (await resolve(TREE, b"dir", 1, entries)).blocks == {PACK.ref: range(2)}
    assert (await resolve(TREE, b"empty", 1, entries)).objects == frozenset()
    assert (await resolve(TREE, b"link", 1, entries)).files == 0


@pytest.mark.parametrize("path", [b"absent", b"large/below", b"dir/c", b"link/a"])
async def test_what_is_not_there(path: bytes) -> None:
    with pytest.raises(UserError, match="no such file"):
        await resolve(TREE, path, 1, entries)


async def test_more_files_than_anybody_could_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten names, each of a directory with the same ten names, and so on: 10^30 files in a few listings."""
    monkeypatch.setattr("mcfs.fetch.pinned.MAX_ENTRIES", 1000)
    bomb: tuple[Entry, ...] = (file(b"f", None),)
    for _ in range(30):
        bomb = tuple(DirectoryEntry(b"%d" % n, PLAIN, bomb) for n in range(10))
    listed = 0

    async def counted(directory: DirectoryEntry) -> tuple[Entry, ...]:
        nonlocal listed
        found = await entries(directory)
        listed += len(found)
        return found

    with pytest.raises(UserError, match="more than 1000 files"):
        await resolve(DirectoryEntry(b"share", PLAIN, bomb), b"", 1, counted)
    assert listed <= 1010, "what is still to be looked at counts as well"


async def test_how_much_is_there(tmp_path: Path) -> None:
    wanted = await resolve(TREE, b"", 1, entries)
    cache = Cache.open(tmp_path)
    done, missing = wanted.survey(cache)
    assert (done, len(missing)) == (0, 13)
    for node in (LARGE.node(0), LARGE.node(10), PACK.node(1), PACK.node(2)):
        cache.store(node, (LARGE if node.object is LARGE.ref else PACK).bytes(node))
    done, missing = wanted.survey(cache)
    assert done == BLOCK + 5 + BLOCK
    assert missing == [PACK.node(0), *(LARGE.node(index) for index in range(1, 10))]
    cache.close()


def test_only_so_many_blocks_at_a_time(tmp_path: Path) -> None:
    wanted = Wanted(1)
    for seed in range(5):
        wanted.add(Extent(Sample(seed, 300 * BLOCK).ref, 0, 300 * BLOCK))
    cache = Cache.open(tmp_path)
    done, missing = wanted.survey(cache)
    assert (done, len(missing)) == (0, AT_A_TIME)
    cache.close()


def test_the_stream_gives_each_node_once() -> None:
    stream = PinStream(b"s")
    assert (stream.reading, stream.next_ahead()) == (0, None)
    nodes = [Node(LARGE.ref, 0, index) for index in range(3)]
    stream.feed(nodes)
    assert stream.reading == 3
    assert [stream.next_ahead() for _ in range(4)] == [*nodes, None]


def test_of_a_page_that_is_not_there_one_block_is_asked_for(tmp_path: Path) -> None:
    cache = Cache.open(tmp_path, max_bytes=1 << 24, min_free=0)
    small = Sample(7, 10)
    nodes = [*(LARGE.node(index) for index in range(3)), *(PACK.node(index) for index in range(2)), small.node(0)]
    assert pages_first(nodes, cache) == [LARGE.node(0), PACK.node(0), small.node(0)]
    cache.store(PACK.node(0, 1), PACK.bytes(PACK.node(0, 1)))
    assert pages_first(nodes, cache) == [LARGE.node(0), *(PACK.node(index) for index in range(2)), small.node(0)]
    cache.close()
