"""The file that is read: names and sizes are real, contents are not. Its hashes are noise, and nobody checks them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mcfs.protocol import addressing, fec, wire
from mcfs.protocol.addressing import addresser_of
from mcfs.protocol.catalog import Extent
from mcfs.protocol.errors import BadNode
from mcfs.protocol.ids import DIGEST_SIZE, Digest, Group, Node, ObjectRef
from mcfs.serve.channel import Channel
from mcfs.serve.payload import Payload

if TYPE_CHECKING:
    from random import Random

    from mcfs.protocol.merkle import Buffer

SCOPE: Final = addressing.SITE_LOCAL
SHARE: Final = b"data"
SYMBOL_SIZE: Final = wire.max_symbol_size()


class SimulatedFile:
    """One object, in the roles of the server's store and of the client's cache."""

    def __init__(self, size: int, block_size: int, rng: Random) -> None:
        self.ref = ObjectRef(size, block_size, Digest(rng.randbytes(DIGEST_SIZE)))
        self.extent = Extent(self.ref, 0, size)
        self._rng = rng
        self._addresser = addresser_of(self.ref)
        self._block = memoryview(bytes(min(size, block_size)))
        self._pages: dict[Node, memoryview] = {}
        self._channels: dict[bytes, Channel | None] = {}

    @property
    def symbols(self) -> int:
        """Source symbols of all blocks."""
        geometry = self.ref.geometry
        sizes = (geometry.node_size(0, i) for i in range(geometry.counts[0]))
        return sum(fec.source_symbols(size, fec.symbol_size(size, SYMBOL_SIZE)) for size in sizes)

    def resolve(self, group: bytes) -> Channel | None:
        """As the server's store does. Remembered, as all readers ask for the same."""
        if group not in self._channels:
            self._channels[group] = self._resolve(group)
        return self._channels[group]

    def node(self, group: Group) -> Node | None:
        channel = self.resolve(group)
        return channel.node if channel is not None else None

    def data(self, node: Node) -> memoryview:
        """Bytes of the node's length. Those of pages are noise, so that no block is taken for one of zeros."""
        if node.level == 0:
            return self._block[: node.size]
        page = self._pages.get(node)
        if page is None:
            page = self._pages[node] = memoryview(self._rng.randbytes(node.size))
        return page

    def _resolve(self, group: bytes) -> Channel | None:
        if addressing.tag_of(group) != self._addresser.tag or addressing.scope_of(group) != SCOPE:
            return None
        at = self._addresser.coordinate(Group(group))
        if at is None or not self.ref.geometry.has(at.kind, at.index):
            return None
        return Channel(Group(group), Node(self.ref, at.kind, at.index), at.pace, frozenset((SHARE,)))


def check_length(node: Node, data: Buffer, expected: Digest) -> None:
    """In place of the check of the hash. Raises BadNode."""
    if len(data) != node.size:
        raise BadNode(f"level {node.level} index {node.index}")


class CountedPayload(Payload):
    """A node that the server has loaded, without its bytes: symbols are counted and never made."""

    __slots__ = ()

    def __init__(self, node: Node) -> None:
        self.node = node
        self.length = node.size
        self.symbol_size = fec.symbol_size(node.size, SYMBOL_SIZE)

    @property
    def nbytes(self) -> int:
        """What it would hold with its bytes."""
        return fec.source_symbols(self.length, self.symbol_size) * (self.symbol_size + wire.HEADER_SIZE)
