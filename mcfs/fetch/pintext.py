"""The text of the two files in which publishers are remembered. Text in, text out.

Known publishers, for people as well::

    # a comment
    data SHA256:Gk7... # first used 2026-11-21
    my\\040films SHA256:bU2... replaces SHA256:9xA...

Their versions, for mcfs alone: name, fingerprint, version, and id of the object in hexadecimal, `-` for none; what was
written last stands last::

    data SHA256:Gk7... 1795269600000 2e5d3d8af628cdfa...

Names are escaped so that they are one word (`mcfs.protocol.printable`). What is no such line makes the whole file
wrong: to pass over it could be to forget whom to believe.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from mcfs.fetch.trust import MAX_REPLACED, Floor, Pin
from mcfs.protocol.announce import MAX_SHARE_NAME
from mcfs.protocol.ids import MAX_OBJECT_SIZE
from mcfs.protocol.printable import one_word, parse_printable
from mcfs.protocol.publisher import Fingerprint, format_fingerprint, parse_publisher

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

MAX_LINES: Final = 4096
"""Shares that are remembered: more than one machine mounts. A line takes some 150 bytes."""
MAX_FLOORS: Final = 2 * MAX_LINES
"""Versions: a publisher that is demanded has some without having pins."""
HEADER: Final = (
    "# The publishers of the shares that were mounted: name and fingerprint of the key.\n"
    "# Another key under one of these names is refused. Remove a line to have the next key believed.\n"
)
_COMMENT: Final = re.compile(r"\s#.*")
_HEXADECIMAL: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,19}", re.ASCII)


class BadLine(ValueError):
    """A line that is none."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"line {number}: {reason}")
        self.number = number


class Full(Exception):
    """There is no room for one more."""


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    words: list[str]


# --- known publishers ------------------------------------------------------------------------------------------------


def parse_pins_untrusted(text: str) -> dict[bytes, Pin]:
    """Raises BadLine."""
    pins: dict[bytes, Pin] = {}
    for line in _lines(text):
        name, pin = _checked(line, _pin)
        if name in pins:
            raise BadLine(line.number, f"{line.words[0]!r} stands in line {pins[name].line} already")
        pins[name] = pin
    return pins


def with_pin(text: str, name: bytes, pin: Pin, note: str) -> str:
    """The text with this pin for a name: in its line if it has one, whose comment stays, else in a new one with `note`.

    Raises BadLine, and Full.
    """
    pins = parse_pins_untrusted(text)
    words = [one_word(name), format_fingerprint(pin.fingerprint)]
    for old in pin.replaces[:MAX_REPLACED]:
        words += ["replaces", format_fingerprint(old)]
    entry = " ".join(words)
    if name in pins:
        lines = text.split("\n")
        at = pins[name].line - 1
        comment = _COMMENT.search(lines[at])
        lines[at] = entry + (comment[0].rstrip() if comment else "")
        return "\n".join(lines)
    if len(pins) >= MAX_LINES:
        raise Full
    return f"{_ended(text) or HEADER}{entry} # {note}\n"


def _pin(line: _Line) -> tuple[bytes, Pin]:
    if len(line.words) < 2:
        raise ValueError("it has to be a name and a fingerprint")
    name, key, *rest = line.words
    if len(rest) % 2 or any(word != "replaces" for word in rest[::2]):
        raise ValueError(f"what follows the fingerprint is neither 'replaces SHA256:...' nor a comment: {rest[0]!r}")
    replaces = tuple(parse_publisher(word) for word in rest[1::2])
    return _name(name), Pin(parse_publisher(key), replaces[:MAX_REPLACED], line.number)


# --- versions --------------------------------------------------------------------------------------------------------


def parse_floors_untrusted(text: str) -> dict[tuple[bytes, Fingerprint], Floor]:
    """In the order in which they were written. Raises BadLine."""
    floors: dict[tuple[bytes, Fingerprint], Floor] = {}
    for line in _lines(text):
        key, floor = _checked(line, _floor)
        floors[key] = floor
    return floors


def format_floors(floors: dict[tuple[bytes, Fingerprint], Floor]) -> str:
    return "".join(
        f"{one_word(name)} {format_fingerprint(key)} {floor.version} {floor.content.hex() or '-'}\n"
        for (name, key), floor in floors.items()
    )


def with_floor(text: str, name: bytes, key: Fingerprint, floor: Floor, pinned: Container[bytes]) -> str:
    """The text with this floor, unless a higher one stands there. For a name that is among `pinned` the oldest one that
    is not makes room. Raises BadLine, and Full."""
    floors = parse_floors_untrusted(text)
    known = floors.pop((name, key), None)
    if known is None and len(floors) >= MAX_FLOORS:
        oldest = next((entry for entry in floors if entry[0] not in pinned), None) if name in pinned else None
        if oldest is None:
            raise Full
        del floors[oldest]
    floors[name, key] = known if known is not None and known.version >= floor.version else floor
    return format_floors(floors)


def _floor(line: _Line) -> tuple[tuple[bytes, Fingerprint], Floor]:
    if len(line.words) != 4:
        raise ValueError("it has to be a name, a fingerprint, a version and an object")
    name, key, version, content = line.words
    if not _NUMBER.fullmatch(version) or int(version) > MAX_OBJECT_SIZE:
        raise ValueError(f"{version!r} is not a version")
    if content != "-" and not _HEXADECIMAL.fullmatch(content):
        raise ValueError(f"{content!r} is not the id of an object")
    found = b"" if content == "-" else bytes.fromhex(content)
    return (_name(name), parse_publisher(key)), Floor(int(version), found, line.number)


# --- lines -----------------------------------------------------------------------------------------------------------


def _lines(text: str) -> Iterator[_Line]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield _Line(number, _COMMENT.sub("", line, count=1).split())


def _checked(line: _Line, parse: Callable[[_Line], tuple[_Key, _Value]]) -> tuple[_Key, _Value]:
    try:
        return parse(line)
    except ValueError as error:
        raise BadLine(line.number, str(error)) from None


def _name(word: str) -> bytes:
    name = parse_printable(word)
    if not 0 < len(name) <= MAX_SHARE_NAME or b"/" in name or b"\0" in name:
        raise ValueError(f"{word!r} is not the name of a share")
    return name


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"
