"""The client on a real socket: what the file system asks of (`mcfs.fuse.backend.Backend`), on top of the cores in
`mcfs.fetch`.

Tasks: one receives, one changes memberships and watches the time, one follows the interfaces; all are in the nursery of
`open_client`. Threads read and write the disk cache. All tables belong to the event loop; between two awaits they are
consistent.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections import OrderedDict
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from mcfs.fetch.ahead import ReadAhead
from mcfs.fetch.batches import hurry
from mcfs.fetch.cache import Cache
from mcfs.fetch.fetcher import DEFAULT_MAX_GROUPS, Assembled, Failed, Fetcher, Limits
from mcfs.fetch.nodes import Load, NodeTree, Ready, Store
from mcfs.fetch.readplan import ReadPlan, TreeFollower, TreeFollowers, blocks
from mcfs.fetch.shares import ShareTable
from mcfs.net.door import Door
from mcfs.net.gathering import Gathering
from mcfs.net.kernel import jiffy
from mcfs.net.linkwatch import follow
from mcfs.net.loader import WorkerPool
from mcfs.net.memberships import Memberships
from mcfs.net.receive import Receiver, Run
from mcfs.protocol import addressing, merkle, wire
from mcfs.protocol.announce import Announcement, decode_announcement_untrusted, decode_gone_untrusted
from mcfs.protocol.beacon import decode_beacon_untrusted
from mcfs.protocol.catalog import MAX_LISTING_SIZE, Entry, FileEntry, Listing, decode_listing_untrusted
from mcfs.protocol.errors import BadDatagram, BadNode, BadObject, NotAvailable, TimedOut
from mcfs.protocol.ids import Group, Host, Node, ObjectRef

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from pathlib import Path

    from mcfs.net.interfaces import Interface
    from mcfs.net.reconcile import Plan
    from mcfs.protocol.merkle import Buffer

log = logging.getLogger(__name__)

TURN: Final = 0.004
"""Seconds of receiving after which leaves, deadlines and FUSE replies get their turn."""
MAX_LISTING_BYTES: Final = 32 << 20
"""Encoded bytes of the listings that are kept decoded."""
CONTROL_RATE: Final = 200
"""Control datagrams a second whose signatures are checked, 100 us each: of servers that are known, and as many of
others, who cannot fill the places of these."""
CLOCKS: Final = 60_000
"""Milliseconds by which the clocks of servers of one share may differ: who repeats what was announced earlier than that
cannot have old addresses taken for those of a server."""
BEACON_RATE: Final = 500
"""Beacons a second that are looked at, of all shares: 20 shares in use."""
CACHE_READERS: Final = 2
TREE_SECONDS: Final = 30.0
"""How long after the last file was opened the next ones of the tree, as far as they were looked at, count as wanted."""
INLINE_DECODE: Final = 128 << 10


@dataclass(frozen=True, slots=True)
class ClientSettings:
    interfaces: tuple[Interface, ...]
    cache_dir: Path
    port: int = wire.DEFAULT_PORT
    scope: int = addressing.SITE_LOCAL
    timeout: float = 30.0
    max_wait: float = 300.0
    max_groups: int = DEFAULT_MAX_GROUPS
    catalogue: bool = True
    """Whether to listen for all shares, or only for those that `wait_share` names."""
    interface_names: tuple[str, ...] = ()
    """Those to use whenever they exist; none: all that are suited."""


class _Waiter:
    """Those who wait for one node."""

    __slots__ = ("count", "data", "done", "error")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.count = 0
        self.data: Buffer | None = None
        self.error: NotAvailable | BadNode | None = None


@asynccontextmanager
async def open_client(
    settings: ClientSettings, *, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Client]:
    """A running client; leaving the context leaves all groups and finishes writing the cache.

    Raises OSError if the socket cannot be opened.
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
    def __init__(self, settings: ClientSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._receiver = Receiver(settings.port)
        self._door = Door(self._receiver.attach)
        self._cache = Cache.open(settings.cache_dir)
        self._shares = ShareTable(settings.timeout)
        limits = Limits(
            timeout=settings.timeout,
            max_wait=settings.max_wait,
            max_groups=settings.max_groups,
            max_bytes=self._receiver.usable,
            hurry=hurry(jiffy()),
        )
        self._fetcher = Fetcher(limits)
        self._tree = NodeTree(
            self._fetcher, self._cache, settings.scope, is_down=self._is_down, pace=self._fetcher.paces.pace
        )
        self._waiters: dict[Node, _Waiter] = {}
        self._memberships = Memberships(self._receiver, self._fetcher, self._shares, settings.interfaces)
        self._listings: OrderedDict[ObjectRef, tuple[Entry, ...]] = OrderedDict()
        self._listing_bytes = 0
        self._news = trio.Event()
        self._wake = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._control_budget = _Budget(CONTROL_RATE)
        self._strangers_budget = _Budget(CONTROL_RATE)
        self._beacon_budget = _Budget(BEACON_RATE)
        self._followers = TreeFollowers()
        self._readers: WorkerPool[Load, tuple[Load, Buffer | None]] | None = None
        self._writer: WorkerPool[Store, Store] | None = None
        self._ahead = ReadAhead(self._fetcher, self._tree)
        self._top_up_due = False

    # --- Backend ---

    def shares(self) -> Mapping[bytes, Announcement]:
        return self._shares.announcements()

    async def wait_share(self, name: bytes, timeout: float) -> Announcement:  # noqa: ASYNC109 - see Backend
        self._hold(addressing.share_group(name, self._settings.scope))
        with trio.move_on_after(timeout):
            while (share := self._shares.get(name)) is None:
                await self._news.wait()
            return share.announcement
        raise TimedOut(f"share {name.decode(errors='replace')!r} was not heard within {timeout:g} s")

    async def entries(self, share: bytes, content: ObjectRef | tuple[Entry, ...]) -> tuple[Entry, ...]:
        if isinstance(content, tuple):
            return content
        known = self._listings.get(content)
        if known is not None:
            self._listings.move_to_end(content)
            return known
        entries = await self._fetch_listing(share, content)
        self._keep_listing(content, entries)
        return entries

    def open(self, share: bytes, entry: FileEntry, upcoming: Callable[[], Iterable[FileEntry | None]]) -> FileReader:
        self._follow_tree(share, entry, upcoming)
        if self._memberships.hold_share(addressing.share_group(share, self._settings.scope), now=self._clock()):
            self._wake.set()
        if entry.extent is not None:
            self._tree.request(
                Node(entry.extent.object, 0, entry.extent.offset // entry.extent.object.block_size),
                share,
                urgent=False,
                now=self._clock(),
            )
            self._wake.set()
        return FileReader(self, share, entry)

    def cached_bytes(self, entry: FileEntry) -> int:
        e = entry.extent
        return self._cache.cached_bytes(e.object, e.offset, e.length) if e else 0

    # --- nodes ---

    async def node(self, node: Node, origin: bytes) -> Buffer:
        """The verified bytes of a node. Many callers cause one fetch.

        Raises NotAvailable or BadNode. When cancelled, and nobody else waits, the fetch is given up.
        """
        data = self.ask(node, origin)
        if data is not None:
            return data
        waiter = self._waiters.setdefault(node, _Waiter())
        waiter.count += 1
        try:
            await waiter.done.wait()
        finally:
            waiter.count -= 1
            if waiter.count == 0 and not waiter.done.is_set():
                self._waiters.pop(node, None)
                self._tree.cancel(node, now=self._clock())
        if waiter.error is not None:
            raise waiter.error
        assert waiter.data is not None
        return waiter.data

    def ask(self, node: Node, origin: bytes) -> Buffer | None:
        """Start fetching what will be waited for; its bytes if they are in memory."""
        data = self._tree.request(node, origin, urgent=True, now=self._clock())
        if data is None:
            self._wake.set()
        return data

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

    def stream(self, reader: FileReader | TreeFollower) -> None:
        """A file, or a tree, is being read: fetch ahead of this reader until it stops."""
        self._ahead.stream(reader, now=self._clock())
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
            "bad_datagrams": counters.bad_datagrams + self._receiver.malformed,
            "rejoins": counters.rejoins,
            "failed_nodes": counters.failed_nodes,
            "batches": counters.batches,
            "kernel_drops": self._receiver.kernel_drops(),
            "groups": self._fetcher.groups,
        }

    # --- listings ---

    async def _fetch_listing(self, share: bytes, ref: ObjectRef) -> tuple[Entry, ...]:
        listing = await self._decode(await self._object(share, ref))
        if not listing.parts:
            return listing.entries
        for part in listing.parts:
            self.prefetch([Node(part, 0, 0)], share)
        entries: list[Entry] = []
        for part in listing.parts:
            inner = await self._decode(await self._object(share, part))
            if inner.parts:
                raise BadObject("a part of a listing has parts")
            entries += inner.entries
        if any(a.name >= b.name for a, b in itertools.pairwise(entries)):
            raise BadObject("parts of a listing out of order")
        return tuple(entries)

    async def _decode(self, data: Buffer) -> Listing:
        view = memoryview(data)
        if len(view) <= INLINE_DECODE:
            return decode_listing_untrusted(view)
        return await trio.to_thread.run_sync(decode_listing_untrusted, view)

    async def _object(self, share: bytes, ref: ObjectRef) -> Buffer:
        if ref.size > MAX_LISTING_SIZE:
            raise BadObject(f"listing of {ref.size} bytes")
        nodes = [Node(ref, 0, index) for index in range(ref.geometry.counts[0])]
        for node in nodes:
            self.ask(node, share)
        parts = [await self.node(node, share) for node in nodes]
        return parts[0] if len(parts) == 1 else b"".join(bytes(part) for part in parts)

    def _keep_listing(self, ref: ObjectRef, entries: tuple[Entry, ...]) -> None:
        self._listings[ref] = entries
        self._listing_bytes += ref.size
        while self._listing_bytes > MAX_LISTING_BYTES and len(self._listings) > 1:
            oldest, _ = self._listings.popitem(last=False)
            self._listing_bytes -= oldest.size

    # --- running ---

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._readers = WorkerPool("cache-read", CACHE_READERS, self._load, self._wake_from_thread)
        self._writer = WorkerPool("cache-write", 1, self._store, self._wake_from_thread)
        if self._settings.catalogue:
            self._hold(addressing.catalogue_group(self._settings.scope))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive_loop)
            nursery.start_soon(self._time_loop)
            nursery.start_soon(
                follow, lambda: self._memberships.interfaces, self._settings.interface_names, self._apply
            )
            task_status.started()

    def close(self) -> None:
        """Leave all groups; finish writing."""
        self._receiver.close()
        for pool in (self._readers, self._writer):
            if pool is not None:
                pool.close()
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
                self._door.look(self._fetcher.sources.servers(), self._fetcher.only_sources(now=now), now=now)
            self._memberships.repeat(now=now)
            self._pump(now)
            due = self._next_timeout(self._clock())
            with trio.move_on_after(max(0.0, due)):
                await self._wake.wait()

    def _next_timeout(self, now: float) -> float:
        times = (
            self._memberships.next_timeout(),
            self._fetcher.next_timeout(now=now),
            self._door.next_timeout(),
        )
        return min((t for t in times if t is not None), default=now + 60.0) - now

    def _pump(self, now: float) -> None:
        """Move what the cores have to say to where it belongs."""
        tree = self._tree
        for event in self._fetcher.events():
            tree.assembled(event, now=now) if isinstance(event, Assembled) else tree.failed(event, now=now)
        assert self._readers is not None
        assert self._writer is not None
        for load, data in self._readers.take():
            tree.loaded(load.node, data, now=now)
        for store in self._writer.take():
            tree.stored(store)
        for load in tree.loads():
            self._readers.submit(load)
        for store in tree.stores():
            self._writer.submit(store)
        for outcome in tree.events():
            self._tell(outcome)
        self._top_up_due = False
        self._ahead.top_up(now=now)
        self._memberships.change(now=now)

    def _tell(self, outcome: Ready | Failed) -> None:
        waiter = self._waiters.pop(outcome.node, None)
        if waiter is None:
            return
        if isinstance(outcome, Ready):
            waiter.data = outcome.data
        else:
            waiter.error = outcome.error
        waiter.done.set()

    # --- what comes ---

    def _received(self, run: Run, now: float) -> None:
        if self._memberships.is_control(run.group):
            self._count(run, now)
            self._control(run, now)
            return
        gone = self._fetcher.receive(run.group, run.source, run.datagrams, now=now)
        if gone is not None:
            self._gone(run, gone, now)

    def _count(self, run: Run, now: float) -> None:
        """Of one that goes on for long the rules must hear soon."""
        self._door.came(run.source, run.datagrams.size // run.datagrams.shape[-1])
        due = self._door.next_timeout()
        if due is not None and now >= due:
            self._wake.set()

    def _control(self, run: Run, now: float) -> None:
        for row in run.rows():
            try:
                datagram = row.tobytes()
                kind, body = wire.control_untrusted(datagram)
                if kind == wire.ANNOUNCEMENT and self._may_check(run.source, now):
                    self._announced(decode_announcement_untrusted(body), run, now)
                elif kind == wire.BEACON and self._beacon_budget.take(now):
                    groups = decode_beacon_untrusted(body, run.group[:2])
                    self._ahead.named(groups, wire.hold_untrusted(datagram), now=now)
            except BadDatagram:
                self._fetcher.counters.bad_datagrams += 1

    def _announced(self, announcement: Announcement, run: Run, now: float) -> None:
        self._memberships.heard(run.group, now=now)
        if self._shares.announced(announcement, run.ifindex, now=now):
            self._news.set()
            self._news = trio.Event()
        share = self._shares.get(announcement.name)
        if share is not None and share.last_heard == now:
            if announcement.time_ms >= share.time_ms - CLOCKS:
                self._known(announcement)
            if announcement.addresses:
                server = announcement.publisher + announcement.addresses[0]
                self._fetcher.paces.announced(announcement.name, server, announcement.rate, now=now)
            self._fetcher.announced(announcement.name, share.period, now=now)
            self._tell_pace(announcement.name)

    def _known(self, announcement: Announcement) -> None:
        if self._fetcher.sources.announced(announcement.name, map(Host, announcement.addresses)):
            self._door.hurry()
            self._wake.set()

    def _may_check(self, source: Host, now: float) -> bool:
        """Whether there is time for a signature of this source."""
        known = source in self._door.rules.servers
        return (self._control_budget if known else self._strangers_budget).take(now)

    def _gone(self, run: Run, datagram: bytes, now: float) -> None:
        group = run.group
        self._count(run, now)
        if not self._may_check(run.source, now):
            return
        try:
            _, body = wire.control_untrusted(datagram)
            key, named, _ = decode_gone_untrusted(body)
        except BadDatagram:
            self._fetcher.counters.bad_datagrams += 1
            return
        origin = self._fetcher.origin_of(group)
        share = self._shares.get(origin) if origin is not None else None
        if named == group and share is not None and key == share.announcement.publisher:
            self._fetcher.gone(group, now=now)

    # --- membership ---

    def _hold(self, group: Group) -> None:
        if self._memberships.hold(group, now=self._clock()):
            self._wake.set()

    async def _apply(self, plan: Plan) -> bool:
        self._memberships.apply(plan, now=self._clock())
        self._wake.set()
        return True

    # --- shares ---

    def _is_down(self, origin: bytes) -> bool:
        return self._shares.is_down(origin, self._fetcher.last_heard(origin), now=self._clock())

    def _tell_pace(self, name: bytes) -> None:
        """Say in which pace class data come from the server of a share, and why, when that has changed."""
        reception = self._fetcher.paces.reception(name)
        if reception is None or reception.pace == reception.told:
            return
        told, reception.told = reception.told, reception.pace
        share = name.decode(errors="backslashreplace")
        if not reception.reason:
            hint = f"the receive buffer is small (sysctl net.core.rmem_max={64 << 20})"
            log.warning("%s: %s, so data come at 1/%d of the rate", share, hint, 2**reception.pace)
        else:
            text = "%s: data come at 1/%d of the rate now, before at 1/%d: %s"
            log.info(text, share, 2**reception.pace, 2**told, reception.reason)

    # --- threads ---

    def _load(self, load: Load) -> tuple[Load, Buffer | None]:
        """In a reader thread."""
        try:
            data = self._cache.load(load.node)
            if data is not None:
                merkle.verify_node(load.node, data, load.digest)
        except BadNode:
            data = None
        except Exception:
            log.exception("reading the cache failed")
            data = None
        return load, data

    def _store(self, store: Store) -> Store:
        """In the writer thread."""
        try:
            if store.hole:
                self._cache.store_hole(store.node)
            else:
                self._cache.store(store.node, store.data, direct=store.direct)
        except Exception:
            log.exception("writing the cache failed")
        return store

    def _wake_from_thread(self) -> None:
        assert self._token is not None
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._set_wake, idempotent=True)

    def _set_wake(self) -> None:
        self._wake.set()


