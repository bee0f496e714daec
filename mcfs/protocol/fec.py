"""RaptorQ (RFC 6330) over one node: one source block, one sub-block (Z = N = 1).

The code works byte column by byte column, so how a symbol is cut into sub-symbols changes nothing about its bytes. The
`raptorq` package cuts transfers of more than about 10 MiB into sub-blocks all the same; `_sub_blocks` finds out into
how many and the data are permuted on the way in and out, so that what is on the wire is always N = 1 and systematic.

Encoder set-up costs about 3 ms per MiB, a decode with loss 2 ms, and both hold the GIL: they are kept off the path
without loss, where source symbols are the node's own bytes.
"""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
import raptorq

Bytes1D: TypeAlias = np.ndarray[tuple[int], np.dtype[np.uint8]]
Symbols: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.uint8]]
"""uint8[n, T]: one encoding symbol a row."""
Esis: TypeAlias = np.ndarray[tuple[int], np.dtype[np.uint32]]

ALIGNMENT: Final = 8
"""T is a multiple of this (Al of RFC 6330 section 4.3)."""
MAX_ESI: Final = (1 << 24) - 1
MAX_SOURCE_SYMBOLS: Final = 56403
"""K'_max of RFC 6330 section 5.1.2."""
FEW: Final = 1024
"""Source symbols of any size."""
LEAST: Final = 1024
"""Bytes of a symbol where there are more: at an MTU of 1,280, the least of IPv6, a sender's have 1,200."""
_MAX_SUB_BLOCKS: Final = 22


def symbol_size(length: int, max_symbol_size: int) -> int:
    """T for a node of `length` bytes: the largest that fits the MTU, or less for a node smaller than one symbol."""
    return min(max_symbol_size, -(-length // ALIGNMENT) * ALIGNMENT)


def is_symbol_size(length: int, t: int) -> bool:
    """Whether a receiver takes symbols of this size, for a node of `length` bytes. Decoding costs 3 us for each symbol,
    however short it is: a node of 1 MiB in symbols of 24 bytes would take a processor 0.2 s."""
    return (
        t >= ALIGNMENT and t % ALIGNMENT == 0 and source_symbols(length, t) <= max(FEW, source_symbols(length, LEAST))
    )


def source_symbols(length: int, t: int) -> int:
    """K: the number of source symbols of a node."""
    return -(-length // t)


class Encoder:
    """Repair symbols of one node. `source` is uint8[K, T], the last row padded with zeros."""

    def __init__(self, source: Symbols) -> None:
        self._k, self._t = source.shape
        data = _cut(source, _sub_blocks(self._k, self._t))
        self._encoder = raptorq.Encoder.with_defaults(data.tobytes(), self._t)

    def repair(self, start: int, count: int) -> Symbols:
        """Repair symbols with ESI K + start and following, as uint8[count, T]."""
        packets = self._encoder.get_encoded_packets(start + count)[self._k + start :]
        joined = np.frombuffer(b"".join(packets), dtype=np.uint8).reshape(count, 4 + self._t)
        return joined[:, 4:]


class Decoder:
    """Collects symbols of one node until they suffice; K or, rarely, a few more."""

    def __init__(self, k: int, t: int) -> None:
        self._k, self._t = k, t
        self._decoder = raptorq.Decoder.with_defaults(k * t, t)

    def add(self, esis: Esis, symbols: Symbols) -> Symbols | None:
        """Feed symbols, all distinct; the source as uint8[K, T] once it is known, else None."""
        packets = np.empty((len(esis), 4 + self._t), dtype=np.uint8)
        packets[:, :4] = esis.astype(">u4").view(np.uint8).reshape(-1, 4)
        packets[:, 4:] = symbols
        for packet in packets:
            decoded = self._decoder.decode(packet.tobytes())
            if decoded is not None:
                data = np.frombuffer(decoded, dtype=np.uint8)
                return _join(data, self._k, self._t, _sub_blocks(self._k, self._t))
        return None


def _cut(source: Symbols, n: int) -> Symbols:
    """Lay symbols out as the library cuts them: sub-block after sub-block."""
    if n == 1:
        return source
    return np.concatenate([part.reshape(-1) for part in np.split(source, _cuts(source.shape[1], n), axis=1)])


def _join(data: Bytes1D, k: int, t: int, n: int) -> Symbols:
    if n == 1:
        return data.reshape(k, t)
    ends = [0, *_cuts(t, n), t]
    return np.concatenate([data[k * a : k * b].reshape(k, b - a) for a, b in itertools.pairwise(ends)], axis=1)


def _cuts(t: int, n: int) -> list[int]:
    """Where a symbol is cut into n sub-symbols: Partition[T/Al, N] of RFC 6330 section 4.4.1.2."""
    units = t // ALIGNMENT
    large, small, number_large = -(-units // n), units // n, units % n
    return [ALIGNMENT * (min(i, number_large) * large + max(0, i - number_large) * small) for i in range(1, n)]


@lru_cache(maxsize=64)
def _sub_blocks(k: int, t: int) -> int:
    """N that the library chooses for K symbols of T bytes, found by sending a known pattern through its decoder.

    Its choice depends on a table inside it; a decode of source symbols alone is a copy, so asking is cheap.
    """
    if k * t <= 8 << 20:  # below its working memory of 10 MiB there is never more than one
        return 1
    numbers = np.arange(k * t, dtype=np.uint32) * np.uint32(2654435761)
    pattern = (numbers >> np.uint32(24)).astype(np.uint8).reshape(k, t)
    decoder = raptorq.Decoder.with_defaults(k * t, t)
    arranged = None
    for i in range(k):
        arranged = decoder.decode(i.to_bytes(4, "big") + pattern[i].tobytes())
    for n in range(1, _MAX_SUB_BLOCKS + 1):
        if arranged == _cut(pattern, n).tobytes():
            return n
    raise AssertionError(f"the raptorq package lays out K={k} T={t} in an unknown way")
