"""The sockets that hear who listens: a raw ICMPv6 socket for MLDv2, a packet socket for MLDv1.

Linux hands MLDv2 reports to a raw socket only after a real join of ff02::16 on that interface, so the reader joins.
MLDv1 reports go to the very group that they report, which no raw socket sees without joining it: those, and the dones
with them, come through a packet socket with a filter in the kernel. Opening either needs CAP_NET_RAW and nothing else;
once they are open, receiving and sending need no capability.

Nothing is judged here: a message comes up with its `Envelope`, and `mcfs.protocol.mld` decides.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Final, Self

from mcfs.net import bpf
from mcfs.net.reportload import Kind, Sampling
from mcfs.protocol import mld
from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.ids import Host
from mcfs.protocol.mld import Envelope

if TYPE_CHECKING:
    from mcfs.serve.querier import Outgoing

Message = tuple[Envelope, bytes]

MESSAGES_PER_CALL: Final = 64
"""About 2 ms of work, at 10 to 50 us that a report costs to parse and enter: the loop must get to its other sockets."""
PACKETS_PER_CALL: Final = 256
"""Of MLDv1: 1 ms, as most of a flood of them are repetitions."""
RECEIVE_BUFFER: Final = 4 << 20
"""About 3,600 reports; a link of 200 hosts sends 5,000 a second. The kernel gives what net.core.rmem_max allows, which
is 90 reports by default, and all of it to who has CAP_NET_ADMIN."""

_MAX_MESSAGE: Final = 65535
_ANCILLARY_SIZE: Final = 512
"""Room for packet info and hop limit (64 bytes) and for a hop-by-hop header of reasonable length: a longer one is cut
off by the kernel, and then counts as none."""

_MULTICAST_HEARD: Final = (mld.ALL_MLDV2_ROUTERS, mld.ALL_ROUTERS, mld.ALL_SNOOPERS)
_TYPES_HEARD: Final = (mld.QUERY, mld.REPORT_V2, mld.ADVERTISEMENT, mld.SOLICITATION, mld.TERMINATION)

_GROUP_REQUEST: Final = struct.Struct("@16sI")
_PACKET_INFO: Final = struct.Struct("@16sI")
_INT: Final = struct.Struct("@i")

# linux/icmpv6.h
_ICMP6_FILTER: Final = 1

# linux/if_packet.h, linux/if_ether.h, asm-generic/socket.h: what the socket module does not name.
_SOL_PACKET: Final = 263
_PACKET_ADD_MEMBERSHIP: Final = 1
_PACKET_MR_ALLMULTI: Final = 2
_PACKET_REQUEST: Final = struct.Struct("@iHH8s")
_SO_RCVBUFFORCE: Final = 33
_ETH_P_IPV6: Final = 0x86DD

_GONE: Final = frozenset(
    (
        errno.ENETDOWN,
        errno.ENODEV,
        errno.ENXIO,
        errno.EADDRNOTAVAIL,
        errno.ENETUNREACH,
        errno.EINVAL,  # the kernel's word for a source that is not, or not yet, an address of the interface
        errno.EAGAIN,
        errno.ENOBUFS,
        errno.EPERM,  # a packet filter's word
    )
)
"""What sending may fail with while a link goes down, comes up or is full. MLD repeats itself."""


class ReportReader:
    """A raw ICMPv6 socket on one interface: MLDv2 reports, queries of others, router discovery.

    :raises OSError: the socket cannot be opened, for instance without CAP_NET_RAW or on an interface without IPv6
    """

    def __init__(self, ifindex: int, name: str) -> None:
        self.ifindex = ifindex
        self.name = name
        self._buffer = bytearray(_MAX_MESSAGE)
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
        try:
            self._set_options()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self, limit: int = MESSAGES_PER_CALL) -> list[Message]:
        """Up to `limit` messages that have come; never blocks. An empty list too when the interface is down or gone."""
        messages: list[Message] = []
        try:
            while len(messages) < limit:
                messages.append(self._receive_one())
        except OSError:
            # EAGAIN nearly always. Any other error belongs to a packet or to a link that went down: the socket stays
            # readable or not as the kernel says, and interfaces are watched elsewhere.
            pass
        return messages

    def send(self, outgoing: Outgoing, source: Host) -> bool:
        """Send from `source`, our link-local address. False if the link or the address is not there now.

        MLD wants a link-local source even where the kernel would choose another one (RFC 9777 section 5.1): for a
        group of a wider scope it takes a global address, and then no host answers.

        :raises OSError: anything that waiting does not mend
        """
        info = _PACKET_INFO.pack(source, self.ifindex)
        destination = (socket.inet_ntop(socket.AF_INET6, outgoing.destination), 0, 0, self.ifindex)
        try:
            ancillary = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)]
            self._socket.sendmsg([outgoing.message], ancillary, 0, destination)
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise
        return True

    def sample(self, sampling: Sampling) -> None:
        """Hand up only a part of what comes, drawn at random."""
        with contextlib.suppress(OSError):
            bpf.attach_filter(self._socket, messages(sampling))

    def rejoin(self) -> None:
        """Join the routers' groups anew, after IPv6 came back to the interface: where it was taken away, for instance
        by an MTU below 1,280, the kernel has forgotten who was a member. An interface that has gone is no error."""
        for group in _MULTICAST_HEARD:
            request = _GROUP_REQUEST.pack(group, self.ifindex)
            for option in (socket.IPV6_LEAVE_GROUP, socket.IPV6_JOIN_GROUP):
                with contextlib.suppress(OSError):
                    self._socket.setsockopt(socket.IPPROTO_IPV6, option, request)

    def _set_options(self) -> None:
        sock = self._socket
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _pass_only(_TYPES_HEARD))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(self.name))
        _enlarge_buffer(sock)
        for option in (socket.IPV6_RECVPKTINFO, socket.IPV6_RECVHOPLIMIT, socket.IPV6_RECVHOPOPTS):
            sock.setsockopt(socket.IPPROTO_IPV6, option, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, mld.HOP_LIMIT)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self.ifindex)
        # On the socket rather than beside each message: as ancillary data it would need CAP_NET_RAW at every send.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, mld.ROUTER_ALERT_HOP_BY_HOP)
        for group in _MULTICAST_HEARD:
            request = _GROUP_REQUEST.pack(group, self.ifindex)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)

    def _receive_one(self) -> Message:
        size, ancillary, _, address = self._socket.recvmsg_into([self._buffer], _ANCILLARY_SIZE)
        source = Host(socket.inet_pton(socket.AF_INET6, address[0].partition("%")[0]))
        return _envelope(source, ancillary), bytes(memoryview(self._buffer)[:size])


class DeafReader:
    """Stands for a ReportReader where none can be opened: hears nothing, and sends nothing."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def fileno(self) -> int:
        """Of a socket that never gets anything."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> list[Message]:
        return []

    def send(self, outgoing: Outgoing, source: Host) -> bool:
        return False

    def sample(self, sampling: Sampling) -> None:
        """There is nothing to draw from."""

    def rejoin(self) -> None: ...


class OldReportReader:
    """A packet socket on one interface: MLDv1 reports and dones, with their checksums verified.

    It makes the interface receive all multicast, as any multicast router does. What our own host sends in version 1
    does not come up.

    :raises OSError: the socket cannot be opened, for instance without CAP_NET_RAW
    """

    def __init__(self, ifindex: int, name: str) -> None:
        self.ifindex = ifindex
        self.name = name
        self.refused = 0
        # Protocol 0 receives nothing until bind: no packet passes before the filter is there.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        try:
            self._set_options()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self, limit: int = PACKETS_PER_CALL) -> list[Message]:
        """Messages out of up to `limit` packets; never blocks. Packets that are damaged count in `refused`.

        A report that says what another one has said, with no done between them, comes once: who is made to answer
        thousands of queries a second says the same all the time.
        """
        messages: list[Message] = []
        said: set[bytes] = set()
        for _ in range(limit):
            try:
                packet = self._socket.recv(_MAX_MESSAGE)
            except OSError:
                break
            if packet in said:
                continue
            try:
                message = mld.open_packet_untrusted(packet, self.ifindex)
            except BadDatagram:
                self.refused += 1
                continue
            messages.append(message)
            if message[1][0] == mld.REPORT_V1:
                said.add(packet)
            else:
                said.clear()
        return messages

    def sample(self, sampling: Sampling) -> None:
        """Hand up only a part of what comes, drawn at random."""
        with contextlib.suppress(OSError):
            bpf.attach_filter(self._socket, old_messages(sampling))

    def _set_options(self) -> None:
        bpf.attach_filter(self._socket, old_messages(Sampling()))
        _enlarge_buffer(self._socket)
        self._socket.bind((self.name, _ETH_P_IPV6))
        request = _PACKET_REQUEST.pack(self.ifindex, _PACKET_MR_ALLMULTI, 0, b"")
        self._socket.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)


def _enlarge_buffer(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)


def _envelope(source: Host, ancillary: list[tuple[int, int, bytes]]) -> Envelope:
    destination, hop_limit, router_alert, ifindex = mld.UNSPECIFIED, -1, False, 0
    for level, kind, data in ancillary:
        if level != socket.IPPROTO_IPV6:
            continue
        if kind == socket.IPV6_PKTINFO and len(data) >= _PACKET_INFO.size:
            destination, ifindex = _PACKET_INFO.unpack_from(data)
        elif kind == socket.IPV6_HOPLIMIT and len(data) >= _INT.size:
            (hop_limit,) = _INT.unpack_from(data)
        elif kind == socket.IPV6_HOPOPTS:
            router_alert = _has_router_alert(data)
    return Envelope(source, destination, hop_limit, router_alert, ifindex)


def _has_router_alert(hop_by_hop: bytes) -> bool:
    if hop_by_hop == mld.ROUTER_ALERT_HOP_BY_HOP:
        return True
    try:
        return mld.has_router_alert_untrusted(hop_by_hop)
    except BadDatagram:
        return False


def _pass_only(types: tuple[int, ...]) -> bytes:
    """An ICMP6_FILTER: 256 bits in words of the machine's order, a set bit blocks its type (RFC 3542 section 3.2)."""
    words = [0xFFFFFFFF] * 8
    for kind in types:
        words[kind >> 5] &= ~(1 << (kind & 31))
    return struct.pack("@8I", *words)


