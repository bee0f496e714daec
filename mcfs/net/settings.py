"""What the user may choose of a server, as far as the network goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcfs.protocol import addressing, wire
from mcfs.serve.listening import DEFAULT_LISTENERS
from mcfs.serve.membership import QUERY_INTERVAL

if TYPE_CHECKING:
    from mcfs.serve.listening import Kind
    from mcfs.serve.querier import Mode


@dataclass(frozen=True, slots=True)
class ServerSettings:
    port: int = wire.DEFAULT_PORT
    scope: int = addressing.SITE_LOCAL
    hops: int = 1
    rate: int | None = None
    """Bits per second on each interface; None: 95 % of the link's speed."""
    mtu: int | None = None
    querier: Mode = "auto"
    query_interval: float = QUERY_INTERVAL
    """Seconds between two general queries."""
    listeners: Kind = "exact"
    listeners_size: int = DEFAULT_LISTENERS
    """Listeners on one interface that a table of the kind "bloom" is made for."""
    always: bool = False
    """Send everything round and round, whoever listens."""
    interface_names: tuple[str, ...] = ()
    """Those to serve whenever they exist; none: all that are suited."""
    fixed_interfaces: bool = False
    """Open none that comes later."""

    @property
    def proxies(self) -> bool:
        """Whether a listener may be an MLD proxy."""
        return self.hops > 1

    @property
    def symbol_size(self) -> int:
        """Bytes of the largest symbol."""
        return wire.max_symbol_size(self.mtu or wire.DEFAULT_MTU)
