"""Files of which each page says what it should be: who reads any part of one sees whether it is right.

A page is 4 KiB: a header with the number of the file, of the page and of the generation, and bytes that follow from
these. All pages of a file are of one generation, in each version that is ever published.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

PAGE: Final = 4096
_HEADER: Final = struct.Struct(">IIQ")


class Wrong(AssertionError):
    """Bytes that were never published, or that were not published together."""


def page(file: int, number: int, generation: int) -> bytes:
    header = _HEADER.pack(file, number, generation)
    return header + hashlib.shake_128(header).digest(PAGE - len(header))


def whole(file: int, pages: int, generation: int) -> bytes:
    return b"".join(page(file, number, generation) for number in range(pages))


def generation_of(file: int, first: int, data: bytes) -> int:
    """The generation of whole pages of a file, from page `first` on. Raises Wrong."""
    generations = set()
    for at in range(0, len(data), PAGE):
        piece = data[at : at + PAGE]
        generation: int = _HEADER.unpack_from(piece)[2]
        if piece != page(file, first + at // PAGE, generation):
            raise Wrong(f"page {first + at // PAGE} of file {file} is not one that was published")
        generations.add(generation)
    if len(generations) != 1:
        raise Wrong(f"pages of {len(generations)} generations in file {file}")
    return generations.pop()
