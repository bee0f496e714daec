"""Shares with keys on a link: payloads with tags, beacons that name only what their readers can compute."""

from __future__ import annotations

import random

import numpy as np
import pytest

from mcfs.protocol import fec, wire
from mcfs.protocol.beacon import encode_beacon
from mcfs.protocol.ids import MIN_BLOCK_SIZE, Digest, Group, Host, Node, ObjectRef, SealedNode, node_under
from mcfs.protocol.keys import ShareKeys
from mcfs.protocol.seal import NodeSeal
from mcfs.serve.announcer import Announcer
from mcfs.serve.carousel import Carousel, Content
from mcfs.serve.channel import Channel
from mcfs.serve.link import Link
from mcfs.serve.payload import Payload, PayloadCache
from mcfs.serve.querier import Querier
from mcfs.serve.schedule import MAX_SUPER_DATAGRAM, Scheduler
from mcfs.serve.senders import Senders

ONE, OTHER = ShareKeys(b"1" * 32), ShareKeys(b"2" * 32)
REF = ObjectRef(100 * MIN_BLOCK_SIZE, MIN_BLOCK_SIZE, Digest(bytes(32)))
T = 1424
A, B = (Host(bytes.fromhex("fe80") + bytes(13) + bytes((i,))) for i in (1, 2))


def channel(number: int, keys: ShareKeys | None, index: int = 0, pace: int = 0) -> Channel:
    return Channel(Group(bytes.fromhex("ff15") + number.to_bytes(14, "big")), node_under(keys, REF, 0, index), pace)


def scheduler() -> Scheduler:
    return Scheduler(rate=1e9, payloads=PayloadCache(), max_symbol_size=T, repair_start=lambda: 0)


def sealed_payload(length: int = MIN_BLOCK_SIZE + 16) -> tuple[Payload, bytes]:
    data = random.Random(1).randbytes(length)
    return Payload(SealedNode(REF, 0, 3, ONE), data, T), data


def test_every_datagram_of_a_sealed_node_has_its_tag() -> None:
    payload, data = sealed_payload()
    key = NodeSeal(ONE, Node(REF, 0, 3)).tag_key
    k = fec.source_symbols(len(data), T)
    source, repair = payload.source(0, k), payload.repair(5, 10)
    assert source.shape[1] == repair.shape[1] == wire.datagram_size(T, tagged=True)
    for sent in (source, repair):
        assert wire.genuine_untrusted(sent, key).all()
    run = wire.symbol_run_untrusted(source[:, : -wire.TAG_SIZE], len(data))
    assert run.rows.tobytes()[: len(data)] == data
    decoder = fec.Decoder(k, T)
    assert decoder.add(run.esis[10:], run.rows[10:]) is None
    mended = wire.symbol_run_untrusted(repair[:, : -wire.TAG_SIZE], len(data))
    more = wire.symbol_run_untrusted(payload.repair(50, 4)[:, : -wire.TAG_SIZE], len(data))
    decoded = decoder.add(np.concatenate([mended.esis, more.esis]), np.concatenate([mended.rows, more.rows]))
    assert decoded is not None
    assert decoded.tobytes()[: len(data)] == data


def test_nodes_under_different_keys_are_different_nodes() -> None:
    """Each is loaded, and sent, for its own listeners."""
    s = scheduler()
    nodes = [node_under(keys, REF, 0, 7) for keys in (None, ONE, OTHER)]
    for number, node in enumerate(nodes):
        s.joined(A, Channel(channel(number, None).group, node, 0), now=0.0)
    s.next(0.3)  # nobody more is waited for
    assert set(s.to_load()) == set(nodes)
    assert len(set(nodes)) == 3
    assert [node.length - node.size for node in nodes] == [0, 16, 16]


@pytest.mark.parametrize("mtu", [1280, 1500, 9000])
def test_a_burst_fits_one_super_datagram(mtu: int) -> None:
    t = wire.max_symbol_size(mtu)
    s = Scheduler(rate=1e10, payloads=PayloadCache(), max_symbol_size=t, repair_start=lambda: 0)
    node = SealedNode(REF, 0, 0, ONE)
    s.joined(A, Channel(channel(1, None).group, node, 0), now=0.0)
    s.next(0.3)
    s.to_load()
    s.loaded(Payload(node, bytes(node.length), t))
    sent, now = 0, 0.3
    while (transmission := s.next(now)) is not None and not transmission.repair:
        datagrams = transmission.datagrams()
        assert datagrams.nbytes <= MAX_SUPER_DATAGRAM
        assert transmission.wire_bits == 8 * (datagrams.nbytes + len(datagrams) * wire.LINK_OVERHEAD)
        sent += len(datagrams)
        now += 0.001
    assert sent == fec.source_symbols(node.length, t)


def test_a_beacon_names_what_its_readers_can_compute() -> None:
    """Groups of a key stand in no beacon but in the sealed ones of that key."""
    announcer, s = Announcer(Group(b"c" * 16)), scheduler()
    shares = {Group(bytes((0xFF, 0x15)) + bytes((i,)) * 14): keys for i, keys in ((1, None), (2, ONE), (3, OTHER))}
    for group, keys in shares.items():
        announcer.publish(group, group, now=0.0, keys=keys)
        for host in (A, B):
            announcer.joined(host, group, now=0.0)
    link = Link(
        resolver=_Nothing(), scheduler=s, announcer=announcer, querier=Querier(A, now=0.0, rng=random.Random(1)),
        senders=Senders(A, now=0.0), warn=print, own_address=A,
    )  # fmt: skip
    named: dict[ShareKeys | None, list[Group]] = {}
    for number, keys in enumerate((None, ONE, ONE, OTHER)):
        each = channel(number, keys, number)
        named.setdefault(keys, []).append(each.group)
        s.joined(A, each, now=0.0)
    told = {beacon.channel: beacon.body for beacon in link.beacons(now=1.0)}
    assert told == {group: encode_beacon(reversed(named[keys])) for group, keys in shares.items()}


class _Nothing:
    def resolve(self, group: bytes) -> Channel | None:
        return None


def test_round_and_round_goes_what_has_a_key_too() -> None:
    s = scheduler()
    channels = {channel(number, keys).group: channel(number, keys, 0) for number, keys in enumerate((None, ONE))}
    of_node = {each.node: group for group, each in channels.items()}
    small = ObjectRef(100, MIN_BLOCK_SIZE, Digest(bytes(32)))
    contents = [Content(small, False), Content(small, False, ONE)]
    groups = {content.node(0, 0): group for content, group in zip(contents, channels, strict=True)}
    made = {group: Channel(group, node, 0) for node, group in groups.items()}
    carousel = Carousel(
        contents=lambda: contents, group=groups.__getitem__, resolve=made.get, rate=1e9, max_symbol_size=T
    )
    carousel.turn(s, frozenset(), now=0.0)
    assert {group for group, _ in s.groups()} == set(groups.values()) == set(of_node.values())
    bits = 8 * 1.05 * (104 + 12 + 66) + 8 * 1.05 * (120 + 12 + 16 + 66)
    assert carousel.period == pytest.approx(bits / 0.9 / 1e9)