class FileReader:
    """One open file."""

    def __init__(self, client: Client, share: bytes, entry: FileEntry) -> None:
        self.share = share
        self.reading = 0
        """Reads that wait."""
        self._client = client
        self._extent = entry.extent
        self._plan = ReadPlan(entry.extent) if entry.extent else None

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        extent, plan = self._extent, self._plan
        if extent is None or plan is None or offset >= extent.length:
            return b""
        length = min(length, extent.length - offset)
        wanted = blocks(extent, offset, length)
        nodes = [Node(extent.object, 0, index) for index in wanted]
        for node in nodes:
            self._client.ask(node, self.share)
        plan.advance(offset, length)
        self._client.follow(extent.object, plan.ahead, self.share)
        self.reading += 1
        self._client.stream(self)
        try:
            longest = self._client.max_wait(self.share)
            with trio.fail_after(longest):
                data = [memoryview(await self._client.node(node, self.share)) for node in nodes]
        except trio.TooSlowError:
            raise TimedOut(f"not complete after {longest:g} s") from None
        finally:
            self.reading -= 1
        return _cut(data, wanted.start * extent.object.block_size, extent.offset + offset, length)

    def next_ahead(self) -> Node | None:
        """The next block to fetch ahead, if there is one now."""
        if self._extent is None or self._plan is None:
            return None
        index = self._plan.next_ahead()
        return None if index is None else Node(self._extent.object, 0, index)

    def close(self) -> None:
        """What was asked for ahead is kept."""
        self._client.end_stream(self)


def _cut(data: list[memoryview], base: int, start: int, length: int) -> bytes | memoryview:
    """Bytes [start, start + length) of the object, from neighbouring blocks that begin at `base`."""
    at = start - base
    if len(data) == 1:
        return data[0][at : at + length]
    pieces = [data[0][at:], *data[1:]]
    return memoryview(b"".join(pieces))[:length]


class _Budget:
    """At most so many a second."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._tokens = per_second
        self._updated = float("-inf")

    def take(self, now: float) -> bool:
        if now - self._updated > 0.05:
            elapsed = min(1.0, now - self._updated)
            self._tokens = min(self._per_second, self._tokens + elapsed * self._per_second)
            self._updated = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
