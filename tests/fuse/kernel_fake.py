"""The kernel as the operations see it: it looks names up, counts its references and reads directories in pieces."""

from __future__ import annotations

import errno
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pyfuse3

from mcfs.fuse.operations import McfsOperations
from mcfs.fuse.settings import FuseSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pyfuse3 import EntryAttributes, ReaddirToken

    from tests.fuse.fakes import FakeBackend

CONTEXT = pyfuse3.RequestContext()


@dataclass(frozen=True)
class Row:
    """One directory entry as readdir reported it."""

    name: bytes
    number: int
    mode: int
    size: int
    offset: int


@dataclass
class Buffer:
    """Stands in for pyfuse3's ReaddirToken, whose memory belongs to the kernel's request."""

    room: int
    rows: list[Row] = field(default_factory=list)


def reply(token: Buffer, name: bytes, attributes: EntryAttributes, next_id: int) -> bool:
    """As pyfuse3.readdir_reply."""
    if token.room == 0:
        return False
    token.room -= 1
    a = attributes
    token.rows.append(Row(name, a.st_ino, a.st_mode, a.st_size, next_id))
    return True


class FakeKernel:
    def __init__(self, backend: FakeBackend, share: bytes | None = None, **more: object) -> None:
        settings = FuseSettings(mountpoint="/mnt", share=share, share_wait=0.01, timeout=0.01)
        self.operations = McfsOperations(backend, _replace(settings, more))
        self.references: Counter[int] = Counter()

    async def lookup(self, parent: int, name: bytes) -> EntryAttributes:
        found = await self.operations.lookup(parent, name, CONTEXT)
        if found.st_ino == 0:
            raise pyfuse3.FUSEError(errno.ENOENT)
        self.references[found.st_ino] += 1
        return found

    async def walk(self, path: bytes) -> EntryAttributes:
        """Look up a path, b"" for the root."""
        at = await self.operations.getattr(pyfuse3.ROOT_INODE, CONTEXT)
        for name in path.split(b"/") if path else []:
            at = await self.lookup(at.st_ino, name)
        return at

    async def rows(self, number: int, buffer: int = 3) -> list[Row]:
        """Everything but "." and ".."."""
        handle = await self.operations.opendir(number, CONTEXT)
        rows: list[Row] = []
        while piece := await self.readdir(handle, rows[-1].offset if rows else 0, buffer):
            rows += piece
        await self.operations.releasedir(handle)
        return [row for row in rows if row.name not in (b".", b"..")]

    async def readdir(self, handle: int, start: int, buffer: int) -> list[Row]:
        token = Buffer(buffer)
        await self.operations.readdir(handle, start, cast("ReaddirToken", token))
        for row in token.rows:
            if row.name not in (b".", b".."):
                self.references[row.number] += 1
        return token.rows

    async def open(self, number: int, flags: int = os.O_RDONLY) -> int:
        info = await self.operations.open(number, flags, CONTEXT)
        assert info.keep_cache
        return info.fh

    async def read(self, path: bytes, piece: int = 5) -> bytes:
        """All of a file, in small pieces."""
        handle = await self.open((await self.walk(path)).st_ino)
        data = await self.read_handle(handle, piece)
        await self.operations.release(handle)
        return data

    async def read_handle(self, handle: int, piece: int = 5) -> bytes:
        data = b""
        while more := bytes(await self.operations.read(handle, len(data), piece)):
            data += more
        return data

    async def forget(self) -> None:
        """Drop every reference, as after `echo 3 > /proc/sys/vm/drop_caches`."""
        await self.operations.forget(list(self.references.items()))
        self.references.clear()


async def failure(request: Awaitable[object]) -> int:
    """The error number that a request fails with."""
    try:
        await request
    except pyfuse3.FUSEError as error:
        return error.errno
    raise AssertionError("the request succeeded")


def _replace(settings: FuseSettings, more: dict[str, object]) -> FuseSettings:
    values = {name: getattr(settings, name) for name in FuseSettings.__dataclass_fields__}
    return FuseSettings(**(values | more))
