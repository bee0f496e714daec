"""One interface of the server: what its MLD messages mean, who listens, and what is to be sent there.

Sans-IO: messages and `now` go in; transmissions, announcements and MLD messages come out.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final, Protocol

from mcfs.protocol import mld
from mcfs.protocol.beacon import MAX_CHANNELS, encode_beacon
from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.ids import Group, Host
from mcfs.serve import membership as m
from mcfs.serve import querier as q
from mcfs.serve.tables import exact_table

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from mcfs.serve.announcer import Announcer
    from mcfs.serve.channel import Channel
    from mcfs.serve.listening import TableMaker
    from mcfs.serve.schedule import Scheduler


class Resolver(Protocol):
    def resolve(self, group: bytes) -> Channel | None:
        """The channel behind a group address; None if it is none of ours."""
        ...


BEACON_INTERVAL: Final = 0.04
"""Seconds. A client's tick: a reader that is behind has to hear of a block while it is still queued, for 40 to 80 ms.
1.4 kB in each is 0.03 % of a link of 1 Gbit/s."""
MERGING_LISTENERS: Final = 2


@dataclass(slots=True)
class LinkCounters:
    reports: int = 0
    bad_messages: int = 0
    joins: int = 0
    leaves: int = 0


class Link:
    """Joins the tables of one interface: listeners, querier, scheduler, announcer."""

    def __init__(
        self,
        *,
        resolver: Resolver,
        scheduler: Scheduler,
        announcer: Announcer,
        querier: q.Querier,
        warn: Callable[[str], None],
        own_address: Host,
        make_table: TableMaker = exact_table,
    ) -> None:
        self.counters = LinkCounters()
        self.scheduler = scheduler
        self.announcer = announcer
        self.querier = querier
        self.hosts_seen: set[Host] = set()
        self._resolver = resolver
        self._warn = warn
        self.membership = make_table(self._may_accept, self)
        self._own_address = own_address
        self._beacon_at = 0.0

    def _may_accept(self, group: Group) -> bool:
        # Hosts report solicited-node groups (scope 2) too; those of version 1 come here unchecked.
        return group in self.announcer or self._resolver.resolve(group) is not None

    # --- whom we serve: what the listener table may ask ---

    def listeners(self, group: Group) -> Collection[Host]:
        return self.scheduler.listeners(group) or self.announcer.listeners(group)

    def groups(self) -> Iterator[tuple[Group, Collection[Host]]]:
        return chain(self.scheduler.groups(), self.announcer.groups())

    # --- messages ---

    def receive(self, envelope: mld.Envelope, message: bytes, *, now: float) -> None:
        """An ICMPv6 message; what is not as the standard says is counted and dropped."""
        kind = message[0] if message else 0
        try:
            if kind == mld.REPORT_V2:
                self._report(envelope, message, now)
            elif kind == mld.QUERY:
                self._query(envelope, message, now)
            elif kind in (mld.REPORT_V1, mld.DONE_V1):
                self._old_report(envelope, message, now)
            elif kind == mld.SOLICITATION:
                mld.parse_router_discovery_untrusted(message, envelope)
                self.querier.solicited(now=now)
        except BadDatagram:
            self.counters.bad_messages += 1

    def _report(self, envelope: mld.Envelope, message: bytes, now: float) -> None:
        records = mld.read_report_untrusted(message, envelope)
        self.counters.reports += 1
        self._apply(self.membership.report(envelope.source, records, now=now), now)

    def _old_report(self, envelope: mld.Envelope, message: bytes, now: float) -> None:
        old = mld.parse_old_untrusted(message, envelope)
        host, group = envelope.source, Group(old.group)
        tell = self.membership.done_v1 if old.done else self.membership.report_v1
        self._apply(tell(host, group, now=now), now)

    def _query(self, envelope: mld.Envelope, message: bytes, now: float) -> None:
        query = mld.parse_query_untrusted(message, envelope)
        for event in self.querier.query_heard(query, envelope.source, now=now):
            self._warn(_querier_text(event))
        if query.version == 1 and envelope.source != self._own_address:
            self.membership.suppression_seen(now=now)
        if any(query.group) and envelope.source != self._own_address:
            self.membership.query_sent(Group(query.group), now=now)
        timers = self.querier.timers
        self.membership.set_timers(timers.robustness, timers.query_interval, timers.response_interval)

    def _apply(self, events: Sequence[m.Event], now: float) -> None:
        """Tell the tables. Nodes joined in one report are asked for in the order of their object, pages first:
        the kernel reports the newest join first, which would send a file backwards."""
        joined: dict[tuple[Group, Host], Channel] = {}
        for event in events:
            match event:
                case m.ListenerJoined(group, host):
                    self._joined(group, host, joined, now)
                case m.HostRefreshed(host, groups):
                    for group in self.scheduler.refreshed(host, groups, now=now):
                        self._unserved(group, host, joined, now)
                case m.ListenerLeft(group, host):
                    self.counters.leaves += 1
                    joined.pop((group, host), None)
                    self.scheduler.left(host, group, now=now)
                    self.announcer.left(host, group)
                case m.GroupEmpty(group, certain):
                    self._emptied(group, certain, now)
        for (_, host), channel in sorted(joined.items(), key=lambda item: (-item[1].node.level, item[1].node.index)):
            self.scheduler.joined(host, channel, now=now)

    def _unserved(self, group: Group, host: Host, joined: dict[tuple[Group, Host], Channel], now: float) -> None:
        """Whoever is refreshed and served by nobody joins: a false positive of a Bloom table, or one who came when
        there was no room."""
        if (group, host) in joined or host in self.announcer.listeners(group):
            return
        if self.membership.admit(host, group, now=now):
            self._joined(group, host, joined, now)

    def _joined(self, group: Group, host: Host, joined: dict[tuple[Group, Host], Channel], now: float) -> None:
        self.counters.joins += 1
        self.hosts_seen.add(host) if len(self.hosts_seen) < m.MAX_HOSTS else None
        self.querier.cancel(group)
        if group in self.announcer:
            self.announcer.joined(host, group, now=now)
        elif (channel := self.scheduler.channel(group) or self._resolver.resolve(group)) is not None:
            joined[group, host] = channel

    def _emptied(self, group: Group, certain: bool, now: float) -> None:
        if certain:
            self.querier.forget(group, now=now)
        else:
            self._ask(group, now)

    def _ask(self, group: Group, now: float) -> None:
        """Who does not answer is forgotten; if we cannot ask, the timers decide."""
        if self.querier.ask(group, now=now):
            self.membership.query_sent(group, now=now)

    # --- beacons ---

    def beacons(self, *, now: float) -> list[tuple[Group, bytes]]:
        """Bodies of beacons that are due, and the channels that they go to."""
        if now < self._beacon_at:
            return []
        self._beacon_at = now + BEACON_INTERVAL
        channels = self.announcer.beacon_channels(MERGING_LISTENERS)
        ahead = self.scheduler.ahead(MAX_CHANNELS) if channels else []
        body = encode_beacon(ahead)
        return [(channel, body) for channel in channels] if ahead else []

    # --- time ---

    def handle_timeout(self, *, now: float) -> None:
        self._apply(self.membership.expire(now=now), now)
        for group in self.scheduler.asks():
            self._ask(group, now)

    def next_timeout(self, now: float) -> float | None:
        """When something is due besides what `scheduler` says."""
        times = (
            self.membership.next_timeout(),
            self.querier.next_timeout(),
            self.announcer.next_timeout(),
            now if self.scheduler.asking else None,
        )
        return min((t for t in times if t is not None), default=None)


def _querier_text(event: q.Event) -> str:
    address = ipaddress.IPv6Address(event.address)
    if isinstance(event, q.OldQuerier):
        return (
            f"the querier {address} speaks MLDv1: hosts fall back to it, joins take longer and leaves are guessed; "
            "set it to MLDv2 (on a Linux bridge: ip link set BRIDGE type bridge mcast_mld_version 2)"
        )
    return f"{address} is the MLD querier of this link now"
