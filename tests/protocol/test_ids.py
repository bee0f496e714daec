"""Geometry and names of objects."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcfs.protocol.errors import BadObject
from mcfs.protocol.ids import (
    DIGEST_SIZE,
    FAN_OUT,
    MAX_BLOCK_SIZE,
    MAX_BLOCKS,
    MAX_OBJECT_SIZE,
    MIN_BLOCK_SIZE,
    Digest,
    Node,
    ObjectRef,
    geometry,
    is_block_size,
    object_ref_untrusted,
)

from .hostile import patient

K64 = 64 << 10
MIB = 1 << 20
TOP = Digest(bytes(range(32)))

block_sizes = st.integers(16, 24).map(lambda bits: 1 << bits)
sizes = st.one_of(st.integers(1, 1 << 40), st.integers(1, MAX_OBJECT_SIZE))


@st.composite
def refs(draw: st.DrawFn) -> ObjectRef:
    block_size = draw(block_sizes)
    size = min(draw(sizes), block_size * MAX_BLOCKS)
    return object_ref_untrusted(size, block_size, draw(st.binary(min_size=32, max_size=32)))


class TestGeometry:
    @pytest.mark.parametrize(
        ("size", "block_size", "counts"),
        [
            (1, K64, (1,)),
            (K64, K64, (1,)),
            (K64 + 1, K64, (2, 1)),
            (1024 * K64, K64, (1024, 1)),
            (1024 * K64 + 1, K64, (1025, 2, 1)),
            (1025 * K64, K64, (1025, 2, 1)),
            (1 << 30, MIB, (1024, 1)),
            (1 << 40, MIB, (1 << 20, 1024, 1)),
            ((1 << 40) + 1, MIB, ((1 << 20) + 1, 1025, 2, 1)),
            (1 << 56, K64, (1 << 40, 1 << 30, 1 << 20, 1024, 1)),
            ((1 << 63) - 1, 8 << 20, (1 << 40, 1 << 30, 1 << 20, 1024, 1)),
            ((1 << 63) - 1, 16 << 20, (1 << 39, 1 << 29, 1 << 19, 512, 1)),
        ],
    )
    def test_nodes_at_each_level(self, size: int, block_size: int, counts: tuple[int, ...]) -> None:
        assert geometry(size, block_size).counts == counts

    @pytest.mark.parametrize(
        ("size", "level", "index", "expected"),
        [
            (1, 0, 0, 1),
            (K64, 0, 0, K64),
            (K64 + 1, 0, 0, K64),
            (K64 + 1, 0, 1, 1),
            (K64 + 1, 1, 0, 2 * DIGEST_SIZE),
            (1024 * K64, 1, 0, 1024 * DIGEST_SIZE),
            (1025 * K64, 1, 0, 1024 * DIGEST_SIZE),
            (1025 * K64, 1, 1, DIGEST_SIZE),
            (1025 * K64, 2, 0, 2 * DIGEST_SIZE),
        ],
    )
    def test_node_sizes(self, size: int, level: int, index: int, expected: int) -> None:
        assert geometry(size, K64).node_size(level, index) == expected

    @patient
    @given(refs())
    def test_each_level_covers_the_one_below(self, ref: ObjectRef) -> None:
        shape = ref.geometry
        last = shape.counts[0] - 1
        assert last * ref.block_size + shape.node_size(0, last) == ref.size
        for level in range(1, shape.top_level + 1):
            full, rest = divmod(shape.counts[level - 1], FAN_OUT)
            assert shape.counts[level] == full + bool(rest)
            last = shape.counts[level] - 1
            assert shape.node_size(level, last) == DIGEST_SIZE * (rest or FAN_OUT)
            assert last == 0 or shape.node_size(level, 0) == DIGEST_SIZE * FAN_OUT
        assert shape.counts[-1] == 1
        assert shape.top_level <= 4, "four levels of 1,024 hold 2^40 blocks"

    @patient
    @given(refs(), st.data())
    def test_parents_lead_to_the_top(self, ref: ObjectRef, data: st.DataObject) -> None:
        node = Node(ref, 0, data.draw(st.integers(0, ref.geometry.counts[0] - 1)))
        steps = 0
        while (parent := node.parent()) is not None:
            assert parent.index == node.index // 1024
            assert ref.geometry.has(parent.level, parent.index)
            assert node.index % FAN_OUT * DIGEST_SIZE < parent.size
            node, steps = parent, steps + 1
        assert (node.level, node.index, steps) == (ref.geometry.top_level, 0, ref.geometry.top_level)

    @patient
    @given(refs(), st.integers(-2, 16), st.integers(-2, 1 << 40))
    def test_has_is_what_the_counts_say(self, ref: ObjectRef, level: int, index: int) -> None:
        counts = ref.geometry.counts
        inside = 0 <= level < len(counts) and 0 <= index < counts[level]
        assert ref.geometry.has(level, index) == inside


class TestObjectId:
    def test_depends_on_each_part_of_the_triple(self) -> None:
        first = ObjectRef(1, MIB, TOP)
        others = [ObjectRef(2, MIB, TOP), ObjectRef(1, 2 * MIB, TOP), ObjectRef(1, MIB, Digest(bytes(32)))]
        assert len({ref.id for ref in (first, *others)}) == 4
        assert len(first.id) == 32

    def test_equal_triples_are_one_object(self) -> None:
        assert ObjectRef(1, MIB, TOP) == ObjectRef(1, MIB, TOP)
        assert hash(ObjectRef(1, MIB, TOP)) == hash(ObjectRef(1, MIB, TOP))


class TestUntrusted:
    @pytest.mark.parametrize("size", [0, -1, 1 << 63, 1 << 70])
    def test_size_is_checked(self, size: int) -> None:
        with pytest.raises(BadObject):
            object_ref_untrusted(size, MIB, TOP)

    @pytest.mark.parametrize("block_size", [0, 1, -K64, K64 - 1, K64 + 1, K64 // 2, 3 * K64, 32 << 20, 1 << 64])
    def test_block_size_is_checked(self, block_size: int) -> None:
        assert not is_block_size(block_size)
        with pytest.raises(BadObject):
            object_ref_untrusted(1, block_size, TOP)

    def test_number_of_blocks_is_checked(self) -> None:
        assert object_ref_untrusted(1 << 56, K64, TOP).geometry.top_level == 4
        with pytest.raises(BadObject):
            object_ref_untrusted((1 << 56) + 1, K64, TOP)

    @pytest.mark.parametrize("length", [0, 31, 33])
    def test_top_hash_is_checked(self, length: int) -> None:
        with pytest.raises(BadObject):
            object_ref_untrusted(1, MIB, bytes(length))

    @patient
    @given(st.integers(), st.one_of(st.integers(), block_sizes), st.binary(max_size=40))
    def test_anything_else_raises_nothing_else(self, size: int, block_size: int, top: bytes) -> None:
        with contextlib.suppress(BadObject):
            ref = object_ref_untrusted(size, block_size, top)
            assert 1 <= ref.size <= MAX_OBJECT_SIZE
            assert MIN_BLOCK_SIZE <= ref.block_size <= MAX_BLOCK_SIZE
            assert ref.geometry.counts[0] <= MAX_BLOCKS
