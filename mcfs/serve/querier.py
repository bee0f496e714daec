"""When to query, and who does: the querier of RFC 9777 section 7 and the advertiser of RFC 4286, without sockets.

Why a file server does this at all: snooping switches send reports only to ports where they saw a router, and keep what
they learn only while somebody queries. Advertisements make our port a router port whoever queries; queries, if nobody
else sends them, make switches prune and make the listeners that we lost track of answer.

::

    mode "on"                  mode "auto"                                          mode "off"

    +---------+    +---------+   query from a lower address    +-------------+    +-------------+
    | QUERIER |    | QUERIER | ------------------------------> | NON-QUERIER |    | NON-QUERIER |
    +---------+    +---------+                                 +-------------+    +-------------+
                       ^        other-querier-present timeout         |
                       +----------------------------------------------+

A querier sends three general queries a second apart and then one every query interval, and specific queries when
asked. A non-querier sends none, and takes over the variables of the querier that it hears. Both advertise.

*Specific queries* serve two ends. `ask`: is anybody left? Two queries, so that the loss of one decides nothing.
`forget`: nobody is left, tell the switches; one query, without which a default bridge keeps the entry for 260 s and
gives up snooping when it has 4,096. They pass a token bucket, and what waits for it is bounded.

*An MLDv1 querier* (the default of the Linux bridge's own) silences MLDv2 on its link: hosts fall back, and their joins
are no longer sent to routers. A querier of a lower address ends that at once. One of a higher address can only report
it, once for each such querier: the remedy is in the hands of whoever runs it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from mcfs.protocol.ids import Group
from mcfs.protocol.mld import (
    ALL_NODES,
    ALL_SNOOPERS,
    UNSPECIFIED,
    Advertisement,
    Query,
    Termination,
    build_query,
    build_router_discovery,
)
from mcfs.serve.membership import LAST_LISTENER_QUERY_INTERVAL, QUERY_INTERVAL, RESPONSE_INTERVAL, ROBUSTNESS

if TYPE_CHECKING:
    from random import Random

    from mcfs.protocol.ids import Host

Mode = Literal["auto", "on", "off"]

STARTUP_QUERIES: Final = 3
STARTUP_QUERY_INTERVAL: Final = 1.0
"""RFC 9777 section 9 has a quarter of the query interval; a second brings a mounted client's groups to us sooner."""
DEFAULT_QUERY_INTERVAL: Final = 125.0
"""RFC 9777 section 9: what a querier means that does not say, which all of version 1 do not."""

MIN_QUERY_INTERVAL: Final = 5
MAX_QUERY_INTERVAL: Final = 600
MIN_ADOPTED_ROBUSTNESS: Final = 2
"""What may be asked of us, and what we take over of others. A forged query can make us forget listeners early, or keep
dead ones: for no more than this. To remember longer than the querier does is harmless."""

MAX_OTHER_QUERIER: Final = 600.0
"""Seconds without a query of the other querier, whatever it says of its interval, after which we query: one that is
forged could else silence us for over an hour. RFC 9777 section 9 has 255 s; where a querier is so much slower, a query
of ours comes in between, and then it is heard again."""

ADVERTISEMENT_INTERVAL: Final = 20
ADVERTISEMENT_JITTER: Final = 0.025 * ADVERTISEMENT_INTERVAL
INITIAL_ADVERTISEMENTS: Final = 3
MAX_INITIAL_ADVERTISEMENT_INTERVAL: Final = 2.0
MAX_RESPONSE_DELAY: Final = 2.0
"""RFC 4286 sections 3.1 and 3.3; the first advertisement goes at once, or the first reports would not reach us."""
MIN_ADVERTISEMENT_GAP: Final = 1.0
"""However many solicitations come. RFC 4286 section 3.1.6 allows ten messages a second."""

