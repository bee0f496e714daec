"""What is simulated: how many readers there are, of which kinds, and when they start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mcfs.fetch.fetcher import DEFAULT_MAX_GROUPS
from mcfs.protocol.ids import DEFAULT_BLOCK_SIZE

if TYPE_CHECKING:
    from mcfs.simulate.history import Sample

MAX_READERS: Final = 10_000
RECEIVE_BUFFER: Final = 53_687_091
"""Bytes that may be under way to a reader that runs as root: 0.4 of the 128 MiB that its kernel grants."""
RECEIVE_MEMORY: Final = 80 << 20
"""Bytes of datagrams for which these 128 MiB have room: each is charged about 1.6 times its size."""
PORT_BUFFER: Final = 600_000
"""Bytes for which a switch's slow port has room."""


@dataclass(frozen=True, slots=True)
class Slow:
    """Readers that are slower than the server."""

    count: int
    rate: float
    """Bits per second."""
    pace: int = 0
    """The class of the first channels that they join; then they find out which one fits."""
    busy: bool = False
    """It is not their port that is slow, but they themselves: what they have joined waits in their receive buffer."""


@dataclass(frozen=True, slots=True)
class Unplugged:
    count: int
    at: float
    """Seconds after the first start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Readers are numbered in the order of their starts. The slow ones are the last ones, before them those that are
    unplugged."""

    readers: int = 4
    size: int = 256 << 20
    """Bytes of the file."""
    block_size: int = DEFAULT_BLOCK_SIZE
    random_reads: int = 0
    """So many reads of 4 KiB at random places, one after the other, instead of the whole file."""
    rate: float | None = None
    """At which the server sends, bits per second; None: 95 % of the link's."""
    link: float = 1e9
    """Bits per second of the server's cable, and of each reader's that is not slow."""
    stagger: float = 0.0
    """Seconds from the start of one reader to that of the next."""
    loss: float = 0.0
    """Probability with which each datagram is lost at each reader, each for itself."""
    slow: tuple[Slow, ...] = ()
    port_buffer: int = PORT_BUFFER
    unplugged: tuple[Unplugged, ...] = ()
    max_groups: int = DEFAULT_MAX_GROUPS
    receive_buffer: int = RECEIVE_BUFFER
    seed: int = 1
    limit: float = 300.0
    """Seconds of virtual time after the last start, after which the simulation ends whatever is missing."""

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if not 1 <= self.readers <= MAX_READERS:
            raise ValueError(f"{self.readers} readers: at least 1 and at most {MAX_READERS}")
        special = sum(each.count for each in self.slow) + sum(each.count for each in self.unplugged)
        if special > self.readers:
            raise ValueError(f"{special} readers are slow or unplugged, and there are only {self.readers}")

    @property
    def sending_rate(self) -> float:
        return self.rate if self.rate is not None else 0.95 * self.link

    @property
    def last_start(self) -> float:
        return (self.readers - 1) * self.stagger


@dataclass(frozen=True, slots=True)
class ReaderFigures:
    start: float
    read: int
    """Bytes."""
    reads: int
    """Requests for them."""
    seconds: float | None
    """From the opening of the file to its last byte; None if it was not read."""
    symbols: int
    duplicates: int
    rejoins: int
    dropped: int
    """Datagrams at its slow port."""
    unplugged: bool
    slow: bool
    failure: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    scenario: Scenario
    source_symbols: int
    """Of the file."""
    sent: dict[tuple[int, bool], int]
    """Symbols, by pace class and whether they were repair symbols."""
    wire_bytes: int
    """Everything that the server's interface sent."""
    control_bytes: int
    """Of them beacons, announcements and MLD queries."""
    useless: int
    """Datagrams that came to readers who had enough of their node and had not left yet."""
    readers: list[ReaderFigures]
    history: list[Sample]
