"""A loaded node, framed for sending: source datagrams at once, repair datagrams on demand."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import numpy as np

from mcfs.protocol import fec, wire
from mcfs.protocol.seal import NodeSeal

if TYPE_CHECKING:
    from mcfs.protocol.fec import Symbols
    from mcfs.protocol.ids import Node
    from mcfs.protocol.merkle import Buffer

CACHE_BYTES: Final = 32 << 20
"""Framed nodes kept for repair and for readers that come a little later."""

REPAIR_CHUNK: Final = 64
"""Repair symbols made at a time, at least."""


class Payload:
    """The datagrams of one node. Frames are uint8[n, 12 + T], with a key uint8[n, 12 + T + 16], rows in ESI order."""

    __slots__ = ("_encoder", "_repair", "_repair_start", "_source", "_tag_key", "length", "node", "symbol_size")

    def __init__(self, node: Node, data: Buffer, max_symbol_size: int) -> None:
        """`data` is what is sent of the node: sealed, if it has a key."""
        self.node = node
        self._tag_key = NodeSeal(node.keys, node).tag_key if node.keys else b""
        self.length = len(data)
        self.symbol_size = fec.symbol_size(self.length, max_symbol_size)
        self._source = wire.frame_source(data, self.symbol_size, self._tag_key)
        self._encoder: fec.Encoder | None = None
        self._repair = self._source[:0]
        self._repair_start = 0

    @property
    def nbytes(self) -> int:
        """Memory held, the encoder's intermediate symbols included."""
        return self._source.nbytes * (2 if self._encoder else 1) + self._repair.nbytes

    def source(self, start: int, count: int) -> Symbols:
        """Source datagrams [start, start + count), a view."""
        return self._source[start : start + count]

    def repair(self, start: int, count: int) -> Symbols:
        """Repair datagrams with ESI K + start and following. The first call sets the encoder up (3 ms per MiB)."""
        if self._encoder is None:
            symbols = self._source[:, wire.HEADER_SIZE : wire.HEADER_SIZE + self.symbol_size]
            self._encoder = fec.Encoder(np.ascontiguousarray(symbols))
        at = start - self._repair_start
        if at < 0 or at + count > len(self._repair):
            self._make_repair(self._encoder, start, max(count, REPAIR_CHUNK, len(self._source) // 8))
            at = 0
        return self._repair[at : at + count]

    def _make_repair(self, encoder: fec.Encoder, start: int, count: int) -> None:
        """Each call of the encoder gives all packets from the first on, so a few large ones are made."""
        first = len(self._source) + start
        count = min(count, fec.MAX_ESI + 1 - first)
        esis = np.arange(first, first + count, dtype=np.uint32)
        self._repair = wire.frame(self.length, esis, encoder.repair(start, count), self._tag_key)
        self._repair_start = start


class PayloadCache:
    """The most recently used payloads, bounded by bytes."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._payloads: OrderedDict[Node, Payload] = OrderedDict()

    def get(self, node: Node) -> Payload | None:
        payload = self._payloads.get(node)
        if payload is not None:
            self._payloads.move_to_end(node)
        return payload

    def put(self, payload: Payload) -> None:
        self._payloads[payload.node] = payload
        total = sum(p.nbytes for p in self._payloads.values())
        while total > self._max_bytes and len(self._payloads) > 1:
            _, oldest = self._payloads.popitem(last=False)
            total -= oldest.nbytes

    def clear(self) -> None:
        self._payloads.clear()
