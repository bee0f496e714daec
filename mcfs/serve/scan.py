"""One scan of one share, from the walk to the snapshot.

A scan looks at everything, or goes only where something has changed (`Touched`) and along the way there; what it passes
by is taken from the database as the last scan has left it.

A pipeline in the calling thread: the walk finds a directory, its unknown files go to the hashing threads, and behind,
in the same order, directories whose files are done become listings. So all threads have work across directories, while
what is in memory is what lies between the two ends (AHEAD), and the largest directory.
"""

from __future__ import annotations

import grp
import logging
import os
import pwd
import stat
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from mcfs.protocol.catalog import DirectoryEntry, FileEntry, Owners, encode_listing, walk_inlined
from mcfs.protocol.errors import UserError
from mcfs.serve.beneath import Beneath, open_root, upward
from mcfs.serve.changes import EVERYTHING, Touched
from mcfs.serve.hashing import Hashers, Meter
from mcfs.serve.listing import Item, ListingBuilder, OwnerNames, TooLarge, decode_item, encode_item, item_of
from mcfs.serve.walk import FoundDirectory, Guide, attributes_of, found_file, walk
from mcfs.serve.work import DirectoryWork, Tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from mcfs.protocol.ids import ObjectRef
    from mcfs.serve.ledger import Ledger

log = logging.getLogger(__name__)

Top: TypeAlias = "FileEntry | DirectoryEntry"

AHEAD: Final = 20_000
"""Files between the walk and the listings: enough to keep threads busy past one large file; 1 kB each."""
MAX_WARNINGS: Final = 100
"""Files left out that are named, in the log and in the snapshot; the others are counted."""
MAX_LOGGED: Final = 1000
"""Warnings that are remembered, so that each is logged once and not by each scan."""
_COMMIT_FILES: Final = 20_000
_COMMIT_BYTES: Final = 4 << 30
"""Files and bytes after which work is committed: what a crash may cost."""


@dataclass(frozen=True, slots=True)
class ScanProgress:
    """How far a scan has come. Figures only grow."""

    files: int
    """Whose entries are finished."""
    bytes: int
    """In those files."""
    bytes_hashed: int
    """Read and hashed, holes included; of unchanged files nothing is."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A share at one time."""

    name: bytes
    version: int
    entry: Top
    """Has the share's name. A directory refers to its listing object."""
    owners: Owners
    total_bytes: int
    total_files: int
    warnings: tuple[str, ...]
    """What was left out and why: MAX_WARNINGS, and one line that counts the others."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to scan, whom to tell and whom to ask. All are called in the threads of the scan, and what they raise stops
    it."""

    path: Path
    name: bytes
    now_ms: int
    """Unix time."""
    touched: Touched = EVERYTHING
    progress: Callable[[ScanProgress], None] = lambda _: None
    """Called after each directory, and about five times a second while there is only hashing to wait for."""
    observe: Callable[[int, bytes], None] = lambda _, __: None
    """Called with each directory before it is read: an open descriptor, and its path below the root."""
    clock_ns: Callable[[], int] = lambda: 0
    """Unix time now, to tell which files were changed a moment ago."""
    breathe: Callable[[], None] = lambda: None
    """Called every millisecond or so of work by each thread; it may sleep, so that others get the processor."""


