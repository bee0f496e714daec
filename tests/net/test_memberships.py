"""Where groups are joined, while interfaces come and go and the kernel has its limits: with a fake kernel."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from mcfs.fetch.batches import TICK
from mcfs.fetch.fetcher import SILENT_PLACES, Fetcher, Limits
from mcfs.fetch.shares import ShareTable
from mcfs.fetch.trust import Pin, Trust
from mcfs.fetch.wanted import SILENCE
from mcfs.net.memberships import MIN_GROUPS, Memberships
from mcfs.net.receive import Joined
from mcfs.net.reconcile import Plan, Update, plan
from mcfs.protocol.announce import Announcement
from mcfs.protocol.catalog import Attributes, FileEntry, Owners
from mcfs.protocol.ids import MIN_BLOCK_SIZE, Digest, Group, Node, ObjectRef
from mcfs.protocol.publisher import fingerprint
from tests.net.test_reconcile import ETH0, ETH1

if TYPE_CHECKING:
    from mcfs.net.interfaces import Interface
    from mcfs.net.receive import Receiver

ORIGIN = b"data"
CONTROL = Group(b"control".ljust(16))
REF = ObjectRef(1000 * MIN_BLOCK_SIZE, MIN_BLOCK_SIZE, Digest(bytes(32)))
ENTRY = FileEntry(ORIGIN, Attributes(0o644, 0, 0, 0), None, Digest(bytes(32)))
ANNOUNCED = Announcement(5, 0, ENTRY, Owners(), 0, 1, 10**9, (), publisher=b"p" * 32)


class FakeKernel:
    """Memberships of one socket, as Linux keeps them: those of a deleted interface count until they are left."""

    def __init__(self, *interfaces: Interface, room: int = 1000) -> None:
        self.present = {interface.index for interface in interfaces}
        self.room = room
        self.joined: set[tuple[Group, int]] = set()
        self.reports: list[tuple[Group, int]] = []

    def join(self, group: bytes, ifindex: int) -> Joined:
        if ifindex not in self.present:
            return Joined(False)
        if (Group(group), ifindex) in self.joined:
            return Joined(True)
        if len(self.joined) >= self.room:
            return Joined(False, too_many=True)
        self.joined.add((Group(group), ifindex))
        self.reports.append((Group(group), ifindex))
        return Joined(True)

    def leave(self, group: bytes, ifindex: int) -> None:
        self.joined.remove((Group(group), ifindex))


class Client:
    """Memberships on a fake kernel, with the time."""

    def __init__(self, *interfaces: Interface, room: int = 1000, max_groups: int = 64) -> None:
        self.now = 0.0
        self.times = itertools.count(1)
        self.kernel = FakeKernel(*interfaces, room=room)
        self.fetcher = Fetcher(Limits(max_groups=max_groups))
        self.shares = ShareTable(30.0, Trust(pins={ORIGIN: Pin(fingerprint(ANNOUNCED.publisher))}))
        receiver = cast("Receiver", self.kernel)
        self.memberships = Memberships(receiver, self.fetcher, self.shares, interfaces)
        self.memberships.hold(CONTROL, now=0.0)

    def want(self, *indexes: int) -> None:
        for index in indexes:
            self.fetcher.want(Node(REF, 0, index), node(index), ORIGIN, urgent=False, now=self.now)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.fetcher.handle_timeout(now=self.now)
            self.memberships.repeat(now=self.now)
            self.memberships.change(now=self.now)
            self.now += 0.01

    def list(self, *interfaces: Interface) -> None:
        """The interfaces are these now."""
        self.kernel.present = {interface.index for interface in interfaces}
        todo = plan(self.memberships.interfaces, interfaces)
        self.memberships.apply(todo, now=self.now)

    def announce(self, *interfaces: Interface) -> None:
        for interface in interfaces:
            said = replace(ANNOUNCED, time_ms=next(self.times))
            self.shares.announced(said, interface.index, now=self.now)


def node(index: int) -> Group:
    return Group(index.to_bytes(16, "big"))


def test_control_channels_are_joined_on_all_and_nodes_where_their_share_is_heard() -> None:
    client = Client(ETH0, ETH1)
    client.announce(ETH1)
    client.want(1)
    client.run(0.1)
    assert client.kernel.joined == {(CONTROL, 2), (CONTROL, 3), (node(1), 3)}


def test_a_new_interface_gets_the_control_channels_and_nodes_when_the_share_is_heard_there() -> None:
    client = Client(ETH0)
    client.announce(ETH0)
    client.want(1)
    client.run(0.1)
    client.list(ETH0, ETH1)
    client.run(0.1)
    assert client.kernel.joined == {(CONTROL, 2), (CONTROL, 3), (node(1), 2)}
    client.announce(ETH1)
    client.want(2)
    client.run(0.1)
    assert (node(2), 3) in client.kernel.joined


def test_an_interface_that_vanishes_takes_its_memberships_with_it() -> None:
    client = Client(ETH0, ETH1)
    client.announce(ETH0, ETH1)
    client.want(1)
    client.run(0.1)
    client.list(ETH1)
    assert client.kernel.joined == {(CONTROL, 3), (node(1), 3)}
    client.want(2)
    client.run(0.1)
    assert client.kernel.joined == {(CONTROL, 3), (node(1), 3), (node(2), 3)}
    assert client.shares.interfaces(ORIGIN) == (3,)


def test_what_was_joined_on_the_only_interface_is_joined_on_the_next_one_at_once() -> None:
    client = Client(ETH0)
    client.announce(ETH0)
    client.want(1, 2, 3)
    client.run(0.1)
    client.list()
    assert client.kernel.joined == set()
    client.run(20.0)
    assert client.kernel.joined == set()
    client.list(ETH1)
    client.run(3 * TICK)
    assert client.kernel.joined == {(CONTROL, 3), *((node(n), 3) for n in (1, 2, 3))}


def test_while_there_is_no_interface_little_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(ETH0)
    client.run(0.1)
    client.list()
    batches = client.fetcher.counters.batches
    client.run(20.0)
    assert client.fetcher.counters.batches - batches < 20
    client.list()
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == [
        "no network interface is left: waiting for one"
    ]


WITHOUT_ADDRESS = replace(ETH0, link_local=None, addresses=frozenset())


@pytest.mark.parametrize("away", [replace(ETH0, running=False), replace(ETH0, up=False), WITHOUT_ADDRESS])
def test_an_interface_that_is_back_reports_all_at_once(away: Interface) -> None:
    client = Client(ETH0, ETH1)
    client.announce(ETH0)
    client.want(*range(10))
    client.run(0.1)
    client.list(away, ETH1)
    client.run(10.0)
    client.kernel.reports.clear()
    client.list(ETH0, ETH1)
    client.run(0.5 * SILENCE)
    reported = {group for group, index in client.kernel.reports if index == 2}
    assert reported == {CONTROL, *map(node, range(10))}, f"not only {SILENT_PLACES} as of a silent share"


def test_nodes_on_an_interface_that_stayed_are_not_joined_anew() -> None:
    client = Client(ETH0, ETH1)
    client.announce(ETH1)
    client.want(1)
    client.run(0.1)
    client.kernel.reports.clear()
    client.list(replace(ETH0, running=False), ETH1)
    client.list(ETH0, ETH1)
    client.run(0.2)
    assert {group for group, _ in client.kernel.reports} == {CONTROL}


def test_an_interface_that_goes_before_it_is_noticed_is_no_error() -> None:
    client = Client(ETH0)
    client.kernel.present = set()
    client.want(1)
    client.run(0.1)
    assert client.kernel.joined == set()
    again = replace(ETH0, index=9)
    client.kernel.present = {9}
    client.memberships.apply(Plan(close=(ETH0,), open=(again,)), now=client.now)
    client.run(0.1)
    assert client.kernel.joined == {(CONTROL, 9), (node(1), 9)}


@pytest.mark.parametrize("room", [1, 3, 10, 40])
def test_the_cap_is_what_the_kernel_takes(room: int, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(ETH0, room=room)
    client.want(*range(200))
    client.run(0.9 * SILENCE)
    assert client.fetcher.limits.max_groups == max(MIN_GROUPS, room - 1)
    assert len(client.kernel.joined) == room
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "optmem_max" in caplog.text


def test_the_cap_never_grows_beyond_what_the_user_allows() -> None:
    client = Client(ETH0, room=1, max_groups=2)
    client.want(*range(10))
    client.run(5.0)
    assert client.fetcher.limits.max_groups == 2


def test_whatever_happens_what_is_joined_is_what_is_there() -> None:
    rng = random.Random(4)
    client = Client(ETH0)
    client.announce(ETH0)
    states = [ETH0, ETH1, replace(ETH0, running=False), WITHOUT_ADDRESS, replace(ETH1, up=False)]
    for step in range(300):
        listed = {i.index: i for i in rng.sample(states, rng.randrange(3))}
        if rng.random() < 0.3:
            client.kernel.present = set(listed)
            client.run(0.05)  # before it is noticed
        client.list(*listed.values())
        client.want(step)
        client.run(rng.choice([0.02, 0.1, 0.5]))
        assert {index for _, index in client.kernel.joined} <= {i.index for i in client.memberships.interfaces}
    client.list()
    client.list(ETH1)
    client.announce(ETH1)
    client.run(0.9 * SILENCE)
    assert (CONTROL, 3) in client.kernel.joined
    assert len(client.kernel.joined) == 1 + 64


def test_an_update_is_known_afterwards() -> None:
    client = Client(ETH0)
    changed = replace(ETH0, running=False)
    client.memberships.apply(Plan(update=(Update(ETH0, changed),)), now=0.0)
    assert client.memberships.interfaces == (changed,)
