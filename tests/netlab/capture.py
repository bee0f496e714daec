"""Every frame that an interface sends and receives, written to a file, and what can be found in it.

    python -m tests.netlab.capture INTERFACE FILE

runs until it is terminated; it prints `ready` when it captures, and at its end what was lost.
"""

from __future__ import annotations

import signal
import socket
import struct
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ETH_P_ALL: Final = 3
_SO_RCVBUFFORCE: Final = 33
_BUFFER: Final = 256 << 20
_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6
_IPV6_AT: Final = 14
_UDP: Final = 17


def frames(file: Path) -> Iterator[bytes]:
    """What was captured, one frame after the other."""
    content = memoryview(file.read_bytes())
    at = 0
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        yield bytes(content[at + 4 : at + 4 + length])
        at += 4 + length


def multicast_destinations(file: Path) -> set[bytes]:
    """The groups that UDP datagrams went to."""
    found = (frame[_IPV6_AT + 24 : _IPV6_AT + 40] for frame in frames(file) if _is_udp(frame))
    return {group for group in found if group[0] == 0xFF}


def _is_udp(frame: bytes) -> bool:
    return frame[12:14] == b"\x86\xdd" and frame[_IPV6_AT + 6] == _UDP


def capture(interface: str, path: str) -> None:
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as sock,
        open(path, "wb") as file,
    ):
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        sock.bind((interface, _ETH_P_ALL))
        buffer = bytearray(1 << 17)
        signal.signal(signal.SIGTERM, _stop)
        print("ready", flush=True)
        try:
            while True:
                length = sock.recv_into(buffer)
                file.write(length.to_bytes(4, "big") + buffer[:length])
        except KeyboardInterrupt:
            _, lost = struct.unpack("@II", sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
            print(f"lost {lost}", flush=True)


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    capture(sys.argv[1], sys.argv[2])
