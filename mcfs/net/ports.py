"""The server's ports: one for each interface in use, with its sockets and its `Link`. They come and go.

A port is *ready* while multicast passes there and it has an address; else sending pauses and its listeners are kept.
It is *passive* while another port of ours serves the same link: two would send everything twice. That is found out by
what routers say anyway: the slower of two ports that hears a query or an advertisement of the faster one is passive,
until the faster one goes down or was not heard there for PASSIVE_SECONDS (somebody has moved a cable). A forged message
can silence only the link on which it is sent, where it could do worse.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mcfs.net.listeners import DeafReader, OldReportReader, ReportReader
from mcfs.net.peers import PeerSocket
from mcfs.net.reconcile import faster, is_ready
from mcfs.net.reportload import ReportLoad
from mcfs.net.transmit import Transmitter
from mcfs.protocol import mld
from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.ids import Host
from mcfs.serve.membership import MAX_HOSTS
from mcfs.serve.querier import ADVERTISEMENT_INTERVAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import trio

    from mcfs.net.interfaces import Interface
    from mcfs.net.reconcile import Update
    from mcfs.net.reportload import Sampling
    from mcfs.protocol.mld import Envelope
    from mcfs.serve.link import Link
    from mcfs.serve.querier import Outgoing
    from mcfs.serve.schedule import Transmission

log = logging.getLogger(__name__)

UNKNOWN_LINK_RATE: Final = 1e9
"""Bits per second assumed of an interface that does not tell its speed."""
DEFAULT_SHARE_OF_LINK: Final = 0.95
PASSIVE_SECONDS: Final = 3.5 * ADVERTISEMENT_INTERVAL
"""Three advertisements of the other port may be lost."""


def link_rate(interface: Interface, asked: int | None) -> int:
    """The rate of an interface in bits per second."""
    return asked or int(DEFAULT_SHARE_OF_LINK * (interface.speed_bits or UNKNOWN_LINK_RATE))


@dataclass(slots=True, eq=False)
class Port:
    """One interface with its sockets."""

    interface: Interface
    link: Link
    reader: ReportReader | DeafReader
    old_reader: OldReportReader | None
    transmitter: Transmitter
    peers: PeerSocket
    rate: int
    unsent: Transmission | None = None
    blocked_until: float = 0.0
    waiting: bool = False
    """The socket's buffer is full and a task waits for room."""
    tasks: trio.Nursery | None = None
    """While the port is in use; cancelled at its end."""
    twin: Port | None = None
    """The port that serves this link instead of this one."""
    passive_until: float = 0.0
    load: ReportLoad = field(init=False)

    def __post_init__(self) -> None:
        self.load = ReportLoad(self._sample)

    def _sample(self, sampling: Sampling) -> None:
        self.reader.sample(sampling)
        if self.old_reader is not None:
            self.old_reader.sample(sampling)

    @property
    def readers(self) -> tuple[ReportReader | DeafReader | OldReportReader, ...]:
        return (self.reader,) if self.old_reader is None else (self.reader, self.old_reader)

    @property
    def name(self) -> str:
        return self.interface.name

    @property
    def refused(self) -> int:
        """Packets that were no MLDv1 messages although they claimed to be."""
        return self.old_reader.refused if self.old_reader is not None else 0

    @property
    def passive(self) -> bool:
        return self.twin is not None

    @property
    def ready(self) -> bool:
        return is_ready(self.interface)

    def send_mld(self, messages: Iterable[Outgoing]) -> None:
        source = self.interface.link_local
        for message in messages:
            if source is not None:  # else the kernel would choose another address, to which no host answers
                self.reader.send(message, Host(source))

    def meet_others(self) -> None:
        """Join the senders' channels of all shares."""
        for channel in self.link.senders.channels:
            try:
                self.peers.join(channel)
            except OSError as error:
                log.warning("%s: cannot listen for other servers: %s", self.name, error.strerror)
                return

    def drop(self, link: Link) -> None:
        """Forget all listeners, and go on with a new link."""
        self.link, self.unsent, self.blocked_until = link, None, 0.0

    def close(self) -> None:
        """Say goodbye and close the sockets. No task may be waiting for one of them."""
        if not self.passive:
            with contextlib.suppress(OSError):  # the interface may have gone
                self.send_mld(self.link.querier.stop())
        self.reader.close()
        if self.old_reader is not None:
            self.old_reader.close()
        self.transmitter.close()
        self.peers.close()


def open_port(interface: Interface, link: Link, *, rate: int, port: int, hops: int, may_be_deaf: bool = False) -> Port:
    """Opens the sockets. Raises OSError: PermissionError without CAP_NET_RAW, but for one that `may_be_deaf`; others if
    the interface has gone."""
    with contextlib.ExitStack() as stack:
        reader = _open_reader(interface, may_be_deaf=may_be_deaf)
        stack.callback(reader.close)
        transmitter = Transmitter(interface.index, port, hops)
        stack.callback(transmitter.close)
        old_reader = None
        try:
            if not isinstance(reader, DeafReader):
                old_reader = stack.enter_context(OldReportReader(interface.index, interface.name))
        except OSError as error:
            log.warning("%s: MLDv1 reports cannot be heard: %s", interface.name, error)
        peers = stack.enter_context(PeerSocket(interface.index, port))
        stack.pop_all()
    return Port(interface, link, reader, old_reader, transmitter, peers, rate)


