"""Targets that have to do with share keys.

Nearly all that is changed on its way fails at the first authenticator. So what is inside is changed as well, and then
sealed by somebody who has the key.
"""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Final

import numpy as np
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt as chacha20_poly1305  # libsodium's, not the code's

from mcfs.fetch.assemble import Assembly
from mcfs.fetch.fetcher import Fetcher, Limits
from mcfs.fetch.fetchevents import Assembled
from mcfs.fetch.keyring import Keyring
from mcfs.fetch.strands import Strands
from mcfs.fetch.tagchecks import TagChecks
from mcfs.net.offer import Offer
from mcfs.net.settings import ServerSettings
from mcfs.protocol import addressing, announce, fec, merkle, seal, wire
from mcfs.protocol.errors import BadDatagram, BadNode
from mcfs.protocol.ids import MIN_BLOCK_SIZE, SEAL_SIZE, Digest, Group, Host, Node
from mcfs.protocol.keys import ShareKeys
from mcfs.protocol.merkle import verify_node
from mcfs.protocol.seal import NodeSeal, open_control_untrusted, seal_control
from tests.fuzz import mutate, seeds
from tests.fuzz.framing import Frame, frames, joined
from tests.fuzz.target import Target

KEYS: Final = ShareKeys(b"k" * 32)
OTHER_KEYS: Final = ShareKeys(b"l" * 32)
GROUP: Final = addressing.share_group(b"demo", addressing.SITE_LOCAL, KEYS)
CONTENT: Final = seeds.content()
REF: Final = merkle.object_of(CONTENT, MIN_BLOCK_SIZE)[0]
NODE: Final = Node(REF, 0, 0)
SEAL: Final = NodeSeal(KEYS, NODE)
HEADER_SIZE: Final = wire.HEADER_SIZE
TAG_SIZE: Final = wire.TAG_SIZE
_SHORTEST: Final = HEADER_SIZE + fec.ALIGNMENT + TAG_SIZE

_GONE_BODY: Final = announce.encode_gone(GROUP, 6, seeds.KEY)
_GONE: Final = seal_control(wire.control(wire.GONE, _GONE_BODY), KEYS, GROUP)

# --- control datagrams -----------------------------------------------------------------------------------------------


def control_datagrams() -> list[bytes]:
    """Without a seal; the longest has no zeros behind it."""
    return [*seeds.controls(), wire.control(wire.GONE, _GONE_BODY), b"", bytes(seal.MAX_CONTROL)]


def sealed_controls() -> list[bytes]:
    return [seal_control(datagram, KEYS, GROUP) for datagram in control_datagrams()]


def wrongly_sealed() -> list[bytes]:
    """For another group, and with another key."""
    others = ((KEYS, seeds.GROUP), (OTHER_KEYS, GROUP))
    return [seal_control(datagram, keys, group) for datagram in control_datagrams() for keys, group in others]


_SEALED: Final = frozenset(control_datagrams())


def opened(data: bytes) -> bytes:
    """Who has not the key changes nothing."""
    found = open_control_untrusted(data, KEYS, GROUP)
    assert found in _SEALED
    return found


def contents() -> list[bytes]:
    """What is in the box: the datagram behind its length, and zeros."""
    return [(len(d).to_bytes(2, "big") + d).ljust(640, b"\0") for d in control_datagrams()[:-2]]


def wrong_contents() -> list[bytes]:
    """Too short for a control datagram, of no type, longer than the box, and no length."""
    return [len(d).to_bytes(2, "big") + d for d in control_datagrams()[-2:]] + [b"\xff\xff", b""]


def box_of(content: bytes) -> bytes:
    """Whatever it is, sealed with the right key; as long as a box should be, most of the time."""
    if len(content) % 8:
        size = next((size for size in seal._PADDED if size >= len(content)), seal._PADDED[-1])
        content = content.ljust(size, b"\0")[:size]
    return seal._HEADER + seal._channel(KEYS, GROUP).seal(content)


