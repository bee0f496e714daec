"""Where the elements of a MessagePack value are, also of values inside of its byte strings (the specification's terms).

It is for valid values; of others it finds what comes before the first error.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

_ARRAY: Final = {0xDC: 2, 0xDD: 4}
_MAP: Final = {0xDE: 2, 0xDF: 4}
_BYTES: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_FIXED: Final = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_FIXED_EXTENSION: Final = {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}
_EXTENSION: Final = {0xC7: 1, 0xC8: 2, 0xC9: 4}
MAX_ELEMENTS: Final = 2000


@dataclass(frozen=True, slots=True)
class Element:
    start: int
    body: int
    """Where its content starts: behind type and length."""
    end: int
    count: int
    """Elements of an array, pairs of a map, bytes of a string."""
    inside: tuple[Element, ...] = ()
    """The byte strings around it, outermost first."""


class _Broken(Exception):
    pass


def elements(data: bytes) -> list[Element]:
    found: list[Element] = []
    with suppress(_Broken, IndexError, RecursionError):
        _walk(data, 0, (), found)
    return [element for element in found if element.end > element.start]


def with_length(first: int, length: int) -> bytes:
    """The head of an array, map or byte string of this length; `first` is the first byte of one of its kind."""
    for sizes, least in ((_BYTES, 1), (_ARRAY, 2), (_MAP, 2)):
        if first in sizes or _small(first) is sizes:
            width = next(w for w in (1, 2, 4) if w >= least and (length < 1 << 8 * w or w == 4))
            if least == 2 and length < 16:
                return bytes(((0x90 if sizes is _ARRAY else 0x80) | length,))
            codes = {w: code for code, w in sizes.items() if code < 0xD0 or sizes is not _BYTES}
            return bytes((codes[width],)) + (length % (1 << 32)).to_bytes(width, "big")
    return bytes((first,))


def _small(first: int) -> object:
    """The family of a code that holds the length itself."""
    families = {0x80: _MAP, 0x90: _ARRAY}
    return families.get(first & 0xF0)


def _walk(data: bytes, at: int, inside: tuple[Element, ...], found: list[Element]) -> int:
    """Returns where the element ends."""
    if len(found) >= MAX_ELEMENTS:
        raise _Broken
    slot, start, first = len(found), at, data[at]
    found.append(Element(at, at, at, 0))
    at, count, children = _head(data, at, first)
    body = at
    if children:
        for _ in range(children):
            at = _walk(data, at, inside, found)
    elif first in _BYTES:
        at += count
        if at > len(data):
            raise _Broken
        _descend(data, Element(start, body, at, count, inside), found)
    else:
        at += count if first in _FIXED or first in _FIXED_EXTENSION or first in _EXTENSION else 0
    found[slot] = Element(start, body, at, count, inside)
    return at


def _head(data: bytes, at: int, first: int) -> tuple[int, int, int]:
    """Where the content starts, the count or length, and how many elements follow."""
    if first & 0xF0 == 0x90:
        return at + 1, first & 0x0F, first & 0x0F
    if first & 0xF0 == 0x80:
        return at + 1, first & 0x0F, 2 * (first & 0x0F)
    for sizes, factor in ((_ARRAY, 1), (_MAP, 2), (_BYTES, 0), (_EXTENSION, 0)):
        if first in sizes:
            width = sizes[first]
            count = int.from_bytes(data[at + 1 : at + 1 + width], "big")
            return at + 1 + width, count + (1 if sizes is _EXTENSION else 0), factor * count
    return at + 1, _FIXED.get(first, _FIXED_EXTENSION.get(first, 0)), 0


def _descend(data: bytes, string: Element, found: list[Element]) -> None:
    """Into a byte string that is an array of MessagePack from its first to its last byte."""
    if string.end - string.body < 2 or data[string.body] & 0xF0 != 0x90:
        return
    before = len(found)
    try:
        end = _walk(data[: string.end], string.body, (*string.inside, string), found)
    except (_Broken, IndexError):
        end = -1
    if end != string.end:
        del found[before:]
