"""The server on real sockets: one task reads MLD messages per interface, one task sends, one follows the interfaces.

Everything that decides lives in `mcfs.serve`. Between two awaits the tables are consistent; all tasks are in the
nursery of `Server.run`, those of one interface in a nursery of its own within.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from mcfs.net.links import Links
from mcfs.net.linkwatch import follow
from mcfs.net.loader import WorkerPool
from mcfs.net.offer import Offer
from mcfs.net.own_groups import own_groups
from mcfs.net.ports import Port, Ports, link_rate, open_port
from mcfs.net.reportload import Kind, kind_of
from mcfs.net.transmit import Sent
from mcfs.protocol import mld
from mcfs.protocol.errors import BadDatagram, Gone
from mcfs.serve.complaints import Complaints
from mcfs.serve.payload import Payload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from nacl.signing import SigningKey

    from mcfs.net.interfaces import Interface
    from mcfs.net.listeners import DeafReader, OldReportReader, ReportReader
    from mcfs.net.reconcile import Plan
    from mcfs.net.settings import ServerSettings
    from mcfs.protocol.announce import Announcement
    from mcfs.protocol.ids import Node
    from mcfs.protocol.keys import ShareKeys
    from mcfs.serve.probe import Store

log = logging.getLogger(__name__)

TURN: Final = 0.002
"""Seconds that the sending task works before others get a turn: reports are read in between anyway."""
LOOK: Final = 0.0005
"""Seconds of sending after which it looks for reports, timers and loaded nodes: that is a tenth of the work of a burst
of 64 KB, which takes as long at 1 Gbit/s and an eighth of it at 8."""
GATHER: Final = 0.004
"""Seconds for which reports gather after some were read: on a busy link it costs more to wake for each than to read it.
They were 10 to 20 ms on their way, and while there is something to send they are read between bursts anyway."""
SHORT_WAIT: Final = 0.0012
"""Waits shorter than this are slept away: the event loop's own timer has a resolution of 1 ms."""
DOWN_PAUSE: Final = 0.1
LOADER_THREADS: Final = 2
PEER_PAUSE: Final = 0.05
"""Seconds between two looks at what other servers say: 1,300 signatures a second, 100 us each, are checked at most."""


@dataclass(slots=True)
class _Loaded:
    node: Node
    payload: Payload | None = field(default=None)
    reason: str = ""
    """Why there is none."""


