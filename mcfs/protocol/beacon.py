"""Beacons: which channels a server is about to serve, told in the share's own channel.

The body is a sequence of channel names, the 14 bytes of a group address behind ``ff1S``, in no particular order. A
client that is going to need one of these nodes joins now, so that one pass serves it too; one that waits knows that its
node is queued. Beacons are hints: they are not signed, and nothing that a client hands out depends on them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.ids import Group

if TYPE_CHECKING:
    from collections.abc import Iterable

TAIL: Final = 14
MAX_CHANNELS: Final = 80
"""What fits a packet of 1,280 bytes, the least MTU of IPv6: a beacon is never fragmented."""


def encode_beacon(groups: Iterable[Group]) -> bytes:
    """The body of a beacon that names up to MAX_CHANNELS groups."""
    return b"".join(group[-TAIL:] for group in groups)[: TAIL * MAX_CHANNELS]


def decode_beacon_untrusted(body: bytes, prefix: bytes) -> list[Group]:
    """The groups named, which begin with `prefix` (2 bytes: those of the channel it came in). Raises BadDatagram."""
    if not body or len(body) % TAIL or len(body) > TAIL * MAX_CHANNELS:
        raise BadDatagram("beacon")
    return [Group(prefix + body[at : at + TAIL]) for at in range(0, len(body), TAIL)]
