from __future__ import annotations

import ctypes
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

import pytest

from mcfs.net import interfaces
from mcfs.net.interfaces import Interface, Kind, choose_from, classify, list_interfaces, select
from mcfs.protocol.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UP, LOOPBACK, POINTOPOINT, MULTICAST = 0x1, 0x8, 0x10, 0x1000
LINK_LOCAL = IPv6Address("fe80::1").packed
PATIENCE = 10.0
IN_CI = os.environ.get("CI") == "true"
"""There a test that cannot run is a failure."""

WIRED = Interface(
    name="eth0",
    index=2,
    mtu=1500,
    link_local=LINK_LOCAL,
    tentative=False,
    speed_bits=10**9,
    kind=Kind.WIRED,
    up=True,
    running=True,
    multicast=True,
)
LO = replace(WIRED, name="lo", index=1, kind=Kind.LOOPBACK, link_local=None, multicast=False)
WIFI = replace(WIRED, name="wlan0", index=3, kind=Kind.WIRELESS)
DOCKER = replace(WIRED, name="docker0", index=4, kind=Kind.CONTAINER)
PORT = replace(WIRED, name="eth1", index=5, kind=Kind.PORT)
TUNNEL = replace(WIRED, name="tun0", index=6, kind=Kind.POINT_TO_POINT)
DOWN = replace(WIRED, name="eth2", index=7, up=False, running=False, link_local=None)
UNPLUGGED = replace(WIRED, name="eth3", index=8, running=False)
WITHOUT_IPV6 = replace(WIRED, name="eth4", index=9, link_local=None)
DUMMY = replace(WIRED, name="dummy0", index=10, multicast=False)
ALL = (LO, WIRED, WIFI, DOCKER, PORT, TUNNEL, DOWN, UNPLUGGED, WITHOUT_IPV6, DUMMY)


@pytest.mark.parametrize(
    "name",
    [
        "docker0",
        "docker_gwbridge",
        "br-0123456789ab",
        "virbr0",
        "virbr0-nic",
        "vnet12",
        "cni0",
        "cni-podman0",
        "podman1",
        "lxcbr0",
        "lxdbr0",
        "incusbr0",
        "veth1a2b3c4",
        "veth0123456789",
        "cali0123456789a",
        "flannel.1",
        "cilium_host",
        "ve-machine",
    ],
)
def test_interfaces_of_container_engines(name: str) -> None:
    assert classify(name, UP | MULTICAST, b"", answers_wireless=False) is Kind.CONTAINER


@pytest.mark.parametrize(
    "name", ["eth0", "enp3s0", "br0", "br-lan", "bond0", "eth0.100", "veth0", "veth12", "vethserver", "vmbr0"]
)
def test_interfaces_of_people(name: str) -> None:
    assert classify(name, UP | MULTICAST, b"", answers_wireless=False) is Kind.WIRED


@pytest.mark.parametrize(
    ("name", "flags", "port_of", "answers", "kind"),
    [
        ("lo", LOOPBACK, b"", False, Kind.LOOPBACK),
        ("tun0", POINTOPOINT | MULTICAST, b"", False, Kind.POINT_TO_POINT),
        ("wlp2s0", MULTICAST, b"", False, Kind.WIRELESS),
        ("ath0", MULTICAST, b"", True, Kind.WIRELESS),
        ("eth0", MULTICAST, b"bridge", False, Kind.PORT),
        ("eth0", MULTICAST, b"bond", False, Kind.PORT),
        ("eth0", MULTICAST, b"openvswitch", False, Kind.PORT),
        ("eth0", MULTICAST, b"vrf", False, Kind.WIRED),
        ("veth1a2b3c4", MULTICAST, b"bridge", False, Kind.CONTAINER),
    ],
)
def test_kinds(name: str, flags: int, port_of: bytes, answers: bool, kind: Kind) -> None:
    assert classify(name, flags, port_of, answers_wireless=answers) is kind


