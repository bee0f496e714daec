"""Directories in parts, and how much of them is kept."""

from __future__ import annotations

import pytest

from mcfs.fetch import listings
from mcfs.fetch.listings import AHEAD, Listings
from mcfs.protocol import catalog
from mcfs.protocol.catalog import Attributes, DirectoryEntry, Entry, Listing, Owners
from mcfs.protocol.errors import BadObject
from mcfs.protocol.ids import MIN_BLOCK_SIZE, Digest, ObjectRef

ATTRIBUTES = Attributes(0o755, 0, 0, 0)


def ref(number: int, size: int = 100) -> ObjectRef:
    return ObjectRef(size, MIN_BLOCK_SIZE, Digest(number.to_bytes(32, "big")))


def entry(number: int, inlined: int = 0) -> Entry:
    below = tuple(entry(i) for i in range(inlined))
    return DirectoryEntry(b"%08d" % number, ATTRIBUTES, below)


class Objects:
    """Listing objects, and which of them were read."""

    def __init__(self, known: dict[ObjectRef, Listing]) -> None:
        self.known = known
        self.read: list[ObjectRef] = []
        self.ahead: list[ObjectRef] = []

    async def fetch(self, listings: Listings, of: ObjectRef) -> tuple[Entry, ...]:
        async def read(ref: ObjectRef) -> Listing:
            self.read.append(ref)
            return self.known[ref]

        return await listings.fetch(of, read, self.ahead.append)


def in_parts(*parts: Listing) -> Objects:
    refs = tuple(ref(1 + number) for number in range(len(parts)))
    top = Listing((), Owners(), refs)
    return Objects({ref(0): top, **dict(zip(refs, parts, strict=True))})


def of(*entries: Entry) -> Listing:
    return Listing(entries, Owners())


async def test_parts_are_one_directory() -> None:
    objects = in_parts(of(entry(1), entry(2)), of(), of(entry(3)))
    kept = Listings()
    assert [e.name for e in await objects.fetch(kept, ref(0))] == [b"%08d" % n for n in (1, 2, 3)]
    assert kept.get(ref(0)) == (entry(1), entry(2), entry(3))
    assert objects.read == [ref(0), ref(1), ref(2), ref(3)]


async def test_all_parts_are_asked_for_ahead_but_not_all_at_once() -> None:
    objects = in_parts(*(of(entry(number)) for number in range(3 * AHEAD)))
    seen = []
    kept = Listings()

    async def read(of: ObjectRef) -> Listing:
        seen.append(len(objects.ahead))
        return objects.known[of]

    await kept.fetch(ref(0), read, objects.ahead.append)
    assert objects.ahead == [ref(1 + number) for number in range(1, 3 * AHEAD)]
    assert all(asked - number < AHEAD for number, asked in enumerate(seen))


@pytest.mark.parametrize(
    "parts",
    [
        (of(entry(1)), of(entry(1))),
        (of(entry(2)), of(entry(1))),
        (of(entry(1), entry(5)), of(entry(3), entry(4))),
        (of(entry(1)), Listing((), Owners(), (ref(9),))),
    ],
    ids=["twice", "out of order", "overlapping", "parts of parts"],
)
async def test_parts_that_do_not_fit_together(parts: tuple[Listing, ...]) -> None:
    kept = Listings()
    with pytest.raises(BadObject):
        await in_parts(*parts).fetch(kept, ref(0))
    assert len(kept) == 0


async def test_what_is_too_long_is_not_fetched() -> None:
    objects = Objects({ref(0): Listing((), Owners(), (ref(1), ref(2, catalog.MAX_LISTING_SIZE + 1)))})
    with pytest.raises(BadObject):
        await objects.fetch(Listings(), ref(0, catalog.MAX_LISTING_SIZE + 1))
    assert objects.read == []
    with pytest.raises(BadObject):
        await objects.fetch(Listings(), ref(0))
    assert (objects.read, objects.ahead) == ([ref(0)], [])


async def test_parts_that_are_too_long_together_are_not_fetched() -> None:
    count = catalog.MAX_DIRECTORY_SIZE // catalog.MAX_LISTING_SIZE + 1
    parts = tuple(ref(1 + number, catalog.MAX_LISTING_SIZE) for number in range(count))
    objects = Objects({ref(0): Listing((), Owners(), parts)})
    with pytest.raises(BadObject):
        await objects.fetch(Listings(), ref(0))
    assert (objects.read, objects.ahead) == ([ref(0)], [])


async def test_entries_are_counted_over_parts_and_inlined_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "MAX_ENTRIES", 10)
    assert len(await in_parts(of(entry(1, 4)), of(entry(2, 4))).fetch(Listings(), ref(0))) == 2
    objects = in_parts(of(entry(1, 4)), of(entry(2, 5)), of(entry(3)))
    with pytest.raises(BadObject):
        await objects.fetch(Listings(), ref(0))
    assert ref(3) not in objects.read


async def test_the_least_recently_used_is_forgotten_by_its_entries() -> None:
    objects = Objects({ref(n): of(entry(n, 9)) for n in range(4)})
    kept = Listings(kept_entries=30)
    for number in range(3):
        await objects.fetch(kept, ref(number))
    assert kept.get(ref(0)) is not None
    await objects.fetch(kept, ref(3))
    assert [kept.get(ref(n)) is not None for n in range(4)] == [True, False, True, True]


async def test_the_last_one_is_kept_whatever_its_length() -> None:
    objects = Objects({ref(0): of(entry(0)), ref(1): of(entry(1, 100))})
    kept = Listings(kept_entries=30)
    await objects.fetch(kept, ref(0))
    await objects.fetch(kept, ref(1))
    assert (kept.get(ref(0)), len(kept)) == (None, 1)
    assert kept.get(ref(1)) is not None
