"""The probe object beside what a store has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mcfs.protocol.addressing import Coordinate, addresser_of
from mcfs.protocol.errors import Gone
from mcfs.protocol.ids import Group, Node
from mcfs.protocol.merkle import object_of, verify_node
from mcfs.protocol.probe import probe_group, probe_node, probe_object
from mcfs.serve.channel import Channel
from mcfs.serve.probe import WithProbe

if TYPE_CHECKING:
    from mcfs.serve.carousel import Content

OTHER = Node(object_of(b"other", 65536)[0], 0, 0)
OTHER_GROUP = Group(b"\xff\x15" + b"o" * 14)


class OtherStore:
    """A store of one node."""

    def resolve(self, group: bytes) -> Channel | None:
        return Channel(OTHER_GROUP, OTHER, 0) if group == OTHER_GROUP else None

    def load(self, node: Node) -> bytes:
        if node != OTHER:
            raise Gone("no such object")
        return b"other"

    def contents(self) -> list[Content]:
        return []

    def group(self, node: Node) -> Group:
        raise AssertionError("not asked for")


STORE = WithProbe(OtherStore())


@pytest.mark.parametrize("pace", range(8))
def test_every_class_of_the_probe_object_is_served(pace: int) -> None:
    group = probe_group(pace)
    assert STORE.resolve(group) == Channel(group, probe_node(), pace)


def test_its_bytes_are_the_ones_that_its_name_says() -> None:
    verify_node(probe_node(), STORE.load(probe_node()), probe_object().top)


def test_everything_else_is_the_other_stores() -> None:
    assert STORE.resolve(OTHER_GROUP) == Channel(OTHER_GROUP, OTHER, 0)
    assert STORE.load(OTHER) == b"other"
    with pytest.raises(Gone):
        STORE.load(Node(object_of(b"third", 65536)[0], 0, 0))


def test_what_is_no_node_of_it_is_not_served() -> None:
    addresser = addresser_of(probe_object())
    for coordinate in (Coordinate(0, 0, 1), Coordinate(1, 0, 0), Coordinate(15, 0, 0)):
        assert STORE.resolve(addresser.group(coordinate)) is None
    group = bytearray(probe_group(0))
    group[12] &= 0x7F
    assert STORE.resolve(bytes(group)) is None, "bit 31 of the slot is clear"


def test_the_scope_is_the_servers() -> None:
    assert STORE.resolve(probe_group(0, scope=8)) is None
    assert WithProbe(OtherStore(), scope=8).resolve(probe_group(0, scope=8)) is not None
