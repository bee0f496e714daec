"""Directories as objects, built bottom-up: what is inlined in the parent, what is an object, what is cut into parts.

Lengths are estimated from the entries (`weigh`), never found by encoding: so each entry is encoded once, in the object
that it ends up in, however many directories that are inlined lie above it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from mcfs.protocol.catalog import (
    INLINE_SIZE,
    MAX_DEPTH,
    MAX_ENTRIES,
    PART_SIZE,
    SPLIT_SIZE,
    Attributes,
    DirectoryEntry,
    Entry,
    FileEntry,
    LinkEntry,
    Owners,
    cut_after,
    decode_listing_untrusted,
    encode_listing,
)
from mcfs.protocol.ids import ObjectRef

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ENTRY: Final = 28
"""Encoded bytes of what all entries have, names of up to 31 bytes apart: tags, mode, owner, time."""
_CONTENT: Final = 46
"""Of b3sum, size, offset and number of object."""
_OBJECT: Final = 46
"""Of a triple in the table of objects."""
_kept_encoder: Final = msgspec.msgpack.Encoder()
_kept_decoder: Final = msgspec.msgpack.Decoder(tuple[int, int, int, int, int, bytes])
_MAX_INLINED: Final = MAX_DEPTH - 1
_MAX_PART: Final = 1 << 20
"""Weight after which a part ends in any case. Whoever may choose names could choose such that no part ever ends, and a
client refuses a listing that is too long."""


@dataclass(frozen=True, slots=True)
class Item:
    """An entry on its way into a listing."""

    entry: Entry
    weight: int
    """About its encoded length in bytes, with all that is inlined in it."""
    levels: int = 0
    """Directories inlined in each other, this one included."""
    entries: int = 1
    """How many it makes in its parent: itself, and what is inlined in it."""
    files: int = 0
    """Regular files in it and below, or itself."""
    bytes: int = 0
    """In those files."""


class TooLarge(Exception):
    """A directory of more entries than a client takes."""

    def __init__(self) -> None:
        super().__init__(f"more than {MAX_ENTRIES:,} entries")


class ListingBuilder:
    """Makes directory entries, handing the listing objects that they need to `store`, which returns their triples."""

    def __init__(self, store: Callable[[bytes], ObjectRef], owners: Owners) -> None:
        """`owners` may still grow, as long as it names the owners of each entry that is handed in."""
        self._store = store
        self._owners = owners

    def directory(self, name: bytes, attributes: Attributes, items: Sequence[Item]) -> Item:
        """A directory from its items, sorted by name: inlined if it is small and not too deep. Raises TooLarge."""
        weight = sum(item.weight for item in items)
        levels = 1 + max((item.levels for item in items), default=0)
        count = sum(item.entries for item in items)
        total = sum(item.files for item in items), sum(item.bytes for item in items)
        if weight > INLINE_SIZE or levels > _MAX_INLINED or count > MAX_ENTRIES:
            return Item(self.object(name, attributes, items), _ENTRY + len(name) + _OBJECT, 0, 1, *total)
        entries = tuple(item.entry for item in items)
        entry = DirectoryEntry(name, attributes, entries)
        return Item(entry, weight + _ENTRY + len(name), levels, 1 + count, *total)

    def object(self, name: bytes, attributes: Attributes, items: Sequence[Item]) -> DirectoryEntry:
        """A directory whose listing is an object, however small. Raises TooLarge."""
        if len(items) > MAX_ENTRIES:
            raise TooLarge
        if sum(item.entries for item in items) > MAX_ENTRIES:
            items = [self._apart(item) for item in items]
        parts = _cut(items) if sum(item.weight for item in items) > SPLIT_SIZE else [items]
        refs = [self._store(encode_listing([item.entry for item in part], self._owners)) for part in parts]
        content = refs[0] if len(refs) == 1 else self._store(encode_listing((), Owners(), refs))
        return DirectoryEntry(name, attributes, content)

    def _apart(self, item: Item) -> Item:
        """A directory that was to be inlined, as an object of its own: there are too many of them in one listing."""
        entry = item.entry
        if not isinstance(entry, DirectoryEntry) or isinstance(entry.content, ObjectRef):
            return item
        content = self._store(encode_listing(entry.content, self._owners))
        apart = DirectoryEntry(entry.name, entry.attributes, content)
        return Item(apart, _ENTRY + len(entry.name) + _OBJECT, 0, 1, item.files, item.bytes)


def item_of(entry: FileEntry | LinkEntry) -> Item:
    if isinstance(entry, LinkEntry):
        return Item(entry, weigh(entry))
    return Item(entry, weigh(entry), files=1, bytes=entry.size)


def encode_item(item: Item) -> bytes:
    """As the state database keeps it."""
    numbers = (item.weight, item.levels, item.entries, item.files, item.bytes)
    return _kept_encoder.encode((*numbers, encode_listing([item.entry], Owners())))


def decode_item(data: bytes) -> Item:
    """Raises ValueError (msgspec.DecodeError, BadObject)."""
    *numbers, listing = _kept_decoder.decode(data)
    (entry,) = decode_listing_untrusted(listing).entries
    return Item(entry, *numbers)


def weigh(entry: FileEntry | LinkEntry) -> int:
    """About how many bytes the entry takes in a listing. It must depend on the entry alone, or cuts would move."""
    if isinstance(entry, LinkEntry):
        return _ENTRY + len(entry.name) + len(entry.target)
    has_own_object = entry.extent is not None and entry.extent.length == entry.extent.object.size
    return _ENTRY + len(entry.name) + _CONTENT + (_OBJECT if has_own_object else 0)


def _cut(items: Sequence[Item]) -> list[Sequence[Item]]:
    parts = []
    start = weight = 0
    for end, item in enumerate(items, 1):
        weight += item.weight
        if weight > _MAX_PART or cut_after(item.entry.name, item.weight, PART_SIZE) or end == len(items):
            parts.append(items[start:end])
            start, weight = end, 0
    return parts


class OwnerNames:
    """Names of users and groups, each looked up once."""

    def __init__(self, user_name: Callable[[int], str], group_name: Callable[[int], str]) -> None:
        """The look-ups raise KeyError for a number without a name."""
        self._user_name = user_name
        self._group_name = group_name
        self._users: dict[int, bytes] = {}
        self._groups: dict[int, bytes] = {}
        self._met: set[tuple[int, int]] = set()
        self.owners = Owners(self._users, self._groups)

    def meet(self, attributes: Attributes) -> None:
        if (attributes.uid, attributes.gid) in self._met:
            return
        self._met.add((attributes.uid, attributes.gid))
        _look_up(self._users, attributes.uid, self._user_name)
        _look_up(self._groups, attributes.gid, self._group_name)


def _look_up(names: dict[int, bytes], number: int, name_of: Callable[[int], str]) -> None:
    try:
        names[number] = os.fsencode(name_of(number))
    except KeyError:
        return
