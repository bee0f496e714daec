"""The socket by which servers of the same shares hear each other: see `mcfs.serve.senders`."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from mcfs.protocol.ids import Group

if TYPE_CHECKING:
    from collections.abc import Iterator

HOPS: Final = 1
"""Who sends is a matter of one link."""
MESSAGES_PER_CALL: Final = 64
_MAX_DATAGRAM: Final = 65535
_ANCILLARY_SIZE: Final = 128
_IPV6_MULTICAST_ALL: Final = 29
_GROUP_REQUEST: Final = struct.Struct("@16sI")
_PACKET_INFO: Final = struct.Struct("@16sI")


class PeerSocket:
    """Sends and receives in senders' channels on one interface.

    :raises OSError: the socket cannot be opened, or the port is taken by a program that does not share it
    """

    def __init__(self, ifindex: int, port: int) -> None:
        self._ifindex = ifindex
        self._port = port
        self._joined: set[Group] = set()
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
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
        """Closing leaves the channels, by which the other servers notice."""
        self._socket.close()

    def join(self, channel: Group) -> None:
        """Nothing if it has been joined. Raises OSError: too many groups, or the interface is gone."""
        if channel not in self._joined:
            request = _GROUP_REQUEST.pack(channel, self._ifindex)
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
            self._joined.add(channel)

    def rejoin(self) -> None:
        """The kernel drops memberships when IPv6 leaves an interface: join all again that are to be joined."""
        channels, self._joined = self._joined, set()
        for channel in channels:
            self._leave(channel)
            with suppress(OSError):
                self.join(channel)

    def leave_all(self) -> None:
        for channel in self._joined:
            self._leave(channel)
        self._joined.clear()

    def _leave(self, channel: Group) -> None:
        request = _GROUP_REQUEST.pack(channel, self._ifindex)
        with suppress(OSError):  # the kernel has dropped it by itself
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, request)

    def send(self, channel: Group, datagram: bytes) -> None:
        """What cannot be sent now is lost, as on a cable: it is repeated every second."""
        address = (socket.inet_ntop(socket.AF_INET6, channel), self._port, 0, self._ifindex)
        try:
            self._socket.sendto(datagram, address)
        except OSError:
            return

    def receive(self) -> Iterator[tuple[Group, bytes]]:
        """Channel and datagram of what has come, a bounded number; never blocks."""
        for _ in range(MESSAGES_PER_CALL):
            try:
                data, ancillary, _, _ = self._socket.recvmsg(_MAX_DATAGRAM, _ANCILLARY_SIZE)
            except OSError:
                return
            for level, kind, value in ancillary:
                if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO and len(value) >= _PACKET_INFO.size:
                    yield Group(_PACKET_INFO.unpack_from(value)[0]), data

    def _set_options(self) -> None:
        sock = self._socket
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a mount on this host uses the port as well
        for option, value in (
            (socket.IPV6_V6ONLY, 1),
            (socket.IPV6_RECVPKTINFO, 1),
            (_IPV6_MULTICAST_ALL, 0),
            (socket.IPV6_MULTICAST_HOPS, HOPS),
            (socket.IPV6_MULTICAST_LOOP, 0),
            (socket.IPV6_MULTICAST_IF, self._ifindex),
        ):
            sock.setsockopt(socket.IPPROTO_IPV6, option, value)
        sock.bind(("::", self._port))
