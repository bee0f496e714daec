"""What is fuzzed: one line for each function that is fed from the network, from a disk or by the kernel.

What has to do with publishers is in publishers.py, with share keys in keyed.py, and text in texts.py.
"""

from __future__ import annotations

import errno
import itertools
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

import numpy as np
from blake3 import blake3

from mcfs.fetch import cachefile
from mcfs.fetch.cachedisk import Disk
from mcfs.fetch.fetcher import Fetcher, Limits
from mcfs.fetch.fetchevents import Assembled
from mcfs.fetch.listings import Listings, _Parts, check_listing_untrusted, check_parts_untrusted
from mcfs.fetch.probe import Tally
from mcfs.net import linkwatch
from mcfs.net.offer import Offer
from mcfs.net.settings import ServerSettings
from mcfs.protocol import announce, beacon, catalog, ids, mld, wire
from mcfs.protocol.errors import BadObject
from mcfs.protocol.ids import MIN_BLOCK_SIZE, Digest, Host, Node, ObjectId, ObjectRef
from mcfs.serve import pack
from mcfs.serve.link import Link
from tests.fuzz import cached, client, keyed, mutate, publishers, seeds, texts
from tests.fuzz.framing import frames
from tests.fuzz.target import Run, Target
from tests.serve.interface import Interface

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcfs.protocol.catalog import Entry, Listing

# --- from bytes to arguments -----------------------------------------------------------------------------------------


def triple(data: bytes) -> object:
    size, block_size = (int.from_bytes(part, "big", signed=True) for part in (data[:9], data[9:14]))
    ref = ids.object_ref_untrusted(size, block_size, data[14:])
    geometry = ref.geometry
    assert geometry.node_size(0, geometry.counts[0] - 1) <= geometry.block_size
    assert len(geometry.counts) <= 5
    return ref


def mld_message(parse: Callable[[bytes, mld.Envelope], object]) -> Run:
    def run(data: bytes) -> object:
        envelope, message = seeds.opened(data)
        return parse(message, envelope)

    return run


def report(data: bytes) -> object:
    envelope, message = seeds.opened(data)
    records = mld.parse_report_untrusted(message, envelope)
    assert all(mld.is_routable_group(record.group) for record in records)
    assert len(records) <= len(message) // 20
    return records


def raw_report(data: bytes) -> object:
    envelope, message = seeds.opened(data)
    return list(mld.read_report_untrusted(message, envelope))


def packet(data: bytes) -> object:
    """Half of the checksums are made right, or hardly any message would be looked at."""
    if len(data) % 2 == 0 and len(data) > 56:
        fixed = data[48:50] + b"\0\0" + data[52:]
        data = data[:48] + mld.with_checksum(data[8:24], data[24:40], fixed)
    return mld.open_packet_untrusted(data, 1)


def signed(context: bytes, decode: Callable[[bytes], object]) -> Run:
    """A message that somebody signed who has a key."""
    return lambda data: decode(announce._seal(context, data, seeds.KEY))


def envelope_of(context: bytes) -> Run:
    return lambda data: announce._open_untrusted(context, data)


def symbols(data: bytes) -> object:
    run = wire.symbol_run_untrusted(seeds.batch(data), seeds.NODE_SIZE)
    assert run.symbols.shape[-1] % 8 == 0
    assert len(run.esis) == len(run.rows)
    assert not run.contiguous or (np.diff(run.esis.astype(np.int64)) == 1).all()
    return run


def collect(data: bytes) -> object:
    """Datagrams of one channel through a client's fetcher, and no more symbols kept than a few nodes have."""
    fetcher, group = Fetcher(Limits()), seeds.GROUP
    node = Node(ObjectRef(seeds.NODE_SIZE, MIN_BLOCK_SIZE, Digest(bytes(32))), 0, 0)
    if len(data) % 2:  # then one of the two sources is the server
        fetcher.sources.announced(b"share", [Host(bytes(16))])
    fetcher.want(node, group, b"share", urgent=True, now=0.0)
    fetcher.changes(now=0.0)
    now, wrong = 0.0, 0
    for mark, datagram in frames(data):
        row, now = np.frombuffer(datagram, dtype=np.uint8), now + 0.001
        if row.size:
            fetcher.receive(group, Host(bytes(15) + bytes((mark,))), row.reshape(1, -1), now=now)
        for event in fetcher.events():
            assert isinstance(event, Assembled)
            assert len(event.data) == node.size
            wrong += 1
            fetcher.reject(node, event.source, now=now)
        fetcher.changes(now=now)
        fetcher.handle_timeout(now=now)
    return wrong


