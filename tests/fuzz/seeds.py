"""Valid inputs, made by the code's own encoders."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from nacl.signing import SigningKey

from mcfs.fetch import cachefile
from mcfs.protocol import fec, merkle, mld, wire
from mcfs.protocol.announce import Announcement, encode_announcement, encode_gone
from mcfs.protocol.beacon import encode_beacon
from mcfs.protocol.catalog import (
    MAX_LISTING_SIZE,
    Attributes,
    DirectoryEntry,
    Entry,
    Extent,
    FileEntry,
    LinkEntry,
    Owners,
    encode_listing,
)
from mcfs.protocol.ids import MAX_OBJECT_SIZE, MIN_BLOCK_SIZE, Digest, Group, Host, ObjectRef
from mcfs.protocol.mld import Advertisement, Envelope, OldMessage, Query, Record, RecordType, Solicitation, Termination
from mcfs.protocol.probe import PROBE_SIZE, probe_content
from tests.fuzz.framing import joined

if TYPE_CHECKING:
    from mcfs.protocol.fec import Symbols

KEY: Final = SigningKey(bytes(range(32)))
HOST: Final = Host(bytes.fromhex("fe80000000000000000000000000 0001"))
GROUP: Final = Group(bytes.fromhex("ff150102030405060708000080000001"))
SMALL: Final = ObjectRef(1000, 1 << 20, Digest(bytes(range(32))))
LARGE: Final = ObjectRef(MAX_OBJECT_SIZE, 1 << 24, Digest(bytes(32)))
NODE_SIZE: Final = 20_000
"""Of the node whose symbols are made up: 15 at T = 1,424."""
PREFIX: Final = b"\xff\x15"
_ATTRIBUTES: Final = Attributes(0o755, 1000, 100, 1_767_225_600_123_456_789)
_OWNERS: Final = Owners({1000: b"user"}, {100: b"group"})


# --- ids, beacons, datagrams -----------------------------------------------------------------------------------------


def triples() -> list[bytes]:
    return [triple(ref) for ref in (SMALL, LARGE, ObjectRef(1 << 56, 1 << 16, Digest(b"t" * 32)))]


def triple(ref: ObjectRef) -> bytes:
    """Size (9 bytes), block size (5), both signed, and top hash."""
    return ref.size.to_bytes(9, "big") + ref.block_size.to_bytes(5, "big") + ref.top


def beacons() -> list[bytes]:
    groups = [Group(PREFIX + number.to_bytes(14, "big")) for number in range(1, 81)]
    return [encode_beacon(groups[:count]) for count in (1, 2, 79, 80)]


def controls() -> list[bytes]:
    bodies = ((wire.BEACON, beacons()[1]), (wire.ANNOUNCEMENT, announcements()[0]), (wire.GONE, gones()[0]))
    return [wire.control(kind, body, hold) for kind, body in bodies for hold in (0, 200, 65535)]


def offers() -> list[bytes]:
    """What servers of one share say to each other."""
    return [wire.control(wire.ANNOUNCEMENT, body) for body in announcements()]


def content(size: int = NODE_SIZE) -> bytes:
    return random.Random(size).randbytes(size)


def datagrams(size: int = NODE_SIZE, t: int = 1424, repair: int = 3) -> list[bytes]:
    """All source symbols of a node as they travel, and a few of repair."""
    k = fec.source_symbols(size, t)
    source = np.frombuffer(content(size).ljust(k * t, b"\0"), dtype=np.uint8).reshape(k, t)
    symbols = np.concatenate([source, fec.Encoder(source).repair(0, repair)])
    return [row.tobytes() for row in wire.frame(size, np.arange(k + repair, dtype=np.uint32), symbols)]


def symbol_batches() -> list[bytes]:
    """As `targets.symbols` takes them: rows and messages, then datagrams of one size one behind the other."""
    one = datagrams()
    small = datagrams(t=64)
    return [
        bytes((1, 1)) + one[0],
        bytes((5, 1)) + b"".join(one[:5]),
        bytes((2, 3)) + b"".join(one[3:9]),
        bytes((4, 1)) + b"".join((one[17], one[3], one[3], one[4])),
        bytes((7, 1)) + b"".join(small[:7]),
    ]


def batch(data: bytes) -> Symbols:
    """uint8[n, size] or [m, n, size]; n and m are the first two bytes."""
    n, m, rest = max(1, data[0] if data else 1), max(1, data[1] if len(data) > 1 else 1), data[2:]
    size = max(1, len(rest) // (n * m))
    count = len(rest) // size
    shape = (m, count // m, size) if m > 1 and count % m == 0 else (count, size)
    return np.frombuffer(rest[: count * size], dtype=np.uint8).reshape(shape)


def transfers() -> list[bytes]:
    """As `targets.collect` takes them: symbols of a node in several orders, each behind the number of its source."""
    whole = datagrams()
    lossy = [*whole[:4], *whole[6:]]
    mixed = list(itertools.chain.from_iterable(zip(whole, reversed(whole), strict=True)))
    small = datagrams(100, 16)
    return [_transfer(sequence) for sequence in (whole, lossy, mixed, whole[::-1], small)]


def probes() -> list[bytes]:
    """As `targets.probed` takes them: a piece of a pass, one that goes over the end, and one with other symbols."""
    t = 1424
    k = fec.source_symbols(PROBE_SIZE, t)
    source = np.frombuffer(probe_content().ljust(k * t, b"\0"), dtype=np.uint8).reshape(k, t)
    esis = [np.arange(10), np.arange(k - 5, k + 5) % k, np.array([7, 8, 3, 4, 5, 6, 7])]
    return [
        _transfer([row.tobytes() for row in wire.frame(PROBE_SIZE, numbers.astype(np.uint32), source[numbers])])
        for numbers in esis
    ]


def _transfer(sequence: list[bytes]) -> bytes:
    return joined((n % 2, datagram) for n, datagram in enumerate(sequence))


# --- listings and what is signed -------------------------------------------------------------------------------------


def listings() -> list[bytes]:
    extent = Extent(SMALL, 10, 20)
    files: list[Entry] = [FileEntry(b"f%03d" % n, _ATTRIBUTES, extent, Digest(b"b" * 32)) for n in range(20)]
    link = LinkEntry(b"link", _ATTRIBUTES, b"../target")
    empty = FileEntry(b"empty", _ATTRIBUTES, None, Digest(b"e" * 32))
    folder = DirectoryEntry(b"folder", _ATTRIBUTES, LARGE)
    inlined: Entry = DirectoryEntry(b"a", _ATTRIBUTES, (files[0], link))
    for _ in range(5):
        inlined = DirectoryEntry(b"deeper", _ATTRIBUTES, (inlined,))
    huge = FileEntry(b"huge", _ATTRIBUTES, Extent(LARGE, 0, LARGE.size), Digest(b"h" * 32))
    groups: tuple[list[Entry], ...] = ([], files, [inlined, empty, folder, huge, link], [link])
    return [encode_listing(sorted(some, key=lambda e: e.name), _OWNERS) for some in groups] + [
        encode_listing([], Owners({}, {}), [SMALL, LARGE])
    ]


_PARTS: Final = [
    encode_listing([LinkEntry(b"%c%d" % (first, n), _ATTRIBUTES, b"t") for n in range(5)], Owners()) for first in b"abc"
]


def directories() -> list[bytes]:
    """As `targets.directory` takes them: listings with parts, with these behind them, and such without."""
    refs = [ObjectRef(len(part), 1 << 20, Digest(bytes((n,)) * 32)) for n, part in enumerate(_PARTS)]
    whole = [[encode_listing([], Owners(), refs), *_PARTS], [encode_listing([], Owners(), _large(3)), *_PARTS]]
    return [joined((0, listing) for listing in some) for some in (*whole, *([each] for each in listings()[:-1]))]


def wrong_directories() -> list[bytes]:
    """With parts that are too long together, in the wrong order, missing, or have parts themselves."""
    with_parts = encode_listing([], Owners(), _large(3))
    wrong = [
        [encode_listing([], Owners(), _large(70)), *_PARTS],
        [with_parts, *_PARTS[::-1]],
        [with_parts, *_PARTS[:2]],
        [with_parts, with_parts, *_PARTS],
    ]
    return [joined((0, listing) for listing in some) for some in wrong]


def _large(count: int) -> list[ObjectRef]:
    return [ObjectRef(MAX_LISTING_SIZE, 1 << 20, Digest(bytes((n,)) * 32)) for n in range(count)]


def announcements() -> list[bytes]:
    """Bodies."""
    tops: tuple[DirectoryEntry | FileEntry, ...] = (
        DirectoryEntry(b"demo", _ATTRIBUTES, SMALL),
        FileEntry(b"file", _ATTRIBUTES, Extent(SMALL, 0, 1000), Digest(b"b" * 32)),
    )
    return [
        encode_announcement(Announcement(5, 6, top, _OWNERS, 7, 8, 950_000_000, (HOST, HOST), period), KEY)
        for top, period in zip(tops, (0, 10), strict=True)
    ]


def gones() -> list[bytes]:
    return [encode_gone(GROUP, 6, KEY)]


def messages(bodies: list[bytes]) -> list[bytes]:
    """What is signed in these."""
    return [msgspec.msgpack.decode(body)[2] for body in bodies]


# --- MLD -------------------------------------------------------------------------------------------------------------


def envelope(message: bytes, destination: bytes) -> bytes:
    """As `targets.mld_message` takes them: source, destination, hop limit, router alert, message."""
    return HOST + destination + b"\x01\x01" + message


def reports() -> list[bytes]:
    sources = (HOST, HOST)
    records = [
        [Record(kind, GROUP) for kind in RecordType],
        [Record(RecordType.ALLOW_NEW_SOURCES, GROUP, sources), Record(RecordType.MODE_IS_EXCLUDE, GROUP)],
        [Record(RecordType.CHANGE_TO_EXCLUDE_MODE, Group(PREFIX + bytes(13) + bytes((n,)))) for n in range(72)],
        [],
    ]
    with_aux = bytearray(mld.build_report(records[0][:1]) + bytes(8))
    with_aux[9] = 2
    built = [mld.build_report(some) for some in records]
    return [envelope(message, mld.ALL_MLDV2_ROUTERS) for message in (*built, bytes(with_aux))]


def old_messages() -> list[bytes]:
    return [
        envelope(mld.build_old(OldMessage(GROUP, done)), mld.ALL_ROUTERS if done else GROUP) for done in (False, True)
    ]


def queries() -> list[bytes]:
    wanted = (
        Query(),
        Query(GROUP, 0.2, True, 2, 125),
        Query(GROUP, 1.0, sources=(HOST, HOST)),
        Query(max_response=8000.0, robustness=7, interval=30_000),
        Query(version=1),
        Query(GROUP, version=1),
    )
    return [envelope(mld.build_query(query), mld.ALL_NODES) for query in wanted]


def discoveries() -> list[bytes]:
    found = (Advertisement(20, 125, 2), Solicitation(), Termination())
    return [envelope(mld.build_router_discovery(message), mld.ALL_SNOOPERS) for message in found]


def mld_messages() -> list[bytes]:
    return [*reports(), *old_messages(), *queries(), *discoveries()]


def hop_by_hop() -> list[bytes]:
    """RFC 8200 section 4.3; options with Pad1, PadN, a long one and none."""
    return [
        mld.ROUTER_ALERT_HOP_BY_HOP,
        bytes.fromhex("3a00 0000 0000 0000"),
        bytes.fromhex("3a01 0104 00000000 0502 0000 1e02 abcd"),
        bytes.fromhex("3a00 0502 0001 0100"),
    ]


def packets() -> list[bytes]:
    """IPv6 packets with an MLDv1 message: the payload length, next header, hop limit and addresses before it."""
    found = []
    for data in old_messages():
        destination, message = data[16:32], data[34:]
        message = mld.with_checksum(HOST, destination, message)
        payload = mld.ROUTER_ALERT_HOP_BY_HOP + message
        found.append(b"\x60\0\0\0" + len(payload).to_bytes(2, "big") + b"\0\x01" + HOST + destination + payload)
    return found


def opened(data: bytes) -> tuple[Envelope, bytes]:
    """The reverse of `envelope`; what is missing is zero."""
    head, message = data[:34].ljust(34, b"\0"), data[34:]
    return Envelope(Host(head[:16]), head[16:32], head[32], bool(head[33] & 1), 1), message


# --- files and the kernel --------------------------------------------------------------------------------------------


def cached_objects() -> list[bytes]:
    """The first bytes of cache files: header and map."""
    found = []
    for size in (1, MIN_BLOCK_SIZE * 1030):
        ref, _ = merkle.object_of(bytes(size), MIN_BLOCK_SIZE) if size == 1 else (SMALL, [])
        ref = ref if size == 1 else ObjectRef(size, MIN_BLOCK_SIZE, Digest(bytes(32)))
        found.append(cachefile._header(ref) + b"\x05" * cachefile.layout_of(ref.geometry).map_bytes)
    return found


def packs() -> list[bytes]:
    """Members of packs as the server's database has them."""
    return [msgspec.msgpack.encode([(b"file%d" % n, n << 10) for n in range(count)]) for count in (0, 1, 30)]


def link_changes() -> list[bytes]:
    """rtnetlink: RTM_NEWLINK and RTM_DELLINK with a struct ifinfomsg, RTM_NEWADDR with nothing."""
    body = bytes((0, 0, 1, 0)) + (7).to_bytes(4, "little") + bytes(8)
    messages = []
    for kind, what in ((16, body), (17, body), (20, b"")):
        head = (16 + len(what)).to_bytes(4, "little") + kind.to_bytes(2, "little") + bytes(10)
        messages.append(head + what)
    return [*messages, b"".join(messages)]
