"""Targets that have to do with publishers: who signs, who follows upon whom, and whom a client believes.

Signatures of changed messages are right here, as everybody has a key of his own.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Final

from nacl.signing import SigningKey

from mcfs.fetch.shares import ShareTable
from mcfs.fetch.trust import Floor, Pin, Trust
from mcfs.protocol import announce
from mcfs.protocol.announce import Announcement, claimed_publisher_untrusted, decode_announcement_untrusted
from mcfs.protocol.catalog import Attributes, DirectoryEntry, Owners
from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.ids import DEFAULT_BLOCK_SIZE, Digest, ObjectRef
from mcfs.protocol.publisher import fingerprint
from mcfs.protocol.succession import LINK_SIZE, MAX_LINKS, is_successor_untrusted, make_link
from tests.fuzz import mutate, seeds
from tests.fuzz.framing import frames, joined
from tests.fuzz.target import Refused, Target

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from tests.fuzz.mutate import Mutator

SIGNERS: Final = tuple(SigningKey(bytes((number,)) * 32) for number in range(5))
"""The first three are one publisher, one after the other; the others are somebody else."""
KEYS: Final = tuple(bytes(signer.verify_key) for signer in SIGNERS)
ADDRESSES: Final = (seeds.HOST, seeds.HOST[:-1] + b"\2")

# --- successors -------------------------------------------------------------------------------------------------------

GENUINE: Final = {
    make_link(SIGNERS[old], SIGNERS[new]): (KEYS[old], KEYS[new])
    for old, new in ((0, 1), (1, 2), (2, 0), (3, 4), (4, 0))
}
"""Links that both have signed."""


def _forged() -> list[bytes]:
    """One signature is that of another link, or somebody else's."""
    links = list(GENUINE)
    crossed = [a[:96] + b[96:] for a, b in product(links, links) if a != b]
    return [
        *crossed,
        *(KEYS[0] + link[32:] for link in links),
        bytes(LINK_SIZE),
        make_link(SIGNERS[3], SIGNERS[0])[:96] + bytes(64),
    ]


def chains(_: Sequence[bytes]) -> Mutator:
    """The key that signs, the one it is to follow upon, and links: right ones in the right order for the most part."""
    links, forged = list(GENUINE), _forged()

    def mutate_chain(rng: Random) -> bytes:
        start, length = rng.randrange(3), rng.randrange(1, MAX_LINKS + 1)
        chain = [links[(start + n) % 3] for n in range(length)]
        ancestor, publisher = KEYS[(start + rng.choice((0, 0, 0, 1))) % 3], KEYS[(start + length) % 3]
        for _ in range(rng.choice((0, 1, 1, 2))):
            at, what = rng.randrange(len(chain)), rng.randrange(5)
            if what == 0:
                chain[at] = rng.choice(forged)
            elif what == 1:
                chain[at] = rng.choice(links)
            elif what == 2:
                chain.insert(at, rng.choice(links))
            elif what == 3:
                chain[at] = mutate.byte_change(chain[at], rng, links)[:LINK_SIZE].ljust(LINK_SIZE, b"\0")
            else:
                ancestor, publisher = rng.choice(KEYS), rng.choice((*KEYS, bytes(32), rng.randbytes(32)))
        return publisher + ancestor + b"".join(chain)

    return mutate_chain


def chain_seeds() -> list[bytes]:
    links = list(GENUINE)
    return [KEYS[1] + KEYS[0] + links[0], KEYS[2] + KEYS[0] + links[0] + links[1], KEYS[2] + KEYS[1] + links[1]]


def succession(data: bytes) -> None:
    """Nobody follows upon another but by links that both of each have signed. Raises Refused."""
    publisher, ancestor, rest = data[:32].ljust(32, b"\0"), data[32:64].ljust(32, b"\0"), data[64:]
    links = [rest[at : at + LINK_SIZE].ljust(LINK_SIZE, b"\0") for at in range(0, len(rest), LINK_SIZE)]
    believed = is_successor_untrusted(links, publisher, fingerprint(ancestor))
    assert believed == _leads(links, publisher, ancestor)
    if not believed:
        raise Refused


def _leads(links: Sequence[bytes], publisher: bytes, ancestor: bytes) -> bool:
    """What it should be, without a look at a signature: links that nobody here has signed are wrong."""
    keys = [*(link[:32] for link in links), publisher]
    if len(set(keys)) != len(keys) or ancestor not in keys[:-1]:
        return False
    first = keys.index(ancestor)
    return all(GENUINE.get(link) == (keys[n], keys[n + 1]) for n, link in enumerate(links) if n >= first)


