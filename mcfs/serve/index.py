"""The index: what this server shares, and a memory of what hashing gave, so that a restart hashes only what changed."""

from __future__ import annotations

import os
import sqlite3
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Self

from mcfs.protocol.errors import UserError
from mcfs.protocol.ids import DEFAULT_BLOCK_SIZE, is_block_size
from mcfs.serve.database import Database, is_damage, is_unwritable
from mcfs.serve.ledger import Ledger
from mcfs.serve.scan import Order, Scan, ScanProgress, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from mcfs.protocol.ids import ObjectRef
    from mcfs.serve.beneath import Beneath
    from mcfs.serve.database import Connection
    from mcfs.serve.lookup import Place

__all__ = ["Index", "Order", "ScanProgress", "Snapshot", "Statistics"]

_SERVING_DIRECTORIES: Final = 2
"""Directories kept open per share between scans: what is loaded is opened by its whole path."""


@dataclass(slots=True)
class Statistics:
    """What the scans of an index read, all together."""

    files_read: int = 0
    """Opened to be hashed, each time."""
    bytes_hashed: int = 0
    """Holes included."""


@dataclass(slots=True)
class _Root:
    beneath: Beneath
    identity: tuple[int, int]
    """Device and inode of the directory."""
    path: bytes
    """The real path of what is shared."""


class Index:
    """The state directory, and the trees that were scanned.

    One scan runs at a time; the store reads at the same time from other threads.
    """

    def __init__(self, database: Database, block_size: int, threads: int) -> None:
        self.block_size = block_size
        self.statistics = Statistics()
        self._database = database
        self._threads = threads
        self._scanning = threading.Lock()
        self._roots: dict[int, _Root] = {}
        self._root_of: dict[bytes, int] = {}
        """Of each share, by name."""
        self._versions: dict[bytes, int] = {}
        """Of each share, by name: none may be lower later, also if the database is lost and the clock is set back."""
        self._logged: set[str] = set()
        """Warnings."""
        self._doubts: set[int] = set()
        self.on_doubt: Callable[[bytes, bytes], None] = lambda root, directory: None
        """Called, in any thread, with the real path of a root and a directory below it in which a file is not what it
        was when it was hashed."""
        self.on_failure: Callable[[], None] = lambda: None
        """Called, in any thread, when the state database cannot be read, or was made anew: then what is known of shares
        may be lost. The next scan of everything mends that."""

    @classmethod
    def open(cls, state_dir: Path, block_size: int = DEFAULT_BLOCK_SIZE, threads: int | None = None) -> Self:
        """Raises UserError if the directory cannot be used or another process uses it."""
        if not is_block_size(block_size):
            raise UserError(f"block size {block_size}: must be a power of two from 64 KiB to 16 MiB")
        index = cls(Database(state_dir), block_size, threads or os.cpu_count() or 1)
        ledger = Ledger(index._database.writer)
        try:
            ledger.remove_objects(ledger.unfinished_objects())
        except sqlite3.Error as error:
            index._mend(error)
        return index

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the state directory. Nothing may be scanning; what loads gets Gone."""
        for root in self._roots.values():
            root.beneath.close()
        self._database.close()

    def scan(
        self, path: Path, name: bytes, *, now_ms: int, progress: Callable[[ScanProgress], None] = lambda _: None
    ) -> Snapshot:
        """Index a directory or a regular file as share `name`; see `run`."""
        return self.run(Order(path, name, now_ms, progress=progress))

    def run(self, order: Order, *, threads: int | None = None) -> Snapshot:
        """Index a share. Blocks for as long as it takes to hash what is new, with so many threads (by default all).

        What stops it (`Order`) leaves what was hashed so far. Raises UserError if the path cannot be read or the state
        directory cannot be used at all: where it is full or cannot be written the index goes on in memory.
        """
        with self._scanning:
            try:
                return self._scan(order, threads)
            except sqlite3.Error as error:
                self._mend(error)
            # What was kept of directories may be lost now, so everything is looked at.
            try:
                return self._scan(replace(order, touched=replace(order.touched, everything=True)), threads)
            except sqlite3.Error as error:
                raise UserError(f"state database: {error}") from None

    def _mend(self, error: sqlite3.Error) -> None:
        """Have a database that works again. Raises UserError."""
        kept = False
        try:
            if is_damage(error):
                self._database.rebuild()
            elif is_unwritable(error) and not self._database.in_memory:
                kept = self._database.retreat(error)
            else:
                raise error
        except sqlite3.Error as worse:
            raise UserError(f"state database: {worse}") from None
        if not kept:
            self.on_failure()

    def _scan(self, order: Order, threads: int | None) -> Snapshot:
        ledger = Ledger(self._database.writer)
        with ledger.transaction():
            while self._doubts:
                ledger.doubt(self._doubts.pop())
            newest = self._versions.get(order.name, 0)
            scan = Scan(order, ledger, self._logged, self._database.directory_id, newest=newest)
            try:
                snapshot = scan.run(self.block_size, threads or self._threads)
                if order.touched.everything:
                    ledger.remove_objects(ledger.orphans())
                self._versions[order.name] = snapshot.version
                self._serve(scan, order.name)
                self._close_roots(self._roots.keys() - ledger.roots())
            finally:
                scan.close()
                self.statistics.files_read += scan.meter.files_read
                self.statistics.bytes_hashed += scan.meter.bytes_hashed
        return snapshot

    def _serve(self, scan: Scan, name: bytes) -> None:
        """Load from the very directory that was scanned, even if another one takes its name."""
        root, identity = scan.root, scan.beneath.identity
        self._root_of[name] = root
        old = self._roots.get(root)
        if old is not None and old.identity == identity:
            return  # threads are reading from it
        self._roots[root] = _Root(scan.beneath.successor(_SERVING_DIRECTORIES), identity, scan.root_path)
        if old is not None:
            old.beneath.close()

    def _close_roots(self, rows: Iterable[int]) -> None:
        for row in rows:
            self._roots.pop(row).beneath.close()

    # --- for the store -----------------------------------------------------------------------------------------------

    @property
    def reader(self) -> Connection:
        """Sees what was committed."""
        return self._database.reader

    def objects_of(self, name: bytes) -> Iterator[tuple[int, ObjectRef]]:
        """The objects of a share's newest snapshot, with their rows.

        They come through the writer: that the reader is busy with 100,000 rows would be felt by all who wait for bytes.
        """
        return Ledger(self._database.writer).objects_of(name)

    def former_of(self, name: bytes) -> Iterator[tuple[int, ObjectRef]]:
        """The objects of a share's earlier snapshots, as far as they are kept, with their rows."""
        return Ledger(self._database.writer).former_of(name)

    @property
    def roots(self) -> tuple[frozenset[int], frozenset[int]]:
        """Those of the shares, and those that they had before and that are open still."""
        current = frozenset(self._root_of.values())
        return current, frozenset(self._roots) - current

    def root(self, row: int) -> Beneath | None:
        """The open directory of a root that this index has scanned since it was opened."""
        root = self._roots.get(row)
        return root.beneath if root else None

    def doubt(self, object_: int, places: Iterable[Place]) -> None:
        """Have the next scan hash the files behind an object: they do not hash to what the database says."""
        self._doubts.add(object_)
        for place in places:
            if (root := self._roots.get(place.root)) is not None:
                self.on_doubt(root.path, place.directory)
