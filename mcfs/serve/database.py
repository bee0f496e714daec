"""The state database: SQLite in write-ahead mode, one process at a time, made anew when it is damaged.

Nothing in it is more than a memory of what hashing gave: losing it costs time, never truth. Two connections: the scan
writes in long transactions through one, the sender's threads read what was committed through the other and are not held
up. Each has a lock; a statement and the reading of its rows happen under it.

Where the disk is full, broken or read-only the database goes on in memory, with one connection for both: who reads may
see there what is not committed, which does no harm, as each row is true by itself.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sqlite3
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from mcfs.protocol.errors import InUse, UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)

Row = tuple[Any, ...]

_APPLICATION: Final = 0x6D636673
"""PRAGMA application_id: "mcfs"."""
SCHEMA_VERSION: Final = 3
_FILES: Final = ("state.sqlite", "state.sqlite-wal", "state.sqlite-shm")

_SCHEMA: Final = """
-- An object whose top is NULL is still being hashed. Ids are never used twice: caches may know them longer.
CREATE TABLE objects (
    id INTEGER PRIMARY KEY AUTOINCREMENT, size INTEGER NOT NULL, block_size INTEGER NOT NULL, top BLOB,
    UNIQUE (top, size, block_size));
-- Hash pages (level 1 and up), and the blocks (level 0) of listings, which exist nowhere else.
CREATE TABLE nodes (
    object INTEGER NOT NULL, level INTEGER NOT NULL, position INTEGER NOT NULL, data BLOB NOT NULL,
    UNIQUE (object, level, position));
-- The real path of what is shared, and the directories below it; path is relative, b'' for the root, which has no
-- parent.
CREATE TABLE roots (id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL UNIQUE);
CREATE TABLE directories (
    id INTEGER PRIMARY KEY AUTOINCREMENT, root INTEGER NOT NULL, parent INTEGER, path BLOB NOT NULL,
    UNIQUE (root, path));
CREATE INDEX directories_parent ON directories (parent);
-- What a directory became in its parent's listing, for scans that do not go there; NULL if it was left out.
CREATE TABLE items (directory INTEGER PRIMARY KEY, item BLOB);
-- What hashing a file gave, and the stamp it had then. The object is NULL for small files: they are in packs.
CREATE TABLE files (
    directory INTEGER NOT NULL, name BLOB NOT NULL, stamp BLOB NOT NULL, b3sum BLOB NOT NULL, object INTEGER,
    PRIMARY KEY (directory, name)) WITHOUT ROWID;
CREATE INDEX files_object ON files (object) WHERE object IS NOT NULL;
CREATE INDEX files_stamp ON files (stamp);
-- Which files of a directory make which pack; key is a hash over their (b3sum, size) and the block size.
CREATE TABLE packs (
    directory INTEGER NOT NULL, key BLOB NOT NULL, object INTEGER NOT NULL, members BLOB NOT NULL,
    PRIMARY KEY (directory, key)) WITHOUT ROWID;
CREATE INDEX packs_key ON packs (key);
CREATE INDEX packs_object ON packs (object);
-- The newest snapshot of each share, with the root that it had before this one if there was another; and the listing
-- objects that were made for each directory.
CREATE TABLE snapshots (
    name BLOB PRIMARY KEY, version INTEGER NOT NULL, root INTEGER NOT NULL, top BLOB NOT NULL, former_root INTEGER)
    WITHOUT ROWID;
CREATE TABLE listings (
    directory INTEGER NOT NULL, object INTEGER NOT NULL, PRIMARY KEY (directory, object)) WITHOUT ROWID;
CREATE INDEX listings_object ON listings (object);
-- Objects that earlier snapshots of a root had, the newest last. Those of files: which file that was, since blocks that
-- did not change are there still.
CREATE TABLE former (
    number INTEGER PRIMARY KEY AUTOINCREMENT, root INTEGER NOT NULL, object INTEGER NOT NULL, directory INTEGER,
    name BLOB, UNIQUE (object, root));
