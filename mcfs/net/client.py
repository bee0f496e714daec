"""The client on a real socket: what the file system asks of (`mcfs.fuse.backend.Backend`), on top of the cores in
`mcfs.fetch`.

Tasks: one receives, one changes memberships and watches the time, one follows the interfaces; all are in the nursery of
`open_client`. Threads read and write the disk cache. All tables belong to the event loop; between two awaits they are
consistent.
"""

from __future__ import annotations

import contextlib
import logging
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import trio

from mcfs.fetch.ahead import ReadAhead, Stream
from mcfs.fetch.batches import hurry
from mcfs.fetch.cache import Cache
from mcfs.fetch.fetcher import DEFAULT_MAX_GROUPS, Fetcher, Limits
from mcfs.fetch.fetchevents import Assembled
from mcfs.fetch.keyring import Keyring
from mcfs.fetch.leafindex import LeafIndex
from mcfs.fetch.listings import Listings
from mcfs.fetch.nodes import NodeTree, Ready
from mcfs.fetch.pinfile import KnownPublishers
from mcfs.fetch.readplan import TreeFollowers
from mcfs.fetch.shares import KeyChanged, Remark, Share, ShareTable, VersionRaised
from mcfs.fetch.trust import Trust
from mcfs.fetch.versions import Versions
from mcfs.net.budgets import Budgets, Kind
from mcfs.net.cacheworkers import CacheWorkers
from mcfs.net.door import Door, addresses_that_fit
from mcfs.net.filereader import FileReader
from mcfs.net.gathering import Gathering
from mcfs.net.keeper import Keeper
from mcfs.net.kernel import jiffy, optmem_max
from mcfs.net.linkwatch import follow
from mcfs.net.memberships import Memberships
from mcfs.net.pinner import LOOK, Pinner
from mcfs.net.receive import Receiver, Run
from mcfs.net.waiters import NEWEST, Waiters
from mcfs.protocol import addressing, wire
from mcfs.protocol.announce import (
    Announcement,
    claimed_publisher_untrusted,
    decode_announcement_untrusted,
    decode_gone_untrusted,
)
from mcfs.protocol.beacon import decode_beacon_untrusted
from mcfs.protocol.catalog import Entry, FileEntry, Listing, decode_listing_untrusted
from mcfs.protocol.errors import BadDatagram, NoKey, TimedOut, Untrusted, WrongKey
from mcfs.protocol.ids import Group, Host, Node, ObjectRef
from mcfs.protocol.printable import printable
from mcfs.protocol.seal import open_control_untrusted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from mcfs.fetch.shares import Standing
    from mcfs.fetch.trust import Pin
    from mcfs.net.interfaces import Interface
    from mcfs.net.reconcile import Plan
    from mcfs.protocol.catalog import Extent
    from mcfs.protocol.keys import ShareKeys
    from mcfs.protocol.merkle import Buffer
    from mcfs.protocol.publisher import Fingerprint

log = logging.getLogger(__name__)

TURN: Final = 0.004
"""Seconds of receiving after which leaves, deadlines and FUSE replies get their turn."""
MAX_WAIT: Final = 300.0
"""Seconds that a read may take at all."""
TREE_SECONDS: Final = 30.0
"""How long after the last file was opened the next ones of the tree, as far as they were looked at, count as wanted."""
UNHEARD_SECONDS: Final = 1.0
"""How long a share is waited for until it is asked whether something with a key is there."""
INLINE_DECODE: Final = 128 << 10
LIMIT_LOOK: Final = 2.0
"""Seconds between two looks whether other mounts use the cache's directory."""


@dataclass(frozen=True, slots=True)
class TrustSettings:
    """Which publishers the user believes."""

    known: Path | None = None
    """The file of known publishers; None: nothing is known from before, and nothing remembered."""
    demanded: Fingerprint | None = None
    """The only key that may publish; None: one for each share, see `mcfs.fetch.trust`."""
    strict: bool = False
    """Whether unknown publishers are refused."""
    remember: bool = True
    """Whether to write down whose shares are used."""


