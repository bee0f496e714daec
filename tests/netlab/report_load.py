"""Many hosts' worth of MLDv2 reports, and a server that hears them: two processes in two hosts of a lab.

    python -m tests.netlab.report_load send (refresh | churn) SECONDS
    python -m tests.netlab.report_load serve (exact | bloom)

The sender forges whole frames, so that one process speaks for 200 hosts: reports of 50 records of 20 bytes, 25 a second
from each host. `refresh` says the same again and again, `churn` moves a window of 45 groups along by five with each
report, as readers of one large file do. The server is the real one on its real sockets, with a rate so small that what
it sends does not count. Every group is a node that it has, so no record is foreign.

The server reads words from its standard input: from `begin` on it counts reports, at `start` and `stop` it takes the
time, and at the end of the input it prints what it has counted, in JSON.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from nacl.signing import SigningKey

from mcfs.cli.lab import INTERFACE
from mcfs.net.interfaces import choose
from mcfs.net.server import Server
from mcfs.net.settings import ServerSettings
from mcfs.protocol import mld
from mcfs.protocol.addressing import addresser_of, node_group
from mcfs.protocol.ids import MIN_BLOCK_SIZE, Group, Host, Node
from mcfs.serve.listening import KINDS, Kind
from tests.fakelink import SCOPE, MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Literal

    from mcfs.serve.store import NodeStore

    Pattern = Literal["refresh", "churn"]

PATTERNS: Final = ("refresh", "churn")
HOSTS: Final = 200
RECORDS: Final = 50
INTERVAL: Final = 0.04
"""Seconds between the reports of one host: a client's tick."""
STEP: Final = 5
"""Groups joined, and left, with each report of `churn`."""
BLOCKS: Final = 200
RATE: Final = 10_000
_FRAME: Final = struct.Struct(">6s6sH")
_IPV6: Final = struct.Struct(">IHBB16s16s")
_ETH_P_IPV6: Final = 0x86DD
_HOP_BY_HOP: Final = 0
_ALL_MLDV2_ROUTERS_MAC: Final = bytes.fromhex("333300000016")

IS_EX, JOIN, LEAVE = (
    mld.RecordType.MODE_IS_EXCLUDE,
    mld.RecordType.CHANGE_TO_EXCLUDE_MODE,
    mld.RecordType.CHANGE_TO_INCLUDE_MODE,
)


def store_and_groups() -> tuple[MemoryStore, list[Group]]:
    """The same on both sides."""
    store = MemoryStore()
    data = b"".join(number.to_bytes(2, "big") * (MIN_BLOCK_SIZE // 2) for number in range(BLOCKS))
    ref = store.add(data, MIN_BLOCK_SIZE)
    addresser = addresser_of(ref)
    return store, [node_group(Node(ref, 0, index), 0, addresser, SCOPE) for index in range(BLOCKS)]


def frame(host: int, records: list[mld.Record]) -> bytes:
    source = Host(bytes.fromhex("fe80") + bytes(12) + (0x1000 + host).to_bytes(2, "big"))
    message = mld.with_checksum(source, mld.ALL_MLDV2_ROUTERS, mld.build_report(records))
    body = mld.ROUTER_ALERT_HOP_BY_HOP + message
    header = _IPV6.pack(6 << 28, len(body), _HOP_BY_HOP, mld.HOP_LIMIT, source, mld.ALL_MLDV2_ROUTERS)
    mac = b"\2\0\0\0" + host.to_bytes(2, "big")
    return _FRAME.pack(_ALL_MLDV2_ROUTERS_MAC, mac, _ETH_P_IPV6) + header + body


def reports(pattern: Pattern, host: int, groups: list[Group]) -> list[list[mld.Record]]:
    """What one host says, until it begins again. Hosts are a few groups apart."""
    at = host % 8
    groups = groups[at:] + groups[:at]
    if pattern == "refresh":
        return [[mld.Record(IS_EX, group) for group in groups[:RECORDS]]]
    turn = groups + groups
    return [
        [mld.Record(LEAVE, group) for group in turn[start : start + STEP]]
        + [mld.Record(IS_EX, group) for group in turn[start + STEP : start + RECORDS - STEP]]
        + [mld.Record(JOIN, group) for group in turn[start + RECORDS - STEP : start + RECORDS]]
        for start in range(0, BLOCKS, STEP)
    ]


def send(pattern: Pattern, seconds: float) -> None:
    _, groups = store_and_groups()
    frames = [[frame(host, records) for records in reports(pattern, host, groups)] for host in range(HOSTS)]
    turns = [cycle(one) for one in frames]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((INTERFACE, 0))
        total, gap = int(seconds * HOSTS / INTERVAL), INTERVAL / HOSTS
        print("ready", flush=True)
        start = time.monotonic()
        for number in range(total):
            if (wait := start + number * gap - time.monotonic()) > 0:
                time.sleep(wait)
            sock.send(next(turns[number % HOSTS]))
        late = time.monotonic() - start - seconds
    print(json.dumps({"sent": total, "late": late}), flush=True)


async def serve(kind: Kind) -> None:
    store, _ = store_and_groups()
    settings = ServerSettings(scope=SCOPE, rate=RATE, listeners=kind)
    as_store: NodeStore = store  # type: ignore[assignment]  # it resolves and loads, which is all that is asked for
    server = Server(as_store, choose([INTERFACE]).chosen, settings, SigningKey.generate())
    cpu, clock, heard = [], [], []
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        print("ready", flush=True)
        async for word in words():
            cpu.append(time.process_time())
            clock.append(time.monotonic())
            heard.append(server.statistics["reports"])
            print(word, flush=True)
        counted, drops = server.statistics, dropped()
        nursery.cancel_scope.cancel()
    used = (cpu[2] - cpu[1]) / (clock[2] - clock[1])
    found = {"reports": counted["reports"] - heard[0], "bad_messages": counted["bad_messages"], "dropped": drops}
    print(json.dumps({"cpu": used, **found}), flush=True)


async def words() -> AsyncIterator[str]:
    while True:
        await trio.lowlevel.wait_readable(0)
        data = os.read(0, 100)
        if not data:
            return
        for word in data.decode().split():
            yield word


def dropped() -> int:
    """Messages that the kernel dropped since a raw socket's buffer was full."""
    lines = Path("/proc/net/raw6").read_text().splitlines()[1:]
    return sum(int(line.split()[-1]) for line in lines)


def main(role: str, what: str, seconds: str = "0") -> None:
    if role == "send" and what in PATTERNS:
        send(what, float(seconds))  # type: ignore[arg-type]
    elif role == "serve" and what in KINDS:
        trio.run(serve, what)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
