"""Which interfaces to open, close and update: decisions from literal lists."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from mcfs.net.interfaces import Interface, Kind
from mcfs.net.reconcile import Plan, Update, faster, is_ready, plan

ONE, TWO = IPv6Address("fe80::1").packed, IPv6Address("fe80::2").packed

ETH0 = Interface(
    name="eth0",
    index=2,
    mtu=1500,
    link_local=ONE,
    tentative=False,
    speed_bits=10**9,
    kind=Kind.WIRED,
    up=True,
    running=True,
    multicast=True,
    addresses=frozenset({ONE}),
)
ETH1 = replace(ETH0, name="eth1", index=3, link_local=TWO, addresses=frozenset({TWO}))
DOWN = replace(ETH0, up=False, running=False, link_local=None, addresses=frozenset())
UNPLUGGED = replace(ETH0, running=False)
WITHOUT_ADDRESS = replace(ETH0, link_local=None, addresses=frozenset())
TENTATIVE = replace(ETH0, tentative=True)
RENUMBERED = replace(ETH0, link_local=TWO, addresses=frozenset({TWO}))
WIFI = replace(ETH0, name="wlan0", index=4, kind=Kind.WIRELESS)

NOT_READY = [DOWN, UNPLUGGED, WITHOUT_ADDRESS, TENTATIVE]


def test_nothing_changes_where_nothing_changed() -> None:
    assert not plan([ETH0], [ETH0])
    assert not plan([], [])


def test_a_new_interface_is_opened() -> None:
    assert plan([ETH0], [ETH0, ETH1]) == Plan(open=(ETH1,))


def test_one_that_vanished_is_closed() -> None:
    assert plan([ETH0, ETH1], [ETH1]) == Plan(close=(ETH0,))
    assert plan([ETH0], []) == Plan(close=(ETH0,))


def test_one_with_another_index_is_another_one() -> None:
    again = replace(ETH0, index=7)
    assert plan([ETH0], [again], ["eth0"]) == Plan(close=(ETH0,), open=(again,))


def test_one_that_was_deleted_is_another_one_even_with_the_same_index() -> None:
    assert plan([ETH0], [ETH0], deleted=frozenset({2})) == Plan(close=(ETH0,), open=(ETH0,))


@pytest.mark.parametrize("now", NOT_READY)
@pytest.mark.parametrize("names", [(), ("eth0",)])
def test_one_in_use_stays_so_while_it_is_not_ready(now: Interface, names: tuple[str, ...]) -> None:
    todo = plan([ETH0], [now], names)
    assert todo == Plan(update=(Update(ETH0, now),))
    assert not todo.update[0].came_up
    back = plan([now], [ETH0], names)
    assert back == Plan(update=(Update(now, ETH0),))
    assert back.update[0].came_up
    assert str(back.update[0]) == "is up"


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (DOWN, "is down"),
        (UNPLUGGED, "has no carrier"),
        (WITHOUT_ADDRESS, "has no IPv6 link-local address"),
        (RENUMBERED, "has another link-local address"),
        (replace(ETH0, mtu=1400), ""),
    ],
)
def test_what_is_logged(now: Interface, text: str) -> None:
    assert str(Update(ETH0, now)) == text


@pytest.mark.parametrize("now", [DOWN, WITHOUT_ADDRESS, TENTATIVE])
def test_one_that_is_not_fit_yet_is_not_opened(now: Interface) -> None:
    assert not plan([], [now])
    assert not plan([], [now], ["eth0"])


def test_a_named_one_is_opened_without_a_carrier_and_of_any_kind() -> None:
    assert plan([], [UNPLUGGED, WIFI, ETH1], ["eth0", "wlan0"]) == Plan(open=(UNPLUGGED, WIFI))
    assert plan([], [UNPLUGGED, WIFI, ETH1]) == Plan(open=(ETH1,))


def test_an_interface_of_another_name_than_those_given_is_closed() -> None:
    assert plan([ETH0], [replace(ETH0, name="lan")], ["eth0"]) == Plan(close=(ETH0,))


def test_a_renamed_interface_stays_if_none_is_named() -> None:
    renamed = replace(ETH0, name="lan")
    assert plan([ETH0], [renamed]) == Plan(update=(Update(ETH0, renamed),))


def test_an_interface_that_becomes_a_port_of_a_bridge_is_closed_unless_it_is_named() -> None:
    port = replace(ETH0, kind=Kind.PORT)
    assert plan([ETH0], [port]) == Plan(close=(ETH0,))
    assert plan([ETH0], [port], ["eth0"]) == Plan(update=(Update(ETH0, port),))


def test_another_link_local_address_has_to_be_told() -> None:
    todo = plan([ETH0], [RENUMBERED])
    assert todo.update[0].came_up


def test_of_several_link_local_addresses_the_one_in_use_stays() -> None:
    both = replace(ETH0, link_local=TWO, addresses=frozenset({ONE, TWO}))
    (update,) = plan([ETH0], [both]).update
    assert update.new.link_local == ONE
    assert not update.came_up
    (update,) = plan([update.new], [RENUMBERED]).update
    assert update.new.link_local == TWO
    assert update.came_up


def test_a_second_address_that_is_tentative_changes_nothing() -> None:
    both = replace(ETH0, link_local=TWO, tentative=True, addresses=frozenset({ONE, TWO}))
    (update,) = plan([ETH0], [both]).update
    assert is_ready(update.new)


def test_the_faster_of_two_and_then_the_first() -> None:
    fast = replace(ETH1, speed_bits=10**10)
    unknown = replace(ETH1, speed_bits=None)
    for one, other, best in [(ETH0, fast, fast), (ETH0, ETH1, ETH0), (ETH0, unknown, ETH0)]:
        assert faster(one, other) is best
        assert faster(other, one) is best


def test_whatever_happens_the_plan_leads_to_what_is_listed() -> None:
    rng = random.Random(1)
    used: dict[int, Interface] = {}
    for _ in range(2000):
        base = [ETH0, ETH1, WIFI, DOWN, UNPLUGGED, TENTATIVE, RENUMBERED, WITHOUT_ADDRESS]
        listed = {i.index: i for i in rng.sample(base, rng.randrange(4))}
        todo = plan(used.values(), list(listed.values()))
        for interface in todo.close:
            del used[interface.index]
        for update in todo.update:
            assert used[update.old.index] == update.old
            used[update.old.index] = update.new
        for interface in todo.open:
            assert interface.index not in used
            used[interface.index] = interface
        assert used.keys() <= listed.keys()
        suited = {index for index, i in listed.items() if i.unsuited() is None and not i.tentative}
        assert suited <= used.keys()
        assert not plan(used.values(), list(listed.values()))
