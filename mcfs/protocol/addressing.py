"""Which multicast group carries which node.

A group address is ``ff1S:`` and 112 bits::

     0               16                              80              128
    +----+----+-------+-------------------------------+----------------+
    | ff | 1  |   S   |     object tag (64 bits)      | slot (48 bits) |
    +----+----+-------+-------------------------------+----------------+

S is the scope (RFC 4291 section 2.7; default 5, site-local), the flag says "transient". The tag is a hash of the object
id. The slot is a permuted 47-bit coordinate around bit 31, which is always 1 (RFC 3307 section 4.3: dynamic group ids
have it set). Coordinate: kind and level (4 bits), pace class (3), index (40).

The permutation makes the low 32 bits, the only ones that Ethernet and many snooping switches look at, differ
pseudo-randomly between neighbours, and it can be inverted: a server finds the object by its tag and computes the node,
so its index grows with the number of objects and not of blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from mcfs.protocol.ids import PACE_CLASSES, Group, Node, ObjectRef

if TYPE_CHECKING:
    from mcfs.protocol.keys import ShareKeys

SITE_LOCAL: Final = 5
SCOPES: Final = range(3, 15)
"""Interface-local (1) and link-local (2) never leave the host or are not snooped (RFC 4541 section 3)."""
CONTROL_KIND: Final = 15
"""The kind of a share's own channel and of the catalogue channel; 0 is a block, 1 to 14 the level of a page."""

_TAG_CONTEXT: Final = "mcfs 1 group"
_INDEX_BITS: Final = 40
_CLASS_BITS: Final = 3
_LOW_BITS: Final = 23
_HIGH_MASK: Final = (1 << 24) - 1
_LOW_MASK: Final = (1 << _LOW_BITS) - 1
_FLAG_BIT: Final = 1 << 31
_ROUNDS: Final = 4


@dataclass(frozen=True, slots=True)
class Coordinate:
    """What a slot says: kind or level (0..15), pace class (0..7), index (0..2^40-1)."""

    kind: int
    pace: int
    index: int

    def pack(self) -> int:
        return (self.kind << _CLASS_BITS | self.pace) << _INDEX_BITS | self.index

    @staticmethod
    def unpack(value: int) -> Coordinate:
        return Coordinate(
            value >> (_INDEX_BITS + _CLASS_BITS),
            value >> _INDEX_BITS & (PACE_CLASSES - 1),
            value & ((1 << _INDEX_BITS) - 1),
        )


class Addresser:
    """The addresses of one name, with its permutation.

    A name is a kind of channel ("object", "share", "senders", "catalogue", "keyed": none begins another) and what says
    which one, of which only the last part has no fixed length: no two channels have one name. With a key the hash is
    keyed, a mode of its own: an outsider can then compute no group that he has not seen.
    """

    __slots__ = ("_keys", "tag")

    def __init__(self, name: bytes, keys: ShareKeys | None = None) -> None:
        hasher = blake3(name, key=keys.groups) if keys else blake3(name, derive_key_context=_TAG_CONTEXT)
        material = hasher.digest(length=8 + 32 * _ROUNDS)
        self.tag = material[:8]
        self._keys = tuple(material[8 + 32 * i : 40 + 32 * i] for i in range(_ROUNDS))

    def group(self, coordinate: Coordinate, scope: int = SITE_LOCAL) -> Group:
        value = self._permute(coordinate.pack())
        slot = (value >> 31) << 32 | _FLAG_BIT | value & (_FLAG_BIT - 1)
        return Group(prefix(scope) + self.tag + slot.to_bytes(6, "big"))

    def coordinate(self, group: bytes) -> Coordinate | None:
        """The coordinate behind a group address that carries this tag; None if bit 31 is not set."""
        slot = int.from_bytes(group[10:16], "big")
        if not slot & _FLAG_BIT:
            return None
        return Coordinate.unpack(self._invert((slot >> 32) << 31 | slot & (_FLAG_BIT - 1)))

    def _permute(self, value: int) -> int:
        high, low = value >> _LOW_BITS, value & _LOW_MASK
        for i in range(0, _ROUNDS, 2):
            high ^= self._round(i, low) & _HIGH_MASK
            low ^= self._round(i + 1, high) & _LOW_MASK
        return high << _LOW_BITS | low

    def _invert(self, value: int) -> int:
        high, low = value >> _LOW_BITS, value & _LOW_MASK
        for i in reversed(range(0, _ROUNDS, 2)):
            low ^= self._round(i + 1, high) & _LOW_MASK
            high ^= self._round(i, low) & _HIGH_MASK
        return high << _LOW_BITS | low

    def _round(self, i: int, half: int) -> int:
        return int.from_bytes(blake3(half.to_bytes(4, "big"), key=self._keys[i]).digest(length=4), "big")


def scope_of(group: bytes) -> int:
    return group[1] & 0x0F


def prefix(scope: int) -> bytes:
    """The first two bytes of every group of this scope."""
    return bytes((0xFF, 0x10 | scope))


def tag_of(group: bytes) -> bytes:
    return group[2:10]


def addresser_of(object_: ObjectRef, keys: ShareKeys | None = None) -> Addresser:
    return Addresser(b"object" + object_.id, keys)


def node_group(node: Node, pace: int, addresser: Addresser, scope: int) -> Group:
    return addresser.group(Coordinate(node.level, pace, node.index), scope)


def share_group(name: bytes, scope: int, keys: ShareKeys | None = None) -> Group:
    """The channel of one share: its announcements and beacons."""
    return _control_group(b"share" + name, scope, keys)


def senders_group(publisher: bytes, name: bytes, scope: int, keys: ShareKeys | None = None) -> Group:
    """The channel in which servers that have the same publisher's key (32 bytes) and a share of this name meet."""
    return _control_group(b"senders" + publisher + name, scope, keys)


def catalogue_group(scope: int, keys: ShareKeys | None = None) -> Group:
    """The well-known channel on which every server announces its shares in turn; with keys, those that have them."""
    return _control_group(b"catalogue", scope, keys)


def keyed_group(scope: int) -> Group:
    """The well-known channel on which a server says that it has shares with a key, and nothing about them."""
    return _control_group(b"keyed", scope, None)


def _control_group(name: bytes, scope: int, keys: ShareKeys | None) -> Group:
    return Addresser(name, keys).group(Coordinate(CONTROL_KIND, 0, 0), scope)
