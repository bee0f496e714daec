"""The example of docs/protocol.md, recomputed: each line of hex in the document, and the pseudo-code, which is Python.

``python -m tests.protocol.test_vectors`` prints the blocks as they must stand in the document.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt as chacha20_poly1305  # libsodium's, not the code's
from nacl.exceptions import BadSignatureError
from nacl.pwhash import argon2id
from nacl.secret import Aead
from nacl.signing import SigningKey, VerifyKey

from mcfs.protocol import addressing, fec, ids, merkle, probe, succession, wire
from mcfs.protocol.addressing import Addresser, Coordinate
from mcfs.protocol.announce import (
    Announcement,
    decode_announcement_untrusted,
    decode_gone_untrusted,
    encode_announcement,
    encode_gone,
)
from mcfs.protocol.beacon import decode_beacon_untrusted, encode_beacon
from mcfs.protocol.catalog import (
    Attributes,
    DirectoryEntry,
    Extent,
    FileEntry,
    LinkEntry,
    Owners,
    decode_listing_untrusted,
    encode_listing,
)
from mcfs.protocol.ids import Digest, Node, ObjectRef
from mcfs.protocol.keys import ShareKeys, keys_of_file, keys_of_password
from mcfs.protocol.publisher import fingerprint
from mcfs.protocol.seal import NodeSeal, open_control_untrusted, seal_control

from .hostile import patient

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "protocol.md"
LINE: Final = 64
"""Hex digits in one line of the document."""

SMALL: Final = bytes(range(100))
LARGE: Final = bytes(65536) + b"mcfs"
KEY: Final = SigningKey(bytes(range(32)))
SHARE_KEYS: Final = keys_of_file(SMALL)
OLD_KEY: Final = SigningKey(bytes(range(32, 64)))
SECOND: Final = 1_000_000_000
SIGNED_AT: Final = 1_767_225_600
"""2026-01-01 00:00:00 UTC."""
ADDRESS: Final = bytes.fromhex("fe80000000000000020000fffe000001")

Vectors = dict[str, str]


def vectors() -> dict[str, Vectors]:
    """Every block of the document, by its title."""
    small, _ = merkle.object_of(SMALL, ids.DEFAULT_BLOCK_SIZE)
    large, leaves = merkle.object_of(LARGE, ids.MIN_BLOCK_SIZE)
    listing = _listing(small)
    listing_ref, _ = merkle.object_of(listing, ids.DEFAULT_BLOCK_SIZE)
    block = Node(small, 0, 0)
    group = addressing.node_group(block, 0, addressing.addresser_of(small), 5)
    page_group = addressing.node_group(Node(large, 1, 0), 0, addressing.addresser_of(large), 5)
    body = encode_announcement(_announcement(listing_ref), KEY)
    return {
        "object of one block": {"content": SMALL.hex(), **_ref(small)},
        "object of two blocks": {
            "leaf 0": leaves[:32].hex(),
            "leaf 1": leaves[32:].hex(),
            "page": leaves.hex(),
            **_ref(large),
        },
        "group addresses": {
            **_addresser("name", b"object" + small.id),
            **_group("block 0, class 0, scope 5", small, Coordinate(0, 0, 0), 5),
            **_group("block 0, class 3, scope 8", small, Coordinate(0, 3, 0), 8),
        },
        "group of a page": _group("page 0 of level 1, class 0, scope 5", large, Coordinate(1, 0, 0), 5),
        "control channels": {
            "share demo, scope 5": addressing.share_group(b"demo", 5).hex(),
            "catalogue, scope 5": addressing.catalogue_group(5).hex(),
        },
        "symbols": {
            "T = 104, ESI 0": _datagram(SMALL, 104, 0).hex(),
            "T = 16, ESI 0": _datagram(SMALL, 16, 0).hex(),
            "T = 16, ESI 6": _datagram(SMALL, 16, 6).hex(),
            "T = 16, ESI 7": _datagram(SMALL, 16, 7).hex(),
            "T = 16, ESI 8": _datagram(SMALL, 16, 8).hex(),
        },
        "listing": {"content": listing.hex(), **_ref(listing_ref)},
        "announcement": {
            "seed": bytes(KEY).hex(),
            "public key": bytes(KEY.verify_key).hex(),
            "datagram": wire.control(wire.ANNOUNCEMENT, body).hex(),
        },
        "beacon": {"datagram": wire.control(wire.BEACON, encode_beacon([group, page_group])).hex()},
        "gone": {"datagram": wire.control(wire.GONE, encode_gone(group, SIGNED_AT * 1000, KEY)).hex()},
        "link": {
            "old seed": bytes(OLD_KEY).hex(),
            "old public key": bytes(OLD_KEY.verify_key).hex(),
            "link": succession.make_link(OLD_KEY, KEY).hex(),
            "fingerprint of the old key": fingerprint(bytes(OLD_KEY.verify_key)).hex(),
        },
        "probe object": {
            "first bytes": probe.probe_content()[:32].hex(),
            **_ref(probe.probe_object()),
            "group of block 0, class 0, scope 5": probe.probe_group(0, 5).hex(),
            "group of block 0, class 3, scope 5": probe.probe_group(3, 5).hex(),
        },
        "share keys": _share_keys(),
        "share with a key": _share_with_key(small),
    }


def _share_keys() -> Vectors:
    password = b"correct horse battery staple"
    purposes = ("groups", "nodes", "tags", "control")
    return {
        "key file": SMALL.hex(),
        "share key": SHARE_KEYS.secret.hex(),
        **{purpose: getattr(SHARE_KEYS, purpose).hex() for purpose in purposes},
        "key check of demo": SHARE_KEYS.check(b"demo").hex(),
        "password": password.hex(),
        "share key of the password": keys_of_password(password).secret.hex(),
    }


def _share_with_key(ref: ObjectRef) -> Vectors:
    """The object of one block, sealed, and the channels of the share."""
    node = Node(ref, 0, 0)
    group = addressing.node_group(node, 0, addressing.addresser_of(ref, SHARE_KEYS), 5)
    seal = NodeSeal(SHARE_KEYS, node)
    sealed = seal.seal(SMALL, ref.top)
    gone = wire.control(wire.GONE, encode_gone(group, SIGNED_AT * 1000, KEY))
    return {
        "group of block 0, class 0, scope 5": group.hex(),
        "sealed block": sealed.hex(),
        "key of its tags": seal.tag_key.hex(),
        "T = 16, ESI 7": _datagram(sealed, 16, 7, seal.tag_key).hex(),
        "gone": seal_control(gone, SHARE_KEYS, group).hex(),
        "share demo, scope 5": addressing.share_group(b"demo", 5, SHARE_KEYS).hex(),
        "catalogue, scope 5": addressing.catalogue_group(5, SHARE_KEYS).hex(),
        "where it is said that there are keys, scope 5": addressing.keyed_group(5).hex(),
        "what is said there": wire.control(wire.KEYED, b"").hex(),
    }


def _ref(ref: ObjectRef) -> Vectors:
    return {"size": f"{ref.size:016x}", "block size": f"{ref.block_size:08x}", "top": ref.top.hex(), "id": ref.id.hex()}


def _addresser(title: str, name: bytes) -> Vectors:
    material = blake3(name, derive_key_context="mcfs 1 group").digest(length=136)
    keys = {f"key {i}": material[8 + 32 * i : 40 + 32 * i].hex() for i in range(4)}
    return {title: name.hex(), "tag": material[:8].hex(), **keys}


def _group(title: str, ref: ObjectRef, coordinate: Coordinate, scope: int) -> Vectors:
    addresser = addressing.addresser_of(ref)
    return {
        f"coordinate of {title}": f"{coordinate.pack():012x}",
        f"permuted of {title}": f"{addresser._permute(coordinate.pack()):012x}",
        f"group of {title}": addresser.group(coordinate, scope).hex(),
    }


def _datagram(node: bytes, t: int, esi: int, tag_key: bytes = b"") -> bytes:
    k = fec.source_symbols(len(node), t)
    source = np.frombuffer(node.ljust(k * t, b"\0"), dtype=np.uint8).reshape(k, t)
    symbol = source[esi : esi + 1] if esi < k else fec.Encoder(source).repair(esi - k, 1)
    return wire.frame(len(node), np.array([esi], dtype=np.uint32), symbol, tag_key).tobytes()


def _listing(pack: ObjectRef) -> bytes:
    """What may stand in a listing: a directory with a file in it, an empty file, a piece of a pack, a link."""
    attributes = Attributes(0o644, 1000, 100, SIGNED_AT * SECOND)
    empty, piece, rest = (Digest(blake3(data).digest()) for data in (b"", SMALL[:60], SMALL[60:]))
    inner = FileEntry(b"b", attributes, Extent(pack, 60, 40), rest)
    entries = (
        DirectoryEntry(b"dir", Attributes(0o755, 1000, 100, SIGNED_AT * SECOND), (inner,)),
        FileEntry(b"empty", attributes, None, empty),
        FileEntry(b"file", attributes, Extent(pack, 0, 60), piece),
        LinkEntry(b"link", Attributes(0o777, 0, 0, -1), b"dir/b"),
    )
    return encode_listing(entries, Owners({1000: b"user"}, {100: b"users"}))


def _announcement(top: ObjectRef) -> Announcement:
    return Announcement(
        version=SIGNED_AT * 1000,
        time_ms=SIGNED_AT * 1000 + 500,
        entry=DirectoryEntry(b"demo", Attributes(0o755, 1000, 100, SIGNED_AT * SECOND), top),
        owners=Owners({1000: b"user"}, {100: b"users"}),
        total_bytes=100,
        total_files=3,
        rate=950_000_000,
        addresses=(ADDRESS,),
    )


# --- the document ----------------------------------------------------------------------------------------------------


def rendered(block: Vectors) -> str:
    lines = []
    for name, value in block.items():
        pieces = [value[at : at + LINE] for at in range(0, len(value), LINE)]
        lines.append(f"{name}:")
        lines += [f"    {piece}" for piece in pieces]
    return "\n".join(lines) + "\n"


def blocks(kind: str) -> list[str]:
    """The fenced blocks of a kind in the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def pseudo_code() -> dict[str, Callable[..., Any]]:
    """The functions that the document defines."""
    namespace: dict[str, object] = {
        "blake3": blake3,
        "chacha20_poly1305": lambda key, nonce, plain, also: chacha20_poly1305(plain, also, nonce, key),
        "argon2id": argon2id,
        "xchacha20_poly1305": lambda key, nonce, plain: bytes(Aead(key).encrypt(plain, nonce=nonce).ciphertext),
    }
    for block in blocks("python"):
        exec(block, namespace)
    return {name: value for name, value in namespace.items() if callable(value)}


