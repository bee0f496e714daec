"""The server on real sockets: one task reads MLD messages per interface, one task sends.

Everything that decides lives in `mcfs.serve`. Between two awaits the tables are consistent; all tasks are in the
nursery of `Server.run`.
"""

from __future__ import annotations

import contextlib
import logging
import random
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from mcfs.net.listeners import OldReportReader, ReportReader
from mcfs.net.loader import WorkerPool
from mcfs.net.transmit import Sent, Transmitter
from mcfs.protocol import addressing, wire
from mcfs.protocol.announce import Announcement, encode_announcement, encode_gone
from mcfs.protocol.errors import Gone
from mcfs.protocol.ids import Group, Host, Node
from mcfs.serve.announcer import Announcer
from mcfs.serve.link import Link
from mcfs.serve.listening import DEFAULT_LISTENERS, Kind
from mcfs.serve.payload import Payload, PayloadCache
from mcfs.serve.querier import Mode, Outgoing, Querier
from mcfs.serve.schedule import RANDOM_REPAIR_START, Scheduler, Transmission
from mcfs.serve.tables import table_maker
from mcfs.serve.timedfilter import SECRET_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from nacl.signing import SigningKey

    from mcfs.net.interfaces import Interface
    from mcfs.serve.store import NodeStore

log = logging.getLogger(__name__)

DEFAULT_SHARE_OF_LINK: Final = 0.95
UNKNOWN_LINK_RATE: Final = 1e9
"""Bits per second assumed of an interface that does not tell its speed."""
TURN: Final = 0.002
"""Seconds that the sending task works before others get a turn: reports come in between two bursts anyway."""
GATHER: Final = 0.002
"""Seconds for which reports gather after some were read: on a busy link it costs more to wake for each than to read it.
They were 10 to 20 ms on their way, and while there is something to send they are read between bursts anyway."""
SHORT_WAIT: Final = 0.0012
"""Waits shorter than this are slept away: the event loop's own timer has a resolution of 1 ms."""
DOWN_PAUSE: Final = 0.1
LOADER_THREADS: Final = 2


@dataclass(frozen=True, slots=True)
class ServerSettings:
    port: int = wire.DEFAULT_PORT
    scope: int = addressing.SITE_LOCAL
    hops: int = 1
    rate: int | None = None
    """Bits per second on each interface; None: 95 % of the link's speed."""
    mtu: int | None = None
    querier: Mode = "auto"
    listeners: Kind = "exact"
    listeners_size: int = DEFAULT_LISTENERS
    """Listeners on one interface that a table of the kind "bloom" is made for."""


@dataclass(slots=True)
class _Port:
    """One interface with its sockets."""

    interface: Interface
    link: Link
    reader: ReportReader
    old_reader: OldReportReader | None
    transmitter: Transmitter
    rate: int
    unsent: Transmission | None = None
    blocked_until: float = 0.0
    waiting: bool = False
    """The socket's buffer is full and a task waits for room."""


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
        store: NodeStore,
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
        self._secret = secrets.token_bytes(SECRET_SIZE)
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
            "bad_messages": sum(p.link.counters.bad_messages for p in ports),
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
            await trio.sleep(GATHER)

    def _drain(self, port: _Port, reader: ReportReader | OldReportReader) -> None:
        now = self._clock()
        for envelope, message in reader.receive():
            port.link.receive(envelope, message, now=now)

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
            link.handle_timeout(now=now)
            self._send_mld(port, link.querier.messages_to_send(now=now))
            for group, name in link.announcer.due(now=now):
                self._announce(port, group, name)
        for group, body in link.beacons(now=now):
            port.transmitter.send_control(group, wire.control(wire.BEACON, body, round(1000 * link.scheduler.hold)))
        for group in link.scheduler.told_gone():
            body = encode_gone(group, _unix_ms(), self._key)
            port.transmitter.send_control(group, wire.control(wire.GONE, body))

    def _announce(self, port: _Port, group: Group, name: bytes) -> None:
        announcement = self._announcements[name]
        addresses = tuple(a for a in (port.interface.link_local,) if a)
        complete = Announcement(
            announcement.version,
            _unix_ms(),
            announcement.entry,
            announcement.owners,
            announcement.total_bytes,
            announcement.total_files,
            port.rate,
            addresses,
        )
        body = encode_announcement(complete, self._key)
        port.transmitter.send_control(group, wire.control(wire.ANNOUNCEMENT, body))

    def _send_mld(self, port: _Port, messages: Iterable[Outgoing]) -> None:
        for message in messages:
            port.reader.send(message, Host(port.interface.link_local or bytes(16)))

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
        rate = link_rate(interface, self._settings.rate)
        link = self._make_link(interface, rate)
        return _Port(interface, link, reader, old_reader, transmitter, rate)

    def _make_link(self, interface: Interface, rate: int) -> Link:
        address, settings = Host(interface.link_local or bytes(16)), self._settings
        scheduler = Scheduler(
            rate=rate,
            payloads=self._payloads,
            max_symbol_size=self._symbol_size,
            repair_start=lambda: self._rng.randrange(RANDOM_REPAIR_START),
        )
        return Link(
            resolver=self._store,
            scheduler=scheduler,
            announcer=Announcer(self._catalogue),
            querier=Querier(address, now=self._clock(), rng=self._rng, mode=settings.querier),
            warn=lambda text: log.warning("%s: %s", interface.name, text),
            own_address=address,
            make_table=table_maker(settings.listeners, secret=self._secret, size=settings.listeners_size),
        )

    def _goodbye(self) -> None:
        for port in self._ports:
            self._send_mld(port, port.link.querier.stop())

    def _share_group(self, name: bytes) -> Group:
        return addressing.share_group(name, self._settings.scope)


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000
