"""One scan of one share, from the walk to the snapshot.

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

from mcfs.protocol.catalog import DirectoryEntry, FileEntry, Owners, encode_listing
from mcfs.protocol.errors import UserError
from mcfs.serve.beneath import Beneath, open_root
from mcfs.serve.hashing import Hashers, Meter
from mcfs.serve.listing import Item, ListingBuilder, OwnerNames, TooLarge, weigh
from mcfs.serve.walk import FoundDirectory, attributes_of, found_file, walk
from mcfs.serve.work import DirectoryWork, Tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mcfs.protocol.ids import ObjectRef
    from mcfs.serve.ledger import Ledger

log = logging.getLogger(__name__)

Top: TypeAlias = "FileEntry | DirectoryEntry"

AHEAD: Final = 20_000
"""Files between the walk and the listings: enough to keep threads busy past one large file; 1 kB each."""
MAX_WARNINGS: Final = 100
"""Files left out that are named, in the log and in the snapshot; the others are counted."""
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


class Scan:
    """A scan under way. Use once: run() in an open transaction, then close()."""

    def __init__(self, path: Path, name: bytes, ledger: Ledger, progress: Callable[[ScanProgress], None]) -> None:
        """Raises UserError if there is nothing at `path` to share."""
        self.root_path, self._only, fd = _open(path)
        self.beneath = Beneath(fd)
        self.root = ledger.root(self.root_path)
        self.meter = Meter()
        self._name = name
        self._ledger = ledger
        self._progress = progress
        self._warnings = _Warnings(self.root_path)
        self._names = OwnerNames(lambda uid: pwd.getpwuid(uid).pw_name, lambda gid: grp.getgrgid(gid).gr_name)
        self._items: dict[bytes, list[Item]] = {}
        self._seen: set[int] = set()
        self._listings: set[int] = set()
        self._files = self._bytes = 0
        self._committed = (0, 0)
        self._top: Top | None = None

    def run(self, block_size: int, threads: int, now_ms: int) -> Snapshot:
        """Raises UserError if the root cannot be read, sqlite3.Error, and what `progress` raises."""
        with Hashers(self.beneath, block_size, threads, self.meter) as hashers:
            tools = Tools(self.beneath, self._ledger, hashers, block_size, self._warnings.add)
            top = self._hash_tree(tools, ListingBuilder(self._keep_listing(block_size), self._names.owners))
        self._ledger.keep_directories(self.root, self._seen)
        return self._snapshot(top, now_ms)

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
            yield self._only
            return
        try:
            yield from walk(self.beneath, self._warnings.add)
        except OSError as error:
            raise UserError(f"{os.fsdecode(self.root_path)}: {error.strerror}") from None

    def _begin(self, found: FoundDirectory, tools: Tools) -> DirectoryWork:
        row = self._ledger.directory(self.root, found.path)
        self._seen.add(row)
        work = DirectoryWork(found, row, tools)
        work.start()
        return work

    def _end(self, work: DirectoryWork, builder: ListingBuilder) -> None:
        files = work.finish(self._tick)
        self._files += len(files)
        self._bytes += sum(file.size for file in files)
        if self._only:
            self._top = self._only_file(files)
        else:
            self._build(work.found, files, builder)
        self._tick()
        self._commit_sometimes()

    def _build(self, found: FoundDirectory, files: list[FileEntry], builder: ListingBuilder) -> None:
        items = self._items.pop(found.path, [])
        items += [Item(file, weigh(file)) for file in files]
        items += [Item(link, weigh(link)) for link in found.links]
        items.sort(key=lambda item: item.entry.name)
        for item in items:
            self._names.meet(item.entry.attributes)
        self._names.meet(found.attributes)
        if not found.path:
            self._top = self._root_entry(builder, found, items)
            return
        parent, _, name = found.path.rpartition(b"/")
        try:
            self._items.setdefault(parent, []).append(builder.directory(name, found.attributes, items))
        except TooLarge as error:
            self._warnings.add(f"directory left out: {error}", found.path)

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
        self._progress(ScanProgress(self._files, self._bytes, self.meter.bytes_hashed))

    def _commit_sometimes(self) -> None:
        files, hashed = self._committed
        if self._files - files > _COMMIT_FILES or self.meter.bytes_hashed - hashed > _COMMIT_BYTES:
            self._ledger.checkpoint()
            self._committed = (self._files, self.meter.bytes_hashed)

    def _snapshot(self, top: Top, now_ms: int) -> Snapshot:
        owners = self._names.owners
        encoded = encode_listing([top], owners)
        version, last = self._ledger.snapshot(self._name) or (0, b"")
        if encoded != last:
            version = max(version + 1, now_ms)
        self._ledger.save_snapshot(self._name, version, self.root, encoded, self._listings)
        return Snapshot(self._name, version, top, owners, self._bytes, self._files, self._warnings.summary())


class _Warnings:
    """What is left out, in the log and in the snapshot. Bounded: a tree may hold a million sockets."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._others = 0
        self.lines: list[str] = []

    def add(self, reason: str, path: bytes) -> None:
        if len(self.lines) == MAX_WARNINGS:
            self._others += 1
            return
        # repr, since a name may hold what moves a terminal's cursor
        self.lines.append(f"{os.fsdecode(os.path.join(self._root, path))!r}: {reason}")
        log.warning("%s", self.lines[-1])

    def summary(self) -> tuple[str, ...]:
        if not self._others:
            return tuple(self.lines)
        others = f"{self._others} more left out"
        log.warning("%s", others)
        return (*self.lines, others)


def _open(path: Path) -> tuple[bytes, FoundDirectory | None, int]:
    """The real path, a regular file's own description, and the directory to open things from."""
    try:
        real = os.path.realpath(os.fsencode(path), strict=True)
        status = os.stat(real, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            return real, None, open_root(real)
        if stat.S_ISREG(status.st_mode):
            parent, name = os.path.split(real)
            only = FoundDirectory(b"", attributes_of(status), [found_file(name, status)], [], [])
            return real, only, open_root(parent)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    raise UserError(f"{path}: neither a directory nor a regular file")