def test_by_default_what_is_suited_is_chosen_and_the_rest_has_its_reason() -> None:
    choice = choose_from(ALL, ())
    assert choice.chosen == (WIRED,)
    assert {s.interface.name: s.reason for s in choice.skipped} == {
        "lo": "loopback",
        "wlan0": "wireless: multicast there is slow and lossy",
        "docker0": "an interface of a container engine or hypervisor",
        "eth1": "a member port of a bridge or bond",
        "tun0": "point-to-point",
        "eth2": "it is down (ip link set eth2 up)",
        "eth3": "no carrier",
        "eth4": "it has no IPv6 link-local address (sysctl net.ipv6.conf.eth4.disable_ipv6=0)",
        "dummy0": "not capable of multicast",
    }
    assert [s.interface.name for s in choice.notable] == ["wlan0", "docker0"]


def test_what_is_named_is_taken() -> None:
    names = ["tun0", "wlan0", "docker0", "eth1", "eth3", "dummy0", "wlan0"]
    choice = choose_from(ALL, names)
    assert [interface.name for interface in choice.chosen] == names[:-1]
    assert choice.skipped == ()


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    with pytest.raises(UserError, match="no network interface 'eth9'; there are: lo, eth0, wlan0") as caught:
        choose_from(ALL, ["eth0", "eth9"])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("name", "reason"), [("eth2", "it is down"), ("eth4", "no IPv6 link-local")])
