"""One interface of the server: what its MLD messages mean, who listens, and what is to be sent there.

Sans-IO: messages and `now` go in; transmissions, announcements and MLD messages come out.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from mcfs.protocol import mld
from mcfs.protocol.beacon import MAX_CHANNELS, encode_beacon
from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.ids import Group, Host
from mcfs.serve import membership as m
from mcfs.serve import querier as q
from mcfs.serve.disputes import Disputes
from mcfs.serve.regulars import Newcomers, Regulars
from mcfs.serve.schedule import NOBODY
from mcfs.serve.tables import exact_table

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from mcfs.protocol.ids import ObjectRef
    from mcfs.serve.announcer import Announcer
    from mcfs.serve.carousel import Carousel
    from mcfs.serve.channel import Channel
    from mcfs.serve.listening import TableMaker
    from mcfs.serve.schedule import Scheduler
    from mcfs.serve.senders import Senders


class Resolver(Protocol):
    def resolve(self, group: bytes) -> Channel | None:
        """The channel behind a group address; None if it is none of ours."""
        ...


BEACON_INTERVAL: Final = 0.04
"""Seconds. A client's tick: a reader that is behind has to hear of a block while it is still queued, for 40 to 80 ms.
1.4 kB in each is 0.03 % of a link of 1 Gbit/s."""
MERGING_LISTENERS: Final = 2
_FIRST_RECORD: Final = 8
"""Where a report has the type of its first record. Linux does not mix answers and changes in one."""
_IS_EXCLUDE: Final = bytes((mld.RecordType.MODE_IS_EXCLUDE,))
OWN_GROUPS_INTERVAL: Final = 0.1
"""Seconds, in MLDv1 mode only: reading the list takes 0.1 ms."""
MAX_LEAVES_SAID: Final = 1024
"""Reports, of 1.5 kB at most."""
MAX_DISPUTED_TOLD: Final = 16
"""Hosts, each once: who forges must not fill the log."""
GROUPS_PER_PROXY: Final = 4096
"""What 64 hosts behind an MLD proxy (RFC 4605) hold, and all that a Linux bridge can: their memberships come in its
name."""


class Beacon(NamedTuple):
    channel: Group
    """Of the share: where it goes."""
    body: bytes
    hold: float
    """Seconds for which channels of this class are held."""


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
        senders: Senders,
        warn: Callable[[str], None],
        own_address: Host,
        make_table: TableMaker = exact_table,
        carousel: Carousel | None = None,
        proxies: bool = False,
    ) -> None:
        """With a `carousel` everything is sent whoever listens; with `proxies` any listener may be an MLD proxy, which
        stands for many hosts."""
        self.counters = LinkCounters()
        self.scheduler = scheduler
        self.announcer = announcer
        self.querier = querier
        self.senders = senders
        self.hosts_seen: set[Host] = set()
        self._newcomers = Newcomers()
        self.disputes = Disputes()
        scheduler.withheld = self.disputes.hosts
        self._told_disputed: set[Host] = set()
        self._leaves_said: dict[Host, bytes] = {}
        """By hosts that have said nothing else since."""
        self._resolver = resolver
        self._warn = warn
        self.membership = make_table(self._may_accept, self, GROUPS_PER_PROXY if proxies else m.MAX_GROUPS_PER_HOST)
        self._take_timers()
        self._own_address = own_address
        self._beacon_at = 0.0
        self._own_groups: set[Group] = set()
        self._own_groups_at: float | None = None
        self._silent: frozenset[bytes] = frozenset()
        self.carousel = carousel
        self._merging = 1 if carousel or proxies else MERGING_LISTENERS

    def _may_accept(self, group: Group) -> bool:
        # Hosts report solicited-node groups (scope 2) too; those of version 1 come here unchecked.
        if group in self.announcer or group in self.senders:
            return True
        channel = self._resolver.resolve(group)
        # A table that cannot list its groups is of no use for taking over: there nothing is kept of what others send.
        return channel is not None and (self.membership.can_list or not channel.is_only_in(self._silent))

    # --- the interface ---

    def set_addresses(self, own_address: Host, sources: frozenset[bytes], *, now: float) -> None:
        """Our link-local address there, and all addresses that data may come from. Listeners stay."""
        self._own_address = own_address
        self.membership.set_own_sources(sources)
        self.senders.set_own(own_address, now=now)
        self._share_out(now)

    def restart(self, *, now: float) -> None:
        """The link came up again, or our address is another one: query as at the start, so that hosts report."""
        self.querier.restart(self._own_address, now=now)
        self.senders.restart(now=now)
        self._take_timers()

    @property
    def regulars(self) -> Regulars:
        return self.scheduler.regulars

    # --- whom we serve: what the listener table may ask ---

    def listeners(self, group: Group) -> Collection[Host]:
        found = (table.listeners(group) for table in (self.scheduler, self.announcer, self.senders))
        return self._hosts(group, next(filter(None, found), ()))

    def groups(self) -> Iterator[tuple[Group, Collection[Host]]]:
        """Hosts: the carousel is none."""
        for group, hosts in chain(self.scheduler.groups(), self.announcer.groups(), self.senders.groups()):
            yield group, self._hosts(group, hosts)

    def _hosts(self, group: Group, listeners: Collection[Host]) -> Collection[Host]:
        """Those of whom the listener table knows."""
        left = self.disputes.hosts(group)
        if not left and not self.carousel:
            return listeners
        return [host for host in listeners if host != NOBODY and host not in left]

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
            elif kind not in (mld.ADVERTISEMENT, mld.TERMINATION):
                self.counters.bad_messages += 1
        except BadDatagram:
            self.counters.bad_messages += 1

    def _report(self, envelope: mld.Envelope, message: bytes, now: float) -> None:
        if self._leaves_said.get(envelope.source) == message:
            self.counters.reports += 1
            return
        self._new_report(envelope, message, now)
        self._note_leaves(envelope.source, message)

    def _note_leaves(self, host: Host, message: bytes) -> None:
        """Remember a report of nothing but leaves: said again, it says nothing. Who forges leaves says them thousands
        of times a second, and to look at 64 records takes four times as long as to receive them."""
        self._leaves_said.pop(host, None)
        if mld.is_of_leaves(message):
            self._leaves_said[host] = message
            if len(self._leaves_said) > MAX_LEAVES_SAID:
                del self._leaves_said[next(iter(self._leaves_said))]

    def _new_report(self, envelope: mld.Envelope, message: bytes, now: float) -> None:
        records = mld.read_report_untrusted(message, envelope)
        self.counters.reports += 1
        host = envelope.source
        if host not in self.scheduler.regulars and not self._newcomers.admit(host, now=now):
            self.membership.counters.too_many_hosts += 1
            return
        answered = message[_FIRST_RECORD : _FIRST_RECORD + 1] == _IS_EXCLUDE
        self._apply(self.membership.report(host, records, now=now), now, answered=answered)

    def _old_report(self, envelope: mld.Envelope, message: bytes, now: float) -> None:
        old = mld.parse_old_untrusted(message, envelope)
        host, group = envelope.source, Group(old.group)
        self._leaves_said.pop(host, None)
        tell = self.membership.done_v1 if old.done else self.membership.report_v1
        self._apply(tell(host, group, now=now), now)

    def _query(self, envelope: mld.Envelope, message: bytes, now: float) -> None:
        query = mld.parse_query_untrusted(message, envelope)
        for event in self.querier.query_heard(query, envelope.source, now=now):
            self._warn(_querier_text(event))
        if query.version == 1 and envelope.source != self._own_address:
            self.membership.suppression_seen(now=now)
            self._own_groups_at = self._own_groups_at or now
        if _asks_listeners(query, envelope) and envelope.source != self._own_address:
            self._query_sent(Group(query.group), now)
        self._take_timers()

    def _query_sent(self, group: Group, now: float) -> None:
        self.membership.query_sent(group, now=now)
        self.disputes.query_sent(group, now=now)

    def _take_timers(self) -> None:
        """Those that hold on the link now: other queriers come and go."""
        timers = self.querier.timers
        self.membership.set_timers(timers.robustness, timers.query_interval, timers.response_interval)

    @property
    def own_groups_due(self) -> float | None:
        """When to tell `own_groups` next; None while our host's own reports can be heard."""
        return self._own_groups_at

    def own_groups(self, groups: Iterable[Group], *, now: float) -> None:
        """What our own host listens to. In MLDv1 mode, and only then, its reports do not come back to us."""
        if not self.membership.is_suppressed(now):
            self._own_groups_at = None
            return
        self._own_groups_at = now + OWN_GROUPS_INTERVAL
        if self._own_address == NOBODY:  # the interface is down
            return
        current = {group for group in groups if mld.is_routable_group(group)}
        records = [mld.Record(mld.RecordType.MODE_IS_EXCLUDE, group) for group in current]
        records += [mld.Record(mld.RecordType.CHANGE_TO_INCLUDE_MODE, g) for g in self._own_groups - current]
        self._own_groups = current
        self._leaves_said.pop(self._own_address, None)
        self._apply(self.membership.report(self._own_address, records, now=now), now)

    def _apply(self, events: Sequence[m.Event], now: float, *, said: bool = True, answered: bool = False) -> None:
        """Tell the tables. Nodes joined in one report are asked for in the order of their object, pages first:
        the kernel reports the newest join first, which would send a file backwards."""
        joined: dict[tuple[Group, Host], Channel] = {}
        for event in events:
            match event:
                case m.ListenerJoined(group, host) if self.disputes.joined(host, group, answered=answered, now=now):
                    self.scheduler.refreshed(host, (group,), now=now)
                case m.ListenerJoined(group, host):
                    self._joined(group, host, joined, now)
                case m.HostRefreshed(host, groups):
                    for group in self.scheduler.refreshed(host, groups, now=now):
                        self._unserved(group, host, joined, now)
                case m.ListenerLeft(group, host) if group in self.senders:
                    self.senders.left(host, group, now=now)
                    self._share_out(now)
                case m.ListenerLeft(group, host) if said and self.disputes.left(host, group, now=now):
                    self._tell_disputed(host)
                    self._ask(group, now)
                case m.ListenerLeft(group, host):
                    joined.pop((group, host), None)
                    self._left(group, host, now, said=said)
                case m.GroupEmpty(group, certain):
                    self._emptied(group, certain, now)
        for (_, host), channel in sorted(joined.items(), key=lambda item: (-item[1].node.level, item[1].node.index)):
            self.scheduler.joined(host, channel, now=now)

    def _tell_disputed(self, host: Host) -> None:
        if host not in self._told_disputed and len(self._told_disputed) < MAX_DISPUTED_TOLD:
            self._told_disputed.add(host)
            address = ipaddress.IPv6Address(host)
            self._warn(f"somebody leaves groups in the name of {address}: its leaves are asked about")

    def _left(self, group: Group, host: Host, now: float, *, said: bool) -> None:
        self.counters.leaves += 1
        self.scheduler.left(host, group, now=now, said=said)
        self.announcer.left(host, group)

    def _unserved(self, group: Group, host: Host, joined: dict[tuple[Group, Host], Channel], now: float) -> None:
        """Whoever is refreshed and served by nobody joins: a false positive of a Bloom table, or one who came when
        there was no room."""
        if (group, host) in joined or host in self.announcer.listeners(group) or host in self.senders.listeners(group):
            return
        if self.membership.admit(host, group, now=now):
            self._joined(group, host, joined, now)

    def _joined(self, group: Group, host: Host, joined: dict[tuple[Group, Host], Channel], now: float) -> None:
        if group in self.senders:
            self.senders.joined(host, group, now=now)
            return
        self.counters.joins += 1
        self.hosts_seen.add(host) if len(self.hosts_seen) < m.MAX_HOSTS else None
        if not self.disputes.hosts(group):
            self.querier.cancel(group)
        if group in self.announcer:
            self.announcer.joined(host, group, now=now)
        else:
            channel = self.scheduler.channel(group) or self._resolver.resolve(group)
            if channel is not None and not channel.is_only_in(self._silent):
                joined[group, host] = channel

    def _emptied(self, group: Group, certain: bool, now: float) -> None:
        if certain:
            self.querier.forget(group, now=now)
        else:
            self._ask(group, now)

    def _ask(self, group: Group, now: float) -> None:
        """Who does not answer is forgotten; if we cannot ask, the timers decide. The time to answer in begins when the
        query goes out (`messages_to_send`): it may have to wait for many others."""
        self.querier.ask(group, now=now)

    # --- other servers ---

    def server_heard(
        self, channel: Group, address: Host, content: ObjectRef, *, time_ms: int, own_ms: int, now: float
    ) -> None:
        """Another server with our publisher's key announced, in a senders' channel, what it serves; see `Senders`."""
        self.senders.heard(channel, address, content, time_ms=time_ms, own_ms=own_ms, now=now)
        self._share_out(now)

    def _share_out(self, now: float) -> None:
        """Stop sending what another server sends, and go on with what it does not send any more."""
        silent = self.senders.silent
        if silent == self._silent:
            return
        woken = self._silent - silent
        self._silent = silent
        self.scheduler.silence(silent)
        self.membership.sync(now=now)
        self.announcer.silence(silent, now=now)
        if woken:
            self.querier.ask_all(now=now)
            self._take_over(woken, now)

    def _take_over(self, shares: frozenset[bytes], now: float) -> None:
        for group in self.membership.groups():
            channel = None if group in self.announcer or group in self.senders else self._resolver.resolve(group)
            if channel is not None and channel.shares & shares:
                for host in self.membership.listeners(group):
                    self.scheduler.joined(host, channel, now=now)

    # --- beacons ---

    def beacons(self, *, now: float) -> list[Beacon]:
        """Those that are due: one for each pace class in use, since clients of one class act on no other. What has a
        key is named only where that key is needed to read it."""
        if now < self._beacon_at:
            return []
        self._beacon_at = now + BEACON_INTERVAL
        channels = self.announcer.beacon_channels(self._merging)
        ahead = {keys: self.scheduler.ahead(MAX_CHANNELS, keys) for keys in dict.fromkeys(keys for _, keys in channels)}
        return [
            Beacon(channel, encode_beacon(named), self.scheduler.hold(pace))
            for channel, keys in channels
            for pace, named in sorted(ahead[keys].items())
        ]

    # --- time ---

    def messages_to_send(self, *, now: float) -> list[q.Outgoing]:
        """MLD messages that are due."""
        out = self.querier.messages_to_send(now=now)
        for group in filter(None, (outgoing.specific for outgoing in out)):
            self._query_sent(group, now)
        self._take_timers()
        return out

    def handle_timeout(self, *, now: float) -> None:
        self._apply(self.membership.expire(now=now), now, said=False)
        for group, host in self.disputes.expire(now=now):
            self._left(group, host, now, said=True)
        self.senders.handle_timeout(now=now)
        self._share_out(now)
        if self.carousel is not None:
            self.carousel.turn(self.scheduler, self._silent, now=now)
        for group in self.scheduler.asks():
            self._ask(group, now)

    def next_timeout(self, now: float) -> float | None:
        """When something is due besides what `scheduler` says."""
        times = (
            self.membership.next_timeout(),
            self.disputes.next_timeout(),
            self.querier.next_timeout(),
            self.announcer.next_timeout(),
            self.senders.next_timeout(),
            self._own_groups_at,
            self.carousel.next_timeout() if self.carousel else None,
            now if self.scheduler.asking else None,
        )
        return min((t for t in times if t is not None), default=None)


def _asks_listeners(query: mld.Query, envelope: mld.Envelope) -> bool:
    """Whether those who listen to the group have to answer (RFC 9777 section 7.6.1): a query for a group that did not
    go to the group, but to routers, say, was not heard by them."""
    return envelope.destination == query.group and not query.suppress and not query.sources


def _querier_text(event: q.Event) -> str:
    address = ipaddress.IPv6Address(event.address)
    if isinstance(event, q.OldQuerier):
        return (
            f"the querier {address} speaks MLDv1: hosts fall back to it, joins take longer and leaves are guessed; "
            "set it to MLDv2 (on a Linux bridge: ip link set BRIDGE type bridge mcast_mld_version 2)"
        )
    return f"{address} is the MLD querier of this link now"
