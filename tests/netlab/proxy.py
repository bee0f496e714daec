"""An MLD proxy (RFC 4605), so that tests can have a router between the server and clients.

    python -m tests.netlab.proxy UPSTREAM DOWNSTREAM

runs until a signal in the namespace of the router and prints `ready` when it proxies. UPSTREAM is the interface towards
the server, DOWNSTREAM the one towards the clients. The parts of section 4 are these:

- `Downstream` is the router side of MLDv2: querier, and the table of who listens.
- `Upstream` is a host: it joins what has a listener downstream, and the kernel reports that as for any program.
- `Forwarding` has the kernel's multicast routing pass on what comes from upstream (CONFIG_IPV6_MROUTE).

A group's route is there before the group is joined, so that the first datagram is passed on as well, and names no
source. Nothing goes from downstream to upstream. Source filters are not merged: a listener that excludes some sources
counts as one that wants all, and one that includes some does not count. mcfs joins for any source.

A router must not pass on what comes from a link-local address (RFC 4291 section 2.5.6), which Linux leaves to the
firewall when it forwards multicast: a table of nftables does that here.
"""

from __future__ import annotations

import errno
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from random import Random
from typing import TYPE_CHECKING, Final, Self

from mcfs.fetch.batches import BatchBucket
from mcfs.net.interfaces import Interface, choose
from mcfs.net.listeners import OldReportReader, ReportReader
from mcfs.protocol import mld
from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.ids import Group, Host
from mcfs.serve.membership import Event, GroupEmpty, ListenerJoined, Membership
from mcfs.serve.querier import Outgoing, Querier

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUPS_PER_HOST: Final = 4096
"""A proxy further down stands for many hosts."""
JOINS_PER_SOCKET: Final = 1000
"""The kernel allows 2,340 where net.core.optmem_max is 131072."""

# linux/mroute6.h
_MRT6_INIT: Final = 200
_MRT6_ADD_MIF: Final = 202
_MRT6_ADD_MFC_PROXY: Final = 210
_MRT6_DEL_MFC_PROXY: Final = 211
_ICMP6_FILTER: Final = 1
_MIF: Final = struct.Struct("=HBBHxxI")
"""struct mif6ctl: number, flags, threshold, interface, rate limit."""
_ROUTE: Final = struct.Struct("=28s28sHxx8I")
"""struct mf6cctl: source and group as sockaddr_in6, incoming interface, set of outgoing interfaces."""
_SOCKADDR: Final = struct.Struct("=HHI16sI")
_MEMBERSHIP: Final = struct.Struct("=16sI")
_UPSTREAM_MIF: Final = 0
_DOWNSTREAM_MIF: Final = 1
_BOTH_MIFS: Final = (1 << _UPSTREAM_MIF) | (1 << _DOWNSTREAM_MIF)

_FIREWALL: Final = """
table ip6 mcfs_proxy {
    chain forward {
        type filter hook forward priority 0;
        ip6 saddr fe80::/10 drop
    }
}
"""


class Downstream:
    """Router side of one interface (RFC 9777 section 7). All times are of time.monotonic()."""

    def __init__(self, interface: Interface) -> None:
        self._address = Host(interface.link_local or bytes(16))
        self._querier = Querier(self._address, now=time.monotonic(), rng=Random())
        self._membership = Membership(mld.is_routable_group, max_groups_per_host=GROUPS_PER_HOST)
        self._reader = ReportReader(interface.index, interface.name)
        self._old_reader = OldReportReader(interface.index, interface.name)
        self._heard: set[Group] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._send(self._querier.stop())
        for reader in self.readers:
            reader.close()

    @property
    def readers(self) -> tuple[ReportReader, OldReportReader]:
        return self._reader, self._old_reader

    @property
    def wanted(self) -> set[Group]:
        """Groups with a listener, if it is we who forward here: only the querier does (RFC 4605 section 4.2)."""
        return self._heard if self._querier.is_querier else set()

    def turn(self, now: float) -> None:
        """Take in what has come, and do what is due."""
        for reader in self.readers:
            for envelope, message in reader.receive():
                with suppress(BadDatagram):
                    self._received(envelope, message, now)
        self._apply(self._membership.expire(now=now), now)
        self._send(self._querier.messages_to_send(now=now))

    def next_timeout(self) -> float:
        expiry = self._membership.next_timeout()
        return min(self._querier.next_timeout(), float("inf") if expiry is None else expiry)

    def _received(self, envelope: mld.Envelope, message: bytes, now: float) -> None:
        kind = message[0] if message else 0
        host = envelope.source
        if kind == mld.REPORT_V2:
            records = mld.parse_report_untrusted(message, envelope)
            self._apply(self._membership.report(host, records, now=now), now)
        elif kind in (mld.REPORT_V1, mld.DONE_V1):
            old = mld.parse_old_untrusted(message, envelope)
            tell = self._membership.done_v1 if old.done else self._membership.report_v1
            self._apply(tell(host, Group(old.group), now=now), now)
        elif kind == mld.QUERY and host != self._address:
            self._queried(mld.parse_query_untrusted(message, envelope), host, now)
        elif kind == mld.SOLICITATION:
            mld.parse_router_discovery_untrusted(message, envelope)
            self._querier.solicited(now=now)

    def _queried(self, query: mld.Query, host: Host, now: float) -> None:
        self._querier.query_heard(query, host, now=now)
        if query.version == 1:
            self._membership.suppression_seen(now=now)
        if any(query.group):
            self._membership.query_sent(Group(query.group), now=now)
        timers = self._querier.timers
        self._membership.set_timers(timers.robustness, timers.query_interval, timers.response_interval)

    def _apply(self, events: Sequence[Event], now: float) -> None:
        for event in events:
            match event:
                case ListenerJoined(group, _):
                    self._heard.add(group)
                    self._querier.cancel(group)
                case GroupEmpty(group, certain=True):
                    self._heard.discard(group)
                    self._querier.forget(group, now=now)
                case GroupEmpty(group, certain=False):
                    if self._querier.ask(group, now=now):
                        self._membership.query_sent(group, now=now)

    def _send(self, messages: Sequence[Outgoing]) -> None:
        for message in messages:
            self._reader.send(message, self._address)


