"""What comes of a node under a server's address, where somebody else may send under it too.

Two ways side by side, since each fails where the other one does not. `Strands` tell senders apart by their order, for
which nearly all of a pass has to arrive. An `Assembly` takes all that comes, source symbols and repair: it is right as
soon as nobody else sends, whatever is lost. Whichever is complete is checked; if it is wrong it is given up, and the
next one begins with what comes then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mcfs.fetch.assemble import Assembly
from mcfs.fetch.strands import Strands
from mcfs.protocol import fec

if TYPE_CHECKING:
    from mcfs.protocol.wire import SymbolRun

DECODING: Final = 4
"""Times as much as hashing that decoding costs, at least."""
LENIENT: Final = 8
"""Wrong nodes up to which what comes anew is progress. Who sends wrong ones must not keep a node from its deadline."""
CHECKED: Final = 256 << 20
"""Bytes a second of doubted nodes that are hashed: 5 % of a core. Decoding counts more."""
CHECKED_AT_ONCE: Final = 0.1
"""Seconds' worth of them at once."""


class CheckBudget:
    """How much of what came under doubt is checked: who sends much makes much that is complete."""

    def __init__(self) -> None:
        self._spent, self._at = 0.0, float("-inf")

    def allow(self, *, now: float) -> bool:
        self._spent = max(0.0, self._spent - CHECKED * (now - self._at))
        self._at = now
        return self._spent <= CHECKED * CHECKED_AT_ONCE

    def spend(self, cost: int) -> None:
        self._spent += cost


class Doubted:
    """The symbols of one node, all of one size T, under one address."""

    __slots__ = ("_assembly", "_k", "_length", "_most", "_strands", "_tried", "_wrong", "t")

    def __init__(self, length: int, t: int, assembly: Assembly | None = None) -> None:
        """`assembly`: what came until the node was doubted."""
        self.t = t
        self._length = length
        self._k = fec.source_symbols(length, t)
        self._strands = Strands(length, t)
        self._assembly = assembly
        self._tried = 0
        """Symbols with which the assembly could not be decoded."""
        self._most = self._wrong = 0

    @property
    def missing(self) -> int:
        """Bytes that have still to come, if none of those that came is wrong."""
        return max(0, self._k - self._count()) * self.t

    @property
    def cost(self) -> int:
        """What `data` costs, in bytes that are hashed; 0 if it has nothing to give."""
        if self._strands.complete:
            return self._length
        if self._assembly is None or not self._is_enough():
            return 0
        return self._length * (1 if self._assembly.is_whole else DECODING)

    def add(self, run: SymbolRun) -> int:
        """Take symbols in; returns by how many more there are than there ever were at once."""
        self._strands.add(run)
        if not self._is_enough():  # what is to be tried must not grow without bounds
            if self._assembly is None:
                self._assembly = Assembly(self._length, self.t)
            self._assembly.add(run)
        most, self._most = self._most, max(self._most, self._count())
        return self._most - most

    def data(self) -> memoryview | None:
        """The bytes of what is complete, which is given up with this; None if there is nothing."""
        data = self._strands.data()
        if data is not None or self._assembly is None or not self._is_enough():
            return data
        self._tried = self._assembly.count
        data = self._assembly.data()
        if data is not None:
            self._begin_anew()
        return data

    def wrong(self) -> None:
        """What `data` gave was wrong."""
        self._wrong += 1
        if self._wrong <= LENIENT:
            self._most = 0

    def next_pass(self) -> None:
        """Something was wrong, and the server is about to begin anew."""
        self._strands.next_pass()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._assembly, self._tried = None, 0

    def _count(self) -> int:
        return max(self._strands.most, self._assembly.count if self._assembly else 0)

    def _is_enough(self) -> bool:
        return self._assembly is not None and self._assembly.count >= max(self._k, self._tried + 1)
