"""Share keys: what those who may read a share have in common, and what is derived from it.

A share key is 32 bytes, made from a file or a password. From it come five keys, each for one purpose and under a
context of its own, so that none says anything about another or about the share key::

    file ------- BLAKE3-derive ---+                 +--> groups    which multicast groups carry the share
                                  +--> share key ---+--> nodes     sealing of nodes
    password --- Argon2id --------+                 +--> tags      who may send symbols
                                                    +--> control   announcements, beacons, gone
                                                    +--> check     what an announcement says of the share key

Nothing can be exchanged before the first datagram, so the salt of a password is the same everywhere: who hears the link
can try passwords, each at the price of one Argon2id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from blake3 import blake3
from nacl.exceptions import RuntimeError as CryptoRuntimeError
from nacl.pwhash import argon2id

KEY_SIZE: Final = 32
CHECK_SIZE: Final = 16
MIN_KEYFILE: Final = 32
"""Bytes: as many as the key has. What is in them is the user's matter."""
MAX_KEYFILE: Final = 1 << 20
MAX_PASSWORD: Final = 1024
"""Bytes."""
ARGON2_PASSES: Final = 3
ARGON2_BYTES: Final = 256 << 20
"""libsodium's "moderate": 0.7 s on a machine of 2017, and a GPU has room for few at a time. One lane (RFC 9106)."""

_FILE_CONTEXT: Final = "mcfs 1 keyfile"
_PASSWORD_CONTEXT: Final = "mcfs 1 password"
_SALT_CONTEXT: Final = "mcfs 1 password salt"
_PURPOSE_CONTEXT: Final = "mcfs 1 key for "


@dataclass(frozen=True)
class ShareKeys:
    """All keys that come from one share key of 32 bytes. Equal if the share keys are."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_SIZE:
            raise ValueError(f"a share key has {KEY_SIZE} bytes, not {len(self.secret)}")

    @cached_property
    def groups(self) -> bytes:
        return self._derive("groups")

    @cached_property
    def nodes(self) -> bytes:
        return self._derive("nodes")

    @cached_property
    def tags(self) -> bytes:
        return self._derive("tags")

    @cached_property
    def control(self) -> bytes:
        return self._derive("control")

    def check(self, name: bytes) -> bytes:
        """What a publisher signs to say that its share of this name has this key, 16 bytes."""
        return blake3(name, key=self._derive("check")).digest(length=CHECK_SIZE)

    def _derive(self, purpose: str) -> bytes:
        return blake3(self.secret, derive_key_context=_PURPOSE_CONTEXT + purpose).digest()


def keys_of_file(content: bytes) -> ShareKeys:
    """From the content of a key file. Raises ValueError, whose text goes behind the name of the file."""
    if len(content) < MIN_KEYFILE:
        raise ValueError(f"has {len(content)} bytes: a key file has at least {MIN_KEYFILE}")
    if len(content) > MAX_KEYFILE:
        raise ValueError(f"is too long: a key file has at most {MAX_KEYFILE} bytes")
    return ShareKeys(blake3(content, derive_key_context=_FILE_CONTEXT).digest())


def keys_of_password(password: bytes) -> ShareKeys:
    """From a password, in about a second and with 256 MiB. Raises ValueError, whose text goes behind its source."""
    if not password:
        raise ValueError("is empty: a password has at least one byte")
    if len(password) > MAX_PASSWORD:
        raise ValueError(f"is too long: a password has at most {MAX_PASSWORD} bytes")
    salt = blake3(b"", derive_key_context=_SALT_CONTEXT).digest(length=argon2id.SALTBYTES)
    try:
        stretched = argon2id.kdf(KEY_SIZE, password, salt, opslimit=ARGON2_PASSES, memlimit=ARGON2_BYTES)
    except CryptoRuntimeError:
        raise ValueError(f"cannot be used: that takes {ARGON2_BYTES >> 20} MiB of memory") from None
    return ShareKeys(blake3(stretched, derive_key_context=_PASSWORD_CONTEXT).digest())
