"""The kernel as readers see it: it remembers names for a while, and pages of files for as long as it knows their inode.

What it does with ESTALE, and which pages it shares, is what Linux does: a path that turns out stale is looked up once
more, asking at each step; pages belong to the inode, however it is opened, read or mapped.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pyfuse3
import trio

from tests.fuse.kernel_fake import CONTEXT, FakeKernel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeVar

    T = TypeVar("T")

PAGE: Final = 16 << 10
"""Bytes that are kept or missing together: more than Linux's, to save requests."""


@dataclass(eq=False)
class Opened:
    """A file that a process has open or mapped."""

    handle: int
    inode: int
    size: int


@dataclass
class PagedKernel:
    """One mount."""

    fake: FakeKernel
    names: dict[tuple[int, bytes], tuple[int, float]] = field(default_factory=dict)
    pages: dict[tuple[int, int], bytes] = field(default_factory=dict)
    opened: list[Opened] = field(default_factory=list)
    longest: float = 0.0
    """Seconds that a request took at most."""

    async def open(self, path: bytes) -> Opened:
        """Raises OSError."""
        return await self._twice(lambda asking: self._open(path, asking))

    async def names_in(self, path: bytes) -> list[bytes]:
        """Raises OSError."""
        return await self._twice(lambda asking: self._list(path, asking))

    async def read(self, file: Opened, offset: int, length: int) -> bytes:
        """By read(2) or through a map: both see the pages of the inode. Raises OSError."""
        end = min(offset + length, file.size)
        found = [await self._page(file, number) for number in range(offset // PAGE, -(-end // PAGE))]
        start = offset % PAGE
        return b"".join(found)[start : start + max(0, end - offset)]

    async def read_all(self, path: bytes) -> bytes:
        """Open, read, close. Raises OSError."""
        file = await self.open(path)
        try:
            return await self.read(file, 0, file.size)
        finally:
            await self.close(file)

    def told(self, inode: int) -> None:
        """The daemon says that attributes may have changed; that concerns open(2) alone here, which asks anyway."""
        if inode not in self.fake.references:
            raise FileNotFoundError(inode)

    async def close(self, file: Opened) -> None:
        self.opened.remove(file)
        await self.fake.operations.release(file.handle)

    def drop_pages(self) -> None:
        """As when memory is short."""
        self.pages.clear()

    async def forget(self) -> None:
        """Forget names, and the inodes that are not open, with their pages."""
        self.names.clear()
        used = {file.inode for file in self.opened}
        gone = [(number, count) for number, count in self.fake.references.items() if number not in used]
        for number, _ in gone:
            del self.fake.references[number]
        self.pages = {key: page for key, page in self.pages.items() if key[0] in used}
        await self.fake.operations.forget(gone)

    # --- inside ---

    async def _twice(self, work: Callable[[bool], Awaitable[T]]) -> T:
        try:
            return await work(False)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        return await work(True)

    async def _open(self, path: bytes, asking: bool) -> Opened:
        inode = await self._walk(path, asking)
        info = await self._ask(self.fake.operations.open(inode, os.O_RDONLY, CONTEXT))
        # From here on it is open, so its attributes are those of its snapshot.
        size = (await self._ask(self.fake.operations.getattr(inode, CONTEXT))).st_size
        file = Opened(info.fh, inode, size)
        self.opened.append(file)
        return file

    async def _list(self, path: bytes, asking: bool) -> list[bytes]:
        inode = await self._walk(path, asking)
        return [row.name for row in await self._ask(self.fake.rows(inode, buffer=1000))]

    async def _walk(self, path: bytes, asking: bool) -> int:
        at = int(pyfuse3.ROOT_INODE)
        for name in path.split(b"/") if path else []:
            at = await self._step(at, name, asking)
        return at

    async def _step(self, parent: int, name: bytes, asking: bool) -> int:
        known, expires = self.names.get((parent, name), (0, 0.0))
        if known and not asking and trio.current_time() < expires:
            return known
        self.names.pop((parent, name), None)
        found = await self._ask(self.fake.lookup(parent, name))
        self.names[parent, name] = int(found.st_ino), trio.current_time() + found.entry_timeout
        return int(found.st_ino)

    async def _page(self, file: Opened, number: int) -> bytes:
        key = file.inode, number
        if key not in self.pages:
            size = min(PAGE, file.size - number * PAGE)
            data = bytes(await self._ask(self.fake.operations.read(file.handle, number * PAGE, size)))
            assert len(data) == size
            self.pages[key] = data
        return self.pages[key]

    async def _ask(self, request: Awaitable[T]) -> T:
        start = trio.current_time()
        try:
            return await request
        except pyfuse3.FUSEError as error:
            raise OSError(error.errno, os.strerror(error.errno)) from None
        finally:
            self.longest = max(self.longest, trio.current_time() - start)
