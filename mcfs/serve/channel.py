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
