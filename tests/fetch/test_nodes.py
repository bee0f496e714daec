"""A node that is wanted of several shares, of which some are down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mcfs.fetch.fetcher import Fetcher, Limits
from mcfs.fetch.fetchevents import Failed
from mcfs.fetch.nodes import MAX_ORIGINS, NodeTree, Ready
from mcfs.protocol import addressing, merkle, wire
from mcfs.protocol.errors import Gone, ShareDown, TimedOut
from mcfs.protocol.ids import MIN_BLOCK_SIZE, Group, Host, Node
from mcfs.protocol.keys import ShareKeys
from tests.fakelink import DictCache

if TYPE_CHECKING:
    from collections.abc import Iterable

SMALL = bytes(range(200))
REF, _ = merkle.object_of(SMALL, MIN_BLOCK_SIZE)
NODE = Node(REF, 0, 0)
DATA = bytes(range(256)) * (2 * MIN_BLOCK_SIZE // 256)
LARGE, _ = merkle.object_of(DATA, MIN_BLOCK_SIZE)
KEYS = {b"keyed": ShareKeys(b"k" * 32), b"other": ShareKeys(b"o" * 32)}
SERVER = Host(b"s" * 16)
TIMEOUT = 5.0


class Link:
    """A tree whose origins are told apart by their share keys."""

    def __init__(self) -> None:
        self.down: set[bytes] = set()
        self.fetcher = Fetcher(Limits(timeout=TIMEOUT))
        self.tree = NodeTree(
            self.fetcher,
            DictCache(),
            addressing.SITE_LOCAL,
            is_down=self.down.__contains__,
            pace=lambda _: 0,
            keys=KEYS.get,
        )

    def asked(self, *, now: float) -> set[Group]:
        """The groups that are joined by and by."""
        found: set[Group] = set()
        for step in range(20):
            changes = self.fetcher.changes(now=now + step / 10)
            found.update(changes.joins if changes else ())
        return found

    def time_passes(self, *, now: float) -> None:
        self.fetcher.handle_timeout(now=now)
        for event in self.fetcher.events():
            assert isinstance(event, Failed)
            self.tree.failed(event, now=now)

    def outcomes(self) -> list[Ready | Failed]:
        return list(self.tree.events())


def group(origin: bytes, node: Node = NODE) -> Group:
    return addressing.node_group(node, 0, addressing.addresser_of(node.object, KEYS.get(origin)), 5)


def request(link: Link, origins: Iterable[bytes], now: float = 0.0) -> None:
    for origin in origins:
        assert link.tree.request(NODE, origin, urgent=True, now=now) is None


def test_another_share_is_asked_when_one_is_silent() -> None:
    link = Link()
    request(link, [b"keyed", b"open"])
    assert link.asked(now=0.0) == {group(b"keyed")}
    link.time_passes(now=TIMEOUT + 1)
    assert link.outcomes() == []
    assert link.asked(now=TIMEOUT + 1) == {group(b"open")}
    symbols = np.frombuffer(SMALL, np.uint8).reshape(1, -1)
    datagram = wire.frame(len(SMALL), np.zeros(1, np.uint32), symbols)
    link.fetcher.receive(group(b"open"), SERVER, datagram, now=TIMEOUT + 2)
    for event in link.fetcher.events():
        link.tree.assembled(event, now=TIMEOUT + 2)  # type: ignore[arg-type]
    (ready,) = link.outcomes()
    assert isinstance(ready, Ready)
    assert bytes(ready.data) == SMALL


def test_when_all_have_failed_that_is_the_end() -> None:
    link = Link()
    request(link, [b"keyed", b"other", b"open"])
    for number in range(3):
        assert link.outcomes() == []
        link.asked(now=10.0 * number)
        link.time_passes(now=10.0 * number + 9)
    (failed,) = link.outcomes()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, TimedOut)
    assert not link.fetcher.wants(NODE)


def test_one_share_has_it_no_more() -> None:
    """Somebody may list the objects of others, and say that he has them no more."""
    link = Link()
    request(link, [b"keyed", b"open"])
    link.asked(now=0.0)
    link.fetcher.gone(group(b"keyed"), now=1.0)
    for event in link.fetcher.events():
        assert isinstance(event, Failed)
        assert isinstance(event.error, Gone)
        link.tree.failed(event, now=1.0)
    assert link.outcomes() == []
    assert link.asked(now=1.0) == {group(b"open")}


def test_what_timed_out_in_one_share_is_asked_of_another_at_once() -> None:
    link = Link()
    request(link, [b"keyed"])
    link.asked(now=0.0)
    link.time_passes(now=6.0)
    assert len(link.outcomes()) == 1
    request(link, [b"keyed"], now=6.1)
    assert [type(failed.error) for failed in link.outcomes() if isinstance(failed, Failed)] == [TimedOut]
    request(link, [b"open"], now=6.1)
    assert link.outcomes() == []
    assert link.asked(now=6.1) == {group(b"open")}


def test_a_page_is_asked_of_another_share_as_well() -> None:
    link = Link()
    page, block = Node(LARGE, 1, 0), Node(LARGE, 0, 1)
    for origin in (b"keyed", b"open"):
        link.tree.request(block, origin, urgent=True, now=0.0)
    assert link.asked(now=0.0) == {group(b"keyed", page), group(b"keyed", block)}
    link.down.add(b"keyed")
    link.time_passes(now=6.0)
    assert link.outcomes() == []
    assert link.asked(now=6.0) == {group(b"open", page), group(b"open", block)}


def test_a_share_that_is_taken_away_is_asked_no_more() -> None:
    link = Link()
    request(link, [b"keyed", b"open"])
    link.asked(now=0.0)
    link.down.add(b"keyed")
    link.tree.withdraw(b"keyed", now=1.0)
    assert link.outcomes() == []
    assert link.asked(now=1.0) == {group(b"open")}
    link.down.add(b"open")
    link.tree.withdraw(b"open", now=2.0)
    (failed,) = link.outcomes()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, ShareDown)


def test_how_many_shares_are_remembered_is_bounded() -> None:
    link = Link()
    request(link, [b"%d" % number for number in range(100)])
    assert len(link.tree._pending[NODE].others) == MAX_ORIGINS
