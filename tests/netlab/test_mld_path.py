"""The server's side of MLD on real networks: with each kind of querier, when listeners go, and when hosts are hostile.

Deadlines are generous; `script/bench -m mld` prints how long things really take.
"""

from __future__ import annotations

import json
import random
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from mcfs.cli.lab import INTERFACE
from mcfs.protocol import addressing
from mcfs.protocol.ids import Group
from mcfs.protocol.ids import Host as Address
from mcfs.serve.membership import MAX_GROUPS_PER_HOST
from tests.netlab.harness import MIB, Site, same_bytes, wait_until
from tests.netlab.listening import (
    SLOW_BYTES,
    STEADY,
    Silence,
    cut_cable,
    data_share,
    flooded_copy,
    join,
    killed_client,
    last_leave,
    object_in,
    sent_data,
    trickle,
)
from tests.netlab.members import FLOOD_RATE, Forger, groups_of
from tests.netlab.namespaces import inside
from tests.netlab.switches import (
    BRIDGE_ADDRESS,
    SETTLING,
    Packet,
    Tap,
    is_snooping,
    make_querier,
    mute,
    set_bridge,
)
from tests.serve.hostile_reports import KINDS, HostileReports

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mcfs.cli.lab import Host, Lab
    from tests.netlab.conftest import SiteMaker

pytestmark = pytest.mark.netlab

SHARED = 32 * MIB
OFTEN = ("--query-interval", "5")
FORGOTTEN = 11.0
"""The listening interval then, in seconds: twice the query interval, and one for the answer."""
DEADLINE = 60.0
TABLE_LIMIT = 300
"""Entries in a bridge's table that one reader may leave: what it holds, and what is being forgotten."""
ANNOUNCEMENTS = 20_000
"""Bytes of announcements, beacons, queries and reports in the few seconds of a copy, and more."""


def announcements_of(name: bytes) -> Group:
    return addressing.share_group(name, addressing.SITE_LOCAL)


def text(group: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6, group)


# --- who queries -----------------------------------------------------------------------------------------------------


class Situation(NamedTuple):
    """A kind of link: what is done to it, how the server is started, and whether the switch may prune."""

    prepare: Callable[[Lab], None]
    options: tuple[str, ...]
    pruned: bool


SITUATIONS = {
    "nobody queries, the server is silent": Situation(lambda lab: mute(lab.server), ("--querier", "off"), False),
    "nobody queries, the server advertises": Situation(lambda lab: None, ("--querier", "off"), False),
    "the server queries": Situation(lambda lab: None, (), True),
    "the bridge queries, version 2": Situation(lambda lab: make_querier(lab, 2), (), True),
    "the bridge queries, version 1": Situation(lambda lab: make_querier(lab, 1), (), True),
}


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS.keys())
def test_a_file_arrives_whoever_queries(make_site: SiteMaker, situation: Situation) -> None:
    site = make_site(2)
    source = data_share(site, SHARED)
    situation.prepare(site.lab)
    with Tap(site.lab.server) as tap:
        site.serve(site.lab.server, source.parent, options=(*STEADY, *situation.options))
        time.sleep(SETTLING)
        reader, idle = site.lab.clients
        before = site.lab.rx_bytes(idle)
        mounted = site.mount(reader, "data")
        site.start(reader, same_bytes(source, mounted.path / "file")).expect_success(DEADLINE)
        arrived = site.lab.rx_bytes(idle) - before
        queried = bool(tap.select(lambda packet: packet.is_general_query))
        advertised = bool(tap.select(lambda packet: packet.outgoing and packet.icmp_type == 151))
    assert queried == situation.pruned
    assert advertised == (situation.prepare is not SITUATIONS["nobody queries, the server is silent"].prepare)
    if situation.pruned:
        assert arrived < ANNOUNCEMENTS
    else:
        assert arrived > SHARED


