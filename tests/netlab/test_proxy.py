"""Across a router that runs an MLD proxy (RFC 4605): the server is near it, the clients far.

Here are bytes, counts and addresses, with deadlines that a busy machine meets.
"""

from __future__ import annotations

import ipaddress
import json
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mcfs.cli.lab import INTERFACE, Host, Lab, LabError
from mcfs.net.listeners import ReportReader
from mcfs.protocol import addressing, mld, wire
from mcfs.protocol.announce import decode_announcement_untrusted
from mcfs.protocol.wire import DEFAULT_PORT
from tests.netlab.conftest import IN_CI
from tests.netlab.harness import (
    HARNESS,
    MIB,
    Job,
    Mounted,
    Site,
    join_all,
    random_file,
    same_bytes,
    wait_until,
)
from tests.netlab.namespaces import inside
from tests.netlab.routed import HOPS, SERVER_ADDRESS, UPSTREAM, Routed, block_groups, first_datagrams

SIZE = 64 * MIB
STEADY = ("--rate", "500M")
SLOW = ("--rate", "200M")
"""Time enough to do something in the middle of a copy."""
COPY_DEADLINE = 120.0
QUIET_BYTES = 20_000
"""More than announcements and MLD need in the few seconds that are looked at."""
QUIET_SECONDS = 2.0
STOP_DEADLINE = 15.0
"""Until a server has stopped sending to those who left: on an idle machine 50 ms."""
PRUNE_DEADLINE = 30.0
PROBE_GROUP = "ff15::6d63:6673"
PROBES = 20
PROBE_BYTES = PROBES * 1000
ETH_P_IPV6 = 0x86DD
MULTICAST_ROUTING = Path("/proc/net/ip6_mr_vif")
UDP = 17

pytestmark = pytest.mark.netlab

RoutedMaker = Callable[..., tuple[Routed, Site]]


@pytest.fixture
def routing(capable: None) -> None:
    if not MULTICAST_ROUTING.exists():
        (pytest.fail if IN_CI else pytest.skip)("needs multicast routing in the kernel (CONFIG_IPV6_MROUTE)")


@pytest.fixture
def make_routed(routing: None, make_lab: Callable[..., Lab], tmp_path: Path) -> Iterator[RoutedMaker]:
    """A router with its proxy, a bystander beside the server, and so many clients behind the router."""
    with ExitStack() as stack:

        def make(clients: int, *, address: bool = True) -> tuple[Routed, Site]:
            routed = Routed(make_lab(1), make_lab(clients))
            routed.connect()
            if address:
                routed.give_address()
            site = stack.enter_context(Site(routed.near, tmp_path))
            routed.start_proxy(site)
            return routed, site

        yield make


def serve_file(routed: Routed, site: Site, size: int, *options: str) -> Path:
    """Serves the directory `data` with one random file."""
    directory = site.directory / "data"
    directory.mkdir()
    source = random_file(directory / "file", size)
    site.serve(routed.server, directory, options=(*HOPS, *options))
    return source


def start_reading(site: Site, mounted: Mounted, source: Path) -> Job:
    return site.start(mounted.host, same_bytes(source, mounted.path / source.name))


def small_tree(path: Path) -> Path:
    for number in range(200):
        directory = path / f"directory {number % 7}"
        directory.mkdir(parents=True, exist_ok=True)
        random_file(directory / f"file{number}", 50 * number, seed=number)
    (path / "link").symlink_to("directory 1/file1")
    return path


def sends_little(lab: Lab, host: Host) -> bool:
    before = lab.tx_bytes(host)
    time.sleep(QUIET_SECONDS)
    return lab.tx_bytes(host) - before < QUIET_BYTES


# --- what arrives ----------------------------------------------------------------------------------------------------


