"""What is in a datagram: one UDP payload, big-endian.

::

     0       1       2               4               8              12
    +-------+-------+---------------+---------------+---------------+----------
    | vers. | type  |   reserved    | transfer len. |      ESI      | symbol...     type 1
    +-------+-------+---------------+---------------+---------------+----------
    | vers. | type  | reserved/hold | body ...                                    types 2 to 6
    +-------+-------+---------------+----------

The destination group names the node and its pace class, so the header need not. T, the symbol's size, is what is left
of the datagram; it is a multiple of 8. An unknown version or type is counted and dropped. Behind the symbol of a share
with a key stands a tag of 16 bytes: the authenticator of ChaCha20-Poly1305 (RFC 8439) with no plaintext and all that is
before it as additional data, under a key of the node (`seal.py`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.fec import ALIGNMENT, MAX_ESI, Esis, Symbols, is_symbol_size

if TYPE_CHECKING:
    import numpy.typing as npt

    from mcfs.protocol.merkle import Buffer

VERSION: Final = 1
SYMBOL: Final = 1
ANNOUNCEMENT: Final = 2
BEACON: Final = 3
GONE: Final = 4
SEALED: Final = 5
"""A datagram of type 2 to 4 of a share with a key: see `mcfs.protocol.seal`."""
KEYED: Final = 6
"""There are shares with a key here. Nothing else is said of them, and anybody can say it."""

HEADER_SIZE: Final = 12
TAG_SIZE: Final = 16
"""What stands behind a symbol of a share with a key; room is kept for it so that T is the same with and without."""
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
_T: Final = struct.Struct(">I")
_SHORTEST_TAGGED: Final = HEADER_SIZE + ALIGNMENT + TAG_SIZE
_START: Final = VERSION << 24 | SYMBOL << 16


def max_symbol_size(mtu: int = DEFAULT_MTU) -> int:
    """T that fills a datagram of this MTU: 1,424 bytes at 1,500."""
    return (mtu - IPV6_UDP_OVERHEAD - HEADER_SIZE - TAG_SIZE) // ALIGNMENT * ALIGNMENT


def datagram_size(t: int, *, tagged: bool) -> int:
    """Bytes of a datagram with a symbol of T bytes."""
    return HEADER_SIZE + t + (TAG_SIZE if tagged else 0)


def frame(length: int, esis: Esis, symbols: Symbols, tag_key: bytes = b"") -> Symbols:
    """Datagrams as uint8[n, 12 + T] for symbols uint8[n, T] of a node of `length` bytes; with a key for tags (32
    bytes) uint8[n, 12 + T + 16]."""
    n, t = symbols.shape
    out = np.empty((n, datagram_size(t, tagged=bool(tag_key))), dtype=np.uint8)
    out[:, HEADER_SIZE : HEADER_SIZE + t] = symbols
    _finish(out, length, esis, tag_key)
    return out


def frame_source(data: Buffer, t: int, tag_key: bytes = b"") -> Symbols:
    """The same for the source symbols of a node, with zeros behind its last byte: `data` is copied once."""
    length = len(data)
    whole, rest = divmod(length, t)
    out = np.empty((whole + (rest > 0), datagram_size(t, tagged=bool(tag_key))), dtype=np.uint8)
    flat = np.frombuffer(data, dtype=np.uint8)
    symbols = out[:, HEADER_SIZE : HEADER_SIZE + t]
    symbols[:whole] = flat[: whole * t].reshape(whole, t)
    if rest:
        symbols[whole, :rest] = flat[whole * t :]
        symbols[whole, rest:] = 0
    _finish(out, length, np.arange(len(out), dtype=np.uint32), tag_key)
    return out


def _finish(out: Symbols, length: int, esis: Esis, tag_key: bytes) -> None:
    """Headers, and tags if there is a key for them, to symbols that are where they belong."""
    header = np.empty(len(out), dtype=_HEADER_DTYPE)
    header["start"], header["length"], header["esi"] = _START, length, esis
    out[:, :HEADER_SIZE] = header.view(np.uint8).reshape(len(out), HEADER_SIZE)
    if tag_key:
        out[:, -TAG_SIZE:] = tags(out, tag_key)


def tags(datagrams: Symbols, key: bytes) -> Symbols:
    """The right tags of datagrams uint8[n, size], whose last 16 bytes are not looked at, as uint8[n, 16].

    The only loop over datagrams where nothing is lost: one authenticator for each, 1.0 us for a full one where keyed
    BLAKE2b takes 1.5 (m). The nonce is the header with T in the place of what is the same in all: for each there is one
    right symbol.
    """
    n, size = datagrams.shape
    nonces = datagrams[:, :HEADER_SIZE].copy()
    nonces[:, : _T.size] = np.frombuffer(_T.pack(size - HEADER_SIZE - TAG_SIZE), dtype=np.uint8)
    covered = struct.iter_unpack(f"{size - TAG_SIZE}s{TAG_SIZE}x", np.ascontiguousarray(datagrams).reshape(-1).data)
    tag = ChaCha20Poly1305(key).encrypt
    found = [
        tag(nonce, b"", data)
        for (nonce,), (data,) in zip(struct.iter_unpack(f"{HEADER_SIZE}s", nonces.tobytes()), covered, strict=True)
    ]
    return np.frombuffer(b"".join(found), dtype=np.uint8).reshape(n, TAG_SIZE)


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


def genuine_untrusted(datagrams: Symbols, key: bytes) -> npt.NDArray[np.bool_]:
    """Which datagrams, uint8[n, size] or [m, n, size], carry the tag that they must have: bool[n] or [m n].

    The work is the same for right and wrong ones. Raises BadDatagram if none can: they are too short.
    """
    size = datagrams.shape[-1]
    if size < _SHORTEST_TAGGED or datagrams.size == 0:
        raise BadDatagram("symbol size")
    messages = datagrams if datagrams.ndim == 3 else (datagrams,)
    right = np.concatenate([tags(message, key) for message in messages])
    genuine: npt.NDArray[np.bool_] = (right == datagrams[..., -TAG_SIZE:].reshape(-1, TAG_SIZE)).all(axis=1)
    return genuine


def is_genuine_untrusted(datagram: npt.NDArray[np.uint8], key: bytes) -> bool:
    """Whether one datagram, uint8[size], carries the tag that it must have: a third of the time of the above."""
    data = datagram.tobytes()
    if len(data) < _SHORTEST_TAGGED:
        return False
    nonce = _T.pack(len(data) - HEADER_SIZE - TAG_SIZE) + data[_T.size : HEADER_SIZE]
    return ChaCha20Poly1305(key).encrypt(nonce, b"", data[:-TAG_SIZE]) == data[-TAG_SIZE:]


def no_symbols(datagrams: Symbols) -> int:
    """How many of these datagrams, uint8[n, size] or [m, n, size], do not say that they are symbols."""
    size = datagrams.shape[-1]
    count = datagrams.size // max(1, size)
    return count - int(np.count_nonzero(datagrams[..., 1] == SYMBOL)) if size > 1 else count


def control(kind: int, body: bytes, hold_ms: int = 0) -> bytes:
    """A control datagram without a seal; `hold_ms` is a beacon's: how long the server holds new channels."""
    return CONTROL_HEADER.pack(VERSION, kind, hold_ms) + body


def control_untrusted(datagram: bytes) -> tuple[int, bytes]:
    """Type and body of a datagram that came in a control channel. Raises BadDatagram."""
    if len(datagram) < CONTROL_HEADER.size:
        raise BadDatagram("short")
    version, kind, _ = CONTROL_HEADER.unpack_from(datagram)
    if version != VERSION or kind not in (ANNOUNCEMENT, BEACON, GONE, KEYED):
        raise BadDatagram("version or type")
    return kind, datagram[CONTROL_HEADER.size :]


def hold_untrusted(datagram: bytes) -> float:
    """Seconds for which the sender of a beacon holds new channels, MAX_HOLD at most. Raises BadDatagram."""
    if len(datagram) < CONTROL_HEADER.size:
        raise BadDatagram("short")
    hold_ms: int = CONTROL_HEADER.unpack_from(datagram)[2]
    return min(MAX_HOLD, hold_ms / 1000)