def test_a_version_1_querier_is_named_once(make_site: SiteMaker) -> None:
    site = make_site(1)
    source = data_share(site, MIB)
    make_querier(site.lab, 1)  # first: Linux's bridge is silent for minutes after it has heard any other querier
    with Tap(site.lab.server) as tap:
        serving = site.serve(site.lab.server, source.parent)
        wait_until(lambda: len(tap.select(bridge_queried)) >= 3, DEADLINE, "three queries of the bridge")
    [warning] = [line for line in serving.job.output.splitlines() if "MLDv1" in line]
    assert f"the querier {BRIDGE_ADDRESS} speaks MLDv1" in warning
    assert "mcast_mld_version 2" in warning


def bridge_queried(packet: Packet) -> bool:
    return packet.is_general_query and packet.source == BRIDGE_ADDRESS


@pytest.mark.slow
def test_a_default_bridge_forgets_what_was_read(make_site: SiteMaker) -> None:
    """More groups than its table holds: without queries for what was left it would give up snooping."""
    site = make_site(1)
    source = data_share(site, 600 * MIB)
    site.serve(site.lab.server, source.parent, options=("--block-size", "64K"))
    mounted = site.mount(site.lab.clients[0], "data")
    site.start(mounted.host, same_bytes(source, mounted.path / "file")).expect_success(2 * DEADLINE)
    wait_until(lambda: site.lab.bridge_groups() < TABLE_LIMIT, 5, "the bridge has forgotten what was left")
    assert is_snooping(site.lab)


@pytest.mark.slow
def test_a_bridge_that_forgets_soon_leaves_no_gap(make_site: SiteMaker) -> None:
    """It forgets members and queriers sooner than the server queries again."""
    site = make_site(1)
    set_bridge(site.lab, mcast_membership_interval=1000, mcast_querier_interval=1000)
    seconds, gap = trickle(site, 45)
    assert seconds > 40
    assert gap < 1.5


# --- when listeners go -----------------------------------------------------------------------------------------------


def assert_prompt(silence: Silence) -> None:
    """What was left unsent would have taken seconds."""
    assert silence.seconds < 1
    assert silence.size < SLOW_BYTES


@pytest.mark.parametrize("version", [2, 1])
def test_the_last_leave_ends_the_sending(make_site: SiteMaker, version: int) -> None:
    assert_prompt(last_leave(make_site(1), version))


def test_a_killed_client_ends_the_sending(make_site: SiteMaker) -> None:
    assert_prompt(killed_client(make_site(1)))


def test_a_host_whose_cable_was_cut_is_asked_and_dropped(make_site: SiteMaker) -> None:
    """Of each block it is sent what may have been lost on the way, about twice as much again; then it is asked."""
    silence, queries = cut_cable(make_site(1), blocks=4)
    assert silence.size < 3 * 4 * MIB
    assert list(queries.values()) == [3] * 4


@pytest.mark.slow
def test_a_host_whose_cable_was_cut_is_forgotten_after_the_listening_interval(make_site: SiteMaker) -> None:
    site = make_site(1)
    client = site.lab.clients[0]
    source = data_share(site, MIB)
    site.serve(site.lab.server, source.parent, options=OFTEN)
    with Tap(site.lab.server) as tap, join(client, announcements_of(b"data")):
        wait_until(lambda: len(tap.select(sent_data)) > 3, DEADLINE, "announcements")
        cut = time.time()
        site.lab.link(client, up=False)
        tap.watch(FORGOTTEN + 4)
        last = tap.select(sent_data)[-1].at
        assert cut < last < cut + FORGOTTEN + 2


# --- election --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_servers_elect_one_and_the_other_takes_over(make_site: SiteMaker) -> None:
    site = make_site(2)
    source = data_share(site, MIB)
    listener = site.lab.clients[1]
    low, high = sorted((site.lab.server, site.lab.clients[0]), key=lambda host: packed(site.lab, host))
    with Tap(listener) as tap:

        def queries_of(host: Host, since: float) -> int:
            address = site.lab.link_local(host)
            return len(tap.select(lambda packet: packet.is_general_query and packet.source == address, since=since))

        site.serve(high, source.parent, options=OFTEN)
        start = time.time()
        wait_until(lambda: queries_of(high, start - 5) >= 3, DEADLINE, "the higher address queries while it is alone")
        elected = site.serve(low, source.parent, options=OFTEN)
        wait_until(lambda: queries_of(low, start) >= 1, DEADLINE, "the lower address queries")
        settled = time.time() + 0.5
        tap.watch(12)
        assert queries_of(high, settled) == 0
        assert queries_of(low, settled) >= 2
        elected.kill()
        killed = time.time()
        wait_until(lambda: queries_of(high, killed) >= 1, 30, "the other takes over")
        assert time.time() - killed > 3  # not before it has missed a query
        wait_until(lambda: queries_of(high, killed) >= 3, 30, "and goes on")


