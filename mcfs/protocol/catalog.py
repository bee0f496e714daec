"""Directory listings: what a share looks like, as objects.

A listing object is a MessagePack array (class `_Listing`). A small subdirectory is inlined in its parent's listing, a
large one is an object of its own, and a very large listing is cut into parts, each a listing object. A file's content
is an extent of an object: the whole of its own, or a piece of a pack that it shares with its neighbours.

Names are bytes: any name that Linux allows. Everything decoded here is checked; what breaks the format raises
BadObject.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import msgspec
from blake3 import blake3

from mcfs.protocol.errors import BadObject
from mcfs.protocol.ids import DIGEST_SIZE, MAX_OBJECT_SIZE, Digest, ObjectRef, object_ref_untrusted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

FORMAT: Final = 1
MAX_LISTING_SIZE: Final = 8 << 20
"""Bytes of one listing object: decoding it holds the interpreter for up to 0.4 s (m). A server makes 1 MiB at most,
and 3.5 MiB of parts."""
MAX_DIRECTORY_SIZE: Final = 512 << 20
"""Bytes of the parts of one listing together."""
MAX_ENTRIES: Final = 1 << 20
"""Entries of one directory, over all parts of its listing and with those that are inlined in them: 0.3 to 0.8 kB each
in a client's memory (m), which it cannot give back while the directory is in use."""
MAX_PARTS: Final = 65536
MAX_DEPTH: Final = 64
"""Levels of inlined subdirectories in one listing object; deeper ones are objects of their own."""
INLINE_SIZE: Final = 32 << 10
"""A subdirectory whose encoded listing is at most this long is inlined: few fetches, small changes."""
SPLIT_SIZE: Final = 256 << 10
"""A listing longer than this is cut into parts of PART_SIZE in the mean."""
PART_SIZE: Final = 64 << 10
PERMISSIONS: Final = 0o777
"""Mode bits that are carried; set-user-id, set-group-id and sticky bits are not (a mount is nosuid anyway)."""
MAX_NAME: Final = 255
MAX_TARGET: Final = 4095


