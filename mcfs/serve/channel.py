"""A channel: one node in one pace class, carried by one multicast group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcfs.protocol.ids import Group, Node


@dataclass(frozen=True, slots=True)
class Channel:
    group: Group
    node: Node
    pace: int
    shares: frozenset[bytes] = frozenset()
    """Names of the shares that the node is part of."""

    def is_only_in(self, shares: frozenset[bytes]) -> bool:
        """Whether it is part of some of these shares and of no other one."""
        return bool(self.shares) and self.shares <= shares
