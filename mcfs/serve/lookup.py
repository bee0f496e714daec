"""What the sender asks the database: which objects there are, and where their bytes can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from mcfs.protocol.ids import ObjectRef
from mcfs.serve import pack

if TYPE_CHECKING:
    from collections.abc import Collection

    from mcfs.serve.index import Index

_COPIES: Final = 4
"""Places of equal content that are tried before an object is given up."""


class Place(NamedTuple):
    """Files of one directory that, one behind the other, are an object (or were, when it was hashed)."""

    root: int
    directory: bytes
    members: list[tuple[bytes, int]]
    """Name and size. None of a pack if its row is damaged."""


class Lookup:
    """The reading connection, with the sender's words. Everything raises sqlite3.Error. Thread-safe."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def ref(self, row: int) -> ObjectRef | None:
        found = self._index.reader.row(
            "SELECT size, block_size, top FROM objects WHERE id = ? AND top IS NOT NULL", (row,)
        )
        return ObjectRef(*found) if found else None

    def row(self, ref: ObjectRef) -> int | None:
        found = self._index.reader.row(
            "SELECT id FROM objects WHERE top = ? AND size = ? AND block_size = ?", (ref.top, ref.size, ref.block_size)
        )
        return found[0] if found else None

    def is_listing(self, row: int) -> bool:
        return self._index.reader.row("SELECT 1 FROM listings WHERE object = ?", (row,)) is not None

    def node(self, row: int, level: int, position: int) -> bytes | None:
        """A hash page, or a block of a listing."""
        found = self._index.reader.row(
            "SELECT data FROM nodes WHERE object = ? AND level = ? AND position = ?", (row, level, position)
        )
        return found[0] if found else None

    def file_places(self, row: int, size: int, roots: Collection[int]) -> list[Place]:
        """Files that are the object, below some roots."""
        return self._files("files", row, size, roots)

    def former_places(self, row: int, size: int, roots: Collection[int]) -> list[Place]:
        """Files that were the object in an earlier snapshot: some of their blocks may be the same as then."""
        return self._files("former", row, size, roots)

    def _files(self, table: str, row: int, size: int, roots: Collection[int]) -> list[Place]:
        rows = self._index.reader.rows(
            f"SELECT directories.root, path, name FROM {table} JOIN directories ON directories.id = {table}.directory"
            f" WHERE object = ? AND directories.root IN ({_numbers(roots)}) LIMIT ?",
            (row, _COPIES),
        )
        return [Place(root, path, [(name, size)]) for root, path, name in rows]

    def is_former(self, row: int) -> bool:
        return self._index.reader.row("SELECT 1 FROM former WHERE object = ?", (row,)) is not None

    def pack_places(self, row: int, roots: Collection[int]) -> list[Place]:
        """Where the members of the pack are, below some roots."""
        rows = self._index.reader.rows(
            "SELECT root, path, members FROM packs JOIN directories ON directories.id = packs.directory"
            f" WHERE object = ? AND root IN ({_numbers(roots)}) LIMIT ?",
            (row, _COPIES),
        )
        return [Place(root, path, pack.decode_members(members)) for root, path, members in rows]


def _numbers(roots: Collection[int]) -> str:
    return ", ".join(f"{root:d}" for root in roots)