def _open_reader(interface: Interface, *, may_be_deaf: bool) -> ReportReader | DeafReader:
    try:
        return ReportReader(interface.index, interface.name)
    except PermissionError:
        if not may_be_deaf:
            raise
    lost = "no listener is heard and no query is sent, so each reader waits for its turn in the round"
    log.warning("%s: without the capability CAP_NET_RAW %s", interface.name, lost)
    return DeafReader()


@dataclass(slots=True)
class Ports:
    """Those in use, in the order in which they came.

    :param make_link: a link without listeners that knows all shares
    """

    make_link: Callable[[Interface, int], Link]
    _ports: list[Port] = field(default_factory=list)
    _past: Counter[str] = field(default_factory=Counter)
    _past_hosts: set[Host] = field(default_factory=set)

    def __iter__(self) -> Iterator[Port]:
        return iter(self._ports)

    def __len__(self) -> int:
        return len(self._ports)

    def find(self, index: int) -> Port | None:
        return next((port for port in self._ports if port.interface.index == index), None)

    def add(self, port: Port, *, now: float) -> None:
        for other in self._ports:
            other.link.querier.solicited(now=now)  # soon heard here, if it is the same link
        self._ports.append(port)

    def remove(self, port: Port, *, now: float) -> None:
        self._ports.remove(port)
        self._past.update(_sent(port))
        self._retire(port.link)
        self.review(now=now)

    def update(self, port: Port, update: Update, asked_rate: int | None, *, now: float) -> None:
        """The interface is not as it was; its listeners stay."""
        new = port.interface = update.new
        rate = link_rate(new, asked_rate)
        if rate != port.rate and new.speed_bits and port.ready:  # without a carrier drivers do not know a speed
            port.rate = rate
            port.link.scheduler.set_rate(rate)
        port.link.set_addresses(Host(new.link_local or bytes(16)), new.addresses, now=now)
        if update.came_up:
            port.blocked_until = 0.0
            port.reader.rejoin()
            port.peers.rejoin()
            port.link.restart(now=now)
            for other in self._ports:
                other.link.querier.solicited(now=now)
        self.review(now=now)

    # --- two ports on one link ---

    def is_own(self, port: Port, envelope: Envelope, message: bytes, *, now: float) -> bool:
        """Whether a message heard on `port` is a query or an advertisement of another port of ours: no other router's.
        If that is the faster one, the port is passive from now on."""
        source, kind = envelope.source, message[0] if message else 0
        if kind not in (mld.QUERY, mld.ADVERTISEMENT) or source == port.interface.link_local:
            return False
        twin = next((p for p in self._ports if p.interface.link_local == source), None)
        if twin is None:
            return False
        if (
            self._serves(twin)
            and faster(port.interface, twin.interface) is twin.interface
            and _is_sound(message, envelope)
        ):
            self._yield_to(port, twin, now)
        return True

    def review(self, *, now: float) -> None:
        """Passive ports whose twin no longer serves become active."""
        for port in self._ports:
            twin = port.twin
            if twin is not None and not (self._serves(twin) and now < port.passive_until):
                port.twin = None
                port.drop(self.make_link(port.interface, port.rate))
                port.meet_others()
                log.info("%s: served again, as %s no longer serves this link", port.name, twin.name)

    def _serves(self, port: Port) -> bool:
        return port in self._ports and port.ready and not port.passive

    def _yield_to(self, port: Port, twin: Port, now: float) -> None:
        if port.twin is not twin:
            log.info("%s: on the same link as %s, which is used alone", port.name, twin.name)
            port.send_mld(port.link.querier.stop())
            self._retire(port.link)
            port.peers.leave_all()
            port.drop(self.make_link(port.interface, port.rate))
        port.twin, port.passive_until = twin, now + PASSIVE_SECONDS

    # --- statistics ---

    def statistics(self) -> dict[str, int]:
        """Sums over all ports, of now and of before."""
        total = self._past.copy()
        for port in self._ports:
            total.update(_sent(port))
            total.update(_heard(port.link))
        hosts = self._past_hosts.union(*(port.link.hosts_seen for port in self._ports))
        return {**total, "listeners_seen": len(hosts)}

    def _retire(self, link: Link) -> None:
        self._past.update(_heard(link))
        if len(self._past_hosts) < MAX_HOSTS:
            self._past_hosts |= link.hosts_seen


def _is_sound(message: bytes, envelope: Envelope) -> bool:
    """Whether a router of this link can have sent it."""
    try:
        if message[0] == mld.QUERY:
            mld.parse_query_untrusted(message, envelope)
        else:
            mld.parse_router_discovery_untrusted(message, envelope)
    except BadDatagram:
        return False
    return True


def _sent(port: Port) -> dict[str, int]:
    return {
        "bytes_sent": port.transmitter.bytes_sent,
        "datagrams_sent": port.transmitter.datagrams_sent,
        "bad_messages": port.refused,
    }


def _heard(link: Link) -> dict[str, int]:
    sent, heard = link.scheduler.counters, link.counters
    return {
        "source_symbols": sent.source_symbols,
        "repair_symbols": sent.repair_symbols,
        "slow_symbols": sent.slow_symbols,
        "passes": sent.passes,
        "reports": heard.reports,
        "joins": heard.joins,
        "bad_messages": heard.bad_messages,
        "refused_joins": link.membership.counters.refused,
        "contradicted_leaves": link.disputes.contradictions,
    }
