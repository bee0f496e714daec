"""The server on real sockets: one task reads MLD messages per interface, one task sends, one follows the interfaces.

Everything that decides lives in `mcfs.serve`. Between two awaits the tables are consistent; all tasks are in the
nursery of `Server.run`, those of one interface in a nursery of its own within.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from mcfs.net.linkwatch import follow
from mcfs.net.loader import WorkerPool
from mcfs.net.ports import Port, Ports, link_rate, open_port
from mcfs.net.transmit import Sent
from mcfs.protocol import addressing, wire
from mcfs.protocol.announce import Announcement, encode_announcement, encode_gone
from mcfs.protocol.errors import Gone
from mcfs.protocol.ids import Group, Host, Node
from mcfs.serve.announcer import Announcer
from mcfs.serve.link import Link
from mcfs.serve.payload import Payload, PayloadCache
from mcfs.serve.querier import Mode, Querier
from mcfs.serve.schedule import RANDOM_REPAIR_START, Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from nacl.signing import SigningKey

    from mcfs.net.interfaces import Interface
    from mcfs.net.listeners import OldReportReader, ReportReader
    from mcfs.net.reconcile import Plan
    from mcfs.serve.store import NodeStore

log = logging.getLogger(__name__)

TURN: Final = 0.002
"""Seconds that the sending task works before others get a turn: reports come in between two bursts anyway."""
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
    interface_names: tuple[str, ...] = ()
    """Those to serve whenever they exist; none: all that are suited."""


@dataclass(slots=True)
class _Loaded:
    node: Node
    payload: Payload | None = field(default=None)


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
        """Opens the sockets of the interfaces that there are now. Raises OSError if none can be opened, PermissionError
        without CAP_NET_RAW."""
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
        self._ports = Ports(self._make_link)
        self._loads: dict[Node, list[Port]] = {}
        self._loader: WorkerPool[Node, _Loaded] | None = None
        self._failing: set[str] = set()
        """Names of interfaces of which was said that they cannot be opened."""
        self._opened = self._open_first(interfaces)

    # --- what is served ---

    def publish(self, announcements: Mapping[bytes, Announcement]) -> None:
        """Announce these shares; `rate` and `addresses` are filled in per interface."""
        now = self._clock()
        for name, announcement in announcements.items():
            if self._announcements.get(name) != announcement:
                self._announcements[name] = announcement
                for port in (*self._opened, *self._ports):
                    port.link.announcer.publish(self._share_group(name), name, now=now)
        self._wake.set()

    @property
    def statistics(self) -> dict[str, int]:
        return self._ports.statistics()

    # --- running ---

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then say goodbye and close the sockets."""
        self._token = trio.lowlevel.current_trio_token()
        self._loader = WorkerPool("load", LOADER_THREADS, self._load, self._wake_from_thread)
        try:
            async with trio.open_nursery() as nursery:
                while self._opened:
                    await nursery.start(self._run_port, self._opened.pop(0))
                nursery.start_soon(self._follow_interfaces, nursery)
                nursery.start_soon(self._send_loop)
                task_status.started()
        finally:
            for port in self._opened:
                port.close()
            self._loader.close(timeout=0.2)

    async def _run_port(self, port: Port, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Everything of one interface, until its nursery is cancelled."""
        try:
            async with trio.open_nursery() as tasks:
                port.tasks = tasks
                tasks.start_soon(self._read, port, port.reader)
                if port.old_reader is not None:
                    tasks.start_soon(self._read, port, port.old_reader)
                self._ports.add(port, now=self._clock())
                self._wake.set()
                task_status.started()
        finally:
            port.close()

    async def _read(self, port: Port, reader: ReportReader | OldReportReader) -> None:
        while True:
            await trio.lowlevel.wait_readable(reader.fileno())
            self._drain(port, reader)
            self._wake.set()

    def _drain(self, port: Port, reader: ReportReader | OldReportReader) -> None:
        now = self._clock()
        for envelope, message in reader.receive():
            if not self._ports.is_own(port, envelope, message, now=now) and not port.passive:
                port.link.receive(envelope, message, now=now)

    async def _send_loop(self) -> None:
        while True:
            self._wake = trio.Event()
            wait = self._turn()
            if wait is None:
                await self._wake.wait()
            elif wait > SHORT_WAIT:
                with trio.move_on_after(wait):
                    await self._wake.wait()
            else:
                await trio.lowlevel.checkpoint()
                if wait > 0:
                    time.sleep(min(wait, SHORT_WAIT))  # noqa: ASYNC251 - see SHORT_WAIT

    def _turn(self) -> float | None:
        """Send for a while. Returns the seconds until there is more to do; None: only when something happens."""
        end = self._clock() + TURN
        while True:
            now = self._clock()
            busy = False
            for port in self._ports:
                self._drain(port, port.reader)
                if not port.passive:
                    self._housekeeping(port, now)
                    busy |= self._send_one(port, now)
            self._ports.review(now=now)
            self._load_more()
            if not busy:
                return self._until_next(now)
            if now > end:
                return 0.0

    def _until_next(self, now: float) -> float | None:
        times: list[float | None] = []
        for port in self._ports:
            if port.passive:
                times.append(port.passive_until)
                continue
            times.append(port.link.next_timeout(now))
            if port.ready and not port.waiting:
                due = port.link.scheduler.next_timeout(now) if port.unsent is None else now
                times.append(None if due is None else max(due, port.blocked_until))
        known = [t for t in times if t is not None]
        return max(0.0, min(known) - now) if known else None

    # --- one interface ---

    def _send_one(self, port: Port, now: float) -> bool:
        """Send one burst; False if there is nothing to send on this interface now."""
        if not port.ready or port.waiting or port.blocked_until > now:
            return False
        transmission = port.unsent or port.link.scheduler.next(now)
        if transmission is None:
            return False
        port.unsent = None
        result = port.transmitter.send(transmission.group, transmission.datagrams())
        if result is Sent.BLOCKED:
            port.unsent, port.waiting = transmission, True
            assert port.tasks is not None
            port.tasks.start_soon(self._wait_for_room, port)
        elif result is Sent.DOWN:
            port.blocked_until = now + DOWN_PAUSE
        return True

    async def _wait_for_room(self, port: Port) -> None:
        await trio.lowlevel.wait_writable(port.transmitter.socket)
        port.waiting = False
        self._wake.set()

    def _housekeeping(self, port: Port, now: float) -> None:
        link = port.link
        due = link.next_timeout(now)
        if due is not None and due <= now:
            link.handle_timeout(now=now)
            port.send_mld(link.querier.messages_to_send(now=now))
            for group, name in link.announcer.due(now=now):
                self._announce(port, group, name)
        for group, body in link.beacons(now=now):
            port.transmitter.send_control(group, wire.control(wire.BEACON, body, round(1000 * link.scheduler.hold)))
        for group in link.scheduler.told_gone():
            body = encode_gone(group, _unix_ms(), self._key)
            port.transmitter.send_control(group, wire.control(wire.GONE, body))

    def _announce(self, port: Port, group: Group, name: bytes) -> None:
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

    # --- interfaces that come and go ---

    def _open_first(self, interfaces: Iterable[Interface]) -> list[Port]:
        opened: list[Port] = []
        failure: OSError | None = None
        for interface in interfaces:
            try:
                opened.append(self._open_port(interface))
            except OSError as error:
                failure = error
                log.warning("%s: cannot be served now: %s", interface.name, error.strerror)
        if failure is not None and not opened:
            raise failure
        return opened

    async def _follow_interfaces(self, nursery: trio.Nursery) -> None:
        async def apply(plan: Plan) -> bool:
            return await self._apply(plan, nursery)

        await follow(lambda: [port.interface for port in self._ports], self._settings.interface_names, apply)

    async def _apply(self, plan: Plan, nursery: trio.Nursery) -> bool:
        """Returns whether all interfaces could be opened."""
        for interface in plan.close:
            self._close_port(interface)
        for update in plan.update:
            if str(update):
                log.info("%s: %s", update.new.name, update)
            if (port := self._ports.find(update.old.index)) is not None:
                self._ports.update(port, update, self._settings.rate, now=self._clock())
        opened = [await self._add_port(interface, nursery) for interface in plan.open]
        if plan.close and not len(self._ports):
            log.warning("no network interface is left to serve: waiting for one")
        self._wake.set()
        return all(opened)

    def _close_port(self, interface: Interface) -> None:
        port = self._ports.find(interface.index)
        if port is None:
            return
        log.info("%s: no longer served, the interface has gone", interface.name)
        self._ports.remove(port, now=self._clock())
        assert port.tasks is not None
        port.tasks.cancel_scope.cancel()

    async def _add_port(self, interface: Interface, nursery: trio.Nursery) -> bool:
        try:
            port = self._open_port(interface)
        except OSError as error:  # it may have gone again, or have no address yet
            if interface.name not in self._failing:
                self._failing.add(interface.name)
                log.warning("%s: cannot be served now: %s", interface.name, error.strerror)
            return False
        await nursery.start(self._run_port, port)
        self._failing.discard(interface.name)
        log.info("%s: served from now on, at most %d Mbit/s", interface.name, port.rate // 1_000_000)
        return True

    def _open_port(self, interface: Interface) -> Port:
        rate, settings = link_rate(interface, self._settings.rate), self._settings
        if settings.mtu and interface.mtu < settings.mtu:
            log.warning("%s: its MTU is %d, so what is made for %d goes in fragments (--mtu)", interface.name,
                        interface.mtu, settings.mtu)  # fmt: skip
        link = self._make_link(interface, rate)
        return open_port(interface, link, rate=rate, port=settings.port, hops=settings.hops)

    def _make_link(self, interface: Interface, rate: int) -> Link:
        address = Host(interface.link_local or bytes(16))
        scheduler = Scheduler(
            rate=rate,
            payloads=self._payloads,
            max_symbol_size=self._symbol_size,
            repair_start=lambda: self._rng.randrange(RANDOM_REPAIR_START),
        )
        now = self._clock()
        link = Link(
            resolver=self._store,
            scheduler=scheduler,
            announcer=Announcer(self._catalogue),
            querier=Querier(address, now=now, rng=self._rng, mode=self._settings.querier),
            warn=lambda text: log.warning("%s: %s", interface.name, text),
            own_address=address,
        )
        link.set_addresses(address, interface.addresses)
        for name in self._announcements:
            link.announcer.publish(self._share_group(name), name, now=now)
        return link

    def _share_group(self, name: bytes) -> Group:
        return addressing.share_group(name, self._settings.scope)


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000
