"""Ports that cannot be opened: an interface that went at the wrong moment, or has no address yet."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import trio
from nacl.signing import SigningKey

from mcfs.net import server as server_module
from mcfs.net.reconcile import Plan
from mcfs.net.server import Server
from mcfs.net.settings import ServerSettings
from mcfs.serve.index import Index
from mcfs.serve.store import NodeStore
from tests.net.test_ports import make_port
from tests.net.test_reconcile import ETH0, ETH1

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mcfs.net.interfaces import Interface
    from mcfs.net.ports import Port


class Opening:
    """In the role of `open_port`: fails for some interfaces."""

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}

    def __call__(self, interface: Interface, *_: object, **__: object) -> Port:
        if code := self.failing.get(interface.name):
            raise OSError(code, os.strerror(code))
        return make_port(interface)


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> Opening:
    opening = Opening()
    monkeypatch.setattr(server_module, "open_port", opening)
    return opening


@pytest.fixture
def store(tmp_path: Path) -> Iterator[NodeStore]:
    with Index.open(tmp_path / "state", 1 << 20) as index:
        yield NodeStore(index)


def make_server(store: NodeStore, *interfaces: Interface) -> Server:
    return Server(store, interfaces, ServerSettings(), SigningKey.generate())


def test_at_the_start_one_that_can_be_opened_is_enough(
    opening: Opening, store: NodeStore, caplog: pytest.LogCaptureFixture
) -> None:
    opening.failing["eth1"] = errno.ENODEV
    make_server(store, ETH0, ETH1)
    assert caplog.messages == ["eth1: cannot be served now: No such device"]


def test_at_the_start_none_that_can_be_opened_is_an_error(opening: Opening, store: NodeStore) -> None:
    opening.failing.update(eth0=errno.EPERM, eth1=errno.EPERM)
    with pytest.raises(PermissionError):
        make_server(store, ETH0, ETH1)


async def test_later_it_is_said_once_and_to_be_tried_again(
    opening: Opening, store: NodeStore, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_server(store, ETH0)
    opening.failing["eth1"] = errno.EADDRNOTAVAIL
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            assert not await server._apply(Plan(open=(ETH1,)), nursery)
    assert caplog.messages == ["eth1: cannot be served now: Cannot assign requested address"]
