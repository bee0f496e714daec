"""What the kernel hands up, on a real socket, and what makes the rules."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from mcfs.net.door import (
    ENOUGH,
    FEW,
    LOOK,
    MANY,
    MAX_COUNTED,
    MAX_SERVERS,
    MAX_THROTTLED,
    THROTTLED,
    THROTTLED_PART,
    Door,
    Program,
    Rules,
    program,
)
from mcfs.net.listeners import attach_filter
from mcfs.net.receive import Receiver
from mcfs.protocol import wire
from mcfs.protocol.ids import Host

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK = Host(bytes(15) + b"\1")
SERVER, OTHER = Host(b"s" * 16), Host(b"o" * 16)
HEADS = {
    name: bytes((wire.VERSION, kind)) + bytes(30)
    for name, kind in (
        ("symbol", wire.SYMBOL),
        ("announcement", wire.ANNOUNCEMENT),
        ("beacon", wire.BEACON),
        ("gone", wire.GONE),
        ("sealed", wire.SEALED),
        ("keyed", wire.KEYED),
    )
}
ALL = dict.fromkeys(HEADS, 1)
OF_STRANGERS = {"announcement": 1, "sealed": 1, "keyed": 1}
NOISE = {"empty": b"", "one byte": b"\1", "version": b"\2\1" + bytes(9), "type": b"\1\7" + bytes(9), "zeros": bytes(40)}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver(0)
    yield receiver
    receiver.close()


def passed(receiver: Receiver, rules: Rules, times: int = 1) -> dict[str, int]:
    """How many of each kind come through, sent from the loopback address."""
    receiver.attach(program(rules))
    port = receiver.socket.getsockname()[1]
    receiver.socket.setblocking(False)
    found = {}
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        for name, datagram in {**HEADS, **NOISE}.items():
            for _ in range(times):
                sender.sendto(datagram, ("::1", port))
            found[name] = 0
            while True:
                try:
                    receiver.socket.recv(100)
                except BlockingIOError:
                    break
                found[name] += 1
    return {name: count for name, count in found.items() if count}


def test_noise_is_dropped(receiver: Receiver) -> None:
    assert passed(receiver, Rules()) == ALL


def test_of_strangers_only_announcements_are_wanted(receiver: Receiver) -> None:
    assert passed(receiver, Rules(frozenset((SERVER,)), strict=True)) == OF_STRANGERS


@pytest.mark.parametrize("others", [0, 1, 63])
def test_servers_are_heard(receiver: Receiver, others: int) -> None:
    servers = frozenset((LOOPBACK, *(Host(number.to_bytes(16, "little")) for number in range(2, 2 + others))))
    assert passed(receiver, Rules(servers, strict=True)) == ALL


def test_an_address_that_differs_anywhere_is_another_one(receiver: Receiver) -> None:
    for at in range(16):
        other = bytearray(LOOPBACK)
        other[at] ^= 4
        assert passed(receiver, Rules(frozenset((Host(bytes(other)),)), strict=True)) == OF_STRANGERS


def test_who_is_throttled_may_send_symbols(receiver: Receiver) -> None:
    """They cost less, and sources.py judges them."""
    rules = Rules(frozenset((SERVER,)), throttled=frozenset((LOOPBACK, OTHER)))
    found = passed(receiver, rules, times=200)
    assert found.pop("symbol") == 200
    assert all(10 < count < 120 for count in found.values()), found
    assert set(found) == set(HEADS) - {"symbol"}


@pytest.mark.parametrize("known", [False, True])
def test_some_control_datagrams_are_looked_at(receiver: Receiver, known: bool) -> None:
    rules = Rules(strangers_part=0.25)
    if known:
        rules = Rules(frozenset((LOOPBACK, SERVER)), parts=frozenset(((LOOPBACK, 0.25),)))
    found = passed(receiver, rules, times=200)
    assert found.pop("symbol") == 200
    assert all(10 < count < 120 for count in found.values()), found
    assert set(found) == set(HEADS) - {"symbol"}


def test_the_longest_program_fits_the_kernel(receiver: Receiver) -> None:
    hosts = [Host(number.to_bytes(16, "big")) for number in range(MAX_SERVERS + MAX_THROTTLED)]
    parts = frozenset((host, 0.1) for host in hosts)
    rules = Rules(frozenset(hosts[:MAX_SERVERS]), True, frozenset(hosts[MAX_SERVERS:]), parts, 0.5)
    assert len(program(rules)) < 4096
    attach_filter(receiver.socket, program(rules))


# --- the rules -------------------------------------------------------------------------------------------------------


class Kernel:
    def __init__(self) -> None:
        self.programs: list[Program] = []

    def attach(self, program: Program) -> None:
        self.programs.append(program)


def test_the_kernel_is_told_when_something_changes() -> None:
    kernel = Kernel()
    door = Door(kernel.attach)
    for step in range(10):
        door.look([SERVER], frozenset((SERVER,)) if step >= 5 else None, now=step * LOOK)
    assert len(kernel.programs) == 3


def test_a_new_server_need_not_wait_for_the_next_look() -> None:
    door = Door(Kernel().attach)
    door.look([SERVER], frozenset((SERVER,)), now=1.0)
    assert door.next_timeout() is None
    assert not door.is_due(1.01)
    door.hurry()
    assert door.is_due(1.01)
    assert (door.next_timeout() or 2.0) <= 1.01
    door.look([SERVER, OTHER], frozenset((SERVER,)), now=1.01)
    assert OTHER in door.rules.servers
    assert door.next_timeout() is None


def passes_strangers(door: Door) -> bool:
    return not door.rules.strict


def test_the_servers_of_shares_in_use_are_among_those_that_are_told_apart() -> None:
    door = Door(Kernel().attach)
    many = [Host(number.to_bytes(16, "big")) for number in range(1000)]
    door.look([*many, SERVER], frozenset((SERVER,)), now=1.0)
    assert SERVER in door.rules.servers
    assert len(door.rules.servers) == MAX_SERVERS
    assert len(program(door.rules)) < 4096
    door.look(many, frozenset(many), now=2.0)
    assert passes_strangers(door), "there are too many to tell them apart"


def test_who_sends_too_many_is_throttled_ever_longer() -> None:
    door = Door(Kernel().attach)
    found, out = [], False
    for step in range(1000):
        now = step * 0.101
        if not out:
            door.came(OTHER, 2 * MANY)
        door.came(SERVER, ENOUGH // 2)
        door.look([SERVER], None, now=now)
        if out != (OTHER in door.rules.throttled):
            out = not out
            found.append(now)
    lengths = [after - before for before, after in zip(found[::2], found[1::2], strict=False)]
    assert lengths[:3] == pytest.approx([THROTTLED, 2 * THROTTLED, 4 * THROTTLED], abs=0.3)
    assert SERVER not in door.rules.throttled
    assert SERVER not in dict(door.rules.parts)


def send(door: Door, per_look: dict[Host, int], seconds: float, *, start: float, servers: tuple[Host, ...] = ()) -> int:
    """So many control datagrams come to the interface every LOOK; returns how many the rules let pass at the end."""
    passed = 0
    for step in range(int(seconds / LOOK)):
        rules, passed = door.rules, 0
        for host, count in per_look.items():
            if host in rules.servers or host in rules.throttled:
                part = dict(rules.parts).get(host, 1.0)
            else:
                part = rules.strangers_part
            passed += int(part * count)
            door.came(host, int(part * count))
        door.look(servers, None, now=start + step * LOOK * 1.01)
    return passed


@pytest.mark.parametrize("flood", [200, 2000, 50_000])
def test_a_server_that_somebody_had_throttled_is_heard_soon_after_he_stops(flood: int) -> None:
    """He sent under its address before it was heard: that must not keep it out for as long as himself."""
    door = Door(Kernel().attach)
    for number in range(6):  # so that the pause is long
        send(door, {SERVER: flood}, 0.5, start=1000.0 * number)
        assert SERVER in door.rules.throttled
        assert dict(door.rules.parts)[SERVER] < THROTTLED_PART
        send(door, {}, 400.0, start=1000.0 * number + 1.0)
    send(door, {SERVER: flood}, 0.5, start=6000.0)
    send(door, {}, 2.0, start=6001.0)
    assert SERVER in door.rules.throttled
    assert dict(door.rules.parts)[SERVER] == THROTTLED_PART, "announcements come every second, so one of them soon"


def test_one_who_is_throttled_is_looked_at_seldom() -> None:
    door = Door(Kernel().attach)
    assert send(door, {OTHER: 2000}, 2.0, start=1.0) <= FEW
    many = {Host(number.to_bytes(16, "big")): 2000 for number in range(MAX_THROTTLED)}
    assert send(door, many, 4.0, start=10.0) <= 2 * FEW


def test_a_server_in_the_crowd_is_no_flood() -> None:
    """Of so many addresses that few datagrams pass, the one that passes says nothing about who sent it."""
    door = Door(Kernel().attach)
    for step in range(40):
        for number in range(MAX_COUNTED):
            door.came(Host((step << 64 | number).to_bytes(16, "big")), 1)
        door.came(SERVER, 1)
        door.look([], None, now=step * 0.101)
        assert not door.rules.throttled
    assert door.rules.strangers_part < 1 / MANY


def test_many_addresses_are_not_told_apart() -> None:
    """Nor is anything of that put down to a server."""
    door = Door(Kernel().attach)
    for step in range(20):
        door.came(SERVER, 1)
        for number in range(2 * MAX_COUNTED):
            door.came(Host((step << 64 | number).to_bytes(16, "big")), 1)
        door.look([SERVER], None, now=step * 0.101)
    assert door.rules.strangers_part < 0.1
    assert not door.rules.parts
    assert len(door.rules.throttled) <= MAX_THROTTLED
    for step in range(20, 60):
        door.look([SERVER], None, now=step * 0.101)
    assert door.rules.strangers_part == 1


def test_each_server_is_limited_by_itself() -> None:
    """A publisher of another share, or who takes the address of one server, takes nothing from the others."""
    door = Door(Kernel().attach)
    send(door, {SERVER: 10, OTHER: 20 * ENOUGH}, 2.0, start=1.0, servers=(SERVER, OTHER))
    assert [host for host, _ in door.rules.parts] == [OTHER]
    assert dict(door.rules.parts)[OTHER] < 0.1
    assert door.rules.strangers_part == 1
    send(door, {SERVER: 10}, 2.0, start=10.0, servers=(SERVER, OTHER))
    assert not door.rules.parts
    assert door.next_timeout() is None