# The filter of the packet socket: byte 0 is the first of the IPv6 header.
_ENVELOPE: Final = (
    (6, 0),  # next header: hop-by-hop
    (40, socket.IPPROTO_ICMPV6),  # its next header
    (41, 0),  # its length: 8 bytes
)
_OLD_TYPE_AT: Final = 48


def old_messages(sampling: Sampling) -> bpf.Program:
    """Reports and dones of MLDv1, of a packet socket."""
    parts = ((mld.REPORT_V1, sampling.part(Kind.OLD_REPORT)), (mld.DONE_V1, sampling.part(Kind.DONE)))
    checks = (((bpf.LOAD_BYTE, 0, 0, at), (bpf.JUMP_EQUAL, 1, 0, value), bpf.DROP) for at, value in _ENVELOPE)
    return (
        *(line for check in checks for line in check),
        (bpf.LOAD_BYTE, 0, 0, _OLD_TYPE_AT),
        *(line for kind, part in parts for line in _if_type(kind, part)),
        bpf.DROP,
    )


def messages(sampling: Sampling) -> bpf.Program:
    """All that a raw socket gets, whose byte 0 is the first of the ICMPv6 header: of each kind its part."""
    own = (*bpf.sampled(sampling.part(Kind.REGULAR)), bpf.PASS)
    leaves = (*bpf.sampled(sampling.part(Kind.LEAVES)), bpf.PASS)
    router = (*bpf.sampled(sampling.part(Kind.ROUTER)), bpf.PASS)
    return (
        (bpf.LOAD_BYTE, 0, 0, 0),
        (bpf.JUMP_EQUAL, len(router), 0, mld.REPORT_V2),
        *router,
        (bpf.LOAD_LENGTH, 0, 0, 0),
        (bpf.SUBTRACT, 0, 0, mld.RECORD_SIZE),
        (bpf.TO_INDEX, 0, 0, 0),
        (bpf.LOAD_BYTE_AT_INDEX, 0, 0, 0),
        (bpf.JUMP_EQUAL, 0, len(leaves), mld.RecordType.CHANGE_TO_INCLUDE_MODE),
        *leaves,
        *bpf.REMEMBER_SOURCE,
        *(line for host in sorted(sampling.regulars) for line in bpf.if_source(host, own)),
        *bpf.sampled(sampling.part(Kind.STRANGER)),
        bpf.PASS,
    )


def _if_type(kind: int, part: float) -> bpf.Program:
    then = (*bpf.sampled(part), bpf.PASS)
    return ((bpf.JUMP_EQUAL, 0, len(then), kind), *then)