def packed(lab: Lab, host: Host) -> bytes:
    return socket.inet_pton(socket.AF_INET6, lab.link_local(host))


# --- hostile hosts ---------------------------------------------------------------------------------------------------


COPIES = 50
BETWEEN = 0.2
"""Seconds between bursts: the server drops messages only if they take too much of its time two tenths in a row."""
UNCOUNTED = ("unknown type", "low scope", "not MLD")
"""What RFC 9777 wants ignored without a word, and what the kernel does not hand up. It drops very short ones too."""


def test_reports_that_break_the_rules_trigger_nothing(make_site: SiteMaker) -> None:
    """Of each kind, as they come out of a real socket. The bridge does not look at them: it would drop some."""
    site = make_site(1, snooping=False)
    client = site.lab.clients[0]
    source = data_share(site, SHARED)
    serving = site.serve(site.lab.server, source.parent)
    groups = (*groups_of(object_in(source)), announcements_of(b"data"))
    hostile, mac = hostile_reports(site, client, groups), hardware_address(site.lab.server)
    with Tap(site.lab.server) as tap, forger_in(client) as forger:
        for kind in KINDS:
            for _ in range(COPIES):
                forger.send(*hostile.of_kind(kind), mac)
            time.sleep(BETWEEN)
        tap.watch(2)
        assert not tap.select(sent_data)
    statistics = serving.stop()
    assert statistics["joins"] == 0
    assert statistics["bytes_sent"] == 0
    assert statistics["refused_joins"] == COPIES  # of foreign groups
    assert statistics["bad_messages"] > (len(KINDS) - len(UNCOUNTED) - 2) * COPIES


def test_after_random_reports_it_still_serves(make_site: SiteMaker) -> None:
    site = make_site(1, snooping=False)
    client = site.lab.clients[0]
    source = data_share(site, SHARED)
    serving = site.serve(site.lab.server, source.parent)
    groups = (*groups_of(object_in(source)), announcements_of(b"data"))
    hostile, mac = hostile_reports(site, client, groups), hardware_address(site.lab.server)
    with forger_in(client) as forger:
        for _ in range(20):
            for _ in range(250):
                forger.send(*hostile.any(), mac)
            time.sleep(BETWEEN)
    mounted = site.mount(client, "data")
    site.start(client, same_bytes(source, mounted.path / "file")).expect_success(DEADLINE)
    mounted.umount()
    statistics = serving.stop()
    assert statistics["bad_messages"] + statistics["refused_joins"] > 2000
    assert statistics["bytes_sent"] < 1.2 * SHARED


def hostile_reports(site: Site, host: Host, groups: Sequence[Group]) -> HostileReports:
    source, server = (Address(packed(site.lab, each)) for each in (host, site.lab.server))
    return HostileReports(random.Random(1), groups, host=source, server=server)


def forger_in(host: Host) -> Forger:
    with inside(host.namespace):
        return Forger()


def hardware_address(host: Host) -> bytes:
    [shown] = json.loads(host.run(["ip", "-j", "link", "show", "dev", INTERFACE]).stdout)
    return bytes.fromhex(shown["address"].replace(":", ""))


def test_a_flood_of_joins_holds_nobody_up(make_site: SiteMaker) -> None:
    flooded = flooded_copy(make_site(2), SHARED, seconds=3)
    assert flooded.joins > 2 * FLOOD_RATE
    assert flooded.statistics["joins"] < MAX_GROUPS_PER_HOST + 200  # and the reader's own
    assert flooded.statistics["refused_joins"] > 0  # how many depends on how many the kernel dropped
