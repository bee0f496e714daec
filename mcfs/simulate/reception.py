"""Who has which symbols of one channel: a matrix of readers and source symbols, so that a burst is one operation.

Repair symbols are new to everybody, so they are only counted. What a reader has is exact to the symbol; it is told when
its first symbol comes, whenever another quarter of the node has come, and when it has enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

Rows: TypeAlias = np.ndarray[tuple[int], np.dtype[np.intp]]
Rates: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float32]]

_Shape = TypeVar("_Shape", bound=tuple[int, ...])
_Scalar = TypeVar("_Scalar", bound=np.generic)

TELLINGS: Final = 4
"""Times that a reader is told of a node, besides its first symbols and the last."""
FIRST_ROWS: Final = 4
OVERHEAD: Final = (0.01, 0.0001)
"""How often K symbols do not suffice, and K + 1: RFC 6330 says 1 % and 0.01 % at most."""


@dataclass(frozen=True, slots=True)
class Burst:
    """Symbols of one channel that were sent together."""

    start: int
    count: int
    repair: bool


class Told(NamedTuple):
    """What a reader hears of a channel: what came since it was told last."""

    reader: int
    row: int
    came: int
    new: int
    seen: tuple[int, int, int] | None
    """Lowest, highest and number of the source symbols."""


class Reception:
    """Rows are given to readers by `row` and taken back by `free`. A row that listens takes part in bursts."""

    def __init__(self, k: int, rng: np.random.Generator) -> None:
        self.k = k
        self._rng = rng
        self._row_of: dict[int, int] = {}
        self._unused = list(range(FIRST_ROWS - 1, -1, -1))
        counts, flags = np.zeros(FIRST_ROWS, dtype=np.intp), np.zeros(FIRST_ROWS, dtype=np.bool_)
        self._have = np.zeros((FIRST_ROWS, k), dtype=np.bool_)
        self._listening, self._enough, self._fresh = flags, flags.copy(), flags.copy()
        self._reader, self._got, self._came, self._new = counts, counts.copy(), counts.copy(), counts.copy()
        self._sources, self._low, self._high = counts.copy(), counts + k, counts - 1
        """Of the source symbols that a reader was not told of: how many came, the lowest and the highest."""
        self._need = counts + k
        """Symbols that suffice."""

    def __len__(self) -> int:
        """Readers that have a row."""
        return len(self._row_of)

    def row(self, reader: int) -> int:
        known = self._row_of.get(reader)
        if known is not None:
            return known
        if not self._unused:
            self._grow()
        row = self._row_of[reader] = self._unused.pop()
        self._reader[row] = reader
        return row

    def listen(self, reader: int) -> None:
        """From now on what is sent comes here. Who joins again is told again of the first symbols."""
        row = self.row(reader)
        self._fresh[row] |= not self._listening[row]
        self._listening[row] = True

    def stop(self, reader: int) -> None:
        row = self._row_of.get(reader)
        if row is not None:
            self._listening[row] = False

    def free(self, reader: int) -> None:
        """What has come is forgotten."""
        row = self._row_of.pop(reader, None)
        if row is None:
            return
        self._have[row] = False
        self._listening[row] = self._enough[row] = self._fresh[row] = False
        self._got[row] = self._came[row] = self._new[row] = 0
        self._forget_range(row)
        self._need[row] = self.k
        self._unused.append(row)

    def missing(self, row: int) -> int:
        """Symbols that have still to come, at least."""
        return max(0, self.k - int(self._got[row]))

    def has_enough(self, row: int) -> bool:
        return bool(self._enough[row])

    def listeners(self) -> Rows:
        """Rows that listen and have not enough."""
        return np.flatnonzero(self._listening & ~self._enough)

    @property
    def listening(self) -> int:
        """Rows that listen."""
        return int(self._listening.sum())

    def readers(self, rows: Rows) -> list[int]:
        found: list[int] = self._reader[rows].tolist()
        return found

    def needing(self, reader: int) -> int | None:
        """The row of a reader that listens and has not enough."""
        row = self._row_of.get(reader)
        return row if row is not None and self._listening[row] and not self._enough[row] else None

    def take(self, rows: Rows, burst: Burst, losses: Rates | None, *, at_once: bool = False) -> Iterator[Told]:
        """A burst comes to these rows, each symbol lost with the probability that `losses` has for its reader. Yields
        what to tell, and to whom; with `at_once` to all."""
        loss = losses[self._reader[rows]] if losses is not None else None
        came, new = self._repair(rows, burst, loss) if burst.repair else self._source(rows, burst, loss)
        self._got[rows] += new
        self._came[rows] += came
        self._new[rows] += new
        self._enough[rows] = enough = self._suffices(rows)
        unknown = self._new[rows] >= np.where(self._fresh[rows], 1, -(-self.k // TELLINGS))
        for row in rows[enough | unknown | at_once].tolist():
            source = int(self._sources[row])
            seen = (int(self._low[row]), int(self._high[row]), source) if source else None
            told = Told(int(self._reader[row]), row, int(self._came[row]), int(self._new[row]), seen)
            self._came[row] = self._new[row] = 0
            self._forget_range(row)
            self._fresh[row] = False
            yield told

    def _forget_range(self, row: int) -> None:
        self._sources[row], self._low[row], self._high[row] = 0, self.k, -1

    def _repair(self, rows: Rows, burst: Burst, loss: Rates | None) -> tuple[Rows, Rows]:
        if loss is None:
            came = np.full(len(rows), burst.count, dtype=np.intp)
        else:
            came = self._rng.binomial(burst.count, 1.0 - loss).astype(np.intp)
        return came, came

    def _source(self, rows: Rows, burst: Burst, loss: Rates | None) -> tuple[Rows, Rows]:
        columns = slice(burst.start, burst.start + burst.count)
        before = self._have[rows, columns]
        if loss is None:
            self._have[rows, columns] = True
            self._sources[rows] += burst.count
            self._low[rows] = np.minimum(self._low[rows], burst.start)
            self._high[rows] = np.maximum(self._high[rows], burst.start + burst.count - 1)
            return np.full(len(rows), burst.count, dtype=np.intp), burst.count - before.sum(axis=1, dtype=np.intp)
        kept = self._rng.random(before.shape, dtype=np.float32) >= loss[:, None]
        self._have[rows, columns] = before | kept
        self._widen(rows, burst.start, kept)
        return kept.sum(axis=1, dtype=np.intp), (kept & ~before).sum(axis=1, dtype=np.intp)

    def _widen(self, rows: Rows, start: int, kept: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> None:
        """Of each of these rows the symbols from `start` on came that are `kept`."""
        some, count = kept.any(axis=1), kept.shape[1]
        low, high = start + kept.argmax(axis=1), start + count - 1 - kept[:, ::-1].argmax(axis=1)
        self._sources[rows] += kept.sum(axis=1, dtype=np.intp)
        self._low[rows] = np.where(some, np.minimum(self._low[rows], low), self._low[rows])
        self._high[rows] = np.where(some, np.maximum(self._high[rows], high), self._high[rows])

    def _suffices(self, rows: Rows) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """K symbols nearly always do, and K source symbols always."""
        enough = self._got[rows] >= self._need[rows]
        for i in np.flatnonzero(enough & (self._need[rows] == self.k)).tolist():
            row = rows[i]
            if not self._have[row].all():
                draw = self._rng.random()
                self._need[row] += sum(draw < rare for rare in OVERHEAD)
                enough[i] = self._got[row] >= self._need[row]
        return enough

    def _grow(self) -> None:
        """Make room for twice as many readers."""
        size = len(self._reader)
        self._unused += range(2 * size - 1, size - 1, -1)
        self._have = _doubled(self._have)
        self._listening, self._enough, self._fresh = map(_doubled, (self._listening, self._enough, self._fresh))
        self._reader, self._got = _doubled(self._reader), _doubled(self._got)
        self._came, self._new = _doubled(self._came), _doubled(self._new)
        self._need = _doubled(self._need)
        self._sources, self._low, self._high = map(_doubled, (self._sources, self._low, self._high))
        self._need[size:] = self._low[size:] = self.k
        self._high[size:] = -1


def _doubled(array: np.ndarray[_Shape, np.dtype[_Scalar]]) -> np.ndarray[_Shape, np.dtype[_Scalar]]:
    return np.concatenate([array, np.zeros_like(array)])
