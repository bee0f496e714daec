"""What a share key does to nodes and control datagrams."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcfs.protocol import wire
from mcfs.protocol.errors import BadDatagram, BadNode
from mcfs.protocol.ids import MIN_BLOCK_SIZE, SEAL_SIZE, Digest, Node, ObjectRef
from mcfs.protocol.keys import ShareKeys
from mcfs.protocol.merkle import leaf_hash
from mcfs.protocol.seal import SEALED_SIZES, NodeSeal, open_control_untrusted, seal_control

from .hostile import mutated, patient

KEYS, OTHERS = ShareKeys(bytes(range(32))), ShareKeys(bytes(32))
REF = ObjectRef(10 * MIN_BLOCK_SIZE, MIN_BLOCK_SIZE, Digest(bytes(32)))
NODE = Node(REF, 0, 3)
DATA = bytes(range(256)) * (MIN_BLOCK_SIZE // 256)
GROUP, NEIGHBOUR = bytes(range(16)), bytes(range(1, 17))
SEALED = seal_control(wire.control(wire.BEACON, b"x" * 14), KEYS, GROUP)


class TestNodes:
    def test_comes_back(self) -> None:
        digest = leaf_hash(DATA)
        sealed = NodeSeal(KEYS, NODE).seal(DATA, digest)
        assert len(sealed) == len(DATA) + SEAL_SIZE
        assert NodeSeal(KEYS, NODE).open_untrusted(sealed, digest) == DATA
        assert NodeSeal(KEYS, NODE).open_untrusted(memoryview(bytearray(sealed)), digest) == DATA

    def test_every_server_makes_the_same(self) -> None:
        digest = leaf_hash(DATA)
        assert NodeSeal(KEYS, NODE).seal(DATA, digest) == NodeSeal(KEYS, NODE).seal(bytearray(DATA), digest)

    @pytest.mark.parametrize(
        ("keys", "node", "digest"),
        [
            (OTHERS, NODE, leaf_hash(DATA)),
            (KEYS, Node(REF, 0, 4), leaf_hash(DATA)),
            (KEYS, Node(REF, 1, 3), leaf_hash(DATA)),
            (KEYS, Node(ObjectRef(REF.size + 1, REF.block_size, REF.top), 0, 3), leaf_hash(DATA)),
            (KEYS, NODE, leaf_hash(b"other")),
        ],
    )
    def test_nothing_else_opens_it(self, keys: ShareKeys, node: Node, digest: Digest) -> None:
        """And what differs in any of these has another key: equal blocks do not look alike."""
        sealed = NodeSeal(KEYS, NODE).seal(DATA, leaf_hash(DATA))
        with pytest.raises(BadNode):
            NodeSeal(keys, node).open_untrusted(sealed, digest)
        again = NodeSeal(keys, node).seal(DATA, digest)
        assert (
            len({sealed[i : i + 64] for i in range(0, 1024, 64)} & {again[i : i + 64] for i in range(0, 1024, 64)}) == 0
        )

    @patient
    @given(st.integers(0, len(DATA) + SEAL_SIZE - 1), st.integers(1, 255))
    def test_one_changed_byte(self, at: int, change: int) -> None:
        sealed = bytearray(NodeSeal(KEYS, NODE).seal(DATA, leaf_hash(DATA)))
        sealed[at] ^= change
        with pytest.raises(BadNode):
            NodeSeal(KEYS, NODE).open_untrusted(sealed, leaf_hash(DATA))

    @patient
    @given(st.binary(max_size=200))
    def test_anything_is_opened_or_refused_in_one_way(self, sealed: bytes) -> None:
        with pytest.raises(BadNode):
            NodeSeal(KEYS, NODE).open_untrusted(sealed, leaf_hash(DATA))

    def test_tag_keys(self) -> None:
        nodes = [NODE, Node(REF, 0, 4), Node(REF, 1, 3), Node(ObjectRef(1, MIN_BLOCK_SIZE, REF.top), 0, 3)]
        assert len({NodeSeal(keys, node).tag_key for keys in (KEYS, OTHERS) for node in nodes}) == 8


class TestControl:
    @patient
    @given(st.binary(max_size=1182))
    def test_comes_back(self, datagram: bytes) -> None:
        sealed = seal_control(datagram, KEYS, GROUP)
        assert open_control_untrusted(sealed, KEYS, GROUP) == datagram
        assert len(sealed) in SEALED_SIZES
        assert sealed[:4] == bytes((wire.VERSION, wire.SEALED, 0, 0))
        assert len(sealed) <= wire.MIN_MTU - wire.IPV6_UDP_OVERHEAD

    def test_too_long(self) -> None:
        with pytest.raises(ValueError, match="1183"):
            seal_control(bytes(1183), KEYS, GROUP)

    @pytest.mark.parametrize(("keys", "group"), [(OTHERS, GROUP), (KEYS, NEIGHBOUR)])
    def test_only_this_key_and_this_group(self, keys: ShareKeys, group: bytes) -> None:
        with pytest.raises(BadDatagram):
            open_control_untrusted(SEALED, keys, group)

    def test_equal_datagrams_are_only_equal_in_one_channel(self) -> None:
        again = [seal_control(wire.control(wire.BEACON, b"x" * 14), keys, group)
                 for keys, group in ((KEYS, GROUP), (KEYS, NEIGHBOUR), (OTHERS, GROUP))]  # fmt: skip
        assert again[0] == SEALED
        assert len({sealed[4:28] for sealed in again}) == 3, "nonces"

    def test_lengths_of_names_are_hidden(self) -> None:
        assert len({len(seal_control(bytes(n), KEYS, GROUP)) for n in range(639)}) == 1

    @patient
    @given(mutated(SEALED))
    def test_what_was_changed_is_refused(self, datagram: bytes) -> None:
        if datagram == SEALED:
            return
        with pytest.raises(BadDatagram):
            open_control_untrusted(datagram, KEYS, GROUP)

    @patient
    @given(st.binary(max_size=1500) | st.binary(min_size=680, max_size=680).map(lambda rest: SEALED[:4] + rest))
    def test_anything_is_opened_or_refused_in_one_way(self, datagram: bytes) -> None:
        with pytest.raises(BadDatagram):
            open_control_untrusted(datagram, KEYS, GROUP)

    def test_a_length_that_is_too_long(self) -> None:
        """Who has the key can say it; it is no more than a bad datagram."""
        from mcfs.protocol import seal

        inner = (639).to_bytes(2, "big") + bytes(638)
        sealed = SEALED[:4] + seal._channel(KEYS, GROUP).seal(inner)
        with pytest.raises(BadDatagram, match="length"):
            open_control_untrusted(sealed, KEYS, GROUP)
