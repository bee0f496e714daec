"""What is in a datagram: one UDP payload, big-endian.

::

     0       1       2               4               8              12
    +-------+-------+---------------+---------------+---------------+----------
    | vers. | type  |   reserved    | transfer len. |      ESI      | symbol...     type 1
    +-------+-------+---------------+---------------+---------------+----------
    | vers. | type  | reserved/hold | body ...                                    types 2 to 4
    +-------+-------+---------------+----------

The destination group names the node and its pace class, so the header need not. T, the symbol's size, is what is left
of the datagram; it is a multiple of 8. An unknown version or type is counted and dropped.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.fec import ALIGNMENT, MAX_ESI, Esis, Symbols, is_symbol_size

VERSION: Final = 1
SYMBOL: Final = 1
ANNOUNCEMENT: Final = 2
BEACON: Final = 3
GONE: Final = 4

HEADER_SIZE: Final = 12
TAG_SIZE: Final = 16
"""What a share with a key appends; room is kept for it so that T is the same with and without."""
CONTROL_HEADER: Final = struct.Struct(">BBH")
IPV6_UDP_OVERHEAD: Final = 48
LINK_OVERHEAD: Final = IPV6_UDP_OVERHEAD + 14 + 4
"""Bytes around a payload on Ethernet, frame check included: what a rate is counted in."""
DEFAULT_MTU: Final = 1500
MIN_MTU: Final = 1280
"""RFC 8200 section 5."""
DEFAULT_PORT: Final = 27027
MAX_HOLD: Final = 0.5
"""Seconds that a beacon can make a client believe in: it only makes read-ahead longer."""

_HEADER: Final = struct.Struct(">BBHII")
_HEADER_DTYPE: Final = np.dtype([("start", ">u4"), ("length", ">u4"), ("esi", ">u4")])
_START: Final = VERSION << 24 | SYMBOL << 16


def max_symbol_size(mtu: int = DEFAULT_MTU) -> int:
    """T that fills a datagram of this MTU: 1,424 bytes at 1,500."""
    return (mtu - IPV6_UDP_OVERHEAD - HEADER_SIZE - TAG_SIZE) // ALIGNMENT * ALIGNMENT


def frame(length: int, esis: Esis, symbols: Symbols) -> Symbols:
    """Datagrams as uint8[n, 12 + T] for symbols uint8[n, T] of a node of `length` bytes."""
    n, t = symbols.shape
    out = np.empty((n, HEADER_SIZE + t), dtype=np.uint8)
    header = np.empty(n, dtype=_HEADER_DTYPE)
    header["start"], header["length"], header["esi"] = _START, length, esis
    out[:, :HEADER_SIZE] = header.view(np.uint8).reshape(n, HEADER_SIZE)
    out[:, HEADER_SIZE:] = symbols
    return out


@dataclass(frozen=True, slots=True)
class SymbolRun:
    """Symbols of one node from one source, as they came."""

    length: int
    esis: Esis
    symbols: Symbols
    """uint8[n, T], or uint8[m, n, T] if m messages of n datagrams each came one after another."""
    contiguous: bool
    """Whether the ESIs count up by one."""

    @property
    def rows(self) -> Symbols:
        """uint8[n, T]: a copy if several messages came."""
        return self.symbols.reshape(-1, self.symbols.shape[-1])


def symbol_run_untrusted(datagrams: Symbols, node_size: int) -> SymbolRun:
    """Check datagrams of one size, uint8[n, size] or [m, n, size], of one channel for a node of `node_size` bytes.

    Rows that are not what they should be are left out. Raises BadDatagram when none is left. The result is a view.
    """
    size = datagrams.shape[-1]
    t = size - HEADER_SIZE
    if not is_symbol_size(node_size, t) or datagrams.size == 0:
        raise BadDatagram("symbol size")
    header = np.ascontiguousarray(datagrams[..., :HEADER_SIZE]).reshape(-1).view(_HEADER_DTYPE)
    esis = header["esi"].astype(np.uint32)
    good = (header["start"] == _START) & (header["length"] == node_size) & (esis <= MAX_ESI)
    symbols = datagrams[..., HEADER_SIZE:]
    if not good.all():
        esis, symbols = esis[good], symbols.reshape(-1, t)[good]
        if not len(esis):
            raise BadDatagram("symbol header")
    contiguous = int(esis[-1]) - int(esis[0]) == len(esis) - 1 and bool((np.diff(esis) == 1).all())
    return SymbolRun(node_size, esis, symbols, contiguous)


def control(kind: int, body: bytes, hold_ms: int = 0) -> bytes:
    """A control datagram; `hold_ms` is a beacon's: how long the server holds new channels."""
    return CONTROL_HEADER.pack(VERSION, kind, hold_ms) + body


def control_untrusted(datagram: bytes) -> tuple[int, bytes]:
    """Type and body of a datagram that came in a control channel. Raises BadDatagram."""
    if len(datagram) < CONTROL_HEADER.size:
        raise BadDatagram("short")
    version, kind, _ = CONTROL_HEADER.unpack_from(datagram)
    if version != VERSION or kind not in (ANNOUNCEMENT, BEACON, GONE):
        raise BadDatagram("version or type")
    return kind, datagram[CONTROL_HEADER.size :]


def hold_untrusted(datagram: bytes) -> float:
    """Seconds for which the sender of a beacon holds new channels, MAX_HOLD at most. Raises BadDatagram."""
    if len(datagram) < CONTROL_HEADER.size:
        raise BadDatagram("short")
    hold_ms: int = CONTROL_HEADER.unpack_from(datagram)[2]
    return min(MAX_HOLD, hold_ms / 1000)
