"""Which kind of listener table a link gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcfs.serve.bloom import BloomMembership
from mcfs.serve.listening import DEFAULT_LISTENERS
from mcfs.serve.membership import Membership

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcfs.protocol.ids import Group
    from mcfs.serve.listening import Kind, Known, ListenerTable, TableMaker


def exact_table(may_accept: Callable[[Group], bool], known: Known, max_groups_per_host: int) -> ListenerTable:
    return Membership(may_accept, max_groups_per_host=max_groups_per_host)


def table_maker(kind: Kind, *, secret: bytes, size: int = DEFAULT_LISTENERS) -> TableMaker:
    """`secret` (32 random bytes) and `size` (listeners on one interface) are for the kind "bloom"."""

    def bloom_table(may_accept: Callable[[Group], bool], known: Known, max_groups_per_host: int) -> ListenerTable:
        return BloomMembership(
            may_accept, known, secret=secret, expected_listeners=size, max_groups_per_host=max_groups_per_host
        )

    return bloom_table if kind == "bloom" else exact_table
