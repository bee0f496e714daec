"""The objects of a cache on disk: quota and open files under one lock, which is not held while data moves."""

from __future__ import annotations

import logging
from contextlib import contextmanager, suppress
from threading import Lock
from typing import TYPE_CHECKING, Final

from mcfs.fetch.cachefile import BadCacheFile, CacheFile, create_file, file_name, open_file
from mcfs.fetch.cachequota import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcfs.fetch.cachedisk import Disk
    from mcfs.fetch.cachequota import Quota
    from mcfs.fetch.cachetable import FileTable
    from mcfs.protocol.ids import Node, ObjectId, ObjectRef

logger = logging.getLogger(__name__)


class Objects:
    """`using` and `touch` are for any thread; `create`, `account` and `remove` for the one that writes."""

    def __init__(self, disk: Disk, at: int, quota: Quota, files: FileTable) -> None:
        self.disk: Final = disk
        self.at: Final = at
        """The open directory of the objects."""
        self.lock: Final = Lock()
        """Guards quota and files."""
        self.quota: Final = quota
        self._files = files
        self._closed = False

    @contextmanager
    def using(self, name: ObjectId) -> Iterator[tuple[Record, CacheFile] | None]:
        """The object's open file, which stays open meanwhile; None when there is none that can be read."""
        found = self._acquire(name)
        try:
            yield found
        finally:
            if found:
                with self.lock:
                    self._files.release(found[1])

    @contextmanager
    def using_or_new(self, ref: ObjectRef) -> Iterator[tuple[Record, CacheFile]]:
        """The same, of a new file where there is none. Raises OSError."""
        found = self._acquire(ref.id) or self._create(ref)
        try:
            yield found
        finally:
            with self.lock:
                self._files.release(found[1])

    def touch(self, node: Node) -> None:
        with self.lock:
            self.quota.touch(node)

    def account(self, record: Record, file: CacheFile) -> int:
        """Note what the file takes now; returns by how many bytes that is less. Raises OSError."""
        allocated = file.allocated()
        with self.lock:
            return self.quota.resize(record, allocated)

    def remove(self, record: Record) -> int:
        """Delete an object's file; returns the bytes that this frees. Raises OSError, and the file counts on then."""
        # Unlinked before it is forgotten: who opens it in between finds nothing, or is forgotten with it.
        with suppress(FileNotFoundError):
            self.disk.unlink(self.at, file_name(record.id))
        with self.lock:
            if not self.quota.remove(record):
                return 0
            self._files.forget(record.id)
        return record.allocated

    def close(self) -> None:
        """Nothing is found from now on. Who is reading may finish."""
        with self.lock:
            self._closed = True
            self._files.forget_all()

    def _acquire(self, name: ObjectId) -> tuple[Record, CacheFile] | None:
        with self.lock:
            record = None if self._closed else self.quota.get(name)
            if record is None:
                return None
            file = self._files.use(name)
        return (record, file) if file else self._open(record)

    def _open(self, record: Record) -> tuple[Record, CacheFile] | None:
        try:
            file = open_file(self.disk, self.at, record.id)
        except (BadCacheFile, FileNotFoundError) as error:
            self._discard(record, error)
            return None
        except OSError as error:
            # Out of descriptors or a failing disk: the file may be good.
            logger.debug("cached object %s cannot be opened: %s", record.id.hex(), error)
            return None
        with self.lock:
            if self._closed or self.quota.get(record.id) is not record:
                file.close()  # removed while it was opened
                return None
            return record, self._files.adopt(file)

    def _discard(self, record: Record, error: Exception) -> None:
        logger.info("cached object %s is thrown away: %s", record.id.hex(), error)
        # Under the lock: once the record is gone the writer may make a new file of that name.
        with self.lock:
            if self.quota.remove(record):
                with suppress(OSError):
                    self.disk.unlink(self.at, file_name(record.id))

    def _create(self, ref: ObjectRef) -> tuple[Record, CacheFile]:
        file = create_file(self.disk, self.at, ref)
        record = Record(ref.id)
        with self.lock:
            stale = self.quota.get(ref.id)
            if stale is not None:
                # It is there but could not be opened; the new file has just taken its name.
                self.quota.remove(stale)
            self.quota.add(record)
            return record, self._files.adopt(file)
