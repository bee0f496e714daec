"""Announcements: what a server says of a share, signed by its publisher, in one datagram.

The body is a MessagePack array (key, signature, signed bytes); the signed bytes are a MessagePack array, `_Signed`. The
top entry travels as a listing of one entry, whose name is the share's. The signature is Ed25519 (RFC 8032) over a
context string and the signed bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from mcfs.protocol.catalog import (
    DirectoryEntry,
    Entry,
    FileEntry,
    Owners,
    decode_listing_untrusted,
    encode_listing,
)
from mcfs.protocol.errors import BadDatagram, BadObject
from mcfs.protocol.ids import MAX_OBJECT_SIZE, Group, ObjectRef
from mcfs.protocol.keys import CHECK_SIZE
from mcfs.protocol.succession import LINK_SIZE, MAX_LINKS

if TYPE_CHECKING:
    from mcfs.protocol.keys import ShareKeys

MAX_SHARE_NAME: Final = 255
MAX_ADDRESSES: Final = 4
MAX_PERIOD: Final = 7 * 86400
"""Seconds: a terabyte at 14 Mbit/s."""
_ANNOUNCEMENT_CONTEXT: Final = b"mcfs 1 announcement\0"
_GONE_CONTEXT: Final = b"mcfs 1 gone\0"


@dataclass(frozen=True, slots=True)
class Announcement:
    version: int
    """Grows with every change of content; max(last + 1, Unix time in ms)."""
    time_ms: int
    """Unix time at which it was signed."""
    entry: FileEntry | DirectoryEntry
    """The share's root; its name is the share's name. A directory refers to its listing object."""
    owners: Owners
    total_bytes: int
    total_files: int
    rate: int
    """Bits per second at which the server paces class 0."""
    addresses: tuple[bytes, ...]
    """Source addresses of the server."""
    period: int = 0
    """Seconds in which the server sends everything once, whoever listens; 0: it sends what is asked for."""
    publisher: bytes = b""
    """Ed25519 public key, 32 bytes; filled in by decoding."""
    keys: ShareKeys | None = field(default=None, kw_only=True)
    """Those of the channel that it came in; filled in by whoever received it."""
    links: tuple[bytes, ...] = ()
    """How the publisher came by its key, oldest first; the signatures in them are not checked (see `succession`)."""
    key_check: bytes = b""
    """`ShareKeys.check` of the share key, empty without one: so nobody can pass off a share with a key as one without,
    or with another one."""

    @property
    def name(self) -> bytes:
        return self.entry.name

    @property
    def content(self) -> ObjectRef | None:
        """The object that the share is: what servers with the same content have in common; None for an empty file."""
        if isinstance(self.entry, FileEntry):
            return self.entry.extent.object if self.entry.extent else None
        return self.entry.content if isinstance(self.entry.content, ObjectRef) else None


_U63 = Annotated[int, msgspec.Meta(ge=0, le=MAX_OBJECT_SIZE)]
_Address = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
_Link = Annotated[bytes, msgspec.Meta(min_length=LINK_SIZE, max_length=LINK_SIZE)]


class _Sealed(msgspec.Struct, array_like=True, frozen=True):
    key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
    signed: bytes


class _Signed(msgspec.Struct, array_like=True, frozen=True):
    version: _U63
    time_ms: _U63
    top: bytes
    total_bytes: _U63
    total_files: _U63
    rate: _U63
    addresses: Annotated[list[_Address], msgspec.Meta(max_length=MAX_ADDRESSES)]
    period: Annotated[int, msgspec.Meta(ge=0, le=MAX_PERIOD)] = 0
    links: Annotated[list[_Link], msgspec.Meta(max_length=MAX_LINKS)] = []
    key_check: Annotated[bytes, msgspec.Meta(max_length=CHECK_SIZE)] = b""


class _Gone(msgspec.Struct, array_like=True, frozen=True):
    group: _Address
    time_ms: _U63


_sealed: Final = msgspec.msgpack.Decoder(_Sealed)
_signed: Final = msgspec.msgpack.Decoder(_Signed)
_gone: Final = msgspec.msgpack.Decoder(_Gone)


def encode_announcement(announcement: Announcement, key: SigningKey) -> bytes:
    """The body of an announcement datagram."""
    a = announcement
    top = encode_listing([a.entry], a.owners)
    addresses = list(a.addresses[:MAX_ADDRESSES])
    period = min(MAX_PERIOD, a.period)
    links = list(a.links[-MAX_LINKS:])
    sizes = (a.total_bytes, a.total_files, a.rate)
    signed = _Signed(a.version, a.time_ms, top, *sizes, addresses, period, links, a.key_check)
    return _seal(_ANNOUNCEMENT_CONTEXT, msgspec.msgpack.encode(signed), key)


def decode_announcement_untrusted(body: bytes) -> Announcement:
    """Check the signature and every field. Raises BadDatagram."""
    key, message = _open_untrusted(_ANNOUNCEMENT_CONTEXT, body)
    try:
        signed = _signed.decode(message)
        listing = decode_listing_untrusted(signed.top)
    except (msgspec.DecodeError, RecursionError, BadObject) as error:
        raise BadDatagram(f"announcement: {error}") from None
    entry = _top_untrusted(listing.entries)
    return Announcement(
        signed.version,
        signed.time_ms,
        entry,
        listing.owners,
        signed.total_bytes,
        signed.total_files,
        signed.rate,
        tuple(signed.addresses),
        signed.period,
        key,
        tuple(signed.links),
        signed.key_check,
    )


def _top_untrusted(entries: tuple[Entry, ...]) -> FileEntry | DirectoryEntry:
    match entries:
        case (FileEntry() as entry,):
            return entry
        case (DirectoryEntry(content=ObjectRef()) as entry,):
            return entry
    raise BadDatagram("announcement: top entry")


def encode_gone(group: Group, time_ms: int, key: SigningKey) -> bytes:
    """The body of a datagram that says: the node of this group can no longer be produced."""
    return _seal(_GONE_CONTEXT, msgspec.msgpack.encode(_Gone(group, time_ms)), key)


def decode_gone_untrusted(body: bytes) -> tuple[bytes, Group, int]:
    """Publisher key, group and time (ms) of a gone datagram. Raises BadDatagram."""
    key, message = _open_untrusted(_GONE_CONTEXT, body)
    try:
        gone = _gone.decode(message)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadDatagram(f"gone: {error}") from None
    return key, Group(gone.group), gone.time_ms


def claimed_publisher_untrusted(body: bytes) -> bytes:
    """The key that the body of an announcement or a gone says it is signed with, before a check of the signature, which
    takes a hundred times as long. Raises BadDatagram."""
    try:
        return _sealed.decode(body).key
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadDatagram(f"signature: {error}") from None


def _seal(context: bytes, message: bytes, key: SigningKey) -> bytes:
    signature = key.sign(context + message).signature
    return msgspec.msgpack.encode(_Sealed(bytes(key.verify_key), signature, message))


def _open_untrusted(context: bytes, body: bytes) -> tuple[bytes, bytes]:
    try:
        sealed = _sealed.decode(body)
        VerifyKey(sealed.key).verify(context + sealed.signed, sealed.signature)
    except (msgspec.DecodeError, RecursionError, BadSignatureError, ValueError) as error:
        raise BadDatagram(f"signature: {error}") from None
    return sealed.key, sealed.signed
