"""Whom a client believes under which name, and what it tells people about it. Decisions only: no file, no table.

Under each name one key counts: the one that the user demands, else the one that is known for the name (its *pin*), else
the first one, which then is known. A key that is not the one may follow upon it, if a chain of links leads there
(`mcfs.protocol.succession`). Of each key the newest version that was used is known, its *floor*: older ones with other
content are recordings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from mcfs.protocol.printable import one_word
from mcfs.protocol.publisher import Fingerprint, fingerprint, format_fingerprint
from mcfs.protocol.succession import is_successor_untrusted, predecessors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mcfs.protocol.announce import Announcement

MAX_REPLACED: Final = 8
"""Former keys of a publisher that are refused for ever, the latest ones."""


@dataclass(frozen=True, slots=True)
class Pin:
    """The key that counts under a name."""

    fingerprint: Fingerprint
    replaces: tuple[Fingerprint, ...] = ()
    """Keys that it has followed upon, the latest first."""
    line: int = 0
    """Where it stands in the file of known publishers, from 1; 0: nowhere."""


@dataclass(frozen=True, slots=True)
class Floor:
    """The newest version that was used of what one publisher has under one name."""

    version: int
    content: bytes
    """Id of the object; empty for an empty file."""
    line: int = 0
    """Where it stands in the file of versions, from 1; 0: nowhere."""

    def admits(self, announcement: Announcement) -> bool:
        """Another server of the same content may have given it a lower version."""
        return announcement.version >= self.version or content_id(announcement) == self.content


NO_FLOOR: Final = Floor(0, b"")


class Verdict(Enum):
    ACCEPTED = auto()
    SUCCESSOR = auto()
    """By a publisher that has followed upon the one that counts."""
    UNKNOWN = auto()
    """None counts yet."""
    REFUSED = auto()


@dataclass(slots=True)
class Trust:
    """What the user says, and what is known from before."""

    demanded: Fingerprint | None = None
    """The key that counts under every name."""
    strict: bool = False
    """Whether names without a pin are refused."""
    pins: dict[bytes, Pin] = field(default_factory=dict)
    floors: dict[tuple[bytes, Fingerprint], Floor] = field(default_factory=dict)
    pins_file: str = ""
    versions_file: str = ""
    """For messages."""

    def pin(self, name: bytes) -> Pin | None:
        return Pin(self.demanded) if self.demanded is not None else self.pins.get(name)

    def floor(self, name: bytes, key: Fingerprint) -> Floor:
        return self.floors.get((name, key), NO_FLOOR)

    def judge(self, announcement: Announcement, pin: Pin | None) -> Verdict:
        """`pin` is what counts under the name of the announcement."""
        if pin is None:
            return Verdict.REFUSED if self.strict else Verdict.UNKNOWN
        key = fingerprint(announcement.publisher)
        if key == pin.fingerprint:
            return Verdict.ACCEPTED
        if key in pin.replaces:
            return Verdict.REFUSED
        if is_successor_untrusted(announcement.links, announcement.publisher, pin.fingerprint):
            return Verdict.SUCCESSOR
        return Verdict.REFUSED

    # --- what people are told ----------------------------------------------------------------------------------------

    def refusal(self, name: bytes, found: Fingerprint, pin: Pin | None) -> str:
        """Why another key is refused, and what to do. One line."""
        other = format_fingerprint(found)
        refused = f"{_share(name)} of the publisher {other} is refused"
        if pin is None:
            return (
                f"{refused}: it is unknown, and strict refuses unknown ones. If that is the right fingerprint, add the "
                f"line '{one_word(name)} {other}' to {self.pins_file}"
            )
        right = format_fingerprint(pin.fingerprint)
        if self.demanded is not None:
            return f"{refused}: publisher_key demands {right}"
        if pin.line:
            return (
                f"{refused}: known is {right} (line {pin.line} of {self.pins_file}). Somebody else may be publishing "
                "under this name; if the publisher has a new key indeed, remove that line"
            )
        return f"{refused}: before it was {right}. Mount it again to believe the other one"

    def too_old(self, announcement: Announcement, floor: Floor) -> str:
        """Why a version is refused, and what to do. One line."""
        where = f"line {floor.line} of {self.versions_file}" if floor.line else "what this mount remembers"
        return (
            f"{_share(announcement.name)} is refused: it is announced in version {announcement.version}, and known is "
            f"{floor.version} ({where}). Somebody may be repeating what was said before; if the server has lost its "
            f"state and its clock was set back, remove that line{'' if floor.line else ' by mounting again'}"
        )

    def other_share_key(self, name: bytes) -> str:
        return f"{_share(name)} is also announced with another share key, or without one: that is not taken"

    def rekeyed(self, name: bytes) -> str:
        return (
            f"{_share(name)}: its publisher has changed the share key; what is open and not read yet may be ETIMEDOUT"
        )

    def ambiguous(self, name: bytes, taken: Fingerprint, others: Iterable[Fingerprint]) -> str:
        rest = ", ".join(format_fingerprint(other) for other in others)
        return (
            f"{_share(name)} has several publishers, all unknown: taking {format_fingerprint(taken)}, the first in "
            f"order, and not {rest}; publisher_key= chooses"
        )

    def changed(self, name: bytes, old: Fingerprint, new: Fingerprint) -> str:
        text = (
            f"{_share(name)}: its publisher has changed its key from {format_fingerprint(old)} to "
            f"{format_fingerprint(new)}, and signed that with both"
        )
        return f"{text}; change publisher_key as well" if old == self.demanded else text


def content_id(announcement: Announcement) -> bytes:
    return announcement.content.id if announcement.content is not None else b""


def successor(announcement: Announcement, pin: Pin) -> Pin:
    """The pin after the publisher of a pin has changed its key."""
    former = predecessors(announcement.links)
    passed = former[former.index(pin.fingerprint) :][::-1]
    replaces = (*passed, *(old for old in pin.replaces if old not in passed))
    return Pin(fingerprint(announcement.publisher), replaces[:MAX_REPLACED], pin.line)


def _share(name: bytes) -> str:
    return f"share '{one_word(name)}'"
