"""What things are called on both sides: objects, nodes and their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final, NewType

from blake3 import blake3

from mcfs.protocol.errors import BadObject

if TYPE_CHECKING:
    from mcfs.protocol.keys import ShareKeys

Digest = NewType("Digest", bytes)
"""32 bytes: a leaf hash, a page hash, or the plain BLAKE3 of a file."""
ObjectId = NewType("ObjectId", bytes)
"""32 bytes: the hash over an object's triple."""
Host = NewType("Host", bytes)
"""16 bytes: the IPv6 source address of a host on the link."""
Group = NewType("Group", bytes)
"""16 bytes: an IPv6 multicast address."""

DIGEST_SIZE: Final = 32
FAN_OUT: Final = 1024
"""Child hashes in a full page: a page of 32 KiB opens 1 GiB at the default block size."""
MIN_BLOCK_SIZE: Final = 64 * 1024
MAX_BLOCK_SIZE: Final = 16 * 1024 * 1024
DEFAULT_BLOCK_SIZE: Final = 1024 * 1024
MAX_BLOCKS: Final = 1 << 40
"""The index in a channel's coordinate has 40 bits."""
MAX_OBJECT_SIZE: Final = (1 << 63) - 1
"""What off_t can hold."""
SEAL_SIZE: Final = 16
"""Bytes by which a node of a share with a key is longer on its way: the authenticator of Poly1305."""
PACE_CLASSES: Final = 8
"""Three bits of the coordinate; class c is paced at rate / 2^c."""

_OBJECT_ID_CONTEXT: Final = "mcfs 1 object id"


@dataclass(frozen=True, slots=True)
class Geometry:
    """The shape of the tree over an object: a function of its size and block size alone."""

    size: int
    block_size: int
    counts: tuple[int, ...]
    """Nodes at each level; the last is 1."""

    @property
    def top_level(self) -> int:
        return len(self.counts) - 1

    def node_size(self, level: int, index: int) -> int:
        """Bytes of a node: of the block at level 0, of the page of child hashes above it."""
        if level == 0:
            return min(self.block_size, self.size - index * self.block_size)
        return DIGEST_SIZE * min(FAN_OUT, self.counts[level - 1] - index * FAN_OUT)

    def has(self, level: int, index: int) -> bool:
        return 0 <= level < len(self.counts) and 0 <= index < self.counts[level]


@lru_cache(maxsize=4096)
def geometry(size: int, block_size: int) -> Geometry:
    counts = [-(-size // block_size)]
    while counts[-1] > 1:
        counts.append(-(-counts[-1] // FAN_OUT))
    return Geometry(size, block_size, tuple(counts))


@dataclass(frozen=True)
class ObjectRef:
    """An immutable byte string, named by the triple (size, block size, top hash). Size is at least 1."""

    size: int
    block_size: int
    top: Digest

    @cached_property
    def id(self) -> ObjectId:
        triple = self.size.to_bytes(8, "big") + self.block_size.to_bytes(4, "big") + self.top
        return ObjectId(blake3(triple, derive_key_context=_OBJECT_ID_CONTEXT).digest())

    @cached_property
    def geometry(self) -> Geometry:
        return geometry(self.size, self.block_size)

    def __hash__(self) -> int:
        return hash(self.top)


def object_ref_untrusted(size: int, block_size: int, top: bytes) -> ObjectRef:
    """Check a triple that came from elsewhere. Raises BadObject."""
    if not 1 <= size <= MAX_OBJECT_SIZE:
        raise BadObject(f"object of {size} bytes")
    if not is_block_size(block_size):
        raise BadObject(f"block size of {block_size} bytes")
    if size > block_size * MAX_BLOCKS:
        raise BadObject("object of more than 2^40 blocks")
    if len(top) != DIGEST_SIZE:
        raise BadObject(f"top hash of {len(top)} bytes")
    return ObjectRef(size, block_size, Digest(top))


def is_block_size(value: int) -> bool:
    """A power of two from 64 KiB to 16 MiB."""
    return MIN_BLOCK_SIZE <= value <= MAX_BLOCK_SIZE and value & (value - 1) == 0


@dataclass(frozen=True, slots=True)
class Node:
    """What is verified and transferred as a unit: a block (level 0) or a page of hashes (level 1 and up)."""

    object: ObjectRef
    level: int
    index: int

    @property
    def size(self) -> int:
        return self.object.geometry.node_size(self.level, self.index)

    @property
    def keys(self) -> ShareKeys | None:
        """Those under which a server sends it."""
        return None

    @property
    def length(self) -> int:
        """Bytes of what a server sends of it."""
        return self.size

    def parent(self) -> Node | None:
        """The page that holds this node's hash; None for the top node."""
        if self.level == self.object.geometry.top_level:
            return None
        return Node(self.object, self.level + 1, self.index // FAN_OUT)


@dataclass(frozen=True, slots=True)
class SealedNode(Node):
    """A node of a share with a key, as a server sees it: not the one of the same bytes that it sends without a key, or
    under another one."""

    sealed_with: ShareKeys

    @property
    def keys(self) -> ShareKeys | None:
        return self.sealed_with

    @property
    def length(self) -> int:
        return self.size + SEAL_SIZE


def node_under(keys: ShareKeys | None, object_: ObjectRef, level: int, index: int) -> Node:
    """A node as a server sends it."""
    return Node(object_, level, index) if keys is None else SealedNode(object_, level, index, keys)