VECTORS: Final = vectors()


@pytest.mark.parametrize("title", VECTORS)
def test_the_document_says_what_the_code_does(title: str) -> None:
    found = [block.partition("\n")[2] for block in blocks("vectors") if block.startswith(f"# {title}\n")]
    assert found == [rendered(VECTORS[title])]


def test_there_are_no_other_blocks() -> None:
    assert [block.partition("\n")[0] for block in blocks("vectors")] == [f"# {title}" for title in VECTORS]


def test_the_receiving_side_reads_it() -> None:
    known = VECTORS
    listing = decode_listing_untrusted(bytes.fromhex(known["listing"]["content"]))
    assert [entry.name for entry in listing.entries] == [b"dir", b"empty", b"file", b"link"]
    _, body = wire.control_untrusted(bytes.fromhex(known["announcement"]["datagram"]))
    announcement = decode_announcement_untrusted(body)
    assert isinstance(announcement.entry, DirectoryEntry)
    assert isinstance(announcement.entry.content, ObjectRef)
    assert announcement.entry.content.id.hex() == known["listing"]["id"]
    _, body = wire.control_untrusted(bytes.fromhex(known["gone"]["datagram"]))
    _, group, _ = decode_gone_untrusted(body)
    assert group.hex() == known["group addresses"]["group of block 0, class 0, scope 5"]
    _, body = wire.control_untrusted(bytes.fromhex(known["beacon"]["datagram"]))
    assert decode_beacon_untrusted(body, group[:2])[0] == group