def test_a_large_file_and_a_tree_are_the_same_behind_a_router(make_routed: RoutedMaker) -> None:
    routed, site = make_routed(1)
    source = small_tree(site.directory / "data")
    random_file(source / "large", SIZE)
    site.serve(routed.server, source, options=HOPS)
    mounted = site.mount(routed.clients[0], "data")
    copied = site.directory / "copied"
    site.start(mounted.host, ["cp", "-r", "--preserve=mode,timestamps", mounted.path, copied]).expect_success(
        COPY_DEADLINE
    )
    site.start(mounted.host, [*HARNESS, "compare", source, copied]).expect_success(COPY_DEADLINE)


def test_each_join_brings_the_first_datagram(make_routed: RoutedMaker) -> None:
    routed, site = make_routed(1)
    source = serve_file(routed, site, 4 * MIB)
    assert len(first_datagrams(routed.clients[0], block_groups(source.read_bytes()))) == 4


# --- addresses -------------------------------------------------------------------------------------------------------


def open_capture(host: Host, interface: str) -> socket.socket:
    """IPv6 packets that come in by an interface, from their first byte."""
    with inside(host.namespace):
        capture = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        capture.bind((interface, ETH_P_IPV6))
    return capture


def announcement_in(capture: socket.socket, group: bytes) -> tuple[str, int, bytes]:
    """Source address, hop limit and body of an announcement that comes in a group."""
    end = time.monotonic() + COPY_DEADLINE
    while True:
        readable, _, _ = select.select([capture], [], [], end - time.monotonic())
        assert readable, "no announcement came"
        packet = capture.recv(65535)
        port, kind = int.from_bytes(packet[42:44], "big"), packet[49:50]
        if (packet[6], packet[24:40], port, kind) == (UDP, group, DEFAULT_PORT, bytes([wire.ANNOUNCEMENT])):
            return str(ipaddress.IPv6Address(packet[8:24])), packet[7], packet[52:]


def test_data_come_from_the_address_that_is_announced(make_routed: RoutedMaker) -> None:
    routed, site = make_routed(1)
    serve_file(routed, site, MIB)
    group = addressing.share_group(b"data", addressing.SITE_LOCAL)
    with open_capture(routed.router, UPSTREAM) as near, open_capture(routed.clients[0], INTERFACE) as far:
        site.mount(routed.clients[0], "data")
        source, hop_limit, body = announcement_in(near, group)
        assert (source, hop_limit) == (SERVER_ADDRESS, 4)
        assert announcement_in(far, group)[:2] == (SERVER_ADDRESS, 3)
    announced = [str(ipaddress.IPv6Address(each)) for each in decode_announcement_untrusted(body).addresses]
    assert announced == [routed.near.link_local(routed.server), SERVER_ADDRESS]


def test_a_server_with_nothing_but_a_link_local_address_says_so(make_routed: RoutedMaker) -> None:
    routed, site = make_routed(1, address=False)
    source = random_file(site.directory / "file", MIB)
    beyond = site.serve(routed.server, source, options=HOPS)
    assert beyond.job.output.count("eth0: it has no address wider than link-local") == 1
    with pytest.raises(LabError, match="share 'file' was not heard"):
        site.mount(routed.clients[0], "file", timeout=3)
    beyond.stop()
    on_link = site.serve(routed.server, source)
    assert "link-local" not in on_link.job.output


# --- who is heard, and what is sent ----------------------------------------------------------------------------------


def reporters(reader: ReportReader, own: str) -> set[bytes]:
    """Who reported a group of the scope that mcfs uses, of all that the reader has kept, but for the server's own host:
    it looks out for other servers."""
    hosts: set[bytes] = set()
    while messages := reader.receive():
        for envelope, message in messages:
            if message[0] == mld.REPORT_V2:
                records = mld.parse_report_untrusted(message, envelope)
                mine = addressing.prefix(addressing.SITE_LOCAL)
                hosts |= {envelope.source for record in records if record.group.startswith(mine)}
    return hosts - {ipaddress.IPv6Address(own).packed}


