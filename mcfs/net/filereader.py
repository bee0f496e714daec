"""One open file, as the file system reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from mcfs.fetch.readplan import ReadPlan, blocks
from mcfs.protocol.errors import TimedOut
from mcfs.protocol.ids import Node

if TYPE_CHECKING:
    from mcfs.net.client import Client
    from mcfs.protocol.catalog import FileEntry


class FileReader:
    """One open file."""

    def __init__(self, client: Client, share: bytes, version: int, entry: FileEntry) -> None:
        self.share = share
        self.version = version
        """Of the share, when it was opened."""
        self.reading = 0
        """Reads that wait."""
        self._client = client
        self._extent = entry.extent
        self._plan = ReadPlan(entry.extent) if entry.extent else None

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        extent, plan = self._extent, self._plan
        if extent is None or plan is None or offset >= extent.length:
            return b""
        length = min(length, extent.length - offset)
        wanted = blocks(extent, offset, length)
        nodes = [Node(extent.object, 0, index) for index in wanted]
        for node in nodes:
            self._client.ask(node, self.share)
        plan.advance(offset, length)
        self._client.follow(extent.object, plan.ahead, self.share)
        self.reading += 1
        self._client.stream(self)
        try:
            longest = self._client.max_wait(self.share)
            with trio.fail_after(longest):
                data = [memoryview(await self._client.node(node, self.share, self.version)) for node in nodes]
        except trio.TooSlowError:
            raise TimedOut(f"not complete after {longest:g} s") from None
        finally:
            self.reading -= 1
        return _cut(data, wanted.start * extent.object.block_size, extent.offset + offset, length)

    def next_ahead(self) -> Node | None:
        """The next block to fetch ahead, if there is one now."""
        if self._extent is None or self._plan is None:
            return None
        index = self._plan.next_ahead()
        return None if index is None else Node(self._extent.object, 0, index)

    def close(self) -> None:
        """What was asked for ahead is kept."""
        self._client.end_stream(self)
        extent, self._extent = self._extent, None
        if extent is not None:
            self._client.end(extent)


def _cut(data: list[memoryview], base: int, start: int, length: int) -> bytes | memoryview:
    """Bytes [start, start + length) of the object, from neighbouring blocks that begin at `base`."""
    at = start - base
    if len(data) == 1:
        return data[0][at : at + length]
    last = at + length - sum(map(len, data[:-1]))
    return b"".join((data[0][at:], *data[1:-1], data[-1][:last]))
