"""Symbols of several senders under one address, told apart by their order.

A server sends a pass in the order of the numbers. So pieces of which one goes on where the other ended are of one
sender, and so are those that say the same of a symbol; these make up a *strand*. Each sender who keeps to an order gets
a strand of his own, and who sends symbols at random gets many short ones. A strand that is complete is tried, and one
that has taken in something wrong ends with the next pass, since it cannot grow any more.

Repair symbols are not taken, as one that is wrong spoils all that is decoded with it; what was lost comes with the next
pass. Who sends in the server's order just ahead of it cannot be told from it.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

import numpy as np

from mcfs.protocol import fec

if TYPE_CHECKING:
    from mcfs.protocol.fec import Symbols
    from mcfs.protocol.wire import SymbolRun

MAX_STRANDS: Final = 6
"""Each may take as much memory as the node."""
SHORT: Final = 64
"""Symbols up to which a strand may be an accident: these give way first, and of these who has not grown for longest."""
GAP: Final = 64
"""Symbols that may be lost in between: what is sent with one call."""
LONG: Final = 4
"""Symbols of a piece that goes on behind a gap, and of a strand that is more than an accident: single ones at random
places would hit often."""


class Strands:
    """The source symbols of one node, all of one size T, under one address."""

    __slots__ = ("_best", "_k", "_length", "_passed_at", "_pieces", "_strands", "t")

    def __init__(self, length: int, t: int) -> None:
        self._length = length
        self.t = t
        self._k = fec.source_symbols(length, t)
        self._strands: list[_Strand] = []
        self._best = 0
        """Symbols of the longest strand that there was."""
        self._pieces = self._passed_at = 0

    @property
    def missing(self) -> int:
        """Bytes that have still to come, if none of those that came is wrong."""
        return (self._k - self._best) * self.t

    @property
    def complete(self) -> bool:
        """Whether `data` has something to give."""
        return any(strand.count == self._k for strand in self._strands)

    def add(self, run: SymbolRun) -> int:
        """Take symbols in; returns by how many the longest strand grew beyond all that there were."""
        source = run.esis < self._k
        esis, rows = run.esis[source].astype(np.int64), run.rows[source]
        cuts = (np.flatnonzero(np.diff(esis) != 1) + 1).tolist()
        for start, end in itertools.pairwise([0, *cuts, len(esis)]):
            if end > start:
                self._piece(int(esis[start]), rows[start:end])
        best, self._best = self._best, max([self._best, *(strand.count for strand in self._strands)])
        return self._best - best

    def data(self) -> memoryview | None:
        """The bytes of a complete strand, which is given up with this; None while there is none."""
        for strand in self._strands:
            if strand.count == self._k:
                self._strands.remove(strand)
                return strand.rows.reshape(-1).data[: self._length]
        return None

    def _piece(self, first: int, rows: Symbols) -> None:
        """To all strands that it fits: one of them may have taken in something wrong."""
        fitting = [strand for strand in self._strands if strand.goes_on(first, rows)]
        if not fitting and len(rows) >= LONG:
            fitting = [strand for strand in self._strands if strand.goes_on_behind_gap(first, rows)]
        if all(strand.count < LONG for strand in fitting):  # that it goes on there may be an accident
            self._make_room(fitting)
            fitting.append(_Strand(self._k, self.t))
            self._strands.append(fitting[-1])
        self._pieces += 1
        for strand in fitting:
            strand.put(first, rows, self._pieces)

    def _make_room(self, fitting: list[_Strand]) -> None:
        if len(self._strands) >= MAX_STRANDS:
            least = min(self._strands, key=lambda strand: (strand.count > SHORT, strand.grown_at))
            self._strands.remove(least)
            if least in fitting:
                fitting.remove(least)

    def next_pass(self) -> None:
        """A pass is over: what has not grown is of no use."""
        self._strands = [strand for strand in self._strands if strand.grown_at > self._passed_at]
        self._passed_at = self._pieces


class _Strand:
    __slots__ = ("_have", "_next", "count", "grown_at", "rows")

    def __init__(self, k: int, t: int) -> None:
        self.rows = np.empty((k, t), dtype=np.uint8)
        self._have = np.zeros(k, dtype=np.bool_)
        self._next = 0
        """The number behind the last symbol that came."""
        self.count = 0
        self.grown_at = 0
        """The number of the piece with which something new came."""

    def goes_on(self, first: int, rows: Symbols) -> bool:
        """Whether a piece says the same, or starts where the last one ended."""
        have = self._have[first : first + len(rows)]
        if have.any():
            return bool((self.rows[first : first + len(rows)][have] == rows[have]).all())
        return first == self._next

    def goes_on_behind_gap(self, first: int, rows: Symbols) -> bool:
        gap = (first - self._next) % len(self._have)
        return gap <= GAP and not self._have[first : first + len(rows)].any()

    def put(self, first: int, rows: Symbols, number: int) -> None:
        n, have = len(rows), self._have
        new = n - int(np.count_nonzero(have[first : first + n]))
        if new:
            self.count, self.grown_at = self.count + new, number
        self.rows[first : first + n] = rows
        have[first : first + n] = True
        self._next = (first + n) % len(have)
