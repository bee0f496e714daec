"""What `mcfs doctor` finds out, before anybody judges it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcfs.fetch.probe import Reading
    from mcfs.net.interfaces import Interface, Skipped
    from mcfs.protocol.ids import Host


@dataclass(frozen=True, slots=True)
class QuerierHeard:
    address: Host
    version: int
    interval: int
    """Seconds between its queries; 0 where it does not say, as in version 1."""


@dataclass(frozen=True, slots=True)
class RouterHeard:
    """Who sent an advertisement (RFC 4286)."""

    address: Host
    query_interval: int
    """Seconds; 0 if it does not speak MLD."""


@dataclass(frozen=True, slots=True)
class ShareHeard:
    name: bytes
    server: Host
    rate: int
    """Bits per second that the server announces."""
    after: float
    """Seconds from the join to the announcement."""


@dataclass(frozen=True, slots=True)
class ProbeFacts:
    """What came of the probe object."""

    waited: float
    pace: int
    """The class in which it was asked for: that of a client with this receive buffer."""
    readings: tuple[Reading, ...]
    kernel_drops: int
    """Packets that found the receive buffer full; many datagrams where the kernel had joined them."""


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """One interface. What was not looked at is as here by default; None stands for "cannot be known"."""

    interface: Interface
    listened: float = 0.0
    """Seconds; 0: nothing could be heard here, as the interface is down or has no address."""
    raw: bool = False
    """Whether MLD messages could be heard, for which CAP_NET_RAW is needed."""
    joined: bool = False
    too_many: bool = False
    """The kernel had no room for more memberships."""
    member: bool | None = None
    """Whether the kernel lists a group that was joined."""
    forced_version: int | None = None
    reports_v2: int | None = None
    """Sent on this interface since the joins."""
    reports_v1: int | None = None
    looped: bool = False
    """Own version 2 report of a group that nobody else joins came back to the raw socket."""
    queries_before: int | None = None
    """Received since the interface was made, by the kernel's count."""
    queriers: tuple[QuerierHeard, ...] = ()
    routers: tuple[RouterHeard, ...] = ()
    shares: tuple[ShareHeard, ...] = ()
    keyed: int = 0
    """Hosts that say that they have shares with keys."""
    filtered: int = 0
    """Datagrams of the groups joined that reached the interface, while none reached the socket."""
    probe: ProbeFacts | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    links: tuple[LinkFacts, ...]
    skipped: tuple[Skipped, ...]
    port: int
    share: bytes | None
    """The one that has to be heard."""
    receive_buffer: int
    """Bytes that the kernel granted."""
    port_taken: bool
    """Another program holds the UDP port for itself: nothing could be heard."""
    optmem_max: int | None
