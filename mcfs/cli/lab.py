"""A switch and hosts inside this machine: network namespaces, veth pairs and a bridge.

`mcfs demo` and tests/netlab use it:

    with Lab("mcfs-demo", clients=3) as lab:
        lab.server.popen(["mcfs-serve", "-i", "eth0", "/srv/data"])
        lab.host("client1").run(["mcfs", "mount", "data", "/mnt/share"])
        lab.track_mount(Path("/mnt/share"))

The server and each client are a namespace with one interface, eth0, and link-local addresses. The other ends of the
veth pairs, named like the hosts, are ports of br0 in a namespace of its own, which has no IPv6: what the server hears
on the link comes from the hosts alone. Programs enter by nsenter and not by `ip netns exec`, which makes a mount
namespace as well, so that what is mounted inside could not be seen outside.

Whatever runs in the lab's namespaces is its own and ends with it, a daemon that has left its parent as well.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Self, TypeAlias

import psutil

from mcfs.cli import mounts
from mcfs.protocol.errors import UserError

Argv: TypeAlias = Sequence[str | Path]
Output: TypeAlias = IO[Any] | int | None

INTERFACE = "eth0"
BRIDGE = "br0"
NAMESPACES = Path("/run/netns")
FUSE_DEVICE = Path("/dev/fuse")
TOOLS = ("ip", "bridge", "tc", "nft", "ethtool", "sysctl", "nsenter", "fusermount3")

COMMAND_DEADLINE = 30.0
LINK_DEADLINE = 5.0
STOP_DEADLINE = 5.0
_POLL = 0.01

# What veth passes whole and no cable does. GRO stays as it is: off by default on veth.
_SEGMENTATION = ("tx-udp-segmentation", "generic-segmentation-offload", "tcp-segmentation-offload")
_GRO = "generic-receive-offload"
_TSO = "tcp-segmentation-offload"
_LOSS_TABLE = "inet mcfs_lab"
_serial = itertools.count(1)


class LabError(UserError):
    """Something that the lab could not do; its text is one line."""


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace; `processes` are all that `popen` started in the lab."""

    name: str
    namespace: str
    processes: list[subprocess.Popen[bytes]] = field(repr=False, compare=False)

    def argv(self, argv: Argv) -> list[str]:
        """The command that runs `argv` inside."""
        return ["nsenter", f"--net={NAMESPACES / self.namespace}", "--", *map(str, argv)]

    def run(
        self, argv: Argv, *, stdin: str = "", timeout: float = COMMAND_DEADLINE, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs `argv` inside and waits `timeout` seconds at most; raises LabError when that passes or `check` fails."""
        return _run(self.argv(argv), stdin=stdin, timeout=timeout, check=check)

    def popen(
        self,
        argv: Argv,
        *,
        stdout: Output = None,
        stderr: Output = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts `argv` inside, without input, in a session of its own so that Ctrl-C reaches only this process."""
        process = subprocess.Popen(
            self.argv(argv),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        self.processes.append(process)
        return process


class Lab:
    """Hosts `server` and `client1` to `clientN` on one snooping bridge (`switch`); use as a context manager.

    Leaving it, also by an exception, Ctrl-C, SIGTERM or SIGHUP, ends what runs inside, unmounts what `track_mount` was
    told of and removes the namespaces; LabError if that cannot be done. Without `snooping` the bridge floods all
    groups; with `wire` every host sends each datagram as a packet of its own (see `wire_mode`); with `gro` as well the
    receiving kernel joins them again, as it does behind a network card (see `join_packets`).
    """

    def __init__(
        self, prefix: str, clients: int, *, snooping: bool = True, wire: bool = False, gro: bool = False
    ) -> None:
        self.label = f"{prefix}-{os.getpid()}-{next(_serial)}"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._mounts: list[Path] = []
        self._snooping = snooping
        self._wire = wire
        self._gro = gro
        self._exits = ExitStack()
        self.switch = self._make_host("switch")
        self.server = self._make_host("server")
        self.clients = tuple(self._make_host(f"client{n}") for n in range(1, clients + 1))
        self.hosts = (self.server, *self.clients)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(exit_on_signals())
            stack.callback(self._remove)
            self._build()
            self._exits = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    @staticmethod
    def cleanup_stale(prefix: str) -> None:
        """Removes what labs of this prefix left behind whose process was killed; those of live processes stay."""
        is_stale = Stale(prefix)
        for path in _mount_points():
            if path.parent != NAMESPACES and is_stale(path):
                _unmount(path)
        if NAMESPACES.is_dir():
            _remove_namespaces(sorted(path.name for path in NAMESPACES.iterdir() if is_stale(path)))

    def host(self, name: str) -> Host:
        """The host of this name: server, client1, ..., or switch."""
        for host in (*self.hosts, self.switch):
            if host.name == name:
                return host
        raise LabError(f"the lab has no host {name}")

    def track_mount(self, path: Path) -> None:
        """Has `path` unmounted at the end, if something is mounted there then."""
        self._mounts.append(path)

    def wire_mode(self, host: Host) -> None:
        """Makes `host` send each datagram as a packet of its own, as a cable carries it and as loss meets it."""
        host.run(["ethtool", "-K", INTERFACE, *(word for name in _SEGMENTATION for word in (name, "off"))])
        for name in _SEGMENTATION:
            _check_feature(host, INTERFACE, name, "off")

    def join_packets(self, host: Host) -> None:
        """Has the kernel of `host` join packets as they arrive (GRO), as it does behind most network cards.

        veth does that only for what comes from an end that has no segmentation offload for TCP (veth_xmit in Linux's
        drivers/net/veth.c), so it is switched off at the switch's end. Of use in wire mode only.
        """
        self.switch.run(["ethtool", "-K", host.name, _TSO, "off"])
        host.run(["ethtool", "-K", INTERFACE, _GRO, "on"])
        _check_feature(self.switch, host.name, _TSO, "off")
        _check_feature(host, INTERFACE, _GRO, "on")

    def loss(self, host: Host, percent: float) -> None:
        """Drops this share of the UDP and TCP packets that `host` receives, at random, in place of what was set."""
        if not 0 <= percent <= 100:
            raise LabError(f"loss must be 0 to 100 percent, not {percent:g}")
        host.run(["nft", "-f", "-"], stdin=_loss_rules(percent))

    def rate_limit(self, host: Host, rate: str | None) -> None:
        """Limits what `host` sends to `rate` (as tc writes it: 1gbit); None removes the limit."""
        if rate is None:
            host.run(["tc", "qdisc", "del", "dev", INTERFACE, "root"], check=False)
            return
        shape = ["tbf", "rate", rate, "burst", "256kb", "limit", "3mb"]
        host.run(["tc", "qdisc", "replace", "dev", INTERFACE, "root", *shape])

    def slow_port(self, host: Host, rate: str | None, buffer: str = "600kb") -> None:
        """Limits what the switch sends to `host`, with room for `buffer` bytes that wait (both as tc writes them); None
        removes the limit."""
        if rate is None:
            self.switch.run(["tc", "qdisc", "del", "dev", host.name, "root"], check=False)
            return
        shape = ["tbf", "rate", rate, "burst", "32kb", "limit", buffer]
        self.switch.run(["tc", "qdisc", "replace", "dev", host.name, "root", *shape])

    def link(self, host: Host, *, up: bool) -> None:
        """Plugs in or unplugs the cable of `host`: its interface loses the carrier and keeps addresses and groups."""
        self.switch.run(["ip", "link", "set", host.name, "up" if up else "down"])
        _wait_for(lambda: _has_carrier(host) == up, f"{host.name}: carrier did not change")

    def plug_in(self, host: Host, interface: str = INTERFACE) -> None:
        """Gives `host` an interface that is connected to the switch; returns when it has an address."""
        self._plug_in(host, interface)
        _wait_for(partial(self.has_address, host, interface), f"{host.name}: no link-local address")

    def unplug(self, host: Host, interface: str = INTERFACE) -> None:
        """Takes the interface out of `host`, as if it were on a USB plug."""
        host.run(["ip", "link", "delete", interface])

    def has_address(self, host: Host, interface: str = INTERFACE) -> bool:
        """Whether an interface has a link-local address that can be used."""
        return _has_address(host, interface)

    def link_local(self, host: Host, interface: str = INTERFACE) -> str:
        """The link-local address of an interface, without a zone."""
        addresses = _link_local_addresses(host, interface)
        if not addresses:
            raise LabError(f"{host.name} has no link-local address")
        return addresses[0]

    def tx_bytes(self, host: Host, interface: str = INTERFACE) -> int:
        """Bytes that `host` has sent, link-layer headers included."""
        return int(_interface(host, interface)["stats64"]["tx"]["bytes"])

    def rx_bytes(self, host: Host) -> int:
        """Bytes that `host` has received, link-layer headers included, also those that `loss` dropped."""
        return int(_interface(host)["stats64"]["rx"]["bytes"])

    def pids(self, host: Host) -> set[int]:
        """The processes that run in `host`, whoever started them."""
        return _pids_inside([host.namespace])

    def bridge_groups(self) -> int:
        """How many (port, group) entries the bridge's multicast table holds."""
        tables = json.loads(self.switch.run(["bridge", "-j", "mdb", "show"]).stdout)
        return sum(len(table.get("mdb", [])) for table in tables)

    def _make_host(self, name: str) -> Host:
        return Host(name, f"{self.label}-{name}", self._processes)

    def _build(self) -> None:
        for host in (self.switch, *self.hosts):
            _run(["ip", "netns", "add", host.namespace])
        self._build_bridge()
        for host in self.hosts:
            self._plug_in(host)
            if self._gro:
                self.join_packets(host)
        for host in self.hosts:
            _wait_for(partial(_has_address, host), f"{host.name}: no link-local address")

    def _build_bridge(self) -> None:
        _sysctl(self.switch, "all.disable_ipv6=1", "default.disable_ipv6=1")
        options = ["mcast_snooping", str(int(self._snooping)), "mcast_querier", "0"]
        self.switch.run(["ip", "link", "add", BRIDGE, "type", "bridge", *options])
        self.switch.run(["ip", "link", "set", BRIDGE, "up"])
        self._bypass_firewall()

    def _bypass_firewall(self) -> None:
        """A switch has no firewall. Where the kernel's is asked about what a bridge forwards, that is a fifth of the
        cost of a packet. (-e: where br_netfilter is not loaded there is nothing to switch off.)"""
        for protocol in ("ip6tables", "iptables", "arptables"):
            self.switch.run(["sysctl", "-qew", f"net.bridge.bridge-nf-call-{protocol}=0"])

    def _plug_in(self, host: Host, interface: str = INTERFACE) -> None:
        port = host.name if interface == INTERFACE else f"{host.name}-{interface}"
        _sysctl(host, "all.disable_ipv6=0", "default.disable_ipv6=0", "all.accept_dad=0", "default.accept_dad=0")
        ends = ["name", interface, "netns", host.namespace, "type", "veth", "peer", "name", port]
        _run(["ip", "link", "add", *ends, "netns", self.switch.namespace])
        if self._wire and interface == INTERFACE:
            self.wire_mode(host)
        host.run(["ip", "link", "set", "lo", "up"])
        host.run(["ip", "link", "set", interface, "up"])
        self.switch.run(["ip", "link", "set", port, "master", BRIDGE, "up"])

    def _remove(self) -> None:
        """Ends processes before it waits for any: one that reads from a mount cannot end before the mount's daemon."""
        with signals_ignored():
            for path in reversed(self._mounts):
                _unmount(path)
            try:
                _remove_namespaces([host.namespace for host in (*self.hosts, self.switch)])
            finally:
                for process in self._processes:
                    _reap(process)


class Stale:
    """Tells whether a path is, or lies in, one that is named after a lab of this prefix whose process is no more."""

    def __init__(self, prefix: str) -> None:
        self._label = re.compile(rf"{re.escape(prefix)}-(\d+)-\d+\b")

    def __call__(self, path: Path) -> bool:
        labels = filter(None, map(self._label.match, path.parts))
        return any(not psutil.pid_exists(int(label[1])) for label in labels)


def missing_capabilities() -> list[str]:
    """What this process lacks to build a lab and to mount in it, in plain words; empty when it lacks nothing."""
    missing = [f"the program {tool}" for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0:
        return ["root", *missing]
    if not _opens(FUSE_DEVICE):
        missing.append(f"{FUSE_DEVICE} (load the module fuse, or pass the device to the container)")
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode != 0:
        missing.append("the right to make network namespaces (a container needs CAP_SYS_ADMIN)")
    return missing


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into SystemExit, so that what `with` and `finally` promise is kept."""

    def leave(signum: int, _frame: object) -> None:
        raise SystemExit(128 + signum)

    numbers = (signal.SIGTERM, signal.SIGHUP)  # not one that nohup ignores
    with _handling({number: leave for number in numbers if signal.getsignal(number) is signal.SIG_DFL}):
        yield


def signals_ignored() -> contextlib.AbstractContextManager[None]:
    """Clean-up is bounded by deadlines of its own: a second Ctrl-C does not cut it short."""
    return _handling(dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN))


@contextmanager
def _handling(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(
    argv: Argv, *, stdin: str = "", timeout: float = COMMAND_DEADLINE, check: bool = True
) -> subprocess.CompletedProcess[str]:
    command = shlex.join(map(str, argv))
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError:
        raise LabError(f"{argv[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"not done within {timeout:g} s: {command}") from None
    if check and done.returncode != 0:
        raise LabError(f"{command}: {_complaint(done.stderr) or f'exit code {done.returncode}'}")
    return done


def _complaint(text: str) -> str:
    """The line that says what is wrong: the first with the word error, else the last."""
    lines = text.strip().splitlines()
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "")


def _wait_for(condition: Callable[[], bool], failure: str) -> None:
    if not _comes_true(condition, LINK_DEADLINE):
        raise LabError(f"{failure} within {LINK_DEADLINE:g} s")


def _comes_true(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def _opens(device: Path) -> bool:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _sysctl(host: Host, *settings: str) -> None:
    host.run(["sysctl", "-qw", *(f"net.ipv6.conf.{setting}" for setting in settings)])


def _link_local_addresses(host: Host, interface: str = INTERFACE) -> list[str]:
    shown = json.loads(host.run(["ip", "-6", "-j", "address", "show", "dev", interface, "scope", "link"]).stdout)
    addresses = (address for interface in shown for address in interface.get("addr_info", []))
    # What `scope` leaves out is there as {}.
    return [address["local"] for address in addresses if "local" in address and not address.get("tentative")]


def _has_address(host: Host, interface: str = INTERFACE) -> bool:
    return bool(_link_local_addresses(host, interface))


def _interface(host: Host, interface: str = INTERFACE) -> dict[str, Any]:
    shown: list[dict[str, Any]] = json.loads(host.run(["ip", "-s", "-j", "link", "show", "dev", interface]).stdout)
    return shown[0]


def _check_feature(host: Host, interface: str, name: str, wanted: str) -> None:
    features = host.run(["ethtool", "-k", interface]).stdout
    if not re.search(rf"^\s*{name}: {wanted}", features, re.MULTILINE):
        raise LabError(f"{host.name}: cannot switch {wanted} {name} of {interface}")


def _has_carrier(host: Host) -> bool:
    return "LOWER_UP" in _interface(host)["flags"]


def _loss_rules(percent: float) -> str:
    """Rules that replace the table in one transaction; adding it first lets `delete` work when there is none."""
    rules = [f"add table {_LOSS_TABLE}", f"delete table {_LOSS_TABLE}"]
    if percent > 0:
        drop = f"meta l4proto {{ tcp, udp }} numgen random mod 1000 < {round(percent * 10)} drop"
        rules += [
            f"add table {_LOSS_TABLE}",
            f"add chain {_LOSS_TABLE} input {{ type filter hook input priority 0; }}",
            f"add rule {_LOSS_TABLE} input {drop}",
        ]
    return "\n".join(rules) + "\n"


def _mount_points() -> list[Path]:
    """All mount points, the last mounted first."""
    return [Path(partition.mountpoint) for partition in psutil.disk_partitions(all=True)][::-1]


def _unmount(path: Path) -> None:
    """Lazily, so that neither open files nor a daemon that is gone can hold it up; nothing if it is no mount."""
    with suppress(UserError):
        mounts.unmount(path, lazy=True)


def _remove_namespaces(namespaces: Sequence[str]) -> None:
    _end_all(namespaces)
    for namespace in namespaces:
        _run(["ip", "netns", "delete", namespace], check=False)
    left = [namespace for namespace in namespaces if (NAMESPACES / namespace).exists()]
    if left:
        raise LabError(f"cannot remove network namespaces: {', '.join(left)}")


def _end_all(namespaces: Sequence[str]) -> None:
    """Ends all processes in the namespaces: asks, waits STOP_DEADLINE seconds for all together, kills."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in _pids_inside(namespaces):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        if _comes_true(lambda: not _pids_inside(namespaces), STOP_DEADLINE):
            return
    raise LabError(f"processes that cannot be killed: {sorted(_pids_inside(namespaces))}")


def _pids_inside(namespaces: Sequence[str]) -> set[int]:
    wanted = {_identity(NAMESPACES / namespace) for namespace in namespaces}
    wanted -= {None, _identity(Path("/proc/self/ns/net"))}
    return {pid for pid in psutil.pids() if _identity(Path(f"/proc/{pid}/ns/net")) in wanted}


def _identity(namespace: Path) -> tuple[int, int] | None:
    try:
        status = namespace.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Collects a process that `_end_all` has ended; one that had not entered its namespace yet is killed here."""
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_DEADLINE)
    for pipe in filter(None, (process.stdout, process.stderr)):
        pipe.close()
