"""Telling the kernel that a share is shown in another version.

It is told to ask for attributes again. Where an inode is not what its path leads to any more it is told ESTALE, and
looks the path up anew (see `tree`). That needs no lock; file data stay, as they belong to the content of the inode.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, NoReturn

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcfs.fuse.backend import Backend
    from mcfs.fuse.tree import Tree

CHUNK: Final = 200
"""Inodes between two looks whether somebody else wants to run: 3 us each."""


class Changes:
    def __init__(self, backend: Backend, tree: Tree, invalidate: Callable[[int], None]) -> None:
        """`invalidate` makes the kernel forget an inode's attributes. It may raise OSError."""
        self._backend = backend
        self._tree = tree
        self._invalidate = invalidate
        self._seen = self._versions()

    async def follow(self) -> NoReturn:
        while True:
            before, self._seen = self._seen, self._versions()
            changed = [share for share, version in self._seen.items() if before.get(share, version) != version]
            for share in changed:
                self._tree.changed(share, before[share], now=trio.current_time())
            for share in changed:
                await self._tell(share, self._seen[share])
            if not changed:
                await self._backend.news()

    async def _tell(self, share: bytes, version: int) -> None:
        nodes = [node for node in self._tree.table.of_share(share) if node.version < version]
        for position, node in enumerate(nodes):
            # The kernel may have forgotten it meanwhile.
            with contextlib.suppress(OSError):
                self._invalidate(node.number)
            if position % CHUNK == CHUNK - 1:
                await trio.lowlevel.checkpoint()

    def _versions(self) -> dict[bytes, int]:
        return {name: announcement.version for name, announcement in self._backend.shares().items()}