class Server:
    """Serves the objects of a store and the announcements given to `publish`."""

    def __init__(
        self,
        store: Store,
        interfaces: Iterable[Interface],
        settings: ServerSettings,
        signing_key: SigningKey,
        *,
        links: tuple[bytes, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`links` lead from the publisher's former keys to `signing_key` (`mcfs.protocol.succession`).

        Opens the sockets of the interfaces that there are now. Raises OSError if none can be opened, PermissionError
        without CAP_NET_RAW."""
        self._settings = settings
        self._clock = clock
        self._offer = Offer(settings, signing_key, links)
        self._links = Links(store, self._offer, settings, clock)
        self._wake = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._ports = Ports(self._links.make)
        self._loads: dict[Node, list[Port]] = {}
        self._loader: WorkerPool[Node, _Loaded] | None = None
        self._complaints = Complaints()
        self._failing: set[str] = set()
        """Names of interfaces of which was said that they cannot be opened."""
        self._opened = self._open_first(interfaces)
        self.sent_at = float("-inf")
        """When the last burst was sent, on the clock that was given."""
        self._sending = 0.0
        """Seconds that sending has taken."""

    @property
    def sends_all(self) -> bool:
        """Whether everything goes round and round, so that all contents are asked for."""
        return self._settings.always

    # --- what is served ---

    def publish(
        self, announcements: Mapping[bytes, Announcement], keys: Mapping[bytes, ShareKeys] | None = None
    ) -> None:
        """Announce these shares, those with a share key that are named in `keys`; `rate` and `addresses` are filled in
        per interface."""
        names = self._offer.replace(announcements, keys or {})
        for port in (*self._opened, *self._ports):
            self._offer.publish(port.link, names, now=self._clock())
            port.meet_others()
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
                    self._opened[0].link.restart(now=self._clock())  # it may have been opened hours ago
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
                for reader in port.readers:
                    tasks.start_soon(self._read, port, reader)
                tasks.start_soon(self._read_peers, port)
                self._ports.add(port, now=self._clock())
                self._wake.set()
                task_status.started()
        finally:
            port.close()

    async def _read(self, port: Port, reader: ReportReader | DeafReader | OldReportReader) -> None:
        while True:
            with trio.move_on_after(port.load.patience):
                await trio.lowlevel.wait_readable(reader.fileno())
            self._drain(port, reader)
            self._wake.set()
            await trio.sleep(GATHER)

    def _drain(self, port: Port, reader: ReportReader | DeafReader | OldReportReader) -> None:
        now = self._clock()
        found = reader.receive()
        if not found:
            port.load.look(port.link.regulars, sending=self._sending, now=now)
            return
        before = handed_up = self._clock()
        worked = time.thread_time()
        regulars, each = port.link.regulars, (before - now) / len(found)
        spent: dict[Kind, float] = {}
        for envelope, message in found:
            kind = kind_of(message, envelope.source, regulars)
            if not self._ports.is_own(port, envelope, message, now=now) and not port.passive:
                port.link.receive(envelope, message, now=now)
            after = self._clock()
            spent[kind] = spent.get(kind, 0.0) + each + after - before
            before = after
        worked = min(1.0, (time.thread_time() - worked) / max(before - handed_up, 1e-9))  # the rest others worked
        for kind, seconds in spent.items():
            port.load.spent(kind, worked * seconds)
        port.load.look(regulars, sending=self._sending, now=before)

    async def _read_peers(self, port: Port) -> None:
        while True:
            await trio.lowlevel.wait_readable(port.peers.fileno())
            for channel, datagram in port.peers.receive():
                if port.passive:
                    continue
                try:
                    self._offer.other_server_untrusted(port.link, channel, datagram, now=self._clock())
                except BadDatagram:
                    port.link.counters.bad_messages += 1
            self._wake.set()
            await trio.sleep(PEER_PAUSE)

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
            for port in self._ports:
                for reader in port.readers:
                    self._drain(port, reader)
                if not port.passive:
                    self._housekeeping(port, now)
            self._ports.review(now=now)
            self._load_more()
            if not self._send_bursts(now):
                self._after_last()
                return self._until_next(now)
            if now > end:
                return 0.0

    def _after_last(self) -> None:
        """What looking for something to send has brought to light: nodes to load, and such as are gone. Nothing else
        may come for seconds that would wake this task."""
        for port in self._ports:
            if not port.passive:
                self._tell_gone(port)
        self._load_more()

    def _send_bursts(self, now: float) -> bool:
        """Send bursts for LOOK seconds, of each interface in turn; False if there was none to send."""
        end, sent, begun = now + LOOK, False, self._clock()
        while sum(self._send_one(port, now) for port in self._ports if not port.passive):
            sent, now = True, self._clock()
            self.sent_at = now
            if now > end:
                break
        if sent:
            self._sending += now - begun
        return sent

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
            if link.own_groups_due is not None and link.own_groups_due <= now:
                link.own_groups(own_groups(port.interface.index), now=now)
            link.handle_timeout(now=now)
            port.send_mld(link.messages_to_send(now=now))
            for group, name in link.announcer.due(now=now):
                port.transmitter.send_control(group, self._offer.announcement(port, name, group))
            for channel, name in link.senders.due(now=now):
                port.peers.send(channel, self._offer.announcement(port, name, channel))
        for beacon in link.beacons(now=now):
            port.transmitter.send_control(beacon.channel, self._offer.beacon(beacon))
        self._tell_gone(port)

    def _tell_gone(self, port: Port) -> None:
        for group in port.link.scheduler.told_gone():
            if (channel := port.link.scheduler.channel(group)) is not None:
                port.transmitter.send_control(group, self._offer.gone(channel))

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
            if loaded.payload is None:
                self._complain(loaded.reason)
            for port in self._loads.pop(loaded.node, ()):
                if loaded.payload is None:
                    port.link.scheduler.gone(loaded.node, now=self._clock())
                else:
                    port.link.scheduler.loaded(loaded.payload)

    def _complain(self, reason: str) -> None:
        line = self._complaints.line(f"a block can no longer be sent: {reason}", now=self._clock())
        if line is not None:
            log.warning("%s", line)

    def _load(self, node: Node) -> _Loaded:
        """In a loader thread."""
        try:
            return _Loaded(node, Payload(node, self._links.store.load(node), self._settings.symbol_size))
        except Gone as error:
            return _Loaded(node, reason=str(error))
        except Exception:
            log.exception("reading a node failed")
            return _Loaded(node, reason="reading it failed")

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
            except PermissionError:  # on none of them, then
                for port in opened:
                    port.close()
                raise
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
        coming = () if self._settings.fixed_interfaces else plan.open
        opened = [await self._add_port(interface, nursery) for interface in coming]
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
        link = self._links.make(interface, rate)
        port = open_port(
            interface, link, rate=rate, port=settings.port, hops=settings.hops, may_be_deaf=settings.always
        )
        port.meet_others()
        if settings.proxies:
            self._check_source(port)
        return port

    def _check_source(self, port: Port) -> None:
        source = port.transmitter.source(self._offer.catalogue)
        if source is None or mld.is_link_local(source):
            log.warning(
                "%s: it has no address wider than link-local, so routers pass nothing on: give it a global or unique "
                "local one (ip address add fd.../64 dev %s)",
                port.name,
                port.name,
            )
