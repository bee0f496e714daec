"""A publisher's change of its key: the old key and the new one sign that the new one takes the old one's place.

A *link* is 160 bytes: the old key (32), its signature (64), the new key's signature (64), both Ed25519 (RFC 8032) over
a context string, the old key and the new key. The new key is not in it: links stand in a *chain*, oldest first, in an
announcement, and the new key of each is the old key of the next, that of the last the one that signs the announcement.

Nobody can make a link without both keys, so neither can a key be taken over, nor can one be passed off as another's. A
chain leads one way only; a publisher never goes back to a key that it has given up, and a client that has followed a
chain refuses the keys that it came from.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from mcfs.protocol.publisher import fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nacl.signing import SigningKey

    from mcfs.protocol.publisher import Fingerprint

LINK_SIZE: Final = 160
MAX_LINKS: Final = 3
"""As many as fit an announcement with a name of 255 bytes in an MTU of 1,280."""
_CONTEXT: Final = b"mcfs 1 successor\0"


def make_link(old: SigningKey, new: SigningKey) -> bytes:
    """`new` takes the place of `old`."""
    message = _message(bytes(old.verify_key), bytes(new.verify_key))
    return bytes(old.verify_key) + old.sign(message).signature + new.sign(message).signature


def make_chain(keys: Sequence[SigningKey]) -> tuple[bytes, ...]:
    """The newest links of a publisher that had these keys, one after the other; the last one signs now.

    Raises ValueError if a key comes twice.
    """
    if len({bytes(key.verify_key) for key in keys}) != len(keys):
        raise ValueError("a key comes twice")
    links = [make_link(old, new) for old, new in pairwise(keys)]
    return tuple(links[-MAX_LINKS:])


def predecessors(links: Sequence[bytes]) -> tuple[Fingerprint, ...]:
    """The keys that links name as given up, oldest first. Nothing is checked."""
    return tuple(fingerprint(link[:32]) for link in links)


def is_successor_untrusted(links: Sequence[bytes], publisher: bytes, ancestor: Fingerprint) -> bool:
    """Whether links of LINK_SIZE bytes lead, each with both signatures, from `ancestor` to `publisher` (32 bytes)."""
    before = predecessors(links)
    if ancestor not in before:
        return False
    keys = [link[:32] for link in links] + [publisher]
    if len(set(keys)) != len(keys):
        return False
    return all(_is_signed(links[i], keys[i], keys[i + 1]) for i in range(before.index(ancestor), len(links)))


def _is_signed(link: bytes, old: bytes, new: bytes) -> bool:
    message = _message(old, new)
    try:
        VerifyKey(old).verify(message, link[32:96])
        VerifyKey(new).verify(message, link[96:])
    except (BadSignatureError, ValueError):
        return False
    return True


def _message(old: bytes, new: bytes) -> bytes:
    return _CONTEXT + old + new
