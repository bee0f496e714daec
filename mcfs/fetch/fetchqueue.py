"""Fetches that are not joined: in the order of asking, urgent ones first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcfs.fetch.wanted import Fetch


class FetchQueue:
    def __init__(self) -> None:
        self._urgent: dict[Fetch, None] = {}
        self._others: dict[Fetch, None] = {}
        self.size = 0
        """Bytes of all of them."""

    def __iter__(self) -> Iterator[Fetch]:
        """Those of now: what is taken out or put in meanwhile does not count."""
        return iter((*self._urgent, *self._others))

    def put(self, fetch: Fetch) -> None:
        (self._urgent if fetch.urgent else self._others)[fetch] = None
        self.size += fetch.length

    def drop(self, fetch: Fetch) -> None:
        if self._urgent.pop(fetch, 0) is None or self._others.pop(fetch, 0) is None:
            self.size -= fetch.length