class Scan:
    """A scan under way. Use once: run() in an open transaction, then close()."""

    def __init__(
        self,
        order: Order,
        ledger: Ledger,
        known_warnings: set[str],
        state: tuple[int, int] | None = None,
        *,
        newest: int = 0,
    ) -> None:
        """`known_warnings` have been logged before, and grow. `state` is the device and inode of the state directory.
        `newest` is the highest version that is known beside what the database says.

        Raises UserError if there is nothing at the path to share."""
        self.root_path, self._only, fd = _open(order.path)
        self.beneath = Beneath(fd)
        self.root = ledger.root(self.root_path)
        self.meter = Meter(order.breathe)
        self._name = order.name
        self._order = order
        self._ledger = ledger
        self._state = state
        self._newest = newest
        self._touched = order.touched
        self._unsettled = _by_directory(order.touched.unsettled)
        self._visit = {up for path in order.touched.directories | order.touched.trees for up in upward(path)}
        self._warnings = _Warnings(self.root_path, known_warnings)
        self._names = OwnerNames(lambda uid: pwd.getpwuid(uid).pw_name, lambda gid: grp.getgrgid(gid).gr_name)
        self._items: dict[bytes, list[Item]] = {}
        self._seen: set[int] = set()
        self._visited: list[int] = []
        self._listings: set[int] = set()
        """Of the directory that is being built."""
        self._files = self._bytes = 0
        self._total = (0, 0)
        self._committed = (0, 0)
        self._top: Top | None = None

    def run(self, block_size: int, threads: int) -> Snapshot:
        """Raises UserError if the root cannot be read, sqlite3.Error, and what `progress` raises."""
        with Hashers(self.beneath, block_size, threads, self.meter) as hashers:
            tools = Tools(self.beneath, self._ledger, hashers, block_size, self._warnings.add, self._order.clock_ns)
            top = self._hash_tree(tools, ListingBuilder(self._keep_listing(block_size), self._names.owners))
        if self._touched.everything:
            self._ledger.keep_directories(self.root, self._seen)
        else:
            self._ledger.keep_subdirectories(self.root, self._visited, self._seen)
        self._ledger.settle_former(self.root)
        return self._snapshot(top)

    def close(self) -> None:
        self.beneath.close()

    # --- the pipeline ------------------------------------------------------------------------------------------------

    def _hash_tree(self, tools: Tools, builder: ListingBuilder) -> Top:
        ahead: deque[DirectoryWork] = deque()
        waiting = 0
        for found in self._found():
            ahead.append(self._begin(found, tools))
            waiting += 1 + len(found.files)
            while ahead and (waiting > AHEAD or ahead[0].is_done):
                waiting -= 1 + len(ahead[0].found.files)
                self._end(ahead.popleft(), builder)
        while ahead:
            self._end(ahead.popleft(), builder)
        assert self._top, "the root comes last"
        return self._top

    def _found(self) -> Iterator[FoundDirectory]:
        if self._only:
            yield self._found_only(self._only)
            return
        order = self._order
        guide = Guide(self._warnings.add, self._enter, order.observe, order.breathe, order.clock_ns, self._state)
        try:
            yield from walk(self.beneath, guide)
        except OSError as error:
            raise UserError(f"{os.fsdecode(self.root_path)}: {error.strerror}") from None

    def _found_only(self, name: bytes) -> FoundDirectory:
        try:
            with self.beneath.directory(b"") as fd:
                self._order.observe(fd, b"")
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            raise UserError(f"{os.fsdecode(self.root_path)}: {error.strerror}") from None
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{os.fsdecode(self.root_path)}: neither a directory nor a regular file")
        return FoundDirectory(b"", attributes_of(status), [found_file(name, status, self._order.clock_ns())], [], [])

    def _enter(self, path: bytes) -> bool:
        """Whether to go into a directory; else it is as the last scan has left it."""
        if path in self._visit or self._touched.within(path):
            return True
        kept = self._ledger.item(self.root, path)
        if kept is None:
            return True
        row, data = kept
        if data is not None:
            try:
                item = decode_item(data)
            except ValueError:  # a disk may give back what was never written
                return True
            self._items.setdefault(path.rpartition(b"/")[0], []).append(item)
        self._seen.add(row)
        return False

    def _begin(self, found: FoundDirectory, tools: Tools) -> DirectoryWork:
        row = self._ledger.directory(self.root, found.path)
        self._seen.add(row)
        self._visited.append(row)
        work = DirectoryWork(found, row, tools, self._unsettled.get(found.path, ()))
        work.start()
        return work

    def _end(self, work: DirectoryWork, builder: ListingBuilder) -> None:
        files = work.finish(self._tick)
        self._files += len(files)
        self._bytes += sum(file.size for file in files)
        if self._only:
            self._top = self._only_file(files)
            self._total = len(files), sum(file.size for file in files)
        else:
            self._build(work, files, builder)
        self._tick()
        self._commit_sometimes()

    def _build(self, work: DirectoryWork, files: list[FileEntry], builder: ListingBuilder) -> None:
        found = work.found
        items = self._items.pop(found.path, [])
        items += map(item_of, files)
        items += map(item_of, found.links)
        items.sort(key=lambda item: item.entry.name)
        for entry in walk_inlined([item.entry for item in items]):
            self._names.meet(entry.attributes)
        self._names.meet(found.attributes)
        self._listings = set()
        if found.path:
            self._add_item(work, builder, items)
        else:
            self._top = self._root_entry(builder, found, items)
            self._total = sum(item.files for item in items), sum(item.bytes for item in items)
        self._ledger.save_listings(self.root, work.row, self._listings)

    def _add_item(self, work: DirectoryWork, builder: ListingBuilder, items: list[Item]) -> None:
        parent, _, name = work.found.path.rpartition(b"/")
        try:
            item = builder.directory(name, work.found.attributes, items)
        except TooLarge as error:
            self._warnings.add(f"directory left out: {error}", work.found.path)
            self._ledger.save_item(work.row, None)
        else:
            self._items.setdefault(parent, []).append(item)
            self._ledger.save_item(work.row, encode_item(item))

    def _root_entry(self, builder: ListingBuilder, found: FoundDirectory, items: list[Item]) -> DirectoryEntry:
        try:
            return builder.object(self._name, found.attributes, items)
        except TooLarge as error:
            raise UserError(f"{os.fsdecode(self.root_path)}: {error}: share its subdirectories") from None

    def _only_file(self, files: list[FileEntry]) -> FileEntry:
        if not files:
            raise UserError(self._warnings.lines[-1] if self._warnings.lines else f"{self._name!r}: deleted")
        self._names.meet(files[0].attributes)
        return replace(files[0], name=self._name)

    def _keep_listing(self, block_size: int) -> Callable[[bytes], ObjectRef]:
        def keep(data: bytes) -> ObjectRef:
            row, ref = self._ledger.add_listing(data, block_size)
            self._listings.add(row)
            return ref

        return keep

    def _tick(self) -> None:
        self._order.breathe()
        self._order.progress(ScanProgress(self._files, self._bytes, self.meter.bytes_hashed))

    def _commit_sometimes(self) -> None:
        files, hashed = self._committed
        if self._files - files > _COMMIT_FILES or self.meter.bytes_hashed - hashed > _COMMIT_BYTES:
            self._ledger.checkpoint()
            self._committed = (self._files, self.meter.bytes_hashed)

    def _snapshot(self, top: Top) -> Snapshot:
        owners = self._names.owners
        encoded = encode_listing([top], owners)
        version, last = self._ledger.snapshot(self._name) or (self._newest, b"")
        if encoded != last:
            version = max(version + 1, self._order.now_ms)
        self._ledger.save_snapshot(self._name, version, self.root, encoded)
        files, size = self._total
        return Snapshot(self._name, version, top, owners, size, files, self._warnings.summary())


