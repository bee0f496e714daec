"""What the file system asks of the client, as a protocol: the client itself lives beyond the layer below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from mcfs.protocol.announce import Announcement
    from mcfs.protocol.catalog import Entry, FileEntry
    from mcfs.protocol.ids import ObjectRef


class FileReader(Protocol):
    """One open file: its snapshot never changes."""

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        """Exactly the bytes [offset, offset + length) cut at the end of the file.

        Raises NotAvailable (TimedOut, ShareDown, Gone) or BadNode. Cancellation leaves nothing behind.
        """
        ...

    def close(self) -> None: ...


class Backend(Protocol):
    def shares(self) -> Mapping[bytes, Announcement]:
        """The announcement to show of each share heard so far: the newest one whose top object is there."""
        ...

    def share(self, name: bytes) -> Announcement | None:
        """That of one share."""
        ...

    async def news(self) -> None:
        """Return when `shares` has changed since this was called."""
        ...

    async def wait_share(self, name: bytes, timeout: float) -> Announcement:  # noqa: ASYNC109 - part of the semantics
        """The newest announcement of a share, waiting for the first. Raises TimedOut, or NoKey if that
        may be why."""
        ...

    async def entries(self, share: bytes, content: ObjectRef | tuple[Entry, ...]) -> tuple[Entry, ...]:
        """The entries of a directory sorted by name, fetched and verified. Raises NotAvailable, BadNode, BadObject."""
        ...

    def max_wait(self, share: bytes) -> float:
        """Seconds after which whatever is asked of a share has failed."""
        ...

    def open(self, path: bytes, entry: FileEntry, upcoming: Callable[[], Iterable[FileEntry | None]]) -> FileReader:
        """Open a file; `path` is the share's name and the names below it. `upcoming` gives the files that a reader of
        the whole tree would read next, in that order, and None now and then, so that looking for the next can be
        bounded."""
        ...

    def cache_path(self) -> Path | None:
        """The directory of the local cache; None if nothing is kept."""
        ...

    def cached_bytes(self, entry: FileEntry) -> int:
        """How many bytes of the file are in the local cache."""
        ...
