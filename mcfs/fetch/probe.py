"""Counting what came of the probe object: how much of one pass, how fast, and whether the bytes are right.

Sans-IO. Sources are counted apart, since several servers may answer. A pass starts anywhere and goes round once, so a
source is done when a symbol of it comes that was before its first one, or a repair symbol, or when nothing is missing:
what it sends later would make good what was lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from mcfs.protocol import fec, wire
from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.probe import PROBE_SIZE, probe_content

if TYPE_CHECKING:
    from mcfs.protocol.fec import Esis, Symbols
    from mcfs.protocol.ids import Host

MAX_SOURCES: Final = 4
"""As many as a client collects of for one node (docs/protocol.md, section 9.6)."""
MIN_SYMBOL_SIZE: Final = 1024
"""Smaller symbols come of no server (an MTU of 1,280 has 1,200), and would take a table of expected bytes each."""
_MAX_SIZES: Final = 4


@dataclass(frozen=True, slots=True)
class Reading:
    """One source's pass, as far as it came."""

    source: Host
    symbols: int
    """How many of different numbers were sent, as far as can be told."""
    received: int
    """Different ones that came and were right."""
    wrong: int
    """Symbols that came with other bytes."""
    first_after: float
    """Seconds from the join to the first one."""
    rate: float
    """Bits per second on the link, headers included; 0 if it cannot be told from what came."""

    @property
    def lost(self) -> int:
        return self.symbols - self.received


class Tally:
    """What came since the join at `joined_at`, in seconds of the clock of `now`."""

    def __init__(self, *, joined_at: float) -> None:
        self._joined_at = joined_at
        self._passes: dict[Host, _Pass] = {}
        self.last_at: float | None = None
        """When the last datagram of the probe object came."""

    def receive(self, source: Host, datagrams: Symbols, *, now: float) -> None:
        """Datagrams uint8[n, size] of one source that came one after the other in the group of the probe object.

        Those that are not what they should be are passed over.
        """
        try:
            run = wire.symbol_run_untrusted(datagrams, PROBE_SIZE)
        except BadDatagram:
            return
        t = run.symbols.shape[-1]
        if not MIN_SYMBOL_SIZE <= t <= PROBE_SIZE:
            return
        if source not in self._passes and len(self._passes) >= MAX_SOURCES:
            return
        self.last_at = now
        pass_ = self._passes.setdefault(source, _Pass(t, now))
        if pass_.t == t:
            pass_.add(run.esis, run.symbols, now)

    def done(self) -> bool:
        """Whether every source that began has sent its pass."""
        return bool(self._passes) and all(p.over for p in self._passes.values())

    def readings(self, *, so_far: bool = False) -> tuple[Reading, ...]:
        """What came of each source. `so_far`: of passes that go on, count only what was sent before the last symbol."""
        return tuple(
            Reading(source, p.sent(so_far), p.received(), p.wrong, p.first_at - self._joined_at, p.rate())
            for source, p in self._passes.items()
        )


class _Pass:
    __slots__ = (
        "_bytes",
        "_first_bytes",
        "_first_esi",
        "_last",
        "first_at",
        "k",
        "last_at",
        "over",
        "seen",
        "t",
        "wrong",
    )

    def __init__(self, t: int, now: float) -> None:
        self.t = t
        self.k = fec.source_symbols(PROBE_SIZE, t)
        self.seen = np.zeros(self.k, dtype=bool)
        self.wrong = 0
        self.over = False
        self.first_at = self.last_at = now
        self._first_esi: int | None = None
        self._last = 0
        self._bytes = self._first_bytes = 0

    def add(self, esis: Esis, symbols: Symbols, now: float) -> None:
        if self.over:
            return
        count = self._within(esis)
        if not count:
            return
        esis, symbols = esis[:count], symbols[:count]
        right = (symbols == _expected(self.t)[esis]).all(axis=1)
        self.wrong += int(count - right.sum())
        self.seen[esis[right]] = True
        self._bytes += count * (self.t + wire.HEADER_SIZE + wire.LINK_OVERHEAD)
        self._first_bytes = self._first_bytes or self._bytes
        self.last_at = now
        self.over |= bool(self.seen.all())

    def received(self) -> int:
        return int(self.seen.sum())

    def sent(self, so_far: bool) -> int:
        return self._last + 1 if so_far and not self.over else self.k

    def rate(self) -> float:
        """From the time after the first batch, whose own time is not known."""
        seconds = self.last_at - self.first_at
        return 8 * (self._bytes - self._first_bytes) / seconds if seconds > 0 else 0.0

    def _within(self, esis: Esis) -> int:
        """How many of these, from the first on, belong to the pass. Datagrams may swap places within half of it."""
        repair = np.flatnonzero(esis >= self.k)
        count = int(repair[0]) if len(repair) else len(esis)
        if not count and self._first_esi is None:
            return 0  # repair for somebody else, that was on its way when we joined
        if self._first_esi is None:
            self._first_esi = int(esis[0])
        way = (esis[:count].astype(np.int64) - self._first_esi) % self.k
        back = np.flatnonzero(np.diff(way, prepend=self._last) < -self.k // 2)
        count = int(back[0]) if len(back) else count
        self._last = max(self._last, int(way[:count].max(initial=0)))
        self.over |= count < len(esis)
        return count


@lru_cache(maxsize=_MAX_SIZES)
def _expected(t: int) -> Symbols:
    """The source symbols, uint8[K, T]."""
    k = fec.source_symbols(PROBE_SIZE, t)
    padded = np.frombuffer(probe_content().ljust(k * t, b"\0"), dtype=np.uint8)
    return padded.reshape(k, t)
