"""What is wanted: nodes, the states that they go through (see fetcher.py), and the shares that they are of."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from mcfs.fetch.gathered import Gathered

if TYPE_CHECKING:
    from mcfs.fetch.doubted import Doubted
    from mcfs.fetch.pace import Trail
    from mcfs.protocol.ids import Group, Node
    from mcfs.protocol.seal import NodeSeal

SILENCE: Final = 0.5
"""Seconds without a symbol from an origin after which its channels are joined anew; doubles to MAX_SILENCE."""
NODE_SILENCE: Final = 2.0
"""The same for one node while its origin is heard: longer than a full queue of 64 MiB at 1 Gbit/s; doubles."""
PASS: Final = 0.3
"""Seconds from the join of a doubted node that was wrong again until it is joined anew, for another pass, if as many
symbols came as a pass has: what a queue and a change of membership take at 1 Gbit/s."""
DOUBTED_SILENCE: Final = 2 * PASS
"""The same for a doubted node of which nothing new comes; doubles to MAX_PASS."""
NEVER: Final = float("-inf")


class State(Enum):
    QUEUED = 0
    JOINED = 1
    DONE = 2


@dataclass(slots=True, eq=False)
class Origin:
    """A share, as far as fetching goes."""

    nodes: int = 0
    joined: int = 0
    missing: int = 0
    """Bytes that are joined and have not come."""
    pace: int = 0
    """The class of its channels, but those that were joined before a change."""
    name: bytes = b""
    last_heard: float = float("-inf")
    silence: float = SILENCE
    active_since: float = 0.0
    doubted_until: float = NEVER
    usual_t: int = 0
    """Symbol size of the last node that was right."""
    period: float = 0.0
    """Seconds in which its server sends everything once; 0 if it sends what is asked for."""

    def quiet_since(self) -> float:
        return max(self.last_heard, self.active_since)


@dataclass(slots=True, eq=False)
class Fetch:
    node: Node
    group: Group
    origin: Origin
    urgent: bool
    wanted_at: float
    length: int
    state: State = State.QUEUED
    joined_at: float = NEVER
    last_new: float = float("-inf")
    patience: float = NODE_SILENCE
    not_before: float = float("-inf")
    queued_at: float = NEVER
    gathered: Gathered = field(init=False)
    offered_t: int = 0
    """Symbol size of what was assembled last."""
    missing: int = 0
    last_named: float = float("-inf")
    """When a beacon named it."""
    awaited: bool = False
    """Whether somebody waits for it; what is urgent may also be about to be sent for others."""
    trail: Trail | None = None
    """What has come of the pass that is being received."""
    withheld: list[Trail] = field(default_factory=list)
    """Of passes that came in doubt: what is forged has numbers that look like loss."""
    believed: bool = False
    filled: bool = False
    """Whether the window was in use when it was joined."""
    seal: NodeSeal | None = None
    """Of a share with a key."""
    unchecked: bool = False
    """Whether it has symbols whose tags nobody looked at."""
    wrong: int = 0
    """How often it was assembled with a wrong hash."""
    doubted: bool = False
    checking: Doubted | None = None
    """What an event was made of while it stays joined, until `accept` or `reject`. There is one event at a time."""
    contested: bool = False
    """Whether it was wrong since it was joined."""
    pass_time: float = DOUBTED_SILENCE
    came: int = 0
    """Symbols under the server's address since it was joined while it was doubted."""
    rejoins: int = 0
    """How often it was joined anew since something came of it."""

    def __post_init__(self) -> None:
        self.gathered = Gathered(self.length)
