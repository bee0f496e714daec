"""The lab itself: what it builds carries multicast, and it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from mcfs.cli.lab import NAMESPACES, Host, Lab, LabError
from tests.netlab.harness import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
GROUP = "ff12::6d63:6673"
QUIET = 1.0
DEADLINE = 30.0


def start_receiver(host: Host) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "tests.netlab.datagrams", "receive", GROUP, str(QUIET)]
    receiver = host.popen(argv, stdout=subprocess.PIPE, cwd=ROOT)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == b"ready\n"
    return receiver


def send(host: Host, count: int) -> None:
    host.run(["env", f"--chdir={ROOT}", sys.executable, "-m", "tests.netlab.datagrams", "send", GROUP, str(count)])


def received(receiver: subprocess.Popen[bytes]) -> int:
    output, _ = receiver.communicate(timeout=DEADLINE)
    return int(output)


def leftovers(label: str) -> list[str]:
    return [path.name for path in NAMESPACES.glob(f"{label}-*")]


def test_multicast_reaches_every_listener(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(2)
    receivers = [start_receiver(host) for host in lab.clients]
    send(lab.server, 100)
    assert [received(receiver) for receiver in receivers] == [100, 100]


@pytest.mark.parametrize(("snooping", "entries"), [(True, 1), (False, 0)])
def test_snooping_bridge_learns_who_listens(make_lab: Callable[..., Lab], snooping: bool, entries: int) -> None:
    lab = make_lab(2, snooping=snooping)
    before = lab.bridge_groups()
    receiver = start_receiver(lab.host("client1"))
    send(lab.server, 10)
    assert received(receiver) == 10
    assert lab.bridge_groups() - before == entries  # without a querier the bridge does not forget at once


def test_byte_counters(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1)
    client = lab.host("client1")
    sent, arrived = lab.tx_bytes(lab.server), lab.rx_bytes(client)
    receiver = start_receiver(client)
    send(lab.server, 100)
    assert received(receiver) == 100
    assert 100_000 < lab.tx_bytes(lab.server) - sent < 120_000
    assert 100_000 < lab.rx_bytes(client) - arrived < 120_000


@pytest.mark.parametrize("percent", [0, 20])
def test_loss_drops_its_share_at_one_host_only(make_lab: Callable[..., Lab], percent: float) -> None:
    lab = make_lab(2, wire=True)
    lossy, other = lab.clients
    lab.loss(lossy, 50)
    lab.loss(lossy, percent)
    receivers = [start_receiver(host) for host in (lossy, other)]
    send(lab.server, 4000)
    counts = [received(receiver) for receiver in receivers]
    assert counts[0] == pytest.approx(4000 * (100 - percent) / 100, abs=0 if percent == 0 else 150)  # 6 deviations
    assert counts[1] == 4000


def test_wire_mode_switches_segmentation_off(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1)
    assert "tx-udp-segmentation: on" in lab.server.run(["ethtool", "-k", "eth0"]).stdout
    lab.wire_mode(lab.server)
    assert "tx-udp-segmentation: off" in lab.server.run(["ethtool", "-k", "eth0"]).stdout


def test_packets_are_joined_again_on_arrival() -> None:
    with Lab("mcfs-test", 1, wire=True, gro=True) as lab:
        for host in lab.hosts:
            assert "generic-receive-offload: on" in host.run(["ethtool", "-k", "eth0"]).stdout
            assert "tcp-segmentation-offload: off" in lab.switch.run(["ethtool", "-k", host.name]).stdout
            assert "tx-udp-segmentation: off" in host.run(["ethtool", "-k", "eth0"]).stdout


def test_processes_of_a_host(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1)
    process = lab.server.popen(["sleep", "600"])
    wait_until(lambda: lab.pids(lab.server) == {process.pid}, DEADLINE, "the process is in the namespace")
    assert lab.pids(lab.host("client1")) == set()


def test_loss_drops_tcp_as_well(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1)
    client = lab.host("client1")
    lab.loss(client, 5)
    rules = client.run(["nft", "list", "ruleset"]).stdout
    assert "tcp" in rules
    assert "udp" in rules


def test_a_slow_port_is_at_the_switch(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(2)
    lab.slow_port(lab.host("client2"), "100mbit")
    assert "tbf" in lab.switch.run(["tc", "qdisc", "show", "dev", "client2"]).stdout
    assert "tbf" not in lab.switch.run(["tc", "qdisc", "show", "dev", "client1"]).stdout


def test_rate_limit_is_set_and_removed(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1)
    lab.rate_limit(lab.server, "1gbit")
    assert "tbf" in lab.server.run(["tc", "qdisc", "show", "dev", "eth0"]).stdout
    lab.rate_limit(lab.server, None)
    assert "tbf" not in lab.server.run(["tc", "qdisc", "show", "dev", "eth0"]).stdout


def test_an_unplugged_host_hears_nothing_and_keeps_its_address(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1)
    client = lab.host("client1")
    address = lab.link_local(client)
    receiver = start_receiver(client)
    lab.link(client, up=False)
    send(lab.server, 10)
    lab.link(client, up=True)
    assert lab.link_local(client) == address
    send(lab.server, 3)
    assert received(receiver) == 3


def test_errors_are_one_line(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1)
    with pytest.raises(LabError, match="no host client9"):
        lab.host("client9")
    with pytest.raises(LabError, match=r"Device \"nix\" does not exist\.$"):
        lab.server.run(["ip", "link", "show", "nix"])
    with pytest.raises(LabError, match=r"not done within 0\.1 s: .* sleep 9$"):
        lab.server.run(["sleep", "9"], timeout=0.1)


def test_leaving_ends_processes_mounts_and_namespaces(tmp_path: Path) -> None:
    with Lab("mcfs-test", 1) as lab:
        lab.server.run(["mount", "-t", "tmpfs", "none", str(tmp_path)])
        lab.track_mount(tmp_path)
        process = lab.server.popen(["sleep", "600"], cwd=tmp_path)
        lab.host("client1").run(["sh", "-c", f"setsid sleep 600 >/dev/null 2>&1 & echo $! >{tmp_path}/daemon"])
        daemon = int((tmp_path / "daemon").read_text())
        assert psutil.pid_exists(daemon)
    assert process.returncode == -signal.SIGTERM
    assert not psutil.pid_exists(daemon) or psutil.Process(daemon).status() == psutil.STATUS_ZOMBIE
    assert not os.path.ismount(tmp_path)
    assert leftovers(lab.label) == []


def test_an_exception_cleans_up() -> None:
    lab = Lab("mcfs-test", 1)
    with pytest.raises(KeyboardInterrupt), lab:
        raise KeyboardInterrupt
    assert leftovers(lab.label) == []


HOLD_A_LAB = """
from mcfs.cli.lab import Lab
with Lab("mcfs-test", 1) as lab:
    lab.server.popen(["sleep", "600"])
    print(lab.label, flush=True)
    lab.server.run(["sleep", "600"], timeout=600)
"""


def hold_a_lab() -> tuple[subprocess.Popen[str], str]:
    holder = subprocess.Popen([sys.executable, "-c", HOLD_A_LAB], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    return holder, holder.stdout.readline().strip()


def test_sigterm_cleans_up() -> None:
    holder, label = hold_a_lab()
    with holder:
        assert leftovers(label)
        holder.terminate()
        assert holder.wait(DEADLINE) == 128 + signal.SIGTERM
    assert leftovers(label) == []


def test_what_a_killed_process_left_is_found_and_removed(make_lab: Callable[..., Lab]) -> None:
    alive = make_lab(1)
    holder, label = hold_a_lab()
    with holder:
        holder.kill()
    assert leftovers(label)
    Lab.cleanup_stale("mcfs-test")
    assert leftovers(label) == []
    assert len(leftovers(alive.label)) == 3