def test_a_named_one_that_cannot_work_is_refused(name: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        choose_from(ALL, [name])


def test_when_none_is_suited_all_reasons_are_given() -> None:
    with pytest.raises(UserError, match=r"\(wlan0: wireless.*; eth3: no carrier\)"):
        choose_from([LO, WIFI, UNPLUGGED], [])
    with pytest.raises(UserError, match="there is only loopback"):
        choose_from([LO], [])


def test_a_look_may_be_taken_at_what_cannot_work() -> None:
    """As `mcfs doctor` does."""
    assert select(ALL, [UNPLUGGED.name, LO.name]).chosen == (UNPLUGGED, LO)
    none = select([LO, WIFI], [])
    assert (none.chosen, [s.interface for s in none.skipped]) == ((), [LO, WIFI])
    with pytest.raises(UserError, match="eth9"):
        select(ALL, ["eth9"])


def test_this_machine() -> None:
    found = {interface.name: interface for interface in list_interfaces()}
    assert found["lo"].kind is Kind.LOOPBACK
    assert found["lo"].index == 1
    assert found["lo"].unsuited() == "loopback"


def test_addresses_of_the_kernel() -> None:
    lines = [
        "00000000000000000000000000000001 01 80 10 80       lo",
        "fe8000000000000000fc00fffe000001 04 40 20 c0     eth0",
        "fd000000000000000000000000000002 04 40 00 82     eth0",
        "fe800000000000000000000000000009 1a 40 20 08     eth1",
    ]
    found = dict(interfaces._parse_if_inet6(lines))
    assert list(found) == [4]
    assert found[4].packed == IPv6Address("fe80::fc:ff:fe00:1").packed
    assert found[4].flags & 0x40


def test_addresses_that_can_be_sent_from(tmp_path: Path) -> None:
    path = tmp_path / "if_inet6"
    path.write_text(
        "00000000000000000000000000000001 01 80 10 80       lo\n"
        "fe8000000000000000fc00fffe000001 04 40 20 c0     eth0\n"
        "fe800000000000000000000000000005 04 40 20 80     eth0\n"
        "fd000000000000000000000000000002 04 40 00 82     eth0\n"
        "fe800000000000000000000000000009 1a 40 20 08     eth1\n"
    )
    fe80, fd = IPv6Address("fe80::5").packed, IPv6Address("fd00::2").packed
    assert interfaces._usable_addresses(path) == {1: {IPv6Address("::1").packed}, 4: {fe80, fd}}


def test_no_ipv6_at_all_is_no_address(tmp_path: Path) -> None:
    assert interfaces._link_local_addresses(tmp_path / "none") == {}


# --- the kernel ------------------------------------------------------------------------------------------------------


def ip(namespace: str, *words: str) -> None:
    subprocess.run(["ip", "-n", namespace, *words], check=True, capture_output=True, timeout=PATIENCE)


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"mcfs-if-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True, timeout=PATIENCE)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True, timeout=PATIENCE)


def inside(namespace: str) -> dict[str, Interface]:
    """The interfaces of a namespace, as a thread sees them that has entered it without another /sys or /proc."""

    def enter_and_list() -> tuple[Interface, ...]:
        with open(f"/run/netns/{namespace}", "rb") as file:
            assert ctypes.CDLL(None).setns(file.fileno(), 0) == 0
        return list_interfaces()

    with ThreadPoolExecutor(1) as pool:
        return {interface.name: interface for interface in pool.submit(enter_and_list).result()}


@pytest.mark.netlab
@pytest.mark.skipif(os.geteuid() != 0 and not IN_CI, reason="needs root")
def test_interfaces_of_a_namespace(namespace: str) -> None:
    ip(namespace, "link", "add", "br0", "type", "bridge")
    ip(namespace, "link", "add", "port0", "type", "veth", "peer", "name", "host0")
    ip(namespace, "link", "set", "port0", "master", "br0")
    ip(namespace, "link", "add", "veth0123abc", "type", "veth", "peer", "name", "lonely0")
    for name in ("br0", "port0", "host0", "lonely0"):
        ip(namespace, "link", "set", name, "up")
    ip(namespace, "link", "set", "host0", "mtu", "9000")
    found = inside(namespace)
    assert set(found) == {"lo", "br0", "port0", "host0", "veth0123abc", "lonely0"}
    kinds = {name: interface.kind for name, interface in found.items()}
    assert (kinds["lo"], kinds["port0"], kinds["veth0123abc"]) == (Kind.LOOPBACK, Kind.PORT, Kind.CONTAINER)
    assert kinds["br0"] is kinds["host0"] is kinds["lonely0"] is Kind.WIRED
    assert found["host0"].mtu == 9000
    assert found["host0"].link_local is not None
    assert found["host0"].link_local[:2] == b"\xfe\x80"
    assert found["lonely0"].unsuited() is not None
    assert {i.name for i in choose_from(tuple(found.values()), ()).chosen} == {"br0", "host0"}


@pytest.mark.netlab
@pytest.mark.skipif(os.geteuid() != 0 and not IN_CI, reason="needs root")
def test_an_address_is_tentative_for_a_while(namespace: str) -> None:
    ip(namespace, "link", "add", "a0", "type", "veth", "peer", "name", "b0")
    ip(namespace, "link", "set", "a0", "up")
    ip(namespace, "link", "set", "b0", "up")
    deadline = time.monotonic() + PATIENCE
    while not (found := inside(namespace)["a0"]).tentative:  # it has none before the kernel has seen the carrier
        assert found.link_local is None
        assert time.monotonic() < deadline
    while inside(namespace)["a0"].tentative:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.netlab
@pytest.mark.skipif(os.geteuid() != 0 and not IN_CI, reason="needs root")
def test_without_ipv6(namespace: str) -> None:
    ip(namespace, "link", "add", "a0", "type", "veth", "peer", "name", "b0")
    disable = ["sysctl", "-qw", "net.ipv6.conf.a0.disable_ipv6=1"]
    subprocess.run(["ip", "netns", "exec", namespace, *disable], check=True, timeout=PATIENCE)
    for name in ("a0", "b0"):
        ip(namespace, "link", "set", name, "up")
    assert "disable_ipv6" in str(inside(namespace)["a0"].unsuited())
