"""Which control channel belongs to which key."""

from __future__ import annotations

import pytest

from mcfs.fetch.keyring import Keyring
from mcfs.protocol import addressing
from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.keys import ShareKeys
from mcfs.protocol.seal import seal_control

ONE, OTHER = ShareKeys(b"1" * 32), ShareKeys(b"2" * 32)


def test_without_keys_there_is_one_channel() -> None:
    ring = Keyring((), 5)
    assert not ring
    assert ring.catalogues() == [addressing.catalogue_group(5)]
    for only_keyed in (False, True):
        assert ring.channels(b"data", only_keyed=only_keyed) == [addressing.share_group(b"data", 5)]
    assert ring.keys_of(addressing.share_group(b"data", 5)) is None


def test_a_channel_for_each_key() -> None:
    ring = Keyring((ONE, OTHER, ONE), 8)
    assert ring.catalogues() == [addressing.catalogue_group(8, keys) for keys in (None, ONE, OTHER)]
    channels = [addressing.share_group(b"data", 8, keys) for keys in (None, ONE, OTHER)]
    assert ring.channels(b"data", only_keyed=False) == channels
    assert ring.channels(b"data", only_keyed=True) == channels[1:], "who gives a key wants a share that has it"
    assert [ring.keys_of(channel) for channel in channels] == [None, ONE, OTHER]


def test_a_datagram_is_tried_with_the_key_of_its_channel() -> None:
    ring = Keyring((ONE, OTHER), 5)
    open_one, first, second = ring.channels(b"data", only_keyed=False)
    sealed = seal_control(b"hello", ONE, first)
    assert ring.open_untrusted(first, sealed) == b"hello"
    with pytest.raises(BadDatagram):
        ring.open_untrusted(second, sealed)
    with pytest.raises(BadDatagram):
        ring.open_untrusted(first, b"hello")
    assert ring.open_untrusted(open_one, b"hello") == b"hello"


def test_forgotten_channels() -> None:
    ring = Keyring((ONE,), 5)
    channel = ring.channel(b"data", ONE)
    ring.forget(channel)
    ring.forget(channel)
    assert ring.keys_of(channel) is None
