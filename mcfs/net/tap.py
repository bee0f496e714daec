"""Seeing UDP datagrams where they enter the host, before its packet filter.

What comes up here and not through a UDP socket was dropped in between. Needs CAP_NET_RAW.
"""

from __future__ import annotations

import socket
from typing import Final, Self

from mcfs.net.listeners import attach_filter
from mcfs.protocol.ids import Group

_ETH_P_IPV6: Final = 0x86DD
_HEADERS: Final = 48
"""IPv6 and UDP: all that is looked at."""
_GROUP: Final = slice(24, 40)
_PACKETS_PER_CALL: Final = 256

# Classic BPF, whose byte 0 is the first of the IPv6 header (linux/filter.h); see `mcfs.net.listeners`.
_LOAD_BYTE: Final = 0x30
_LOAD_HALF: Final = 0x28
_JUMP_EQUAL: Final = 0x15
_RETURN: Final = 0x06


class DatagramTap:
    """A packet socket on one interface: the destinations of IPv6 UDP datagrams to a port.

    :raises OSError: the socket cannot be opened, for instance without CAP_NET_RAW
    """

    def __init__(self, name: str, port: int) -> None:
        # Protocol 0 receives nothing until bind: no packet passes before the filter is there.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        try:
            attach_filter(self._socket, _datagrams_to(port))
            self._socket.bind((name, _ETH_P_IPV6))
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

    def receive(self) -> list[Group]:
        """Where the datagrams that have come were sent to; never blocks. One for many where the kernel joined them."""
        groups: list[Group] = []
        for _ in range(_PACKETS_PER_CALL):
            try:
                packet = self._socket.recv(_HEADERS)
            except OSError:
                break
            if len(packet) == _HEADERS:
                groups.append(Group(packet[_GROUP]))
        return groups


def _datagrams_to(port: int) -> tuple[tuple[int, int, int, int], ...]:
    return (
        (_LOAD_BYTE, 0, 0, 6),  # next header
        (_JUMP_EQUAL, 0, 3, socket.IPPROTO_UDP),
        (_LOAD_HALF, 0, 0, 42),  # destination port
        (_JUMP_EQUAL, 0, 1, port),
        (_RETURN, 0, 0, _HEADERS),
        (_RETURN, 0, 0, 0),
    )
