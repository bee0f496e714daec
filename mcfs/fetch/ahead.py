"""What is fetched before anybody waits for it: the window of each reader, and what is sent for other hosts.

Both fill the same window and the same places, so they are decided in one place. Sans-IO, like all of this room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from mcfs.fetch.merging import Followed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcfs.fetch.fetcher import Fetcher
    from mcfs.fetch.nodes import NodeTree
    from mcfs.protocol.ids import Group, Node

STREAM_SECONDS: Final = 2.0
"""How long after its last read a file counts as being read."""


class Stream(Protocol):
    """Somebody who reads one thing after the other: a file, or the files of a tree."""

    share: bytes

    @property
    def reading(self) -> int:
        """Reads that wait."""
        ...

    def next_ahead(self) -> Node | None:
        """The next block to fetch ahead, if there is one now."""
        ...


class ReadAhead:
    """Read-ahead of all readers of one client."""

    def __init__(self, fetcher: Fetcher, tree: NodeTree) -> None:
        self.followed = Followed(tree.addresser)
        self._fetcher = fetcher
        self._tree = tree
        self._streams: dict[Stream, float] = {}

    def stream(self, reader: Stream, *, now: float) -> None:
        """It reads: fetch ahead of it until it stops."""
        self._streams[reader] = now + STREAM_SECONDS

    def end(self, reader: Stream) -> None:
        self._streams.pop(reader, None)

    def top_up(self, *, now: float) -> None:
        """Keep the window full: a block of each reader in turn."""
        if self._tree.congested:
            return
        streams = [r for r, until in self._streams.items() if r.reading or until > now]
        if len(streams) < len(self._streams):
            self._streams = {r: self._streams[r] for r in streams}
        while streams and self._fetcher.under_way < self._fetcher.window:
            streams = [reader for reader in streams if self._fetch_ahead(reader, now)]

    def _fetch_ahead(self, reader: Stream, now: float) -> bool:
        node = reader.next_ahead()
        if node is None:
            return False
        if not self._tree.is_pending(node) and not self._tree.holds(node):
            self._tree.request(node, reader.share, urgent=False, now=now)
        return True

    def named(self, groups: Sequence[Group], hold: float, *, now: float) -> None:
        """A beacon named these: take what is sent for others and will be needed here, with half of the free places.
        `hold`: the server holds new channels of their class for so many seconds."""
        if self._fetcher.queued(groups, now=now):
            self._fetcher.held(hold, now=now)
        if self._tree.congested:
            return
        places = (self._fetcher.limits.max_groups - self._fetcher.groups) // 2
        for node, origin in self.followed.wanted(groups, self._fetcher.paces.pace, now=now):
            if places <= 0:
                break
            if not self._tree.is_pending(node) and not self._tree.holds(node):
                self._tree.request(node, origin, urgent=False, first=True, now=now)
                places -= 1