def test_repair_symbols_of_the_document_decode() -> None:
    """Without symbols 0 and 6: the two repair symbols stand in for them."""
    known = VECTORS["symbols"]
    repair = [np.frombuffer(bytes.fromhex(known[f"T = 16, ESI {esi}"])[12:], dtype=np.uint8) for esi in (7, 8)]
    source = np.frombuffer(SMALL[16:96], dtype=np.uint8).reshape(5, 16)
    decoded = fec.Decoder(7, 16).add(np.array([1, 2, 3, 4, 5, 7, 8], dtype=np.uint32), np.vstack([source, *repair]))
    assert decoded is not None
    assert decoded.tobytes()[:100] == SMALL


def test_the_receiving_side_opens_it() -> None:
    known = {name: bytes.fromhex(value) for name, value in VECTORS["share with a key"].items()}
    small, _ = merkle.object_of(SMALL, ids.DEFAULT_BLOCK_SIZE)
    seal = NodeSeal(SHARE_KEYS, Node(small, 0, 0))
    assert seal.open_untrusted(known["sealed block"], small.top) == SMALL
    datagram = np.frombuffer(known["T = 16, ESI 7"], dtype=np.uint8).reshape(1, -1)
    assert wire.genuine_untrusted(datagram, seal.tag_key).all()
    group = known["group of block 0, class 0, scope 5"]
    _, body = wire.control_untrusted(open_control_untrusted(known["gone"], SHARE_KEYS, group))
    assert decode_gone_untrusted(body)[1] == group


