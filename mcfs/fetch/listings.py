"""Directories from their listing objects, within bounds that hold whatever the publisher has made of them.

A listing is small enough to be decoded at once; one with parts is checked for what it claims before a part is fetched.
Directories are kept decoded, the least recently used goes first, and they are weighed by their entries: how long they
are when encoded says little about the memory that they take.

No event loop here: who reads an object, and where the decoding is done, is for the caller to say.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from mcfs.protocol.catalog import (
    MAX_DIRECTORY_SIZE,
    MAX_ENTRIES,
    MAX_LISTING_SIZE,
    Entry,
    Listing,
    count_entries,
)
from mcfs.protocol.errors import BadObject

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mcfs.protocol.ids import ObjectRef

KEPT_ENTRIES: Final = 300_000
"""Entries kept decoded, of all directories together: 0.1 to 0.2 GB. The one used last stays whatever its length."""

AHEAD: Final = 256
"""Parts asked for at a time: more than can be joined. A listing may claim 65,536."""


def check_listing_untrusted(ref: ObjectRef) -> None:
    """Before it is fetched: an object that is too long for a listing. Raises BadObject."""
    if ref.size > MAX_LISTING_SIZE:
        raise BadObject(f"listing of {ref.size} bytes")


def check_parts_untrusted(listing: Listing) -> None:
    """Before they are fetched: parts that are too long, each or together. Raises BadObject."""
    for part in listing.parts:
        check_listing_untrusted(part)
    if sum(part.size for part in listing.parts) > MAX_DIRECTORY_SIZE:
        raise BadObject(f"parts of a listing of more than {MAX_DIRECTORY_SIZE} bytes")


class _Parts:
    """The entries of a listing with parts, as far as they have come."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._weight = 0

    def add_untrusted(self, part: Listing) -> None:
        """Raises BadObject."""
        if part.parts:
            raise BadObject("a part of a listing has parts")
        if self.entries and part.entries and self.entries[-1].name >= part.entries[0].name:
            raise BadObject("parts of a listing out of order")
        self._weight += count_entries(part.entries)
        if self._weight > MAX_ENTRIES:
            raise BadObject(f"directory of more than {MAX_ENTRIES} entries")
        self.entries += part.entries


class Listings:
    """The directories of all shares of one client."""

    def __init__(self, kept_entries: int = KEPT_ENTRIES) -> None:
        self._kept = kept_entries
        self._known: OrderedDict[ObjectRef, tuple[Entry, ...]] = OrderedDict()
        self._weights: dict[ObjectRef, int] = {}
        self._weight = 0

    def __len__(self) -> int:
        return len(self._known)

    def get(self, ref: ObjectRef) -> tuple[Entry, ...] | None:
        known = self._known.get(ref)
        if known is not None:
            self._known.move_to_end(ref)
        return known

    async def fetch(
        self,
        ref: ObjectRef,
        read: Callable[[ObjectRef], Awaitable[Listing]],
        prefetch: Callable[[ObjectRef], None],
    ) -> tuple[Entry, ...]:
        """The entries of a directory, sorted by name. `read` fetches an object and decodes it, `prefetch` says of one
        that it will be read soon. Raises BadObject, and what `read` raises."""
        check_listing_untrusted(ref)
        listing = await read(ref)
        entries = listing.entries
        if listing.parts:
            check_parts_untrusted(listing)
            parts = _Parts()
            for number, part in enumerate(listing.parts):
                for ahead in listing.parts[number or 1 : number + AHEAD] if number % AHEAD == 0 else ():
                    prefetch(ahead)
                parts.add_untrusted(await read(part))
            entries = tuple(parts.entries)
        self._keep(ref, entries)
        return entries

    def _keep(self, ref: ObjectRef, entries: tuple[Entry, ...]) -> None:
        if ref in self._known:  # another task was faster
            return
        self._known[ref] = entries
        self._weights[ref] = count_entries(entries)
        self._weight += self._weights[ref]
        while self._weight > self._kept and len(self._known) > 1:
            oldest, _ = self._known.popitem(last=False)
            self._weight -= self._weights.pop(oldest)
