"""Sockets in the network namespaces of others, made by this process: who listens to a group, and who says that he does.

    with inside(namespace), Member(socket.if_nametoindex("eth0"), groups) as member:
        ...

`Member` has the kernel join; `forge` sends a report as no kernel would. To flood a link with joins, a process of its
own:

    python -m tests.netlab.members flood SIZE BLOCK_SIZE TOP_HASH SECONDS
"""

from __future__ import annotations

import random
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Final, Self

from mcfs.cli.lab import INTERFACE
from mcfs.protocol import addressing, mld
from mcfs.protocol.ids import DEFAULT_BLOCK_SIZE, Digest, Group, Node, ObjectRef
from mcfs.protocol.merkle import object_ref, zero_leaf
from mcfs.protocol.mld import Envelope, Record, RecordType

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FLOOD_RATE: Final = 2000
"""Joins a second, each in a report of its own."""
_ETH_P_IPV6: Final = 0x86DD
_ICMPV6: Final = 58
_HOP_BY_HOP: Final = 0
_IPV6: Final = struct.Struct(">IHBB16s16s")


class Member:
    """A socket that is a member of some groups."""

    def __init__(self, ifindex: int, groups: tuple[Group, ...]) -> None:
        self._ifindex = ifindex
        self.socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        for group in groups:
            self._change(socket.IPV6_JOIN_GROUP, group)

    def join(self, group: Group) -> None:
        self._change(socket.IPV6_JOIN_GROUP, group)

    def leave(self, group: Group) -> None:
        self._change(socket.IPV6_LEAVE_GROUP, group)

    def close(self) -> None:
        """Leaves everything."""
        self.socket.close()

    def _change(self, option: int, group: Group) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, option, group + struct.pack("@I", self._ifindex))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def groups_of(ref: ObjectRef) -> Iterator[Group]:
    """The groups of the object's blocks, in pace class 0 and the default scope."""
    addresser = addressing.addresser_of(ref)
    for index in range(ref.geometry.counts[0]):
        yield addressing.node_group(Node(ref, 0, index), 0, addresser, addressing.SITE_LOCAL)


def hole(path: Path, blocks: int) -> ObjectRef:
    """Makes a file of so many blocks of zeros, which takes no space; it has as many groups as any other."""
    size = blocks * DEFAULT_BLOCK_SIZE
    with path.open("wb") as file:
        file.truncate(size)
    return object_ref(size, DEFAULT_BLOCK_SIZE, zero_leaf(DEFAULT_BLOCK_SIZE) * blocks)


def flood_command(ref: ObjectRef, seconds: float) -> list[str]:
    """The command that floods the link with joins, half of them for blocks of the object."""
    words = (ref.size, ref.block_size, ref.top.hex(), seconds)
    return [sys.executable, "-m", "tests.netlab.members", "flood", *map(str, words)]


class Forger:
    """Sends ICMPv6 messages in packets of which all is made up, from the namespace that it is opened in."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, envelope: Envelope, message: bytes, server_mac: bytes) -> None:
        destination = envelope.destination
        mac = b"\x33\x33" + destination[12:] if mld.is_multicast(destination) else server_mac
        self._socket.sendto(_packet(envelope, message), (INTERFACE, _ETH_P_IPV6, 0, 0, mac))


def _packet(envelope: Envelope, message: bytes) -> bytes:
    source, destination = envelope.source, envelope.destination
    if len(message) >= 4:
        message = mld.with_checksum(source, destination, message[:2] + bytes(2) + message[4:])
    extension = mld.ROUTER_ALERT_HOP_BY_HOP if envelope.router_alert else b""
    following = _HOP_BY_HOP if extension else _ICMPV6
    length = len(extension) + len(message)
    head = _IPV6.pack(6 << 28, length, following, max(envelope.hop_limit, 0), source, destination)
    return head + extension + message


def flood(size: str, block_size: str, top: str, seconds: str) -> None:
    """Joins of ever new groups, of blocks of the object and of nothing in turn, none of which is ever left."""
    served = groups_of(ObjectRef(int(size), int(block_size), Digest(bytes.fromhex(top))))
    numbers = random.Random(6)
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, mld.HOP_LIMIT)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, mld.ROUTER_ALERT_HOP_BY_HOP)
        destination = ("ff02::16", 0, 0, socket.if_nametoindex(INTERFACE))
        start, sent, end = time.monotonic(), 0, time.monotonic() + float(seconds)
        print("ready", flush=True)
        while (now := time.monotonic()) < end:
            while sent < (now - start) * FLOOD_RATE:
                group = next(served) if sent % 2 else Group(b"\xff\x15" + numbers.randbytes(14))
                sock.sendto(mld.build_report([Record(RecordType.CHANGE_TO_EXCLUDE_MODE, group)]), destination)
                sent += 1
            time.sleep(0.002)
    print(sent, flush=True)


if __name__ == "__main__":
    {"flood": flood}[sys.argv[1]](*sys.argv[2:])
