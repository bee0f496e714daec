"""The tree over an object: from the blocks up to one hash, and from that hash down to each block."""

from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from mcfs.protocol import merkle
from mcfs.protocol.errors import BadNode
from mcfs.protocol.ids import Digest, Node, ObjectRef

from .hostile import patient

K64 = 64 << 10
BLOCK = bytes(range(256)) * 256


def fake_leaves(count: int) -> bytes:
    """Hashes of blocks that nobody has to have."""
    return b"".join(blake3(i.to_bytes(4, "big")).digest() for i in range(count))


def top_by_definition(hashes: list[bytes]) -> bytes:
    """The top hash as docs/protocol.md words it, with nothing of the code under test."""
    level = 0
    while len(hashes) > 1:
        level += 1
        pages = [hashes[at : at + 1024] for at in range(0, len(hashes), 1024)]
        hashes = [blake3(bytes([level]) + b"".join(page), derive_key_context="mcfs 1 page").digest() for page in pages]
    return hashes[0]


class TestHashes:
    def test_leaf(self) -> None:
        assert merkle.leaf_hash(b"x") == blake3(b"x", derive_key_context="mcfs 1 leaf").digest()

    def test_leaf_in_pieces(self) -> None:
        hasher = merkle.leaf_hasher()
        hasher.update(BLOCK[:7])
        hasher.update(BLOCK[7:])
        assert hasher.digest() == merkle.leaf_hash(BLOCK)

    def test_a_page_is_bound_to_its_level(self) -> None:
        page = fake_leaves(2)
        assert len({merkle.page_hash(level, page) for level in range(1, 5)} | {merkle.leaf_hash(page)}) == 5

    def test_no_block_stands_for_a_page(self) -> None:
        page = fake_leaves(3)
        assert merkle.leaf_hash(b"\x01" + page) != merkle.page_hash(1, page)

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_any_buffer(self, kind: type[bytes] | type[bytearray] | type[memoryview]) -> None:
        assert merkle.node_hash(0, kind(BLOCK)) == merkle.leaf_hash(BLOCK)
        assert merkle.node_hash(1, kind(BLOCK[:64])) == merkle.page_hash(1, BLOCK[:64])


class TestTree:
    @pytest.mark.parametrize("count", [1, 2, 1023, 1024, 1025, 2048, 2049])
    def test_top_is_as_defined(self, count: int) -> None:
        leaves = fake_leaves(count)
        split = [leaves[at : at + 32] for at in range(0, len(leaves), 32)]
        assert merkle.tree_levels(leaves)[-1] == top_by_definition(split)

    @pytest.mark.parametrize("count", [2, 1024, 1025, 2049])
    def test_levels_are_those_of_the_geometry(self, count: int) -> None:
        leaves = fake_leaves(count)
        ref = merkle.object_ref(count * K64 - 1, K64, leaves)
        assert [len(level) // 32 for level in merkle.tree_levels(leaves)] == list(ref.geometry.counts)

    @pytest.mark.parametrize("count", [2, 1024, 1025, 2049])
    def test_every_page_verifies_from_the_top_down(self, count: int) -> None:
        leaves = fake_leaves(count)
        ref = merkle.object_ref(count * K64, K64, leaves)
        levels = merkle.tree_levels(leaves)
        known = {(ref.geometry.top_level, 0): ref.top}
        for level in range(ref.geometry.top_level, 0, -1):
            for index, page in enumerate(merkle.pages(levels[level - 1])):
                merkle.verify_node(Node(ref, level, index), page, known[level, index])
                first = index * 1024
                for child in range(first, first + len(page) // 32):
                    known[level - 1, child] = merkle.child_hash(page, child)
        assert b"".join(known[0, i] for i in range(count)) == leaves

    @patient
    @given(st.integers(1, 4 * K64), st.data())
    def test_every_block_verifies_and_no_other(self, size: int, data: st.DataObject) -> None:
        content = (BLOCK * 5)[1 : size + 1]
        ref, leaves = merkle.object_of(content, K64)
        index = data.draw(st.integers(0, ref.geometry.counts[0] - 1))
        node, expected = Node(ref, 0, index), merkle.child_hash(leaves, index)
        block = content[index * K64 : (index + 1) * K64]
        merkle.verify_node(node, block, expected)
        for wrong in (block[:-1], block + b"\0", _flip(block, data.draw(st.integers(0, 8 * len(block) - 1)))):
            with pytest.raises(BadNode):
                merkle.verify_node(node, wrong, expected)

    @pytest.mark.parametrize("size", [1, K64 - 1, K64])
    def test_one_block_has_no_page(self, size: int) -> None:
        ref, leaves = merkle.object_of(BLOCK[:size], K64)
        assert ref == ObjectRef(size, K64, merkle.leaf_hash(BLOCK[:size]))
        assert leaves == ref.top
        assert ref.geometry.top_level == 0

    def test_one_byte_more_has_one(self) -> None:
        ref, leaves = merkle.object_of(BLOCK + b"x", K64)
        assert leaves == merkle.leaf_hash(BLOCK) + merkle.leaf_hash(b"x")
        assert ref == ObjectRef(K64 + 1, K64, merkle.page_hash(1, leaves))


class TestZeros:
    @pytest.mark.parametrize("size", [1, K64, K64 + 5])
    def test_blocks_of_zeros_are_known(self, size: int) -> None:
        ref, leaves = merkle.object_of(bytes(size), K64)
        for index in range(ref.geometry.counts[0]):
            assert merkle.is_zero_leaf(Node(ref, 0, index), merkle.child_hash(leaves, index))

    def test_what_is_not_zeros_is_not(self) -> None:
        ref, leaves = merkle.object_of(bytes(K64) + b"\1", K64)
        assert not merkle.is_zero_leaf(Node(ref, 0, 1), merkle.child_hash(leaves, 1))

    def test_the_length_counts(self) -> None:
        assert merkle.zero_leaf(1) != merkle.zero_leaf(2)

    def test_a_page_is_never_zeros(self) -> None:
        ref = ObjectRef(2 * K64, K64, Digest(bytes(32)))
        assert not merkle.is_zero_leaf(Node(ref, 1, 0), merkle.zero_leaf(64))


def _flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