class TestPseudoCode:
    CODE: Final = pseudo_code()

    @patient
    @given(st.integers(1, ids.MAX_OBJECT_SIZE), st.integers(16, 24).map(lambda n: 1 << n), st.data())
    def test_geometry(self, size: int, block_size: int, data: st.DataObject) -> None:
        size = min(size, block_size << 40)
        shape = ids.geometry(size, block_size)
        assert self.CODE["counts"](size, block_size) == list(shape.counts)
        level = data.draw(st.integers(0, shape.top_level))
        index = data.draw(st.integers(0, shape.counts[level] - 1))
        assert self.CODE["node_size"](size, block_size, level, index) == shape.node_size(level, index)

    @pytest.mark.parametrize("content", [SMALL, LARGE, bytes(65536), b"x" * 200_000])
    def test_object_id(self, content: bytes) -> None:
        ref, _ = merkle.object_of(content, 65536)
        assert self.CODE["top_hash"](content, 65536) == ref.top
        assert self.CODE["object_id"](ref.size, ref.block_size, ref.top) == ref.id

    def test_probe_object(self) -> None:
        assert self.CODE["probe_content"]() == probe.probe_content()

    @patient
    @given(
        st.binary(max_size=60), st.integers(0, 15), st.integers(0, 7), st.integers(0, (1 << 40) - 1), st.integers(3, 14)
    )
    def test_group(self, name: bytes, kind: int, pace: int, index: int, scope: int) -> None:
        group = Addresser(name).group(Coordinate(kind, pace, index), scope)
        assert self.CODE["group_address"](name, kind, pace, index, scope) == group
        assert self.CODE["coordinate"](name, group) == (kind, pace, index)

    def test_follows(self) -> None:
        keys = [SigningKey(bytes([n]) * 32) for n in range(4)]
        public = [bytes(key.verify_key) for key in keys]
        links = succession.make_chain(keys[:3])
        for chain in (links, links[1:], links[:1], links[::-1], (), (links[0][:159] + b"x", links[1])):
            for publisher, ancestor in itertools.product(public, public):
                expected = succession.is_successor_untrusted(chain, publisher, fingerprint(ancestor))
                assert self.CODE["follows"](chain, publisher, ancestor, _verify) == expected
        assert self.CODE["follows"](links, public[2], public[0], _verify)

    @patient
    @given(st.integers(1, 16 << 20), st.integers(1280, 9000))
    def test_symbol_size(self, length: int, mtu: int) -> None:
        t = fec.symbol_size(length, wire.max_symbol_size(mtu))
        assert self.CODE["symbol_size"](length, mtu) == t
        assert self.CODE["source_symbols"](length, t) == fec.source_symbols(length, t)

    @patient
    @given(st.binary(min_size=32, max_size=32), st.binary(min_size=1, max_size=200), st.integers(0, 1 << 39))
    def test_share_keys(self, secret: bytes, content: bytes, index: int) -> None:
        keys = ShareKeys(secret)
        derived = self.CODE["share_keys"](secret)
        ref, _ = merkle.object_of(content, ids.MIN_BLOCK_SIZE)
        seal = NodeSeal(keys, Node(ref, 2, index))
        assert self.CODE["seal_node"](derived, ref.id, 2, index, content, ref.top) == seal.seal(content, ref.top)
        framed = wire.frame(len(content), np.zeros(1, np.uint32), np.ones((1, 8), np.uint8), seal.tag_key).tobytes()
        assert self.CODE["tag"](derived, ref.id, 2, index, framed[:-16]) == framed[-16:]
        assert self.CODE["seal_control"](derived, ref.top[:16], content) == seal_control(content, keys, ref.top[:16])
        assert self.CODE["key_check"](derived, content) == keys.check(content)
        assert self.CODE["keyed_material"](derived, content)[:8] == Addresser(content, keys).tag

    def test_share_keys_of_files_and_passwords(self) -> None:
        assert self.CODE["of_key_file"](SMALL) == SHARE_KEYS.secret
        assert self.CODE["of_password"](b"password") == keys_of_password(b"password").secret


def _verify(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(key).verify(message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


if __name__ == "__main__":
    for title, block in vectors().items():
        print(f"```vectors\n# {title}\n{rendered(block)}```\n")
