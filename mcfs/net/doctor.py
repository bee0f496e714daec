"""Finding out for `mcfs doctor` what a host hears and says on its links.

First all interfaces listen at the same time: they join a group that nobody else joins, to see the report of it, and the
catalogue, and ask for advertisements (RFC 4286). Then each joins the probe object in turn and counts what comes. No
query is sent: hosts and switches would take this host for a router. Every wait ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import trio

from mcfs.fetch.pace import pace_class
from mcfs.fetch.probe import Tally
from mcfs.net import kernel
from mcfs.net.facts import Facts, LinkFacts, ProbeFacts, QuerierHeard, RouterHeard, ShareHeard
from mcfs.net.interfaces import Choice, Interface, list_interfaces, select
from mcfs.net.listeners import ReportReader
from mcfs.net.receive import Joined, Receiver, Run
from mcfs.net.tap import DatagramTap
from mcfs.protocol import addressing, mld, wire
from mcfs.protocol.announce import decode_announcement_untrusted
from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.ids import Group, Host
from mcfs.protocol.probe import probe_group
from mcfs.serve.querier import Outgoing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mcfs.protocol.mld import Envelope

ADDRESS_SECONDS: Final = 3.0
"""Longest wait for an address that is being checked for duplicates (RFC 4862: one second)."""
ROUND: Final = 1.3
"""Seconds from the first announcement until all servers were heard: each goes through its shares every second."""
SILENCE: Final = 0.5
"""Seconds without a symbol after which the rest of a pass does not come any more."""
SILENT_BURSTS: Final = 4
"""The same for a server of a low rate, in the time that its bursts take: 64 datagrams at 1 Mbit/s are 0.8 s."""
BLIND_PROBE: Final = 1.0
"""Seconds to wait for the probe object where no announcement was heard."""
UNKNOWN_RATE: Final = 10**9
MAX_SHARES: Final = 256
MAX_ROUTERS: Final = 16
"""Remembered for each interface; addresses and names can be forged."""
MAX_CHECKED: Final = 2000
"""Announcements whose signature is checked in all: 0.2 s of work."""
PADDING: Final = bytes(4)
"""A snooping Linux bridge drops ICMPv6 messages of less than eight bytes, and a solicitation has four (Linux 6.18)."""
_BURST_BITS: Final = 8 * 64 * (wire.DEFAULT_MTU + wire.LINK_OVERHEAD)
"""Of what a server hands to its kernel at a time."""
_TICK: Final = 0.05


@dataclass(frozen=True, slots=True)
class DoctorSettings:
    timeout: float
    """Seconds that each of the two phases waits at most, for each interface."""
    port: int = wire.DEFAULT_PORT
    scope: int = addressing.SITE_LOCAL
    share: bytes | None = None


def examine(names: Sequence[str], settings: DoctorSettings, tell: Callable[[str], None]) -> Facts:
    """Look at the interfaces of these names, or at those that would be chosen. `tell` is given what is being done.

    Raises UserError for a name that no interface has.
    """
    choice = _wait_for_addresses(names, tell)
    facts = Facts(
        links=tuple(LinkFacts(interface) for interface in choice.chosen),
        skipped=choice.skipped,
        port=settings.port,
        share=settings.share,
        receive_buffer=0,
        port_taken=False,
        optmem_max=kernel.optmem_max(),
    )
    try:
        receiver = Receiver(settings.port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return replace(facts, port_taken=True)
    with contextlib.closing(receiver):
        links = trio.run(_Examination(receiver, choice.chosen, settings, tell).run)
        return replace(facts, links=links, receive_buffer=receiver.granted)


def _wait_for_addresses(names: Sequence[str], tell: Callable[[str], None]) -> Choice:
    end = time.monotonic() + ADDRESS_SECONDS
    while True:
        choice = select(list_interfaces(), names)
        if not any(i.tentative for i in choice.chosen) or time.monotonic() > end:
            return choice
        tell("waiting for the link-local address")
        time.sleep(_TICK)


class _Examination:
    def __init__(
        self,
        receiver: Receiver,
        interfaces: Sequence[Interface],
        settings: DoctorSettings,
        tell: Callable[[str], None],
    ) -> None:
        self._receiver = receiver
        self._settings = settings
        self._tell = tell
        self._watches = [_Watch(interface, settings) for interface in interfaces]
        self._by_index = {watch.interface.index: watch for watch in self._watches}
        self._checked = 0
        self._probes: dict[tuple[int, Group], Tally] = {}

    async def run(self) -> tuple[LinkFacts, ...]:
        with ExitStack() as stack:
            live = [watch for watch in self._watches if watch.usable]
            for watch in live:
                watch.open(stack)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive)
                await self._listen(live)
                for watch in live:
                    await self._probe(watch)
                nursery.cancel_scope.cancel()
        return tuple(watch.facts() for watch in self._watches)

    # --- first phase ---

    async def _listen(self, watches: Sequence[_Watch]) -> None:
        self._tell(f"listening on {_names(watches)} for up to {self._settings.timeout:g} s")
        for watch in watches:
            watch.join(self._receiver)
        async with trio.open_nursery() as nursery:
            for watch in watches:
                watch.start(nursery)
            with trio.move_on_after(self._settings.timeout):
                while not all(watch.settled() for watch in watches):  # noqa: ASYNC110 - time settles some
                    await trio.sleep(_TICK)
            nursery.cancel_scope.cancel()
        for watch in watches:
            watch.end_listening()

    # --- second phase ---

    async def _probe(self, watch: _Watch) -> None:
        """Join the probe object as a client with this receive buffer would, and leave it when its pass is over."""
        self._tell(f"counting what is lost on {watch.interface.name}")
        pace = pace_class(watch.rate, self._receiver.usable)
        group, index = probe_group(pace, self._settings.scope), watch.interface.index
        drops = self._receiver.kernel_drops()
        started = time.monotonic()
        tally = self._probes[index, group] = Tally(joined_at=started)
        if not self._receiver.join(group, index).ok:
            return
        silence = max(SILENCE, SILENT_BURSTS * _BURST_BITS * 2**pace / max(1, watch.rate))
        timeout = self._settings.timeout if watch.shares or watch.keyed else min(BLIND_PROBE, self._settings.timeout)
        with trio.move_on_after(timeout) as scope:
            while not tally.done() and not _silent(tally, silence):  # noqa: ASYNC110 - silence is no event
                await trio.sleep(_TICK)
        self._receiver.leave(group, index)
        readings = tally.readings(so_far=scope.cancelled_caught)
        drops = self._receiver.kernel_drops() - drops
        watch.probe = ProbeFacts(time.monotonic() - started, pace, readings, drops)

    # --- what comes ---

    async def _receive(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._receiver.socket)
            for run in self._receiver.receive() or ():
                self._received(run, time.monotonic())

    def _received(self, run: Run, now: float) -> None:
        watch = self._by_index.get(run.ifindex)
        if watch is None:
            return
        rows = run.rows()
        watch.datagrams += len(rows)
        if run.group in watch.controls:
            self._announced(run, watch, now)
        elif (tally := self._probes.get((run.ifindex, run.group))) is not None:
            tally.receive(run.source, rows, now=now)

    def _announced(self, run: Run, watch: _Watch, now: float) -> None:
        for row in run.rows():
            if self._checked >= MAX_CHECKED:
                return
            with contextlib.suppress(BadDatagram):
                kind, body = wire.control_untrusted(row.tobytes())
                if kind == wire.ANNOUNCEMENT:
                    self._checked += 1
                    announcement = decode_announcement_untrusted(body)
                    watch.heard(announcement.name, run.source, announcement.rate, now)
                elif kind == wire.KEYED and run.group == watch.keyed_group and len(watch.keyed) < MAX_ROUTERS:
                    watch.keyed.add(run.source)


class _Watch:
    """One interface: what is heard there."""

    def __init__(self, interface: Interface, settings: DoctorSettings) -> None:
        self.interface = interface
        self.usable = interface.unfit() is None and interface.running and interface.multicast
        self.datagrams = 0
        self.shares: dict[tuple[bytes, Host], ShareHeard] = {}
        self.probe: ProbeFacts | None = None
        self._settings = settings
        self._own_group = _random_group(settings.scope)
        self.keyed: set[Host] = set()
        self.keyed_group = addressing.keyed_group(settings.scope)
        self.controls = {addressing.catalogue_group(settings.scope), self.keyed_group}
        if settings.share is not None:
            self.controls.add(addressing.share_group(settings.share, settings.scope))
        self._reader: ReportReader | None = None
        self._tap: DatagramTap | None = None
        self._before: kernel.MldCounters | None = None
        self._joined = Joined(False)
        self._joined_at = 0.0
        self._listened = 0.0
        self._member: bool | None = None
        self._after: kernel.MldCounters | None = None
        self._looped = False
        self._queriers: dict[Host, QuerierHeard] = {}
        self._routers: dict[Host, RouterHeard] = {}
        self._tapped = 0
        self._filtered = 0

    @property
    def rate(self) -> int:
        """Bits per second of the fastest server."""
        return max((share.rate for share in self.shares.values()), default=UNKNOWN_RATE)

    def open(self, stack: ExitStack) -> None:
        """Open what CAP_NET_RAW allows; without it the rest is looked at."""
        self._before = kernel.mld_counters(self.interface.name)
        with contextlib.suppress(OSError):
            self._reader = stack.enter_context(ReportReader(self.interface.index, self.interface.name))
            self._tap = stack.enter_context(DatagramTap(self.interface.name, self._settings.port, self.controls))

    def join(self, receiver: Receiver) -> None:
        """All at once: joins that follow each other closely hold up the report of all."""
        self._joined_at = time.monotonic()
        for group in (self._own_group, *self.controls):
            self._joined = receiver.join(group, self.interface.index)
            if not self._joined.ok:
                return
        self._member = kernel.is_member(self.interface.index, self._own_group)

    def start(self, nursery: trio.Nursery) -> None:
        if self._reader is not None:
            nursery.start_soon(self._read_reports, self._reader)
            nursery.start_soon(self._solicit, self._reader)
        if self._tap is not None:
            nursery.start_soon(self._read_tap, self._tap)

    def settled(self) -> bool:
        """Whether nothing more is to be learnt by listening."""
        return (self._reader is None or self._querier_known()) and self._shares_heard(time.monotonic())

    def end_listening(self) -> None:
        self._listened = time.monotonic() - self._joined_at
        self._after = kernel.mld_counters(self.interface.name)
        self._filtered = 0 if self.datagrams else self._tapped

    def heard(self, name: bytes, server: Host, rate: int, now: float) -> None:
        if (name, server) not in self.shares and len(self.shares) < MAX_SHARES:
            self.shares[name, server] = ShareHeard(name, server, rate, now - self._joined_at)

    def facts(self) -> LinkFacts:
        if not self.usable:
            return LinkFacts(self.interface)
        known = self._before is not None and self._after is not None
        return LinkFacts(
            self.interface,
            listened=self._listened,
            raw=self._reader is not None,
            joined=self._joined.ok,
            too_many=self._joined.too_many,
            member=self._member,
            forced_version=kernel.forced_mld_version(self.interface.name),
            reports_v2=self._reports(2) if known else None,
            reports_v1=self._reports(1) if known else None,
            looped=self._looped,
            queries_before=self._before.queries_in if self._before else None,
            queriers=tuple(self._queriers.values()),
            routers=tuple(self._routers.values()),
            shares=tuple(self.shares.values()),
            keyed=len(self.keyed),
            filtered=self._filtered,
            probe=self.probe,
        )

    # --- inside ---

    def _reports(self, version: int) -> int:
        """How many went out since the joins, by the kernel's count."""
        after = self._after or kernel.mld_counters(self.interface.name)
        if self._before is None or after is None:
            return 0
        if version == 1:
            return after.reports_v1_out - self._before.reports_v1_out
        return after.reports_v2_out - self._before.reports_v2_out

    def _querier_known(self) -> bool:
        """A host that falls back to version 1 has heard a querier of version 1: wait for its name."""
        if self._looped:
            return bool(self._queriers or self._routers)
        return self._reports(1) > 0 and any(querier.version == 1 for querier in self._queriers.values())

    def _shares_heard(self, now: float) -> bool:
        if not self.shares or now < self._joined_at + min(s.after for s in self.shares.values()) + ROUND:
            return False
        wanted = self._settings.share
        return wanted is None or any(name == wanted for name, _ in self.shares)

    async def _read_reports(self, reader: ReportReader) -> None:
        while True:
            await trio.lowlevel.wait_readable(reader.fileno())
            for envelope, message in reader.receive():
                with contextlib.suppress(BadDatagram):
                    self._message(envelope, message)

    def _message(self, envelope: Envelope, message: bytes) -> None:
        """Raises BadDatagram."""
        kind = message[0] if message else 0
        if kind == mld.QUERY and len(self._queriers) < MAX_ROUTERS:
            query = mld.parse_query_untrusted(message, envelope)
            self._queriers[envelope.source] = QuerierHeard(envelope.source, query.version, query.interval)
        elif kind == mld.ADVERTISEMENT and len(self._routers) < MAX_ROUTERS:
            found = mld.parse_router_discovery_untrusted(message, envelope)
            if isinstance(found, mld.Advertisement):
                self._routers[envelope.source] = RouterHeard(envelope.source, found.query_interval)
        elif kind == mld.REPORT_V2 and envelope.source == self.interface.link_local:
            records = mld.parse_report_untrusted(message, envelope)
            self._looped |= any(record.group == self._own_group for record in records)

    async def _solicit(self, reader: ReportReader) -> None:
        """Routers answer within two seconds (RFC 4286 section 3.1.4); the second time in case the first was lost."""
        message = mld.build_router_discovery(mld.Solicitation()) + PADDING
        for _ in range(2):
            reader.send(Outgoing(mld.ALL_ROUTERS, message), Host(self.interface.link_local or bytes(16)))
            await trio.sleep(self._settings.timeout / 2)

    async def _read_tap(self, tap: DatagramTap) -> None:
        while True:
            await trio.lowlevel.wait_readable(tap.fileno())
            self._tapped += tap.receive()


def _random_group(scope: int) -> Group:
    group = bytearray(addressing.prefix(scope) + os.urandom(14))
    group[12] |= 0x80  # RFC 3307 section 4.3: dynamic group ids have this bit
    return Group(bytes(group))


def _silent(tally: Tally, seconds: float) -> bool:
    return tally.last_at is not None and time.monotonic() - tally.last_at > seconds


def _names(watches: Sequence[_Watch]) -> str:
    return ", ".join(watch.interface.name for watch in watches)
