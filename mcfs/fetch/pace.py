"""Which pace class fits: what part of what a server sends arrives here, and what follows from that.

A server cannot know that a reader sits behind a slow port, or is short of CPU: it hears only that the reader stays
joined, and sends repair for ever. So the reader finds out by itself, and joins the channels of a class that fits.

What a reader knows. A pass sends the source symbols of a channel in order, so those that came, against the range of
their numbers, tell what part arrived (`Trail`); how fast they came tells what the way here carries. What the kernel
dropped because this process was late it counts itself: that is no slow link.

For each server there is one `Reception`, whose class changes so::

                   less than HALF arrives for BAD_SECONDS
         +------- (to the class that fits what arrives) -----+
         |                                                   v
      STEADY <------------- judged ----------------------- TRIAL
         |                                                   ^
         +--- a slow class was kept for PROBE seconds -------+
                    (to the next faster one)

A trial of a faster class has failed if the part that arrives falls below FIT of what it was: then back, and the next
one comes after twice the time. A trial of a slower class has failed if as much is lost as before: random loss is not
the rate's fault, and a slower class would only be slower. Then back, and the class is kept for MAX_PROBE seconds.

A client that is short of CPU loses in its own buffer. Asking for less at a time is the first remedy (`overrun`); when
that has come to its end, the next slower class is.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mcfs.protocol.ids import PACE_CLASSES

if TYPE_CHECKING:
    from mcfs.protocol.fec import Esis

HALF: Final = 0.5
"""Random loss of 40 % is no reason to change, repair makes up for it; a class is a factor of two."""
FIT: Final = 0.65
"""What part of a class has to arrive for it to be the one that fits: half way between two is 0.71; less, as speed is
measured with pauses."""
BAD_SECONDS: Final = 0.25
SETTLE: Final = 1.0
"""Seconds after a change in which no slower class is taken: what was joined before still fills the slow port, as
switches forget a group late."""
JUDGE: Final = 3.0
"""Seconds after which a slower class must have helped."""
HELPED: Final = 1.3
"""By which factor what arrives must have grown."""
PROBE: Final = 10.0
"""Seconds from a change to the trial of a faster class; doubles with each that fails."""
MAX_PROBE: Final = 300.0
PROVEN: Final = 60.0
"""Seconds for which a faster class must have been kept for the next one that fails to count anew."""
MIN_LOOK: Final = 100
"""Symbols from which a part can be told."""
MIN_BAD: Final = 500
"""Symbols on which a change rests."""
OVERRUN: Final = 0.25
"""Part of the symbols that the kernel drops at the smallest window from which a slower class is better."""
OVERRUN_SECONDS: Final = 1.0
PAUSE: Final = 0.02
"""Seconds without symbols that are not counted when the speed of what arrives is measured: the server, or this
process, had something else to do."""
MIN_SPAN: Final = 0.02
"""Seconds over which a speed is measured. What counts is the highest one: it is less wherever the server, or one of
the two hosts, was the one that was slow."""
QUIET: Final = 0.03
"""Seconds without a symbol after which a pass is over, as far as can be told; longer than datagrams overtake."""
TRAIL_SECONDS: Final = 0.25
"""A longer pass is counted in pieces."""
SLACK: Final = 0.004
"""Seconds that a slow reader may be away from its socket: what the server sends meanwhile must fit its buffer."""
KEPT: Final = 3.5
"""Seconds without an announcement after which another server of an origin counts: three of them."""
MAX_SERVERS: Final = 256
MAX_ORIGINS: Final = 4096


def pace_class(rate: int, max_bytes: int) -> int:
    """The fastest pace class at which SLACK seconds of data fit into `max_bytes`."""
    for pace in range(PACE_CLASSES - 1):
        if rate / 8 / 2**pace * SLACK <= max_bytes:
            return pace
    return PACE_CLASSES - 1


@dataclass(slots=True)
class Trail:
    """Source symbols of one pass of one channel, in any order."""

    begun: float
    last: float
    low: int = 1 << 24
    high: int = -1
    count: int = 0

    def add(self, low: int, high: int, count: int, *, now: float) -> None:
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.count += count
        self.last = now

    def is_over(self, now: float) -> bool:
        return now - self.last > QUIET or now - self.begun > TRAIL_SECONDS

    @property
    def sent(self) -> int:
        return self.high - self.low + 1

    @property
    def arrived(self) -> int:
        """No more than were sent: some come twice."""
        return min(self.count, self.sent)


def source_range(esis: Esis, k: int, *, contiguous: bool) -> tuple[int, int, int] | None:
    """Lowest, highest and number of the source symbols among these; None if there are none."""
    first, last = int(esis[0]), int(esis[-1])
    if contiguous:
        return None if first >= k else (first, min(last, k - 1), min(last, k - 1) - first + 1)
    source = esis[esis < k]
    return (int(source.min()), int(source.max()), len(source)) if len(source) else None


@dataclass(slots=True)
class _Tally:
    """Symbols that a server sent and that arrived, those that the kernel dropped here, and how fast they came."""

    sent: int = 0
    arrived: int = 0
    dropped: int = 0
    bits: int = 0
    seconds: float = 0.0
    speed: float = 0.0
    """Bits per second, the most that was seen for MIN_SPAN seconds."""

    def close(self) -> None:
        """The look is over: how fast was it?"""
        if self.seconds >= MIN_SPAN:
            self.speed = self.bits / self.seconds

    def add(self, other: _Tally) -> None:
        self.sent += other.sent
        self.arrived += other.arrived
        self.dropped += other.dropped
        self.speed = max(self.speed, other.speed)

    @property
    def part(self) -> float:
        """Of what was sent that came to this host."""
        return (self.arrived + self.dropped) / self.sent

    @property
    def taken(self) -> float:
        """Of what was sent that came to this process."""
        return self.arrived / self.sent


@dataclass(slots=True)
class _Trial:
    """Of another class: which one was left, what part arrived there, and since when."""

    previous: int
    part: float
    since: float
    tally: _Tally = field(default_factory=_Tally)
    begun: float | None = None
    """When the first symbols of the new class came."""


class Reception:
    """How one server is received, and in which class."""

    def __init__(self, rate: int, floor: int, now: float) -> None:
        self.rate = rate
        self.floor = floor
        self.pace = floor
        self.changed_at = float("-inf")
        self.reason = ""
        self.told = 0
        """The class that the user was told of."""
        self._tally = _Tally()
        self._begun = float("inf")
        self._heard_at = float("-inf")
        self._bad = _Tally()
        self._bad_since: float | None = None
        self._overrun_since: float | None = None
        self._usual = 1.0
        """Part that arrives in this class, of late."""
        self._trial: _Trial | None = None
        self._probe_at = now + PROBE
        self._wait = PROBE
        self._risen_at = float("-inf")
        self._kept_until = float("-inf")

    def set_rate(self, rate: int, floor: int) -> None:
        """The server's rate is another one, and so perhaps the fastest class that fits the receive buffer."""
        self.pace = floor if self.pace == self.floor else max(self.pace, floor)
        self.rate, self.floor = rate, floor

    # --- what comes ---

    def heard(self, bits: int, *, now: float) -> None:
        """So many bits came, on the wire."""
        since = now - self._heard_at
        if since <= PAUSE:
            self._tally.bits += bits
            self._tally.seconds += since
        self._heard_at = now

    def passed(self, trail: Trail) -> None:
        """A pass, or a piece of it, is over."""
        self._tally.sent += trail.sent
        self._tally.arrived += trail.arrived
        self._begun = min(self._begun, trail.begun)

    # --- what follows ---

    def look(self, dropped: int, *, smallest: bool, now: float) -> int:
        """Decide on the class; call it every few hundredths of a second. `dropped` datagrams found the receive buffer
        full since then; `smallest`: the client asks for as little at a time as it can. Returns how many of the drops
        the symbols that are missing account for."""
        tally, begun = self._tally, self._begun
        if tally.sent < MIN_LOOK:
            return 0
        tally.close()
        tally.dropped = min(dropped, tally.sent - tally.arrived)
        self._tally, self._begun = _Tally(), float("inf")
        if self._trial is not None:
            self._judge(self._trial, tally, begun, now)
        if not self._step_down(tally, begun, smallest, now):
            self._usual += (tally.taken - self._usual) / 8
            self._probe(now)
        return tally.dropped

    def _step_down(self, tally: _Tally, begun: float, smallest: bool, now: float) -> bool:
        self._note_overrun(tally, begun, smallest)
        if tally.part >= HALF:
            self._bad_since, self._bad = None, _Tally()
        else:
            self._bad_since = begun if self._bad_since is None else self._bad_since
            self._bad.add(tally)
        if self.pace == PACE_CLASSES - 1 or now < max(self.changed_at + SETTLE, self._kept_until):
            return False
        is_bad = self._bad_since is not None and begun - self._bad_since >= BAD_SECONDS - QUIET
        if is_bad and self._bad.sent >= MIN_BAD and self._trial is None:
            self._reduce(self._fitting(self._bad), self._bad.part, "less than half of it arrives", now)
            return True
        if self._overrun_since is not None and now - self._overrun_since >= OVERRUN_SECONDS:
            self._reduce(self.pace + 1, tally.taken, "this host is too slow for it", now)
            return True
        return False

    def _note_overrun(self, tally: _Tally, begun: float, smallest: bool) -> None:
        if smallest and tally.dropped >= OVERRUN * tally.sent:
            self._overrun_since = begun if self._overrun_since is None else self._overrun_since
        else:
            self._overrun_since = None

    def _fitting(self, tally: _Tally) -> int:
        """The fastest class of which FIT arrives, slower than the present one."""
        rate = self.rate / 2**self.pace
        carried = tally.speed or tally.part * rate
        fitting = math.ceil(math.log2(max(1.0, FIT * max(1, self.rate) / max(1.0, carried))))
        return max(self.pace + 1, min(PACE_CLASSES - 1, fitting))

    def _reduce(self, pace: int, part: float, reason: str, now: float) -> None:
        self._wait = PROBE if now - self._risen_at > max(PROVEN, self._wait) else min(MAX_PROBE, 2 * self._wait)
        before = self.pace
        self._change(pace, reason, now)
        self._trial = _Trial(before, part, now)

    def _probe(self, now: float) -> None:
        if self._trial is None and self.pace > self.floor and now >= self._probe_at:
            before, part = self.pace, self._usual
            self._change(before - 1, "to see whether it fits", now)
            self._trial = _Trial(before, part, now)

    def _judge(self, trial: _Trial, tally: _Tally, begun: float, now: float) -> None:
        trial.begun = begun if trial.begun is None else trial.begun
        if trial.previous > self.pace:
            self._judge_faster(trial, tally, now)
        else:
            self._judge_slower(trial, tally, now)

    def _judge_faster(self, trial: _Trial, tally: _Tally, now: float) -> None:
        trial.tally.add(tally)
        assert trial.begun is not None
        if now - trial.begun < BAD_SECONDS or trial.tally.sent < MIN_BAD:
            return
        self._trial = None
        if trial.tally.taken < FIT * trial.part:
            self._wait = min(MAX_PROBE, 2 * self._wait)
            self._change(trial.previous, "a faster one does not fit", now)
        else:
            self._risen_at = now

    def _judge_slower(self, trial: _Trial, tally: _Tally, now: float) -> None:
        """As long as what was joined before still comes to the port, nothing can be told."""
        if now < trial.since + SETTLE:
            return
        trial.tally.add(tally)
        if trial.tally.sent < MIN_BAD:
            return
        if trial.tally.taken >= HELPED * trial.part:
            self._trial = None
        elif now - trial.since >= JUDGE:
            self._trial = None
            self._change(trial.previous, "a slower one does not help", now)
            self._kept_until = now + MAX_PROBE

    def _change(self, pace: int, reason: str, now: float) -> None:
        self.pace, self.reason, self.changed_at = pace, reason, now
        self._tally, self._begun, self._bad, self._bad_since = _Tally(), float("inf"), _Tally(), None
        self._overrun_since, self._trial, self._usual = None, None, 1.0
        self._probe_at = now + self._wait


