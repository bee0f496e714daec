"""Publishing what changes while the server runs: changes are noted, indexed again in a thread, and announced.

One share is indexed at a time. While it is, the server sends what was there before. `Breather` keeps the threads that
index from holding up the one that sends, with which they share the interpreter.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from mcfs.cli import values
from mcfs.net.watch import Watch
from mcfs.protocol.announce import Announcement
from mcfs.protocol.errors import UserError
from mcfs.serve.changes import EVERYTHING, POLL_INTERVAL, Changes, Touched
from mcfs.serve.scan import Order

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mcfs.net.server import Server
    from mcfs.protocol.keys import ShareKeys
    from mcfs.serve.index import Index, ScanProgress, Snapshot
    from mcfs.serve.store import NodeStore

log: Final = logging.getLogger(__name__)

GATHER: Final = 0.03
"""Seconds for which events gather before they are read: many are of the same file."""
DOUBT_PAUSE: Final = 60.0
"""Seconds for which a directory with a file that is not what it was is not looked at again for that reason: a disk that
reads wrong now and then would have it hashed without end."""
MAX_DOUBTS: Final = 1000
UNUSED: Final = 30.0
"""Seconds after which a file that nobody reads is closed, or twice as many. Who reads one that was deleted or replaced
reads on; but the disk gets its room back only then."""
BUSY: Final = 0.1
"""Seconds after the last burst for which the server counts as sending."""
SLICE: Final = 0.001
"""Seconds of work between two breaths."""
MAX_BREATH: Final = 0.05
SWITCH_INTERVAL: Final = 0.0005
"""Seconds for which a thread that indexes may hold the interpreter when the one that sends wants it, which gives it up
with each system call: with the usual 5 ms a burst of 64 KB would wait for that long."""


class Stopped(Exception):
    """The server ends, and what is being indexed with it."""


@dataclass(slots=True)
class Share:
    """A path that is served, and what it was when it was indexed last."""

    path: Path
    name: bytes
    changes: Changes
    watch: Watch | None = None
    polled: bool = False
    snapshot: Snapshot | None = None
    real: bytes = b""
    """The path without links, when it was indexed last."""
    failure: str = ""
    """Why it could not be indexed, as was said."""

    @property
    def label(self) -> str:
        return values.printable(self.name)


class Breather:
    """Gives the sending thread its turn: while the server sends, each thread that indexes rests for as long as it
    worked. Called by those threads, every now and then."""

    def __init__(self, sent_at: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        """`sent_at` tells when a burst was sent last."""
        self._sent_at = sent_at
        self._clock = clock
        self._since = threading.local()
        self.stopped = False

    def __call__(self) -> None:
        """Raises Stopped."""
        if self.stopped:
            raise Stopped
        now = self._clock()
        worked = now - getattr(self._since, "at", now - SLICE)
        if worked < SLICE:
            return
        if now - self._sent_at() < BUSY:
            time.sleep(min(worked, MAX_BREATH))
            now = self._clock()
        self._since.at = now


class Reindexing:
    """The shares of a server, and the task that keeps them as the disk has them."""

    def __init__(
        self,
        paths: Sequence[tuple[Path, bytes]],
        index: Index,
        store: NodeStore,
        keys: Mapping[bytes, ShareKeys],
        *,
        watch: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Real paths and names of the shares. Without `watch` they are looked at only when they are told to."""
        self._index = index
        self._store = store
        self._keys = keys
        self._clock = clock
        self._server: Server | None = None
        self._wake = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._doubts: dict[tuple[bytes, bytes], float] = {}
        self._breather = Breather(self._sent_at, clock)
        self.shares = [Share(path, name, Changes(now=clock())) for path, name in paths]
        if watch:
            for share in self.shares:
                self._watch(share)
            index.on_doubt = self._doubt_from_thread
        index.on_failure = self._failure_from_thread

    # --- the first time ---

    def index_first(self, progress: Callable[[Share, ScanProgress], None] = lambda share, done: None) -> list[Snapshot]:
        """Index all shares, and serve them from the store. Raises UserError."""
        snapshots = [
            self._scan(share, EVERYTHING, progress=partial(progress, share), breathe=lambda: None)
            for share in self.shares
        ]
        self._store.replace(snapshots, self._keys)
        for share, snapshot in zip(self.shares, snapshots, strict=True):
            share.snapshot = snapshot
            self._check_watch(share)
        return snapshots

    # --- while the server runs ---

    def look(self) -> None:
        """Look at all shares now."""
        for share in self.shares:
            share.changes.everything(now=self._clock(), at_once=True)
        self._wake.set()

    async def run(self, server: Server) -> None:
        """Index what changes and publish it, until cancelled."""
        self._server, self._token = server, trio.lowlevel.current_trio_token()
        try:
            async with trio.open_nursery() as nursery:
                for share in self.shares:
                    if share.watch is not None:
                        nursery.start_soon(self._listen, share, share.watch)
                nursery.start_soon(self._close_unused)
                while True:
                    self._wake = trio.Event()
                    await self._look_at_due()
                    await self._sleep()
        finally:
            for share in self.shares:
                self._unwatch(share)
            self._token = None

    async def _listen(self, share: Share, watch: Watch) -> None:
        while share.watch is watch:
            try:
                await trio.lowlevel.wait_readable(watch.fileno())
            except trio.ClosedResourceError:
                return
            watch.read(now=self._clock())
            self._wake.set()
            await trio.sleep(GATHER)

    async def _close_unused(self) -> None:
        while True:
            await trio.sleep(UNUSED)
            await trio.to_thread.run_sync(self._store.close_unused)

    async def _sleep(self) -> None:
        times = [at for share in self.shares if (at := share.changes.next_timeout()) is not None]
        with trio.move_on_after(max(0.0, min(times) - self._clock()) if times else float("inf")):
            await self._wake.wait()

    async def _look_at_due(self) -> None:
        for share in self.shares:
            touched = share.changes.take(now=self._clock())
            if touched is not None:
                await self._look_at(share, touched)

    async def _look_at(self, share: Share, touched: Touched) -> None:
        started = self._clock()
        try:
            snapshot = await trio.to_thread.run_sync(self._scan_again, share, touched)
        except Stopped:
            await trio.sleep_forever()
        except UserError as error:
            self._failed(share, touched, str(error))
            return
        except Exception as error:  # whatever is wrong with one look, what is there is served
            reason = f"internal error: {type(error).__name__}: {error}"
            if reason != share.failure:
                log.exception("%s", share.label)
            self._failed(share, touched, reason)
            return
        share.changes.looked(started=started, now=self._clock())
        self._check_watch(share)
        if share.failure:
            log.warning("%s: indexed again", share.label)
            share.failure = ""
        if share.snapshot is None or snapshot.version != share.snapshot.version:
            share.snapshot = snapshot
            self._publish(share, snapshot)

    def _publish(self, share: Share, snapshot: Snapshot) -> None:
        assert self._server is not None
        self._server.publish({share.name: announcement_of(snapshot)}, self._keys)
        size = values.format_size(snapshot.total_bytes)
        log.info("%s: changed: version %d, %d files, %s", share.label, snapshot.version, snapshot.total_files, size)

    def _failed(self, share: Share, touched: Touched, reason: str) -> None:
        """It stays as it was, and is looked at again."""
        share.changes.failed(touched, now=self._clock())
        if reason != share.failure:
            share.failure = reason
            log.warning("%s: cannot be indexed, so it stays as it was: %s", share.label, reason)

    def stop(self) -> None:
        """Have the threads that index end soon; call this before `run` is cancelled, which waits for them."""
        self._breather.stopped = True

    # --- what cannot be watched ---

    def _watch(self, share: Share) -> None:
        try:
            share.watch = Watch(share.changes, share.path)
        except OSError as error:
            self._poll(share, f"inotify: {error.strerror}")

    def _check_watch(self, share: Share) -> None:
        """Look now and then where nobody tells of all changes, and say so."""
        watch = share.watch
        if watch is None or share.polled:
            return
        if watch.failure is not None:
            self._unwatch(share)
            self._poll(share, _why(watch.failure))
        elif watch.remote is not None:
            self._poll(share, f"changes made elsewhere on {watch.remote} are not told")

    def _poll(self, share: Share, reason: str) -> None:
        share.polled = True
        share.changes.poll(POLL_INTERVAL, now=self._clock())
        log.warning("%s: looking for changes every %d s: %s", share.label, POLL_INTERVAL, reason)

    def _unwatch(self, share: Share) -> None:
        watch, share.watch = share.watch, None
        if watch is not None:
            if self._token is not None:
                trio.lowlevel.notify_closing(watch.fileno())
            watch.close()

    # --- what proved wrong ---

    def _doubt_from_thread(self, root: bytes, directory: bytes) -> None:
        self._soon(self._doubt, root, directory)

    def _failure_from_thread(self) -> None:
        self._soon(self._database_failed)

    def _soon(self, do: Callable[..., object], *arguments: bytes) -> None:
        token = self._token
        if token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(do, *arguments, idempotent=True)

    def _doubt(self, root: bytes, directory: bytes) -> None:
        """A file is not what it was, and perhaps nobody told (it was written through a mapping, or a hard link)."""
        if self._is_new_doubt(root, directory):
            for share in self.shares:
                if share.real == root:
                    share.changes.names(directory, now=self._clock())
            self._wake.set()

    def _database_failed(self) -> None:
        if self._is_new_doubt(b"", b""):
            self.look()

    def _is_new_doubt(self, root: bytes, directory: bytes) -> bool:
        now = self._clock()
        if now < self._doubts.get((root, directory), float("-inf")) + DOUBT_PAUSE:
            return False
        if len(self._doubts) >= MAX_DOUBTS:
            self._doubts.clear()
        self._doubts[root, directory] = now
        return True

    # --- in threads ---

    def _sent_at(self) -> float:
        return self._server.sent_at if self._server is not None else float("-inf")

    def _scan(
        self,
        share: Share,
        touched: Touched,
        *,
        progress: Callable[[ScanProgress], None] = lambda _: None,
        breathe: Callable[[], None] | None = None,
        threads: int | None = None,
    ) -> Snapshot:
        watch = share.watch
        share.real = os.path.realpath(os.fsencode(share.path))
        if watch is not None:
            watch.begin()
        order = Order(
            share.path,
            share.name,
            time.time_ns() // 1_000_000,
            touched,
            progress,
            watch.observe if watch is not None else lambda fd, path: None,
            time.time_ns,
            breathe or self._breather,
        )
        snapshot = self._index.run(order, threads=threads)
        if watch is not None:
            watch.finish(touched)
        return snapshot

    def _scan_again(self, share: Share, touched: Touched) -> Snapshot:
        """Have the store serve what is there now, if it is another version."""
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL)
        try:
            snapshot = self._scan(share, touched, threads=_threads())
            if share.snapshot is None or snapshot.version != share.snapshot.version:
                self._replace(share, snapshot)
        finally:
            sys.setswitchinterval(before)
        return snapshot

    def _replace(self, share: Share, snapshot: Snapshot) -> None:
        now = [snapshot if each is share else each.snapshot for each in self.shares]
        self._store.replace([each for each in now if each is not None], self._keys, breathe=self._breather)
        if self._server is not None and self._server.sends_all:
            self._store.contents()  # so that the event loop finds them made


def announcement_of(snapshot: Snapshot) -> Announcement:
    return Announcement(
        version=snapshot.version,
        time_ms=0,
        entry=snapshot.entry,
        owners=snapshot.owners,
        total_bytes=snapshot.total_bytes,
        total_files=snapshot.total_files,
        rate=0,
        addresses=(),
    )


def _threads() -> int:
    """Half of the cores: the others are for sending."""
    return max(1, (os.cpu_count() or 1) // 2)


def _why(error: OSError) -> str:
    """Why not all directories can be watched, and what to do."""
    if error.errno != errno.ENOSPC:
        return f"inotify: {error.strerror}"
    name = "fs.inotify.max_user_watches"
    try:
        limit = int(Path("/proc/sys", name.replace(".", "/")).read_text())
    except (OSError, ValueError):
        return f"there are more directories than {name} allows"
    return f"there are more directories than {name} allows; sysctl -w {name}={4 * limit} makes it {4 * limit}"
