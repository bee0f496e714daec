"""What the kernel hands up, on a real socket, and what makes the rules."""

from __future__ import annotations

import errno
import itertools
import socket
from typing import TYPE_CHECKING

import pytest

from mcfs.net.bpf import Program, attach_filter
from mcfs.net.door import (
    ENOUGH,
    FEW,
    LOOK,
    MANY,
    MAX_ADDRESSES,
    MAX_COUNTED,
    MAX_SERVERS,
    MAX_THROTTLED,
    MEMORY_PART,
    PAUSE,
    THROTTLED,
    THROTTLED_PART,
    Door,
    Rules,
    addresses_that_fit,
    program,
)
from mcfs.net.receive import Receiver
from mcfs.protocol import wire
from mcfs.protocol.ids import Group, Host

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK = Host(bytes(15) + b"\1")
LOOPBACK_INDEX = socket.if_nametoindex("lo")
_SO_MEMINFO, _MEMINFO_OPTMEM = 55, 6
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
    """How many of each kind come through with these rules, sent from the loopback address."""
    receiver.attach(program(rules))
    return came_through(receiver, times)


def came_through(receiver: Receiver, times: int = 1) -> dict[str, int]:
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


def longest(addresses: int) -> Rules:
    hosts = [Host(bytes((0xFE, 0x80)) + b"\xee" * 10 + number.to_bytes(4, "big")) for number in range(addresses)]
    servers = addresses - min(MAX_THROTTLED, addresses // 5)
    parts = frozenset((host, 0.1) for host in hosts)
    return Rules(frozenset(hosts[:servers]), True, frozenset(hosts[servers:]), parts, 0.5)


def test_the_longest_program_fits_the_kernel(receiver: Receiver) -> None:
    rules = longest(MAX_ADDRESSES)
    assert len(rules.servers) == MAX_SERVERS
    assert len(program(rules)) < 4096
    attach_filter(receiver.socket, program(rules))


def memory(receiver: Receiver) -> int:
    """Bytes that filters and memberships take of net.core.optmem_max."""
    info = receiver.socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
    return int.from_bytes(info[4 * _MEMINFO_OPTMEM :][:4], "little")


@pytest.mark.parametrize("optmem", [None, 10240, 20480, 40960, 131072, 1 << 30])
def test_a_program_takes_its_part_of_the_memory(receiver: Receiver, optmem: int | None) -> None:
    addresses = addresses_that_fit(optmem)
    receiver.attach(program(longest(addresses)))
    assert memory(receiver) <= (optmem or 20480) // MEMORY_PART
    assert addresses >= 5


def test_how_many_addresses_are_told_apart() -> None:
    assert addresses_that_fit(131072) == MAX_ADDRESSES
    assert addresses_that_fit(0) == 0
    door = Door(Kernel().attach, addresses_that_fit(20480))
    servers = [Host(number.to_bytes(16, "big")) for number in range(100)]
    door.look(servers, frozenset(servers[50:60]), now=1.0)
    assert door.rules.strict
    assert len(door.rules.servers) == 16
    assert door.rules.servers >= set(servers[50:60])
    for host in servers[60:]:
        door.came(host, 2 * MANY)
    door.look(servers[:10], None, now=1.0 + LOOK)
    assert len(door.rules.throttled) == 4
    door.look(servers, frozenset(servers[:17]), now=3.0)
    assert passes_strangers(door)


# --- where the kernel has little memory ------------------------------------------------------------------------------


def fill(receiver: Receiver, left: int) -> None:
    """With memberships, so that there is room for about so many bytes."""
    groups = [Group(bytes.fromhex("ff11") + number.to_bytes(14, "big")) for number in range(1, 100_000)]
    joined = list(itertools.takewhile(lambda group: receiver.join(group, LOOPBACK_INDEX).ok, groups))
    assert len(joined) < len(groups)
    full = memory(receiver)
    while full - memory(receiver) < left:
        receiver.leave(joined.pop(), LOOPBACK_INDEX)


def test_a_program_that_does_not_fit_beside_the_old_one_replaces_it(receiver: Receiver) -> None:
    others = [Host(number.to_bytes(16, "little")) for number in range(2, 42)]
    fill(receiver, 7000)
    assert passed(receiver, Rules(frozenset(others), strict=True)) == OF_STRANGERS
    assert passed(receiver, Rules(frozenset((*others, LOOPBACK)), strict=True)) == ALL


def test_where_a_program_does_not_fit_none_stays_that_is_older(receiver: Receiver) -> None:
    """A server that came later must be heard."""
    fill(receiver, 4000)
    few = [Host(number.to_bytes(16, "little")) for number in range(2, 12)]
    door = Door(receiver.attach)
    door.look(few, frozenset(few), now=1.0)
    assert came_through(receiver) == OF_STRANGERS
    many = [*few, *(Host(number.to_bytes(16, "little")) for number in range(12, 60)), LOOPBACK]
    door.look(many, frozenset(many), now=2.0)
    assert came_through(receiver) == ALL
    while (due := door.next_timeout()) is not None:
        door.look(many, frozenset(many), now=due)
        assert came_through(receiver) == ALL
    assert 0 < len(door.rules.servers) < len(many)
    door.look(few, frozenset(few), now=3.0)
    assert door.rules.strict
    assert came_through(receiver) == OF_STRANGERS


def test_without_any_room_everything_is_handed_up(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    fill(receiver, 0)
    door = Door(receiver.attach)
    for step in range(20):
        door.look([SERVER], frozenset((SERVER,)), now=1.0 + step)
    assert came_through(receiver) == {**ALL, **dict.fromkeys(NOISE, 1)}
    assert door.rules == Rules()
    assert door.next_timeout() is None, "it does not try for ever"
    assert len(caplog.messages) == 1
    assert "optmem_max" in caplog.messages[0]


class SmallKernel:
    """Takes programs of so many instructions."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.program: Program | None = None

    def attach(self, program: Program) -> None:
        self.program = None
        if len(program) > self.room:
            raise OSError(errno.ENOMEM, "no room")
        self.program = program


def test_the_rules_are_those_that_the_kernel_has() -> None:
    kernel = SmallKernel(100)
    door = Door(kernel.attach)
    servers = [Host(number.to_bytes(16, "big")) for number in range(MAX_SERVERS)]
    for step in range(1000):
        known = servers[: step % 70]
        door.look(known, frozenset(known[:3]), now=step * LOOK)
        assert kernel.program == program(door.rules)
        assert len(known) < 3 or door.rules.servers >= set(known[:3]) or not door.rules.strict
    assert 0 < len(door.rules.servers) < 9


def test_more_addresses_are_tried_later() -> None:
    kernel = SmallKernel(100)
    door = Door(kernel.attach)
    servers = [Host(number.to_bytes(16, "big")) for number in range(MAX_SERVERS)]
    for step in range(20):
        door.look(servers, frozenset(servers), now=step * LOOK)
    assert passes_strangers(door)
    kernel.room = 4096
    for step in range(10):
        door.look(servers, frozenset(servers), now=100.0 + step * PAUSE)
    assert door.rules.strict
    assert door.rules.servers == set(servers)


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


def test_the_silence_of_a_server_says_nothing_while_its_words_are_dropped() -> None:
    door = Door(Kernel().attach)
    send(door, {SERVER: 20 * ENOUGH}, 2.0, start=1.0, servers=(SERVER, OTHER))
    assert not door.hears(SERVER, now=3.0)
    assert door.hears(OTHER, now=3.0)
    send(door, {}, 2.0, start=3.1, servers=(SERVER, OTHER))
    assert not door.rules.parts
    assert not door.hears(SERVER, now=5.2), "it has had no time yet to say something"
    assert door.hears(SERVER, now=9.0)


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
