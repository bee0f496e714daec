"""Which floods a client counts, and that what is forged uses up nothing that is genuine; no socket is there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from mcfs.net.budgets import SIGNATURES
from mcfs.net.client import Client, ClientSettings
from mcfs.net.door import LOOK, MANY
from mcfs.net.interfaces import Interface, Kind
from mcfs.net.receive import Receiver, Run
from mcfs.protocol import addressing, wire
from mcfs.protocol.addressing import addresser_of, node_group
from mcfs.protocol.announce import encode_announcement
from mcfs.protocol.beacon import encode_beacon
from mcfs.protocol.ids import MIN_BLOCK_SIZE, Digest, Group, Host, Node, ObjectRef
from mcfs.protocol.keys import ShareKeys
from mcfs.protocol.seal import seal_control
from tests.fetch.publishers import Publisher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mcfs.net.bpf import Program

KEYS = ShareKeys(b"k" * 32)
SCOPE = addressing.SITE_LOCAL
SERVER, LIAR = Host(bytes.fromhex("fe80") + bytes(13) + b"\1"), Host(bytes.fromhex("fe80") + bytes(13) + b"\2")
LAN = Interface("lan", 1, 1500, SERVER, False, 10**9, Kind.WIRED, True, True, True)
CATALOGUE, KEYED_CATALOGUE = addressing.catalogue_group(SCOPE), addressing.catalogue_group(SCOPE, KEYS)
REF = ObjectRef(100 * MIN_BLOCK_SIZE, MIN_BLOCK_SIZE, Digest(bytes(32)))
NODE = Node(REF, 0, 0)
GENUINE, FORGER = Publisher(1), Publisher(2)


@dataclass
class NoSocket:
    usable: int = 8 << 20
    malformed: int = 0
    programs: list[Program] = field(default_factory=list)

    def attach(self, program: Program) -> None:
        self.programs.append(program)

    def close(self) -> None: ...


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """It listens to all shares, without a key and with one."""
    settings = ClientSettings((LAN,), tmp_path, keys=(KEYS,))
    client = Client(settings, lambda: 0.0, cast("Receiver", NoSocket()))
    for channel in client._keyring.catalogues():
        client._hold(channel)
    yield client
    client.close()


def hear(client: Client, group: Group, source: Host, *datagrams: bytes, now: float = 0.0) -> None:
    rows = np.frombuffer(b"".join(datagrams), dtype=np.uint8).reshape(len(datagrams), -1)
    client._received(Run(group, source, LAN.index, rows), now)


def said(publisher: Publisher, name: bytes, *, source: Host = SERVER, keys: ShareKeys | None = None) -> bytes:
    check = keys.check(name) if keys is not None else b""
    announcement = replace(publisher.says(name, address=source), publisher=b"", key_check=check)
    return wire.control(wire.ANNOUNCEMENT, encode_announcement(announcement, publisher.key))


def sealed(publisher: Publisher, name: bytes) -> bytes:
    return seal_control(said(publisher, name, keys=KEYS), KEYS, KEYED_CATALOGUE)


def settle(client: Client, now: float) -> None:
    """As the client does when time passes."""
    while (due := client._shares.next_timeout()) is not None and due <= now:
        for announcement in client._shares.settle(now=now):
            client._live(announcement, now)
    client._look_out(now)


@pytest.mark.parametrize("keys", [None, KEYS])
@pytest.mark.parametrize("kind", [wire.ANNOUNCEMENT, wire.BEACON, wire.GONE, wire.SEALED, wire.KEYED, 9])
@pytest.mark.parametrize("where", ["wanted", "left a moment ago", "control"])
def test_a_flood_of_control_datagrams_counts_wherever_it_comes(
    client: Client, kind: int, keys: ShareKeys | None, where: str
) -> None:
    """The filter takes some of them from strangers, so there must be no channel in which nobody counts them."""
    if keys is not None:
        hear(client, KEYED_CATALOGUE, SERVER, sealed(GENUINE, b"data"))
    else:
        hear(client, CATALOGUE, SERVER, said(GENUINE, b"data"))
    settle(client, 1.0)
    group = node_group(NODE, 0, addresser_of(REF, keys), SCOPE)
    if where == "wanted":
        client._tree.request(NODE, b"data", urgent=True, now=1.0)
        assert client._fetcher.origin_of(group) == b"data"
    elif where == "control":
        group = KEYED_CATALOGUE if keys is not None else CATALOGUE
    forged = bytes((wire.VERSION, kind)) + bytes(684 - 2)
    hear(client, group, LIAR, *[forged] * 2 * MANY, now=1.01)
    client._look_out(1.0 + LOOK)
    assert LIAR in client._door.rules.throttled


def test_symbols_do_not_count(client: Client) -> None:
    """However many a server sends, and of whatever shape."""
    symbol = bytes((wire.VERSION, wire.SYMBOL)) + bytes(1434)
    hear(client, Group(b"g" * 16), SERVER, *[symbol] * 10 * MANY)
    rows: Any = np.frombuffer(symbol * 90, dtype=np.uint8).reshape(2, 45, -1)
    client._received(Run(Group(b"g" * 16), SERVER, LAN.index, rows), 0.0)
    client._look_out(LOOK)
    assert not client._door.rules.throttled
    assert wire.no_symbols(rows) == 0
    assert wire.no_symbols(np.zeros((3, 1), dtype=np.uint8)) == 3


def test_symbols_in_a_control_channel_are_not_looked_at(client: Client) -> None:
    hear(client, CATALOGUE, SERVER, *[bytes((wire.VERSION, wire.SYMBOL)) + bytes(50)] * 1000)
    assert client._fetcher.counters.bad_datagrams == 1000


def test_forged_announcements_use_up_nothing_of_shares_with_a_key(client: Client) -> None:
    """Who has no key: with signatures that are right, and under the address of the server as well."""
    hear(client, KEYED_CATALOGUE, SERVER, sealed(GENUINE, b"data"))
    settle(client, 1.0)
    for source in (LIAR, SERVER):
        for number in range(4 * SIGNATURES):
            hear(client, CATALOGUE, source, said(FORGER, b"forged %d" % (number % 50), source=source), now=1.0)
    for name in (b"one", b"two"):
        hear(client, KEYED_CATALOGUE, SERVER if name == b"two" else LIAR, sealed(GENUINE, name), now=1.0)
    settle(client, 2.0)
    assert {b"data", b"one", b"two"} <= set(client.shares())


def test_beacons_without_a_seal_use_up_nothing_of_those_with_one(client: Client) -> None:
    hear(client, KEYED_CATALOGUE, SERVER, sealed(GENUINE, b"data"))
    settle(client, 1.0)
    group = node_group(NODE, 0, addresser_of(REF, KEYS), SCOPE)
    client._tree.request(NODE, b"data", urgent=True, now=1.0)
    changes = client._fetcher.changes(now=1.0)
    assert changes is not None
    assert group in changes.joins
    other = wire.control(wire.BEACON, encode_beacon([Group(group[:2] + bytes(14))]))
    for _ in range(10):
        hear(client, CATALOGUE, LIAR, *[other] * 1000, now=1.1)
    channel = client._keyring.channel(b"data", KEYS)
    client._hold(channel)
    beacon = seal_control(wire.control(wire.BEACON, encode_beacon([group])), KEYS, channel)
    hear(client, channel, SERVER, beacon, now=1.1)
    assert client._fetcher.last_heard(b"data") == 1.1


def test_a_share_whose_server_cannot_be_heard_is_not_down(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody floods under its address, so most of what it says is dropped; symbols come, so reading goes on."""
    hear(client, KEYED_CATALOGUE, SERVER, sealed(GENUINE, b"data"))
    settle(client, 1.0)
    forged = bytes((wire.VERSION, wire.SEALED, 0, 0)) + bytes(680)
    now = 100.0
    monkeypatch.setattr(client, "_clock", lambda: now)
    assert client._is_down(b"data"), "nothing was heard for long"
    client._look_out(99.9)
    hear(client, KEYED_CATALOGUE, SERVER, *[forged] * 2000, now=now)
    client._look_out(now)
    assert not client._is_down(b"data")
    for step in range(1, 100):
        client._look_out(now + step * 0.1)
    now = 110.0
    assert client._is_down(b"data")


def test_a_publisher_of_another_share_takes_nothing_from_those_in_use(client: Client) -> None:
    """In a mount of all shares anybody is a server, of a share of his own. He floods; the one in use is heard."""
    hear(client, CATALOGUE, SERVER, said(GENUINE, b"data"))
    hear(client, CATALOGUE, LIAR, said(FORGER, b"other", source=LIAR))
    settle(client, 1.0)
    client._use(b"data")
    client._look_out(1.2)
    assert {SERVER, LIAR} <= client._door.rules.servers
    again = said(FORGER, b"other", source=LIAR)
    hear(client, CATALOGUE, LIAR, *[again] * 2000, now=1.3)
    client._look_out(1.4)
    assert [host for host, _ in client._door.rules.parts] == [LIAR]
    share = client._shares.get(b"data")
    assert share is not None
    hear(client, CATALOGUE, SERVER, said(GENUINE, b"data"), now=1.4)
    assert share.last_heard == 1.4
