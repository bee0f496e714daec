"""A server makes no listing that a client refuses, whatever names somebody chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mcfs.protocol.catalog import (
    MAX_LISTING_SIZE,
    PART_SIZE,
    Attributes,
    LinkEntry,
    Owners,
    count_entries,
    cut_after,
    decode_listing_untrusted,
)
from mcfs.protocol.errors import UserError
from mcfs.protocol.ids import MIN_BLOCK_SIZE
from mcfs.protocol.merkle import object_of
from mcfs.serve import listing
from mcfs.serve.listing import Item, ListingBuilder, weigh
from tests.serve.tree import NOW, Reader, publish, source

if TYPE_CHECKING:
    from pathlib import Path

    from mcfs.protocol.ids import ObjectRef
    from mcfs.serve.index import Index
    from mcfs.serve.store import NodeStore

ATTRIBUTES = Attributes(0o777, 0, 0, 0)


def test_names_that_are_chosen_so_that_nothing_is_cut() -> None:
    objects: list[bytes] = []

    def store(data: bytes) -> ObjectRef:
        objects.append(data)
        return object_of(data, MIN_BLOCK_SIZE)[0]

    entries = (LinkEntry(b"%06d" % number, ATTRIBUTES, b"t" * 400) for number in range(12_000))
    items = [Item(entry, weigh(entry)) for entry in entries if not cut_after(entry.name, weigh(entry), PART_SIZE)]
    assert sum(item.weight for item in items) > 4 << 20
    ListingBuilder(store, Owners()).object(b"d", ATTRIBUTES, items)
    parts, top = [decode_listing_untrusted(data) for data in objects[:-1]], decode_listing_untrusted(objects[-1])
    assert len(parts) == len(top.parts) >= 4
    assert all(len(data) < 2 << 20 < MAX_LISTING_SIZE for data in objects)
    assert [entry for part in parts for entry in part.entries] == [item.entry for item in items]


def test_a_directory_of_too_many_entries_is_left_out(
    index: Index, store: NodeStore, share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a warning, and without what is in it; all else is there."""
    monkeypatch.setattr(listing, "MAX_ENTRIES", 20)
    for directory, files in (("long", 21), ("long/below", 3), ("fine", 20)):
        (share / directory).mkdir()
        for number in range(files):
            (share / directory / f"{number}").touch()
    snapshot = publish(index, store, share)
    assert [warning for warning in snapshot.warnings if "long" in warning and "more than 20 entries" in warning]
    tree = Reader(store).tree(snapshot)
    assert b"fine/19" in tree
    assert not any(path.startswith(b"long") for path in tree)


def test_short_directories_that_are_too_many_entries_together(
    index: Index, store: NodeStore, share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not inlined then; a client counts what is."""
    monkeypatch.setattr(listing, "MAX_ENTRIES", 20)
    for directory in ("a", "a/b", "a/b/c", "d", "d/e", "f"):
        (share / directory).mkdir()
        for number in range(8):
            (share / directory / f"{number}").touch()
    snapshot = publish(index, store, share)
    reader = Reader(store)
    assert reader.tree(snapshot) == source(share)
    assert len(reader.listings) > 1
    for ref in reader.listings:
        assert count_entries(decode_listing_untrusted(reader.object(ref)).entries) <= 20
    assert not snapshot.warnings


def test_a_share_of_too_many_entries_is_an_error(index: Index, share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_ENTRIES", 20)
    for number in range(21):
        (share / f"{number}").touch()
    with pytest.raises(UserError, match="more than 20 entries"):
        index.scan(share, b"s", now_ms=NOW)
