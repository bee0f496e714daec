"""Read-ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcfs.fetch.readplan import FOLLOW, MAX_FOLLOWERS, MAX_KNOWN_AHEAD, ReadPlan, TreeFollowers, blocks
from mcfs.protocol.catalog import Attributes, Extent, FileEntry
from mcfs.protocol.ids import DEFAULT_BLOCK_SIZE, Digest, Node, ObjectRef

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def tree(count: int, *, size: int = 1000, per_pack: int = 10) -> list[FileEntry]:
    packs = [big(1, top) for top in range(-(-count // per_pack))]
    return [file(i, packs[i // per_pack], i % per_pack * size, size) for i in range(count)]


class Copier:
    """Opens files of a tree."""

    def __init__(self, files: list[FileEntry], followers: TreeFollowers | None = None) -> None:
        self.files = files
        self.followers = TreeFollowers() if followers is None else followers
        self.asked = 0
        self.known: dict[ObjectRef, set[int]] = {}

    def upcoming(self, number: int) -> Iterator[FileEntry | None]:
        for entry in self.files[number + 1 :]:
            self.asked += 1
            yield entry
            yield None  # a directory, or a link

    def open(self, number: int, share: bytes = b"share") -> list[Node]:
        """What is fetched ahead then."""
        follower = self.followers.opened(share, self.files[number], lambda: self.upcoming(number))
        if follower is None:
            return []
        for object_, known in follower.draw():
            self.known.setdefault(object_, set()).update(known)
        return list(iter(follower.next_ahead, None))


def test_a_reader_of_a_whole_tree_is_noticed() -> None:
    copier = Copier(tree(1000))
    assert copier.open(0) == []
    found = [copier.open(number) for number in range(1, 30)]
    packs = [entry.extent.object for entry in copier.files[::10] if entry.extent]
    flat = [node for nodes in found for node in nodes]
    assert flat == [Node(pack, 0, 0) for pack in packs[: len(flat)]], "each block once, in order"
    assert len(found[0]) == 1, "one file behind another says little"
    assert 10 <= len(flat) < 20, "further ahead the more was read"


def test_far_ahead_is_known_what_will_be_wanted() -> None:
    copier = Copier(tree(10_000, size=100_000))
    for number in range(400):
        copier.open(number)
    ahead = len(copier.known) - 40
    assert MAX_KNOWN_AHEAD // MIB - 2 <= ahead <= MAX_KNOWN_AHEAD // MIB + 1


def test_each_entry_of_a_tree_is_looked_at_once() -> None:
    copier = Copier(tree(1000))
    for number in range(1000):
        copier.open(number)
    assert copier.asked <= 1000 + FOLLOW


def test_files_that_are_skipped_or_come_late_do_not_end_it() -> None:
    copier = Copier(tree(1000))
    order = [number ^ 1 for number in range(400) if number % 7]
    lost = [number for number in order[2:] if copier.followers.opened(b"share", copier.files[number], lambda: iter(()))]
    assert lost == [], "nobody is followed yet"
    copier = Copier(tree(1000))
    flat = [node for number in order for node in copier.open(number)]
    assert len(flat) == len(set(flat)) > 40


def test_two_copies_at_a_time_do_not_disturb_each_other() -> None:
    followers = TreeFollowers()
    one, other = (Copier(files, followers) for files in (tree(1000), tree(1500, size=999, per_pack=11)))
    for number in range(100):
        one.open(number, b"one")
        other.open(number, b"other")
    assert one.open(100, b"one") or one.known
    assert one.asked < 1000
    assert other.asked < 1500
    assert len(followers) == 2


def test_one_who_opens_here_and_there_is_not() -> None:
    copier = Copier(tree(1000))
    for number in (5, 80, 20, 600, 400, 30, 999, 100, 300, 200):
        assert copier.open(number) == []
    assert copier.known == {}
    assert len(copier.followers) <= MAX_FOLLOWERS


def test_the_order_of_a_large_file_is_kept() -> None:
    files = [file(0, big(1, 1), 0, 10), file(1, big(1, 1), 10, 10), file(2, big(500, 2), 0, 500 * MIB)]
    copier = Copier([*files, *tree(50)])
    copier.open(0)
    assert copier.open(1) == [Node(big(1, 1), 0, 0), Node(big(500, 2), 0, 0)]
    assert max(copier.known[big(500, 2)]) < MAX_KNOWN_AHEAD // MIB