def probed(data: bytes) -> object:
    """What came of the probe object: no more is right than was sent, and no more is wrong than came."""
    tally, came, now = Tally(joined_at=0.0), 0, 0.0
    for mark, datagram in frames(data):
        row, now = np.frombuffer(datagram, dtype=np.uint8), now + 0.001
        if row.size:
            tally.receive(Host(bytes(15) + bytes((mark,))), row.reshape(1, -1), now=now)
            came += 1
    tally.done()
    readings = [*tally.readings(), *tally.readings(so_far=True)]
    assert all(0 <= r.received <= r.symbols and r.wrong <= came and r.rate >= 0 for r in readings)
    return readings


def directory(data: bytes) -> tuple[Entry, ...]:
    """A listing, and the parts that it asks for, in this order, until there are no more."""
    listings = iter([content for _, content in frames(data)])

    async def read(_: ObjectRef) -> Listing:
        return catalog.decode_listing_untrusted(next(listings, b""))

    fetching = Listings().fetch(seeds.SMALL, read, check_listing_untrusted)
    try:
        fetching.send(None)
    except StopIteration as result:
        entries: tuple[Entry, ...] = result.value
    else:
        raise AssertionError("nothing here waits")
    assert all(one.name < other.name for one, other in pairwise(entries))
    assert catalog.count_entries(entries) <= catalog.MAX_ENTRIES
    return entries


def other_server(data: bytes) -> None:
    offer = Offer(ServerSettings(), seeds.KEY)
    link = SimpleNamespace(senders={seeds.GROUP}, server_heard=lambda *_, **__: None)
    offer.other_server_untrusted(link, seeds.GROUP, data, now=0.0)  # type: ignore[arg-type]


def other_server_signed(data: bytes) -> None:
    other_server(wire.control(wire.ANNOUNCEMENT, announce._seal(announce._ANNOUNCEMENT_CONTEXT, data, seeds.KEY)))


_INTERFACE: Final = Interface()
_MESSAGES: Final = itertools.count(100)


def heard(data: bytes) -> object:
    """A server's side of MLD, which keeps what it heard from one message to the next."""
    envelope, message = seeds.opened(data)
    link = _INTERFACE.link
    now = next(_MESSAGES) * 0.01
    link.receive(envelope, message, now=now)
    link.handle_timeout(now=now)
    list(link.messages_to_send(now=now))
    list(link.scheduler.to_load())
    return link.membership.host_count


class _OneFile(Disk):
    """A disk with one file, whose first bytes are given and which is as long as it says."""

    def __init__(self, head: bytes) -> None:
        self._head = head

    def open(self, at: int, name: str) -> int:
        return -1

    def close(self, fd: int) -> None:
        pass

    def size(self, fd: int) -> int:
        try:
            return cachefile.layout_of(cachefile._parse_header(self._head[:256]).geometry).file_size
        except (cachefile.BadCacheFile, IndexError):
            return 1 << 20

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        if length > 1 << 30:
            raise OSError(errno.EIO, "too much")
        return self._head[offset : offset + length].ljust(length, b"\0")


def cached_object(data: bytes) -> object:
    """Half of the headers get the right hash and name."""
    if len(data) >= 256 and data[255] & 1:
        data = data[:224] + blake3(data[:224], derive_key_context="mcfs 1 cache header").digest() + data[256:]
    data = data.ljust(256, b"\0")
    try:
        name = cachefile._parse_header(data[:256]).id
    except cachefile.BadCacheFile:
        name = ObjectId(bytes(32))
    file = cachefile.open_file(_OneFile(data), -1, name)
    file.count(0, min(9, file.ref.geometry.counts[0]))
    return file.has(Node(file.ref, 0, file.ref.geometry.counts[0] - 1))


