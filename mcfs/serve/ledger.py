"""What a scan remembers in the database: each method is a question or a deed of the index, in one or two statements."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mcfs.protocol.ids import Digest, ObjectRef
from mcfs.protocol.merkle import object_of, tree_levels
from mcfs.serve import pack
from mcfs.serve.pages import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from mcfs.serve.database import Connection


class Known(NamedTuple):
    """What hashing a file gave."""

    stamp: bytes
    b3sum: Digest
    object: int | None
    """Row of its object; None for small files, which are in packs."""
    ref: ObjectRef | None


class Packed(NamedTuple):
    """A pack of a directory."""

    object: int
    ref: ObjectRef


class Ledger:
    """The writing connection, with the index's words. Everything raises sqlite3.Error."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection
        self.transaction = connection.transaction
        self.checkpoint = connection.checkpoint

    # --- objects -----------------------------------------------------------------------------------------------------

    def begin_object(self, size: int, block_size: int) -> int:
        """An object whose pages come before its top hash is known."""
        return self._db.insert("INSERT INTO objects (size, block_size) VALUES (?, ?)", (size, block_size))

    def add_nodes(self, object_: int, nodes: Iterable[tuple[int, int, bytes]]) -> None:
        """Keep (level, index, bytes)."""
        rows = ((object_, level, position, data) for level, position, data in nodes)
        self._db.execute_many("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?)", rows)

    def end_object(self, object_: int, ref: ObjectRef) -> int:
        """Give a begun object its name. Returns the row of the object of that name, which may be an older one."""
        older = self.find_object(ref)
        if older is not None:
            self.drop_object(object_)
            return older
        self._db.insert("UPDATE objects SET top = ? WHERE id = ?", (ref.top, object_))
        return object_

    def drop_object(self, object_: int) -> None:
        self.remove_objects([object_])

    def find_object(self, ref: ObjectRef) -> int | None:
        row = self._db.row(
            "SELECT id FROM objects WHERE top = ? AND size = ? AND block_size = ?", (ref.top, ref.size, ref.block_size)
        )
        return row[0] if row else None

    def add_object(self, ref: ObjectRef) -> int:
        """The row of an object without pages, or of any that is there already."""
        found = self.find_object(ref)
        if found is not None:
            return found
        values = (ref.size, ref.block_size, ref.top)
        return self._db.insert("INSERT INTO objects (size, block_size, top) VALUES (?, ?, ?)", values)

    def add_listing(self, data: bytes, block_size: int) -> tuple[int, ObjectRef]:
        """Keep a listing object: its blocks as well as its pages."""
        ref, leaves = object_of(data, block_size)
        object_ = self.add_object(ref)
        if not self._db.row("SELECT 1 FROM nodes WHERE object = ? AND level = 0 AND position = 0", (object_,)):
            self.add_nodes(object_, _cut(0, data, block_size))
            for level, hashes in enumerate(tree_levels(leaves)[:-1], 1):
                self.add_nodes(object_, _cut(level, hashes, PAGE_SIZE))
        return object_, ref

    def unfinished_objects(self) -> list[int]:
        """Left behind by a crash."""
        return [row[0] for row in self._db.rows("SELECT id FROM objects WHERE top IS NULL")]

    def orphans(self) -> list[int]:
        """Objects that no file, pack or snapshot refers to."""
        rows = self._db.rows(
            "SELECT id FROM objects WHERE NOT EXISTS (SELECT 1 FROM files WHERE object = objects.id)"
            " AND NOT EXISTS (SELECT 1 FROM packs WHERE object = objects.id)"
            " AND NOT EXISTS (SELECT 1 FROM listings WHERE object = objects.id)"
        )
        return [row[0] for row in rows]

    def remove_objects(self, objects: Collection[int]) -> None:
        rows = [(object_,) for object_ in objects]
        self._db.execute_many("DELETE FROM nodes WHERE object = ?", rows)
        self._db.execute_many("DELETE FROM objects WHERE id = ?", rows)

    # --- directories -------------------------------------------------------------------------------------------------

    def root(self, path: bytes) -> int:
        self._db.insert("INSERT OR IGNORE INTO roots (path) VALUES (?)", (path,))
        row = self._db.row("SELECT id FROM roots WHERE path = ?", (path,))
        assert row is not None
        return int(row[0])

    def directory(self, root: int, path: bytes) -> int:
        row = self._db.row("SELECT id FROM directories WHERE root = ? AND path = ?", (root, path))
        return (
            int(row[0]) if row else self._db.insert("INSERT INTO directories (root, path) VALUES (?, ?)", (root, path))
        )

    def keep_directories(self, root: int, seen: Collection[int]) -> None:
        """Forget the directories of a root that a scan did not meet."""
        rows = self._db.rows("SELECT id FROM directories WHERE root = ?", (root,))
        gone = [row for row in rows if row[0] not in seen]
        self._db.execute_many("DELETE FROM files WHERE directory = ?", gone)
        self._db.execute_many("DELETE FROM packs WHERE directory = ?", gone)
        self._db.execute_many("DELETE FROM directories WHERE id = ?", gone)

    # --- files and packs ---------------------------------------------------------------------------------------------

    def files(self, directory: int) -> dict[bytes, Known]:
        rows = self._db.rows(
            "SELECT name, stamp, b3sum, object, size, block_size, top FROM files"
            " LEFT JOIN objects ON objects.id = files.object WHERE directory = ?",
            (directory,),
        )
        return {
            name: Known(stamp, b3sum, object_, ObjectRef(size, block_size, top) if top else None)
            for name, stamp, b3sum, object_, size, block_size, top in rows
        }

    def save_files(self, directory: int, files: Mapping[bytes, Known], gone: Iterable[bytes]) -> None:
        """Remember these, forget those."""
        self._db.execute_many(
            "DELETE FROM files WHERE directory = ? AND name = ?", ((directory, name) for name in gone)
        )
        rows = ((directory, name, known.stamp, known.b3sum, known.object) for name, known in files.items())
        self._db.execute_many("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", rows)

    def pack(self, key: bytes) -> Packed | None:
        """The object of a pack with these contents, wherever it was met."""
        row = self._db.row(
            "SELECT id, size, block_size, top FROM packs JOIN objects ON objects.id = packs.object WHERE key = ?",
            (key,),
        )
        return Packed(row[0], ObjectRef(*row[1:])) if row else None

    def save_packs(self, directory: int, packs: Mapping[bytes, tuple[int, bytes]]) -> None:
        """Remember exactly these packs of a directory: key -> (object, encoded members)."""
        rows = self._db.rows("SELECT key, object, members FROM packs WHERE directory = ?", (directory,))
        old = {key: (object_, members) for key, object_, members in rows}
        gone = ((directory, key) for key in old.keys() - packs.keys())
        self._db.execute_many("DELETE FROM packs WHERE directory = ? AND key = ?", gone)
        new = ((directory, key, *row) for key, row in packs.items() if old.get(key) != row)
        self._db.execute_many("INSERT OR REPLACE INTO packs VALUES (?, ?, ?, ?)", new)

    def doubt(self, object_: int) -> None:
        """Have the files behind an object hashed again, whatever their stamps say."""
        for directory, members in self._db.rows("SELECT directory, members FROM packs WHERE object = ?", (object_,)):
            names = [(directory, name) for name, _ in pack.decode_members(members)]
            self._db.execute_many("UPDATE files SET stamp = x'' WHERE directory = ? AND name = ?", names)
        self._db.insert("DELETE FROM packs WHERE object = ?", (object_,))
        self._db.insert("UPDATE files SET stamp = x'' WHERE object = ?", (object_,))

    # --- snapshots ---------------------------------------------------------------------------------------------------

    def snapshot(self, name: bytes) -> tuple[int, bytes] | None:
        """Version and encoded top entry of the newest snapshot."""
        row = self._db.row("SELECT version, top FROM snapshots WHERE name = ?", (name,))
        return (row[0], row[1]) if row else None

    def save_snapshot(self, name: bytes, version: int, root: int, top: bytes, listings: Collection[int]) -> None:
        self._db.insert("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)", (name, version, root, top))
        self._db.insert("DELETE FROM listings WHERE name = ?", (name,))
        self._db.execute_many("INSERT INTO listings VALUES (?, ?)", ((name, object_) for object_ in listings))

    def objects_of(self, name: bytes) -> Iterator[tuple[int, ObjectRef]]:
        """The objects of the newest snapshot of a share, with their rows. Small files are no objects, packs are."""
        rows = self._db.rows(
            "WITH root AS (SELECT root FROM snapshots WHERE name = :name),"
            " there AS (SELECT id FROM directories WHERE root = (SELECT root FROM root))"
            " SELECT id, size, block_size, top FROM objects WHERE top IS NOT NULL AND id IN ("
            " SELECT object FROM files WHERE directory IN there AND object IS NOT NULL"
            " UNION SELECT object FROM packs WHERE directory IN there"
            " UNION SELECT object FROM listings WHERE name = :name)",
            {"name": name},
        )
        return ((row, ObjectRef(size, block_size, top)) for row, size, block_size, top in rows)


def _cut(level: int, data: bytes, size: int) -> Iterable[tuple[int, int, bytes]]:
    return ((level, at // size, data[at : at + size]) for at in range(0, len(data), size))
