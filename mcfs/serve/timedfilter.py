"""A counting Bloom filter whose slots have deadlines: a set of (group, host) pairs in a fixed amount of memory.

Each pair has k slots. A slot counts the pairs that use it (one byte) and knows the latest of their deadlines (four
bytes, in ticks)::

    counts      0  1  0  2  1  0 ...      present:   all k counts are above 0
    deadlines   0 99  0 80 42  0 ...      alive:     all k deadlines are ahead

So a pair that is in the set is always found, and its deadline is never found too early. With a small probability a
pair that is not in the set is found, or a deadline is found too late: if every slot serves other pairs as well.

*Size.* n pairs with the probability p of a false positive take m = n ln(1/p) / (ln 2)^2 slots and k = log2(1/p) probes
(Bloom 1970); p = 0.1 % gives 14.4 slots of 5 bytes, 72 bytes for each pair, and 10 probes.

*Hashing.* The positions must be a secret, or a host could choose pairs that fill the slots of others. Two 32-bit hashes
come from multilinear hashing, h(g) = (a0 + a1 g1 + .. + a4 g4 mod 2^64) / 2^32 over the four words of the group, which
is strongly universal (Lemire and Kaser 2014); each host has coefficients of its own, which keyed BLAKE3 draws from its
address and the secret. Nobody sees a hash, nor what would tell of a collision. The k positions come by double hashing
(Kirsch and Mitzenmacher 2006). All this is a dozen numpy calls for a whole report.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from mcfs.protocol.ids import Group, Host

    Positions: TypeAlias = npt.NDArray[np.intp]
    Ticks: TypeAlias = npt.NDArray[np.uint32]
    Flags: TypeAlias = npt.NDArray[np.bool_]
    Hashes: TypeAlias = npt.NDArray[np.uint64]

FALSE_POSITIVES: Final = 1e-3
"""With as many pairs as the filter is made for; with half of them 1 in 100,000."""
SECRET_SIZE: Final = 32
BYTES_PER_SLOT: Final = 5

_GROUP_WORDS: Final = 4
_HASHES: Final = 2
_KEYS: Final = (1 + _GROUP_WORDS) * _HASHES
_REMEMBERED_HOSTS: Final = 4096
"""Hosts whose coefficients are kept, 200 bytes each: to draw them takes as long as to hash a report."""
_STUCK: Final = 255
"""A count that comes so far stays: what it really was is lost. With these sizes a count of 10 is a rarity."""
_LOW_32: Final = np.uint64(0xFFFFFFFF)
_32: Final = np.uint64(32)


def slots_for(pairs: int, false_positives: float = FALSE_POSITIVES) -> int:
    return math.ceil(pairs * math.log(1 / false_positives) / math.log(2) ** 2)


def probes_for(false_positives: float = FALSE_POSITIVES) -> int:
    return max(1, round(math.log2(1 / false_positives)))


class TimedFilter:
    """The set. Deadlines are whole ticks of the caller's clock, below 2^32.

    :param pairs: how many it shall hold
    :param secret: 32 random bytes
    :param false_positives: the probability that a pair which is not in it is found, when it holds so many
    """

    def __init__(self, pairs: int, secret: bytes, false_positives: float = FALSE_POSITIVES) -> None:
        self._slots = slots_for(pairs, false_positives)
        self._secret = secret
        self._counts = np.zeros(self._slots, np.uint8)
        self._deadlines = np.zeros(self._slots, np.uint32)
        self._steps = np.arange(probes_for(false_positives), dtype=np.uint64)
        self._keys = lru_cache(_REMEMBERED_HOSTS)(self._draw_keys)

    @property
    def nbytes(self) -> int:
        return self._counts.nbytes + self._deadlines.nbytes

    def positions(self, host: Host, groups: Sequence[Group]) -> Positions:
        """Where the pairs of one host are: intp[len(groups), probes]."""
        first, factors = self._keys(host)
        words = np.frombuffer(b"".join(groups), np.uint32).reshape(-1, _GROUP_WORDS).astype(np.uint64)
        hashes = (first + words @ factors) >> _32
        probes = (hashes[:, :1] + self._steps * hashes[:, 1:]) & _LOW_32
        return (probes * np.uint64(self._slots) >> _32).view(np.int64)

    def present(self, positions: Positions) -> Flags:
        found: Flags = np.all(self._counts[positions] != 0, axis=1)
        return found

    def deadlines(self, positions: Positions) -> Ticks:
        """The earliest tick of each pair: not before its own, and hardly ever after it."""
        return self._deadlines[positions].min(axis=1, initial=np.uint32(0xFFFFFFFF))  # type: ignore[no-any-return]

    def refresh(self, positions: Positions, tick: int) -> None:
        """Their deadlines are no earlier than `tick`."""
        self._deadlines[positions] = np.maximum(self._deadlines[positions], np.uint32(tick))

    def add(self, positions: Positions, tick: int) -> None:
        """Pairs that are not in the set."""
        slots, times = np.unique(positions, return_counts=True)
        self._counts[slots] = np.minimum(self._counts[slots] + times, _STUCK)
        self.refresh(positions, tick)

    def remove(self, positions: Positions) -> None:
        """Pairs that are in the set: to remove another one would take from those that are."""
        slots, times = np.unique(positions, return_counts=True)
        counts = self._counts[slots]
        self._counts[slots] = np.where(counts == _STUCK, counts, counts - np.minimum(times, counts))

    def rebuild(self, positions: Positions) -> None:
        """The set is these pairs and no others; deadlines stay."""
        counts = np.bincount(positions.ravel(), minlength=self._slots)
        self._counts[:] = np.minimum(counts, _STUCK)

    def _draw_keys(self, host: Host) -> tuple[Hashes, Hashes]:
        """Coefficients, from a0 on: uint64[2] and uint64[4, 2]."""
        drawn = np.frombuffer(blake3(host, key=self._secret).digest(8 * _KEYS), np.uint64).reshape(-1, _HASHES)
        return drawn[0], drawn[1:]
