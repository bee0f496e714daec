"""Seeing UDP datagrams where they enter the host, before its packet filter.

What comes up here and not through a UDP socket was dropped in between. Needs CAP_NET_RAW.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, Self

from mcfs.net import bpf

if TYPE_CHECKING:
    from collections.abc import Collection

    from mcfs.protocol.ids import Group

_ETH_P_IPV6: Final = 0x86DD
_HEADERS: Final = 48
"""IPv6 and UDP: all that is looked at."""
_GROUP_END: Final = 36
"""Where the last four bytes of the destination stand: enough to keep a busy port's other groups out."""
_GROUP: Final = slice(24, 40)
_PACKETS_PER_CALL: Final = 256


class DatagramTap:
    """A packet socket on one interface: IPv6 UDP datagrams to a port and a few groups.

    :raises OSError: the socket cannot be opened, for instance without CAP_NET_RAW
    """

    def __init__(self, name: str, port: int, groups: Collection[Group]) -> None:
        self._groups = frozenset(groups)
        # Protocol 0 receives nothing until bind: no packet passes before the filter is there.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        try:
            bpf.attach_filter(self._socket, _datagrams_to(port, groups))
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

    def receive(self) -> int:
        """How many datagrams have come; never blocks. One for many where the kernel joined them."""
        count = 0
        for _ in range(_PACKETS_PER_CALL):
            try:
                packet = self._socket.recv(_HEADERS)
            except OSError:
                break
            count += packet[_GROUP] in self._groups
        return count


def _datagrams_to(port: int, groups: Collection[Group]) -> bpf.Program:
    # On a packet socket: byte 0 is the first of the IPv6 header.
    n = len(groups)
    ends = [int.from_bytes(group[-4:], "big") for group in groups]
    return (
        (bpf.LOAD_BYTE, 0, 0, 6),  # next header
        (bpf.JUMP_EQUAL, 0, n + 3, socket.IPPROTO_UDP),
        (bpf.LOAD_HALF, 0, 0, 42),  # destination port
        (bpf.JUMP_EQUAL, 0, n + 1, port),
        (bpf.LOAD_WORD, 0, 0, _GROUP_END),
        *((bpf.JUMP_EQUAL, n - i, 0, end) for i, end in enumerate(ends)),
        bpf.DROP,
        (bpf.RETURN, 0, 0, _HEADERS),
    )