@dataclass(frozen=True, slots=True)
class ClientSettings:
    interfaces: tuple[Interface, ...]
    cache_dir: Path
    cache_max: int | None = None
    """Bytes that the cache may take on the disk; None: what `Cache.open` says."""
    cache_min_free: int | None = None
    """Bytes that it leaves to others; None: as above."""
    port: int = wire.DEFAULT_PORT
    scope: int = addressing.SITE_LOCAL
    timeout: float = 30.0
    max_wait: float | None = None
    """Seconds; None: MAX_WAIT, or three rounds of a server that sends everything round and round."""
    max_groups: int = DEFAULT_MAX_GROUPS
    catalogue: bool = True
    """Whether to listen for all shares, or only for those that `wait_share` names."""
    interface_names: tuple[str, ...] = ()
    """Those to use whenever they exist; none: all that are suited."""
    keys: tuple[ShareKeys, ...] = ()
    """Share keys. With some, and without `catalogue`, a share that has none of them is not heard."""
    trust: TrustSettings = TrustSettings()


@asynccontextmanager
async def open_client(
    settings: ClientSettings, *, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Client]:
    """A running client; leaving the context leaves all groups and finishes writing the cache.

    Raises OSError if the socket cannot be opened, UserError if the file of known publishers cannot be read.
    """
    client = Client(settings, clock)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(client.run)
            yield client
            nursery.cancel_scope.cancel()
    finally:
        client.close()


