"""Which datagrams the kernel hands to a client at all: a filter on its socket, changed as the network behaves.

What a filter drops costs no wake-up, and takes no room in the receive buffer, which all channels share. It always drops
what has not the first bytes of a datagram of this protocol. While the servers of all shares in use are known and
active, symbols, beacons and gones of others are dropped (`fetch.sources`). Announcements, and what may be a sealed one,
have to be taken from everybody, as every share begins with one. So who sends far too many is *throttled* for a while:
of his datagrams a few are looked at, drawn at random. Not none: anybody can send under the address of a server that was
not heard yet, and this one has to be heard when he stops. If those who send are many, of all strangers together only a
part is looked at. Each server's control datagrams are limited apart, so that none takes what others have.

A program takes memory that the socket needs for its memberships as well (net.core.optmem_max: 20,480 bytes before Linux
6.7, else 131,072), and the kernel has the old one until it has taken the new one. So with little memory fewer addresses
are told apart; and where one does not fit all the same, none stays that is older than what is known: nothing is dropped
but what is not ours, until a shorter one fits.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mcfs.net import bpf
from mcfs.protocol import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mcfs.net.bpf import Program
    from mcfs.protocol.ids import Host

log = logging.getLogger(__name__)

LOOK: Final = 0.1
"""Seconds between two decisions."""
MANY: Final = 50
"""Control datagrams in that time that no server sends: it announces 50 a second at most, and beacons 25."""
SEEN: Final = 8
"""Datagrams at least from which it is reckoned how many a host sends: of a small part one is no measure."""
ENOUGH: Final = 100
"""Control datagrams in that time, of all strangers or of all servers, beyond which some are dropped unseen."""
FEW: Final = 20
"""The same of all who are throttled."""
THROTTLED: Final = 5.0
"""Seconds for which who sends too many is throttled; doubles each time, to LONGEST."""
LONGEST: Final = 300.0
THROTTLED_PART: Final = 0.25
"""Of the datagrams of one who is throttled, at most: what he sends by fits and starts costs little, and a server that
somebody has had throttled is heard within some seconds."""
MAX_THROTTLED: Final = 16
UNHEARD: Final = 3.0
"""Seconds after some of a server's control datagrams were dropped, for which its silence says nothing: it announces
every second."""
MAX_SERVERS: Final = 64
"""Addresses that are told apart. The program has at most 16 instructions for each, and the kernel takes 4,096."""
MAX_ADDRESSES: Final = MAX_SERVERS + MAX_THROTTLED
USUAL_MEMORY: Final = 20480
"""Bytes: net.core.optmem_max where it is not known, as before Linux 6.8 in a network namespace."""
MEMORY_PART: Final = 4
"""A program takes one in so many of these bytes at most, as there may be two; the rest is for memberships."""
PROGRAM_BYTES: Final = 1536
ADDRESS_BYTES: Final = 176
"""What a program takes, and for each address, at most: 1,112 and 161 bytes (Linux 6.18)."""
PAUSE: Final = 60.0
"""Seconds after one did not fit until twice as many addresses are tried."""
MAX_COUNTED: Final = 1024
LEAST_PART: Final = 2.0**-12

# On a UDP socket: byte 0 is the first of the UDP header. The source is in the first words that a program has.
_START_AT: Final = 8
"""Behind the UDP header: version and type."""
_START_WORD: Final = bpf.SOURCE_WORDS
_RANDOM_WORD: Final = bpf.SOURCE_WORDS + 1
_LOAD_START: Final = (bpf.LOAD_HALF, 0, 0, _START_AT)

_REMEMBER: Final[Program] = (
    *bpf.REMEMBER_SOURCE,
    _LOAD_START,
    (bpf.STORE, 0, 0, _START_WORD),
    (bpf.LOAD_WORD, 0, 0, bpf.RANDOM),
    (bpf.STORE, 0, 0, _RANDOM_WORD),
)

_OF_STRANGERS: Final = (wire.ANNOUNCEMENT, wire.SEALED, wire.KEYED)
"""What is taken of everybody: announcements, and what may be one of a share with a key."""
_KINDS: Final = (wire.SYMBOL, wire.BEACON, wire.GONE, *_OF_STRANGERS)


@dataclass(frozen=True, slots=True)
class Rules:
    servers: frozenset[Host] = frozenset()
    """Addresses that signed announcements name."""
    strict: bool = False
    """Whether symbols, beacons and gones are taken of these alone."""
    throttled: frozenset[Host] = frozenset()
    parts: frozenset[tuple[Host, float]] = frozenset()
    """Of the control datagrams of these, servers or throttled, so much is looked at; of other servers all."""
    strangers_part: float = 1.0
    """The same of all who are neither."""


def addresses_that_fit(optmem: int | None) -> int:
    """How many addresses a program may tell apart where a socket may use so many bytes (net.core.optmem_max)."""
    memory = (USUAL_MEMORY if optmem is None else optmem) // MEMORY_PART
    return max(0, min(MAX_ADDRESSES, (memory - PROGRAM_BYTES) // ADDRESS_BYTES))


def program(rules: Rules) -> Program:
    """What comes first is decided first: each part returns, or leaves the rest to the next one."""
    symbol = wire.VERSION << 8 | wire.SYMBOL
    parts = dict(rules.parts)
    not_strict = _only(_OF_STRANGERS) if rules.strict else ()
    symbols: Program = (_LOAD_START, (bpf.JUMP_EQUAL, 0, 1, symbol), bpf.PASS)
    return (
        *_only(_KINDS),
        *_REMEMBER,
        *(
            line
            for host in sorted(rules.servers)
            for line in bpf.if_source(host, _sampled(parts.get(host, 1.0), symbol))
        ),
        *not_strict,
        *symbols,
        *(
            line
            for host in sorted(rules.throttled)
            for line in bpf.if_source(host, _sampled(parts.get(host, THROTTLED_PART)))
        ),
        *_sampled(rules.strangers_part),
    )


def _only(kinds: tuple[int, ...]) -> Program:
    """Drop what is of none of these types."""
    jumps = ((bpf.JUMP_EQUAL, len(kinds) - i, 0, wire.VERSION << 8 | kind) for i, kind in enumerate(kinds))
    return (_LOAD_START, *jumps, bpf.DROP)


def _sampled(part: float, except_for: int | None = None) -> Program:
    if part >= 1:
        return (bpf.PASS,)
    draw: Program = ((bpf.RECALL, 0, 0, _RANDOM_WORD), *bpf.drawn(part), bpf.PASS)
    if except_for is None:
        return draw
    return ((bpf.RECALL, 0, 0, _START_WORD), (bpf.JUMP_EQUAL, 0, 1, except_for), bpf.PASS, *draw)


class Door:
    """Counts datagrams that are no symbols, and makes the rules.

    :param attach: hands a program to the kernel; raises OSError if it does not take it, and then there is none
    :param addresses: how many may be told apart (`addresses_that_fit`)
    """

    def __init__(self, attach: Callable[[Program], None], addresses: int = MAX_ADDRESSES) -> None:
        self._attach = attach
        self._most = self._addresses = addresses
        self._grow_at = float("inf")
        self._warned = False
        self.rules = Rules()
        """Those that the kernel has."""
        with suppress(OSError):  # a machine that cannot hands up everything
            attach(program(self.rules))
        self._counted: Counter[Host] = Counter()
        self._uncounted = 0
        """Datagrams of further addresses: so many that it does not matter whose they are."""
        self._pauses: dict[Host, tuple[float, float]] = {}
        """Until when each is throttled, and for how long."""
        self._parts: dict[Host, float] = {}
        self._limited: dict[Host, float] = {}
        """When something of a server was dropped last."""
        self._looked = float("-inf")
        self._hurried = False

    def came(self, source: Host, control_datagrams: int) -> None:
        if source in self._counted or len(self._counted) < MAX_COUNTED:
            self._counted[source] += control_datagrams
        else:
            self._uncounted += control_datagrams

    def hurry(self) -> None:
        """Another server has taken over: what it sends should not wait for the next look."""
        self._hurried = True

    def is_due(self, now: float) -> bool:
        return self._hurried or now >= self._looked + LOOK

    def next_timeout(self) -> float | None:
        """When to look; None if there is nothing to decide."""
        rules = self.rules
        if self._hurried:
            return self._looked
        idle = not self._counted and not rules.throttled and not rules.parts and rules.strangers_part == 1
        return None if idle else self._looked + LOOK

    def look(self, servers: Iterable[Host], only: frozenset[Host] | None, *, now: float) -> None:
        """Decide, if it `is_due`. `servers`: all addresses that are known, those that matter most first; `only`: those
        outside of which nothing but announcements is wanted now, if there is such a limit."""
        elapsed, wanted = now - self._looked, only or frozenset()
        counted, rest = self._counted, float(self._uncounted)
        self._counted, self._uncounted, self._looked, self._hurried = Counter(), 0, now, False
        scale = LOOK / max(LOOK, elapsed)
        came = {host: count * scale for host, count in counted.items()}
        self._grow(now)
        most_throttled = min(MAX_THROTTLED, self._most // 5)
        most_servers = min(MAX_SERVERS, self._most - most_throttled)
        known = frozenset(list(dict.fromkeys((*sorted(wanted), *servers)))[:most_servers])
        strangers = {host: count for host, count in came.items() if host not in known}
        self._throttle(strangers, now)
        paused = [h for h in reversed(self._pauses) if self._is_throttled(h, now) and h not in known]
        throttled = frozenset(paused[:most_throttled])
        rest = scale * rest + sum(count for host, count in strangers.items() if host not in throttled)
        self._limit(known, throttled, came)
        self._limited = {host: at for host, at in self._limited.items() if now < at + UNHEARD}
        self._limited.update(dict.fromkeys(known & self._parts.keys(), now))
        rules = Rules(
            known,
            only is not None and len(wanted) <= most_servers,
            throttled,
            frozenset(self._parts.items()),
            _part(self.rules.strangers_part, rest, ENOUGH),
        )
        if rules != self.rules:
            self._give(rules, now)

    def _give(self, rules: Rules, now: float) -> None:
        try:
            self._attach(program(rules))
        except OSError as error:
            self._without(error, now)
        else:
            self.rules = rules

    def _without(self, error: OSError, now: float) -> None:
        """The kernel has not taken a program, so it has none: an old one would drop what new servers send."""
        self.rules, self._parts = Rules(), {}
        with suppress(OSError):
            self._attach(program(self.rules))
        self._hurried = self._most > 0
        self._most, self._grow_at = self._most // 2, now + PAUSE
        if not self._warned:
            self._warned = True
            low = error.errno in (errno.ENOMEM, errno.ENOBUFS)
            reason = "sysctl net.core.optmem_max=131072" if low else error.strerror
            log.warning("the kernel does not take the filter that keeps off what strangers send (%s)", reason)

    def _grow(self, now: float) -> None:
        """Memberships that took the memory may have been left."""
        if now >= self._grow_at:
            self._most = min(self._addresses, max(1, 2 * self._most))
            self._grow_at = now + PAUSE if self._most < self._addresses else float("inf")

    def hears(self, host: Host, *, now: float) -> bool:
        """Whether all that a server says has come here of late."""
        return now >= self._limited.get(host, float("-inf")) + UNHEARD

    def _throttle(self, strangers: dict[Host, float], now: float) -> None:
        for host, count in strangers.items():
            many = count >= SEEN and count / self.rules.strangers_part >= MANY
            if not many or self._is_throttled(host, now):
                continue
            until, pause = self._pauses.pop(host, (now, THROTTLED / 2))
            pause = THROTTLED if now > until + LONGEST else min(LONGEST, 2 * pause)
            if len(self._pauses) >= MAX_THROTTLED:
                del self._pauses[next(iter(self._pauses))]
            self._pauses[host] = (now + pause, pause)

    def _limit(self, servers: frozenset[Host], throttled: frozenset[Host], came: dict[Host, float]) -> None:
        """What part to look at of each that is throttled, and of each server that sends more than its share."""
        before, speaking = self._parts, [host for host in servers if came.get(host)]
        parts = {
            host: _part(before.get(host, THROTTLED_PART), came.get(host, 0.0), FEW / len(throttled))
            for host in throttled
        }
        self._parts = {host: min(THROTTLED_PART, part) for host, part in parts.items()}
        crowded = sum(came[host] for host in speaking) > ENOUGH
        for host in servers:
            if host in before or (crowded and host in speaking):
                part = _part(before.get(host, 1.0), came.get(host, 0.0), ENOUGH / max(1, len(speaking)))
                if part < 1:
                    self._parts[host] = part

    def _is_throttled(self, host: Host, now: float) -> bool:
        return now < self._pauses.get(host, (now, 0.0))[0]


def _part(before: float, came: float, enough: float) -> float:
    """What part to look at, so that about `enough` come; one that doubles or halves, so that rules seldom change."""
    if came > enough:
        return max(LEAST_PART, before / (1 << int(came / enough).bit_length()))
    return min(1.0, 2 * before) if came < enough / 4 else before


__all__ = ["Door", "Rules", "program"]