@dataclass(frozen=True, slots=True)
class Attributes:
    mode: int
    """Permission bits."""
    uid: int
    gid: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes [offset, offset + length) of an object."""

    object: ObjectRef
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class FileEntry:
    name: bytes
    attributes: Attributes
    extent: Extent | None
    """None for an empty file."""
    b3sum: Digest
    """The plain BLAKE3 of the content, as `b3sum` prints it."""

    @property
    def size(self) -> int:
        return self.extent.length if self.extent else 0


@dataclass(frozen=True, slots=True)
class LinkEntry:
    name: bytes
    attributes: Attributes
    target: bytes


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    name: bytes
    attributes: Attributes
    content: ObjectRef | tuple[Entry, ...]
    """The listing object, or the entries themselves when they are inlined."""


Entry: TypeAlias = "FileEntry | DirectoryEntry | LinkEntry"


@dataclass(frozen=True, slots=True)
class Owners:
    """Names of the users and groups that a listing mentions by number."""

    users: Mapping[int, bytes] = field(default_factory=dict)
    groups: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listing:
    """A decoded listing object: entries sorted by name, or the parts that hold them."""

    entries: tuple[Entry, ...]
    owners: Owners
    parts: tuple[ObjectRef, ...] = ()


# --- what is on the wire ---------------------------------------------------------------------------------------------

_U32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
_U63 = Annotated[int, msgspec.Meta(ge=0, le=MAX_OBJECT_SIZE)]
_I64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
_Index = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFF)]
_Name = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
_Hash = Annotated[bytes, msgspec.Meta(min_length=DIGEST_SIZE, max_length=DIGEST_SIZE)]
_Target = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_TARGET)]


class _Object(msgspec.Struct, array_like=True, frozen=True):
    size: _U63
    block_size: _U32
    top: _Hash


class _File(msgspec.Struct, array_like=True, frozen=True, tag=0):
    name: _Name
    mode: _U32
    uid: _U32
    gid: _U32
    mtime_ns: _I64
    size: _U63
    object: _Index | None
    offset: _U63
    b3sum: _Hash


class _Directory(msgspec.Struct, array_like=True, frozen=True, tag=1):
    name: _Name
    mode: _U32
    uid: _U32
    gid: _U32
    mtime_ns: _I64
    object: _Index | None
    entries: list[_File | _Directory | _Link]


class _Link(msgspec.Struct, array_like=True, frozen=True, tag=2):
    name: _Name
    mode: _U32
    uid: _U32
    gid: _U32
    mtime_ns: _I64
    target: _Target


_WireEntry: TypeAlias = "_File | _Directory | _Link"


class _Listing(msgspec.Struct, array_like=True, frozen=True):
    format: int
    objects: list[_Object]
    users: dict[_U32, bytes]
    groups: dict[_U32, bytes]
    parts: Annotated[list[_Index], msgspec.Meta(max_length=MAX_PARTS)]
    entries: Annotated[list[_File | _Directory | _Link], msgspec.Meta(max_length=MAX_ENTRIES)]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Listing)


# --- encoding --------------------------------------------------------------------------------------------------------


class _Objects:
    """The table of objects that the entries of one listing refer to by number."""

    def __init__(self) -> None:
        self._index: dict[ObjectRef, int] = {}

    def add(self, ref: ObjectRef) -> int:
        return self._index.setdefault(ref, len(self._index))

    def table(self) -> list[_Object]:
        return [_Object(ref.size, ref.block_size, ref.top) for ref in self._index]


def encode_listing(entries: Sequence[Entry], owners: Owners, parts: Sequence[ObjectRef] = ()) -> bytes:
    """The bytes of a listing object. Entries must be sorted by name."""
    objects = _Objects()
    part_numbers = [objects.add(part) for part in parts]
    wire = [_to_wire(entry, objects) for entry in entries]
    users, groups = _mentioned(entries, owners)
    return _encoder.encode(_Listing(FORMAT, objects.table(), users, groups, part_numbers, wire))


def _to_wire(entry: Entry, objects: _Objects) -> _WireEntry:
    a = entry.attributes
    if isinstance(entry, FileEntry):
        number = objects.add(entry.extent.object) if entry.extent else None
        offset = entry.extent.offset if entry.extent else 0
        return _File(entry.name, a.mode, a.uid, a.gid, a.mtime_ns, entry.size, number, offset, entry.b3sum)
    if isinstance(entry, LinkEntry):
        return _Link(entry.name, a.mode, a.uid, a.gid, a.mtime_ns, entry.target)
    if isinstance(entry.content, ObjectRef):
        return _Directory(entry.name, a.mode, a.uid, a.gid, a.mtime_ns, objects.add(entry.content), [])
    inlined = [_to_wire(child, objects) for child in entry.content]
    return _Directory(entry.name, a.mode, a.uid, a.gid, a.mtime_ns, None, inlined)


def walk_inlined(entries: Sequence[Entry]) -> Iterator[Entry]:
    """The entries and those of inlined subdirectories, depth first."""
    for entry in entries:
        yield entry
        if isinstance(entry, DirectoryEntry) and isinstance(entry.content, tuple):
            yield from walk_inlined(entry.content)


def count_entries(entries: Sequence[Entry]) -> int:
    """How many entries there are, those of inlined subdirectories included: what MAX_ENTRIES limits."""
    inlined = (e.content for e in entries if isinstance(e, DirectoryEntry) and isinstance(e.content, tuple))
    return len(entries) + sum(map(count_entries, inlined))


def _mentioned(entries: Sequence[Entry], owners: Owners) -> tuple[dict[int, bytes], dict[int, bytes]]:
    ids = {(entry.attributes.uid, entry.attributes.gid) for entry in walk_inlined(entries)}
    users = {uid: owners.users[uid] for uid in sorted({u for u, _ in ids}) if uid in owners.users}
    groups = {gid: owners.groups[gid] for gid in sorted({g for _, g in ids}) if gid in owners.groups}
    return users, groups


def cut_after(name: bytes, weight: int, mean: int) -> bool:
    """Whether to cut a sequence after the item of this name, so that pieces weigh `mean` on average.

    The choice depends on this item alone: one new item changes one piece, not all that follow.
    """
    draw = int.from_bytes(blake3(name).digest(length=4), "big")
    return draw * mean < weight << 32


# --- decoding --------------------------------------------------------------------------------------------------------


def decode_listing_untrusted(data: bytes | memoryview) -> Listing:
    """Decode a listing object and check all of it. Raises BadObject."""
    if len(data) > MAX_LISTING_SIZE:
        raise BadObject(f"listing of {len(data)} bytes")
    try:
        wire = _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, OverflowError) as error:
        raise BadObject(f"listing: {error}") from None
    if wire.format != FORMAT:
        raise BadObject(f"listing format {wire.format}")
    objects = [object_ref_untrusted(o.size, o.block_size, o.top) for o in wire.objects]
    entries = _entries_untrusted(wire.entries, objects, MAX_DEPTH)
    if count_entries(entries) > MAX_ENTRIES:
        raise BadObject(f"more than {MAX_ENTRIES} entries")
    parts = tuple(_object_untrusted(objects, number) for number in wire.parts)
    if parts and entries:
        raise BadObject("listing with parts and entries")
    return Listing(entries, Owners(wire.users, wire.groups), parts)


def _entries_untrusted(wire: Sequence[_WireEntry], objects: Sequence[ObjectRef], depth: int) -> tuple[Entry, ...]:
    if depth == 0:
        raise BadObject("inlined too deep")
    previous = b""
    entries: list[Entry] = []
    for item in wire:
        _check_name_untrusted(item.name, previous)
        previous = item.name
        entries.append(_entry_untrusted(item, objects, depth))
    return tuple(entries)


def _check_name_untrusted(name: bytes, previous: bytes) -> None:
    if b"/" in name or b"\0" in name or name in (b".", b".."):
        raise BadObject(f"name {name!r}")
    if name <= previous:
        raise BadObject("names out of order")


def _entry_untrusted(item: _WireEntry, objects: Sequence[ObjectRef], depth: int) -> Entry:
    attributes = Attributes(item.mode & PERMISSIONS, item.uid, item.gid, item.mtime_ns)
    if isinstance(item, _File):
        return FileEntry(item.name, attributes, _extent_untrusted(item, objects), Digest(item.b3sum))
    if isinstance(item, _Link):
        if b"\0" in item.target:
            raise BadObject("link target with NUL")
        return LinkEntry(item.name, attributes, item.target)
    if item.object is None:
        return DirectoryEntry(item.name, attributes, _entries_untrusted(item.entries, objects, depth - 1))
    if item.entries:
        raise BadObject("directory with object and entries")
    return DirectoryEntry(item.name, attributes, _object_untrusted(objects, item.object))


def _extent_untrusted(item: _File, objects: Sequence[ObjectRef]) -> Extent | None:
    if item.size == 0:
        return None
    if item.object is None:
        raise BadObject("file without object")
    ref = _object_untrusted(objects, item.object)
    if item.offset + item.size > ref.size:
        raise BadObject("extent past the end of its object")
    return Extent(ref, item.offset, item.size)


def _object_untrusted(objects: Sequence[ObjectRef], number: int) -> ObjectRef:
    if number >= len(objects):
        raise BadObject("object number")
    return objects[number]
