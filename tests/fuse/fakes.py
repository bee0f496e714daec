"""A client without a network: shares are trees in memory, and every content is derived from its object."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import trio
from blake3 import blake3

from mcfs.protocol.announce import Announcement
from mcfs.protocol.catalog import (
    Attributes,
    DirectoryEntry,
    Entry,
    Extent,
    FileEntry,
    LinkEntry,
    Owners,
    encode_listing,
)
from mcfs.protocol.errors import TimedOut
from mcfs.protocol.ids import DEFAULT_BLOCK_SIZE, Digest, ObjectRef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mcfs.fuse.backend import FileReader

DEFAULT = Attributes(0o644, 1000, 1000, 1_700_000_000_123_456_789)
DIRECTORY = Attributes(0o755, 1000, 1000, 1_600_000_000_987_654_321)

LINK = Attributes(0o777, 1000, 1000, 1_500_000_000_000_000_001)

MIB = 1 << 20
# Two times the same MiB: a read of up to a MiB is one slice wherever it starts.
BULK = memoryview(bytes(random.Random(1).randbytes(MIB)) * 2)


@dataclass(frozen=True)
class File:
    data: bytes
    attributes: Attributes = DEFAULT


@dataclass(frozen=True)
class Link:
    target: bytes
    attributes: Attributes = LINK


@dataclass(frozen=True)
class Directory:
    children: dict[bytes, Item]
    attributes: Attributes = DIRECTORY
    inlined: bool = False


Item: TypeAlias = "File | Link | Directory"


@dataclass
class FakeReader:
    data: bytes | memoryview
    failure: Exception | None = None
    closed: bool = False

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        return memoryview(self.data)[offset : offset + length]

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeBackend:
    """Publish with `publish`; make things fail with `failure` and `heard`."""

    announcements: dict[bytes, Announcement] = field(default_factory=dict)
    contents: dict[ObjectRef, bytes] = field(default_factory=dict)
    listings: dict[ObjectRef, tuple[Entry, ...]] = field(default_factory=dict)
    failure: Exception | None = None
    """Raised by every request that would need the network."""
    heard: trio.Event = field(default_factory=trio.Event)
    """Set when a share is published."""
    readers: list[FakeReader] = field(default_factory=list)
    upcoming: Callable[[], Iterable[FileEntry | None]] | None = None
    """What the last open was given."""
    fetched: list[ObjectRef] = field(default_factory=list)

    # --- what the file system calls ----------------------------------------------------------------------------------

    def shares(self) -> dict[bytes, Announcement]:
        return self.announcements

    def share(self, name: bytes) -> Announcement | None:
        return self.announcements.get(name)

    async def news(self) -> None:
        await self.heard.wait()

    async def wait_share(self, name: bytes, timeout: float) -> Announcement:  # noqa: ASYNC109 - as in the protocol
        with trio.move_on_after(timeout):
            while name not in self.announcements:
                await self.heard.wait()
            return self.announcements[name]
        raise TimedOut(f"share {name!r}")

    async def entries(self, share: bytes, content: ObjectRef | tuple[Entry, ...]) -> tuple[Entry, ...]:
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        if isinstance(content, tuple):
            return content
        self.fetched.append(content)
        return self.listings[content]

    def open(self, path: bytes, entry: FileEntry, upcoming: Callable[[], Iterable[FileEntry | None]]) -> FileReader:
        assert entry.extent is not None
        self.upcoming = upcoming
        start = entry.extent.offset
        data = self.contents[entry.extent.object][start : start + entry.extent.length]
        reader = FakeReader(data, self.failure)
        self.readers.append(reader)
        return reader

    def max_wait(self, share: bytes) -> float:
        return 300.0

    def cache_path(self) -> Path | None:
        return Path("/cache")

    def cached_bytes(self, entry: FileEntry) -> int:
        return entry.size // 2

    # --- what a test calls -------------------------------------------------------------------------------------------

    def publish(self, name: bytes, item: File | Directory) -> None:
        """A new version of a share."""
        entry = self._entry(name, item, top=True)
        assert isinstance(entry, FileEntry | DirectoryEntry)
        before = self.announcements.get(name)
        version = before.version + 1 if before else 1
        files = [data for _, _, data in walk(item)]
        total = sum(len(each.data) for each in files if isinstance(each, File))
        self.announcements[name] = Announcement(version, 1000 * version, entry, Owners(), total, len(files), 10**9, ())
        heard, self.heard = self.heard, trio.Event()
        heard.set()

    def _entry(self, name: bytes, item: Item, *, top: bool = False) -> Entry:
        if isinstance(item, File):
            return FileEntry(name, item.attributes, self._extent(item.data), Digest(blake3(item.data).digest()))
        if isinstance(item, Link):
            return LinkEntry(name, item.attributes, item.target)
        entries = tuple(self._entry(child, item.children[child]) for child in sorted(item.children))
        if item.inlined and not top:
            return DirectoryEntry(name, item.attributes, entries)
        ref = object_of(encode_listing(entries, Owners()))
        self.listings[ref] = entries
        return DirectoryEntry(name, item.attributes, ref)

    def _extent(self, data: bytes) -> Extent | None:
        if not data:
            return None
        ref = object_of(data)
        self.contents[ref] = data
        return Extent(ref, 0, len(data))


@dataclass
class BulkReader:
    """Reads that cost nothing: slices of one buffer. The byte at an offset is a function of the offset in its MiB."""

    size: int

    async def read(self, offset: int, length: int) -> memoryview:
        await trio.lowlevel.checkpoint()
        start = offset % MIB
        return BULK[start : start + min(length, self.size - offset)]

    def close(self) -> None: ...


class HangingReader:
    async def read(self, offset: int, length: int) -> bytes:
        await trio.sleep_forever()

    def close(self) -> None: ...


@dataclass
class BulkBackend(FakeBackend):
    """For kernel mounts: large files without their bytes, and reads that are never answered."""

    hang: bool = False
    bulk: set[ObjectRef] = field(default_factory=set)

    def publish_bulk(self, name: bytes, size: int) -> None:
        ref = ObjectRef(size, DEFAULT_BLOCK_SIZE, Digest(bytes(32)))
        self.bulk.add(ref)
        entry = FileEntry(name, DEFAULT, Extent(ref, 0, size), Digest(bytes(32)))
        self.announcements[name] = Announcement(1, 1, entry, Owners(), size, 1, 10**9, ())

    def open(self, path: bytes, entry: FileEntry, upcoming: Callable[[], Iterable[FileEntry | None]]) -> FileReader:
        if self.hang:
            return HangingReader()
        if entry.extent and entry.extent.object in self.bulk:
            return BulkReader(entry.size)
        return super().open(path, entry, upcoming)


def object_of(data: bytes) -> ObjectRef:
    return ObjectRef(len(data), DEFAULT_BLOCK_SIZE, Digest(blake3(data).digest()))


def walk(item: Item, path: bytes = b"") -> list[tuple[bytes, bool, Item]]:
    """Path, whether it is a directory, and item of everything below, depth first."""
    if not isinstance(item, Directory):
        return [(path, False, item)]
    found: list[tuple[bytes, bool, Item]] = [(path, True, item)]
    for name in sorted(item.children):
        found += walk(item.children[name], path + b"/" + name)
    return found


TREE = Directory(
    {
        b"a": File(b"alpha"),
        b"b": Directory({b"x": File(b"in b"), b"y": Directory({b"deep": File(b"deep")}, inlined=True)}, inlined=True),
        b"c": Directory({b"z": File(b"in c"), b"link": Link(b"../../outside")}),
        b"d": File(b""),
        b"e": File(b"epsilon" * 100),
    }
)
"""What the tests publish."""


def changed(**children: File | Directory | None) -> Directory:
    """TREE with some children replaced, or left out where None."""
    merged = {**TREE.children, **{name.encode(): item for name, item in children.items()}}
    return Directory({name: item for name, item in merged.items() if item is not None})