class Client:
    def __init__(self, settings: ClientSettings, clock: Callable[[], float], receiver: Receiver | None = None) -> None:
        """`receiver` is what to receive with, if not with a socket of its own. Raises OSError."""
        self._settings = settings
        self._clock = clock
        self._known, self._trust = _known_publishers(settings.trust)
        self._keeper: Keeper | None = None
        self._receiver = receiver or Receiver(settings.port)
        self._door = Door(self._receiver.attach, addresses_that_fit(optmem_max()))
        self._cache = Cache.open(settings.cache_dir, max_bytes=settings.cache_max, min_free=settings.cache_min_free)
        self._keyring = Keyring(settings.keys, settings.scope)
        self._keyed_group = addressing.keyed_group(settings.scope)
        self._keyed_waiters = 0
        self._keyed_heard = False
        """Whether something with a key was heard since somebody waits for a share."""
        self._shares = ShareTable(settings.timeout, self._trust)
        self._versions = Versions()
        limits = Limits(
            timeout=settings.timeout,
            max_wait=settings.max_wait or MAX_WAIT,
            firm=settings.max_wait is not None,
            max_groups=settings.max_groups,
            max_bytes=self._receiver.usable,
            hurry=hurry(jiffy()),
        )
        self._fetcher = Fetcher(limits)
        leaves = LeafIndex()
        self._workers = CacheWorkers(self._cache, leaves)
        self._tree = NodeTree(
            self._fetcher,
            self._cache,
            settings.scope,
            is_down=self._is_down,
            pace=self._fetcher.paces.pace,
            keys=self._keys_of,
            leaves=leaves,
        )
        self._waiters = Waiters(
            self._tree,
            self._fetcher,
            self._shares,
            timeout=settings.timeout,
            clock=clock,
            wake=self._set_wake,
        )
        self._memberships = Memberships(self._receiver, self._fetcher, self._shares, settings.interfaces)
        self._listings = Listings()
        self._fetching: dict[tuple[bytes, ObjectRef], trio.Event] = {}
        self._news = trio.Event()
        self._wake = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._used: set[bytes] = set()
        """Shares whose publishers are remembered, because somebody looked into them."""
        self._given: set[bytes] = set()
        """Shares that somebody waited for and got."""
        self._pinnings: dict[bytes, trio.Event] = {}
        self._share_names: dict[Group, bytes] = {}
        """Whose channel it is."""
        self._waited: dict[bytes, list[str]] = {}
        """What would have been said of shares that somebody waits for: he is told first."""
        self._budgets = Budgets()
        self._in_use: frozenset[Host] = frozenset()
        """Addresses of the servers of shares in use."""
        self._followers = TreeFollowers()
        self._ahead = ReadAhead(self._fetcher, self._tree)
        self._top_up_due = False

    # --- Backend ---

    def shares(self) -> Mapping[bytes, Announcement]:
        return self._versions.shown(self._shares.announcements())

    def share(self, name: bytes) -> Announcement | None:
        share = self._shares.get(name)
        return None if share is None else self._versions.shown_of(share.announcement)

    async def news(self) -> None:
        await self._news.wait()

    def publishers(self) -> list[tuple[Announcement, Standing]]:
        """All that was heard, also what does not count."""
        return self._shares.listing()

    async def wait_share(self, name: bytes, timeout: float) -> Announcement:  # noqa: ASYNC109 - see Backend
        """Raises TimedOut; Untrusted if only others were heard than may publish it; NoKey, or WrongKey, if it may be
        one of the shares that were heard and have another key."""
        if not self._settings.catalogue:
            self._shares.want(name)
        channels = self._keyring.channels(name, only_keyed=not self._settings.catalogue)
        self._share_names.update(dict.fromkeys(channels, name))
        held = [channel for channel in channels if self._hold(channel)]
        remarks = self._waited.setdefault(name, [])
        try:
            if (share := await self._heard_within(name, timeout)) is not None:
                for remark in remarks:
                    log.warning("%s", remark)
                self._given.add(name)
                return self._versions.shown_of(share.announcement)
        finally:
            self._waited.pop(name, None)
            if self._settings.catalogue:  # who tries names must not fill the tables: the catalogues bring what there is
                self._release(held)
        if (refusal := self._shares.refusal(name)) is not None:
            raise Untrusted(refusal)
        self._check_keyed(name)
        raise TimedOut(f"share {printable(name)!r} was not heard within {timeout:g} s")

    async def _heard_within(self, name: bytes, seconds: float) -> Share | None:
        with trio.move_on_after(seconds):
            with trio.move_on_after(UNHEARD_SECONDS):
                return await self._believed(name)
            with self._listening_for_keyed():
                return await self._believed(name)
        return None

    def _release(self, channels: Iterable[Group]) -> None:
        for channel in channels:
            self._memberships.release(channel, now=self._clock())
            self._keyring.forget(channel)
            self._share_names.pop(channel, None)

    async def _believed(self, name: bytes) -> Share:
        """A share that was heard; if it is the one that the client is for, its publisher is written down."""
        while True:
            while (share := self._shares.get(name)) is None:
                await self._news.wait()
            if self._settings.catalogue:
                return share
            self._use(name)
            if (writing := self._pinnings.get(name)) is not None:
                await writing.wait()
            if self._shares.get(name) is share:
                return share

    @contextlib.contextmanager
    def _listening_for_keyed(self) -> Iterator[None]:
        if not self._keyed_waiters:
            self._keyed_heard = False
            self._hold(self._keyed_group)
        self._keyed_waiters += 1
        try:
            yield
        finally:
            self._keyed_waiters -= 1
            if not self._keyed_waiters:
                self._memberships.release(self._keyed_group, now=self._clock())

    def _check_keyed(self, name: bytes) -> None:
        """Raise NoKey or WrongKey if a share may not have been heard for want of its key."""
        opened = any(announcement.keys for announcement in self._shares.announcements().values())
        if not self._keyed_heard or (self._settings.catalogue and opened):
            return
        text = f"wrong key or no such share: {printable(name)!r}"
        raise WrongKey(text) if self._keyring else NoKey(text)

    async def entries(self, share: bytes, content: ObjectRef | tuple[Entry, ...]) -> tuple[Entry, ...]:
        self._use(share)
        if isinstance(content, tuple):
            return content
        # One task fetches and decodes a directory for all: that takes memory as long as it is.
        while (fetching := self._fetching.get((share, content))) is not None:
            await fetching.wait()
        known = self._listings.get(content)
        return known if known is not None else await self._fetch_listing(share, content)

    def open(self, path: bytes, entry: FileEntry, upcoming: Callable[[], Iterable[FileEntry | None]]) -> FileReader:
        share = path.partition(b"/")[0]
        self._follow_tree(share, entry, upcoming)
        self._use(share)
        channel = self._keyring.channel(share, self._keys_of(share))
        self._share_names[channel] = share
        if self._memberships.hold_share(channel, now=self._clock()):
            self._wake.set()
        if entry.extent is not None:
            self._begin(share, path, entry.extent)
        return FileReader(self, share, self._version(share), entry)

    def _begin(self, share: bytes, path: bytes, extent: Extent) -> None:
        """A file is open: what it needs stays, and its first block will be read."""
        object_ = extent.object
        self._cache.opened(object_)
        if object_.geometry.top_level and self._cache.is_new_version(path, object_):
            self._tree.expect_known(object_)
        first = Node(object_, 0, extent.offset // object_.block_size)
        self._tree.request(first, share, urgent=False, now=self._clock())
        self._wake.set()

    def end(self, extent: Extent) -> None:
        """A file was closed."""
        self._cache.closed(extent.object)

    def cache_path(self) -> Path | None:
        return self._cache.path

    def cached_bytes(self, entry: FileEntry) -> int:
        e = entry.extent
        return self._cache.cached_bytes(e.object, e.offset, e.length) if e else 0

    # --- nodes ---

    async def node(self, node: Node, origin: bytes, version: int = NEWEST) -> Buffer:
        """The verified bytes of a node, of this version of its share. Raises NotAvailable or BadNode."""
        return await self._waiters.node(node, origin, version)

    def ask(self, node: Node, origin: bytes) -> None:
        """Start fetching what will be waited for."""
        self._waiters.ask(node, origin)

    def prefetch(self, nodes: Iterable[Node], origin: bytes) -> None:
        """Fetch these when nothing more urgent is wanted."""
        if self._tree.congested:
            return
        now = self._clock()
        for node in nodes:
            if not self._tree.is_pending(node) and not self._tree.holds(node):
                self._tree.request(node, origin, urgent=False, now=now)
        self._wake.set()

    def follow(self, object_: ObjectRef, blocks_ahead: range, share: bytes) -> None:
        """These blocks will be wanted: take them when they are sent for others."""
        if blocks_ahead:
            self._ahead.followed.follow(object_, blocks_ahead, share, now=self._clock())

    def _follow_tree(self, share: bytes, entry: FileEntry, upcoming: Callable[[], Iterable[FileEntry | None]]) -> None:
        """If files are opened one after the other, the next ones are wanted too."""
        follower = self._followers.opened(share, entry, upcoming)
        if follower is None:
            return
        now = self._clock()
        for object_, known in follower.draw():
            self._ahead.followed.follow(object_, known, share, now=now, seconds=TREE_SECONDS)
        self.stream(follower)

    def is_heard(self, share: bytes) -> bool:
        """Whether it is worth while to ask for something of a share."""
        return share in self._shares and not self._is_down(share)

    def is_wanted(self, node: Node) -> bool:
        """Whether a node is being fetched, or written."""
        return self._tree.is_under_way(node)

    def stream(self, reader: Stream) -> None:
        """A file, or a tree, is being read: fetch ahead of this reader until it stops."""
        now = self._clock()
        self._versions.used(reader.share, now=now)
        self._ahead.stream(reader, now=now)
        if not self._top_up_due:
            self._top_up_due = True
            self._wake.set()

    def end_stream(self, reader: FileReader) -> None:
        self._ahead.end(reader)

    @property
    def window(self) -> int:
        return self._fetcher.window

    def max_wait(self, share: bytes) -> float:
        return self._fetcher.max_wait(share)

    def statistics(self) -> dict[str, int]:
        counters = self._fetcher.counters
        return {
            "symbols": counters.symbols,
            "duplicates": counters.duplicates,
            "forged_datagrams": counters.forged_datagrams,
            "bad_datagrams": counters.bad_datagrams + self._receiver.malformed,
            "rejoins": counters.rejoins,
            "failed_nodes": counters.failed_nodes,
            "batches": counters.batches,
            "kernel_drops": self._receiver.kernel_drops(),
            "groups": self._fetcher.groups,
        }

    # --- listings ---

    async def _fetch_listing(self, share: bytes, ref: ObjectRef) -> tuple[Entry, ...]:
        """In max_wait, however many parts there are, each of which may come just in time."""

        async def read(object_: ObjectRef) -> Listing:
            return await self._decode(await self._object(share, object_))

        longest = self.max_wait(share)
        done = self._fetching[share, ref] = trio.Event()
        try:
            with trio.fail_after(longest):
                return await self._listings.fetch(ref, read, lambda part: self.prefetch([Node(part, 0, 0)], share))
        except trio.TooSlowError:
            raise TimedOut(f"directory not complete after {longest:g} s") from None
        finally:
            del self._fetching[share, ref]
            done.set()

    async def _decode(self, data: Buffer) -> Listing:
        view = memoryview(data)
        if len(view) <= INLINE_DECODE:
            return decode_listing_untrusted(view)
        return await trio.to_thread.run_sync(decode_listing_untrusted, view)

    async def _object(self, share: bytes, ref: ObjectRef) -> Buffer:
        nodes = [Node(ref, 0, index) for index in range(ref.geometry.counts[0])]
        for node in nodes:
            self.ask(node, share)
        version = self._version(share)
        parts = [await self.node(node, share, version) for node in nodes]
        return parts[0] if len(parts) == 1 else b"".join(bytes(part) for part in parts)

    # --- running ---

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._workers.start(self._wake_from_thread)
        if self._known is not None and self._settings.trust.remember:
            self._keeper = Keeper(self._known, self._wake_from_thread)
        if self._settings.catalogue:
            for channel in self._keyring.catalogues():
                self._hold(channel)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive_loop)
            nursery.start_soon(self._time_loop)
            nursery.start_soon(
                follow, lambda: self._memberships.interfaces, self._settings.interface_names, self._apply
            )
            nursery.start_soon(self._keep_pinned)
            nursery.start_soon(self._keep_limit)
            task_status.started()

    async def _keep_limit(self) -> None:
        """A second mount of the cache's directory takes its part also of what is only read here."""
        while True:
            await trio.sleep(LIMIT_LOOK)
            await trio.to_thread.run_sync(self._cache.keep_limit)

    async def _keep_pinned(self) -> None:
        while (pins := self._cache.pins) is None:  # noqa: ASYNC110 - a thread opens it, if ever
            await trio.sleep(LOOK)
        try:
            await Pinner(self, self._cache, pins).run()
        except Exception:
            log.exception("pins are not looked after any more")

    def close(self) -> None:
        """Leave all groups; finish writing."""
        self._receiver.close()
        self._workers.close()
        if self._keeper is not None:
            self._keeper.close()
        self._cache.close()

    async def _receive_loop(self) -> None:
        gathering = Gathering(self._receiver.usable)
        while True:
            await trio.lowlevel.wait_readable(self._receiver.socket)
            now = self._clock()
            end, wait = now + TURN, 0.0
            while not wait and now < end and (runs := self._receiver.receive()) is not None:
                now = self._clock()
                for run in runs:
                    self._received(run, now)
                self._pump(now)
                wait = gathering.seconds(sum(run.datagrams.nbytes for run in runs), now=now)
            await trio.sleep(wait)

    async def _time_loop(self) -> None:
        while True:
            now = self._clock()
            self._wake = trio.Event()
            self._fetcher.paces.dropped(self._receiver.kernel_drops())
            self._fetcher.handle_timeout(now=now)
            self._fetcher.repace(self._tree.group, now=now)
            if self._door.is_due(now):
                self._look_out(now)
            self._memberships.repeat(now=now)
            self._waiters.give_up_outdated(now=now)
            for announcement in self._shares.settle(now=now):
                self._live(announcement, now)
                self._tell_news()
            self._pump(now)
            due = self._next_timeout(self._clock())
            with trio.move_on_after(max(0.0, due)):
                await self._wake.wait()

    def _next_timeout(self, now: float) -> float:
        times = (
            self._memberships.next_timeout(),
            self._shares.next_timeout(),
            self._fetcher.next_timeout(now=now),
            self._door.next_timeout(),
        )
        return min((t for t in times if t is not None), default=now + 60.0) - now

    def _pump(self, now: float) -> None:
        """Move what the cores have to say to where it belongs."""
        tree = self._tree
        self._pump_trust(now)
        for event in self._fetcher.events():
            tree.assembled(event, now=now) if isinstance(event, Assembled) else tree.failed(event, now=now)
        self._workers.pump(tree, now=now)
        for name, node in self._versions.wanted():
            if tree.request(node, name, urgent=True, now=now) is not None:
                self._versions.ready(node)
        for outcome in tree.events():
            self._versions.ready(outcome.node) if isinstance(outcome, Ready) else self._versions.failed(outcome.node)
            self._waiters.tell(outcome)
        if self._versions.has_switched():
            self._tell_news()
        self._top_up_due = False
        self._ahead.top_up(now=now)
        self._memberships.change(now=now)

    # --- what comes ---

    def _received(self, run: Run, now: float) -> None:
        others = wire.no_symbols(run.datagrams)
        if others:
            self._count(run.source, others, now)
        if self._memberships.is_control(run.group):
            if others:
                self._control(run, now)
            else:
                self._fetcher.counters.bad_datagrams += run.rows().shape[0]
            return
        gone = self._fetcher.receive(run.group, run.source, run.datagrams, now=now)
        if gone is not None:
            self._gone(run, gone, now)

    def _count(self, source: Host, datagrams: int, now: float) -> None:
        """In whichever channel they came. Of one that goes on for long the rules must hear soon."""
        self._door.came(source, datagrams)
        due = self._door.next_timeout()
        if due is not None and now >= due:
            self._wake.set()

    def _look_out(self, now: float) -> None:
        """Make the rules by which the kernel drops what is of no use."""
        sources = self._fetcher.sources
        self._in_use = frozenset(sources.servers(self._used))
        servers = (*sorted(self._in_use), *sources.servers())
        self._door.look(servers, self._fetcher.only_sources(now=now), now=now)

    def _control(self, run: Run, now: float) -> None:
        sealed = self._keyring.keys_of(run.group) is not None
        for row in run.rows():
            try:
                datagram = self._keyring.open_untrusted(run.group, row.tobytes())
                kind, body = wire.control_untrusted(datagram)
                if kind == wire.ANNOUNCEMENT:
                    self._announced(body, run, now)
                elif kind == wire.BEACON and self._budgets.take(Kind.BEACON, sealed=sealed, now=now):
                    groups = decode_beacon_untrusted(body, run.group[:2])
                    self._ahead.named(groups, wire.hold_untrusted(datagram), now=now)
                elif kind == wire.KEYED and run.group == self._keyed_group:
                    self._keyed_heard = True
                    self._memberships.heard(run.group, now=now)
            except BadDatagram:
                self._fetcher.counters.bad_datagrams += 1

    def _announced(self, body: bytes, run: Run, now: float) -> None:
        """Raises BadDatagram."""
        keys = self._keyring.keys_of(run.group)
        if not self._budgets.take(self._kind_of(run.source, body), sealed=keys is not None, now=now):
            return
        announcement = replace(decode_announcement_untrusted(body), keys=keys)
        if announcement.key_check != (keys.check(announcement.name) if keys else b""):
            raise BadDatagram("in a channel of another share key")
        if self._share_names.get(run.group, announcement.name) != announcement.name:
            raise BadDatagram("in the channel of another share")
        known = self._shares.get(announcement.name)
        before = known.announcement if known is not None else None
        settles = self._shares.next_timeout()
        heard = self._shares.announced(announcement, run.ifindex, now=now)
        if heard.live:
            self._memberships.heard(run.group, now=now)
            self._live(announcement, now)
            self._versions.repeated(announcement.name)
        if heard.news and before is not None:
            self._versions.announced(before, announcement, now=now)
        elif heard.news:
            self._tell_news()
        elif settles != self._shares.next_timeout():
            self._wake.set()

    def _kind_of(self, source: Host, body: bytes) -> Kind:
        """What the check of an announcement is taken from. Raises BadDatagram."""
        if source in self._in_use:
            return Kind.IN_USE
        if source in self._door.rules.servers:
            return Kind.SERVER
        return Kind.CLAIMED if self._shares.counts(claimed_publisher_untrusted(body)) else Kind.OTHER

    def _live(self, announcement: Announcement, now: float) -> None:
        """The publisher of a share has announced it just now."""
        name = announcement.name
        share = self._shares.get(name)
        if share is None:
            return
        if self._fetcher.sources.announced(name, map(Host, announcement.addresses)):
            self._door.hurry()
            self._wake.set()
        if announcement.addresses:
            server = announcement.publisher + announcement.addresses[0]
            self._fetcher.paces.announced(name, server, announcement.rate, now=now)
        self._fetcher.announced(name, share.period, now=now)
        self._tell_pace(name)

    def _tell_news(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def _gone(self, run: Run, datagram: bytes, now: float) -> None:
        group = run.group
        origin = self._fetcher.origin_of(group)
        share = self._shares.get(origin) if origin is not None else None
        try:
            if origin is None or share is None:
                raise BadDatagram("gone: of no share")
            keys = share.announcement.keys
            if keys is not None:
                datagram = open_control_untrusted(datagram, keys, group)
            kind, body = wire.control_untrusted(datagram)
            if kind != wire.GONE or not self._shares.is_publisher(origin, claimed_publisher_untrusted(body)):
                raise BadDatagram("gone: not by the publisher")
            theirs = self._fetcher.sources.is_server(origin, run.source)
            if not self._budgets.take(Kind.IN_USE if theirs else Kind.GONE, sealed=keys is not None, now=now):
                return
            _, named, time_ms = decode_gone_untrusted(body)
        except BadDatagram:
            self._fetcher.counters.bad_datagrams += 1
            return
        if named == group and self._shares.gone(origin, group, time_ms):
            self._fetcher.gone(group, now=now)

    # --- membership ---

    def _hold(self, group: Group) -> bool:
        """Returns whether that is new."""
        new = self._memberships.hold(group, now=self._clock())
        if new:
            self._wake.set()
        return new

    async def _apply(self, plan: Plan) -> bool:
        self._memberships.apply(plan, now=self._clock())
        self._wake.set()
        return True

    # --- shares ---

    def _keys_of(self, origin: bytes) -> ShareKeys | None:
        share = self._shares.get(origin)
        return share.announcement.keys if share is not None else None

    def _use(self, name: bytes) -> None:
        """Somebody looks into a share: from now on its publisher and its version are remembered."""
        self._versions.used(name, now=self._clock())
        share = self._shares.get(name)
        if name in self._used or share is None:
            return
        self._used.add(name)
        if self._keeper is not None:
            if self._trust.demanded is None and name not in self._trust.pins:
                self._pin(name, share.pin, None)
            self._keeper.raise_floor(name, share.pin.fingerprint, share.floor)

    def _pin(self, name: bytes, pin: Pin, before: Fingerprint | None) -> None:
        if self._keeper is not None:
            self._pinnings.setdefault(name, trio.Event())
            self._keeper.pin(name, pin, before=before)

    def _pump_trust(self, now: float) -> None:
        """Write down, and say, what has come out about publishers."""
        for event in self._shares.events():
            match event:
                case Remark():
                    self._remark(event)
                case KeyChanged():
                    log.warning("%s", self._trust.changed(event.name, event.before, event.pin.fingerprint))
                    known = event.name in self._trust.pins or event.name in self._used
                    if known and self._trust.demanded is None:
                        self._pin(event.name, event.pin, event.before)
                case VersionRaised() if event.name in self._used and self._keeper is not None:
                    share = self._shares.get(event.name)
                    if share is not None:
                        self._keeper.raise_floor(event.name, share.pin.fingerprint, share.floor)
        if self._keeper is None:
            return
        self._keeper.raise_due(now=now)
        for done in self._keeper.take():
            shown = self._settings.catalogue or done.name in self._given
            if not self._shares.pinned(done.name, done.pin, shown=shown):
                self._versions.forget(done.name)
                self._tree.withdraw(done.name, now=now)
            if (writing := self._pinnings.pop(done.name, None)) is not None:
                writing.set()

    def _remark(self, remark: Remark) -> None:
        waited = None if self._settings.catalogue else self._waited.get(remark.name)
        if waited is None:
            log.warning("%s", remark.text)
        else:
            waited.append(remark.text)

    def _version(self, name: bytes) -> int:
        """In which a share is shown."""
        shown = self.share(name)
        return 0 if shown is None else shown.version

    def _is_down(self, origin: bytes) -> bool:
        if self._shares.get(origin) is None:  # it was taken away
            return True
        now = self._clock()
        if not self._shares.is_down(origin, self._fetcher.last_heard(origin), now=now):
            return False
        return all(self._door.hears(server, now=now) for server in self._fetcher.sources.servers([origin]))

    def _tell_pace(self, name: bytes) -> None:
        """Say in which pace class data come from the server of a share, and why, when that has changed."""
        reception = self._fetcher.paces.reception(name)
        if reception is None or reception.pace == reception.told:
            return
        told, reception.told = reception.told, reception.pace
        share = printable(name)
        if not reception.reason:
            hint = f"the receive buffer is small (sysctl net.core.rmem_max={64 << 20})"
            log.warning("%s: %s, so data come at 1/%d of the rate", share, hint, 2**reception.pace)
        else:
            text = "%s: data come at 1/%d of the rate now, before at 1/%d: %s"
            log.info(text, share, 2**reception.pace, 2**told, reception.reason)

    def _wake_from_thread(self) -> None:
        assert self._token is not None
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._set_wake, idempotent=True)

    def _set_wake(self) -> None:
        self._wake.set()


def _known_publishers(settings: TrustSettings) -> tuple[KnownPublishers | None, Trust]:
    """Raises UserError."""
    if settings.known is None:
        return None, Trust(settings.demanded, settings.strict)
    known = KnownPublishers(settings.known)
    return known, known.load(demanded=settings.demanded, strict=settings.strict)
