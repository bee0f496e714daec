"""Which network interfaces there are, and which of them are fit for multicast.

Everything is read through sockets and /proc, which follow the network namespace of the calling thread; /sys is avoided
because after ``nsenter --net`` it still shows the namespace that mounted it.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from mcfs.protocol.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# netdevice(7)
_IFF_UP: Final = 0x1
_IFF_LOOPBACK: Final = 0x8
_IFF_POINTOPOINT: Final = 0x10
_IFF_RUNNING: Final = 0x40
_IFF_MULTICAST: Final = 0x1000
_SIOCGIWNAME: Final = 0x8B01
# rtnetlink(7), linux/if_link.h
_RTM_GETLINK: Final = 18
_RTM_NEWLINK: Final = 16
_NLM_F_REQUEST_DUMP: Final = 0x301
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFLA_LINKINFO: Final = 18
_IFLA_INFO_SLAVE_KIND: Final = 4
_NLA_TYPE_MASK: Final = 0x3FFF
_NETLINK_BUFFER: Final = 256 << 10
"""More than the kernel ever puts in one message of a dump (32 KiB)."""
# rtnetlink(7), linux/if_addr.h, ipv6(7)
_IFA_F_DADFAILED: Final = 0x08
_IFA_F_TENTATIVE: Final = 0x40
_SCOPE_LINK: Final = 0x20

_CONTAINER_NAMES: Final = re.compile(
    r"""docker\d+ | docker_gwbridge | br-[0-9a-f]{12} | virbr\d+(-nic)? | vnet\d+ | cni\d+ | cni-podman\d+ | podman\d+
    | lxcbr\d+ | lxdbr\d+ | incusbr\d+ | veth[0-9a-f]{7,} | cali[0-9a-f]{11} | flannel[.-].+ | cilium_.+
    | lxc[0-9a-f]{12,} | ve-.+ | vb-.+ | vz-.+""",
    re.VERBOSE,
)
"""Interfaces that container engines and hypervisors make for themselves, as these name them; `veth0` is a person's."""
_WIRELESS_NAMES: Final = re.compile(r"wl.+")
"""Predictable names (systemd.net-naming-scheme(7)): Wi-Fi 7 devices no longer answer SIOCGIWNAME."""
_PORT_OWNERS: Final = frozenset({b"bridge", b"bond", b"team", b"openvswitch"})
"""Kinds of device that take what their member ports receive. A VRF's members stay interfaces in their own right."""


class Kind(Enum):
    """What an interface is, as far as choosing goes; the value is how a message names it."""

    WIRED = "wired"
    WIRELESS = "wireless"
    CONTAINER = "an interface of a container engine or hypervisor"
    PORT = "a member port of a bridge or bond"
    LOOPBACK = "loopback"
    POINT_TO_POINT = "point-to-point"


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    index: int
    mtu: int
    link_local: bytes | None
    """16 bytes; None when the interface has none, so cannot take part in MLD."""
    tentative: bool
    """Whether duplicate address detection of the link-local address is still going on (one or two seconds)."""
    speed_bits: int | None
    """Bits per second, as the driver says; None when it does not."""
    kind: Kind
    up: bool
    """Administratively up."""
    running: bool
    """Has a carrier."""
    multicast: bool
    addresses: frozenset[bytes] = frozenset()
    """All its IPv6 addresses that can be sent from now, 16 bytes each."""

    @property
    def wireless(self) -> bool:
        return self.kind is Kind.WIRELESS

    def unfit(self) -> str | None:
        """Why no multicast can pass here, whatever the user says; None if it can."""
        if not self.up:
            return f"it is down (ip link set {self.name} up)"
        if self.link_local is None:
            return f"it has no IPv6 link-local address (sysctl net.ipv6.conf.{self.name}.disable_ipv6=0)"
        return None

    def unsuited(self) -> str | None:
        """Why it is not chosen unless it is named; None if it is."""
        if self.kind is Kind.WIRELESS:
            return "wireless: multicast there is slow and lossy"
        if self.kind is not Kind.WIRED:
            return str(self.kind.value)
        if not self.multicast:
            return "not capable of multicast"
        return self.unfit() or (None if self.running else "no carrier")


