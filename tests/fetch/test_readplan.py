"""Read-ahead."""

from __future__ import annotations

from mcfs.fetch.readplan import ReadPlan, TreeFollower, blocks
from mcfs.protocol.catalog import Attributes, Extent, FileEntry
from mcfs.protocol.ids import DEFAULT_BLOCK_SIZE, Digest, Node, ObjectRef

MIB = 1 << 20


def big(mib: int, top: int = 0) -> ObjectRef:
    return ObjectRef(mib * MIB, DEFAULT_BLOCK_SIZE, Digest(top.to_bytes(32, "big")))


def file(number: int, ref: ObjectRef, offset: int, length: int) -> FileEntry:
    name = b"%06d" % number
    return FileEntry(name, Attributes(0o644, 0, 0, 0), Extent(ref, offset, length), Digest(bytes(32)))


def test_blocks_of_an_extent() -> None:
    extent = Extent(big(10), MIB // 2, 4 * MIB)
    assert blocks(extent, 0, 1) == range(1)
    assert blocks(extent, 0, MIB) == range(2)
    assert blocks(extent, MIB // 2, MIB) == range(1, 2)
    assert blocks(extent, 0, 0) == range(0)


def ahead(plan: ReadPlan) -> list[int]:
    return list(iter(plan.next_ahead, None))


def test_sequential_reads_are_fetched_ahead_further_and_further() -> None:
    plan = ReadPlan(Extent(big(100), 0, 100 * MIB))
    plan.advance(0, MIB)
    assert ahead(plan) == list(range(1, 7))
    plan.advance(MIB, MIB)
    assert ahead(plan) == list(range(7, 12))
    for block in range(2, 40):
        plan.advance(block * MIB, MIB)
        ahead(plan)
    plan.advance(40 * MIB, MIB)
    assert ahead(plan)[-1] == 88
    assert plan.ahead == range(41, 100)


def test_a_look_at_the_head_of_a_file_fetches_little() -> None:
    plan = ReadPlan(Extent(big(100), 0, 100 * MIB))
    plan.advance(0, 4096)
    assert ahead(plan) == [1, 2]
    assert plan.ahead == range(0)


def test_random_reads_fetch_nothing_ahead() -> None:
    plan = ReadPlan(Extent(big(1000), 0, 1000 * MIB))
    for offset in (500, 3, 800, 250, 700):
        plan.advance(offset * MIB, 4096)
        assert ahead(plan) == []
        assert not plan.sequential
        assert plan.ahead == range(0)


def test_the_end_of_the_file_is_the_end() -> None:
    plan = ReadPlan(Extent(big(3), 0, 3 * MIB))
    plan.advance(0, MIB)
    assert ahead(plan) == [1, 2]


def test_a_reader_of_a_whole_tree_is_noticed() -> None:
    packs = [big(1, top) for top in range(10)]
    files = [file(i, packs[i // 10], i % 10 * 1000, 1000) for i in range(100)]
    follower = TreeFollower()
    assert follower.opened(files[0], files[1:], 8 * MIB) == []
    follower.opened(files[1], files[2:], 8 * MIB)
    ahead = follower.opened(files[2], files[3:], 4 * MIB)
    assert ahead == [Node(pack, 0, 0) for pack in packs[:4]]


def test_one_who_opens_here_and_there_is_not() -> None:
    packs = [big(1, top) for top in range(10)]
    files = [file(i, packs[i // 10], i % 10 * 1000, 1000) for i in range(100)]
    follower = TreeFollower()
    for i in (5, 80, 20, 60):
        assert follower.opened(files[i], files[i + 1 :], 8 * MIB) == []
