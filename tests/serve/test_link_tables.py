"""What a link makes of the events of its listener table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcfs.protocol import mld
from mcfs.protocol.addressing import addresser_of, node_group, share_group
from mcfs.protocol.ids import MIN_BLOCK_SIZE, Group, Node
from mcfs.serve.membership import Event, HostRefreshed, ListenerJoined, Membership
from tests.fakelink import ORIGIN, SCOPE, FakeNetwork, MemoryStore, host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mcfs.protocol.ids import Host
    from mcfs.protocol.mld import RawRecord
    from mcfs.serve.listening import Known

JOIN, LEAVE = mld.RecordType.CHANGE_TO_EXCLUDE_MODE, mld.RecordType.CHANGE_TO_INCLUDE_MODE
ALICE = host(7)


class Mistaken(Membership):
    """Takes every join for a refresh, as a Bloom table may."""

    def __init__(self, may_accept: Callable[[Group], bool], known: Known, max_groups_per_host: int) -> None:
        super().__init__(may_accept)

    def report(self, host: Host, records: Iterable[RawRecord], *, now: float) -> list[Event]:
        events = super().report(host, records, now=now)
        return [HostRefreshed(e.host, (e.group,)) if isinstance(e, ListenerJoined) else e for e in events]


def network_with_block(**options: type[Mistaken]) -> tuple[FakeNetwork, Group]:
    store = MemoryStore()
    ref = store.add(bytes(range(256)) * (MIN_BLOCK_SIZE // 256), MIN_BLOCK_SIZE)
    network = FakeNetwork(store, **options)  # type: ignore[arg-type]
    return network, node_group(Node(ref, 0, 0), 0, addresser_of(ref), SCOPE)


def report(network: FakeNetwork, *records: tuple[mld.RecordType, Group]) -> None:
    message = mld.build_report([mld.Record(kind, group) for kind, group in records])
    network.link.receive(mld.Envelope(ALICE, mld.ALL_MLDV2_ROUTERS, 1, True, 1), message, now=network.now)


def test_a_join_that_looks_like_a_refresh_is_served() -> None:
    network, group = network_with_block(make_table=Mistaken)
    report(network, (JOIN, group))
    assert ALICE in network.link.scheduler.listeners(group)
    assert network.link.counters.joins == 1
    report(network, (JOIN, group))
    assert network.link.counters.joins == 1, "now it is a refresh"
    report(network, (LEAVE, group))
    assert network.link.scheduler.channels == 0


def test_so_is_one_of_an_announcement() -> None:
    network, _ = network_with_block(make_table=Mistaken)
    channel = share_group(ORIGIN, SCOPE)
    report(network, (JOIN, channel))
    assert ALICE in network.link.announcer.listeners(channel)
    report(network, (JOIN, channel), (JOIN, channel))
    assert network.link.counters.joins == 1


def test_what_is_joined_and_left_in_one_report_is_not_served() -> None:
    network, group = network_with_block()
    report(network, (JOIN, group), (LEAVE, group))
    assert network.link.scheduler.channels == 0
    report(network, (JOIN, group), (JOIN, group), (LEAVE, group), (JOIN, group))
    assert set(network.link.scheduler.listeners(group)) == {ALICE}
