"""Who listens to what on one interface: the router side of MLD (RFC 9777 section 7), without sockets or clocks.

MLDv2 has no report suppression, so every listener is known by its address and the leave of the last one is known when
it happens. That is what this table keeps, and more than RFC 9777 asks of a router: a timer per host *and* group.

What a record says (RFC 9777 section 5.2), with `own` for the addresses that this server sends from:

==================  ===============================  ===========================
type                the host then listens to         listening if
==================  ===============================  ===========================
IS_EX(S) TO_EX(S)   everything but S                 own is not all in S
IS_IN(S) TO_IN(S)   S                                own and S meet
ALLOW(S)            what it did, and S               it did, or own and S meet
BLOCK(S)            what it did, without S           it did, to more than S
==================  ===============================  ===========================

Nearly every record is TO_EX({}), "join", or TO_IN({}), "leave"; they take the short way.

*Doubt.* MLDv1 hosts do suppress their reports, so while one was heard within the listening interval, a leave that
empties a group proves nothing. The group is then kept without listeners ("in doubt"), `GroupEmpty(certain=False)`
tells the caller to ask, and sooner or later either `ListenerJoined` or `GroupEmpty(certain=True)` follows.

*Timers.* A refresh must be cheap (a busy link makes 250,000 a second), so it only writes the deadline. Listeners wait
in buckets of a coarse timer wheel; a bucket that comes due expires those whose deadline has passed and moves the
others on. Each listener is in exactly one bucket, so a leave takes it out and churn leaves nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from mcfs.protocol.ids import Group, Host
from mcfs.protocol.mld import UNSPECIFIED, Record, RecordType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mcfs.protocol.mld import RawRecord

MAX_GROUPS_PER_HOST: Final = 256
"""Four times what a client holds; beyond this the kernel of a host itself slows down, by 5 us for each packet."""
MAX_HOSTS: Final = 4096
"""More than one link holds in practice."""
MAX_LISTENERS: Final = MAX_HOSTS * 64
"""As many hosts, each with what a client holds: 125 MB. Both other limits together would allow 500 MB."""

ROBUSTNESS: Final = 2
QUERY_INTERVAL: Final = 30.0
"""Shorter than the 125 s of RFC 9777 section 9: a host that was unplugged is forgotten after a minute."""
RESPONSE_INTERVAL: Final = 1.0

LAST_LISTENER_QUERY_INTERVAL: Final = 0.2
"""Linux spreads its answers over the maximum response code: with 200 ms, all came within 183 ms."""
LAST_LISTENER_QUERY_TIME: Final = ROBUSTNESS * LAST_LISTENER_QUERY_INTERVAL + 0.1
"""RFC 9777 section 9, and 100 ms for the answer to the last query to reach us."""
DOUBT_TIME: Final = 2.0
"""How long a group in doubt is kept if no query is sent: the querier may be another router, and slower."""

_TICK: Final = 1 / 16
"""How late an expiry may be. A power of two, so that division by it is exact."""

_ANY: Final = frozenset((b"any",))
"""Stands for "all our addresses" in `_Listener.wanted`, whichever they are."""
_NONE: Final[frozenset[bytes]] = frozenset()
_PLAIN: Final = (None, _NONE, _ANY, _NONE, _ANY, None, None)
"""What a record without sources makes of `wanted`, by its type; None changes nothing."""


@dataclass(frozen=True, slots=True)
class ListenerJoined:
    """The host did not listen to the group before."""

    group: Group
    host: Host


@dataclass(frozen=True, slots=True)
class HostRefreshed:
    """The host says again that it listens to these: an answer to a query, or the second copy of a report. One event for
    a report, its last."""

    host: Host
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class ListenerLeft:
    """The host said that it left, or has not been heard for the listening interval."""

    group: Group
    host: Host


@dataclass(frozen=True, slots=True)
class GroupEmpty:
    """Nobody known listens any more. Unless `certain` somebody unknown may: send specific queries."""

    group: Group
    certain: bool


Event = ListenerJoined | HostRefreshed | ListenerLeft | GroupEmpty


@dataclass(slots=True)
class Counters:
    """What was ignored, in records; `too_many_hosts` in reports."""

    foreign: int = 0
    too_many_groups: int = 0
    too_many_listeners: int = 0
    too_many_hosts: int = 0

    @property
    def refused(self) -> int:
        """Everything that was not taken."""
        return self.foreign + self.too_many_groups + self.too_many_listeners + self.too_many_hosts


class _Listener:
    """One host in one group. `wanted` is `_ANY` or those of our addresses that it listens to, never empty."""

    __slots__ = ("deadline", "group", "host", "tick", "wanted")

    def __init__(self, host: Host, group: Group, deadline: float, wanted: frozenset[bytes]) -> None:
        self.host = host
        self.group = group
        self.deadline = deadline
        self.wanted = wanted
        self.tick = 0


class _Wheel:
    """Listeners in buckets by the tick that follows their deadline as it was when they were put there."""

    __slots__ = ("_buckets", "_ticks")

    def __init__(self) -> None:
        self._buckets: dict[int, set[_Listener]] = {}
        self._ticks: list[int] = []

    def add(self, listener: _Listener) -> None:
        tick = int(listener.deadline / _TICK) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = set()
            heappush(self._ticks, tick)
        bucket.add(listener)
        listener.tick = tick

    def remove(self, listener: _Listener) -> None:
        self._buckets[listener.tick].discard(listener)

    def pop_due(self, now: float) -> Iterator[_Listener]:
        """Take out those whose deadline has passed. A bucket must not be changed from outside meanwhile."""
        while self._ticks and self._ticks[0] * _TICK <= now:
            for listener in self._buckets.pop(heappop(self._ticks)):
                if listener.deadline > now:
                    self.add(listener)
                else:
                    yield listener

    def next_timeout(self) -> float | None:
        while self._ticks and not self._buckets[self._ticks[0]]:
            del self._buckets[heappop(self._ticks)]
        return self._ticks[0] * _TICK if self._ticks else None


class Membership:
    """The listeners on one interface.

    :param may_accept: whether a group is one of ours; asked once per record about groups that nobody listens to
    :param own_sources: the addresses that we send data from; if empty, source lists that exclude are ignored
    """

    def __init__(
        self,
        may_accept: Callable[[Group], bool],
        own_sources: frozenset[bytes] = frozenset(),
        *,
        max_groups_per_host: int = MAX_GROUPS_PER_HOST,
        max_hosts: int = MAX_HOSTS,
        max_listeners: int = MAX_LISTENERS,
    ) -> None:
        self.counters = Counters()
        self._may_accept = may_accept
        self._own_sources = own_sources
        self._max_groups = max_groups_per_host
        self._max_hosts = max_hosts
        self._max_listeners = max_listeners
        self._listening_interval = 0.0
        self.set_timers(ROBUSTNESS, QUERY_INTERVAL, RESPONSE_INTERVAL)
        # A listener is in three places, or in none: under its host, in its group, and in the wheel.
        self._hosts: dict[Host, dict[Group, _Listener]] = {}
        self._groups: dict[Group, set[_Listener]] = {}
        self._listener_count = 0
        self._wheel = _Wheel()
        # Groups in doubt, each with a listener that nobody has named: it is in the wheel but in no other table.
        self._doubts: dict[Group, _Listener] = {}
        self._suppression_until = float("-inf")

    # What is known

    def __contains__(self, group: object) -> bool:
        return group in self._groups

    def __len__(self) -> int:
        """How many groups have a listener, or are in doubt."""
        return len(self._groups)

    @property
    def host_count(self) -> int:
        return len(self._hosts)

    @property
    def listener_count(self) -> int:
        """Pairs of a host and a group."""
        return self._listener_count

    @property
    def listening_interval(self) -> float:
        """How long a host is believed to listen after its last report (RFC 9777 section 9)."""
        return self._listening_interval

    @property
    def can_list(self) -> bool:
        return True

    def sync(self, *, now: float) -> None:
        """Nothing: this table knows by itself."""

    def groups(self) -> list[Group]:
        """Those that somebody listens to."""
        return [group for group, listeners in self._groups.items() if listeners]

    def listeners(self, group: Group) -> frozenset[Host]:
        return frozenset(listener.host for listener in self._groups.get(group, ()))

    # What is told

    def set_timers(self, robustness: int, query_interval: float, response_interval: float) -> None:
        """Take over the querier's variables, in seconds; running timers keep their deadlines."""
        self._listening_interval = robustness * query_interval + response_interval

    def set_own_sources(self, own_sources: frozenset[bytes]) -> None:
        """Our addresses have changed. Hosts with source lists are judged by them from their next report on."""
        self._own_sources = own_sources

    def report(self, host: Host, records: Iterable[RawRecord], *, now: float) -> list[Event]:
        """A version 2 report came from `host`."""
        mine = self._hosts.get(host)
        if mine is None:
            if len(self._hosts) >= self._max_hosts:
                self.counters.too_many_hosts += 1
                return []
            mine = self._hosts[host] = {}
        events: list[Event] = []
        refreshed = []
        deadline = now + self._listening_interval
        certain = now >= self._suppression_until
        for kind, group, sources in records:
            known = mine.get(group)
            wanted = self._wanted(kind, sources, known) if sources else _PLAIN[kind]
            if wanted is None:
                continue
            if not wanted:
                if known is not None:
                    del mine[group]
                    self._left(known, events, certain=certain, now=now)
            elif known is None:
                self._joined(mine, _Listener(host, group, deadline, wanted), events)
            else:
                known.deadline = deadline
                known.wanted = wanted
                refreshed.append(group)
        if refreshed:
            events.append(HostRefreshed(host, tuple(refreshed)))
        if not mine:
            del self._hosts[host]
        return events

    def admit(self, host: Host, group: Group, *, now: float) -> bool:
        """Somebody was refreshed whom the sender does not know, as it could not serve it when it joined: it may now."""
        return group in self._hosts.get(host, ())

    def report_v1(self, host: Host, group: Group, *, now: float) -> list[Event]:
        """A version 1 report came: from now on other hosts may listen without a word."""
        self.suppression_seen(now=now)
        return self.report(host, (Record(RecordType.MODE_IS_EXCLUDE, group),), now=now)

    def done_v1(self, host: Host, group: Group, *, now: float) -> list[Event]:
        """A version 1 done came. From a host that was never heard, as others suppressed it, it says nothing new."""
        self.suppression_seen(now=now)
        return self.report(host, (Record(RecordType.CHANGE_TO_INCLUDE_MODE, group),), now=now)

    def suppression_seen(self, *, now: float) -> None:
        """A version 1 message was heard, of a host or of a querier: trust no leave for a listening interval."""
        self._suppression_until = now + self._listening_interval

    def is_suppressed(self, now: float) -> bool:
        """Whether hosts may keep their reports to themselves, as in version 1."""
        return now < self._suppression_until

    def query_sent(self, group: Group, *, now: float) -> None:
        """A specific query went out, ours or the querier's: who does not answer it is gone (RFC 9777 section 7)."""
        deadline = now + LAST_LISTENER_QUERY_TIME
        for listener in self._groups.get(group, ()):
            self._lower(listener, deadline)
        if group in self._doubts:
            self._lower(self._doubts[group], deadline)

    # Time

    def expire(self, *, now: float) -> list[Event]:
        """Drop those who have not been heard for too long, and groups that stayed in doubt."""
        events: list[Event] = []
        for listener in self._wheel.pop_due(now):
            if self._doubts.get(listener.group) is listener:
                del self._doubts[listener.group]
                self._empty(listener.group, events)
            else:
                self._forget_host(listener)
                self._expired(listener, events)
        return events

    def next_timeout(self) -> float | None:
        """When to call `expire` next: at most 1/16 s after a deadline; for nothing, if those due were refreshed."""
        return self._wheel.next_timeout()

    # Changes. Each keeps the three places of a listener together.

    def _joined(self, mine: dict[Group, _Listener], listener: _Listener, events: list[Event]) -> None:
        group = listener.group
        others = self._groups.get(group)
        if others is None and not self._may_accept(group):
            self.counters.foreign += 1
            return
        if len(mine) >= self._max_groups:
            self.counters.too_many_groups += 1
            return
        if self._listener_count >= self._max_listeners:
            self.counters.too_many_listeners += 1
            return
        self._listener_count += 1
        if others is None:
            others = self._groups[group] = set()
        elif not others:
            self._wheel.remove(self._doubts.pop(group))
        mine[group] = listener
        others.add(listener)
        self._wheel.add(listener)
        events.append(ListenerJoined(group, listener.host))

    def _left(self, listener: _Listener, events: list[Event], *, certain: bool, now: float) -> None:
        self._wheel.remove(listener)
        group = listener.group
        others = self._groups[group]
        others.remove(listener)
        self._listener_count -= 1
        events.append(ListenerLeft(group, listener.host))
        if others:
            return
        if certain:
            self._empty(group, events)
        else:
            self._doubt(group, events, now=now)

    def _expired(self, listener: _Listener, events: list[Event]) -> None:
        others = self._groups[listener.group]
        others.remove(listener)
        self._listener_count -= 1
        events.append(ListenerLeft(listener.group, listener.host))
        if not others:
            self._empty(listener.group, events)

    def _forget_host(self, listener: _Listener) -> None:
        mine = self._hosts[listener.host]
        del mine[listener.group]
        if not mine:
            del self._hosts[listener.host]

    def _empty(self, group: Group, events: list[Event]) -> None:
        del self._groups[group]
        events.append(GroupEmpty(group, certain=True))

    def _doubt(self, group: Group, events: list[Event], *, now: float) -> None:
        nobody = _Listener(Host(UNSPECIFIED), group, now + DOUBT_TIME, _ANY)
        self._doubts[group] = nobody
        self._wheel.add(nobody)
        events.append(GroupEmpty(group, certain=False))

    def _lower(self, listener: _Listener, deadline: float) -> None:
        if listener.deadline > deadline:
            self._wheel.remove(listener)
            listener.deadline = deadline
            self._wheel.add(listener)

    def _wanted(self, kind: int, sources: tuple[bytes, ...], known: _Listener | None) -> frozenset[bytes] | None:
        """Which of our addresses the host listens to after this record; None if the record does not concern us."""
        own = self._own_sources
        if kind in (RecordType.MODE_IS_EXCLUDE, RecordType.CHANGE_TO_EXCLUDE_MODE):
            return _without(_ANY, sources, own)
        if kind in (RecordType.MODE_IS_INCLUDE, RecordType.CHANGE_TO_INCLUDE_MODE):
            return own.intersection(sources)
        if own.isdisjoint(sources):
            return None
        before = known.wanted if known is not None else _NONE
        if kind == RecordType.BLOCK_OLD_SOURCES:
            return _without(before, sources, own)
        return before if before is _ANY else before | own.intersection(sources)


def _without(wanted: frozenset[bytes], sources: tuple[bytes, ...], own: frozenset[bytes]) -> frozenset[bytes]:
    if wanted is _ANY:
        return _ANY if own.isdisjoint(sources) else own.difference(sources)
    return wanted.difference(sources)
