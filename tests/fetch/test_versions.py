"""Which version of a share is shown."""

from __future__ import annotations

from mcfs.fetch.versions import USED, Versions
from mcfs.protocol.announce import Announcement
from mcfs.protocol.catalog import MAX_LISTING_SIZE, Attributes, DirectoryEntry, Extent, FileEntry, Owners
from mcfs.protocol.ids import DEFAULT_BLOCK_SIZE, Digest, Node, ObjectRef

ATTRIBUTES = Attributes(0o755, 0, 0, 0)


def ref(version: int, size: int = 1000) -> ObjectRef:
    return ObjectRef(size, DEFAULT_BLOCK_SIZE, Digest(version.to_bytes(32, "big")))


def announcement(version: int, *, name: bytes = b"s", size: int = 1000, inlined: bool = False) -> Announcement:
    entry = DirectoryEntry(name, ATTRIBUTES, () if inlined else ref(version, size))
    return Announcement(version, version, entry, Owners(), 0, 0, 1, ())


def top(version: int) -> Node:
    return Node(ref(version), 0, 0)


def in_use() -> Versions:
    versions = Versions()
    versions.used(b"s", now=0.0)
    return versions


def shown(versions: Versions, newest: Announcement) -> int:
    found = versions.shown({b"s": newest, b"other": announcement(7, name=b"other")})
    assert found[b"other"].version == 7
    return found[b"s"].version


def test_a_version_is_shown_when_its_top_is_there() -> None:
    versions = in_use()
    one, two = announcement(1), announcement(2)
    versions.announced(one, two, now=1.0)
    assert versions.wanted() == [(b"s", top(2))]
    assert versions.wanted() == []
    assert (shown(versions, two), versions.has_switched()) == (1, False)
    versions.ready(top(5))
    assert shown(versions, two) == 1
    versions.ready(top(2))
    assert (shown(versions, two), versions.has_switched(), versions.has_switched()) == (2, True, False)


def test_a_top_of_several_blocks() -> None:
    versions = in_use()
    two = announcement(2, size=2 * DEFAULT_BLOCK_SIZE + 1)
    versions.announced(announcement(1), two, now=1.0)
    nodes = [node for _, node in versions.wanted()]
    assert [node.index for node in nodes] == [0, 1, 2]
    for node in nodes:
        assert shown(versions, two) == 1
        versions.ready(node)
    assert shown(versions, two) == 2


def test_the_top_of_a_share_of_one_file_is_its_first_page() -> None:
    versions = in_use()
    extent = Extent(ref(2, 10 * DEFAULT_BLOCK_SIZE), 0, 10 * DEFAULT_BLOCK_SIZE)
    entry = FileEntry(b"s", ATTRIBUTES, extent, Digest(bytes(32)))
    versions.announced(announcement(1), Announcement(2, 2, entry, Owners(), 0, 0, 1, ()), now=1.0)
    assert versions.wanted() == [(b"s", Node(extent.object, 1, 0))]


def test_what_has_no_top_to_fetch_is_shown_at_once() -> None:
    empty = FileEntry(b"s", ATTRIBUTES, None, Digest(bytes(32)))
    for new in (
        announcement(2, inlined=True),
        announcement(2, size=MAX_LISTING_SIZE + 1),
        Announcement(2, 2, empty, Owners(), 0, 0, 1, ()),
    ):
        versions = in_use()
        versions.announced(announcement(1), new, now=1.0)
        assert (shown(versions, new), versions.has_switched(), versions.wanted()) == (2, True, [])


def test_a_share_that_nobody_uses_is_shown_at_once_and_nothing_is_fetched() -> None:
    versions = in_use()
    versions.announced(announcement(1), announcement(2), now=USED + 1)
    assert (shown(versions, announcement(2)), versions.has_switched(), versions.wanted()) == (2, True, [])


def test_versions_that_come_faster_than_their_tops_are_shown_now_and_then() -> None:
    versions = in_use()
    for version in range(2, 6):
        versions.announced(announcement(version - 1), announcement(version), now=1.0)
    assert versions.wanted() == [(b"s", top(2)), (b"s", top(5))]
    versions.ready(top(2))
    assert (shown(versions, announcement(5)), versions.wanted()) == (2, [])
    versions.announced(announcement(5), announcement(6), now=1.0)
    assert versions.wanted() == [(b"s", top(6))]
    versions.ready(top(6))
    assert shown(versions, announcement(6)) == 6
    versions.ready(top(5))
    assert shown(versions, announcement(6)) == 6


def test_a_version_that_the_server_has_forgotten_does_not_hold_up_the_newest() -> None:
    versions = in_use()
    versions.announced(announcement(1), announcement(2), now=1.0)
    versions.announced(announcement(2), announcement(3), now=1.0)
    versions.ready(top(3))
    assert (shown(versions, announcement(3)), versions.has_switched(), versions.wanted()) == (3, True, [])


def test_a_top_that_cannot_be_had_is_asked_for_again_while_the_share_is_there() -> None:
    versions = in_use()
    two = announcement(2)
    versions.announced(announcement(1), two, now=1.0)
    versions.wanted()
    versions.failed(top(2))
    assert (versions.wanted(), shown(versions, two)) == ([], 1)
    versions.repeated(b"s")
    versions.repeated(b"unknown")
    assert versions.wanted() == [(b"s", top(2))]


def test_a_top_that_cannot_be_had_gives_way_to_newer_ones() -> None:
    versions = in_use()
    versions.announced(announcement(1), announcement(2), now=1.0)
    versions.announced(announcement(2), announcement(3), now=1.0)
    versions.wanted()
    versions.failed(top(2))
    versions.announced(announcement(3), announcement(4), now=1.0)
    versions.repeated(b"s")
    assert versions.wanted() == [(b"s", top(3)), (b"s", top(4))]
    versions.failed(top(4))
    versions.repeated(b"s")
    assert versions.wanted() == [(b"s", top(3)), (b"s", top(4))], "the newest is never given up"
    assert shown(versions, announcement(4)) == 1
    versions.announced(announcement(4), announcement(5, inlined=True), now=1.0)
    assert (shown(versions, announcement(5)), versions.has_switched(), versions.wanted()) == (5, True, [])


def test_a_share_that_is_taken_away_is_forgotten() -> None:
    versions = in_use()
    versions.announced(announcement(1), announcement(2), now=1.0)
    versions.forget(b"s")
    assert (shown(versions, announcement(9)), versions.wanted()) == (9, [])
