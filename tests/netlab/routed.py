"""Two labs with a router between them that runs an MLD proxy: the server in the near one, clients in the far one.

    near server - near bridge - up0 router eth0 - far bridge - far clients

The router is the far lab's host `server`. Near the router the links have addresses of a ULA prefix each, as the server
needs one; far clients keep to their link-local ones, and nobody has a route.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mcfs.cli.lab import BRIDGE, INTERFACE, Host, Lab
from mcfs.net.receive import Receiver
from mcfs.protocol import addressing, merkle
from mcfs.protocol.ids import DEFAULT_BLOCK_SIZE, Group, Node
from mcfs.protocol.wire import DEFAULT_PORT
from tests.netlab.harness import Job, Site, wait_until
from tests.netlab.namespaces import inside

if TYPE_CHECKING:
    from collections.abc import Sequence

UPSTREAM: Final = "up0"
PORT: Final = "router"
SERVER_ADDRESS: Final = "fd00:6d63:6673:1::1"
PROXY: Final = (sys.executable, "-m", "tests.netlab.proxy")
HOPS: Final = ("--hops", "4")
START_DEADLINE: Final = 15.0
FIRST_DEADLINE: Final = 10.0
QUIET_TIME: Final = 0.3
"""Seconds before a join, in which what the last one caused comes to an end."""


@dataclass(frozen=True, slots=True)
class Routed:
    near: Lab
    far: Lab

    @property
    def server(self) -> Host:
        return self.near.server

    @property
    def router(self) -> Host:
        return self.far.server

    @property
    def clients(self) -> Sequence[Host]:
        return self.far.clients

    def connect(self) -> None:
        """Plugs the router into the near bridge; it does not forward yet."""
        ends = ["name", UPSTREAM, "netns", self.router.namespace, "type", "veth", "peer", "name", PORT]
        self.near.switch.run(["ip", "link", "add", *ends, "netns", self.near.switch.namespace])
        self.near.switch.run(["ip", "link", "set", PORT, "master", BRIDGE, "up"])
        self.router.run(["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])
        self.router.run(["ip", "link", "set", UPSTREAM, "up"])

    def give_address(self) -> None:
        self.server.run(["ip", "address", "add", f"{SERVER_ADDRESS}/64", "dev", INTERFACE, "nodad"])

    def start_proxy(self, site: Site) -> Job:
        job = site.start(self.router, [*PROXY, UPSTREAM, INTERFACE])
        wait_until(lambda: not job.running or "ready" in job.output, START_DEADLINE, "the proxy is ready")
        assert job.running, job.output
        return job


def first_datagrams(host: Host, groups: Sequence[Group]) -> list[float]:
    """Joins one group after the other, and leaves it; the seconds from each join to its first datagram."""
    with inside(host.namespace):
        ifindex = socket.if_nametoindex(INTERFACE)
        receiver = Receiver(DEFAULT_PORT)
    try:
        return [_first_datagram(receiver, group, ifindex) for group in groups]
    finally:
        receiver.close()


def _first_datagram(receiver: Receiver, group: Group, ifindex: int) -> float:
    time.sleep(QUIET_TIME)
    start = time.monotonic()
    assert receiver.join(group, ifindex).ok
    came: set[Group] = set()
    while group not in came:
        left = start + FIRST_DEADLINE - time.monotonic()
        assert left > 0, "no datagram came"
        select.select([receiver.socket], [], [], left)
        came = {run.group for run in receiver.receive() or ()}
    seconds = time.monotonic() - start
    receiver.leave(group, ifindex)
    return seconds


def block_groups(content: bytes) -> list[Group]:
    """The channels of the blocks of a file that is an object by itself, in class 0."""
    ref, _ = merkle.object_of(content, DEFAULT_BLOCK_SIZE)
    addresser = addressing.addresser_of(ref)
    blocks = range(ref.geometry.counts[0])
    return [addressing.node_group(Node(ref, 0, index), 0, addresser, addressing.SITE_LOCAL) for index in blocks]
