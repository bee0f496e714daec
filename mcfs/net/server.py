"""The server on real sockets: one task reads MLD messages per interface, one task sends.

Everything that decides lives in `mcfs.serve`. Between two awaits the tables are consistent; all tasks are in the
nursery of `Server.run`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from mcfs.net.listeners import OldReportReader, ReportReader
from mcfs.net.loader import WorkerPool
from mcfs.net.own_groups import own_groups
from mcfs.net.peers import PeerSocket
from mcfs.net.transmit import Sent, Transmitter
from mcfs.protocol import addressing, mld, wire
from mcfs.protocol.announce import Announcement, decode_announcement_untrusted, encode_announcement, encode_gone
from mcfs.protocol.errors import BadDatagram, Gone
from mcfs.protocol.ids import Group, Host, Node
from mcfs.serve.announcer import Announcer
from mcfs.serve.carousel import MIN_REPAIR, Carousel
from mcfs.serve.link import Link
from mcfs.serve.membership import QUERY_INTERVAL
from mcfs.serve.payload import Payload, PayloadCache
from mcfs.serve.querier import Mode, Outgoing, Querier, Timers
from mcfs.serve.schedule import NOBODY, RANDOM_REPAIR_START, Scheduler, Transmission
from mcfs.serve.senders import Senders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from nacl.signing import SigningKey

    from mcfs.net.interfaces import Interface
    from mcfs.serve.probe import Store

log = logging.getLogger(__name__)

DEFAULT_SHARE_OF_LINK: Final = 0.95
UNKNOWN_LINK_RATE: Final = 1e9
"""Bits per second assumed of an interface that does not tell its speed."""
TURN: Final = 0.002
"""Seconds that the sending task works before others get a turn: reports come in between two bursts anyway."""
SHORT_WAIT: Final = 0.0012
"""Waits shorter than this are slept away: the event loop's own timer has a resolution of 1 ms."""
DOWN_PAUSE: Final = 0.1
LOADER_THREADS: Final = 2
PEER_PAUSE: Final = 0.05
"""Seconds between two looks at what other servers say: 1,300 signatures a second, 100 us each, are checked at most."""
MAX_COORDINATED: Final = 128
"""Shares for which other servers are listened for, each with a group of its own; hosts may report 256."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    port: int = wire.DEFAULT_PORT
    scope: int = addressing.SITE_LOCAL
    hops: int = 1
    rate: int | None = None
    """Bits per second on each interface; None: 95 % of the link's speed."""
    mtu: int | None = None
    querier: Mode = "auto"
    always: bool = False
    """Send everything round and round, whoever listens."""
    query_interval: float = QUERY_INTERVAL
    """Seconds between two general queries."""


@dataclass(slots=True)
class _Port:
    """One interface with its sockets."""

    interface: Interface
    link: Link
    reader: ReportReader
    old_reader: OldReportReader | None
    transmitter: Transmitter
    peers: PeerSocket
    rate: int
    unsent: Transmission | None = None
    blocked_until: float = 0.0
    waiting: bool = False
    """The socket's buffer is full and a task waits for room."""

    @property
    def refused(self) -> int:
        """Packets that were no MLDv1 messages although they claimed to be."""
        return self.old_reader.refused if self.old_reader is not None else 0


@dataclass(slots=True)
class _Loaded:
    node: Node
    payload: Payload | None = field(default=None)


def link_rate(interface: Interface, asked: int | None) -> int:
    """The rate of an interface in bits per second."""
    return asked or int(DEFAULT_SHARE_OF_LINK * (interface.speed_bits or UNKNOWN_LINK_RATE))


