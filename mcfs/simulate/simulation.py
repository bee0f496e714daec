"""A server, its readers and the network between them, from the mounts to the last byte."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final

import numpy as np

from mcfs.fetch.fetcher import Limits
from mcfs.simulate.application import RandomPlaces, WholeFile
from mcfs.simulate.content import SimulatedFile
from mcfs.simulate.history import History
from mcfs.simulate.network import Network
from mcfs.simulate.port import Port
from mcfs.simulate.reader import Reader
from mcfs.simulate.scenario import RECEIVE_MEMORY, Outcome, ReaderFigures, Scenario, Slow
from mcfs.simulate.server import ADDRESS, Server
from mcfs.simulate.timeline import Timeline

if TYPE_CHECKING:
    from mcfs.simulate.application import Pattern

WARM_UP: Final = 5.0
"""Seconds that the server runs before the first reader: its start-up queries are over."""
MOUNTED_BEFORE: Final = 1.5
"""Seconds from a mount to the first read."""
SETTLE: Final = 1.0
"""Seconds after the last byte in which readers still leave."""


class Simulation:
    """Time 0 is that of the first read."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.timeline = Timeline(-WARM_UP)
        rng = Random(scenario.seed)
        file = SimulatedFile(scenario.size, scenario.block_size, rng)
        self.file = file
        self.network = Network(
            file, self.timeline, np.random.default_rng(scenario.seed), rate=scenario.link, source=ADDRESS
        )
        self.history = History(self.timeline, self.network.readers)
        self.server = Server(
            file,
            self.network,
            self.timeline,
            rng,
            self.history,
            rate=scenario.sending_rate,
            readers=scenario.readers,
        )
        limits = Limits(max_groups=scenario.max_groups, max_bytes=scenario.receive_buffer)
        for number, slow in enumerate(kinds(scenario)):
            buffer = RECEIVE_MEMORY if slow and slow.busy else scenario.port_buffer
            port = Port(slow.rate, buffer, at_host=slow.busy) if slow else None
            reader = Reader(
                number,
                file,
                self.timeline,
                rng,
                self.network,
                pattern=self._pattern(rng),
                limits=limits,
                loss=scenario.loss,
                port=port,
                server=ADDRESS,
                rate=int(scenario.sending_rate),
                pace=slow.pace if slow else 0,
            )
            self.network.plug(reader)
            start = number * scenario.stagger
            self.timeline.at(start - MOUNTED_BEFORE, reader.mount)
            self.timeline.at(start, reader.open)
        self._unplug()

    def _pattern(self, rng: Random) -> Pattern:
        if self.scenario.random_reads:
            return RandomPlaces(self.scenario.size, self.scenario.random_reads, rng)
        return WholeFile(self.scenario.size)

    def _unplug(self) -> None:
        last = self.scenario.readers - sum(slow.count for slow in self.scenario.slow)
        for unplugged in self.scenario.unplugged:
            for reader in self.network.readers[last - unplugged.count : last]:
                self.timeline.at(unplugged.at, partial(self.network.unplug, reader))
            last -= unplugged.count

    def run(self) -> Outcome:
        scenario, readers = self.scenario, self.network.readers
        self.timeline.run(lambda: self.network.waiting == 0, scenario.last_start + scenario.limit)
        self.timeline.run(lambda: False, self.timeline.now + SETTLE)
        return Outcome(
            scenario=scenario,
            source_symbols=self.file.symbols,
            sent=dict(self.server.symbols),
            wire_bytes=self.server.wire_bytes,
            control_bytes=self.server.control_bytes,
            useless=self.network.useless,
            readers=[reader_figures(reader) for reader in readers],
            history=self.history.samples,
        )


def kinds(scenario: Scenario) -> list[Slow | None]:
    """Of each reader, by number, what makes it slow."""
    slow = [each for each in scenario.slow for _ in range(each.count)]
    return [None] * (scenario.readers - len(slow)) + slow


def reader_figures(reader: Reader) -> ReaderFigures:
    return ReaderFigures(
        start=reader.started,
        read=reader.application.position,
        reads=reader.application.reads,
        seconds=None if reader.finished is None else reader.finished - reader.started,
        symbols=reader.fetcher.counters.symbols,
        duplicates=reader.fetcher.counters.duplicates,
        rejoins=reader.fetcher.counters.rejoins,
        dropped=reader.port.dropped if reader.port else 0,
        unplugged=reader.unplugged,
        slow=reader.port is not None,
        failure=reader.failure,
    )


def simulate(scenario: Scenario) -> Outcome:
    return Simulation(scenario).run()
