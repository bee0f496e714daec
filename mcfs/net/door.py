"""Which datagrams the kernel hands to a client at all: a filter on its socket, changed as the network behaves.

What a filter drops costs no wake-up, and takes no room in the receive buffer, which all channels share. It always drops
what has not the first bytes of a datagram of this protocol. While the servers of all shares in use are known and
active, symbols, beacons and gones of others are dropped (`fetch.sources`). Announcements have to be taken from
everybody, as every share begins with one; so who sends far too many is shut out for a while, and if these are many,
only some of what strangers announce is looked at, drawn at random.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mcfs.protocol import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mcfs.protocol.ids import Host

LOOK: Final = 0.1
"""Seconds between two decisions."""
MANY: Final = 50
"""Control datagrams in that time that no server sends: it announces 50 a second at most, and beacons 25."""
ENOUGH: Final = 100
"""Control datagrams in that time, of all strangers or of all servers, beyond which some are dropped unseen."""
SHUT_OUT: Final = 5.0
"""Seconds for which who sends too many is shut out; doubles each time, to LONGEST."""
LONGEST: Final = 300.0
MAX_SHUT_OUT: Final = 16
MAX_SERVERS: Final = 64
"""Addresses that are told apart. The program has nine instructions for each, and the kernel takes 4,096."""
MAX_COUNTED: Final = 1024
LEAST_PART: Final = 2.0**-12

Program = tuple[tuple[int, int, int, int], ...]

# Classic BPF on a UDP socket (linux/filter.h): byte 0 is the first of the UDP header; the IPv6 header, with the source
# in bytes 8 to 23, is at _NETWORK; _RANDOM is 32 random bits. Conditional jumps count from the next instruction.
_LOAD_HALF: Final = 0x28
_LOAD_WORD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_ABOVE: Final = 0x25
_RETURN: Final = 0x06
_NETWORK: Final = 0xFFF00000
_RANDOM: Final = 0xFFFFF000 + 56
_START_AT: Final = 8
"""Behind the UDP header: version and type."""
_LOAD_START: Final = (_LOAD_HALF, 0, 0, _START_AT)
_PASS: Final = (_RETURN, 0, 0, 0xFFFFFFFF)
_DROP: Final = (_RETURN, 0, 0, 0)

_OF_STRANGERS: Final = (wire.ANNOUNCEMENT, wire.SEALED, wire.KEYED)
"""What is taken of everybody: announcements, and what may be one of a share with a key."""
_KINDS: Final = (wire.SYMBOL, wire.BEACON, wire.GONE, *_OF_STRANGERS)


@dataclass(frozen=True, slots=True)
class Rules:
    servers: frozenset[Host] = frozenset()
    """Addresses that signed announcements name."""
    strict: bool = False
    """Whether symbols, beacons and gones are taken of these alone."""
    shut_out: frozenset[Host] = frozenset()
    servers_part: float = 1.0
    strangers_part: float = 1.0
    """Of their control datagrams that is looked at."""


def program(rules: Rules) -> Program:
    """What comes first is decided first: each part returns, or leaves the rest to the next one."""
    symbol = wire.VERSION << 8 | wire.SYMBOL
    not_strict = _only(_OF_STRANGERS) if rules.strict else ()
    symbols: Program = (_LOAD_START, (_JUMP_EQUAL, 0, 1, symbol), _PASS)
    of_servers = _sampled(rules.servers_part, except_for=symbol)
    return (
        *_only(_KINDS),
        *(line for server in sorted(rules.servers) for line in _if_source(server, of_servers)),
        *not_strict,
        *symbols,
        *(line for host in sorted(rules.shut_out) for line in _if_source(host, (_DROP,))),
        *_sampled(rules.strangers_part),
    )


def _only(kinds: tuple[int, ...]) -> Program:
    """Drop what is of none of these types."""
    jumps = ((_JUMP_EQUAL, len(kinds) - i, 0, wire.VERSION << 8 | kind) for i, kind in enumerate(kinds))
    return (_LOAD_START, *jumps, _DROP)


def _if_source(host: Host, then: Program) -> Program:
    """What to do with a datagram of this address."""
    code: Program = ()
    for number in range(4):
        word = int.from_bytes(host[4 * number : 4 * number + 4], "big")
        rest = 2 * (3 - number) + len(then)
        code += ((_LOAD_WORD, 0, 0, _NETWORK + 8 + 4 * number), (_JUMP_EQUAL, 0, rest, word))
    return code + then


def _sampled(part: float, except_for: int | None = None) -> Program:
    if part >= 1:
        return (_PASS,)
    draw: Program = ((_LOAD_WORD, 0, 0, _RANDOM), (_JUMP_ABOVE, 0, 1, int((1 - part) * 0xFFFFFFFF)), _PASS, _DROP)
    if except_for is None:
        return draw
    return (_LOAD_START, (_JUMP_EQUAL, 0, 1, except_for), _PASS, *draw)


class Door:
    """Counts control datagrams and makes the rules; `attach` hands a program to the kernel."""

    def __init__(self, attach: Callable[[Program], None]) -> None:
        self._attach = attach
        self.rules = Rules()
        attach(program(self.rules))
        self._counted: Counter[Host] = Counter()
        self._pauses: dict[Host, tuple[float, float]] = {}
        """Until when each is shut out, and for how long."""
        self._looked = float("-inf")
        self._hurried = False

    def came(self, source: Host, control_datagrams: int) -> None:
        if source in self._counted or len(self._counted) < MAX_COUNTED:
            self._counted[source] += control_datagrams
        else:  # so many addresses: it does not matter whose they are
            self._counted[next(iter(self._counted))] += control_datagrams

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
        idle = not self._counted and not rules.shut_out and rules.servers_part == rules.strangers_part == 1
        return None if idle else self._looked + LOOK

    def look(self, servers: Iterable[Host], only: frozenset[Host] | None, *, now: float) -> None:
        """Decide, if it `is_due`. `servers`: all addresses that are known; `only`: those outside of which nothing but
        announcements is wanted now, if there is such a limit."""
        elapsed, known = now - self._looked, frozenset(servers)
        self._hurried = False
        counted, self._counted, self._looked = self._counted, Counter(), now
        scale = LOOK / max(LOOK, elapsed)
        strangers = {host: count * scale for host, count in counted.items() if host not in known}
        self._shut_out(strangers, now)
        rest = sum(count for host, count in strangers.items() if not self._is_out(host, now))
        theirs = sum(count * scale for host, count in counted.items() if host in known)
        wanted = only or frozenset()
        rules = Rules(
            frozenset([*sorted(wanted), *sorted(known - wanted)][:MAX_SERVERS]),
            only is not None and len(wanted) <= MAX_SERVERS,
            frozenset(host for host in self._pauses if self._is_out(host, now)),
            _part(self.rules.servers_part, theirs),
            _part(self.rules.strangers_part, rest),
        )
        if rules != self.rules:
            self.rules = rules
            self._attach(program(rules))

    def _shut_out(self, strangers: dict[Host, float], now: float) -> None:
        for host, count in strangers.items():
            if count / self.rules.strangers_part < MANY or self._is_out(host, now):
                continue
            until, pause = self._pauses.pop(host, (now, SHUT_OUT / 2))
            pause = SHUT_OUT if now > until + LONGEST else min(LONGEST, 2 * pause)
            if len(self._pauses) >= MAX_SHUT_OUT:
                del self._pauses[next(iter(self._pauses))]
            self._pauses[host] = (now + pause, pause)

    def _is_out(self, host: Host, now: float) -> bool:
        return now < self._pauses.get(host, (now, 0.0))[0]


def _part(before: float, came: float) -> float:
    """What part to look at, so that about ENOUGH come; one that doubles or halves, so that rules seldom change."""
    if came > ENOUGH:
        return max(LEAST_PART, before / (1 << int(came / ENOUGH).bit_length()))
    return min(1.0, 2 * before) if came < ENOUGH / 4 else before


__all__ = ["Door", "Rules", "program"]
