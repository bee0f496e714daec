"""A listener table and a sender that follows its events, as `Link` and the tables behind it do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcfs.serve.bloom import BloomMembership
from mcfs.serve.membership import (
    MAX_GROUPS_PER_HOST,
    MAX_HOSTS,
    Event,
    GroupEmpty,
    HostRefreshed,
    ListenerJoined,
    ListenerLeft,
    Membership,
)
from mcfs.serve.timedfilter import FALSE_POSITIVES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mcfs.protocol.ids import Group, Host
    from mcfs.protocol.mld import Record
    from mcfs.serve.listening import Kind

SECRET = bytes(range(32))
Table = Membership | BloomMembership


class Sender:
    """Serves whom its table says, and checks that each event is possible at its place."""

    def __init__(self, make: Callable[[Sender], Table]) -> None:
        self._served: dict[Group, set[Host]] = {}
        self.mistaken = 0
        """Joins that looked like refreshes."""
        self.table = make(self)

    @classmethod
    def of(
        cls,
        kind: Kind,
        may_accept: Callable[[Group], bool],
        own_sources: frozenset[bytes] = frozenset(),
        *,
        max_listeners: int = 4096,
        max_groups_per_host: int = MAX_GROUPS_PER_HOST,
        max_hosts: int = MAX_HOSTS,
        false_positives: float = FALSE_POSITIVES,
    ) -> Sender:
        def make(sender: Sender) -> Table:
            if kind == "exact":
                return Membership(
                    may_accept,
                    own_sources,
                    max_listeners=max_listeners,
                    max_groups_per_host=max_groups_per_host,
                    max_hosts=max_hosts,
                )
            return BloomMembership(
                may_accept,
                sender,
                own_sources,
                secret=SECRET,
                expected_listeners=max_listeners,
                false_positives=false_positives,
                max_groups_per_host=max_groups_per_host,
                max_hosts=max_hosts,
            )

        return cls(make)

    # What a table may ask

    def listeners(self, group: Group) -> frozenset[Host]:
        return frozenset(self._served.get(group, ()))

    def groups(self) -> list[tuple[Group, frozenset[Host]]]:
        return [(group, frozenset(hosts)) for group, hosts in self._served.items()]

    # What a table is told

    def __contains__(self, group: Group) -> bool:
        return group in self.table

    def report(self, host: Host, records: Sequence[Record], *, now: float) -> list[Event]:
        return self._follow(self.table.report(host, records, now=now), now)

    def report_v1(self, host: Host, group: Group, *, now: float) -> list[Event]:
        return self._follow(self.table.report_v1(host, group, now=now), now)

    def done_v1(self, host: Host, group: Group, *, now: float) -> list[Event]:
        return self._follow(self.table.done_v1(host, group, now=now), now)

    def expire(self, *, now: float) -> list[Event]:
        return self._follow(self.table.expire(now=now), now)

    def query_sent(self, group: Group, *, now: float) -> None:
        self.table.query_sent(group, now=now)

    def suppression_seen(self, *, now: float) -> None:
        self.table.suppression_seen(now=now)

    def set_timers(self, robustness: int, query_interval: float, response_interval: float) -> None:
        self.table.set_timers(robustness, query_interval, response_interval)

    def next_timeout(self) -> float | None:
        return self.table.next_timeout()

    @property
    def listening_interval(self) -> float:
        return self.table.listening_interval

    def _follow(self, events: list[Event], now: float) -> list[Event]:
        for event in events:
            match event:
                case ListenerJoined(group, host):
                    assert host not in self._served.get(group, ())
                    self._served.setdefault(group, set()).add(host)
                case HostRefreshed(host, groups):
                    for group in groups:
                        self._refreshed(host, group, now)
                case ListenerLeft(group, host):
                    self._served[group].remove(host)
                    if not self._served[group]:
                        del self._served[group]
                case GroupEmpty(group):
                    assert group not in self._served
        return events

    def _refreshed(self, host: Host, group: Group, now: float) -> None:
        if host in self._served.get(group, ()):
            return
        self.mistaken += 1
        if self.table.admit(host, group, now=now):
            self._served.setdefault(group, set()).add(host)
