"""Target: all of a client that comes before a share is believed and a node is assembled, as it is put together.

An input is a sequence of datagrams. The mark of each says in which channel it comes, who sends it, and what is still
done with it: it may be signed, and sealed, by somebody who has the keys.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast
from unittest import mock

import numpy as np

from mcfs.fetch.cache import Cache
from mcfs.fetch.fetcher import Fetcher
from mcfs.fetch.fetchevents import Failed
from mcfs.net.client import Client, ClientSettings
from mcfs.net.receive import Joined, Receiver, Run
from mcfs.protocol import addressing, announce, wire
from mcfs.protocol.announce import Announcement
from mcfs.protocol.beacon import encode_beacon
from mcfs.protocol.catalog import Attributes, DirectoryEntry, Owners
from mcfs.protocol.ids import Digest, Group, Host, Node
from mcfs.protocol.seal import seal_control
from tests.fuzz import mutate, seeds
from tests.fuzz.framing import frames, joined
from tests.fuzz.keyed import KEYS, NODE, REF
from tests.fuzz.target import Target
from tests.net.test_reconcile import ETH0

if TYPE_CHECKING:
    from mcfs.fetch.shares import ShareTable

SERVER: Final = seeds.HOST
STRANGER: Final = Host(seeds.HOST[:-1] + b"\x09")
DEMO, SECRET = b"demo", b"secret"
_SCOPE: Final = addressing.SITE_LOCAL
_SECRET_REF: Final = replace(REF, top=Digest(b"s" * 32))
_SECRET_NODE: Final = Node(_SECRET_REF, 0, 0)
_CHANNELS: Final = (
    (addressing.catalogue_group(_SCOPE), None),
    (addressing.catalogue_group(_SCOPE, KEYS), KEYS),
    (addressing.share_group(DEMO, _SCOPE), None),
    (addressing.share_group(SECRET, _SCOPE, KEYS), KEYS),
    (addressing.keyed_group(_SCOPE), None),
    (addressing.node_group(NODE, 0, addressing.addresser_of(REF), _SCOPE), None),
    (addressing.node_group(_SECRET_NODE, 0, addressing.addresser_of(_SECRET_REF, KEYS), _SCOPE), KEYS),
    (Group(seeds.PREFIX + bytes(14)), None),
)
CATALOGUE, SECRETS, SHARE, SECRET_SHARE, KEYED, BLOCK, SECRET_BLOCK, _ = range(len(_CHANNELS))
_FROM_STRANGER: Final = 0x08
_SEALED: Final = 0x10
_SIGNED_ANNOUNCEMENT: Final = 0x20
_SIGNED_GONE: Final = 0x40
_LATER: Final = 0x80


class _Socket:
    """Stands for a `Receiver`: all can be joined, and nothing comes by itself."""

    usable = 16 << 20
    malformed = 0

    def attach(self, program: object) -> None: ...

    def join(self, group: bytes, ifindex: int) -> Joined:
        return Joined(True)

    def leave(self, group: bytes, ifindex: int) -> None: ...


@lru_cache(maxsize=1)
def _cache() -> Cache:
    """An empty one for all inputs, as none gets as far as to a block; to open one takes longer than all else."""
    directory = tempfile.mkdtemp(prefix="mcfs-fuzz-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Cache.open(Path(directory))


def _client() -> Client:
    settings, cache = ClientSettings(interfaces=(ETH0,), cache_dir=Path(), keys=(KEYS,)), _cache()

    def opened(_: Path, **_limits: int | None) -> Cache:
        return cache

    with mock.patch.object(Cache, "open", opened):
        client = Client(settings, lambda: 0.0, cast("Receiver", _Socket()))
    for group, _ in _CHANNELS[:KEYED]:
        client._memberships.hold(group, now=0.0)
    for channel in client._keyring.catalogues():
        client._hold(channel)
    client._keyring.channels(SECRET, only_keyed=False)
    client._hold(client._keyed_group)
    return client


def conversations() -> list[bytes]:
    """Announcements with and without a key, then beacons and a gone; and the same by a stranger."""
    demo, secret = _announcement(DEMO), _announcement(SECRET)
    newer = _announcement(DEMO, version=9)
    beacon = wire.control(wire.BEACON, encode_beacon([_CHANNELS[BLOCK][0], _CHANNELS[SECRET_BLOCK][0]]), 200)
    keyed = wire.control(wire.KEYED, b"")
    gone, secret_gone = (
        seeds.messages([announce.encode_gone(_CHANNELS[n][0], 50, seeds.KEY)])[0] for n in (BLOCK, SECRET_BLOCK)
    )
    first = [(CATALOGUE | _SIGNED_ANNOUNCEMENT, demo), (SHARE | _SIGNED_ANNOUNCEMENT | _LATER, demo)]
    secrets = [(SECRETS | _SIGNED_ANNOUNCEMENT, secret), (SECRET_SHARE | _SIGNED_ANNOUNCEMENT | _LATER, secret)]
    rest = [(SHARE, beacon), (SECRET_SHARE | _SEALED, beacon), (KEYED, keyed), (BLOCK, seeds.datagrams()[0])]
    gones = [(BLOCK | _SIGNED_GONE, gone), (SECRET_BLOCK | _SIGNED_GONE, secret_gone)]
    whole = [*first, *secrets, *rest, *gones]
    return [
        joined(whole),
        joined([*first, *gones, (CATALOGUE | _SIGNED_ANNOUNCEMENT | _LATER, newer), *rest[:1]]),
        joined([*secrets, *rest, *gones]),
        joined((mark | _FROM_STRANGER, content) for mark, content in whole),
    ]


def _announcement(name: bytes, version: int = 5) -> bytes:
    """What is signed."""
    entry = DirectoryEntry(name, Attributes(0o755, 0, 0, 0), _SECRET_REF if name == SECRET else REF)
    check = KEYS.check(name) if name == SECRET else b""
    announcement = Announcement(version, 10 * version, entry, Owners(), 1, 2, 10**9, (SERVER,), 0, key_check=check)
    return seeds.messages([announce.encode_announcement(announcement, seeds.KEY)])[0]


def heard(data: bytes) -> int:
    """Returns how many shares are known then."""
    client, now, count = _client(), 0.0, 0
    for mark, content in frames(data):
        now += 0.4 if mark & _LATER else 0.01
        group, datagram = _datagram(mark, content)
        if datagram:
            row = np.frombuffer(datagram, dtype=np.uint8).reshape(1, -1)
            client._received(Run(group, STRANGER if mark & _FROM_STRANGER else SERVER, ETH0.index, row), now)
            count += 1
        _go_on(client, now)
    _check(client._shares, count)
    return len(client.shares())


def _datagram(mark: int, content: bytes) -> tuple[Group, bytes]:
    group, keys = _CHANNELS[mark & 7]
    if mark & _SIGNED_ANNOUNCEMENT:
        content = wire.control(wire.ANNOUNCEMENT, _signed(announce._ANNOUNCEMENT_CONTEXT, content))
    elif mark & _SIGNED_GONE:
        content = wire.control(wire.GONE, _signed(announce._GONE_CONTEXT, content))
    signed = mark & (_SIGNED_ANNOUNCEMENT | _SIGNED_GONE)
    if keys is not None and (signed or mark & _SEALED) and len(content) <= 1182:
        content = seal_control(content, keys, group)
    return group, content


@lru_cache(maxsize=64)
def _signed(context: bytes, message: bytes) -> bytes:
    return announce._seal(context, message, seeds.KEY)


def _go_on(client: Client, now: float) -> None:
    """What the client's loops do beside receiving."""
    for announcement in client._shares.settle(now=now):
        client._live(announcement, now)
        node = _SECRET_NODE if announcement.keys else NODE
        client._tree.request(node, announcement.name, urgent=True, now=now)
    client._pump_trust(now)
    client._fetcher.handle_timeout(now=now)
    for event in client._fetcher.events():
        assert isinstance(event, Failed)
        client._tree.failed(event, now=now)
    client._memberships.repeat(now=now)
    client._memberships.change(now=now)


def _check(shares: ShareTable, count: int) -> None:
    for name, announcement in shares.announcements().items():
        assert announcement.publisher == bytes(seeds.KEY.verify_key)
        assert announcement.keys in (None, KEYS)
        assert name == announcement.name
    assert len(shares.listing()) <= count


TARGETS: Final = (
    Target(
        Client._received,
        heard,
        conversations,
        (),
        mutate.framed_messagepack,
        (Client._announced, Client._live, Client._gone, Fetcher.gone),
    ),
)
