"""Which of several servers of the same content sends."""

from __future__ import annotations

import itertools
import random
from collections import deque
from typing import TYPE_CHECKING

import pytest

from mcfs.protocol.ids import Digest, Group, Host, ObjectRef
from mcfs.serve.senders import INTERVAL, MAX_PEERS, MISSED, WARM_UP, Senders

if TYPE_CHECKING:
    from collections.abc import Iterable

LOW, MIDDLE, HIGH = (Host(b"\xfe\x80" + bytes(13) + bytes([n])) for n in (1, 2, 3))
CHANNEL = Group(b"\xff\x15" + bytes(14))
SAME = ObjectRef(1000, 1 << 20, Digest(bytes(32)))
OTHER = ObjectRef(1001, 1 << 20, Digest(bytes(32)))
NAME = b"data"


def server(address: Host, now: float = 0.0, content: ObjectRef = SAME) -> Senders:
    senders = Senders(address, now=now)
    senders.publish(CHANNEL, NAME, content, now=now)
    return senders


def hear(senders: Senders, source: Host, content: ObjectRef = SAME, *, now: float) -> None:
    senders.heard(CHANNEL, source, content, time_ms=round(now * 1000), own_ms=round(now * 1000), now=now)


def test_a_server_alone_sends_and_says_nothing_to_others() -> None:
    alone = server(LOW)
    assert list(alone.due(now=10.0)) == []
    assert alone.silent == frozenset()
    assert alone.next_timeout() is None
    alone.joined(LOW, CHANNEL, now=10.0)
    assert list(alone.due(now=11.0)) == [], "our own report comes back to us"


def test_announcements_go_at_once_and_every_second_while_another_server_is_there() -> None:
    low = server(LOW)
    low.joined(HIGH, CHANNEL, now=10.0)
    assert [t for t in range(100, 125) if list(low.due(now=t / 10))] == [100, 110, 120]
    low.left(HIGH, CHANNEL, now=12.5)
    assert list(low.due(now=20.0)) == []


def test_of_the_same_content_the_lowest_address_sends() -> None:
    servers = {address: server(address) for address in (LOW, MIDDLE, HIGH)}
    for one, other in itertools.permutations(servers, 2):
        hear(servers[one], other, SAME, now=10.0)
    assert [bool(each.silent) for each in servers.values()] == [False, True, True]


def test_what_was_said_before_does_not_count_again() -> None:
    high = server(HIGH)
    hear(high, LOW, now=10.0)
    high.left(LOW, CHANNEL, now=11.0)
    for repeated in (9.0, 10.0):
        high.heard(CHANNEL, LOW, SAME, time_ms=round(repeated * 1000), own_ms=12_000, now=12.0)
    assert not high.silent
    hear(high, LOW, now=12.0)
    assert high.silent


def test_other_content_is_sent_by_whoever_has_it() -> None:
    high = server(HIGH)
    hear(high, LOW, OTHER, now=10.0)
    assert not high.silent
    high.publish(CHANNEL, NAME, OTHER, now=10.1)
    assert high.silent == {NAME}
    high.publish(CHANNEL, NAME, SAME, now=10.2)
    assert not high.silent


def test_three_missed_announcements_end_a_sender() -> None:
    high = server(HIGH)
    hear(high, LOW, SAME, now=10.0)
    assert high.next_timeout() == 10.0 + MISSED
    high.handle_timeout(now=10.0 + 3.2 * INTERVAL)
    assert high.silent
    high.handle_timeout(now=10.0 + MISSED)
    assert not high.silent


def test_a_leave_ends_a_sender_at_once() -> None:
    high = server(HIGH)
    high.joined(LOW, CHANNEL, now=10.0)
    hear(high, LOW, SAME, now=10.0)
    assert high.silent
    high.left(LOW, CHANNEL, now=10.5)
    assert not high.silent


