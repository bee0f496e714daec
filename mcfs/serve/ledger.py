"""What a scan remembers in the database: each method is a question or a deed of the index, in one or two statements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from mcfs.protocol.ids import Digest, ObjectRef
from mcfs.protocol.merkle import object_of, tree_levels
from mcfs.serve import pack
from mcfs.serve.pages import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from mcfs.serve.database import Connection


MAX_FORMER: Final = 10_000
"""Objects of earlier snapshots that are kept of a root: readers of files that are open may still want their blocks."""
MAX_FORMER_BYTES: Final = 64 << 20
"""Of their hash pages and listings: two versions of a file of 1 TiB."""


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
        """Objects that no file, pack or listing refers to, and no earlier snapshot."""
        return [row[0] for row in self._db.rows(f"SELECT id FROM objects WHERE {_IS_ORPHAN}")]

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
        if row:
            return int(row[0])
        missing = [path]
        parent = None
        while missing[-1] and parent is None:
            above = missing[-1].rpartition(b"/")[0]
            row = self._db.row("SELECT id FROM directories WHERE root = ? AND path = ?", (root, above))
            parent = row[0] if row else None
            if parent is None:
                missing.append(above)
        for each in reversed(missing):
            parent = self._db.insert(
                "INSERT INTO directories (root, parent, path) VALUES (?, ?, ?)", (root, parent, each)
            )
        assert parent is not None
        return int(parent)

    def keep_directories(self, root: int, seen: Collection[int]) -> None:
        """Forget the directories of a root that a scan did not meet."""
        rows = self._db.rows("SELECT id FROM directories WHERE root = ?", (root,))
        self._forget(root, [row[0] for row in rows if row[0] not in seen])

    def keep_subdirectories(self, root: int, visited: Iterable[int], seen: Collection[int]) -> None:
        """Forget the directories in one of those visited that a scan did not meet, with all below them."""
        for directory in visited:
            rows = self._db.rows("SELECT id FROM directories WHERE parent = ?", (directory,))
            for (row,) in rows:
                if row not in seen:
                    self._forget(root, [below for (below,) in self._db.rows(_BELOW, (row,))])

    def item(self, root: int, path: bytes) -> tuple[int, bytes | None] | None:
        """The row of a directory, and what was kept by save_item; None if nothing was."""
        row = self._db.row(
            "SELECT id, item FROM directories JOIN items ON items.directory = id WHERE root = ? AND path = ?",
            (root, path),
        )
        return (row[0], row[1]) if row else None

    def save_item(self, directory: int, item: bytes | None) -> None:
        """What a directory became in its parent's listing; None: nothing."""
        old = self._db.row("SELECT item FROM items WHERE directory = ?", (directory,))
        if old is None or old[0] != item:
            self._db.insert("INSERT OR REPLACE INTO items VALUES (?, ?)", (directory, item))

    def _forget(self, root: int, directories: Sequence[int]) -> None:
        gone = [(directory,) for directory in directories]
        for table in ("files", "packs", "listings"):
            self._db.execute_many(
                "INSERT OR REPLACE INTO former (root, object)"
                f" SELECT {root:d}, object FROM {table} WHERE directory = ? AND object IS NOT NULL",
                gone,
            )
            self._db.execute_many(f"DELETE FROM {table} WHERE directory = ?", gone)
        self._db.execute_many("DELETE FROM items WHERE directory = ?", gone)
        self._db.execute_many("DELETE FROM directories WHERE id = ?", gone)

    def _forget_root(self, root: int) -> None:
        for table in ("files", "packs", "listings", "items"):
            there = "SELECT id FROM directories WHERE root = ?"
            self._db.insert(f"DELETE FROM {table} WHERE directory IN ({there})", (root,))
        for table in ("directories", "former"):
            self._db.insert(f"DELETE FROM {table} WHERE root = ?", (root,))
        self._db.insert("DELETE FROM roots WHERE id = ?", (root,))

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

    def elsewhere(self, stamp: bytes) -> Known | None:
        """What is known of a file that has this stamp, wherever it is: its directory may have been moved."""
        row = self._db.row(
            "SELECT b3sum, object, size, block_size, top FROM files"
            " LEFT JOIN objects ON objects.id = files.object WHERE stamp = ? LIMIT 1",
            (stamp,),
        )
        if row is None:
            return None
        b3sum, object_, size, block_size, top = row
        return Known(stamp, b3sum, object_, ObjectRef(size, block_size, top) if top else None)

    def save_files(self, directory: int, files: Mapping[bytes, Known], gone: Iterable[bytes]) -> None:
        """Remember these, forget those. Their objects until now become former ones."""
        rows = self._db.rows(
            "SELECT root, name, object FROM files JOIN directories ON directories.id = directory"
            " WHERE directory = ? AND object IS NOT NULL",
            (directory,),
        )
        gone = set(gone)
        self._retire(
            (root, object_, directory, name)
            for root, name, object_ in rows
            if (name in files and files[name].object != object_) or name in gone
        )
        self._db.execute_many(
            "DELETE FROM files WHERE directory = ? AND name = ?", ((directory, name) for name in gone)
        )
        new = ((directory, name, known.stamp, known.b3sum, known.object) for name, known in files.items())
        self._db.execute_many("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", new)

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
        gone = [(directory, key) for key in old.keys() - packs.keys()]
        if gone:
            self._db.execute_many(f"{_RETIRE_PACKS} directory = ? AND key = ?", gone)
            self._db.execute_many("DELETE FROM packs WHERE directory = ? AND key = ?", gone)
        new = ((directory, key, *row) for key, row in packs.items() if old.get(key) != row)
        self._db.execute_many("INSERT OR REPLACE INTO packs VALUES (?, ?, ?, ?)", new)

    def doubt(self, object_: int) -> None:
        """Have the files behind an object hashed again, whatever their stamps say."""
        for directory, members in self._db.rows("SELECT directory, members FROM packs WHERE object = ?", (object_,)):
            names = [(directory, name) for name, _ in pack.decode_members(members)]
            self._db.execute_many("UPDATE files SET stamp = x'' WHERE directory = ? AND name = ?", names)
        self._db.insert(f"{_RETIRE_PACKS} object = ?", (object_,))
        self._db.insert("DELETE FROM packs WHERE object = ?", (object_,))
        self._db.insert("UPDATE files SET stamp = x'' WHERE object = ?", (object_,))

    # --- snapshots ---------------------------------------------------------------------------------------------------

    def snapshot(self, name: bytes) -> tuple[int, bytes] | None:
        """Version and encoded top entry of the newest snapshot."""
        row = self._db.row("SELECT version, top FROM snapshots WHERE name = ?", (name,))
        return (row[0], row[1]) if row else None

    def save_snapshot(self, name: bytes, version: int, root: int, top: bytes) -> None:
        """A share may have another root than before: what is known of that one is kept, and of none before it."""
        before = self._db.row("SELECT root, former_root FROM snapshots WHERE name = ?", (name,))
        last, former = before or (root, None)
        values = (name, version, root, top, former if last == root else last)
        self._db.insert("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?)", values)
        if former is not None and former not in self.roots():
            self._forget_root(former)

    def roots(self) -> set[int]:
        """Those of all snapshots, and those that they had before."""
        rows = self._db.rows("SELECT root, former_root FROM snapshots")
        return {root for row in rows for root in row if root is not None}

    def save_listings(self, root: int, directory: int, listings: Collection[int]) -> None:
        """The listing objects that were made for a directory: those and no others."""
        rows = self._db.rows("SELECT object FROM listings WHERE directory = ?", (directory,))
        old = {object_ for (object_,) in rows}
        gone = old.difference(listings)
        self._retire((root, object_, None, None) for object_ in gone)
        self._db.execute_many(
            "DELETE FROM listings WHERE directory = ? AND object = ?", ((directory, object_) for object_ in gone)
        )
        new = ((directory, object_) for object_ in set(listings) - old)
        self._db.execute_many("INSERT INTO listings VALUES (?, ?)", new)

    def objects_of(self, name: bytes) -> Iterator[tuple[int, ObjectRef]]:
        """The objects of the newest snapshot of a share, with their rows. Small files are no objects, packs are."""
        rows = self._db.rows(
            "WITH root AS (SELECT root FROM snapshots WHERE name = :name),"
            " there AS (SELECT id FROM directories WHERE root = (SELECT root FROM root))"
            f" SELECT id, size, block_size, top FROM objects WHERE top IS NOT NULL AND id IN ({_OBJECTS_THERE})",
            {"name": name},
        )
        return ((row, ObjectRef(size, block_size, top)) for row, size, block_size, top in rows)

    # --- earlier snapshots -------------------------------------------------------------------------------------------

    def former_of(self, name: bytes) -> Iterator[tuple[int, ObjectRef]]:
        """The objects that earlier snapshots of a share had, as far as they are kept."""
        rows = self._db.rows(
            "WITH former_root AS (SELECT former_root FROM snapshots WHERE name = :name),"
            " there AS (SELECT id FROM directories WHERE root = (SELECT former_root FROM former_root))"
            " SELECT id, size, block_size, top FROM objects WHERE top IS NOT NULL AND id IN ("
            " SELECT object FROM former WHERE root = (SELECT root FROM snapshots WHERE name = :name)"
            " OR root = (SELECT former_root FROM former_root)"
            f" UNION {_OBJECTS_THERE})",
            {"name": name},
        )
        return ((row, ObjectRef(size, block_size, top)) for row, size, block_size, top in rows)

    def settle_former(self, root: int) -> None:
        """Sort out the former objects of a root: not those that are there again, and not too many."""
        self._db.insert(f"DELETE FROM former WHERE root = ? AND NOT ({_IS_FORMER})", (root,))
        rows = self._db.rows(
            "SELECT number, object, 32 * (size / block_size)"
            " + size * EXISTS (SELECT 1 FROM nodes WHERE object = id AND level = 0)"
            " FROM former JOIN objects ON id = former.object WHERE root = ? ORDER BY number DESC",
            (root,),
        )
        kept = 0
        surplus = []
        for at, (number, object_, size) in enumerate(rows):
            kept += size
            if at >= MAX_FORMER or (kept > MAX_FORMER_BYTES and at):
                surplus.append((number, object_))
        self._db.execute_many("DELETE FROM former WHERE number = ?", ((number,) for number, _ in surplus))
        self.remove_objects([object_ for _, object_ in surplus if self._is_orphan(object_)])

    def _is_orphan(self, object_: int) -> bool:
        return self._db.row(f"SELECT 1 FROM objects WHERE id = ? AND {_IS_ORPHAN}", (object_,)) is not None

    def _retire(self, rows: Iterable[tuple[int, int, int | None, bytes | None]]) -> None:
        """(root, object, directory, name): the last two if a file was the object."""
        self._db.execute_many("INSERT OR REPLACE INTO former (root, object, directory, name) VALUES (?, ?, ?, ?)", rows)


