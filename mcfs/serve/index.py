"""The index: what this server shares, and a memory of what hashing gave, so that a restart hashes only what changed."""

from __future__ import annotations

import os
import sqlite3
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from mcfs.protocol.errors import UserError
from mcfs.protocol.ids import DEFAULT_BLOCK_SIZE, is_block_size
from mcfs.serve.database import Database, is_damage
from mcfs.serve.ledger import Ledger
from mcfs.serve.scan import Scan, ScanProgress, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from mcfs.protocol.ids import ObjectRef
    from mcfs.serve.beneath import Beneath
    from mcfs.serve.database import Connection

__all__ = ["Index", "ScanProgress", "Snapshot", "Statistics"]

_SERVING_DIRECTORIES: Final = 2
"""Directories kept open per share between scans: what is loaded is opened by its whole path."""


@dataclass(slots=True)
class Statistics:
    """What the scans of an index read, all together."""

    files_read: int = 0
    """Opened to be hashed, each time."""
    bytes_hashed: int = 0
    """Holes included."""


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
        self._roots: dict[int, Beneath] = {}
        self._doubts: set[int] = set()

    @classmethod
    def open(cls, state_dir: Path, block_size: int = DEFAULT_BLOCK_SIZE, threads: int | None = None) -> Self:
        """Raises UserError if the directory cannot be used or another process uses it."""
        if not is_block_size(block_size):
            raise UserError(f"block size {block_size}: must be a power of two from 64 KiB to 16 MiB")
        index = cls(Database(state_dir), block_size, threads or os.cpu_count() or 1)
        ledger = Ledger(index._database.writer)
        ledger.remove_objects(ledger.unfinished_objects())
        return index

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the state directory. Nothing may be scanning; what loads gets Gone."""
        for beneath in self._roots.values():
            beneath.close()
        self._database.close()

    def scan(
        self, path: Path, name: bytes, *, now_ms: int, progress: Callable[[ScanProgress], None] = lambda _: None
    ) -> Snapshot:
        """Index a directory or a regular file as share `name`. Blocks for as long as it takes to hash what is new.

        `now_ms` is Unix time. `progress` is called in this thread, after each directory and about five times a second
        while there is only hashing to wait for. It may raise to stop the scan: what was hashed so far is kept. Raises
        UserError if the path cannot be read or the state directory cannot be written.
        """
        with self._scanning:
            try:
                return self._scan(path, name, now_ms, progress)
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise UserError(f"state database: {error}") from None
            try:
                self._database.rebuild()
                return self._scan(path, name, now_ms, progress)
            except sqlite3.Error as error:
                raise UserError(f"state database: {error}") from None

    def _scan(self, path: Path, name: bytes, now_ms: int, progress: Callable[[ScanProgress], None]) -> Snapshot:
        ledger = Ledger(self._database.writer)
        with ledger.transaction():
            while self._doubts:
                ledger.doubt(self._doubts.pop())
            scan = Scan(path, name, ledger, progress)
            try:
                snapshot = scan.run(self.block_size, self._threads, now_ms)
                self._serve(scan.root, scan.beneath.successor(_SERVING_DIRECTORIES))
            finally:
                scan.close()
                self.statistics.files_read += scan.meter.files_read
                self.statistics.bytes_hashed += scan.meter.bytes_hashed
        return snapshot

    def _serve(self, root: int, beneath: Beneath) -> None:
        """Load from the very directory that was scanned, even if another one takes its name."""
        old = self._roots.get(root)
        self._roots[root] = beneath
        if old:
            old.close()

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

    def root(self, row: int) -> Beneath | None:
        """The open directory of a root that this index has scanned since it was opened."""
        return self._roots.get(row)

    def doubt(self, object_: int) -> None:
        """Have the next scan hash the files behind an object: they do not hash to what the database says."""
        self._doubts.add(object_)

    def collect(self, keep: Collection[int]) -> None:
        """Forget the objects that nothing refers to, except those to `keep`. Does nothing while a scan runs."""
        if not self._scanning.acquire(blocking=False):
            return
        try:
            ledger = Ledger(self._database.writer)
            with ledger.transaction():
                ledger.remove_objects([row for row in ledger.orphans() if row not in keep])
        finally:
            self._scanning.release()
