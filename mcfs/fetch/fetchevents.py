"""What comes of fetching: nodes whose symbols suffice, and nodes that cannot be had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcfs.protocol.errors import BadNode, NotAvailable
    from mcfs.protocol.ids import Host, Node
    from mcfs.protocol.seal import NodeSeal


@dataclass(frozen=True, slots=True)
class Assembled:
    """Symbols sufficed; answer with `accept` or `reject` once the hash is known."""

    node: Node
    data: memoryview
    source: Host
    seal: NodeSeal | None = None
    """What has still to be opened."""


@dataclass(frozen=True, slots=True)
class Failed:
    node: Node
    error: NotAvailable | BadNode


Event = Assembled | Failed
