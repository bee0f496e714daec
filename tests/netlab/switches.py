"""Switches as one meets them: who queries on the link, and how soon the bridge forgets. And a tap on an interface.

`Lab`'s bridge snoops and queries nothing itself, and its namespace has no IPv6. Here it becomes a querier of either
version, with an address below those of all hosts, so that it is the one that is elected.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from mcfs.cli.lab import BRIDGE, INTERFACE
from mcfs.protocol import mld
from tests.netlab.namespaces import inside

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcfs.cli.lab import Host, Lab

BRIDGE_ADDRESS: Final = "fe80::1"
"""Lower than what the kernel makes of a hardware address."""
SETTLING: Final = 2.0
"""A bridge still floods for the response interval after a first query, which is 1 s here; and as much to spare."""

_RECEIVE_BUFFER: Final = 64 << 20
_SO_RCVBUFFORCE: Final = 33
_SO_TIMESTAMPNS: Final = 35
_ETH_P_ALL: Final = 0x0003
_SNAPSHOT: Final = 128
_UDP: Final = 17


def set_bridge(lab: Lab, **options: int) -> None:
    """Options of the bridge, as `ip link set type bridge` names them; times are in hundredths of a second."""
    words = [word for name, value in options.items() for word in (name, str(value))]
    lab.switch.run(["ip", "link", "set", BRIDGE, "type", "bridge", *words])


def make_querier(lab: Lab, version: int) -> None:
    """The bridge queries every 2 s. Linux's own default is version 1."""
    lab.switch.run(["sysctl", "-qw", f"net.ipv6.conf.{BRIDGE}.accept_dad=0"])
    lab.switch.run(["ip", "link", "set", BRIDGE, "addrgenmode", "none"])
    lab.switch.run(["sysctl", "-qw", f"net.ipv6.conf.{BRIDGE}.disable_ipv6=0"])
    lab.switch.run(["ip", "address", "add", f"{BRIDGE_ADDRESS}/64", "dev", BRIDGE, "nodad"])
    times = {"mcast_query_interval": 200, "mcast_startup_query_interval": 200, "mcast_query_response_interval": 100}
    set_bridge(lab, **times, mcast_mld_version=version)
    set_bridge(lab, mcast_querier=1)


def is_snooping(lab: Lab) -> bool:
    """False also if the bridge gave up because its table was full."""
    [shown] = json.loads(lab.switch.run(["ip", "-d", "-j", "link", "show", "dev", BRIDGE]).stdout)
    return bool(shown["linkinfo"]["info_data"]["mcast_snooping"])


def mute(host: Host) -> None:
    """The host sends neither queries nor advertisements, whatever runs there."""
    types = f"{{ {mld.QUERY}, {mld.ADVERTISEMENT}, {mld.TERMINATION} }}"
    rules = (
        "add table inet mute",
        "add chain inet mute output { type filter hook output priority 0; }",
        f"add rule inet mute output icmpv6 type {types} drop",
    )
    host.run(["nft", "-f", "-"], stdin="\n".join(rules) + "\n")


class Packet(NamedTuple):
    """An IPv6 packet as the tap saw it; a super-datagram is one."""

    at: float
    """Seconds of the system's clock, `time.time()`."""
    outgoing: bool
    source: str
    destination: str
    size: int
    """Bytes, all headers included."""
    icmp_type: int
    """0 for UDP."""
    group: str
    """Of a query; "::" in a general one, and in other packets."""

    @property
    def is_data(self) -> bool:
        return not self.icmp_type

    @property
    def is_general_query(self) -> bool:
        return self.icmp_type == mld.QUERY and self.group == "::"

    @property
    def is_specific_query(self) -> bool:
        return self.icmp_type == mld.QUERY and self.group != "::"


class Tap:
    """What passes eth0 of a host: UDP and MLD. Look often: its buffer is bounded."""

    def __init__(self, host: Host) -> None:
        self.packets: list[Packet] = []
        with inside(host.namespace):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            self._socket.bind((INTERFACE, _ETH_P_ALL))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def look(self) -> list[Packet]:
        """Everything that has passed up to now."""
        while True:
            try:
                data, ancillary, _, address = self._socket.recvmsg(_SNAPSHOT, 64, socket.MSG_TRUNC)
            except BlockingIOError:
                return self.packets
            # A snapshot is as long as a packet is at least; how long it is in truth is in its own header.
            packet = _packet(data, _time(ancillary), address[2] == socket.PACKET_OUTGOING)
            if packet is not None:
                self.packets.append(packet)

    def select(self, wanted: Callable[[Packet], bool], *, since: float = 0.0) -> list[Packet]:
        return [packet for packet in self.look() if packet.at >= since and wanted(packet)]

    def watch(self, seconds: float) -> None:
        """Lets time pass without losing anything."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.look()
            time.sleep(0.05)


def _time(ancillary: list[tuple[int, int, bytes]]) -> float:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("@qq", data)
            return float(seconds + nanoseconds / 1e9)
    raise AssertionError("a packet without a time")


def _packet(data: bytes, at: float, outgoing: bool) -> Packet | None:
    if len(data) < 40 or data[0] >> 4 != 6:
        return None
    source, destination = (socket.inet_ntop(socket.AF_INET6, data[start : start + 16]) for start in (8, 24))
    size, group, icmp_type = 40 + int.from_bytes(data[4:6], "big"), "::", 0
    if data[6] == 0 and len(data) > 48 and data[40] == socket.IPPROTO_ICMPV6:
        icmp_type = data[48]
        if icmp_type == mld.QUERY and len(data) >= 72:
            group = socket.inet_ntop(socket.AF_INET6, data[56:72])
    elif data[6] != _UDP:
        return None
    return Packet(at, outgoing, source, destination, size, icmp_type, group)