def content_of_a_box(data: bytes) -> object:
    found = open_control_untrusted(box_of(data), KEYS, GROUP)
    assert len(found) <= seal.MAX_CONTROL
    kind, body = wire.control_untrusted(found)
    return announce.decode_announcement_untrusted(body) if kind == wire.ANNOUNCEMENT else body


# --- the keyring: the first byte says in which channel a datagram came -----------------------------------------------

_KEYRING: Final = Keyring([KEYS, OTHER_KEYS], addressing.SITE_LOCAL)
_CHANNELS: Final = [
    *_KEYRING.catalogues(),
    *_KEYRING.channels(b"demo", only_keyed=False),
    Group(seeds.PREFIX + bytes(14)),
]
_SEALED_FOR: Final = {
    (number, seal_control(datagram, keys, channel)): datagram
    for number, channel in enumerate(_CHANNELS)
    for datagram in control_datagrams()
    if (keys := _KEYRING.keys_of(channel)) is not None
}


def in_channels() -> list[bytes]:
    """Each datagram in the channel that it is for; some without a seal, where there is none."""
    return [bytes((n,)) + d for n, d in _SEALED_FOR] + [bytes((n,)) + d for n in (0, 3, 6) for d in seeds.controls()]


def in_a_channel(data: bytes) -> bytes:
    number, datagram = (data[0] if data else 0) % len(_CHANNELS), data[1:]
    found = _KEYRING.open_untrusted(_CHANNELS[number], datagram)
    keyed = _KEYRING.keys_of(_CHANNELS[number]) is not None
    assert found == (_SEALED_FOR[number, datagram] if keyed else datagram)
    return found


# --- nodes -----------------------------------------------------------------------------------------------------------


def sealed_nodes() -> list[bytes]:
    """The hash, and the sealed node."""
    return [REF.top + SEAL.seal(CONTENT, REF.top)]


def wrongly_sealed_nodes() -> list[bytes]:
    """With the hash of another node, cut off, and by somebody without the key."""
    right = SEAL.seal(CONTENT, REF.top)
    return [bytes(32) + right, REF.top + right[:SEAL_SIZE], REF.top + bytes(len(right)), REF.top]


def sealed_node(data: bytes) -> bytes:
    found = SEAL.open_untrusted(memoryview(data)[32:], Digest(data[:32].ljust(32, b"\0")))
    assert found == CONTENT
    return found


def wrong_node(data: bytes) -> object:
    """Who has the key can seal what is not the node."""
    found = SEAL.open_untrusted(SEAL.seal(data, REF.top), REF.top)
    assert found == data
    verify_node(NODE, found, REF.top)
    assert found == CONTENT
    return found


# --- symbols ---------------------------------------------------------------------------------------------------------


def tag(datagram: bytes) -> bytes:
    """Computed as the protocol says, and not by the code that is tested."""
    t = max(0, len(datagram) - HEADER_SIZE)
    nonce = t.to_bytes(4, "big") + datagram[4:HEADER_SIZE].ljust(8, b"\0")
    return chacha20_poly1305(b"", datagram, nonce, SEAL.tag_key)


def is_tagged(datagram: bytes) -> bool:
    """Whether it has a tag, and the right one."""
    return len(datagram) >= _SHORTEST and datagram[-TAG_SIZE:] == tag(datagram[:-TAG_SIZE])


def tagged() -> list[bytes]:
    """As `tag_check` takes them: datagrams in a row, and messages; then datagrams of one size, one behind the other."""
    one = _datagrams()
    return [
        bytes((1, 1)) + one[0],
        bytes((5, 1)) + b"".join(one[:5]),
        bytes((2, 3)) + b"".join(one[3:9]),
        bytes((7, 1)) + b"".join(_datagrams(64)[:7]),
    ]