class Server:
    """Serves the objects of a store and the announcements given to `publish`."""

    def __init__(
        self,
        store: Store,
        interfaces: Iterable[Interface],
        settings: ServerSettings,
        signing_key: SigningKey,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens the sockets. Raises OSError, PermissionError without CAP_NET_RAW."""
        self._store = store
        self._settings = settings
        self._key = signing_key
        self._clock = clock
        self._rng = random.Random()
        self._payloads = PayloadCache()
        self._announcements: dict[bytes, Announcement] = {}
        self._wake = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._symbol_size = wire.max_symbol_size(settings.mtu or wire.DEFAULT_MTU)
        self._catalogue = addressing.catalogue_group(settings.scope)
        self._ports: list[_Port] = []
        self._loads: dict[Node, list[_Port]] = {}
        self._loader: WorkerPool[Node, _Loaded] | None = None
        with contextlib.ExitStack() as stack:
            for interface in interfaces:
                self._ports.append(self._open_port(interface, stack))
            self._stack = stack.pop_all()

    # --- what is served ---

    def publish(self, announcements: Mapping[bytes, Announcement]) -> None:
        """Announce these shares; `rate` and `addresses` are filled in per interface."""
        now = self._clock()
        for name, announcement in announcements.items():
            if self._announcements.get(name) != announcement:
                self._announcements[name] = announcement
                for port in self._ports:
                    port.link.announcer.publish(self._share_group(name), name, now=now)
                    self._announce_always(port, name, now)
                    self._meet_others(port, announcement, now)
        self._wake.set()

    @property
    def statistics(self) -> dict[str, int]:
        ports = self._ports
        return {
            "bytes_sent": sum(p.transmitter.bytes_sent for p in ports),
            "datagrams_sent": sum(p.transmitter.datagrams_sent for p in ports),
            "source_symbols": sum(p.link.scheduler.counters.source_symbols for p in ports),
            "repair_symbols": sum(p.link.scheduler.counters.repair_symbols for p in ports),
            "passes": sum(p.link.scheduler.counters.passes for p in ports),
            "reports": sum(p.link.counters.reports for p in ports),
            "joins": sum(p.link.counters.joins for p in ports),
            "bad_messages": sum(p.link.counters.bad_messages + p.refused for p in ports),
            "refused_joins": sum(p.link.membership.counters.refused for p in ports),
            "listeners_seen": len(set().union(*(p.link.hosts_seen for p in ports))) if ports else 0,
        }

    # --- running ---

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then say goodbye and close the sockets."""
        self._token = trio.lowlevel.current_trio_token()
        self._loader = WorkerPool("load", LOADER_THREADS, self._load, self._wake_from_thread)
        try:
            async with trio.open_nursery() as nursery:
                for port in self._ports:
                    nursery.start_soon(self._read, port, port.reader)
                    if port.old_reader is not None:
                        nursery.start_soon(self._read, port, port.old_reader)
                    nursery.start_soon(self._read_peers, port)
                nursery.start_soon(self._send_loop, nursery)
                task_status.started()
        finally:
            self._goodbye()
            self._loader.close(timeout=0.2)
            self._stack.close()

    async def _read(self, port: _Port, reader: ReportReader | OldReportReader) -> None:
        while True:
            await trio.lowlevel.wait_readable(reader.fileno())
            self._drain(port, reader)
            self._wake.set()

    def _drain(self, port: _Port, reader: ReportReader | OldReportReader) -> None:
        now = self._clock()
        for envelope, message in reader.receive():
            port.link.receive(envelope, message, now=now)

    async def _read_peers(self, port: _Port) -> None:
        while True:
            await trio.lowlevel.wait_readable(port.peers.fileno())
            for channel, datagram in port.peers.receive():
                self._peer_heard(port, channel, datagram)
            self._wake.set()
            await trio.sleep(PEER_PAUSE)

    async def _send_loop(self, nursery: trio.Nursery) -> None:
        while True:
            self._wake = trio.Event()
            wait = self._turn(nursery)
            if wait is None:
                await self._wake.wait()
            elif wait > SHORT_WAIT:
                with trio.move_on_after(wait):
                    await self._wake.wait()
            else:
                await trio.lowlevel.checkpoint()
                if wait > 0:
                    time.sleep(min(wait, SHORT_WAIT))  # noqa: ASYNC251 - see SHORT_WAIT

    def _turn(self, nursery: trio.Nursery) -> float | None:
        """Send for a while. Returns the seconds until there is more to do; None: only when something happens."""
        end = self._clock() + TURN
        while True:
            now = self._clock()
            busy = False
            for port in self._ports:
                self._drain(port, port.reader)
                self._housekeeping(port, now)
                busy |= self._send_one(port, now, nursery)
            self._load_more()
            if not busy:
                return self._until_next(now)
            if now > end:
                return 0.0

    def _until_next(self, now: float) -> float | None:
        times = []
        for port in self._ports:
            times.append(port.link.next_timeout(now))
            if not port.waiting:
                due = port.link.scheduler.next_timeout(now) if port.unsent is None else now
                times.append(None if due is None else max(due, port.blocked_until))
        known = [t for t in times if t is not None]
        return max(0.0, min(known) - now) if known else None

    # --- one interface ---

    def _send_one(self, port: _Port, now: float, nursery: trio.Nursery) -> bool:
        """Send one burst; False if there is nothing to send on this interface now."""
        if port.waiting or port.blocked_until > now:
            return False
        transmission = port.unsent or port.link.scheduler.next(now)
        if transmission is None:
            return False
        port.unsent = None
        result = port.transmitter.send(transmission.group, transmission.datagrams())
        if result is Sent.BLOCKED:
            port.unsent, port.waiting = transmission, True
            nursery.start_soon(self._wait_for_room, port)
        elif result is Sent.DOWN:
            port.blocked_until = now + DOWN_PAUSE
        return True

    async def _wait_for_room(self, port: _Port) -> None:
        await trio.lowlevel.wait_writable(port.transmitter.socket)
        port.waiting = False
        self._wake.set()

    def _housekeeping(self, port: _Port, now: float) -> None:
        link = port.link
        due = link.next_timeout(now)
        if due is not None and due <= now:
            if link.own_groups_due is not None and link.own_groups_due <= now:
                link.own_groups(own_groups(port.interface.index), now=now)
            link.handle_timeout(now=now)
            self._send_mld(port, link.messages_to_send(now=now))
            for group, name in link.announcer.due(now=now):
                self._announce(port, group, name)
            for channel, name in link.senders.due(now=now):
                port.peers.send(channel, self._announcement(port, name))
        for group, body in link.beacons(now=now):
            port.transmitter.send_control(group, wire.control(wire.BEACON, body, round(1000 * link.scheduler.hold)))
        for group in link.scheduler.told_gone():
            body = encode_gone(group, _unix_ms(), self._key)
            port.transmitter.send_control(group, wire.control(wire.GONE, body))

    def _announce(self, port: _Port, group: Group, name: bytes) -> None:
        port.transmitter.send_control(group, self._announcement(port, name))

    def _announce_always(self, port: _Port, name: bytes, now: float) -> None:
        if self._settings.always:
            for group in (self._share_group(name), self._catalogue):
                port.link.announcer.joined(NOBODY, group, now=now)

    def _announcement(self, port: _Port, name: bytes) -> bytes:
        """The datagram, signed now."""
        announcement = self._announcements[name]
        source = port.transmitter.source(self._catalogue)
        complete = Announcement(
            announcement.version,
            _unix_ms(),
            announcement.entry,
            announcement.owners,
            announcement.total_bytes,
            announcement.total_files,
            port.rate,
            tuple(dict.fromkeys(address for address in (port.interface.link_local, source) if address)),
            math.ceil(port.link.carousel.period) if port.link.carousel else 0,
        )
        return wire.control(wire.ANNOUNCEMENT, encode_announcement(complete, self._key))

    def _send_mld(self, port: _Port, messages: Iterable[Outgoing]) -> None:
        for message in messages:
            port.reader.send(message, Host(port.interface.link_local or bytes(16)))

    # --- other servers of the same shares ---

    def _meet_others(self, port: _Port, announcement: Announcement, now: float) -> None:
        """Join the senders' channel of a share, unless there are too many shares for that."""
        content = announcement.content
        senders = port.link.senders
        channel = addressing.senders_group(bytes(self._key.verify_key), announcement.name, self._settings.scope)
        if content is None or (channel not in senders and len(senders.channels) >= MAX_COORDINATED):
            return
        try:
            port.peers.join(channel)
        except OSError as error:
            log.warning("%s: cannot listen for other servers: %s", port.interface.name, error.strerror)
            return
        senders.publish(channel, announcement.name, content, now=now)

    def _peer_heard(self, port: _Port, channel: Group, datagram: bytes) -> None:
        try:
            kind, body = wire.control_untrusted(datagram)
            if kind != wire.ANNOUNCEMENT or channel not in port.link.senders:
                return
            announcement = decode_announcement_untrusted(body)
        except BadDatagram:
            port.link.counters.bad_messages += 1
            return
        address = min((Host(a) for a in announcement.addresses if mld.is_link_local(a)), default=None)
        if announcement.publisher == bytes(self._key.verify_key) and address and announcement.content:
            port.link.server_heard(channel, address, announcement.content, now=self._clock())

    # --- loading ---

    def _load_more(self) -> None:
        assert self._loader is not None
        for port in self._ports:
            for node in port.link.scheduler.to_load():
                waiting = self._loads.setdefault(node, [])
                waiting.append(port)
                if len(waiting) == 1:
                    self._loader.submit(node)
        for loaded in self._loader.take():
            for port in self._loads.pop(loaded.node, ()):
                if loaded.payload is None:
                    port.link.scheduler.gone(loaded.node, now=self._clock())
                else:
                    port.link.scheduler.loaded(loaded.payload)

    def _load(self, node: Node) -> _Loaded:
        """In a loader thread."""
        try:
            return _Loaded(node, Payload(node, self._store.load(node), self._symbol_size))
        except Gone as error:
            log.warning("%s", error)
        except Exception:
            log.exception("reading a node failed")
        return _Loaded(node)

    def _wake_from_thread(self) -> None:
        assert self._token is not None
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._set_wake, idempotent=True)

    def _set_wake(self) -> None:
        self._wake.set()

    # --- opening and closing ---

    def _open_port(self, interface: Interface, stack: contextlib.ExitStack) -> _Port:
        reader = stack.enter_context(ReportReader(interface.index, interface.name))
        transmitter = Transmitter(interface.index, self._settings.port, self._settings.hops)
        stack.callback(transmitter.close)
        try:
            old_reader = stack.enter_context(OldReportReader(interface.index, interface.name))
        except OSError as error:
            log.warning("%s: MLDv1 reports cannot be heard: %s", interface.name, error)
            old_reader = None
        peers = stack.enter_context(PeerSocket(interface.index, self._settings.port))
        if self._settings.hops > 1:
            self._check_source(interface, transmitter)
        rate = link_rate(interface, self._settings.rate)
        link = self._make_link(interface, rate)
        return _Port(interface, link, reader, old_reader, transmitter, peers, rate)

    def _check_source(self, interface: Interface, transmitter: Transmitter) -> None:
        source = transmitter.source(self._catalogue)
        if source is None or mld.is_link_local(source):
            log.warning(
                "%s: it has no address wider than link-local, so routers pass nothing on: give it a global or unique "
                "local one (ip address add fd.../64 dev %s)",
                interface.name,
                interface.name,
            )

    def _make_link(self, interface: Interface, rate: int) -> Link:
        address = Host(interface.link_local or bytes(16))
        proxies = self._settings.hops > 1
        scheduler = Scheduler(
            rate=rate,
            payloads=self._payloads,
            max_symbol_size=self._symbol_size,
            repair_start=lambda: self._rng.randrange(RANDOM_REPAIR_START),
            min_share=MIN_REPAIR if self._settings.always else 0.0,
            proxies=proxies,
        )
        return Link(
            resolver=self._store,
            scheduler=scheduler,
            announcer=Announcer(self._catalogue),
            querier=self._make_querier(address),
            senders=Senders(address, now=self._clock()),
            warn=lambda text: log.warning("%s: %s", interface.name, text),
            own_address=address,
            carousel=self._make_carousel(rate) if self._settings.always else None,
            proxies=proxies,
        )

    def _make_carousel(self, rate: int) -> Carousel:
        store = self._store
        return Carousel(
            contents=store.contents,
            group=store.group,
            resolve=store.resolve,
            rate=rate,
            max_symbol_size=self._symbol_size,
        )

    def _make_querier(self, address: Host) -> Querier:
        timers = Timers(query_interval=self._settings.query_interval)
        return Querier(address, now=self._clock(), rng=self._rng, mode=self._settings.querier, timers=timers)

    def _goodbye(self) -> None:
        for port in self._ports:
            self._send_mld(port, port.link.querier.stop())

    def _share_group(self, name: bytes) -> Group:
        return addressing.share_group(name, self._settings.scope)


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000