@dataclass(frozen=True, slots=True)
class Skipped:
    interface: Interface
    reason: str

    def __str__(self) -> str:
        return f"{self.interface.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Choice:
    chosen: tuple[Interface, ...]
    skipped: tuple[Skipped, ...]

    @property
    def notable(self) -> tuple[Skipped, ...]:
        """What a user may have expected to be chosen: wireless and container interfaces that are up."""
        kinds = (Kind.WIRELESS, Kind.CONTAINER)
        return tuple(s for s in self.skipped if s.interface.up and s.interface.kind in kinds)


def choose(names: Sequence[str] = ()) -> Choice:
    """The interfaces to use: those named, or all that are suited. Raises UserError when there is none."""
    return choose_from(list_interfaces(), names)


def choose_from(interfaces: Sequence[Interface], names: Sequence[str]) -> Choice:
    choice = select(interfaces, names)
    if names:
        for interface in choice.chosen:
            if reason := interface.unfit():
                raise UserError(f"network interface {interface.name!r} cannot be used: {reason}")
    elif not choice.chosen:
        summary = _summary(choice.skipped)
        raise UserError(f"no network interface is suited for IPv6 multicast ({summary}); name one with -i")
    return choice


def select(interfaces: Sequence[Interface], names: Sequence[str]) -> Choice:
    """As `choose_from`, but those that are named may be unfit, and there may be none. Raises UserError for a name."""
    if names:
        by_name = {interface.name: interface for interface in interfaces}
        return Choice(tuple(_named(by_name, name) for name in dict.fromkeys(names)), ())
    reasons = [(interface, interface.unsuited()) for interface in interfaces]
    chosen = tuple(interface for interface, reason in reasons if reason is None)
    skipped = tuple(Skipped(interface, reason) for interface, reason in reasons if reason is not None)
    return Choice(chosen, skipped)


def _named(by_name: Mapping[str, Interface], name: str) -> Interface:
    interface = by_name.get(name)
    if interface is None:
        raise UserError(f"there is no network interface {name!r}; there are: {', '.join(by_name) or 'none'}", 2)
    return interface


def _summary(skipped: Sequence[Skipped]) -> str:
    return "; ".join(str(s) for s in skipped if s.interface.kind is not Kind.LOOPBACK) or "there is only loopback"


def list_interfaces() -> tuple[Interface, ...]:
    """All interfaces of this network namespace, in the order of their index."""
    path = Path("/proc/thread-self/net/if_inet6")
    link_locals, addresses = _link_local_addresses(path), _usable_addresses(path)
    speeds = {name: stats.speed for name, stats in psutil.net_if_stats().items()}
    links = sorted(_links(), key=lambda link: link.index)
    return tuple(
        _interface(link, link_locals.get(link.index), addresses.get(link.index, frozenset()), speeds.get(link.name, 0))
        for link in links
    )


# --- what the kernel says --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Link:
    name: str
    index: int
    flags: int
    mtu: int
    port_of: bytes
    """The kind of device that it is a member of: b"bridge", b"bond", b"vrf"..., or nothing."""


@dataclass(frozen=True, slots=True)
class _Address:
    packed: bytes
    flags: int


def _interface(link: _Link, address: _Address | None, addresses: frozenset[bytes], speed: int) -> Interface:
    return Interface(
        name=link.name,
        index=link.index,
        mtu=link.mtu,
        link_local=address.packed if address else None,
        tentative=bool(address and address.flags & _IFA_F_TENTATIVE),
        speed_bits=speed * 1_000_000 or None,
        kind=classify(link.name, link.flags, link.port_of, answers_wireless=_answers_wireless(link.name)),
        up=bool(link.flags & _IFF_UP),
        running=bool(link.flags & _IFF_RUNNING),
        multicast=bool(link.flags & _IFF_MULTICAST),
        addresses=addresses,
    )


