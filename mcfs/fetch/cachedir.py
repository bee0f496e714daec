"""The directory of a cache: its lock, its format, what is in it.

::

    lock           locked (flock) by the process that uses the directory, for as long as it does; has its number
    version        the format of what lies under objects/
    clean          there after an orderly close, and only while nobody uses the directory
    objects/ab/    the files of the objects whose id begins with ab, named by the id in hexadecimal digits
    names          which files the objects are (cachenames)
    pins/          what the user wants to be kept (cachepins)
    mount-2, ...   the same again, for a second process at the same time

A limit given for the directory is divided evenly among it and the mount-N in it, whether these are in use or not, so
that all together keep it. The division is looked at again with each eviction, after each 16 MiB, and by a mount that
stores nothing every other second: so a first mount gives way.
A mount-N that nobody uses is removed by the first mount when that needs the room.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mcfs.fetch.cachequota import Record
from mcfs.protocol.ids import ObjectId

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

FORMAT_TEXT: Final = "mcfs cache 1\n"
_MAX_MOUNTS: Final = 64
"""More processes on one directory than that do not cache; each would have too small a part."""
_LOOKS: Final = 10_000
"""Tries to get the lock while others only look (`user_of`), which takes them some microseconds. A mount that took a
mount-N because of them would have an empty cache."""
_NAME: Final = re.compile(r"[0-9a-f]{64}")
_SUB_DIRECTORY: Final = re.compile(r"mount-[0-9]+")


@dataclass
class CacheDirectory:
    """A directory that this process has locked."""

    path: Path
    was_clean: bool
    """Whether its last user closed it, rather than died."""
    at: int
    """The directory of the objects, open."""
    root: Path
    """The cache directory; this one, or the one that this is a mount-N of."""
    _lock: int

    @property
    def objects(self) -> Path:
        return self.path / "objects"

    def parts(self) -> int:
        """Among how many the limit is divided."""
        return 1 + len(list(_sub_directories(self.root)))

    def remove_unused(self) -> None:
        """Remove the sub-directories of mounts that are no more; the first mount alone does it."""
        if self.path == self.root:
            for path in _sub_directories(self.root):
                _remove_unused(path)

    def close(self) -> None:
        """Say that the end was orderly, and let others have the directory."""
        with suppress(OSError):
            (self.path / "clean").touch(mode=0o600)
        self.abandon()

    def abandon(self) -> None:
        """Let others have the directory, as a process does that dies."""
        os.close(self.at)
        os.close(self._lock)


def lock_directory(root: Path) -> CacheDirectory:
    """The directory itself or, when another process has it, the first free mount-N in it. Raises OSError."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in (root, *(root / f"mount-{number}" for number in range(2, _MAX_MOUNTS + 1))):
        lock = _lock(path)
        if lock is not None:
            try:
                return _opened(root, path, lock)
            except OSError:
                os.close(lock)
                raise
    raise BlockingIOError(f"{_MAX_MOUNTS} processes use {root}")


def lock_existing(path: Path) -> CacheDirectory | None:
    """A directory or a mount-N that there is; None when another process has it. Raises OSError, FileNotFoundError when
    it is no cache."""
    if not is_cache(path):
        raise FileNotFoundError(f"there is no cache in {path}")
    lock = _lock(path)
    if lock is None:
        return None
    try:
        return _opened(root_of(path), path, lock)
    except OSError:
        os.close(lock)
        raise


def is_cache(path: Path) -> bool:
    """Whether it is a directory of a cache, of the format that is known here."""
    try:
        with open(path / "version", "rb") as file:
            return file.read(len(FORMAT_TEXT) + 1) == FORMAT_TEXT.encode()
    except OSError:
        return False


def root_of(path: Path) -> Path:
    """The cache directory that a directory of a mount belongs to."""
    return path.parent if _SUB_DIRECTORY.fullmatch(path.name) and is_cache(path.parent) else path


