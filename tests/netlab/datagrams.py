"""Sends and receives numbered datagrams on a multicast group; run inside a host of the lab.

python -m tests.netlab.datagrams send GROUP COUNT
python -m tests.netlab.datagrams receive GROUP SECONDS

The receiver prints `ready` when it has joined, and how many datagrams came when SECONDS have passed without one.
"""

from __future__ import annotations

import socket
import struct
import sys
import time

PORT = 24001
PAYLOAD = bytes(1000)
BURST = 50


def open_socket() -> tuple[socket.socket, int]:
    return socket.socket(socket.AF_INET6, socket.SOCK_DGRAM), socket.if_nametoindex("eth0")


def send(group: str, count: int) -> None:
    sender, interface = open_socket()
    with sender:
        for number in range(count):
            sender.sendto(PAYLOAD, (group, PORT, 0, interface))
            if number % BURST == 0:
                time.sleep(0.001)


def receive(group: str, seconds: float) -> None:
    receiver, interface = open_socket()
    with receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        receiver.bind(("::", PORT))
        membership = struct.pack("16sI", socket.inet_pton(socket.AF_INET6, group), interface)
        receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
        print("ready", flush=True)
        print(count_datagrams(receiver, seconds), flush=True)


def count_datagrams(receiver: socket.socket, seconds: float) -> int:
    receiver.settimeout(seconds)
    count = 0
    while True:
        try:
            receiver.recv(2000)
        except TimeoutError:
            return count
        count += 1


if __name__ == "__main__":
    _, command, group, number = sys.argv
    if command == "send":
        send(group, int(number))
    else:
        receive(group, float(number))