def upstream_link_local(routed: Routed) -> bytes:
    words = ["ip", "-6", "-j", "address", "show", "dev", UPSTREAM, "scope", "link"]
    [shown] = json.loads(routed.router.run(words).stdout)
    return ipaddress.IPv6Address(shown["addr_info"][0]["local"]).packed


def test_the_server_hears_far_joins_in_the_name_of_the_router(make_routed: RoutedMaker) -> None:
    routed, site = make_routed(2)
    with inside(routed.server.namespace):
        reader = ReportReader(socket.if_nametoindex(INTERFACE), INTERFACE)
    with reader:
        directory = site.directory / "data"
        directory.mkdir()
        source = random_file(directory / "file", SIZE)
        serving = site.serve(routed.server, directory, options=HOPS)
        assert sends_little(routed.near, routed.server), "nobody has joined"
        assert reporters(reader, routed.near.link_local(routed.server)) == set()
        before = site.sent()
        mounted = [site.mount(client, "data") for client in routed.clients]
        join_all([start_reading(site, each, source) for each in mounted], COPY_DEADLINE)
        assert site.sent() - before > SIZE
        assert reporters(reader, routed.near.link_local(routed.server)) == {upstream_link_local(routed)}
    statistics = serving.stop()
    assert statistics["listeners_seen"] == 1
    assert statistics["bad_messages"] == 0


def test_the_server_stops_when_the_far_reader_leaves(make_routed: RoutedMaker) -> None:
    routed, site = make_routed(1)
    source = serve_file(routed, site, SIZE, *SLOW)
    mounted = site.mount(routed.clients[0], "data")
    before = site.sent()
    job = start_reading(site, mounted, source)
    site.wait_sent(before, SIZE // 4, COPY_DEADLINE)
    job.kill()
    mounted.umount()
    wait_until(lambda: sends_little(routed.near, routed.server), STOP_DEADLINE, "the server stops")
    assert site.sent() - before < SIZE
    assert sends_little(routed.far, routed.router)


def wait_until_pruned(site: Site, lab: Lab, bystander: Host) -> None:
    """A bridge floods everything until about a second after the first query that it saw."""

    def pruned() -> bool:
        before = lab.rx_bytes(bystander)
        words = ["send", PROBE_GROUP, str(PROBES)]
        site.start(lab.server, [*HARNESS[:2], "tests.netlab.datagrams", *words]).expect_success(PRUNE_DEADLINE)
        return lab.rx_bytes(bystander) - before < PROBE_BYTES

    wait_until(pruned, PRUNE_DEADLINE, "the bridge sends groups to their members only")


def test_data_go_to_members_only_on_both_links(make_routed: RoutedMaker) -> None:
    routed, site = make_routed(2)
    source = serve_file(routed, site, SIZE)
    member, far_bystander = routed.clients
    (near_bystander,) = routed.near.clients
    wait_until_pruned(site, routed.near, near_bystander)
    wait_until_pruned(site, routed.far, far_bystander)
    mounted = site.mount(member, "data")
    near, far = routed.near.rx_bytes(near_bystander), routed.far.rx_bytes(far_bystander)
    arrived = routed.far.rx_bytes(member)
    start_reading(site, mounted, source).expect_success(COPY_DEADLINE)
    assert routed.far.rx_bytes(member) - arrived > SIZE
    assert routed.near.rx_bytes(near_bystander) - near < QUIET_BYTES
    assert routed.far.rx_bytes(far_bystander) - far < QUIET_BYTES


def test_two_far_readers_cost_the_server_about_one_copy(make_routed: RoutedMaker) -> None:
    routed, site = make_routed(2)
    source = serve_file(routed, site, SIZE, *STEADY)
    mounted = [site.mount(client, "data") for client in routed.clients]
    before = site.sent()
    join_all([start_reading(site, each, source) for each in mounted], COPY_DEADLINE)
    assert site.sent() - before < 1.3 * SIZE
