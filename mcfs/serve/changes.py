"""What has changed in a share since it was indexed, and when to look at it again.

A change is taken up when there was none for QUIET seconds. Where changes never stop it is taken after PATIENCE, and
then the files that are still being written are left as they were (`Touched.unsettled`). Such a file holds nobody up any
more: later changes wait for their own quiet, and it is taken when it has come to rest itself.

What is noted says where to look, never what is there: the scan looks for itself. So a note too many costs a look, and
what is not known for sure (a lost event, too many of them) is noted as "everything".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from mcfs.serve.beneath import upward

QUIET: Final = 0.5
"""Seconds without a change. Copying a tree pauses for less between two files, and readers hear of it soon enough."""
PATIENCE: Final = 5.0
"""Seconds that a change waits for quiet at most."""
MAX_NOTED: Final = 10_000
"""Directories or files noted one by one; beyond that the whole share is looked at. 200 bytes each."""
POLL_INTERVAL: Final = 10.0
"""Seconds between two looks at a share whose changes nobody tells."""
POLL_SHARE: Final = 20
"""A look may take this part of the time between two: 5 % of a core at most."""
RETRY: Final = 10.0
"""Seconds until the next look after one that failed."""


@dataclass(frozen=True, slots=True)
class Touched:
    """Where to look again. Paths are below the share's root, which is b""."""

    everything: bool = False
    directories: frozenset[bytes] = frozenset()
    """In each of these, but not below."""
    trees: frozenset[bytes] = frozenset()
    """In each of these and all below: they may be new, or gone, or others of the same name."""
    unsettled: frozenset[tuple[bytes, bytes]] = frozenset()
    """Files (directory and name) that are being written: to be left as they were."""

    def within(self, path: bytes) -> bool:
        """Whether the directory is in one of the trees."""
        if self.everything:
            return True
        return bool(self.trees) and any(tree in self.trees for tree in upward(path))


EVERYTHING: Final = Touched(everything=True)


@dataclass(slots=True)
class _Notes:
    everything: bool = False
    directories: set[bytes] = field(default_factory=set)
    trees: set[bytes] = field(default_factory=set)

    def __bool__(self) -> bool:
        return self.everything or bool(self.directories) or bool(self.trees)

    def bound(self) -> None:
        if self.everything or len(self.directories) + len(self.trees) > MAX_NOTED:
            self.everything = True
            self.directories.clear()
            self.trees.clear()


class Changes:
    """The changes of one share. Notes go in with the time, `take` gives what is due.

    :param poll: seconds between two looks at everything; None: what is not noted is not looked for
    """

    def __init__(self, *, now: float, poll: float | None = None) -> None:
        self._poll = poll
        self._poll_at = now + poll if poll is not None else None
        self._notes = _Notes()
        self._written: dict[tuple[bytes, bytes], float] = {}
        """Files that were written to and not taken up since, and when the last time."""
        self._growing: set[tuple[bytes, bytes]] = set()
        """Those of them that have been passed over, and hold nobody up."""
        self._first: float | None = None
        """When the oldest change came that waits."""
        self._last = now
        """When the newest one came that others wait for."""
        self._not_before = now

    # --- what has changed ---

    def names(self, directory: bytes, *, now: float) -> None:
        """Names, or attributes, in a directory."""
        self._notes.directories.add(directory)
        self._note(now)

    def tree(self, path: bytes, *, now: float) -> None:
        """A directory came, or went, or may be another one."""
        self._notes.trees.add(path)
        self._note(now)

    def everything(self, *, now: float, at_once: bool = False) -> None:
        """Nobody knows what. `at_once`: do not wait for quiet."""
        self._notes.everything = True
        self._note(now - PATIENCE if at_once else now)
        if at_once:
            self._not_before = now

    def written(self, directory: bytes, name: bytes, *, now: float) -> None:
        """A file was written to, and may be again."""
        file = (directory, name)
        self._written[file] = now
        if len(self._written) > MAX_NOTED:
            self._written.clear()
            self._growing.clear()
            self._notes.everything = True
        if file not in self._growing:
            self._note(now)

    def gone(self, directory: bytes, name: bytes, *, now: float) -> None:
        """A name is no longer there: nobody writes to it any more."""
        self._written.pop((directory, name), None)
        self._growing.discard((directory, name))
        self.names(directory, now=now)

    def poll(self, seconds: float, *, now: float) -> None:
        """From now on look at everything every so many seconds, as changes are not told, or not all of them."""
        self._poll, self._poll_at = seconds, now + seconds

    # --- when to look ---

    def next_timeout(self) -> float | None:
        """When `take` may have something; None: not before something is noted."""
        times = [] if self._poll_at is None else [self._poll_at]
        if self._first is not None:
            times.append(min(self._last + QUIET, self._first + PATIENCE))
        times += [self._written[file] + QUIET for file in self._growing]
        return max(self._not_before, min(times)) if times else None

    def take(self, *, now: float) -> Touched | None:
        """What to look at now. Whoever takes something looks, and then says `looked`."""
        due = self.next_timeout()
        if due is None or due > now:
            return None
        if self._poll_at is not None and self._poll_at <= now:
            self._notes.everything, self._poll_at = True, None
        settled = {file for file, at in self._written.items() if at + QUIET <= now}
        self._growing = self._written.keys() - settled
        for file in settled:
            del self._written[file]
        self._notes.directories.update(directory for directory, _ in settled)
        self._first = None
        if not self._notes:
            return None
        self._notes.bound()
        notes, self._notes = self._notes, _Notes()
        return Touched(notes.everything, frozenset(notes.directories), frozenset(notes.trees), frozenset(self._written))

    def looked(self, *, started: float, now: float) -> None:
        """A look is over. The next one waits for as long as it took, so that looking takes half of the time at most."""
        self._not_before = max(self._not_before, now + (now - started))
        if self._poll is not None:
            self._poll_at = now + max(self._poll, POLL_SHARE * (now - started))

    def failed(self, touched: Touched, *, now: float) -> None:
        """A look came to nothing: do it again after RETRY seconds."""
        self._notes.everything |= touched.everything
        self._notes.directories |= touched.directories | {directory for directory, _ in touched.unsettled}
        self._notes.trees |= touched.trees
        self._not_before = now + RETRY
        if self._poll is not None:
            self._poll_at = now + self._poll
        self._note(now)

    def _note(self, now: float) -> None:
        self._last = max(self._last, now)
        self._first = now if self._first is None else min(self._first, now)
        self._notes.bound()
