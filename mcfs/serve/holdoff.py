"""How long after a pass the server waits for leaves before it takes whoever stays for one who has lost something."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mcfs.protocol.ids import Host

HOLD_OFF: Final = 0.08
"""Seconds; more than a client's tick of 40 ms and the leave's way of up to 24 ms."""
LONGEST: Final = 0.6
"""Seconds: what the largest window takes to pass through a client that gets no more than 0.6 Gbit/s done."""
MARGIN: Final = 1.3
"""Times the wait for a leave: a little later than usual is not yet a loss."""
FORGETTING: Final = 0.995
"""Per leave: a host that is no longer late is not waited for any longer after a few hundred."""
REMEMBERED_HOSTS: Final = 4096


class HoldOffs:
    """Learns for each host how late its leaves come.

    A reader that is short of CPU has much in its socket's buffer still when a pass ends. A burst that comes before it
    has read that is for nothing, and sets up an encoder (3 ms): on a busy machine these were a fifth of the server's
    time, and half of all channels got one.
    """

    def __init__(self) -> None:
        self._seconds: OrderedDict[Host, float] = OrderedDict()

    def learn(self, host: Host, late: float) -> None:
        """The host has left `late` seconds after the pass, and needed no repair for that."""
        known = self._seconds.pop(host, HOLD_OFF)
        self._seconds[host] = min(LONGEST, max(HOLD_OFF, late * MARGIN, known * FORGETTING))
        if len(self._seconds) > REMEMBERED_HOSTS:
            self._seconds.popitem(last=False)

    def of(self, hosts: Iterable[Host]) -> float:
        """Seconds to wait for these: for the promptest among them, who may lack something."""
        return min((self._seconds.get(host, HOLD_OFF) for host in hosts), default=HOLD_OFF)
