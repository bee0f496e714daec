"""What a server signs: each time a later time, whatever is done to its clock."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from nacl.signing import SigningKey

from mcfs.net import offer
from mcfs.net.offer import Offer
from mcfs.net.settings import ServerSettings
from mcfs.protocol import wire
from mcfs.protocol.addressing import SITE_LOCAL, share_group
from mcfs.protocol.announce import Announcement, decode_announcement_untrusted, decode_gone_untrusted
from mcfs.protocol.ids import Group, Node
from mcfs.protocol.succession import make_chain
from mcfs.serve.channel import Channel
from tests.fetch.publishers import Publisher, content

if TYPE_CHECKING:
    from mcfs.net.ports import Port

ADDRESS = bytes.fromhex("fe800000000000000000000000000001")
KEY = SigningKey(bytes(32))
PORT = cast(
    "Port",
    SimpleNamespace(
        interface=SimpleNamespace(link_local=ADDRESS),
        transmitter=SimpleNamespace(source=lambda _: ADDRESS),
        link=SimpleNamespace(carousel=None),
        rate=10**9,
    ),
)


CHANNEL = Channel(Group(bytes(16)), Node(content(1), 0, 0), 0)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ms = 1_000_000
        monkeypatch.setattr(offer, "_unix_ms", lambda: self.ms)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def said(offer: Offer, name: bytes) -> Announcement:
    _, body = wire.control_untrusted(offer.announcement(PORT, name, share_group(name, SITE_LOCAL)))
    return decode_announcement_untrusted(body)


def offering(*names: bytes, links: tuple[bytes, ...] = ()) -> Offer:
    found = Offer(ServerSettings(), KEY, links)
    found.replace({name: Publisher(1).says(name) for name in names}, {})
    return found


def test_each_announcement_is_later_also_when_the_clock_goes_back(clock: Clock) -> None:
    offer, times = offering(b"data"), []
    for step in (0, 0, 5, 0, -3_600_000, 1, 3_600_100):
        clock.ms += step
        times.append(said(offer, b"data").time_ms)
    assert all(before < after for before, after in itertools.pairwise(times))
    assert times[-1] == clock.ms


def test_what_is_asked_of_many_shares_does_not_drive_the_time_ahead(clock: Clock) -> None:
    names = [b"%d" % number for number in range(50)]
    offer = offering(*names)
    assert {said(offer, name).time_ms for name in names} == {clock.ms}
    for _ in range(1000):
        offer.gone(CHANNEL)
    assert said(offer, names[0]).time_ms == clock.ms + 1
    _, body = wire.control_untrusted(offer.gone(CHANNEL))
    assert decode_gone_untrusted(body)[2] == clock.ms


def test_former_keys_are_announced(clock: Clock) -> None:
    links = make_chain([SigningKey(b"o" * 32), KEY])
    assert said(offering(b"data", links=links), b"data").links == links
    assert said(offering(b"data"), b"data").links == ()
