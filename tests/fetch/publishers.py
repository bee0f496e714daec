"""Publishers and what they announce, for tests of whom a client believes."""

from __future__ import annotations

import itertools
from typing import Final

from nacl.signing import SigningKey

from mcfs.fetch.trust import Pin
from mcfs.protocol.announce import Announcement
from mcfs.protocol.catalog import Attributes, DirectoryEntry, Owners
from mcfs.protocol.ids import DEFAULT_BLOCK_SIZE, Digest, ObjectRef
from mcfs.protocol.publisher import fingerprint
from mcfs.protocol.succession import make_chain

_ATTRIBUTES: Final = Attributes(0o755, 0, 0, 0)
_ADDRESS: Final = bytes.fromhex("fe800000000000000000000000000001")
_clock = itertools.count(1_000_000)


def content(seed: int) -> ObjectRef:
    return ObjectRef(1000, DEFAULT_BLOCK_SIZE, Digest(bytes([seed]) * 32))


class Publisher:
    """Somebody with a key. What he says has a later time each time, unless told."""

    def __init__(self, seed: int) -> None:
        self.key = SigningKey(bytes([seed]) * 32)
        self.public = bytes(self.key.verify_key)
        self.fingerprint = fingerprint(self.public)
        self.pin = Pin(self.fingerprint)

    def says(
        self,
        name: bytes = b"data",
        version: int = 1,
        *,
        seed: int | None = None,
        time_ms: int | None = None,
        links: tuple[bytes, ...] = (),
        address: bytes = _ADDRESS,
        period: int = 0,
    ) -> Announcement:
        """An announcement as it comes out of decoding. Versions differ in content unless `seed` is given."""
        entry = DirectoryEntry(name, _ATTRIBUTES, content(version % 251 if seed is None else seed))
        at = next(_clock) if time_ms is None else time_ms
        return Announcement(
            version, at, entry, Owners(), 0, 1, 10**9, (address,), period, publisher=self.public, links=links
        )


def in_order(count: int) -> list[Publisher]:
    """Publishers in the order of their fingerprints."""
    return sorted((Publisher(seed) for seed in range(1, count + 1)), key=lambda publisher: publisher.fingerprint)


def chain(*publishers: Publisher) -> tuple[bytes, ...]:
    """The links from each to the next."""
    return make_chain([publisher.key for publisher in publishers])
