"""The server's cable, a snooping switch, and a port for each reader.

A reader gets what is sent to a group from when its report has passed the switch until it leaves. Most ports are as fast
as the server's: what is sent comes at all of these after the same time, and a burst is one operation for all. A port
that is slower (`Port`) has a queue of its own, and carries a group until the leave has passed the switch.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from mcfs.protocol import addressing, fec, mld, wire
from mcfs.protocol.mld import RecordType
from mcfs.simulate.content import SCOPE, SHARE, SYMBOL_SIZE
from mcfs.simulate.reader import Symbols
from mcfs.simulate.reception import Burst, Reception

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mcfs.protocol.ids import Group, Host
    from mcfs.protocol.mld import Record
    from mcfs.simulate.content import SimulatedFile
    from mcfs.simulate.reader import Reader
    from mcfs.simulate.reception import Rows
    from mcfs.simulate.timeline import Timeline

LATENCY: Final = 50e-6
"""Seconds through cable and switch, either way."""
JOINING: Final = frozenset((RecordType.CHANGE_TO_EXCLUDE_MODE, RecordType.MODE_IS_EXCLUDE))


class Network:
    """`heard` gets each report, as the bytes of a message, when it comes to the server."""

    def __init__(
        self, file: SimulatedFile, timeline: Timeline, rng: np.random.Generator, *, rate: float, source: Host
    ) -> None:
        """`rate` of the server's cable, in bits per second."""
        self.readers: list[Reader] = []
        self.heard: Callable[[Host, bytes], None] = lambda host, message: None
        self.rate = rate
        self.waiting = 0
        """Readers that have not come to the end of the file."""
        self.useless = 0
        """Datagrams that came to readers who had enough of their node and had not left yet."""
        self._file = file
        self._timeline = timeline
        self._rng = rng
        self._source = source
        self._free_at = 0.0
        self._receptions: dict[Group, Reception] = {}
        self._forwarded: dict[Group, set[Reader]] = {}
        """Readers with a port of their own, by the groups that it carries."""
        self._losses = np.zeros(0, dtype=np.float32)
        self._any_loss = False
        self._slow: set[int] = set()
        self._share_group = addressing.share_group(SHARE, SCOPE)

    def plug(self, reader: Reader) -> None:
        self.readers.append(reader)
        self.waiting += 1
        self._losses = np.append(self._losses, np.float32(reader.loss))
        self._any_loss |= reader.loss > 0
        if reader.port is not None:
            self._slow.add(reader.number)

    def unplug(self, reader: Reader) -> None:
        """Its cable is cut: nothing comes, and nothing is heard of it."""
        self.waiting -= not reader.done
        reader.unplugged = True
        for reception in self._receptions.values():
            reception.free(reader.number)
        for carried in self._forwarded.values():
            carried.discard(reader)

    # --- from readers (`reader.Link`) ---

    def ended(self, reader: Reader) -> None:
        self.waiting -= 1

    def left(self, reader: Reader, group: Group, *, keep: bool) -> None:
        reception = self._receptions.get(group)
        if reception is None:
            return
        if keep:
            if reader.port is None or not reader.port.at_host:  # what is in its buffer is read all the same
                reception.stop(reader.number)
            return
        reception.free(reader.number)
        if not len(reception):
            del self._receptions[group]

    def report(self, reader: Reader, records: list[Record]) -> None:
        self._timeline.at(self._timeline.now + LATENCY, partial(self._reported, reader, records))

    def _reported(self, reader: Reader, records: list[Record]) -> None:
        if not reader.unplugged:
            for record in records:
                self._forward(reader, record.group, record.type in JOINING)
        self.heard(reader.address, mld.build_report(records))

    def _forward(self, reader: Reader, group: Group, joins: bool) -> None:
        if reader.port is not None:
            carried = self._forwarded.setdefault(group, set())
            (carried.add if joins else carried.discard)(reader)
        if joins and group in reader.host.groups and group != self._share_group:
            reception = self._receptions.get(group)
            if reception is None:
                node = self._file.node(group)
                assert node is not None, "readers join only channels of the file"
                k = fec.source_symbols(node.size, fec.symbol_size(node.size, SYMBOL_SIZE))
                reception = self._receptions[group] = Reception(k, self._rng)
            reception.listen(reader.number)

    # --- from the server ---

    @property
    def queued(self) -> float:
        """Bytes that the server has sent and that have not left it."""
        return max(0.0, self._free_at - self._timeline.now) * self.rate / 8

    def send(self, group: Group, burst: Burst, wire_bits: int) -> None:
        bits_each = wire_bits / burst.count
        self._after(wire_bits, partial(self._deliver, group, burst, bits_each))

    def send_beacon(self, groups: Sequence[Group], hold: float, wire_bits: int) -> None:
        self._after(wire_bits, partial(self._deliver_beacon, groups, hold))

    def query(self, group: Group | None, max_response: float) -> None:
        """To all hosts; those who are concerned answer."""
        for reader in self.readers:
            if not reader.unplugged:
                reader.host.query(group, max_response)

    def _after(self, bits: float, action: Callable[[], None]) -> None:
        self._free_at = max(self._free_at, self._timeline.now) + bits / self.rate
        self._timeline.at(self._free_at + LATENCY, action)

    def _deliver(self, group: Group, burst: Burst, bits_each: float) -> None:
        for reader in sorted(self._forwarded.get(group, ()), key=lambda reader: reader.number):
            assert reader.port is not None
            if reader.port.at_host and group not in reader.host.groups:
                continue
            kept, when = reader.port.take(burst.count, bits_each, self._timeline.now)
            if kept:
                part = Burst(burst.start, kept, burst.repair)
                self._timeline.at(when, partial(self._deliver_late, group, reader, part))
        reception = self._receptions.get(group)
        if reception is None:
            return
        rows = reception.listeners()
        if self._slow:
            rows = rows[[number not in self._slow for number in reception.readers(rows)]]
        self.useless += burst.count * (reception.listening - len(rows))
        self._take(group, reception, rows, burst)

    def _deliver_late(self, group: Group, reader: Reader, burst: Burst) -> None:
        reception = self._receptions.get(group)
        row = reception.needing(reader.number) if reception is not None else None
        if reception is not None and row is not None:
            self._take(group, reception, np.array([row]), burst, at_once=True)

    def _take(self, group: Group, reception: Reception, rows: Rows, burst: Burst, *, at_once: bool = False) -> None:
        """`at_once`: to a slow port, which loses most of what comes, so that a reader has to be told of each burst."""
        if not len(rows):
            return
        node = self._file.node(group)
        assert node is not None
        t, data = fec.symbol_size(node.size, SYMBOL_SIZE), self._file.data(node)
        losses = self._losses if self._any_loss else None
        for told in reception.take(rows, burst, losses, at_once=at_once):
            symbols = Symbols(reception, told.row, t, data)
            self.readers[told.reader].symbols(group, self._source, symbols, told)

    def _deliver_beacon(self, groups: Sequence[Group], hold: float) -> None:
        lost = self._rng.random(len(self.readers), dtype=np.float32) < self._losses
        for reader, is_lost in zip(self.readers, lost.tolist(), strict=True):
            if not is_lost and not reader.unplugged and self._share_group in reader.host.groups:
                reader.beacon(groups, hold)


def bits_of(datagram: int) -> int:
    """On the wire, of a datagram of so many bytes."""
    return 8 * (datagram + wire.LINK_OVERHEAD)
