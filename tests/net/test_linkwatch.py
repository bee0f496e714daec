"""What the kernel tells of interfaces, as bytes, and what is made of it. tests/netlab has the real thing."""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING

import pytest
import trio

from mcfs.net import linkwatch
from mcfs.net.linkwatch import Changed, LinkWatch, follow, parse_changes
from tests.net.test_reconcile import ETH0, ETH1

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mcfs.net.interfaces import Interface
    from mcfs.net.reconcile import Plan

NEWLINK, DELLINK, NEWADDR, DELADDR, NEWROUTE = 16, 17, 20, 21, 24
AF_BRIDGE = 7


def message(kind: int, body: bytes = b"") -> bytes:
    whole = struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body
    return whole + bytes(-len(whole) % 4)


def link(kind: int, index: int, family: int = 0) -> bytes:
    return message(kind, struct.pack("=BxHiII", family, 1, index, 0, 0) + b"attributes")


@pytest.mark.parametrize("kind", [NEWLINK, NEWADDR, DELADDR])
def test_news_of_links_and_addresses_are_changes(kind: int) -> None:
    assert parse_changes(link(kind, 3)) == Changed()


def test_other_messages_are_not() -> None:
    assert parse_changes(message(NEWROUTE, bytes(20))) is None
    assert parse_changes(b"") is None


def test_deleted_interfaces_are_remembered() -> None:
    data = link(DELLINK, 3) + message(NEWROUTE) + link(NEWLINK, 3) + link(DELLINK, 9)
    assert parse_changes(data) == Changed(frozenset({3, 9}))


def test_a_port_that_leaves_a_bridge_is_not_deleted() -> None:
    assert parse_changes(link(DELLINK, 3, AF_BRIDGE)) == Changed()


@pytest.mark.parametrize("length", range(1, 40))
def test_a_message_that_is_cut_off_does_no_harm(length: int) -> None:
    parse_changes(link(DELLINK, 3)[:length])
    parse_changes(struct.pack("=IHHII", 0, DELLINK, 0, 0, 0) * 3)


class FakeSocket:
    """Gives out datagrams, or raises errors; then there is nothing more."""

    def __init__(self, *items: tuple[bytes, int] | OSError) -> None:
        self.items = list(items)

    def recvfrom(self, _: int) -> tuple[bytes, tuple[int, int]]:
        if not self.items:
            raise BlockingIOError
        item = self.items.pop(0)
        if isinstance(item, OSError):
            raise item
        return item[0], (item[1], 1)

    def close(self) -> None:
        pass


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[LinkWatch]:
    with LinkWatch() as real:
        yield real


def feed(watch: LinkWatch, fake: FakeSocket) -> bool:
    real, watch._socket = watch._socket, fake  # type: ignore[assignment]
    try:
        return watch._drain()
    finally:
        watch._socket = real


def test_an_overrun_is_a_change(watch: LinkWatch) -> None:
    assert feed(watch, FakeSocket(OSError(errno.ENOBUFS, "overrun")))


def test_other_errors_are_not_hidden(watch: LinkWatch) -> None:
    with pytest.raises(OSError, match="bad"):
        feed(watch, FakeSocket(OSError(errno.EBADF, "bad")))


def test_only_the_kernel_is_believed(watch: LinkWatch) -> None:
    assert not feed(watch, FakeSocket((link(DELLINK, 3), 4711)))
    assert feed(watch, FakeSocket((link(DELLINK, 3), 0)))


async def test_what_came_before_a_cancellation_is_told_later(watch: LinkWatch) -> None:
    assert feed(watch, FakeSocket((link(DELLINK, 3), 0)))
    with trio.move_on_after(linkwatch.SETTLE / 10):
        await watch.changed()
    with trio.fail_after(5):
        assert 3 in (await watch.changed()).deleted


async def test_without_rtnetlink_one_line_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    async def apply(plan: Plan) -> bool:
        raise AssertionError(plan)

    monkeypatch.setattr(socket, "socket", refuse)
    await follow(list, (), apply)
    assert caplog.messages == ["changes of network interfaces are not followed: Operation not permitted"]


class Kernel:
    """Lists interfaces, one script line after the other; the last one for ever."""

    def __init__(self, *lists: Sequence[Interface] | OSError) -> None:
        self.lists = list(lists)

    def __call__(self) -> tuple[Interface, ...]:
        now = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        if isinstance(now, OSError):
            raise now
        return tuple(now)


async def followed(monkeypatch: pytest.MonkeyPatch, kernel: Kernel, *answers: bool) -> list[Plan]:
    """What is applied until nothing is left to be done again; `answers` say whether it succeeded."""
    monkeypatch.setattr(linkwatch, "list_interfaces", kernel)
    monkeypatch.setattr(linkwatch, "RETRY", 0.01)
    plans: list[Plan] = []

    async def apply(plan: Plan) -> bool:
        await trio.lowlevel.checkpoint()
        plans.append(plan)
        return answers[len(plans) - 1]

    with trio.move_on_after(0.5):
        await follow(lambda: [ETH0], (), apply)
    return plans


async def test_what_changed_before_the_watch_began_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = await followed(monkeypatch, Kernel([ETH1]), True)
    assert [(plan.close, plan.open) for plan in plans] == [((ETH0,), (ETH1,))]


async def test_what_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = await followed(monkeypatch, Kernel([ETH0, ETH1]), False, False, True)
    assert [plan.open for plan in plans] == [(ETH1,)] * 3


async def test_a_list_that_fails_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = OSError(errno.ENODEV, "No such device")
    plans = await followed(monkeypatch, Kernel(gone, gone, [ETH0, ETH1]), True)
    assert [plan.open for plan in plans] == [(ETH1,)]


async def test_without_a_difference_nothing_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await followed(monkeypatch, Kernel([ETH0])) == []
