"""Inputs that are nearly valid: valid ones with lengths, counts and bytes changed, parts left out, doubled or swapped.

All is drawn from a `random.Random` that is passed in, so an input can be made again from the seed.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol

from tests.fuzz.framing import Frame, frames, joined
from tests.fuzz.messagepack import Element, elements, with_length
from tests.protocol.hostile import BOMBS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

MAX_SIZE: Final = 1 << 16
"""No datagram is larger."""
MAX_CHANGES: Final = 4
_CHANGES_MADE: Final = (1, 1, 1, 2, 3)
_EDGES: Final = tuple(
    sorted({edge for bits in (0, 1, 4, 7, 8, 15, 16, 31, 32, 63, 64) for edge in ((1 << bits) - 1, 1 << bits)})
)
"""Where a length, a count or an offset goes over."""
_BOMBS: Final = (*BOMBS.values(), b"\x90", b"\x80", b"\xc0", b"\xc4\x00", b"\xc3")
_DEEP: Final = 2000


_BLANKS: Final = (
    b"",
    b" ",
    b"\t",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"\x0b",
    b"\x1c",
    b"\0",
    *map(str.encode, "\x85\xa0\u2028"),
)
"""Also such as end a line for `str.splitlines` alone, or a word for `str.split` alone."""
_WORDS: Final = (
    b"",
    b"#",
    b"\\",
    b"\\043",
    b"\\400",
    b"\\n",
    b"\\ ",
    b"..",
    b"/",
    b"-",
    b"\xff",
    "\u0660".encode(),
    b"9" * 5000,
)


class Mutator(Protocol):
    def __call__(self, rng: Random) -> bytes: ...


class Change(Protocol):
    """`others` are valid inputs."""

    def __call__(self, data: bytes, rng: Random, others: Sequence[bytes], /) -> bytes: ...


def plain(seeds: Sequence[bytes]) -> Mutator:
    """Of formats with fields at fixed places."""

    def mutate(rng: Random) -> bytes:
        data = rng.choice(seeds)
        for _ in range(rng.randrange(MAX_CHANGES)):
            data = byte_change(data, rng, seeds)
        return data[:MAX_SIZE]

    return mutate


def messagepack(seeds: Sequence[bytes]) -> Mutator:
    """Of MessagePack, also inside of byte strings; what stands around a change is made to fit, most of the time."""
    change = element_change(seeds)

    def mutate(rng: Random) -> bytes:
        data = rng.choice(seeds)
        for _ in range(rng.choice(_CHANGES_MADE)):
            data = change(data, rng, seeds)
        return data[:MAX_SIZE]

    return mutate


def element_change(seeds: Sequence[bytes]) -> Change:
    """One change of MessagePack; now and then one of its bytes."""
    known = {seed: elements(seed) for seed in seeds}
    parts = sorted({seed[e.start : e.end] for seed, found in known.items() for e in found if e.end - e.start < 512})

    def change(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
        found = known.get(data)
        if found is None:
            found = elements(data)
        if rng.random() < 0.2 or not found:
            return byte_change(data, rng, others)
        element = rng.choice(found)
        put = rng.choice(_ELEMENT_CHANGES)(data[element.start : element.end], element, rng, parts)
        return replaced(data, element, put)

    return change


def byte_change(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    return rng.choice(_CHANGES)(data, rng, others)


def framed(seeds: Sequence[bytes]) -> Mutator:
    """Of several things one behind the other (framing.py), which are changed byte by byte."""
    return _framed(seeds, byte_change)


def framed_messagepack(seeds: Sequence[bytes]) -> Mutator:
    """The same of things that are MessagePack."""
    return _framed(seeds, element_change(sorted({content for seed in seeds for _, content in frames(seed)})))


def _framed(seeds: Sequence[bytes], change: Change) -> Mutator:
    parsed = [frames(seed) for seed in seeds]
    contents = sorted({content for found in parsed for _, content in found})

    def mutate(rng: Random) -> bytes:
        found = list(rng.choice(parsed))
        for _ in range(rng.randrange(MAX_CHANGES)):
            if not found or rng.random() < 0.4:
                _shuffle(found, rng, parsed)
                continue
            at = rng.randrange(len(found))
            mark, content = found[at]
            if rng.random() < 0.2:
                found[at] = (rng.randrange(256), content)
            else:
                found[at] = (mark, change(content, rng, contents)[: MAX_SIZE - 1])
        return joined(found)[:MAX_SIZE]

    return mutate


def _shuffle(found: list[Frame], rng: Random, parsed: Sequence[Sequence[Frame]]) -> None:
    """One comes too early, again, not at all, or is another one."""
    what, at = rng.randrange(4), rng.randrange(len(found) + 1)
    if what == 0 or not found:
        found.insert(at, rng.choice(rng.choice(parsed)))
    elif what == 1:
        found.insert(at, found[rng.randrange(len(found))])
    elif what == 2:
        del found[rng.randrange(len(found))]
    else:
        found.insert(at % len(found), found.pop(rng.randrange(len(found))))


def lines(seeds: Sequence[bytes]) -> Mutator:
    """Of text: lines of words."""
    words = sorted({word for seed in seeds for word in seed.split()} | set(_WORDS))

    def mutate(rng: Random) -> bytes:
        data = rng.choice(seeds)
        for _ in range(rng.randrange(MAX_CHANGES)):
            data = byte_change(data, rng, seeds) if rng.random() < 0.4 else _other_word(data, rng, words)
        return data[:MAX_SIZE]

    return mutate


def _other_word(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """A word, or what is between two, becomes something else."""
    pieces = _pieces(data)
    if not pieces:
        return rng.choice(words)
    at = rng.randrange(len(pieces))
    put = rng.choice(words) if pieces[at].strip() else rng.choice(_BLANKS)
    return b"".join((*pieces[:at], put * rng.choice((1, 1, 1, 2, 30)), *pieces[at + 1 :]))


@lru_cache(maxsize=64)
def _pieces(data: bytes) -> list[bytes]:
    return re.findall(rb"\s+|\S+", data)


def replaced(data: bytes, element: Element, put: bytes) -> bytes:
    """The data with another element in place of one; the byte strings around it get their new lengths."""
    data = data[: element.start] + put + data[element.end :]
    grown = len(put) - (element.end - element.start)
    for around in reversed(element.inside):
        head = with_length(data[around.start], around.end - around.body + grown)
        data = data[: around.start] + head + data[around.body :]
        grown += len(head) - (around.body - around.start)
    return data


# --- changes of bytes ------------------------------------------------------------------------------------------------


def _flip(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    if not data:
        return rng.randbytes(1)
    at = rng.randrange(len(data))
    return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]


def _edge(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    """An integer of 1 to 8 bytes becomes the last that fits, the first that does not, or one more or less."""
    width = rng.choice((1, 2, 4, 8))
    if len(data) < width:
        return data
    at = rng.randrange(len(data) - width + 1)
    number = int.from_bytes(data[at : at + width], "big")
    number = rng.choice((rng.choice(_EDGES), number + 1, number - 1, number * 2, len(data), len(data) - at))
    return data[:at] + (number % (1 << 8 * width)).to_bytes(width, "big") + data[at + width :]


def _cut(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _without(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.randrange(1, 33) :]


def _doubled(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    end = at + rng.randrange(1, 65)
    return data[:end] + data[at:end] * rng.choice((1, 1, 2, 50)) + data[end:]


def _noise(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    put = rng.randbytes(rng.choice((1, 2, 4, 16, 200)))
    return data[:at] + put + data[at + rng.choice((0, len(put))) :]


def _spliced(data: bytes, rng: Random, seeds: Sequence[bytes]) -> bytes:
    """The beginning of one and the end of another."""
    other = rng.choice(seeds)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


_CHANGES: Final[tuple[Callable[[bytes, Random, Sequence[bytes]], bytes], ...]] = (
    _flip,
    _edge,
    _edge,
    _cut,
    _without,
    _doubled,
    _noise,
    _spliced,
)


# --- changes of MessagePack elements ---------------------------------------------------------------------------------


def _other(_: bytes, _element: Element, rng: Random, parts: Sequence[bytes]) -> bytes:
    return rng.choice(parts)


def _bomb(_: bytes, _element: Element, rng: Random, _parts: Sequence[bytes]) -> bytes:
    return rng.choice(_BOMBS)


def _integer(_: bytes, _element: Element, rng: Random, _parts: Sequence[bytes]) -> bytes:
    if rng.random() < 0.5:
        return bytes((rng.randrange(128),))
    number, width = rng.choice(_EDGES), rng.choice((1, 2, 4, 8))
    if rng.random() < 0.2:
        return bytes((0xD0 + width.bit_length() - 1,)) + ((1 << 8 * width - 1) - 1 - number % 3).to_bytes(width, "big")
    return bytes((0xCC + width.bit_length() - 1,)) + (number % (1 << 8 * width)).to_bytes(width, "big")


def _counted(data: bytes, element: Element, rng: Random, _parts: Sequence[bytes]) -> bytes:
    """Another count or length; the content stays."""
    length = rng.choice((element.count + 1, max(0, element.count - 1), rng.choice(_EDGES)))
    return with_length(data[0], length) + data[element.body - element.start :]


def _longer(data: bytes, element: Element, rng: Random, parts: Sequence[bytes]) -> bytes:
    """One element more, which an array's reader has to pass over."""
    return (
        with_length(data[0], element.count + 1) + data[element.body - element.start :] + rng.choice((*parts, *_BOMBS))
    )


def _twice(data: bytes, _element: Element, rng: Random, _parts: Sequence[bytes]) -> bytes:
    return data * rng.choice((2, 2, 3, 40))


def _nested(data: bytes, _element: Element, rng: Random, _parts: Sequence[bytes]) -> bytes:
    return b"\x91" * rng.choice((1, 2, 63, 64, 65, _DEEP)) + data


def _gone(_: bytes, _element: Element, _rng: Random, _parts: Sequence[bytes]) -> bytes:
    return b""


_ELEMENT_CHANGES: Final[tuple[Callable[[bytes, Element, Random, Sequence[bytes]], bytes], ...]] = (
    _other,
    _other,
    _integer,
    _integer,
    _counted,
    _longer,
    _bomb,
    _twice,
    _nested,
    _gone,
)
