"""Hash pages from a stream of leaf hashes, however long it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mcfs.protocol.ids import DIGEST_SIZE, FAN_OUT, Digest
from mcfs.protocol.merkle import page_hash

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE_SIZE: Final = FAN_OUT * DIGEST_SIZE


class PageWriter:
    """Gives out each page as soon as it is full, and holds one unfinished page a level.

    merkle.tree_levels needs all hashes at once: 32 MiB for 1 TiB, which is too much for a file being indexed.
    """

    def __init__(self, emit: Callable[[int, int, bytes], None]) -> None:
        """`emit(level, index, page)` is called once per page; level 1 is the lowest."""
        self._emit = emit
        self._rest = [bytearray()]
        self._emitted = [0]

    def add(self, leaves: bytes) -> None:
        """Append concatenated leaf hashes."""
        self._append(0, leaves)

    def finish(self) -> Digest:
        """Give out the unfinished pages and return the top hash."""
        level = 0
        while level < len(self._rest) - 1 or len(self._rest[level]) > DIGEST_SIZE:
            if self._rest[level]:
                self._page(level, bytes(self._rest[level]))
                self._rest[level].clear()
            level += 1
        return Digest(bytes(self._rest[level]))

    def _append(self, level: int, hashes: bytes) -> None:
        rest = self._rest[level]
        rest += hashes
        whole = len(rest) - len(rest) % PAGE_SIZE
        for at in range(0, whole, PAGE_SIZE):
            self._page(level, bytes(rest[at : at + PAGE_SIZE]))
        del rest[:whole]

    def _page(self, level: int, page: bytes) -> None:
        """Give out a page of hashes of `level`; it is itself a node of the level above."""
        if level + 1 == len(self._rest):
            self._rest.append(bytearray())
            self._emitted.append(0)
        self._emit(level + 1, self._emitted[level + 1], page)
        self._emitted[level + 1] += 1
        self._append(level + 1, page_hash(level + 1, page))