"""


class Connection:
    """One SQLite connection that several threads share. Everything raises sqlite3.Error."""

    def __init__(self, path: Path | str) -> None:
        self._lock = threading.RLock()
        self._sqlite = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=60)
        self._sqlite.execute("PRAGMA journal_mode = WAL")
        # A crash of the machine may lose the last transactions, which only means to hash again.
        self._sqlite.execute("PRAGMA synchronous = NORMAL")

    def rows(self, statement: str, values: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        with self._lock:
            return self._sqlite.execute(statement, values).fetchall()

    def row(self, statement: str, values: Sequence[object] = ()) -> Row | None:
        with self._lock:
            row: Row | None = self._sqlite.execute(statement, values).fetchone()
            return row

    def insert(self, statement: str, values: Sequence[object] = ()) -> int:
        """Returns the new row's id."""
        with self._lock:
            return self._sqlite.execute(statement, values).lastrowid or 0

    def execute_many(self, statement: str, values: Iterable[Sequence[object]]) -> None:
        with self._lock:
            self._sqlite.executemany(statement, values)

    def script(self, statements: str) -> None:
        with self._lock:
            self._sqlite.executescript(statements)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What was done is kept also when the block raises: each row is true by itself."""
        self.rows("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            self._finish()

    def checkpoint(self) -> None:
        """Commit in the middle of a transaction, so that a crash loses little."""
        with self._lock:
            self.rows("COMMIT")
            self.rows("BEGIN IMMEDIATE")

    def copy_to(self, other: Connection) -> None:
        with self._lock:
            self._sqlite.backup(other._sqlite)

    def close(self) -> None:
        with self._lock:
            self._sqlite.close()

    def _finish(self) -> None:
        """Commit, or if that fails (a full disk) undo, so that the next transaction can begin."""
        if not self._sqlite.in_transaction:
            return
        try:
            self.rows("COMMIT")
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                self.rows("ROLLBACK")
            raise


class Database:
    """The state directory: its lock and its two connections."""

    def __init__(self, directory: Path) -> None:
        """Raises UserError if the directory cannot be used or another process uses it."""
        self._directory = directory
        self._lock = _lock(directory)
        self.in_memory = False
        try:
            self.writer, self.reader = self._open()
        except (sqlite3.Error, OSError) as error:
            if not is_unwritable(error) or self._is_misplaced():
                self._unlock()
                raise UserError(f"{directory}: state database: {error}") from None
            self._begin_in_memory(error)

    def rebuild(self) -> None:
        """Throw the database away and begin an empty one, in memory if the disk takes none. Raises sqlite3.Error."""
        log.warning("%s: the state database is damaged or of another version; everything is hashed anew", self._path)
        self._close_connections()
        try:
            self._remove()
            self.writer, self.reader = self._open()
        except (sqlite3.Error, OSError) as error:
            if not is_unwritable(error):
                raise
            self._begin_in_memory(error)

    def retreat(self, error: Exception) -> bool:
        """The disk cannot be written: go on in memory, and with what was there if it can still be read. Returns whether
        it could. Raises sqlite3.Error."""
        writer, reader = self.writer, self.reader
        self._begin_in_memory(error)
        try:
            reader.copy_to(self.writer)
        except sqlite3.Error:
            self._begin()
            return False
        finally:
            for connection in (writer, reader):
                with suppress(sqlite3.Error):
                    connection.close()
        return True

    def close(self) -> None:
        self._close_connections()
        self._unlock()

    @property
    def directory_id(self) -> tuple[int, int] | None:
        """Device and inode of the state directory."""
        try:
            status = self._directory.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _begin_in_memory(self, error: Exception) -> None:
        log.warning(
            "%s: cannot be written (%s): the index is kept in memory, and the next start hashes anew what has changed",
            self._directory,
            error.strerror if isinstance(error, OSError) else error,
        )
        self.in_memory = True
        self._begin()

    def _begin(self) -> None:
        self.writer = self.reader = _with_schema(Connection(":memory:"))

    def _is_misplaced(self) -> bool:
        """Whether the database cannot be opened, but not because of the disk: SQLite does not tell a file of another
        user from a disk that is read-only."""
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            return error.errno not in _UNWRITABLE
        return False

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)

    @property
    def _path(self) -> Path:
        return self._directory / _FILES[0]

    def _open(self) -> tuple[Connection, Connection]:
        if self._path.exists() and not _is_sound(self._path):
            log.warning("%s: damaged or of another version; everything is hashed anew", self._path)
            self._remove()
        writer = _with_schema(Connection(self._path))
        return writer, Connection(self._path)

    def _remove(self) -> None:
        for name in _FILES:
            (self._directory / name).unlink(missing_ok=True)

    def _close_connections(self) -> None:
        for connection in (self.writer, self.reader):
            with suppress(sqlite3.Error):
                connection.close()


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is at fault, and not the disk's size or permissions."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_unwritable(error: Exception) -> bool:
    """Whether the disk is full, broken or read-only."""
    if isinstance(error, OSError):
        return error.errno in _UNWRITABLE
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _UNWRITABLE_CODES


_UNWRITABLE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
_UNWRITABLE_CODES: Final = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
}


def _with_schema(connection: Connection) -> Connection:
    if not _is_ours(connection):
        mark = f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {SCHEMA_VERSION}"
        connection.script(f"BEGIN; {_SCHEMA} {mark}; COMMIT")
    return connection


def _is_sound(path: Path) -> bool:
    """Whether a database is ours and whole. An empty file, from a crash at the very start, is: it gets a schema."""
    try:
        connection = Connection(path)
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return False
        raise
    try:
        is_new = connection.row("SELECT 1 FROM sqlite_schema") is None and _pragma(connection, "application_id") == 0
        return is_new or (_is_ours(connection) and _pragma(connection, "quick_check(1)") == "ok")
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return False
        raise
    finally:
        connection.close()


def _is_ours(connection: Connection) -> bool:
    ours = (_APPLICATION, SCHEMA_VERSION)
    return (_pragma(connection, "application_id"), _pragma(connection, "user_version")) == ours


def _pragma(connection: Connection, name: str) -> object:
    row = connection.row(f"PRAGMA {name}")
    return row[0] if row else None


def _lock(directory: Path) -> int | None:
    """Make the directory and lock it for this process; None if there can be no lock in it, nor anything else that is
    written. Raises UserError."""
    try:
        fd = _open_lock(directory)
    except OSError as error:
        if directory.is_dir() and error.errno in _UNWRITABLE:
            return None
        raise UserError(f"{directory}: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise InUse(f"{directory}: in use by another mcfs-serve; give this one its own --state-dir") from None
        raise UserError(f"{directory}: {error.strerror}") from None
    return fd


def _open_lock(directory: Path) -> int:
    """Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        directory.chmod(0o700)
        return os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        return os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC)  # of a start before