# --- who signs --------------------------------------------------------------------------------------------------------


def bodies() -> list[bytes]:
    return [*seeds.announcements(), *seeds.gones()]


def claimed(data: bytes) -> bytes:
    """Whose key is claimed is the one that is found when the signature is checked."""
    key = claimed_publisher_untrusted(data)
    try:
        announcement = decode_announcement_untrusted(data)
    except BadDatagram:
        return key
    assert announcement.publisher == key
    return key


# --- whom a client believes -------------------------------------------------------------------------------------------

_FLOOR: Final = 5
_ATTRIBUTES: Final = Attributes(0o755, 0, 0, 0)


def _content(number: int) -> ObjectRef:
    return ObjectRef(1000, DEFAULT_BLOCK_SIZE, Digest(bytes((number,)) * 32))


def said() -> list[bytes]:
    """What is signed of the share `demo`, whose publisher is known, and of `other`, whose is not: each behind the
    number of who signs it."""
    links = list(GENUINE)
    names = (b"demo", b"other")
    by_first = [_says(name, version, 10 * version) for name in names for version in (_FLOOR - 1, _FLOOR, _FLOOR + 1)]
    second = [_says(name, _FLOOR + 2, 80, links=(links[0],)) for name in names]
    third = [_says(name, _FLOOR + 3, 90, links=(links[0], links[1])) for name in names]
    forged = [_says(name, _FLOOR + 9, 99, links=(links[0], _forged()[0])) for name in names]
    return [
        joined((0, message) for message in by_first),
        joined([(0, by_first[1]), (1, second[0]), (2, third[0]), (0, by_first[2])]),
        joined([(3, by_first[5]), (4, by_first[5]), (0x80, by_first[5]), (1, second[1]), (0x82, third[1])]),
        joined([(3, by_first[2]), (3, forged[0]), (4, forged[1]), (2, third[0])]),
    ]


def _says(name: bytes, version: int, time_ms: int, links: tuple[bytes, ...] = ()) -> bytes:
    entry = DirectoryEntry(name, _ATTRIBUTES, _content(version))
    announcement = Announcement(version, time_ms, entry, Owners(), 1, 2, 10**9, ADDRESSES, 0, links=links)
    return seeds.messages([announce.encode_announcement(announcement, SIGNERS[0])])[0]


@lru_cache(maxsize=64)
def _signed(number: int, message: bytes) -> bytes:
    return announce._seal(announce._ANNOUNCEMENT_CONTEXT, message, SIGNERS[number])


def believed(data: bytes) -> int:
    """A known publisher's share is his, or that of who follows upon him, and never goes back."""
    first = fingerprint(KEYS[0])
    floors = {(b"demo", first): Floor(_FLOOR, _content(_FLOOR).id)}
    table = ShareTable(30.0, Trust(pins={b"demo": Pin(first, line=1)}, floors=floors))
    version, count, now = _FLOOR, 0, 0.0
    for mark, message in frames(data):
        now += 0.4 if mark & 0x80 else 0.01
        try:
            announcement = decode_announcement_untrusted(_signed(mark % 16 % len(SIGNERS), message))
        except BadDatagram:
            continue
        count += 1
        table.announced(announcement, 1 + (mark >> 4 & 3), now=now)
        table.settle(now=now)
        version = _check(table, version)
    assert len(table.listing()) <= count
    return count


def _check(table: ShareTable, version: int) -> int:
    for name, announcement in table.announcements().items():
        share = table.get(name)
        assert share is not None
        assert share.pin.fingerprint == fingerprint(announcement.publisher)
        assert announcement.name == name
    for event in table.events():
        text = getattr(event, "text", "")
        assert text.isprintable(), text
    demo = table.get(b"demo")
    if demo is None:
        return version
    assert demo.announcement.publisher in KEYS[:3]
    same = demo.announcement.content == _content(_FLOOR)
    assert demo.announcement.version >= version or same
    return max(version, demo.announcement.version)


_REACHED: Final = (
    is_successor_untrusted,
    ShareTable._succeed,
    ShareTable._choose,
    Trust.refusal,
    Trust.too_old,
    Trust.ambiguous,
)
TARGETS: Final = (
    Target(is_successor_untrusted, succession, chain_seeds, (Refused,), chains),
    Target(claimed_publisher_untrusted, claimed, bodies, mutator=mutate.messagepack),
    Target(ShareTable.announced, believed, said, (), mutator=mutate.framed_messagepack, helpers=_REACHED),
)