def _by_directory(files: Iterable[tuple[bytes, bytes]]) -> dict[bytes, set[bytes]]:
    names: dict[bytes, set[bytes]] = {}
    for directory, name in files:
        names.setdefault(directory, set()).add(name)
    return names


class _Warnings:
    """What is left out, in the log and in the snapshot. Bounded: a tree may hold a million sockets.

    What was logged by an earlier scan is not logged again.
    """

    def __init__(self, root: bytes, logged: set[str]) -> None:
        self._root = root
        self._logged = logged
        self._others = 0
        self.lines: list[str] = []

    def add(self, reason: str, path: bytes) -> None:
        if len(self.lines) == MAX_WARNINGS:
            self._others += 1
            return
        # repr, since a name may hold what moves a terminal's cursor
        self.lines.append(f"{os.fsdecode(os.path.join(self._root, path))!r}: {reason}")
        self._log(self.lines[-1])

    def summary(self) -> tuple[str, ...]:
        if not self._others:
            return tuple(self.lines)
        others = f"{self._others} more left out"
        self._log(others)
        return (*self.lines, others)

    def _log(self, line: str) -> None:
        if line in self._logged:
            return
        if len(self._logged) >= MAX_LOGGED:
            self._logged.clear()
        self._logged.add(line)
        log.warning("%s", line)


def _open(path: Path) -> tuple[bytes, bytes, int]:
    """The real path, the name of a regular file (b"" for a directory), and the directory to open things from."""
    try:
        real = os.path.realpath(os.fsencode(path), strict=True)
        status = os.stat(real, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            return real, b"", open_root(real)
        if stat.S_ISREG(status.st_mode):
            parent, name = os.path.split(real)
            return real, name, open_root(parent)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    raise UserError(f"{path}: neither a directory nor a regular file")
