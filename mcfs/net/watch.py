"""Watching the directories of a share with inotify(7): what the kernel tells becomes notes in `Changes`.

inotify knows directories, not trees, and says nothing of what is there when a watch begins. So the scan hands in each
directory that it is about to read (`observe`): what changes afterwards is told, what changed before is found. The watch
is set on the directory that the scan has open, through its descriptor, so nobody can put another one in its place; it
goes on when the directory is moved, and takes its new path at the next scan, which the move causes.

Of the libraries `inotify_simple` was taken (BSD-2-Clause, 8 kB, the system calls and nothing else). `watchfiles` does
not say when the kernel's queue has overflowed, follows links out of the tree and turns names that are no UTF-8 into
others; `asyncinotify` builds paths and objects for each watch and each event, and its event loop is another one.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from typing import TYPE_CHECKING, Final

from inotify_simple import INotify, flags, parse_events

from mcfs.serve.beneath import join
from mcfs.serve.complaints import Complaints

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mcfs.serve.changes import Changes, Touched

log = logging.getLogger(__name__)

_NAMES: Final = int(flags.MOVED_FROM | flags.MOVED_TO | flags.CREATE | flags.DELETE | flags.ATTRIB)
_WRITES: Final = int(flags.CREATE | flags.MODIFY | flags.CLOSE_WRITE)
# Files that were unlinked while they are open are nobody's business.
_DIRECTORY: Final = _NAMES | _WRITES | int(flags.ONLYDIR | flags.EXCL_UNLINK)
_PARENT: Final = int(flags.MOVED_FROM | flags.MOVED_TO | flags.CREATE | flags.DELETE | flags.ONLYDIR | flags.MASK_ADD)
_GOES: Final = int(flags.MOVED_FROM | flags.DELETE)
_MAX_STEPS: Final = 4096
"""Names on the way to a share, those in links included; links may lead in a circle."""
_READ: Final = 1 << 15
"""Bytes read at a time: some 1,000 events, 5 ms. A turn ends after that, as others have to do as well."""
REMOTE: Final = frozenset(
    {"9p", "afs", "ceph", "cifs", "coda", "fuse", "gfs2", "glusterfs", "lustre", "nfs", "nfs4", "ocfs2", "smb3",
     "virtiofs", "vboxsf"}
)  # fmt: skip
"""File systems on which others may change what is there, of which this kernel learns nothing."""


class Watch:
    """The watches of one share. `observe` may be called in any thread, all else in that of the event loop."""

    def __init__(self, changes: Changes, path: Path) -> None:
        """Raises OSError: EMFILE if this user may have no more instances."""
        self.failure: OSError | None = None
        """Why not all directories are watched; nothing more is then."""
        self.remote: str | None = None
        """The type of a file system on which changes are not told."""
        self._changes = changes
        self._path = os.fsencode(path)
        self._only: bytes | None = None
        self._inotify = INotify(nonblocking=True)
        self._lock = threading.Lock()
        self._paths: dict[int, bytes] = {}
        """Of the directories, by the number of their watch."""
        self._others: dict[int, set[bytes]] = {}
        """Further paths of the same directory: bind mounts."""
        self._fresh: dict[int, bytes] = {}
        """Those that the scan which runs now has come by."""
        self._parents: dict[int, set[bytes]] = {}
        """Where the share itself may be replaced, and the names on the way to it there."""
        self._devices: dict[int, str | None] = {}
        self._complaints = Complaints()

    def fileno(self) -> int:
        return int(self._inotify.fileno())

    def __len__(self) -> int:
        return len(self._paths)

    def close(self) -> None:
        self._inotify.close()

    # --- what to watch -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A scan begins."""
        with self._lock:
            self._fresh = {}
            watched = set(self._paths)
        real = os.path.realpath(self._path)
        self._only = None if os.path.isdir(real) else os.path.basename(real)
        before, self._parents = self._parents, self._watch_parents()
        for wd in before.keys() - self._parents.keys() - watched:
            self._remove(wd)

    def observe(self, fd: int, path: bytes) -> None:
        """Watch a directory from now on. `fd` is open, `path` below the share's root."""
        if self.failure is not None:
            return
        self._look_at_device(fd)
        try:
            number = self._inotify.add_watch(f"/proc/self/fd/{fd}", _DIRECTORY)
        except OSError as error:
            self.failure = error
            return
        with self._lock:
            before = self._fresh.get(number, path)
            if before != path:
                self._others.setdefault(number, set()).add(before)
            self._fresh[number] = path

    def finish(self, touched: Touched) -> None:
        """The scan of what was touched is over: directories that it should have met and has not are watched no more."""
        gone = self._not_met(touched)
        with self._lock:
            self._paths.update(self._fresh)
            self._fresh = {}
            for wd in gone:
                self._paths.pop(wd, None)
                self._others.pop(wd, None)
        for wd in gone:
            self._remove(wd)

    def _not_met(self, touched: Touched) -> list[int]:
        """Watches in what was touched that the scan has not come by. Not under the lock, for which the event loop would
        wait: with 100,000 directories this takes a tenth of a second."""
        if not (touched.everything or touched.trees):
            return []  # as most looks, which are at a few files
        with self._lock:
            paths = self._paths.copy()
        return [wd for wd, path in paths.items() if wd not in self._fresh and touched.within(path)]

    def _watch_parents(self) -> dict[int, set[bytes]]:
        """Where one cannot be watched, it is found later that the share was replaced as a whole."""
        parents: dict[int, set[bytes]] = {}
        for path in set(replaceable(self._path)):
            parent, name = os.path.split(path)
            try:
                parents.setdefault(self._inotify.add_watch(parent, _PARENT), set()).add(name)
            except OSError as error:
                log.debug("%r: not watched: %s", parent, error.strerror)
        return parents

    def _remove(self, wd: int) -> None:
        try:
            self._inotify.rm_watch(wd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # its directory is gone, and the watch with it
                raise

    def _look_at_device(self, fd: int) -> None:
        device = os.fstat(fd).st_dev
        if device not in self._devices:
            self._devices[device] = kind = file_system(device)
            if kind is not None and is_remote(kind):
                self.remote = kind

    # --- what has changed --------------------------------------------------------------------------------------------

    def read(self, *, now: float) -> None:
        """Note the changes that the kernel has told, some 1,000 at most."""
        try:
            data = os.read(self.fileno(), _READ)
        except BlockingIOError:
            return
        for event in parse_events(data):
            self._note(event.wd, event.mask, os.fsencode(event.name), now)

    def _note(self, wd: int, mask: int, name: bytes, now: float) -> None:
        if mask & flags.Q_OVERFLOW:
            line = self._complaints.line("the kernel lost count of changes: everything is looked at", now=now)
            if line is not None:
                log.info("%r: %s", self._path, line)
            self._changes.everything(now=now)
            return
        names = self._parents.get(wd)
        if names is not None and (mask & flags.IGNORED or (mask & _PARENT and name in names)):
            self._changes.everything(now=now)
        for path in self._paths_of(wd):
            if mask & flags.IGNORED:
                self._forget(wd, path, now)
            elif mask & flags.UNMOUNT:
                self._changes.tree(path, now=now)
            elif mask & flags.ISDIR:
                self._directory(path, mask, name, now)
            elif self._only is None or name == self._only:
                self._file(path, mask, name, now)

    def _directory(self, path: bytes, mask: int, name: bytes, now: float) -> None:
        if self._only is not None:
            return
        if name and mask & _NAMES & ~int(flags.ATTRIB):
            self._changes.tree(join(path, name), now=now)
            self._changes.names(path, now=now)
        else:
            self._changes.names(join(path, name) if name else path, now=now)

    def _file(self, path: bytes, mask: int, name: bytes, now: float) -> None:
        if mask & _GOES:
            self._changes.gone(path, name, now=now)
        elif mask & _WRITES:
            self._changes.written(path, name, now=now)
        else:
            self._changes.names(path, now=now)

    def _forget(self, wd: int, path: bytes, now: float) -> None:
        """The kernel has ended a watch: the directory is gone."""
        with self._lock:
            self._paths.pop(wd, None)
            self._fresh.pop(wd, None)
            self._others.pop(wd, None)
        if not path:
            self._changes.everything(now=now)

    def _paths_of(self, wd: int) -> list[bytes]:
        with self._lock:
            path = self._fresh.get(wd, self._paths.get(wd))
            return [] if path is None else [path, *self._others.get(wd, ())]


def replaceable(path: bytes) -> Iterator[bytes]:
    """What may be replaced by another one, so that an absolute path leads elsewhere: each link on the way, also those
    that other links lead to, and what is at the end. Directories on the way are not among them: they seldom are."""
    at, rest = b"/", path.split(b"/")[::-1]
    for _ in range(_MAX_STEPS):
        if not rest:
            break
        name = rest.pop()
        if name == b"..":
            at = os.path.dirname(at)
        if name in (b"", b".", b".."):
            continue
        here = os.path.join(at, name)
        try:
            target = os.readlink(here)
        except OSError:  # it is no link
            at = here
            continue
        yield here
        rest += target.split(b"/")[::-1]
        if target.startswith(b"/"):
            at = b"/"
    yield at


def file_system(device: int) -> str | None:
    """The type of the file system on a device, as mountinfo has it; None if it is not there (btrfs subvolumes)."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", "rb") as mounts:
            for line in mounts:
                mount, _, rest = line.decode(errors="replace").partition(" - ")
                if mount.split()[2] == number:
                    return rest.split()[0]
    except OSError as error:
        log.debug("/proc/self/mountinfo: %s", error.strerror)
    return None


def is_remote(kind: str) -> bool:
    return kind.partition(".")[0] in REMOTE
