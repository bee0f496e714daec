"""Blocks by their hashes."""

from __future__ import annotations

import random

from mcfs.fetch.leafindex import BLOCKS_PER_OBJECT, LeafIndex, can_be_elsewhere
from mcfs.protocol.ids import Digest, Node

from .cachefakes import BLOCK, Sample

ONE, TWO = Sample(1, 8 * BLOCK), Sample(2, 8 * BLOCK)


def digest(number: int) -> Digest:
    return Digest(random.Random(number).randbytes(32))


def test_what_was_entered_is_found() -> None:
    leaves = LeafIndex()
    assert leaves.find(digest(1)) is None
    leaves.add(digest(1), ONE.node(3))
    leaves.add(digest(2), Node(TWO.ref, 0, (1 << 40) - 1))
    assert leaves.find(digest(1)) == ONE.node(3)
    assert leaves.find(digest(2)) == Node(TWO.ref, 0, (1 << 40) - 1)
    leaves.add(digest(1), TWO.node(0))
    assert leaves.find(digest(1)) == TWO.node(0)
    leaves.forget(digest(1))
    leaves.forget(digest(1))
    assert leaves.find(digest(1)) is None
    assert len(leaves) == 1


def test_small_files_are_not_entered() -> None:
    assert can_be_elsewhere(ONE.node(0))
    assert can_be_elsewhere(Sample(3, BLOCK).node(0))
    assert not can_be_elsewhere(Sample(4, BLOCK - 1).node(0))


def test_there_are_only_so_many_and_the_newest_stay() -> None:
    leaves = LeafIndex(max_blocks=100)
    for number in range(1000):
        leaves.add(digest(number), ONE.node(number % 8))
        assert len(leaves) <= 100
    assert all(leaves.find(digest(number)) for number in range(950, 1000))
    assert leaves.find(digest(0)) is None


def test_the_objects_are_bounded_as_well() -> None:
    """A file that changes all the time has the same blocks in each version."""
    leaves = LeafIndex(max_blocks=128)
    objects = [Sample(number, 8 * BLOCK) for number in range(200)]
    for sample in objects:
        leaves.add(digest(1), sample.node(0))
        assert sum(len(each.objects) for each in (leaves._young, leaves._old)) <= 128 // BLOCKS_PER_OBJECT
    assert leaves.find(digest(1)) == objects[-1].node(0)
    older = LeafIndex(max_blocks=128)
    assert [older.add_older(digest(number), objects[number].node(0)) for number in range(9)] == 8 * [True] + [False]
    assert older.add_older(digest(9), objects[0].node(1)), "of an object that is known"


def test_those_from_before_do_not_drive_out_others() -> None:
    leaves = LeafIndex(max_blocks=100)
    leaves.add(digest(0), ONE.node(0))
    assert all(leaves.add_older(digest(number), TWO.node(1)) for number in range(50))
    assert not leaves.add_older(digest(99), TWO.node(1))
    assert leaves.find(digest(0)) == ONE.node(0)
    assert leaves.find(digest(49)) == TWO.node(1)
    leaves.forget(digest(49))
    assert leaves.find(digest(49)) is None