_IS_ORPHAN: Final = (
    "NOT EXISTS (SELECT 1 FROM files WHERE object = objects.id)"
    " AND NOT EXISTS (SELECT 1 FROM packs WHERE object = objects.id)"
    " AND NOT EXISTS (SELECT 1 FROM listings WHERE object = objects.id)"
    " AND NOT EXISTS (SELECT 1 FROM former WHERE object = objects.id)"
)
_OBJECTS_THERE: Final = (
    "SELECT object FROM files WHERE directory IN there AND object IS NOT NULL"
    " UNION SELECT object FROM packs WHERE directory IN there"
    " UNION SELECT object FROM listings WHERE directory IN there"
)
_IS_FORMER: Final = " AND ".join(
    f"NOT EXISTS (SELECT 1 FROM {table} JOIN directories ON directories.id = {table}.directory"
    f" WHERE {table}.object = former.object AND directories.root = former.root)"
    for table in ("files", "packs", "listings")
)
_RETIRE_PACKS: Final = (
    "INSERT OR REPLACE INTO former (root, object)"
    " SELECT root, object FROM packs JOIN directories ON directories.id = packs.directory WHERE"
)
# UNION, and not UNION ALL: in a damaged database a directory may be below itself.
_BELOW: Final = (
    "WITH RECURSIVE below(id) AS (VALUES (?)"
    " UNION SELECT directories.id FROM directories JOIN below ON directories.parent = below.id)"
    " SELECT id FROM below"
)


def _cut(level: int, data: bytes, size: int) -> Iterable[tuple[int, int, bytes]]:
    return ((level, at // size, data[at : at + size]) for at in range(0, len(data), size))
