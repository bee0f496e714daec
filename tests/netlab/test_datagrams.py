"""The sending and the receiving socket against each other, through a bridge."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcfs.cli.lab import Lab

PORT = 27999
RECEIVE = f"""
import json, socket, sys, time
from mcfs.net.receive import Receiver
groups = [bytes.fromhex("ff15" + "00" * 10 + f"80{{i:06x}}") for i in range(4)]
receiver = Receiver({PORT})
index = socket.if_nametoindex("eth0")
for group in groups[:3]:
    assert receiver.join(group, index).ok
print("joined", flush=True)
seen, end = {{}}, time.monotonic() + 20
while time.monotonic() < end and sum(len(s) for s in seen.values()) < int(sys.argv[1]):
    for run in receiver.receive() or ():
        assert run.ifindex == index
        assert run.source[:2] == bytes.fromhex("fe80")
        for row in run.rows():
            key = f"{{groups.index(run.group)}}:{{len(row)}}"
            assert (row[8:] == row[8]).all()
            seen.setdefault(key, []).append(int.from_bytes(row[:8].tobytes(), "big"))
    time.sleep(0.001)
print(json.dumps(seen))
"""
SEND = f"""
import socket, time
import numpy as np
from mcfs.net.transmit import Sent, Transmitter
groups = [bytes.fromhex("ff15" + "00" * 10 + f"80{{i:06x}}") for i in range(4)]
transmitter = Transmitter(socket.if_nametoindex("eth0"), {PORT}, 1)
number = 0
for step in range(60):
    group, size = step % 4, (1436, 212, 20)[step % 3]
    count = (45, 7, 1)[step % 5 % 3]
    rows = np.full((count, size), step, dtype=np.uint8)
    for row in rows:
        row[:8] = np.frombuffer(number.to_bytes(8, "big"), dtype=np.uint8)
        number += 1
    while transmitter.send(groups[group], rows) is Sent.BLOCKED:
        time.sleep(0.001)
"""


def expected() -> dict[str, list[int]]:
    """What SEND sends to the groups that RECEIVE has joined."""
    out: dict[str, list[int]] = {}
    number = 0
    for step in range(60):
        group, size, count = step % 4, (1436, 212, 20)[step % 3], (45, 7, 1)[step % 5 % 3]
        if group < 3:
            out.setdefault(f"{group}:{size}", []).extend(range(number, number + count))
        number += count
    return out


@pytest.mark.parametrize("wire", [False, True], ids=["offload", "wire"])
def test_every_datagram_comes_in_its_channel_and_in_order(make_lab: Callable[..., Lab], wire: bool) -> None:
    wanted = expected()
    lab = make_lab(1, wire=wire)
    receiver = lab.clients[0].popen(
        [sys.executable, "-c", RECEIVE, str(sum(len(v) for v in wanted.values()))], stdout=-1
    )
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == b"joined\n"
    lab.server.run([sys.executable, "-c", SEND])
    assert json.loads(receiver.stdout.readline()) == wanted
    assert receiver.wait(timeout=10) == 0


SOURCE = f"""
import socket, sys
from mcfs.net.transmit import Transmitter
transmitter = Transmitter(socket.if_nametoindex("eth0"), {PORT}, 4)
source = transmitter.source(bytes.fromhex(sys.argv[1]))
print(source and socket.inet_ntop(socket.AF_INET6, source))
"""
SITE_LOCAL_GROUP, LINK_LOCAL_GROUP = (f"ff1{scope}" + "00" * 10 + "80000001" for scope in (5, 2))
UNIQUE_LOCAL = "fd00:6d63:6673:1::1"


def source_of(lab: Lab, group: str) -> str:
    return lab.server.run([sys.executable, "-c", SOURCE, group]).stdout.strip()


def add_address(lab: Lab, *words: str) -> None:
    lab.server.run(["ip", "address", "add", f"{UNIQUE_LOCAL}/64", "dev", "eth0", "nodad", *words])


def test_the_source_is_wider_than_link_local_where_the_interface_has_such_an_address(
    make_lab: Callable[..., Lab],
) -> None:
    lab = make_lab(1)
    assert source_of(lab, SITE_LOCAL_GROUP) == lab.link_local(lab.server)
    add_address(lab)
    assert source_of(lab, SITE_LOCAL_GROUP) == UNIQUE_LOCAL
    assert source_of(lab, LINK_LOCAL_GROUP) == lab.link_local(lab.server)


def test_the_source_is_not_a_temporary_address(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1)
    lab.server.run(["sysctl", "-qw", "net.ipv6.conf.eth0.use_tempaddr=2"])
    add_address(lab, "mngtmpaddr")
    assert "temporary" in lab.server.run(["ip", "-6", "address", "show", "dev", "eth0"]).stdout
    assert source_of(lab, SITE_LOCAL_GROUP) == UNIQUE_LOCAL


def test_there_is_no_source_without_an_address(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(1)
    lab.server.run(["ip", "-6", "address", "flush", "dev", "eth0"])
    assert source_of(lab, SITE_LOCAL_GROUP) == "None"
