"""Several things in one input: each behind a byte that says more about it and its length (2 bytes)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Frame = tuple[int, bytes]


def joined(frames: Iterable[Frame]) -> bytes:
    return b"".join(bytes((mark,)) + len(content).to_bytes(2, "big") + content for mark, content in frames)


def frames(data: bytes) -> list[Frame]:
    """The last one may be shorter than it says."""
    found, at = [], 0
    while at + 3 <= len(data):
        end = at + 3 + int.from_bytes(data[at + 1 : at + 3], "big")
        found.append((data[at], data[at + 3 : end]))
        at = end
    return found