# --- the targets -----------------------------------------------------------------------------------------------------

_LISTING_HELPERS: Final = (
    catalog._entries_untrusted,
    catalog._check_name_untrusted,
    catalog._entry_untrusted,
    catalog._extent_untrusted,
    catalog._object_untrusted,
)
_ANNOUNCED: Final = signed(announce._ANNOUNCEMENT_CONTEXT, announce.decode_announcement_untrusted)
_GONE: Final = signed(announce._GONE_CONTEXT, announce.decode_gone_untrusted)
_MESSAGEPACK: Final = mutate.messagepack

ALL: Final = (
    Target(ids.object_ref_untrusted, triple, seeds.triples, (BadObject,)),
    Target(beacon.decode_beacon_untrusted, lambda d: beacon.decode_beacon_untrusted(d, b"\xff\x15"), seeds.beacons),
    Target(wire.control_untrusted, wire.control_untrusted, seeds.controls),
    Target(wire.hold_untrusted, wire.hold_untrusted, seeds.controls),
    Target(wire.symbol_run_untrusted, symbols, seeds.symbol_batches),
    Target(
        catalog.decode_listing_untrusted,
        catalog.decode_listing_untrusted,
        seeds.listings,
        (BadObject,),
        _MESSAGEPACK,
        _LISTING_HELPERS,
    ),
    Target(
        announce.decode_announcement_untrusted,
        _ANNOUNCED,
        lambda: seeds.messages(seeds.announcements()),
        mutator=_MESSAGEPACK,
        helpers=(announce._top_untrusted,),
    ),
    Target(announce.decode_gone_untrusted, _GONE, lambda: seeds.messages(seeds.gones()), mutator=_MESSAGEPACK),
    Target(
        announce._open_untrusted,
        envelope_of(announce._ANNOUNCEMENT_CONTEXT),
        seeds.announcements,
        mutator=_MESSAGEPACK,
    ),
    Target(mld.has_router_alert_untrusted, mld.has_router_alert_untrusted, seeds.hop_by_hop),
    Target(mld.open_packet_untrusted, packet, seeds.packets),
    Target(mld.parse_report_untrusted, report, seeds.reports, helpers=(mld._check_envelope_untrusted,)),
    Target(mld.read_report_untrusted, raw_report, seeds.reports, helpers=(mld._records_untrusted,)),
    Target(mld.parse_old_untrusted, mld_message(mld.parse_old_untrusted), seeds.old_messages),
    Target(mld.parse_query_untrusted, mld_message(mld.parse_query_untrusted), seeds.queries),
    Target(mld.parse_router_discovery_untrusted, mld_message(mld.parse_router_discovery_untrusted), seeds.discoveries),
    Target(
        Offer.other_server_untrusted,
        other_server_signed,
        lambda: seeds.messages(seeds.announcements()),
        mutator=_MESSAGEPACK,
    ),
    Target(
        Listings.fetch,
        directory,
        seeds.directories,
        (BadObject,),
        mutate.framed_messagepack,
        (check_listing_untrusted, check_parts_untrusted, _Parts.add_untrusted),
        wrong=seeds.wrong_directories,
    ),
    *cached.TARGETS,
    *client.TARGETS,
    *keyed.TARGETS,
    *publishers.TARGETS,
    *texts.TARGETS,
    # What is not named so, but takes what comes from elsewhere as well.
    Target(Offer.other_server_untrusted, other_server, seeds.offers, alias="datagram in a senders' channel"),
    Target(Fetcher.receive, collect, seeds.transfers, (), mutate.framed),
    Target(Tally.receive, probed, seeds.probes, (), mutate.framed),
    Target(Link.receive, heard, seeds.mld_messages, ()),
    Target(cachefile.open_file, cached_object, seeds.cached_objects, (cachefile.BadCacheFile, OSError)),
    Target(pack.decode_members, pack.decode_members, seeds.packs, (), _MESSAGEPACK),
    Target(linkwatch.parse_changes, linkwatch.parse_changes, seeds.link_changes, ()),
)
BY_NAME: Final = {target.name: target for target in ALL}
