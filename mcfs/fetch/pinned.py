"""Which blocks a pinned path stands for, how many of them are there, and which to fetch next."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mcfs.fetch.readplan import blocks
from mcfs.protocol.catalog import DirectoryEntry, FileEntry
from mcfs.protocol.errors import UserError
from mcfs.protocol.ids import Node, ObjectRef

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mcfs.fetch.cache import Cache
    from mcfs.protocol.catalog import Entry, Extent
    from mcfs.protocol.ids import ObjectId

MAX_OBJECTS: Final = 1 << 18
"""Of one pin: as many as a cache holds at all."""
MAX_ENTRIES: Final = 1 << 22
"""Files and directories of one pin. Directories may share a listing, so a few kilobytes can say that there are more
files than anybody could count."""
AT_A_TIME: Final = 512
"""Blocks that are looked for at a time: half a second of a fast link."""
_FILE_OVERHEAD: Final = 16 * 1024
"""Bytes on the disk of an object beside its blocks: header, map, and the first page."""


@dataclass(slots=True)
class Wanted:
    """The content of a path in one version of its share."""

    version: int
    files: int = 0
    bytes: int = 0
    """Of the blocks that are needed."""
    blocks: dict[ObjectRef, range] = field(default_factory=dict)
    """From the first to the last that is needed of each object; small files share one."""
    listings: set[ObjectId] = field(default_factory=set)

    @property
    def room(self) -> int:
        """Bytes that it takes on the disk, and not less."""
        return self.bytes + self.bytes // 1024 + _FILE_OVERHEAD * (len(self.blocks) + len(self.listings))

    @property
    def objects(self) -> frozenset[ObjectId]:
        return frozenset(ref.id for ref in self.blocks) | self.listings

    def add(self, extent: Extent) -> None:
        """Raises UserError when it is too much."""
        ref, more = extent.object, blocks(extent, 0, extent.length)
        known = self.blocks.get(ref, more)
        self.bytes -= _size(ref, known) if ref in self.blocks else 0
        self.blocks[ref] = range(min(known.start, more.start), max(known.stop, more.stop))
        self.bytes += _size(ref, self.blocks[ref])
        if len(self.blocks) > MAX_OBJECTS:
            raise UserError(f"more than {MAX_OBJECTS} objects")

    def survey(self, cache: Cache) -> tuple[int, list[Node]]:
        """How many of the bytes are there, and the first blocks that are not. For a thread: there may be many."""
        done, missing = 0, list[Node]()
        for ref, needed in self.blocks.items():
            start = needed.start * ref.block_size
            done += cache.cached_bytes(ref, start, needed.stop * ref.block_size - start)
            if len(missing) < AT_A_TIME:
                lacking = cache.missing(ref, needed, AT_A_TIME - len(missing))
                missing += [Node(ref, 0, index) for index in lacking]
        return done, missing


def pages_first(nodes: list[Node], cache: Cache) -> list[Node]:
    """Those of which the cache has the page with their hashes, and one of each other page: with it that page comes, and
    then it is known which of the rest are here already, in the former version of a file."""
    chosen, asked = list[Node](), set[Node]()
    for node in nodes:
        page = node.parent()
        if page in asked:
            continue
        if page is not None and not cache.has(page):
            asked.add(page)
        chosen.append(node)
    return chosen


def _size(ref: ObjectRef, needed: range) -> int:
    return min(needed.stop * ref.block_size, ref.size) - needed.start * ref.block_size


class PinStream:
    """What `mcfs.fetch.ahead` fetches for a pin, beside what readers need next."""

    def __init__(self, share: bytes) -> None:
        self.share = share
        self._nodes: deque[Node] = deque()

    @property
    def reading(self) -> int:
        return len(self._nodes)

    def feed(self, nodes: list[Node]) -> None:
        self._nodes = deque(nodes)

    def next_ahead(self) -> Node | None:
        return self._nodes.popleft() if self._nodes else None


async def resolve(
    root: Entry, path: bytes, version: int, entries: Callable[[DirectoryEntry], Awaitable[tuple[Entry, ...]]]
) -> Wanted:
    """What a path stands for, below the root of a share. `entries` lists a directory. Links are not followed.

    Raises UserError if there is nothing of that name, or too much, and what `entries` raises.
    """
    entry = root
    for name in filter(None, path.split(b"/")):
        found = await entries(entry) if isinstance(entry, DirectoryEntry) else ()
        child = next((child for child in found if child.name == name), None)
        if child is None:
            raise UserError("the newest version of the share has no such file")
        entry = child
    wanted, met = Wanted(version), 1
    pending = [entry]
    while pending:
        entry = pending.pop()
        if isinstance(entry, FileEntry):
            wanted.files += 1
            if entry.extent is not None:
                wanted.add(entry.extent)
        elif isinstance(entry, DirectoryEntry):
            if isinstance(entry.content, ObjectRef):
                wanted.listings.add(entry.content.id)
            listed = await entries(entry)
            met += len(listed)
            if met > MAX_ENTRIES:
                raise UserError(f"more than {MAX_ENTRIES} files and directories")
            pending += reversed(listed)
    return wanted
