"""Under which conditions a transfer is measured, and what was measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

MIB: Final = 1 << 20


class Mode(Enum):
    """How packets travel between the namespaces."""

    OFFLOAD = "offload"
    """Super-datagrams of up to 64 KiB pass whole, as between virtual machines of one host."""
    WIRE = "wire"
    """Each datagram is a packet of its own, as on a cable, and arrives by itself."""
    NIC = "nic"
    """Each datagram is a packet of its own, and the receiving kernel joins them (GRO), as behind a network card."""


@dataclass(frozen=True, slots=True)
class Conditions:
    mode: Mode
    readers: int
    size: int
    """Bytes of the file."""
    link: int | None = None
    """Bits per second that the server's port lets through; None: as fast as the machine is."""
    loss: float = 0.0
    """Percent of the packets that each reader loses, independently."""

    @property
    def link_name(self) -> str:
        return "unshaped" if self.link is None else f"{self.link / 1e9:g} Gbit/s"

    @property
    def label(self) -> str:
        lost = f", {self.loss:g} % loss" if self.loss else ""
        return (
            f"{self.link_name}, {self.mode.value}{lost}, {self.readers} {'reader' if self.readers == 1 else 'readers'}"
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """One transfer of one file by one tool: a line of a CSV file."""

    measure: str
    tool: str
    mode: str
    link: int
    """Bits per second; 0: unshaped."""
    loss: float
    readers: int
    size: int
    run: int
    seconds: float
    """Until the slowest reader had the file, each from its own start."""
    fastest: float
    whole: float
    """From the first command until the last reader had the file, with a rendezvous that `seconds` leaves out."""
    sent: int
    """Bytes that the server's interface sent, link-layer headers included."""
    sender_user: float
    sender_system: float
    reader_cpu: float
    """User and system seconds of one reader's processes, the mean over readers."""
    problem: str = ""
    """Why there is no result; empty when each reader had the right bytes."""

    @property
    def conditions(self) -> Conditions:
        return Conditions(Mode(self.mode), self.readers, self.size, self.link or None, self.loss)

    def to_text(self) -> dict[str, str]:
        return {
            name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in asdict(self).items()
        }

    @classmethod
    def from_text(cls, line: Mapping[str, str]) -> Self:
        """Raises KeyError or ValueError for a line that `to_text` did not make."""
        kinds = {"int": int, "float": float, "str": str}
        return cls(**{field.name: kinds[str(field.type)](line[field.name]) for field in fields(cls)})


TOO_LATE: Final = "not within"
"""How the problem of a transfer begins that had not ended at its deadline."""


def failed(measure: str, tool: str, conditions: Conditions, run: int, problem: str) -> Trial:
    given = conditions
    where = (given.mode.value, given.link or 0, given.loss, given.readers, given.size, run)
    return Trial(measure, tool, *where, 0.0, 0.0, 0.0, 0, 0.0, 0.0, 0.0, problem)
