"""Who listens to what, in a table of a fixed size: `Membership`'s place taken by a Bloom filter with timers.

What `membership` says of records, doubt and timers holds here too. A report costs a dozen numpy calls however many
groups and hosts there are, and memory is what `timedfilter` takes for the listeners that the table is made for. What
the filter cannot do, the sender's own tables do, as far as they must (`listening.Known`):

- *Listing.* Nobody can be listed from a filter, so `expire` takes all whom the sender serves and tests them at once.
  That takes 1 to 2 us for each; so after a sweep the next is not before 50 us for each, and expiries may be so late.
- *Empty groups.* The sender knows who else listens. (A second filter that counts by group would be wrong at times.)
- *False positives.* One who joins may look like one who refreshes. The sender does not know it, and then calls `admit`.
- *Leaves.* Only a pair that is both in the filter and served is taken out. Otherwise a host could, with leaves of what
  it never joined, wear down the counts of others: one in a thousand would hit. So each pair is counted exactly once
  while it is served, no count falls below what it stands for, and nobody is ever lost.
- *Specific queries.* A slot's deadline cannot be lowered for one pair. So the groups asked for are noted, a bounded
  number for half a second each; then those are dropped whose deadline shows that they have not reported since.

Further differences to the exact table: only the last record for a group counts in a report, which listens or does not;
BLOCK of some of our addresses but not all leaves a listener as it is, as we do not know which it listened to; a second
query within half a second does not count anew; one who reported within 1/16 s before a query has answered it.

A flood of reports about groups that are none of ours hits by chance now and then, and then keeps some slots alive. In
a full table that can delay expiry; the sender then asks, and a specific query is not fooled by it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from mcfs.protocol.mld import Record, RecordType
from mcfs.serve.listening import DEFAULT_LISTENERS
from mcfs.serve.membership import (
    DOUBT_TIME,
    LAST_LISTENER_QUERY_TIME,
    MAX_GROUPS_PER_HOST,
    MAX_HOSTS,
    QUERY_INTERVAL,
    RESPONSE_INTERVAL,
    ROBUSTNESS,
    Counters,
    Event,
    GroupEmpty,
    HostRefreshed,
    ListenerJoined,
    ListenerLeft,
)
from mcfs.serve.timedfilter import FALSE_POSITIVES, TimedFilter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from mcfs.protocol.ids import Group, Host
    from mcfs.protocol.mld import RawRecord
    from mcfs.serve.listening import Known
    from mcfs.serve.timedfilter import Positions

MAX_ASKED: Final = 4096
"""Groups in doubt, and groups that a query was sent for: as many as the querier lets wait."""
SWEEP_GAP: Final = 50e-6
"""Seconds for each listener from one sweep to the next: so sweeps take 4 % of the time at most."""

_TICKS_PER_SECOND: Final = 16
_LAST_TICK: Final = 2**32 - 1
_NEVER: Final = float("inf")
_PLAIN: Final = (None, False, True, False, True, None, None)
"""Whether a host listens after a record without sources, by its type; None changes nothing."""


class _Ask(NamedTuple):
    due: float
    asked: float
    answered: int
    """The tick that the deadline of one who has reported since reaches at least."""
    in_doubt: bool


class BloomMembership:
    """The listeners on one interface. `may_accept` and `own_sources` are as in `Membership`.

    :param known: whom the caller serves; it must have applied all events of one call before it makes the next
    :param secret: 32 random bytes, new for each process
    :param expected_listeners: how many pairs of a host and a group there may be; more are refused
    :param false_positives: how often one who joins looks like one who refreshes, when there are so many
    """

    def __init__(
        self,
        may_accept: Callable[[Group], bool],
        known: Known,
        own_sources: frozenset[bytes] = frozenset(),
        *,
        secret: bytes,
        expected_listeners: int = DEFAULT_LISTENERS,
        false_positives: float = FALSE_POSITIVES,
        max_groups_per_host: int = MAX_GROUPS_PER_HOST,
        max_hosts: int = MAX_HOSTS,
    ) -> None:
        self.counters = Counters()
        self._may_accept = may_accept
        self._known = known
        self._own_sources = own_sources
        self._max_groups = max_groups_per_host
        self._max_hosts = max_hosts
        self._max_listeners = expected_listeners
        self._filter = TimedFilter(expected_listeners, secret, false_positives)
        self._listening_interval = 0.0
        # Both in the order in which they come due.
        self._asks: dict[Group, _Ask] = {}
        self._doubts: dict[Group, float] = {}
        self._hosts: Counter[Host] = Counter()
        """How many groups each host has: bounded by the number of hosts."""
        self._listener_count = 0
        self._sweep_at = _NEVER
        self._suppression_until = float("-inf")
        self.set_timers(ROBUSTNESS, QUERY_INTERVAL, RESPONSE_INTERVAL)

    # What is known

    def __contains__(self, group: Group) -> bool:
        asked = self._asks.get(group)
        return bool(self._known.listeners(group)) or group in self._doubts or (asked is not None and asked.in_doubt)

    @property
    def host_count(self) -> int:
        return len(self._hosts)

    @property
    def listener_count(self) -> int:
        """Pairs of a host and a group."""
        return self._listener_count

    @property
    def listening_interval(self) -> float:
        return self._listening_interval

    @property
    def can_list(self) -> bool:
        return False

    def sync(self, *, now: float) -> None:
        """The sender has dropped listeners by itself: make the filter anew from those that it serves."""
        self._sweep_at = now

    def groups(self) -> list[Group]:
        """None: a filter cannot list. Who takes over asks all, and serves those who answer."""
        return []

    def listeners(self, group: Group) -> Collection[Host]:
        return self._known.listeners(group)

    def is_suppressed(self, now: float) -> bool:
        """Whether hosts may keep their reports to themselves, as in version 1."""
        return now < self._suppression_until

    @property
    def nbytes(self) -> int:
        """Of the filter: the only part whose size matters."""
        return self._filter.nbytes

    # What is told

    def set_timers(self, robustness: int, query_interval: float, response_interval: float) -> None:
        """Take over the querier's variables, in seconds; running timers keep their deadlines."""
        interval = robustness * query_interval + response_interval
        if interval < self._listening_interval:  # who answers now gets an earlier deadline than was expected
            self._asks = {
                group: ask._replace(answered=min(ask.answered, _tick(ask.asked + interval)))
                for group, ask in self._asks.items()
            }
        self._listening_interval = interval

    def set_own_sources(self, own_sources: frozenset[bytes]) -> None:
        """Our addresses have changed. Hosts with source lists are judged by them from their next report on."""
        self._own_sources = own_sources

    def report(self, host: Host, records: Iterable[RawRecord], *, now: float) -> list[Event]:
        """A version 2 report came from `host`."""
        wanted: dict[Group, bool] = {}
        for kind, group, sources in records:
            listens = self._listens(kind, sources, host, group) if sources else _PLAIN[kind]
            if listens is not None:
                wanted[group] = listens
        if not wanted:
            return []
        groups = list(wanted)
        positions = self._filter.positions(host, groups)
        present = self._filter.present(positions)
        if present.all() and all(wanted.values()):
            self._refresh(positions, now)
            return [HostRefreshed(host, tuple(groups))]
        return self._changed(host, wanted, positions, present.tolist(), now)

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

    def query_sent(self, group: Group, *, now: float) -> None:
        """A specific query went out, ours or the querier's: who does not answer it is gone (RFC 9777 section 7).

        One that goes out before `expire` has looked at the answers to the last one has no effect.
        """
        if group in self._asks or len(self._asks) >= MAX_ASKED:
            return
        in_doubt = self._doubts.pop(group, None) is not None
        if in_doubt or self._known.listeners(group):
            answered = _tick(now + self._listening_interval)
            self._asks[group] = _Ask(now + LAST_LISTENER_QUERY_TIME, now, answered, in_doubt)

    def admit(self, host: Host, group: Group, *, now: float) -> bool:
        """A false positive: the host was not in the filter, and is from now on if it may."""
        if not self._may_join(host, group):
            return False
        self._filter.add(self._filter.positions(host, (group,)), self._deadline(now))
        return True

    # Time

    def expire(self, *, now: float) -> list[Event]:
        """Drop those who have not been heard for too long, and groups that stayed in doubt."""
        events: list[Event] = []
        while self._asks and (ask := next(iter(self._asks.items())))[1].due <= now:
            del self._asks[ask[0]]
            self._decide(*ask, events)
        while self._doubts and (doubt := next(iter(self._doubts.items())))[1] <= now:
            del self._doubts[doubt[0]]
            events.append(GroupEmpty(doubt[0], certain=True))
        if self._sweep_at <= now:
            gone = {(event.group, event.host) for event in events if isinstance(event, ListenerLeft)}
            self._sweep(gone, events, now)
        return events

    def next_timeout(self) -> float | None:
        """When to call `expire` next; for nothing, if those due were refreshed."""
        due = self._sweep_at if self._listener_count else _NEVER
        if self._asks:
            due = min(due, next(iter(self._asks.values())).due)
        if self._doubts:
            due = min(due, next(iter(self._doubts.values())))
        return due if due < _NEVER else None

    # Changes

    def _changed(
        self, host: Host, wanted: dict[Group, bool], positions: Positions, present: list[bool], now: float
    ) -> list[Event]:
        events: list[Event] = []
        groups = list(wanted)
        joined, refreshed, left = [], [], []
        for row, (group, listens) in enumerate(wanted.items()):
            if not listens:
                if present[row] and host in self._known.listeners(group):
                    left.append(row)
                    self._left(host, group, events, now)
            elif present[row]:
                refreshed.append(row)
            elif self._may_join(host, group):
                joined.append(row)
                events.append(ListenerJoined(group, host))
        if left:
            self._filter.remove(positions[left])
        if joined:
            self._filter.add(positions[joined], self._deadline(now))
        if refreshed:
            self._refresh(positions[refreshed], now)
            events.append(HostRefreshed(host, tuple([groups[row] for row in refreshed])))
        return events

    def _refresh(self, positions: Positions, now: float) -> None:
        self._filter.refresh(positions, self._deadline(now))

    def _deadline(self, now: float) -> int:
        deadline = now + self._listening_interval
        self._sweep_at = min(self._sweep_at, deadline)
        return _tick(deadline)

    def _may_join(self, host: Host, group: Group) -> bool:
        """Whether there is room; then it is counted."""
        if not self._may_accept(group):
            self.counters.foreign += 1
        elif host not in self._hosts and len(self._hosts) >= self._max_hosts:
            self.counters.too_many_hosts += 1
        elif self._hosts[host] >= self._max_groups:
            self.counters.too_many_groups += 1
        elif self._listener_count >= self._max_listeners:
            self.counters.too_many_listeners += 1
        else:
            self._hosts[host] += 1
            self._listener_count += 1
            self._settle(group)
            return True
        return False

    def _left(self, host: Host, group: Group, events: list[Event], now: float) -> None:
        self._uncount(host)
        events.append(ListenerLeft(group, host))
        if len(self._known.listeners(group)) > 1:
            return
        certain = now >= self._suppression_until
        self._settle(group)
        if not certain and len(self._doubts) < MAX_ASKED:
            self._doubts[group] = now + DOUBT_TIME
        events.append(GroupEmpty(group, certain=certain or group not in self._doubts))

    def _uncount(self, host: Host) -> None:
        self._listener_count -= 1
        self._hosts[host] -= 1
        if self._hosts[host] <= 0:
            del self._hosts[host]

    def _settle(self, group: Group) -> None:
        """There is no doubt about the group: somebody listens, or nobody."""
        self._doubts.pop(group, None)
        ask = self._asks.get(group)
        if ask is not None and ask.in_doubt:
            del self._asks[group]

    # Expiry

    def _decide(self, group: Group, ask: _Ask, events: list[Event]) -> None:
        """Those who have not answered leave."""
        hosts = list(self._known.listeners(group))
        silent = 0
        for host in hosts:
            positions = self._filter.positions(host, (group,))
            if int(self._filter.deadlines(positions)[0]) < ask.answered:
                silent += 1
                if self._filter.present(positions).all():
                    self._filter.remove(positions)
                    self._uncount(host)
                events.append(ListenerLeft(group, host))
        if silent == len(hosts) and (hosts or ask.in_doubt):
            events.append(GroupEmpty(group, certain=True))

    def _sweep(self, gone: Collection[tuple[Group, Host]], events: list[Event], now: float) -> None:
        """Test all whom the sender serves, but those who have just gone."""
        groups = [(group, [h for h in hosts if (group, h) not in gone]) for group, hosts in self._known.groups()]
        by_host: dict[Host, list[Group]] = {}
        for group, hosts in groups:
            for host in hosts:
                by_host.setdefault(host, []).append(group)
        kept, dead, earliest = self._test(by_host, now)
        self._keep(by_host, kept, dead)
        for group, hosts in groups:
            silent = [host for host in hosts if (group, host) in dead]
            events.extend(ListenerLeft(group, host) for host in silent)
            if silent and len(silent) == len(hosts):
                events.append(GroupEmpty(group, certain=True))
        self._sweep_at = max(earliest, now + SWEEP_GAP * self._listener_count)

    def _test(
        self, by_host: dict[Host, list[Group]], now: float
    ) -> tuple[list[Positions], dict[tuple[Group, Host], Positions], float]:
        """Positions of those who stay and of those who do not, and the earliest deadline of those who stay."""
        kept, dead, earliest = [], {}, _LAST_TICK
        for host, groups in by_host.items():
            positions = self._filter.positions(host, groups)
            deadlines = self._filter.deadlines(positions)
            alive = deadlines > int(now * _TICKS_PER_SECOND)
            if alive.all():
                kept.append(positions)
            else:
                dead.update({(groups[row], host): positions[row] for row in np.flatnonzero(~alive).tolist()})
                kept.append(positions[alive])
            earliest = min(earliest, int(deadlines[alive].min(initial=_LAST_TICK)))
        return kept, dead, earliest / _TICKS_PER_SECOND if earliest < _LAST_TICK else _NEVER

    def _keep(
        self, by_host: dict[Host, list[Group]], kept: list[Positions], dead: dict[tuple[Group, Host], Positions]
    ) -> None:
        """Take the dead out, and what the sender never served (it has limits of its own)."""
        served = sum(map(len, by_host.values()))
        if served != self._listener_count:
            self._filter.rebuild(np.concatenate(kept) if kept else np.empty(0, np.intp))
            self._hosts = Counter({host: len(groups) for host, groups in by_host.items()})
            self._listener_count = served
        elif dead:
            self._filter.remove(np.stack(list(dead.values())))
        for _, host in dead:
            self._uncount(host)

    def _listens(self, kind: int, sources: tuple[bytes, ...], host: Host, group: Group) -> bool | None:
        """Whether the host listens after a record with sources; None if that does not concern us."""
        own = self._own_sources
        if kind in (RecordType.MODE_IS_EXCLUDE, RecordType.CHANGE_TO_EXCLUDE_MODE):
            return not own or not own.issubset(sources)
        if kind in (RecordType.MODE_IS_INCLUDE, RecordType.CHANGE_TO_INCLUDE_MODE):
            return not own.isdisjoint(sources)
        if own.isdisjoint(sources):
            return None
        if kind == RecordType.ALLOW_NEW_SOURCES:
            return True
        if own.issubset(sources):
            return False
        return True if host in self._known.listeners(group) else None


def _tick(seconds: float) -> int:
    """The first tick after this time."""
    return min(_LAST_TICK, int(seconds * _TICKS_PER_SECOND) + 1)
