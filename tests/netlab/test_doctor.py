"""`mcfs doctor` on links that work, and on links that do not in one way each."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from mcfs.cli.lab import BRIDGE, INTERFACE
from tests.netlab.harness import MCFS, Site, wait_until

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from mcfs.cli.lab import Host, Lab

pytestmark = pytest.mark.netlab

DEADLINE = 60.0
FIRST_SECONDS = 6.0
"""Three queries a second apart, and three advertisements up to two seconds apart."""
WORKS = "IPv6 multicast works here"
UNPRIVILEGED = ("setpriv", "--bounding-set=-net_raw,-net_admin", "--inh-caps=-all")

HOLD_PORT = """
import socket, time
holder = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
holder.bind(("::", 27027))
print("bound")
time.sleep(600)
"""

SiteMaker = Callable[..., Site]


@pytest.fixture
def make_site(make_lab: Callable[..., Lab], tmp_path: Path) -> Iterator[SiteMaker]:
    with ExitStack() as stack:

        def make(clients: int = 1, *, wire: bool = False) -> Site:
            return stack.enter_context(Site(make_lab(clients, wire=wire), tmp_path))

        yield make


def serve(site: Site, host: Host, name: str = "data", *options: str) -> None:
    directory = site.new_directory("served") / name
    directory.mkdir()
    (directory / "file").write_bytes(b"content")
    site.serve(host, directory, options=options)


def doctor(host: Host, *options: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    done = host.run([*before, *MCFS, "doctor", *options], timeout=DEADLINE, check=False)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout, "plain, as nobody is at a terminal"
    return done


def said(done: subprocess.CompletedProcess[str], level: str, text: str) -> bool:
    """Whether there is a finding of this level that contains the text."""
    return any(text in line for line in done.stdout.splitlines() if line.startswith(f"{level} "))


def lost(done: subprocess.CompletedProcess[str]) -> list[int]:
    """How many of 1,000, for each server."""
    return [int(number) for number in re.findall(r"probe: (\d+) of 1000 datagrams", done.stdout)]


def nft(host: Host, hook: str, rule: str) -> None:
    table = f"add table inet doctor\nadd chain inet doctor c {{ type filter hook {hook} priority 0; }}\n"
    host.run(["nft", "-f", "-"], stdin=f"{table}add rule inet doctor c {rule}\n")


def test_a_good_link_with_a_server(make_site: SiteMaker) -> None:
    site = make_site()
    serve(site, site.lab.server)
    done = doctor(site.lab.clients[0], "-i", INTERFACE, "--share", "data")
    assert done.returncode == 0, done.stdout
    assert lost(done) == [0]
    assert said(done, "ok", "reports by MLDv2")
    assert said(done, "ok", f"MLD querier: {site.lab.link_local(site.lab.server)} (an mcfs server)")
    assert said(done, "ok", "1 server with 1 share heard (data)")
    assert said(done, "ok", "share data is heard")
    assert WORKS in done.stdout
    assert "problem" not in done.stdout


def test_a_server_that_is_silent_is_asked(make_site: SiteMaker) -> None:
    """After its first seconds it queries every 30 s and advertises itself every 20 s, but answers a solicitation."""
    site = make_site()
    serve(site, site.lab.server)
    time.sleep(FIRST_SECONDS)
    done = doctor(site.lab.clients[0])
    assert done.returncode == 0, done.stdout
    assert said(done, "ok", f"{site.lab.link_local(site.lab.server)} (an mcfs server) answers as a multicast router")


def test_on_the_servers_own_host(make_site: SiteMaker) -> None:
    site = make_site()
    serve(site, site.lab.server)
    done = doctor(site.lab.server)
    assert done.returncode == 0, done.stdout
    assert lost(done) == [0]
    assert said(done, "ok", "(this host, an mcfs server)")


def test_loss_is_measured(make_site: SiteMaker) -> None:
    site = make_site(wire=True)
    serve(site, site.lab.server, "data", "--rate", "500M")
    client = site.lab.clients[0]
    site.lab.loss(client, 10)
    done = doctor(client)
    assert done.returncode == 0, done.stdout
    (number,) = lost(done)
    assert 50 <= number <= 160, done.stdout  # five and six standard deviations
    assert said(done, "warning", f"probe: {number} of 1000 datagrams")


def test_a_server_that_is_slow_loses_nothing(make_site: SiteMaker) -> None:
    """At 1 Mbit/s the pass takes twelve seconds: what was not sent yet is not lost."""
    site = make_site()
    serve(site, site.lab.server, "data", "--rate", "1M")
    done = doctor(site.lab.clients[0], "--timeout", "4")
    assert done.returncode == 0, done.stdout
    assert re.search(r"probe: 0 of \d{2,3} datagrams", done.stdout), done.stdout


def test_two_servers_are_counted_apart(make_site: SiteMaker) -> None:
    site = make_site(2)
    serve(site, site.lab.server, "one")
    serve(site, site.lab.clients[1], "two")
    done = doctor(site.lab.clients[0])
    assert done.returncode == 0, done.stdout
    assert lost(done) == [0, 0]
    assert said(done, "ok", "2 servers with 2 shares heard (one, two)")


def test_no_server(make_site: SiteMaker) -> None:
    site = make_site()
    client = site.lab.clients[0]
    done = doctor(client, "--timeout", "2")
    assert done.returncode == 0, done.stdout
    assert said(done, "warning", "no mcfs server was heard within 2 s")
    assert said(done, "warning", "MLD querier: none heard within 2 s")
    assert WORKS not in done.stdout
    demanded = doctor(client, "--timeout", "1", "--share", "data")
    assert demanded.returncode == 1
    assert said(demanded, "problem", "share data was not heard")


@pytest.mark.slow
def test_a_bridge_that_queries_in_version_1(make_site: SiteMaker) -> None:
    site = make_site()
    switch, client = site.lab.switch, site.lab.clients[0]
    switch.run(["sysctl", "-qw", f"net.ipv6.conf.{BRIDGE}.disable_ipv6=0", f"net.ipv6.conf.{BRIDGE}.accept_dad=0"])
    querier = ["mcast_querier", "1", "mcast_mld_version", "1", "mcast_query_interval", "100"]
    querier += ["mcast_startup_query_interval", "100"]
    switch.run(["ip", "link", "set", BRIDGE, "type", "bridge", *querier])
    done = doctor(client, "--timeout", "10")
    assert done.returncode == 1, done.stdout
    assert said(done, "problem", "speaks MLDv1")
    assert re.search(r"MLD querier: fe80::\S+ speaks MLDv1", done.stdout)
    assert "mcast_mld_version 2" in done.stdout


def test_a_host_told_to_speak_version_1(make_site: SiteMaker) -> None:
    site = make_site()
    client = site.lab.clients[0]
    client.run(["sysctl", "-qw", f"net.ipv6.conf.{INTERFACE}.force_mld_version=1"])
    done = doctor(client, "--timeout", "3")
    assert done.returncode == 1, done.stdout
    assert said(done, "problem", "told to speak MLDv1")
    assert f"net.ipv6.conf.{INTERFACE}.force_mld_version=0" in done.stdout


def test_an_interface_that_is_down(make_site: SiteMaker) -> None:
    site = make_site()
    client = site.lab.clients[0]
    client.run(["ip", "link", "set", INTERFACE, "down"])
    named = doctor(client, "-i", INTERFACE)
    assert named.returncode == 1, named.stdout
    assert said(named, "problem", f"{INTERFACE}: is down")
    assert f"-> ip link set {INTERFACE} up" in named.stdout
    any_ = doctor(client)
    assert any_.returncode == 1
    assert said(any_, "problem", "no network interface is suited")
    assert said(any_, "ok", f"{INTERFACE}: not used: it is down")


def test_an_unplugged_cable(make_site: SiteMaker) -> None:
    site = make_site()
    client = site.lab.clients[0]
    site.lab.link(client, up=False)
    done = doctor(client, "-i", INTERFACE)
    assert done.returncode == 1, done.stdout
    assert said(done, "problem", f"{INTERFACE}: has no carrier")


def test_a_packet_filter_that_drops_the_datagrams(make_site: SiteMaker) -> None:
    site = make_site()
    serve(site, site.lab.server)
    client = site.lab.clients[0]
    nft(client, "input", "udp dport 27027 drop")
    done = doctor(client)
    assert done.returncode == 1, done.stdout
    assert said(done, "problem", "none to the program: dropped here")
    assert "let UDP port 27027 in" in done.stdout


def test_a_packet_filter_that_drops_the_reports(make_site: SiteMaker) -> None:
    site = make_site()
    client = site.lab.clients[0]
    nft(client, "output", "icmpv6 type mld2-listener-report drop")
    done = doctor(client, "--timeout", "2")
    assert done.returncode == 1, done.stdout
    assert said(done, "problem", "no report of it left")


def test_beside_a_mount(make_site: SiteMaker) -> None:
    """The mount holds the same groups on the same port before, while and after."""
    site = make_site()
    serve(site, site.lab.server)
    client = site.lab.clients[0]
    mounted = site.mount(client, None)
    done = doctor(client, "--share", "data")
    assert done.returncode == 0, done.stdout
    assert lost(done) == [0]
    site.start(client, ["grep", "-q", "content", mounted.path / "data" / "file"]).expect_success(DEADLINE)


def test_a_port_that_another_program_holds(make_site: SiteMaker) -> None:
    site = make_site()
    client = site.lab.clients[0]
    holder = site.start(client, [sys.executable, "-u", "-c", HOLD_PORT])
    wait_until(lambda: "bound" in holder.output, DEADLINE, "the port is taken")
    done = doctor(client)
    assert done.returncode == 1, done.stdout
    assert said(done, "problem", "another program holds UDP port 27027")


def test_without_privileges(make_site: SiteMaker) -> None:
    """The rate is one for which no receive buffer suffices."""
    site = make_site()
    serve(site, site.lab.server, "data", "--rate", "200G")
    done = doctor(site.lab.clients[0], before=UNPRIVILEGED)
    assert "MLD querier: cannot be heard without CAP_NET_RAW" in done.stdout
    assert said(done, "ok", "reports by MLDv2"), "the kernel counts them for everybody"
    assert said(done, "warning", "the receive buffer is small")
    assert "sysctl net.core.rmem_max=" in done.stdout
    assert lost(done), done.stdout


def test_wrong_arguments(make_site: SiteMaker) -> None:
    client = make_site().lab.clients[0]
    done = client.run([*MCFS, "doctor", "-i", "eth7"], check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mcfs: there is no network interface 'eth7'")
