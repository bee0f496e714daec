"""The server: its cores, and what `mcfs.net.server` does between them.

Real: `Link` and all that it joins (listener table, querier, announcer, holding), `Scheduler`, queues and pacer, and the
messages of MLD as bytes. Replaced: reading and checking nodes (they are there at once), framing, encoding, sockets. The
processor is infinitely fast.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final

from mcfs.protocol import addressing, mld, wire
from mcfs.protocol.beacon import decode_beacon_untrusted
from mcfs.protocol.ids import Host
from mcfs.serve.announcer import Announcer
from mcfs.serve.link import Link
from mcfs.serve.membership import Membership
from mcfs.serve.payload import PayloadCache
from mcfs.serve.querier import Querier
from mcfs.serve.schedule import RANDOM_REPAIR_START, Scheduler
from mcfs.serve.senders import Senders
from mcfs.simulate.content import SCOPE, SHARE, SYMBOL_SIZE, CountedPayload
from mcfs.simulate.network import bits_of
from mcfs.simulate.reception import Burst

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from mcfs.protocol.ids import Group
    from mcfs.serve.listening import Known, ListenerTable, TableMaker
    from mcfs.serve.schedule import Transmission
    from mcfs.simulate.content import SimulatedFile
    from mcfs.simulate.history import History
    from mcfs.simulate.network import Network
    from mcfs.simulate.timeline import Timeline

ADDRESS: Final = Host(bytes.fromhex("fe80" + "00" * 13 + "01"))
ANNOUNCEMENT_BYTES: Final = 300
"""About what one has."""
SEND_BUFFER: Final = 1 << 20
"""Bytes that wait for a cable that is slower than the server's rate."""


class Server:
    def __init__(
        self,
        file: SimulatedFile,
        network: Network,
        timeline: Timeline,
        rng: Random,
        history: History,
        *,
        rate: float,
        readers: int,
    ) -> None:
        self.symbols: Counter[tuple[int, bool]] = Counter()
        """Sent, by pace class and whether they were repair symbols."""
        self.wire_bytes = 0
        """Of everything that was sent, MLD included; without frame checks, as interfaces count."""
        self.control_bytes = 0
        self._file = file
        self._network = network
        self._timeline = timeline
        self._history = history
        self._due = float("inf")
        network.heard = self._report
        announcer = Announcer(addressing.catalogue_group(SCOPE))
        announcer.publish(addressing.share_group(SHARE, SCOPE), SHARE, now=timeline.now)
        self.scheduler = Scheduler(
            rate=rate,
            payloads=PayloadCache(),
            max_symbol_size=SYMBOL_SIZE,
            repair_start=lambda: rng.randrange(RANDOM_REPAIR_START),
        )
        self.link = Link(
            resolver=file,
            scheduler=self.scheduler,
            announcer=announcer,
            querier=Querier(ADDRESS, now=timeline.now, rng=rng),
            senders=Senders(ADDRESS, now=timeline.now),
            warn=lambda text: None,
            own_address=ADDRESS,
            make_table=table_for(readers),
        )
        timeline.at(timeline.now, self._serve)

    def _report(self, host: Host, message: bytes) -> None:
        envelope = mld.Envelope(host, mld.ALL_MLDV2_ROUTERS, 1, True, 1)
        self._history.report()
        self.link.receive(envelope, message, now=self._timeline.now)
        self._serve()

    def _serve(self) -> None:
        """Everything that can be done now; then be called again when there is more."""
        self._housekeeping()
        while (ahead := self._network.queued) < SEND_BUFFER:
            for node in self.scheduler.to_load():
                self.scheduler.loaded(CountedPayload(node))
            transmission = self.scheduler.next(self._timeline.now)
            if transmission is None:
                self._wake_at(self._next_due())
                return
            self._send(transmission)
        self._wake_at(self._timeline.now + (ahead - SEND_BUFFER / 2) * 8 / self._network.rate)

    def _next_due(self) -> float | None:
        now = self._timeline.now
        due = (self.scheduler.next_timeout(now), self.link.next_timeout(now))
        return min((time for time in due if time is not None), default=None)

    def _wake_at(self, due: float | None) -> None:
        now = self._timeline.now
        if due is not None and (due < self._due or self._due <= now):
            self._due = max(due, now + 1e-6)
            self._timeline.at(self._due, partial(self._woken, self._due))

    def _woken(self, due: float) -> None:
        if due == self._due:
            self._serve()

    def _housekeeping(self) -> None:
        now, link = self._timeline.now, self.link
        link.handle_timeout(now=now)
        for outgoing in link.messages_to_send(now=now):
            self._count_control(len(outgoing.message) + len(mld.ROUTER_ALERT_HOP_BY_HOP) - 8)
            if outgoing.message[0] == mld.QUERY:
                asked = mld.decode_max_response(int.from_bytes(outgoing.message[4:6], "big")) / 1000
                self._network.query(outgoing.specific, asked)
        for _ in link.announcer.due(now=now):
            self._count_control(ANNOUNCEMENT_BYTES)
        for group, body, hold in link.beacons(now=now):
            datagram = wire.control(wire.BEACON, body, round(1000 * hold))
            self._count_control(len(datagram))
            named = decode_beacon_untrusted(body, group[:2])
            self._network.send_beacon(named, wire.hold_untrusted(datagram), bits_of(len(datagram)))

    def _send(self, transmission: Transmission) -> None:
        channel = self.scheduler.channel(transmission.group)
        assert channel is not None
        burst = Burst(transmission.start, transmission.count, transmission.repair)
        self.symbols[channel.pace, transmission.repair] += transmission.count
        self._history.sent(transmission.count, repair=transmission.repair)
        self.wire_bytes += transmission.wire_bits // 8 - 4 * transmission.count
        self._network.send(transmission.group, burst, transmission.wire_bits)

    def _count_control(self, datagram: int) -> None:
        self.control_bytes += bits_of(datagram) // 8 - 4
        self.wire_bytes += bits_of(datagram) // 8 - 4


def table_for(readers: int) -> TableMaker:
    """The exact table, with room for so many hosts: a real server's has room for 4,096."""

    def make(may_accept: Callable[[Group], bool], known: Known, max_groups_per_host: int) -> ListenerTable:
        return Membership(
            may_accept,
            max_groups_per_host=max_groups_per_host,
            max_hosts=readers,
            max_listeners=readers * max_groups_per_host,
        )

    return make
