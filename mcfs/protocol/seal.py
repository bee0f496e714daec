"""What a share key does to nodes and to control datagrams.

*Nodes* are sealed as a whole, before they are divided into symbols, with ChaCha20-Poly1305 (RFC 8439): with OpenSSL
0.24 ms for a MiB, a third of what libsodium takes. The key is derived from what the node is and from its hash, so that
each server makes the same symbols, and no key seals two different nodes; so the nonce is always zero. Who receives the
node knows both. Each *symbol* then carries a tag, under another key of its node: see `mcfs.protocol.wire`.

*Control datagrams* are sealed one by one under keys of the group that they go to, so that none can be repeated in
another channel, and brought to one of two sizes, which hide the length of a share's name::

     0       1       2               4                              28
    +-------+-------+---------------+------------------------------+----------
    |   1   |   5   |       0       |        nonce (24 bytes)      | box...
    +-------+-------+---------------+------------------------------+----------
    in the box: length of the datagram (2 bytes), the datagram as it would be without a key, zeros

Their nonce is a keyed hash of what is in the box: the same only for the same content.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as aead_open
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as aead_seal
from nacl.exceptions import CryptoError

from mcfs.protocol import wire
from mcfs.protocol.errors import BadDatagram, BadNode
from mcfs.protocol.ids import SEAL_SIZE

if TYPE_CHECKING:
    from mcfs.protocol.ids import Digest, Node
    from mcfs.protocol.keys import ShareKeys
    from mcfs.protocol.merkle import Buffer

_ONLY: Final = bytes(12)
"""The nonce of what is sealed under a key of its own."""
_NONCE_SIZE: Final = 24
_LENGTH: Final = 2
_HEADER: Final = wire.CONTROL_HEADER.pack(wire.VERSION, wire.SEALED, 0)
_BOX_AT: Final = len(_HEADER) + _NONCE_SIZE
_PADDED: Final = (640, 1184)
"""Bytes in the box: an announcement with any name and no links, and what fits a packet of 1,280 bytes."""
MAX_CONTROL: Final = _PADDED[-1] - _LENGTH
"""Bytes of the longest control datagram, without its seal."""
SEALED_SIZES: Final = frozenset(_BOX_AT + SEAL_SIZE + size for size in _PADDED)
_CHANNELS: Final = 4096
"""Control channels and channels of nodes whose keys are remembered: 200 bytes each."""


class NodeSeal:
    """One node under one share key."""

    def __init__(self, keys: ShareKeys, node: Node) -> None:
        self._keys = keys
        self._name = node.object.id + bytes((node.level,)) + node.index.to_bytes(8, "big")

    @cached_property
    def tag_key(self) -> bytes:
        """Of the tags of its symbols, in whatever group they travel."""
        return blake3(self._name, key=self._keys.tags).digest()

    def seal(self, data: Buffer, digest: Digest) -> bytes:
        """The node's verified bytes as they travel; `digest` is their hash in the tree. Releases the GIL."""
        return self._box(digest).encrypt(_ONLY, data, None)

    def open_untrusted(self, sealed: Buffer, digest: Digest) -> bytes:
        """The reverse. Raises BadNode; the hash has still to be checked. Releases the GIL."""
        if len(sealed) < SEAL_SIZE:
            raise BadNode("too short for a seal")
        try:
            return self._box(digest).decrypt(_ONLY, sealed, None)
        except InvalidTag:
            raise BadNode("the seal does not fit") from None

    def _box(self, digest: Digest) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(blake3(self._name + digest, key=self._keys.nodes).digest())


class _Channel:
    """What seals the control datagrams of one group."""

    __slots__ = ("_key", "_nonce_key")

    def __init__(self, keys: ShareKeys, group: bytes) -> None:
        material = blake3(group, key=keys.control).digest(length=64)
        self._key, self._nonce_key = material[:32], material[32:]

    def seal(self, inner: bytes) -> bytes:
        nonce = blake3(inner, key=self._nonce_key).digest(length=_NONCE_SIZE)
        return nonce + aead_seal(inner, b"", nonce, self._key)

    def open(self, sealed: bytes) -> bytes:
        return aead_open(sealed[_NONCE_SIZE:], b"", sealed[:_NONCE_SIZE], self._key)


@lru_cache(maxsize=_CHANNELS)
def _channel(keys: ShareKeys, group: bytes) -> _Channel:
    return _Channel(keys, group)


def seal_control(datagram: bytes, keys: ShareKeys, group: bytes) -> bytes:
    """A control datagram as it is sent to a group of a share with a key. Raises ValueError above MAX_CONTROL bytes."""
    padded = next((size for size in _PADDED if size >= _LENGTH + len(datagram)), None)
    if padded is None:
        raise ValueError(f"control datagram of {len(datagram)} bytes")
    inner = len(datagram).to_bytes(_LENGTH, "big") + datagram
    return _HEADER + _channel(keys, group).seal(inner.ljust(padded, b"\0"))


def open_control_untrusted(datagram: bytes, keys: ShareKeys, group: bytes) -> bytes:
    """What was sealed for this group. Raises BadDatagram, after the work of checking one authenticator."""
    if len(datagram) not in SEALED_SIZES or not datagram.startswith(_HEADER):
        raise BadDatagram("not sealed")
    try:
        inner = _channel(keys, group).open(datagram[len(_HEADER) :])
    except CryptoError:
        raise BadDatagram("the seal does not fit") from None
    length = int.from_bytes(inner[:_LENGTH], "big")
    if length > len(inner) - _LENGTH:
        raise BadDatagram("length in a seal")
    return inner[_LENGTH : _LENGTH + length]
