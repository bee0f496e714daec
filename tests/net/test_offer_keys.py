"""What a server announces of shares with and without a key, and in which channels."""

from __future__ import annotations

from dataclasses import replace

import pytest
from nacl.signing import SigningKey

from mcfs.net.offer import Offer
from mcfs.net.settings import ServerSettings
from mcfs.protocol import addressing, wire
from mcfs.protocol.announce import (
    Announcement,
    decode_announcement_untrusted,
    decode_gone_untrusted,
    encode_announcement,
)
from mcfs.protocol.beacon import encode_beacon
from mcfs.protocol.catalog import Attributes, DirectoryEntry, Owners
from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.ids import Digest, Group, Node, ObjectRef, SealedNode
from mcfs.protocol.keys import ShareKeys
from mcfs.protocol.seal import open_control_untrusted, seal_control
from mcfs.protocol.succession import make_chain
from mcfs.serve.announcer import KEYED
from mcfs.serve.channel import Channel
from mcfs.serve.link import Beacon
from tests.net.test_ports import make_port
from tests.net.test_reconcile import ETH0

SCOPE = addressing.SITE_LOCAL
SIGNING = SigningKey(bytes(32))
KEYS = ShareKeys(b"k" * 32)
REF = ObjectRef(100, 1 << 20, Digest(bytes(32)))
OPEN_GROUP, SECRET_GROUP = addressing.share_group(b"open", SCOPE), addressing.share_group(b"secret", SCOPE, KEYS)
CATALOGUE, KEYED_GROUP = addressing.catalogue_group(SCOPE, KEYS), addressing.keyed_group(SCOPE)


def announcement(name: bytes) -> Announcement:
    entry = DirectoryEntry(name, Attributes(0o755, 1000, 100, 0), REF)
    return Announcement(1, 0, entry, Owners({1000: b"user"}, {100: b"users"}), 100, 1, 0, ())


def make_offer(*names: bytes, always: bool = False) -> Offer:
    offer = Offer(ServerSettings(always=always), SIGNING)
    offer.replace({name: announcement(name) for name in names}, {b"secret": KEYS})
    return offer


def test_each_share_in_its_channels() -> None:
    offer, port = make_offer(b"open", b"secret"), make_port(ETH0)
    offer.publish(port.link, now=0.0)
    for group in (OPEN_GROUP, SECRET_GROUP, CATALOGUE, KEYED_GROUP, addressing.catalogue_group(SCOPE)):
        assert group in port.link.announcer
    publisher = bytes(SIGNING.verify_key)
    assert addressing.share_group(b"secret", SCOPE) not in port.link.announcer
    assert addressing.senders_group(publisher, b"secret", SCOPE) not in port.link.senders
    assert addressing.senders_group(publisher, b"secret", SCOPE, KEYS) in port.link.senders


def test_without_keys_nothing_says_that_there_are_some() -> None:
    offer, port = make_offer(b"open"), make_port(ETH0)
    offer.publish(port.link, now=0.0)
    assert KEYED_GROUP not in port.link.announcer


def test_round_and_round_it_is_announced_to_nobody() -> None:
    offer, port = make_offer(b"secret", always=True), make_port(ETH0)
    offer.publish(port.link, now=0.0)
    assert {SECRET_GROUP, CATALOGUE, KEYED_GROUP} <= {group for group, _ in port.link.announcer.due(now=1.0)}


@pytest.mark.parametrize("group", [SECRET_GROUP, CATALOGUE], ids=["share", "catalogue"])
def test_an_announcement_is_sealed_for_the_channel_it_goes_to(group: Group) -> None:
    offer, port = make_offer(b"open", b"secret"), make_port(ETH0)
    offer.publish(port.link, now=0.0)
    sealed = offer.announcement(port, b"secret", group)
    assert b"secret" not in sealed
    assert bytes(SIGNING.verify_key) not in sealed
    kind, body = wire.control_untrusted(open_control_untrusted(sealed, KEYS, group))
    assert kind == wire.ANNOUNCEMENT
    assert decode_announcement_untrusted(body).name == b"secret"
    assert decode_announcement_untrusted(body).key_check == KEYS.check(b"secret")
    _, body = wire.control_untrusted(offer.announcement(port, b"open", OPEN_GROUP))
    assert decode_announcement_untrusted(body).name == b"open"
    assert decode_announcement_untrusted(body).key_check == b""
    assert offer.announcement(port, KEYED, KEYED_GROUP) == bytes((1, wire.KEYED, 0, 0))


def test_names_of_users_give_way_to_the_size_of_a_datagram() -> None:
    keys = [*(SigningKey(bytes([n]) * 32) for n in range(1, 4)), SIGNING]
    offer, port = Offer(ServerSettings(), SIGNING, make_chain(keys)), make_port(ETH0)
    long = replace(announcement(b"s" * 255), owners=Owners({1000: b"u" * 600}, {100: b"g" * 600}))
    offer.replace({long.name: long}, {long.name: KEYS})
    offer.publish(port.link, now=0.0)
    group = addressing.share_group(long.name, SCOPE, KEYS)
    sealed = offer.announcement(port, long.name, group)
    assert len(sealed) <= wire.MIN_MTU - wire.IPV6_UDP_OVERHEAD
    _, body = wire.control_untrusted(open_control_untrusted(sealed, KEYS, group))
    assert decode_announcement_untrusted(body).name == long.name
    assert len(decode_announcement_untrusted(body).links) == 3


def test_beacons_and_gone() -> None:
    offer, port = make_offer(b"open", b"secret"), make_port(ETH0)
    offer.publish(port.link, now=0.0)
    body = encode_beacon([Group(b"\xff\x15" + bytes(14))])
    sealed = offer.beacon(Beacon(SECRET_GROUP, body, 0.1))
    assert open_control_untrusted(sealed, KEYS, SECRET_GROUP) == wire.control(wire.BEACON, body, 100)
    assert offer.beacon(Beacon(OPEN_GROUP, body, 0.1)) == wire.control(wire.BEACON, body, 100)
    for node in (Node(REF, 0, 0), SealedNode(REF, 0, 0, KEYS)):
        group = addressing.node_group(node, 0, addressing.addresser_of(REF, node.keys), SCOPE)
        datagram = offer.gone(Channel(group, node, 0))
        opened = open_control_untrusted(datagram, KEYS, group) if node.keys else datagram
        kind, body = wire.control_untrusted(opened)
        assert kind == wire.GONE
        assert decode_gone_untrusted(body)[1] == group


def test_other_servers_are_heard_under_the_key() -> None:
    offer, port = make_offer(b"secret"), make_port(ETH0)
    offer.publish(port.link, now=0.0)
    channel = addressing.senders_group(bytes(SIGNING.verify_key), b"secret", SCOPE, KEYS)
    other = replace(announcement(b"secret"), addresses=(bytes.fromhex("fe80") + bytes(13) + b"\1",))
    datagram = wire.control(wire.ANNOUNCEMENT, encode_announcement(other, SIGNING))
    for wrong in (
        datagram,
        seal_control(datagram, KEYS, SECRET_GROUP),
        seal_control(datagram, ShareKeys(bytes(32)), channel),
    ):
        with pytest.raises(BadDatagram):
            offer.other_server_untrusted(port.link, channel, wrong, now=0.0)
    offer.other_server_untrusted(port.link, channel, seal_control(datagram, KEYS, channel), now=0.0)
