"""Interfaces that come, go and change while a file is copied: nothing is started anew, and the copy is right."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from mcfs.cli import mounts
from mcfs.cli.lab import INTERFACE
from tests.netlab.harness import (
    HARNESS,
    MCFS,
    MIB,
    Job,
    Mounted,
    Serving,
    Site,
    groups_joined,
    random_file,
    same_bytes,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mcfs.cli.lab import Host, Lab

pytestmark = pytest.mark.netlab

SIZE = 64 * MIB
SLOW = ("--rate", "200M")
"""A copy takes about three seconds: time enough to do something in its middle."""
AWAY = 1.5
"""Seconds for which an interface is not there."""
DEADLINE = 90.0
LOG_DEADLINE = 15.0


@dataclass(frozen=True)
class Copy:
    """A file that is served, mounted and being read."""

    site: Site
    serving: Serving
    mounted: Mounted
    job: Job

    def finish(self) -> None:
        """The bytes are those of the source, and whoever took part is still there."""
        self.job.expect_success(DEADLINE)
        assert self.serving.job.running, self.serving.job.output
        assert mounts.mounted_at(self.mounted.path) is not None
        assert not mounts.is_dead(self.mounted.path)
        assert "Traceback" not in self.serving.job.output

    def wait_log(self, text: str) -> None:
        wait_until(lambda: text in self.serving.job.output, LOG_DEADLINE, f"the server logs {text!r}")


@pytest.fixture
def make_site(make_lab: Callable[..., Lab], tmp_path: Path) -> Iterator[Callable[..., Site]]:
    with ExitStack() as stack:

        def make(clients: int, *, wire: bool = False) -> Site:
            return stack.enter_context(Site(make_lab(clients, wire=wire), tmp_path))

        yield make


@pytest.fixture
def copy(make_site: Callable[..., Site]) -> Copy:
    """Half of it has been sent."""
    site = make_site(1)
    source = make_source(site)
    serving = site.serve(site.lab.server, source.parent, options=SLOW)
    return start_copy(site, serving, source, site.lab.clients[0])


def make_source(site: Site) -> Path:
    directory = site.directory / "data"
    directory.mkdir()
    return random_file(directory / "file", SIZE)


def start_copy(site: Site, serving: Serving, source: Path, host: Host, iface: str | None = INTERFACE) -> Copy:
    mounted = site.mount(host, "data", timeout=20, iface=iface)
    before = site.sent()
    job = site.start(host, same_bytes(source, mounted.path / source.name))
    site.wait_sent(before, SIZE // 2, DEADLINE)
    return Copy(site, serving, mounted, job)


def set_link(host: Host, state: str, interface: str = INTERFACE) -> None:
    host.run(["ip", "link", "set", interface, state])


# --- the server's ----------------------------------------------------------------------------------------------------


def test_the_servers_interface_is_set_down_and_up(copy: Copy) -> None:
    server = copy.site.lab.server
    set_link(server, "down")
    copy.wait_log("eth0: is down")
    time.sleep(AWAY)
    assert copy.job.running
    set_link(server, "up")
    copy.finish()
    copy.wait_log("eth0: is up")


def test_the_servers_interface_is_deleted_and_made_anew(copy: Copy) -> None:
    lab = copy.site.lab
    lab.unplug(lab.server)
    copy.wait_log("no network interface is left")
    time.sleep(AWAY)
    assert copy.job.running
    lab.plug_in(lab.server)
    copy.finish()
    copy.wait_log("eth0: served from now on")


def test_the_servers_interface_is_replaced_at_once(copy: Copy) -> None:
    lab = copy.site.lab
    lab.unplug(lab.server)
    lab.plug_in(lab.server)
    copy.finish()


def test_the_servers_cable_is_pulled_and_plugged_in_again(copy: Copy) -> None:
    lab = copy.site.lab
    lab.link(lab.server, up=False)
    copy.wait_log("eth0: has no carrier")
    time.sleep(AWAY)
    lab.link(lab.server, up=True)
    copy.finish()
    copy.wait_log("eth0: is up")


def test_the_servers_link_local_address_is_replaced(copy: Copy) -> None:
    site = copy.site
    server, client = site.lab.server, site.lab.clients[0]
    heard = site.start(client, [*HARNESS, "hear-queries", INTERFACE])
    old = site.lab.link_local(server)
    server.run(["ip", "address", "del", f"{old}/64", "dev", INTERFACE])
    copy.wait_log("eth0: has no IPv6 link-local address")
    time.sleep(AWAY)
    server.run(["ip", "address", "add", "fe80::5/64", "dev", INTERFACE, "nodad"])
    copy.finish()
    wait_until(lambda: "fe80::5\n" in heard.output, LOG_DEADLINE, "the server queries from its new address")


def test_an_address_is_added_and_then_the_old_one_removed(copy: Copy) -> None:
    site = copy.site
    server, client = site.lab.server, site.lab.clients[0]
    heard = site.start(client, [*HARNESS, "hear-queries", INTERFACE])
    old = site.lab.link_local(server)
    server.run(["ip", "address", "add", "fe80::5/64", "dev", INTERFACE, "nodad"])
    time.sleep(0.5)
    server.run(["ip", "address", "del", f"{old}/64", "dev", INTERFACE])
    copy.finish()
    wait_until(lambda: "fe80::5\n" in heard.output, LOG_DEADLINE, "the server queries from its new address")


def test_an_interface_that_comes_later_is_served(make_site: Callable[..., Site]) -> None:
    """On a link of its own, to a client that the first link does not reach."""
    site = make_site(2)
    lab = site.lab
    source = make_source(site)
    serving = site.serve(lab.server, source.parent, interfaces=())
    far = lab.clients[1]
    lab.unplug(far)
    ends = ["eth1", "netns", lab.server.namespace, "type", "veth", "peer", "name", INTERFACE, "netns", far.namespace]
    lab.server.run(["ip", "link", "add", *ends])
    for host, interface in ((lab.server, "eth1"), (far, INTERFACE)):
        set_link(host, "up", interface)
    wait_until(lambda: "eth1: served from now on" in serving.job.output, LOG_DEADLINE, "eth1 is served")
    for host in lab.clients:
        mounted = site.mount(host, "data")
        job = site.start(host, same_bytes(source, mounted.path / "file"))
        Copy(site, serving, mounted, job).finish()


def test_two_interfaces_on_one_link_send_everything_once(make_site: Callable[..., Site]) -> None:
    site = make_site(1)
    lab = site.lab
    source = make_source(site)
    lab.plug_in(lab.server, "eth1")
    serving = site.serve(lab.server, source.parent, options=SLOW, interfaces=())
    wait_until(lambda: "which is used alone" in serving.job.output, LOG_DEADLINE, "the server notices")
    before = [lab.tx_bytes(lab.server, name) for name in ("eth0", "eth1")]
    copy = start_copy(site, serving, source, lab.clients[0])
    copy.finish()
    sent = [lab.tx_bytes(lab.server, name) - count for name, count in zip(("eth0", "eth1"), before, strict=True)]
    assert SIZE < sum(sent) < 1.15 * SIZE
    assert sent[1] < MIB, "eth0 has the lower index"


def test_the_other_interface_on_the_link_takes_over(make_site: Callable[..., Site]) -> None:
    site = make_site(1)
    lab = site.lab
    source = make_source(site)
    lab.plug_in(lab.server, "eth1")
    serving = site.serve(lab.server, source.parent, options=SLOW, interfaces=())
    wait_until(lambda: "which is used alone" in serving.job.output, LOG_DEADLINE, "the server notices")
    copy = start_copy(site, serving, source, lab.clients[0])
    lab.unplug(lab.server)
    copy.finish()
    assert "eth1: served again" in serving.job.output


# --- the client's ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=[INTERFACE, None])
def client_copy(make_site: Callable[..., Site], request: pytest.FixtureRequest) -> Copy:
    """Half of it has been sent; the client was told its interface, or takes what is suited."""
    site = make_site(1)
    source = make_source(site)
    serving = site.serve(site.lab.server, source.parent, options=SLOW)
    return start_copy(site, serving, source, site.lab.clients[0], request.param)


def test_the_clients_interface_is_set_down_and_up(client_copy: Copy) -> None:
    client = client_copy.mounted.host
    set_link(client, "down")
    time.sleep(AWAY)
    assert client_copy.job.running
    set_link(client, "up")
    client_copy.finish()


def test_the_clients_interface_is_deleted_and_made_anew(client_copy: Copy) -> None:
    lab, client = client_copy.site.lab, client_copy.mounted.host
    lab.unplug(client)
    time.sleep(AWAY)
    assert client_copy.job.running
    lab.plug_in(client)
    client_copy.finish()


def test_a_read_without_an_interface_times_out_and_the_next_one_succeeds(make_site: Callable[..., Site]) -> None:
    site = make_site(1)
    source = make_source(site)
    serving = site.serve(site.lab.server, source.parent, options=SLOW)
    (client,) = site.lab.clients
    mounted = site.mount(client, "data", timeout=2)
    before = site.sent()
    job = site.start(client, same_bytes(source, mounted.path / "file"))
    site.wait_sent(before, SIZE // 4, DEADLINE)
    site.lab.unplug(client)
    assert job.finish(DEADLINE) != 0
    assert "Connection timed out" in job.output
    site.lab.plug_in(client)
    again = same_bytes(source, mounted.path / "file")
    wait_until(lambda: site.start(client, again).finish(DEADLINE) == 0, DEADLINE, "a copy succeeds")
    Copy(site, serving, mounted, site.start(client, again)).finish()


def test_a_client_interface_that_comes_later_is_used(make_site: Callable[..., Site]) -> None:
    """The client is mounted on a link without a server, and is then connected to the one with it."""
    site = make_site(2)
    lab = site.lab
    source = make_source(site)
    client, other = lab.clients
    lab.unplug(client)
    ends = ["veth0", "netns", client.namespace, "type", "veth", "peer", "name", "veth0", "netns", other.namespace]
    client.run(["ip", "link", "add", *ends])
    for host in (client, other):
        set_link(host, "up", "veth0")
    serving = site.serve(lab.server, source.parent)
    wait_until(lambda: lab.has_address(client, "veth0"), LOG_DEADLINE, "the client has an address")
    mounted = site.mount(client, None, iface=None)
    time.sleep(AWAY)
    assert not list(mounted.path.iterdir())
    lab.plug_in(client)
    wait_until((mounted.path / "data" / "file").exists, LOG_DEADLINE, "the share is heard")
    Copy(site, serving, mounted, site.start(client, same_bytes(source, mounted.path / "data" / "file"))).finish()


@pytest.mark.parametrize(("bytes_", "warnings"), [(256, 1), (384, 1), (8192, 0)])
def test_a_kernel_with_little_room_for_memberships(make_site: Callable[..., Site], bytes_: int, warnings: int) -> None:
    """Room for 4, 6 and 146 on a 64-bit Linux, where a reader begins with 8 and may have 64: the copy is right."""
    site = make_site(1)
    source = make_source(site)
    serving = site.serve(site.lab.server, source.parent, options=SLOW)
    (client,) = site.lab.clients
    client.run(["sysctl", "-qw", f"net.core.optmem_max={bytes_}"])
    mountpoint = site.new_directory("mount")
    site.lab.track_mount(mountpoint)
    cache = site.new_directory("cache")
    mount = site.start(client, [*MCFS, "mount", "data", mountpoint, "-f", "-i", INTERFACE, "--cache-dir", cache])
    wait_until(lambda: mounts.mounted_at(mountpoint) is not None, 30, "the mount serves")
    job = site.start(client, same_bytes(source, mountpoint / "file"))
    Copy(site, serving, Mounted(client, mountpoint, cache), job).finish()
    assert mount.running
    assert mount.output.count("no more multicast memberships") == warnings, mount.output
    assert mount.output.count("does not take the filter") == warnings, mount.output


# --- either's --------------------------------------------------------------------------------------------------------


def sysctl(setting: str) -> list[str]:
    return ["sysctl", "-qw", f"net.ipv6.conf.{INTERFACE}.{setting}"]


def set_mtu(mtu: int) -> list[str]:
    return ["ip", "link", "set", INTERFACE, "mtu", str(mtu)]


@pytest.mark.parametrize("where", ["server", "client1"])
@pytest.mark.parametrize(
    ("off", "on"),
    [(sysctl("disable_ipv6=1"), sysctl("disable_ipv6=0")), (set_mtu(1200), set_mtu(1500))],
    ids=["disabled", "mtu"],
)
def test_ipv6_is_taken_from_an_interface_and_given_back(copy: Copy, where: str, off: list[str], on: list[str]) -> None:
    """With an MTU below 1,280 the kernel forgets all about IPv6 there, the groups as well."""
    host = copy.site.lab.host(where)
    host.run(off)
    time.sleep(AWAY)
    assert copy.job.running
    host.run(on)
    copy.finish()


def test_a_later_interface_with_a_small_mtu_is_served_in_fragments(make_site: Callable[..., Site]) -> None:
    site = make_site(1)
    lab = site.lab
    source = make_source(site)
    (client,) = lab.clients
    lab.plug_in(lab.server, "eth1")
    set_link(lab.server, "down", "eth1")
    serving = site.serve(lab.server, source.parent, interfaces=())
    lab.unplug(lab.server)
    lab.server.run(["ip", "link", "set", "eth1", "mtu", "1400"])
    set_link(lab.server, "up", "eth1")
    mounted = site.mount(client, "data")
    Copy(site, serving, mounted, site.start(client, same_bytes(source, mounted.path / "file"))).finish()
    assert "eth1: its MTU is 1400" in serving.job.output


@pytest.mark.parametrize("max_groups", [1, 3])
def test_no_more_groups_are_joined_than_the_user_allows(make_site: Callable[..., Site], max_groups: int) -> None:
    site = make_site(1)
    source = make_source(site)
    serving = site.serve(site.lab.server, source.parent, options=SLOW)
    (client,) = site.lab.clients
    mounted = site.mount(client, "data", max_groups=max_groups)
    stays = site.start(client, ["sleep", "600"]).process.pid
    job = site.start(client, same_bytes(source, mounted.path / "file"))
    most = 0
    while job.running:
        most = max(most, sum(group.startswith("ff15") for group in groups_joined(str(stays))))
        time.sleep(0.01)
    Copy(site, serving, mounted, job).finish()
    assert 1 < most <= 1 + max_groups, "one is the channel of the share"