def test_who_starts_while_another_sends_learns_first_and_then_takes_its_place() -> None:
    low = server(LOW, now=100.0)
    low.joined(HIGH, CHANNEL, now=100.1)
    hear(low, HIGH, SAME, now=100.1)
    assert low.silent
    for tenth in range(1002, 1030):
        if tenth % 10 == 1:
            hear(low, HIGH, SAME, now=tenth / 10)
        assert list(low.due(now=tenth / 10)) == [], "the other must go on until we are ready"
    hear(low, HIGH, SAME, now=103.0)
    assert not low.silent
    assert list(low.due(now=100.0 + WARM_UP + INTERVAL)) == [(CHANNEL, NAME)]


def test_clocks_that_are_set_back_do_not_make_both_send() -> None:
    high = server(HIGH)
    high.heard(CHANNEL, LOW, SAME, time_ms=3_600_000, own_ms=3_600_000, now=10.0)
    high.handle_timeout(now=20.0)
    assert not high.silent
    high.heard(CHANNEL, LOW, SAME, time_ms=1000, own_ms=1000, now=21.0)
    assert high.silent
    high.heard(CHANNEL, LOW, SAME, time_ms=3_600_001, own_ms=1001, now=24.0)
    high.handle_timeout(now=25.0)
    assert not high.silent, "of another time"


def test_hosts_that_come_and_go_cause_no_flood_of_announcements() -> None:
    low = server(LOW)
    count = 0
    for step in range(1000):
        low.joined(HIGH, CHANNEL, now=10.0 + step / 1000)
        count += len(list(low.due(now=10.0 + step / 1000)))
        low.left(HIGH, CHANNEL, now=10.0 + step / 1000)
    assert 5 <= count <= 11


def test_an_address_that_changes_decides_anew() -> None:
    middle = server(MIDDLE)
    hear(middle, LOW, SAME, now=10.0)
    assert middle.silent
    middle.set_own(Host(b"\xfe\x80" + bytes(14)), now=10.1)
    assert not middle.silent


def test_what_is_remembered_is_bounded() -> None:
    low = server(LOW)
    for number in range(1000):
        host = Host(b"\xfe\x80" + number.to_bytes(14, "big"))
        low.joined(host, CHANNEL, now=10.0)
        hear(low, host, SAME, now=10.0)
    share = low._shares[CHANNEL]
    assert len(share.peers) == len(share.present) == len(share.newest) == MAX_PEERS


@pytest.mark.parametrize("seed", range(50))
def test_servers_that_come_and_go_on_a_lossy_link_agree_in_the_end(seed: int) -> None:
    """At the end, and after each pause, exactly one sends; there is never none for longer than MISSED + WARM_UP."""
    rng = random.Random(seed)
    addresses = [Host(b"\xfe\x80" + bytes(13) + bytes([n])) for n in range(1, 5)]
    alive: dict[Host, Senders] = {}
    wire: deque[tuple[float, Host]] = deque()
    nobody_since: float | None = None

    def start(address: Host, now: float) -> None:
        alive[address] = server(address, now)
        for one, other in itertools.permutations(alive, 2):
            if address in (one, other):
                alive[one].joined(other, CHANNEL, now=now)

    def end(address: Host, now: float) -> None:
        del alive[address]
        if rng.random() < 0.5:  # else its cable was cut
            for each in alive.values():
                each.left(address, CHANNEL, now=now)

    def exchange(now: float, loss: float) -> None:
        for address, each in alive.items():
            each.handle_timeout(now=now)
            wire.extend((now, address) for _ in each.due(now=now))
        while wire:
            _, source = wire.popleft()
            for address, each in alive.items():
                if address != source and rng.random() >= loss:
                    hear(each, source, SAME, now=now)

    def sending(servers: Iterable[Senders]) -> int:
        return sum(not each.silent for each in servers)

    start(addresses[2], 0.0)
    for step in range(1, 600):
        now = step / 10
        if step < 500 and rng.random() < 0.02:
            address = rng.choice(addresses)
            if address not in alive:
                start(address, now)
            elif len(alive) > 1:
                end(address, now)
        exchange(now, 0.1 if step < 500 else 0.0)
        if sending(alive.values()):
            nobody_since = None
        elif nobody_since is None:
            nobody_since = now
        assert nobody_since is None or now - nobody_since <= MISSED + WARM_UP
    assert [address for address, each in alive.items() if not each.silent] == [min(alive)]