class Upstream:
    """Host side: memberships of the kernel, spread over as many sockets as they need."""

    def __init__(self, ifindex: int) -> None:
        self._ifindex = ifindex
        self._members: dict[Group, socket.socket] = {}
        self._counts: dict[socket.socket, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._counts:
            sock.close()

    def join(self, group: Group) -> None:
        sock = next((sock for sock, count in self._counts.items() if count < JOINS_PER_SOCKET), None)
        if sock is None:
            sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            self._counts[sock] = 0
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, _MEMBERSHIP.pack(group, self._ifindex))
        self._counts[sock] += 1
        self._members[group] = sock

    def leave(self, group: Group) -> None:
        sock = self._members.pop(group)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, _MEMBERSHIP.pack(group, self._ifindex))
        self._counts[sock] -= 1


class Forwarding:
    """The kernel's multicast routing; a namespace has it once, and it ends with the socket."""

    def __init__(self, upstream: int, downstream: int) -> None:
        self.socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
        self.socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, b"\xff" * 32)
        self._set(_MRT6_INIT, struct.pack("=i", 1))
        for number, ifindex in ((_UPSTREAM_MIF, upstream), (_DOWNSTREAM_MIF, downstream)):
            self._set(_MRT6_ADD_MIF, _MIF.pack(number, 0, 1, ifindex, 0))
        subprocess.run(["nft", "-f", "-"], input=_FIREWALL, text=True, check=True, timeout=10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def add(self, group: Group) -> None:
        self._set(_MRT6_ADD_MFC_PROXY, _route(group))

    def remove(self, group: Group) -> None:
        self._set(_MRT6_DEL_MFC_PROXY, _route(group))

    def pass_over_upcalls(self) -> None:
        """The kernel tells of datagrams to groups without a route: nobody wants them."""
        try:
            while True:
                self.socket.recv(256)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise

    def _set(self, option: int, value: bytes) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, option, value)


def _route(group: Group) -> bytes:
    """From any source, as (*,G): Linux takes what comes in by an interface of the set, and sends by the others."""
    return _ROUTE.pack(_sockaddr(bytes(16)), _sockaddr(group), _UPSTREAM_MIF, _BOTH_MIFS, *[0] * 7)


def _sockaddr(address: bytes) -> bytes:
    return _SOCKADDR.pack(socket.AF_INET6, 0, 0, address, 0)


class Proxy:
    """Has upstream follow downstream, in batches: joins made one by one can keep the kernel from reporting any."""

    def __init__(self, downstream: Downstream, upstream: Upstream, forwarding: Forwarding) -> None:
        self._downstream = downstream
        self._upstream = upstream
        self._forwarding = forwarding
        self._batches = BatchBucket()
        self._joined: set[Group] = set()

    def run(self) -> None:
        sockets = [each.fileno() for each in (*self._downstream.readers, self._forwarding.socket)]
        while True:
            now = time.monotonic()
            self._downstream.turn(now)
            due = self._follow(now)
            wait = max(0.0, min(due, self._downstream.next_timeout()) - time.monotonic())
            select.select(sockets, [], [], wait)
            self._forwarding.pass_over_upcalls()

    def _follow(self, now: float) -> float:
        """Returns when there is something left to do."""
        wanted = self._downstream.wanted
        joins, leaves = wanted - self._joined, self._joined - wanted
        if not joins and not leaves:
            return float("inf")
        if not self._batches.take(now):
            return self._batches.ready_at(now)
        for group in leaves:
            self._upstream.leave(group)
            self._forwarding.remove(group)
        for group in joins:
            self._forwarding.add(group)
            self._upstream.join(group)
        self._joined = set(wanted)
        return float("inf")


def main(upstream_name: str, downstream_name: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    upstream, downstream = choose([upstream_name, downstream_name]).chosen
    with ExitStack() as stack:
        proxy = Proxy(
            stack.enter_context(Downstream(downstream)),
            stack.enter_context(Upstream(upstream.index)),
            stack.enter_context(Forwarding(upstream.index, downstream.index)),
        )
        print("ready", flush=True)
        proxy.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
