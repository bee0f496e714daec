"""Ports that cannot be opened: an interface that went at the wrong moment, or has no address yet."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, cast

import pytest
import trio
from nacl.signing import SigningKey

from mcfs.net import server as server_module
from mcfs.net.reconcile import Plan
from mcfs.net.server import Server
from mcfs.net.settings import ServerSettings
from mcfs.protocol.ids import Digest, Group, Host, Node, ObjectRef
from mcfs.serve.channel import Channel
from mcfs.serve.index import Index
from mcfs.serve.payload import Payload
from mcfs.serve.senders import WARM_UP
from mcfs.serve.store import NodeStore
from tests.net.test_ports import make_port
from tests.net.test_reconcile import ETH0, ETH1

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mcfs.net.interfaces import Interface
    from mcfs.net.loader import WorkerPool
    from mcfs.net.ports import Port
    from mcfs.net.server import _Loaded


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


class Loads:
    """In the role of the pool of threads that load nodes: takes them and never answers."""

    def __init__(self) -> None:
        self.asked: list[Node] = []

    def submit(self, node: Node) -> None:
        self.asked.append(node)

    def take(self) -> list[object]:
        return []


def test_what_looking_for_something_to_send_finds_missing_is_loaded_at_once(
    opening: Opening, store: NodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else may wake the server: the only reader waits for just this."""
    server, loads = make_server(store, ETH0), Loads()
    monkeypatch.setattr(server, "_housekeeping", lambda port, now: None)
    server._loader = cast("WorkerPool[Node, _Loaded]", loads)
    port = server._opened.pop()
    server._ports.add(port, now=time.monotonic())
    scheduler = port.link.scheduler
    node = Node(ObjectRef(1 << 20, 1 << 20, Digest(bytes(32))), 0, 0)
    channel = Channel(Group(b"\xff" * 16), node, 0)
    scheduler.joined(Host(bytes(16)), channel, now=0.0)
    server._turn()
    server._loads.clear()
    scheduler.loaded(Payload(node, bytes(node.size), 1424))
    scheduler._payloads.clear()  # thrown out before its turn
    server._turn()
    assert loads.asked == [node, node]


def test_what_sending_takes_is_told_to_who_bounds_the_reports(
    opening: Opening, store: NodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, bursts, told = make_server(store, ETH0), iter([True, True, False]), list[float]()
    port, clock = server._opened.pop(), iter(range(100))
    server._ports.add(port, now=0.0)
    monkeypatch.setattr(server, "_clock", lambda: float(next(clock)) / 100)
    monkeypatch.setattr(server, "_send_one", lambda port, now: next(bursts))
    monkeypatch.setattr(port.load, "look", lambda regulars, *, sending, now: told.append(sending))
    monkeypatch.setattr(server_module, "LOOK", 1.0)
    assert server._send_bursts(0.0)
    server._drain(port, port.reader)
    assert told == [pytest.approx(0.02)]
    port.close()


async def test_what_was_opened_long_ago_asks_who_listens_anew(
    opening: Opening, store: NodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tree was indexed meanwhile. Another server of the share goes on sending until all have answered."""
    indexed = 5000.0
    server = Server(store, (ETH0,), ServerSettings(), SigningKey.generate(), clock=lambda: indexed)
    link = server._opened[0].link
    started: list[Port] = []

    async def run_port(port: Port, *, task_status: trio.TaskStatus[None]) -> None:
        started.append(port)
        task_status.started()

    async def nothing(*_: object) -> None: ...

    monkeypatch.setattr(server, "_run_port", run_port)
    monkeypatch.setattr(server, "_follow_interfaces", nothing)
    monkeypatch.setattr(server, "_send_loop", nothing)
    await server.run()
    assert [port.link for port in started] == [link]
    assert link.querier.next_timeout() == indexed
    assert link.senders._warm_at == indexed + WARM_UP
