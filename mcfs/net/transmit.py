"""Sending datagrams to groups: one system call for up to 45 of them (UDP_SEGMENT), one by one where that is missing."""

from __future__ import annotations

import errno
import socket
import struct
from enum import Enum
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from mcfs.protocol.fec import Symbols

_SOL_UDP: Final = 17
_UDP_SEGMENT: Final = 103
_SEGMENT_SIZE: Final = struct.Struct("=H")
SEND_BUFFER: Final = 1 << 20
"""Bytes. Less than a shaper's queue is long, so that a slow link is felt here and does not drop there."""
# linux/in6.h: RFC 5014, which the socket module does not name.
_IPV6_ADDR_PREFERENCES: Final = 72
_PREFER_PUBLIC: Final = 0x0002
_NO_OFFLOAD: Final = frozenset((errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EMSGSIZE))
_LINK_DOWN: Final = frozenset(
    (errno.ENETDOWN, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO, errno.EHOSTUNREACH,
     errno.EPERM)
)  # fmt: skip


class Sent(Enum):
    ALL = 0
    BLOCKED = 1
    """The socket's buffer is full: nothing was sent."""
    DOWN = 2
    """The link is down or has no address: what was to be sent is lost, as on a cable."""


class Transmitter:
    """A UDP socket that sends to groups on one interface."""

    def __init__(self, ifindex: int, port: int, hops: int) -> None:
        self.bytes_sent = 0
        self.datagrams_sent = 0
        self.failed = 0
        self._ifindex = ifindex
        self._port = port
        self._offload = True
        self._names: dict[bytes, str] = {}
        self.socket = self._open()
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, hops)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def close(self) -> None:
        self.socket.close()

    def source(self, group: bytes) -> bytes | None:
        """The address that datagrams to this group come from now, 16 bytes; None while there is none.

        It is the kernel's choice (RFC 6724): one of this interface, of the group's scope or wider if there is one.
        """
        try:
            with self._open() as probe:
                probe.connect((self._name(group), self._port, 0, self._ifindex))
                address: str = probe.getsockname()[0]
        except OSError:
            return None
        return socket.inet_pton(socket.AF_INET6, address.partition("%")[0])

    def send(self, group: bytes, datagrams: Symbols) -> Sent:
        """Send datagrams uint8[n, size], contiguous, n x size at most 65,000 bytes."""
        count, size = datagrams.shape
        if not self._offload or count == 1:
            return self._send_each(group, datagrams)
        try:
            self._send(group, np.ascontiguousarray(datagrams).data.cast("B"), size)
        except BlockingIOError:
            return Sent.BLOCKED
        except OSError as error:
            if error.errno in _NO_OFFLOAD:
                self._offload = False
                return self._send_each(group, datagrams)
            return self._lost(error)
        return self._count(count, datagrams.nbytes)

    def send_control(self, group: bytes, datagram: bytes) -> Sent:
        return self._send_each(group, np.frombuffer(datagram, dtype=np.uint8).reshape(1, -1))

    def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self._ifindex)
            # A temporary address (RFC 8981) is another one every day, and receivers take it for another sender.
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_ADDR_PREFERENCES, _PREFER_PUBLIC)
        except BaseException:
            sock.close()
            raise
        return sock

    def _send(self, group: bytes, data: memoryview, segment: int) -> None:
        ancillary = [(_SOL_UDP, _UDP_SEGMENT, _SEGMENT_SIZE.pack(segment))] if segment else []
        self.socket.sendmsg([data], ancillary, 0, (self._name(group), self._port, 0, self._ifindex))

    def _send_each(self, group: bytes, datagrams: Symbols) -> Sent:
        for i, datagram in enumerate(datagrams):
            try:
                self._send(group, np.ascontiguousarray(datagram).data, 0)
            except BlockingIOError:
                if i == 0:
                    return Sent.BLOCKED
                break  # the rest is lost, as in a full queue: repair makes up for it
            except OSError as error:
                return self._lost(error)
            self._count(1, datagram.nbytes)
        return Sent.ALL

    def _count(self, datagrams: int, nbytes: int) -> Sent:
        self.datagrams_sent += datagrams
        self.bytes_sent += nbytes
        return Sent.ALL

    def _lost(self, error: OSError) -> Sent:
        if error.errno == errno.ENOBUFS:
            return Sent.BLOCKED
        if error.errno in _LINK_DOWN:
            self.failed += 1
            return Sent.DOWN
        raise error

    def _name(self, group: bytes) -> str:
        name = self._names.get(group)
        if name is None:
            if len(self._names) > 4096:
                self._names.clear()
            name = self._names[group] = socket.inet_ntop(socket.AF_INET6, group)
        return name