class Paces:
    """Receptions by server, and which origin (share) is whose."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` of datagrams may be under way without the receive buffer overflowing."""
        self._max_bytes = max_bytes
        self._receptions: OrderedDict[bytes, Reception] = OrderedDict()
        self._of: dict[bytes, Reception] = {}
        self._announced_at: dict[bytes, float] = {}
        """When the server that counts has announced an origin last."""
        self._drops: int | None = None
        self._unexplained = 0

    def announced(self, origin: bytes, server: bytes, rate: int, *, now: float) -> None:
        """A server announced an origin, and its rate in bits per second. `server` names it and its publisher: nobody
        else may say how fast it is. Who announces an origin from two addresses is known by one of them."""
        reception = self._receptions.get(server)
        if reception is None:
            reception = Reception(rate, pace_class(rate, self._max_bytes), now)
            self._receptions[server] = reception
            self._forget()
        elif rate != reception.rate:
            reception.set_rate(rate, pace_class(rate, self._max_bytes))
        self._receptions.move_to_end(server)
        known = self._of.get(origin)
        if known is None and len(self._of) >= MAX_ORIGINS:
            return
        if known in (None, reception) or now - self._announced_at.get(origin, now) > KEPT:
            self._of[origin], self._announced_at[origin] = reception, now

    def rounds(self, origin: bytes) -> None:
        """Its server sends everything round and round, and that only in the fastest class."""
        self._of.pop(origin, None)
        self._announced_at.pop(origin, None)

    def reception(self, origin: bytes) -> Reception | None:
        return self._of.get(origin)

    def pace(self, origin: bytes) -> int:
        """The class in which to join channels of this origin."""
        reception = self._of.get(origin)
        return reception.pace if reception is not None else 0

    def dropped(self, total: int) -> None:
        """The kernel's count of datagrams that found the receive buffer full."""
        self._unexplained += max(0, total - self._drops) if self._drops is not None else 0
        self._drops = total

    def look(self, *, smallest: bool, now: float) -> bool:
        """See `Reception.look`. Returns whether datagrams were lost in the receive buffer."""
        explained = 0
        for reception in self._receptions.values():
            explained += reception.look(self._unexplained - explained, smallest=smallest, now=now)
        self._unexplained = (self._unexplained - explained) * 31 // 32  # others were of no channel that is counted
        return explained > 0

    def _forget(self) -> None:
        if len(self._receptions) > MAX_SERVERS:
            _, oldest = self._receptions.popitem(last=False)
            self._of = {origin: r for origin, r in self._of.items() if r is not oldest}
            self._announced_at = {origin: at for origin, at in self._announced_at.items() if origin in self._of}


__all__ = ["Paces", "Reception", "Trail", "pace_class", "source_range"]
