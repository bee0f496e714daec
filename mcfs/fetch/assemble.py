"""From symbols to a node: source symbols go where they belong, repair symbols are kept until they suffice.

Somebody may send wrong symbols under the server's address, and nothing tells them from right ones but the hash of the
whole node. An `Assembly` takes what comes. After a wrong node it is not alone (doubted.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from mcfs.fetch.direct import aligned_empty
from mcfs.protocol import fec

if TYPE_CHECKING:
    from mcfs.protocol.fec import Esis, Symbols
    from mcfs.protocol.wire import SymbolRun


MAX_DECODES: Final = 8
"""Attempts to decode one node. K symbols fail in 1 % of the cases, and each further one makes that a hundredth; whoever
chooses the ESIs can make them fail all the time, and each costs 1 ms for 1 MiB."""


class Assembly:
    """The symbols of one node from one source address, all of one size T.

    Without loss this is one slice assignment per run of consecutive ESIs; there is no loop over datagrams.
    """

    __slots__ = ("_decoder", "_fed", "_have", "_k", "_length", "_repair", "_repair_esis", "_rows", "_source", "t")

    def __init__(self, length: int, t: int) -> None:
        self._length = length
        self.t = t
        self._k = fec.source_symbols(length, t)
        self._rows = aligned_empty(self._k * t).reshape(self._k, t)
        self._have = np.zeros(self._k, dtype=np.bool_)
        self._source = 0
        self._repair: list[tuple[Esis, Symbols]] = []
        self._repair_esis: set[int] = set()
        self._decoder: fec.Decoder | None = None
        self._fed = 0

    @property
    def count(self) -> int:
        """Symbols that came."""
        return self._source + len(self._repair_esis)

    @property
    def is_whole(self) -> bool:
        """Whether there is nothing to decode."""
        return self._source == self._k

    @property
    def missing(self) -> int:
        """Bytes that have still to come, at least."""
        return max(0, self._k - self.count) * self.t

    def add(self, run: SymbolRun) -> int:
        """Take symbols in; returns how many were new."""
        first, n = int(run.esis[0]), len(run.esis)
        if run.contiguous and first + n <= self._k:
            return self._add_slice(first, n, run.symbols)
        source = run.esis < self._k
        rows, repair = run.rows, ~source
        new = self._add_scattered(run.esis[source], rows[source]) if source.any() else 0
        return new + (self._add_repair(run.esis[repair], rows[repair]) if repair.any() else 0)

    def data(self) -> memoryview | None:
        """The node's bytes once there are symbols enough; None while there are not. They are not verified, and wrong
        for sure when the symbols could not be decoded although they should."""
        if self._source == self._k:
            return self._bytes(self._rows)
        if self.count < self._k:
            return None
        decoded = self._decode()
        if decoded is not None:
            self._rows[:] = decoded
        elif self._fed < self._k + MAX_DECODES - 1:
            return None
        return self._bytes(self._rows)

    def _bytes(self, rows: Symbols) -> memoryview:
        return np.ascontiguousarray(rows).reshape(-1).data[: self._length]

    def _add_slice(self, first: int, n: int, symbols: Symbols) -> int:
        """What comes later counts: a pass takes the place of what somebody sent before it."""
        have = self._have[first : first + n]
        before = int(np.count_nonzero(have))
        rows = self._rows[first : first + n]
        rows.reshape(symbols.shape)[...] = symbols
        if self._decoder is not None and n > before:
            fresh = ~have
            self._repair.append((np.arange(first, first + n, dtype=np.uint32)[fresh], rows[fresh]))
        have[:] = True
        self._source += n - before
        return n - before

    def _add_scattered(self, esis: Esis, symbols: Symbols) -> int:
        esis, at = np.unique(esis, return_index=True)
        fresh = ~self._have[esis]
        self._rows[esis] = symbols[at]
        esis, symbols = esis[fresh], symbols[at][fresh]
        self._have[esis] = True
        if self._decoder is not None and len(esis):
            self._repair.append((esis, symbols))
        self._source += len(esis)
        return len(esis)

    def _add_repair(self, esis: Esis, symbols: Symbols) -> int:
        """Copies: the receive buffer is used again. Bounded, because K symbols nearly always suffice."""
        fresh = [i for i, esi in enumerate(esis.tolist()) if self._is_new(esi)]
        if fresh:
            self._repair.append((esis[fresh], symbols[fresh]))
        return len(fresh)

    def _is_new(self, esi: int) -> bool:
        if esi in self._repair_esis:
            return False
        self._repair_esis.add(esi)
        return True

    def _decode(self) -> Symbols | None:
        """Feed the decoder what it has not seen: everything the first time, then what has come since."""
        if self._decoder is None:
            self._decoder = fec.Decoder(self._k, self.t)
            esis = np.flatnonzero(self._have).astype(np.uint32)
            self._repair.insert(0, (esis, self._rows[esis]))
        waiting, self._repair = self._repair, []
        for esis, symbols in waiting:
            room = self._k + MAX_DECODES - 1 - self._fed
            self._fed += min(room, len(esis))
            decoded = self._decoder.add(esis[:room], symbols[:room])
            if decoded is not None:
                return decoded
        return None