SPECIFIC_QUERY_RATE: Final = 4000.0
"""Per second: readers leave as many of the smallest blocks, 64 KiB, when they are sent 2 Gbit/s. 2.9 Mbit/s of queries.
At 500, one reader of 64 KiB blocks filled a default bridge's table within 8 s."""
SPECIFIC_QUERY_BATCH: Final = 16
"""As many are waited for when tokens are short, 4 ms: not each is worth a wake-up."""
SPECIFIC_QUERY_BURST: Final = 64.0
"""What a client holds by default, and leaves when it is killed."""
MAX_WAITING: Final = 4096
"""A Linux bridge holds no more groups than this, so more need not be forgotten."""
MAX_QUERIERS_TOLD: Final = 16
"""How many are remembered as reported, of each kind. More than one is a rarity, and addresses can be forged: whoever
queries from ever new ones must not fill the log."""


@dataclass(frozen=True, slots=True)
class OldQuerier:
    """A querier of this address speaks MLDv1. Told once per address."""

    address: Host


@dataclass(frozen=True, slots=True)
class OtherQuerier:
    """The router of this address is the querier from now on, as far as we know. Told once per address."""

    address: Host


Event = OldQuerier | OtherQuerier


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An ICMPv6 message to send from our link-local address. A specific query goes to its group."""

    destination: bytes
    message: bytes

    @property
    def specific(self) -> Group | None:
        """The group that this asks for, if it is a specific query."""
        return Group(self.destination) if self.destination not in (ALL_NODES, ALL_SNOOPERS) else None


@dataclass(frozen=True, slots=True)
class Timers:
    """The variables of RFC 9777 section 9 that the querier sets for all; in seconds. `Membership.set_timers` wants
    them."""

    robustness: int = ROBUSTNESS
    query_interval: float = QUERY_INTERVAL
    response_interval: float = RESPONSE_INTERVAL

    @property
    def other_querier_present(self) -> float:
        return min(self.robustness * self.query_interval + self.response_interval / 2, MAX_OTHER_QUERIER)


@dataclass(slots=True)
class Counters:
    """`dropped`: specific queries that found the queue full."""

    general: int = 0
    specific: int = 0
    dropped: int = 0


class Querier:
    """The querier on one interface.

    :param address: our link-local address there; the lowest on the link is elected
    :param rng: for the jitter of advertisements
    """

    def __init__(
        self,
        address: Host,
        *,
        now: float,
        rng: Random,
        mode: Mode = "auto",
        timers: Timers | None = None,
    ) -> None:
        self.counters = Counters()
        self._address = address
        self._rng = rng
        self._mode = mode
        self._own_timers = timers or Timers()
        self._timers = self._own_timers
        self._other: Host | None = None
        self._other_until = 0.0
        self._told: dict[type[Event], set[Host]] = {OldQuerier: set(), OtherQuerier: set()}
        self._general_at = now
        self._startup_left = STARTUP_QUERIES
        self._advertisements = _Advertisements(now)
        self._specific = _SpecificQueries(now)

    # What is known

    @property
    def is_querier(self) -> bool:
        return self._mode == "on" or (self._mode == "auto" and self._other is None)

    @property
    def other(self) -> Host | None:
        """The other querier, while one is present."""
        return self._other

    @property
    def timers(self) -> Timers:
        """What holds on the link now: ours, or those of the querier. Look again after every call that takes `now`."""
        return self._timers

    # What is told

    def query_heard(self, query: Query, source: Host, *, now: float) -> list[Event]:
        """A query of another router came, or our own looped back."""
        if source == self._address:
            return []
        events: list[Event] = []
        if query.version == 1:
            self._tell(OldQuerier(source), events)
        if self._mode == "off" or (self._mode == "auto" and source < self._address):
            self._tell(OtherQuerier(source), events)
            self._yield_to(query, source, now)
        return events

    def ask(self, group: Group, *, now: float) -> bool:
        """Find out whether anybody listens: two specific queries. False if we are not the querier, or too busy."""
        return self._queue(group, 2, now)

    def forget(self, group: Group, *, now: float) -> bool:
        """Make switches drop the group that nobody listens to: one specific query. False as for `ask`."""
        return self._queue(group, 1, now)

    def restart(self, address: Host, *, now: float) -> None:
        """The link came up again, maybe another one, or our address has changed: begin anew as the querier, and let
        the next query that is heard decide."""
        self._address = address
        self._other = None
        self._timers = self._own_timers
        self._general_at = now
        self._startup_left = STARTUP_QUERIES
        self._advertisements = _Advertisements(now)
        self._specific.clear()

    def cancel(self, group: Group) -> None:
        """Somebody listens to the group: queries that have not gone yet are not needed."""
        self._specific.cancel(group)

    def ask_all(self, *, now: float) -> None:
        """Find out who listens to what: a general query, if we are the querier."""
        self._general_at = min(self._general_at, now)

    def solicited(self, *, now: float) -> None:
        """A snooper asked for advertisements."""
        self._advertisements.solicited(now, self._rng)

    # Time

    def messages_to_send(self, *, now: float) -> list[Outgoing]:
        """Everything that is due. To be called again at `next_timeout`, and after `ask`, `forget` and `solicited`."""
        self._check_other_querier(now)
        out: list[Outgoing] = []
        if self._advertisements.take(now, self._rng):
            out.append(self._advertisement())
        if not self.is_querier:
            return out
        if now >= self._general_at:
            out.append(self._general_query(now))
        specific = self._specific.take(now)
        self.counters.specific += len(specific)
        out.extend(Outgoing(group, self._query(group, LAST_LISTENER_QUERY_INTERVAL)) for group in specific)
        return out

    def next_timeout(self) -> float:
        timeout = self._advertisements.at
        if self._other is not None:
            timeout = min(timeout, self._other_until)
        if self.is_querier:
            timeout = min(timeout, self._general_at, self._specific.next_timeout())
        return timeout

    def stop(self) -> list[Outgoing]:
        """The last words (RFC 4286 section 5). MLD has none: another querier takes over when its timer runs out."""
        return [Outgoing(ALL_SNOOPERS, build_router_discovery(Termination()))]

    # Changes

    def _tell(self, event: Event, events: list[Event]) -> None:
        told = self._told[type(event)]
        if event.address not in told and len(told) < MAX_QUERIERS_TOLD:
            told.add(event.address)
            events.append(event)

    def _yield_to(self, query: Query, source: Host, now: float) -> None:
        self._other = source
        self._timers = _adopted(query, self._timers)
        self._other_until = now + self._timers.other_querier_present
        self._specific.clear()

    def _check_other_querier(self, now: float) -> None:
        if self._other is None or now < self._other_until:
            return
        self._other = None
        self._timers = self._own_timers
        # RFC 9777 section 7: a general query at once; the start-up is not repeated, the hosts know MLD by now.
        self._general_at = now
        self._startup_left = 1

    def _queue(self, group: Group, count: int, now: float) -> bool:
        self._check_other_querier(now)
        if not self.is_querier:
            return False
        queued = self._specific.add(group, count)
        self.counters.dropped += not queued
        return queued

    # Messages

    def _general_query(self, now: float) -> Outgoing:
        self._startup_left = max(self._startup_left - 1, 0)
        self._general_at = now + (STARTUP_QUERY_INTERVAL if self._startup_left else self._timers.query_interval)
        self.counters.general += 1
        return Outgoing(ALL_NODES, self._query(UNSPECIFIED, self._timers.response_interval))

    def _query(self, group: bytes, max_response: float) -> bytes:
        timers = self._timers
        return build_query(
            Query(group, max_response, robustness=timers.robustness, interval=round(timers.query_interval))
        )

    def _advertisement(self) -> Outgoing:
        timers = self._timers
        message = Advertisement(ADVERTISEMENT_INTERVAL, round(timers.query_interval), timers.robustness)
        return Outgoing(ALL_SNOOPERS, build_router_discovery(message))


def _adopted(query: Query, before: Timers) -> Timers:
    """The variables that a heard query implies (RFC 9777 section 5.1: 0 means the default), within our bounds."""
    interval = min(max(query.interval or DEFAULT_QUERY_INTERVAL, MIN_QUERY_INTERVAL), MAX_QUERY_INTERVAL)
    # A specific query's response interval is the last listener's, not the one of general queries.
    response = query.max_response if query.group == UNSPECIFIED else before.response_interval
    return Timers(max(query.robustness or ROBUSTNESS, MIN_ADOPTED_ROBUSTNESS), interval, min(response, interval))


class _Advertisements:
    """When the next advertisement is due (RFC 4286 section 3)."""

    __slots__ = ("_initial_left", "_last", "at")

    def __init__(self, now: float) -> None:
        self.at = now
        self._last = float("-inf")
        self._initial_left = INITIAL_ADVERTISEMENTS

    def solicited(self, now: float, rng: Random) -> None:
        if self.at > now + MAX_RESPONSE_DELAY:
            self.at = max(now + rng.uniform(0, MAX_RESPONSE_DELAY), self._last + MIN_ADVERTISEMENT_GAP)

    def take(self, now: float, rng: Random) -> bool:
        if now < self.at:
            return False
        self._last = now
        self._initial_left = max(self._initial_left - 1, 0)
        if self._initial_left:
            self.at = now + rng.uniform(MIN_ADVERTISEMENT_GAP, MAX_INITIAL_ADVERTISEMENT_INTERVAL)
        else:
            self.at = now + ADVERTISEMENT_INTERVAL + rng.uniform(-ADVERTISEMENT_JITTER, ADVERTISEMENT_JITTER)
        return True


@dataclass(slots=True)
class _SpecificQueries:
    """Groups to query, under a token bucket. Both queues are in the order in which they come due."""

    filled_at: float
    tokens: float = SPECIFIC_QUERY_BURST
    waiting: OrderedDict[Group, int] = field(default_factory=OrderedDict)
    """Due now; the value says how many queries are to go."""
    again: OrderedDict[Group, float] = field(default_factory=OrderedDict)
    """Asked once; due again at the time given."""

    def add(self, group: Group, count: int) -> bool:
        if group in self.again:
            return True
        if group not in self.waiting and len(self.waiting) >= MAX_WAITING:
            return False
        self.waiting[group] = max(count, self.waiting.get(group, 0))
        return True

    def cancel(self, group: Group) -> None:
        self.waiting.pop(group, None)
        self.again.pop(group, None)

    def clear(self) -> None:
        self.waiting.clear()
        self.again.clear()

    def take(self, now: float) -> list[Group]:
        self._fill(now)
        taken: list[Group] = []
        # Second queries first: hosts in doubt wait for them, and their number is bounded by the first ones sent.
        while self.tokens >= 1 and self.again and next(iter(self.again.values())) <= now:
            taken.append(self.again.popitem(last=False)[0])
            self.tokens -= 1
        while self.tokens >= 1 and self.waiting:
            group, count = self.waiting.popitem(last=False)
            taken.append(group)
            self.tokens -= 1
            if count > 1:
                self.again[group] = now + LAST_LISTENER_QUERY_INTERVAL
        return taken

    def next_timeout(self) -> float:
        if not self.waiting and not self.again:
            return float("inf")
        due = self.filled_at if self.waiting else next(iter(self.again.values()))
        if self.tokens >= 1:
            return due
        batch = min(SPECIFIC_QUERY_BATCH, len(self.waiting) + len(self.again))
        # A little late rather than early: a token that is short by a rounding error would make the caller spin.
        return max(due, self.filled_at + (batch - self.tokens) / SPECIFIC_QUERY_RATE + 1e-6)

    def _fill(self, now: float) -> None:
        earned = (now - self.filled_at) * SPECIFIC_QUERY_RATE
        self.tokens = min(self.tokens + earned, SPECIFIC_QUERY_BURST)
        self.filled_at = now