def parts_of(root: Path) -> list[Path]:
    """A cache directory and the mount-N in it."""
    return [root, *sorted(_sub_directories(root))]


def user_of(path: Path) -> int | None:
    """The process that uses a directory: 0 if it cannot be told which; None if none does."""
    try:
        fd = os.open(path / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        text = os.read(fd, 20)
        return int(text) if text.isdigit() else 0
    finally:
        os.close(fd)
    return None


def _opened(root: Path, path: Path, lock: int) -> CacheDirectory:
    clean = _prepare(path)
    at = os.open(path / "objects", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    return CacheDirectory(path, clean, at, root, lock)


def _lock(path: Path) -> int | None:
    """Lock a directory; None when another process has it. Raises OSError."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    fd = _open_lock(path / "lock")
    try:
        _flock(fd)
        # Between open and lock the first mount may have removed the directory: then this lock is worth nothing.
        if os.path.samestat(os.fstat(fd), os.stat(path / "lock")):
            _sign(fd)
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _flock(fd: int) -> None:
    """Raises BlockingIOError when another process has the lock, but not for one that only looks who has it."""
    for _ in range(_LOOKS):
        with suppress(BlockingIOError):
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # what a process that uses the directory does not allow
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.sched_yield()
    raise BlockingIOError("the lock is held by many who only look")


def _sign(fd: int) -> None:
    """For people who want to know who uses the directory."""
    with suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d" % os.getpid(), 0)


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        # Of a file system that has become read-only the cache can still be read.
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _prepare(path: Path) -> bool:
    """Make the directory ready for use; whether it was left in good order."""
    objects = path / "objects"
    with suppress(FileExistsError):
        objects.mkdir(mode=0o700)
    _check_owner(objects)
    if not is_cache(path):
        _start_anew(objects, path / "version")
    clean = (path / "clean").exists()
    with suppress(OSError):
        (path / "clean").unlink(missing_ok=True)
    return clean


def _check_owner(objects: Path) -> None:
    """What is verified once is believed as long as the process runs, so nobody else may write there."""
    state = objects.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o022:
        raise PermissionError(f"{objects} can be written by others")


def _start_anew(objects: Path, version: Path) -> None:
    for path in _files(objects):
        path.unlink()
    version.write_text(FORMAT_TEXT)


def _files(objects: Path) -> Iterator[Path]:
    return (path for path in objects.glob("[0-9a-f][0-9a-f]/*") if _NAME.fullmatch(path.name.removesuffix(".new")))


def _sub_directories(root: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from (Path(entry.path) for entry in os.scandir(root) if _SUB_DIRECTORY.fullmatch(entry.name))


def _remove_unused(path: Path) -> None:
    try:
        lock = _lock(path)
        if lock is not None:
            # The lock file goes while it is locked, so that who waits for it sees that it is no longer the one.
            shutil.rmtree(path)
            os.close(lock)
    except OSError as error:
        logger.info("cache of a former mount in %s stays: %s", path, error)


def scan(objects: Path, *, sweep: bool = True) -> list[Record]:
    """The records of all files, the least recently used first as far as the file system knows. Raises OSError.

    `sweep`: remove what a process has left that died, if nobody uses the directory but who asks."""
    found = [each for number in range(256) for each in _scan_part(objects / f"{number:02x}", sweep)]
    found.sort(key=lambda record: record.used_ns)
    return found


def _scan_part(directory: Path, sweep: bool) -> Iterator[Record]:
    if not directory.is_dir():
        return
    with os.scandir(directory) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):  # who looks on does not hold up evictions
                    state = entry.stat(follow_symlinks=False)
                    used = max(state.st_atime_ns, state.st_mtime_ns)
                    yield Record(ObjectId(bytes.fromhex(entry.name)), state.st_blocks * 512, used_ns=used)
            elif sweep and entry.name.endswith(".new"):
                # Left behind by a process that died.
                with suppress(OSError):
                    os.unlink(entry.path)