def _datagrams(t: int = 1424, repair: int = 3) -> list[bytes]:
    sealed = SEAL.seal(CONTENT, REF.top)
    k = fec.source_symbols(len(sealed), t)
    source = np.frombuffer(sealed.ljust(k * t, b"\0"), dtype=np.uint8).reshape(k, t)
    symbols = np.concatenate([source, fec.Encoder(source).repair(0, repair)])
    framed = wire.frame(len(sealed), np.arange(k + repair, dtype=np.uint32), symbols, SEAL.tag_key)
    return [row.tobytes() for row in framed]


def tag_check(data: bytes) -> object:
    datagrams = seeds.batch(data)
    genuine = wire.genuine_untrusted(datagrams, SEAL.tag_key)
    rows = [row.tobytes() for row in datagrams.reshape(-1, datagrams.shape[-1])]
    assert genuine.tolist() == [is_tagged(row) for row in rows]
    return genuine


def one_tag(data: bytes) -> bool:
    genuine = wire.is_genuine_untrusted(np.frombuffer(data, dtype=np.uint8), SEAL.tag_key)
    assert genuine == is_tagged(data)
    return genuine


def sift(data: bytes) -> object:
    """The first and the last are right, or all that is left is."""
    datagrams, checks = seeds.batch(data), TagChecks()
    kept, forged, checked = checks.sift_untrusted(datagrams, SEAL.tag_key, now=0.0)
    rows = [row.tobytes() for row in kept.reshape(-1, kept.shape[-1])]
    assert forged == datagrams.size // datagrams.shape[-1] - len(rows)
    looked_at = rows if checked else [rows[0], rows[-1]]
    assert all(map(is_tagged, looked_at))
    assert checks.is_careful(now=0.0) == (forged > 0)
    return kept


# --- a whole transfer: symbols as they come to a client, with a gone among them --------------------------------------

_TAGGED_ANEW: Final = 0x80
"""Of a frame's mark: who sends it has the key. The lowest two bits are the source, and the next three how many that
are alike came at once."""
_SERVER_KNOWN: Final = 0x20
"""Of the first mark: source 0 is one that the publisher has named."""
_TOGETHER: Final = 0x1C


def transfers() -> list[bytes]:
    """Valid symbols of a node in several orders, and behind a forged one that has the right tag."""
    whole = _datagrams()
    forged = whole[4][:100] + b"forged" + whole[4][106:]
    orders = (whole, [*whole[:4], *whole[6:]], whole[::-1], [*whole[:9], _GONE, *whole], _datagrams(1024))
    plain = [
        joined((mark, datagram) for datagram in order)
        for order, mark in product(orders, (_TOGETHER, 0, _SERVER_KNOWN | _TOGETHER))
    ]
    doubted = [*whole[:4], forged, *whole[5:], *whole, *whole]
    marks = (_SERVER_KNOWN | _TAGGED_ANEW | _TOGETHER, _SERVER_KNOWN | _TAGGED_ANEW)
    return plain + [joined((mark, datagram) for datagram in doubted) for mark in marks]


def collect(data: bytes) -> object:
    """Through a client's fetcher. Whatever comes, nothing but the node comes out."""
    fetcher, now, right = Fetcher(Limits()), 0.0, 0
    found = frames(data)
    if found and found[0][0] & _SERVER_KNOWN:
        fetcher.sources.announced(b"share", [Host(bytes(16))])
    for mark, rows in _batches(found):
        fetcher.want(NODE, GROUP, b"share", urgent=True, now=now, seal=SEAL)
        fetcher.changes(now=now)
        now += 0.002
        gone = fetcher.receive(GROUP, Host(bytes(15) + bytes((mark & 3,))), rows, now=now)
        if gone is not None and _is_gone(gone):
            fetcher.gone(GROUP, now=now)
        for event in fetcher.events():
            if isinstance(event, Assembled):
                right += _judged(fetcher, event, now)
        fetcher.handle_timeout(now=now)
    return right


