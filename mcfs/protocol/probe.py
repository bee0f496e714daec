"""The probe object: bytes that both sides can compute, so that a host can ask a server for datagrams and know them all.

`mcfs doctor` joins the group of its one block as a reader would, and counts what comes. Every server answers, whatever
it publishes. Its size makes 1,000 source symbols at an MTU of 1,500; it is no secret and is announced nowhere.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from blake3 import blake3

from mcfs.protocol.addressing import SITE_LOCAL, addresser_of, node_group
from mcfs.protocol.ids import Group, Node, ObjectRef
from mcfs.protocol.merkle import object_of

PROBE_SIZE: Final = 1000 * 1424
"""Bytes: 1,000 symbols of `wire.max_symbol_size(1500)`."""
PROBE_BLOCK_SIZE: Final = 2 << 20
"""The smallest that holds it in one block: there is no page to fetch."""
_CONTEXT: Final = "mcfs 1 probe"


def probe_content() -> bytes:
    """The bytes of the probe object. 1 ms."""
    return blake3(b"", derive_key_context=_CONTEXT).digest(length=PROBE_SIZE)


@lru_cache(maxsize=1)
def probe_object() -> ObjectRef:
    return object_of(probe_content(), PROBE_BLOCK_SIZE)[0]


def probe_node() -> Node:
    """Its only block."""
    return Node(probe_object(), 0, 0)


def probe_group(pace: int, scope: int = SITE_LOCAL) -> Group:
    """The group that carries it in a pace class (0 to 7)."""
    return node_group(probe_node(), pace, addresser_of(probe_object()), scope)