def classify(name: str, flags: int, port_of: bytes, *, answers_wireless: bool) -> Kind:
    """The kind of an interface, from its name, its IFF_ flags and the kind of its master."""
    if flags & _IFF_LOOPBACK:
        return Kind.LOOPBACK
    if flags & _IFF_POINTOPOINT:
        return Kind.POINT_TO_POINT
    if answers_wireless or _WIRELESS_NAMES.fullmatch(name):
        return Kind.WIRELESS
    if _CONTAINER_NAMES.fullmatch(name):
        return Kind.CONTAINER
    return Kind.PORT if port_of in _PORT_OWNERS else Kind.WIRED


def _answers_wireless(name: str) -> bool:
    request = struct.pack("16s16x", os.fsencode(name)[:15])
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            fcntl.ioctl(probe, _SIOCGIWNAME, request)
        except OSError:
            return False
    return True


def _link_local_addresses(path: Path) -> dict[int, _Address]:
    """Interface index to link-local address; without the file the kernel has no IPv6, so there are none."""
    return dict(_parse_if_inet6(_lines(path)))


def _usable_addresses(path: Path) -> dict[int, frozenset[bytes]]:
    """Interface index to the addresses that have passed duplicate address detection."""
    found: dict[int, set[bytes]] = {}
    for line in _lines(path):
        address, index, _, _, flags, _ = line.split(maxsplit=5)
        if not int(flags, 16) & (_IFA_F_DADFAILED | _IFA_F_TENTATIVE):
            found.setdefault(int(index, 16), set()).add(bytes.fromhex(address))
    return {index: frozenset(addresses) for index, addresses in found.items()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _parse_if_inet6(lines: Sequence[str]) -> Iterator[tuple[int, _Address]]:
    for line in lines:
        address, index, _, scope, flags, _ = line.split(maxsplit=5)
        if int(scope, 16) == _SCOPE_LINK and not int(flags, 16) & _IFA_F_DADFAILED:
            yield int(index, 16), _Address(bytes.fromhex(address), int(flags, 16))


def _links() -> list[_Link]:
    """RTM_GETLINK, rtnetlink(7): one dump tells name, flags, MTU and membership of all links."""
    links: list[_Link] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.send(struct.pack("=IHHII16x", 32, _RTM_GETLINK, _NLM_F_REQUEST_DUMP, 1, 0))
        while True:
            for kind, body in _messages(netlink.recv(_NETLINK_BUFFER)):
                if kind == _NLMSG_DONE:
                    return links
                if kind == _NLMSG_ERROR:
                    error = -struct.unpack_from("=i", body)[0]
                    raise OSError(error, "cannot list network interfaces")
                if kind == _RTM_NEWLINK:
                    links.append(_parse_link(body))


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of the messages in one read: length 4, type 2, flags 2, sequence 4, port 4, padded to 4."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        yield kind, data[offset + 16 : offset + length]
        offset += max(16, length + 3 & ~3)


def _parse_link(body: bytes) -> _Link:
    """struct ifinfomsg (family 1, pad 1, type 2, index 4, flags 4, change 4) and attributes."""
    index, flags = struct.unpack_from("=iI", body, 4)
    attributes = _attributes(body[16:])
    info = _attributes(attributes.get(_IFLA_LINKINFO, b""))
    return _Link(
        name=attributes[_IFLA_IFNAME].rstrip(b"\0").decode(errors="surrogateescape"),
        index=index,
        flags=flags,
        mtu=struct.unpack("=I", attributes[_IFLA_MTU])[0],
        port_of=info.get(_IFLA_INFO_SLAVE_KIND, b"").rstrip(b"\0"),
    )


def _attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by type: length 2, type 2, value, padded to 4."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        found[kind & _NLA_TYPE_MASK] = data[offset + 4 : offset + length]
        offset += max(4, length + 3 & ~3)
    return found
