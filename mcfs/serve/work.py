"""One directory's files on their way from the walk to entries.

First what the database knows, also of a file at another place, is set against what is there; the rest is hashed in
threads. A file that cannot be read is left out. One that changed meanwhile is looked at again, and since its size may
have changed, and with it the packs, the whole directory is planned again; what was hashed stays known. Nothing is
hashed twice for another file's sake, but for the pack that it shares.

A file that is being written, or that does not come to rest, stays as it was when it was hashed: its entry is the old
one, and of its blocks those can be had that are still there. If it is new it is left out.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, Final

from blake3 import blake3

from mcfs.protocol.catalog import Extent, FileEntry
from mcfs.protocol.ids import Digest
from mcfs.serve import pack
from mcfs.serve.beneath import join
from mcfs.serve.ledger import Known, Ledger, Packed
from mcfs.serve.reading import Unsteady
from mcfs.serve.walk import STAMP_SIZE, FoundDirectory, FoundFile, as_it_was, found_file, stale

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from mcfs.protocol.ids import ObjectRef
    from mcfs.serve.beneath import Beneath
    from mcfs.serve.hashing import FileHash, Hashers, PackHash

ATTEMPTS: Final = 4
"""How often a file that changes while it is read is hashed: once and three times again."""
_EMPTY: Final = Digest(blake3(b"").digest())
_SPOOL: Final = 64
"""Pages of a file that are written to the database at a time: 2 MiB."""


class Tools:
    """What all directories of one scan share."""

    def __init__(
        self,
        beneath: Beneath,
        ledger: Ledger,
        hashers: Hashers,
        block_size: int,
        warn: Callable[[str, bytes], None],
        clock_ns: Callable[[], int],
    ) -> None:
        """`clock_ns`: Unix time."""
        self.beneath = beneath
        self.ledger = ledger
        self.hashers = hashers
        self.block_size = block_size
        self.warn = warn
        self.clock_ns = clock_ns


class DirectoryWork:
    """The files of one directory. start(), then finish() as soon as `is_done` or whenever it has to be."""

    def __init__(self, found: FoundDirectory, row: int, tools: Tools, unsettled: Collection[bytes] = ()) -> None:
        """`unsettled`: names of files that are being written."""
        self.found = found
        self.row = row
        self._tools = tools
        self._known = tools.ledger.files(row)
        self._files = {file.name: file for file in self._settle(found.files, unsettled)}
        self._gone = self._known.keys() - self._files.keys()
        self._new: dict[bytes, Known] = {}
        self._packs: list[tuple[pack.Pack, bytes]] = []
        self._packed: dict[bytes, Packed] = {}
        self._attempts: dict[bytes, int] = {}
        self._file_jobs: dict[Future[FileHash], tuple[FoundFile, _Pages]] = {}
        self._pack_jobs: dict[Future[PackHash], pack.Pack] = {}

    def start(self) -> None:
        """Hand to the threads what has to be hashed."""
        small = []
        for file in self._files.values():
            if 0 < file.size <= pack.SMALL:
                small.append(file)
            elif file.size and not self._is_known(file):
                self._start_file(file)
        self._packs = []
        for group in pack.cut(small, self._tools.block_size):
            self._start_pack(group)

    @property
    def is_done(self) -> bool:
        """Whether finish() would not wait."""
        # The last one first: threads take them in order, so that one tells soonest.
        return all(job.done() for job in reversed(self._jobs()))

    def finish(self, tick: Callable[[], None]) -> list[FileEntry]:
        """Wait, calling `tick` now and then, remember the results, and return the entries sorted by name."""
        while jobs := self._jobs():
            while wait(jobs, timeout=0.2).not_done:
                tick()
            self._take_files()
            self._take_packs()
            self.start()
        self._save()
        return self._entries()

    # --- planning ----------------------------------------------------------------------------------------------------

    def _settle(self, files: list[FoundFile], unsettled: Collection[bytes]) -> Iterator[FoundFile]:
        for file in files:
            old = self._as_it_was(file) if file.name in unsettled else file
            if old is not None:
                yield old

    def _as_it_was(self, file: FoundFile) -> FoundFile | None:
        """A file as it was when it was hashed; None if it never was."""
        known = self._known.get(file.name)
        return as_it_was(file, known.stamp) if known and len(known.stamp) == STAMP_SIZE else None

    def _jobs(self) -> list[Future[Any]]:
        return [*self._file_jobs, *self._pack_jobs]

    def _is_known(self, file: FoundFile) -> bool:
        known = self._known.get(file.name)
        if known is None or known.stamp != file.stamp:
            known = self._tools.ledger.elsewhere(file.stamp)
            if known is None:
                return False
            self._known[file.name] = self._new[file.name] = known
        return file.size <= pack.SMALL or (known.ref is not None and known.ref.block_size == self._tools.block_size)

    def _start_file(self, file: FoundFile) -> None:
        pages = _Pages(self._tools.ledger, file.size, self._tools.block_size)
        self._file_jobs[self._tools.hashers.file(self.found.path, file, pages.add)] = (file, pages)

    def _start_pack(self, group: pack.Pack) -> None:
        if all(self._is_known(member) for member in group.members):
            content = [(self._known[member.name].b3sum, member.size) for member in group.members]
            key = pack.key(content, self._tools.block_size)
            packed = self._packed.get(key) or self._tools.ledger.pack(key)
            if packed:
                self._packed[key] = packed
                self._packs.append((group, key))
                return
        self._pack_jobs[self._tools.hashers.pack(self.found.path, group)] = group

    # --- results -----------------------------------------------------------------------------------------------------

    def _take_files(self) -> None:
        jobs, self._file_jobs = self._file_jobs, {}
        for job, (file, pages) in jobs.items():
            try:
                result = job.result()
            except (OSError, Unsteady) as error:
                pages.drop()
                self._failed(file, error)
            else:
                self._learn(file, result.b3sum, pages.finish(result.object), result.object)

    def _take_packs(self) -> None:
        jobs, self._pack_jobs = self._pack_jobs, {}
        for job, group in jobs.items():
            result = job.result()
            for member in group.members:
                if member.name in result.b3sums:
                    self._learn(member, result.b3sums[member.name], None, None)
            for member, error in result.failed:
                self._failed(member, error)
            if result.object:
                content = [(result.b3sums[member.name], member.size) for member in group.members]
                row = self._tools.ledger.add_object(result.object)
                self._packed[pack.key(content, self._tools.block_size)] = Packed(row, result.object)

    def _learn(self, file: FoundFile, b3sum: Digest, row: int | None, ref: ObjectRef | None) -> None:
        known = Known(file.stamp, b3sum, row, ref)
        self._known[file.name] = known
        self._new[file.name] = known._replace(stamp=stale(file.stamp)) if file.is_fresh else known

    def _failed(self, file: FoundFile, error: Exception) -> None:
        """Look at a file again, or leave it out."""
        attempts = self._attempts[file.name] = self._attempts.get(file.name, 0) + 1
        if isinstance(error, Unsteady) and attempts < ATTEMPTS:
            try:
                self._files[file.name] = self._look_again(file)
                return
            except OSError as new_error:
                error = new_error
        elif isinstance(error, Unsteady) and attempts == ATTEMPTS and (old := self._as_it_was(file)) is not None:
            self._files[file.name] = old
            return
        if not isinstance(error, FileNotFoundError):  # a deleted file is as if it had never been there
            reason = error.strerror if isinstance(error, OSError) else "it keeps changing"
            self._tools.warn(f"left out: {reason}", join(self.found.path, file.name))
        del self._files[file.name]
        self._new.pop(file.name, None)
        self._gone.add(file.name)

    def _look_again(self, file: FoundFile) -> FoundFile:
        with self._tools.beneath.file(self.found.path, file.name) as fd:
            return found_file(file.name, os.fstat(fd), self._tools.clock_ns())

    # --- the end -----------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        ledger = self._tools.ledger
        if self._gone or self._new:
            ledger.save_files(self.row, self._new, self._gone)
        ledger.save_packs(
            self.row, {key: (self._packed[key].object, pack.encode_members(group)) for group, key in self._packs}
        )

    def _entries(self) -> list[FileEntry]:
        places = self._places()
        return [self._entry(file, places) for file in self._files.values()]

    def _places(self) -> dict[bytes, Extent]:
        """Where the small files are."""
        places = {}
        for group, key in self._packs:
            offset = 0
            for member in group.members:
                places[member.name] = Extent(self._packed[key].ref, offset, member.size)
                offset += member.size
        return places

    def _entry(self, file: FoundFile, places: dict[bytes, Extent]) -> FileEntry:
        if file.size == 0:
            return FileEntry(file.name, file.attributes, None, _EMPTY)
        known = self._known[file.name]
        extent = Extent(known.ref, 0, file.size) if known.ref else places[file.name]
        return FileEntry(file.name, file.attributes, extent, known.b3sum)


class _Pages:
    """The pages of a file being hashed: few are held, those of a large file go to the database as they come."""

    def __init__(self, ledger: Ledger, size: int, block_size: int) -> None:
        self._ledger = ledger
        self._size = size
        self._block_size = block_size
        self._held: list[tuple[int, int, bytes]] = []
        self._row: int | None = None

    def add(self, level: int, index: int, page: bytes) -> None:
        """Called in the thread that hashes."""
        self._held.append((level, index, page))
        if len(self._held) == _SPOOL:
            self._write()

    def finish(self, ref: ObjectRef) -> int:
        """Returns the object's row."""
        if not self._held and self._row is None:
            return self._ledger.add_object(ref)
        return self._ledger.end_object(self._write(), ref)

    def drop(self) -> None:
        if self._row is not None:
            self._ledger.drop_object(self._row)

    def _write(self) -> int:
        if self._row is None:
            self._row = self._ledger.begin_object(self._size, self._block_size)
        self._ledger.add_nodes(self._row, self._held)
        self._held.clear()
        return self._row