def _batches(found: list[Frame]) -> list[tuple[int, fec.Symbols]]:
    """Those of one size from one source that came at once, as the receiver has them."""
    batches: list[tuple[int, list[bytes]]] = []
    for mark, datagram in found:
        if not datagram:
            continue
        if mark & _TAGGED_ANEW:
            datagram = datagram[:-TAG_SIZE] + tag(datagram[:-TAG_SIZE])
        room = (mark >> 2 & 7) + 1
        if (
            batches
            and batches[-1][0] == mark
            and len(batches[-1][1]) < room
            and len(datagram) == len(batches[-1][1][0])
        ):
            batches[-1][1].append(datagram)
        else:
            batches.append((mark, [datagram]))
    return [(mark, np.frombuffer(b"".join(some), dtype=np.uint8).reshape(len(some), -1)) for mark, some in batches]


def _judged(fetcher: Fetcher, event: Assembled, now: float) -> bool:
    assert event.seal is SEAL
    assert len(event.data) == NODE.size + SEAL_SIZE
    try:
        found = event.seal.open_untrusted(event.data, REF.top)
        verify_node(NODE, found, REF.top)
    except BadNode:
        fetcher.reject(NODE, event.source, now=now)
        return False
    assert found == CONTENT
    fetcher.accept(NODE, now=now)
    return True


def _is_gone(datagram: bytes) -> bool:
    try:
        kind, body = wire.control_untrusted(open_control_untrusted(datagram, KEYS, GROUP))
        return kind == wire.GONE and announce.decode_gone_untrusted(body)[1] == GROUP
    except BadDatagram:
        return False


# --- what servers of a share with a key say to each other ------------------------------------------------------------


def other_server(datagram: bytes) -> None:
    offer = Offer(ServerSettings(), seeds.KEY)
    offer._sealed(GROUP, KEYS)
    link = SimpleNamespace(senders={GROUP}, server_heard=lambda *_, **__: None)
    offer.other_server_untrusted(link, GROUP, datagram, now=0.0)  # type: ignore[arg-type]


def signed_and_sealed(data: bytes) -> None:
    """By a server that has both keys."""
    body = announce._seal(announce._ANNOUNCEMENT_CONTEXT, data, seeds.KEY)
    datagram = wire.control(wire.ANNOUNCEMENT, body)
    other_server(box_of(min(len(datagram), 0xFFFF).to_bytes(2, "big") + datagram))


_REACHED: Final = (
    wire.is_genuine_untrusted,
    wire.genuine_untrusted,
    TagChecks.sift_untrusted,
    wire.symbol_run_untrusted,
    NodeSeal.open_untrusted,
    Fetcher.accept,
    Fetcher.reject,
    Fetcher.gone,
    Strands.add,
    Assembly._decode,
)
TARGETS: Final = (
    Target(open_control_untrusted, opened, sealed_controls, wrong=wrongly_sealed),
    Target(
        open_control_untrusted,
        content_of_a_box,
        contents,
        alias="content of a sealed control datagram",
        wrong=wrong_contents,
    ),
    Target(Keyring.open_untrusted, in_a_channel, in_channels),
    Target(NodeSeal.open_untrusted, sealed_node, sealed_nodes, (BadNode,), wrong=wrongly_sealed_nodes),
    Target(NodeSeal.open_untrusted, wrong_node, lambda: [CONTENT], (BadNode,), alias="content of a sealed node"),
    Target(wire.genuine_untrusted, tag_check, tagged),
    Target(wire.is_genuine_untrusted, one_tag, _datagrams, ()),
    Target(TagChecks.sift_untrusted, sift, tagged),
    Target(Fetcher.receive, collect, transfers, (), mutate.framed, _REACHED, alias="transfer with a key"),
    Target(
        Offer.other_server_untrusted,
        signed_and_sealed,
        lambda: seeds.messages(seeds.announcements()),
        mutator=mutate.messagepack,
        alias="sealed datagram in a senders' channel",
    ),
)
