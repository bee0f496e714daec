"""Which version of each share is shown: a newer one as soon as its top object is here and right.

Until then everything is of the version before, so that what is cached stays readable when a server goes away just after
it has announced a new version. Of several newer ones two are fetched: the first, since versions that come every moment
would otherwise never be shown, and the newest, since the server may have forgotten the first by now.

A share that nobody has used for a while is shown as it is announced: nothing is fetched of what nobody reads.

Sans-IO: `wanted` gives what has to be fetched, `ready` and `failed` are told what came of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mcfs.protocol.catalog import MAX_LISTING_SIZE, DirectoryEntry, FileEntry
from mcfs.protocol.ids import Node, ObjectRef

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mcfs.protocol.announce import Announcement

USED: Final = 60.0
"""Seconds after its last use in which a share counts as being used."""
MAX_USED: Final = 256
"""Shares of which it is known when they were used last."""


@dataclass(slots=True)
class _Coming:
    """A version whose top object is fetched."""

    announcement: Announcement
    missing: set[Node]
    asked: bool = False


@dataclass(slots=True)
class _Change:
    """A share that is shown in an older version than the newest."""

    shown: Announcement
    coming: list[_Coming]
    """One or two; the last is the newest."""


class Versions:
    """The shares of one client."""

    def __init__(self) -> None:
        self._used: dict[bytes, float] = {}
        self._changes: dict[bytes, _Change] = {}
        self._switched = False

    def used(self, name: bytes, *, now: float) -> None:
        """Somebody looks into a share."""
        self._used.pop(name, None)
        self._used[name] = now
        if len(self._used) > MAX_USED:
            del self._used[next(iter(self._used))]

    def shown(self, newest: Mapping[bytes, Announcement]) -> dict[bytes, Announcement]:
        """What to show of these, the newest announcement of each share."""
        return {name: self.shown_of(announcement) for name, announcement in newest.items()}

    def shown_of(self, newest: Announcement) -> Announcement:
        """What to show of a share of which this is the newest announcement."""
        change = self._changes.get(newest.name)
        return newest if change is None else change.shown

    def is_changing(self, name: bytes) -> bool:
        """Whether an older version than the newest is shown of a share."""
        return name in self._changes

    def announced(self, before: Announcement, newest: Announcement, *, now: float) -> None:
        """A share has a newer version than the one before."""
        name = newest.name
        change = self._changes.get(name)
        missing = _top_nodes(newest)
        if not missing or (change is None and now - self._used.get(name, -USED) >= USED):
            self._changes.pop(name, None)
            self._switched = True
        elif change is None:
            self._changes[name] = _Change(before, [_Coming(newest, missing)])
        else:
            change.coming[1:] = [_Coming(newest, missing)]

    def repeated(self, name: bytes) -> None:
        """The share is there: what has failed may be asked for again."""
        change = self._changes.get(name)
        for coming in change.coming if change is not None else ():
            coming.asked = False

    def forget(self, name: bytes) -> None:
        """The share was taken away."""
        self._changes.pop(name, None)

    def wanted(self) -> list[tuple[bytes, Node]]:
        """What to fetch now, with the share's name. Each is given once, and again after `repeated`."""
        found: list[tuple[bytes, Node]] = []
        for name, change in self._changes.items():
            for coming in change.coming:
                if not coming.asked:
                    coming.asked = True
                    found += [(name, node) for node in sorted(coming.missing, key=lambda node: node.index)]
        return found

    def ready(self, node: Node) -> None:
        """A node is here and right, whoever wanted it."""
        for name, change in list(self._changes.items()):
            for position in range(len(change.coming) - 1, -1, -1):
                coming = change.coming[position]
                coming.missing.discard(node)
                if not coming.missing:
                    self._switch(name, change, position)
                    break

    def failed(self, node: Node) -> None:
        """A node could not be had. If there is a newer version by now, that is what counts."""
        for change in self._changes.values():
            if len(change.coming) > 1 and node in change.coming[0].missing:
                del change.coming[0]

    def has_switched(self) -> bool:
        """Whether another version is shown than when this was asked last."""
        switched, self._switched = self._switched, False
        return switched

    def _switch(self, name: bytes, change: _Change, position: int) -> None:
        change.shown = change.coming[position].announcement
        del change.coming[: position + 1]
        self._switched = True
        if not change.coming:
            del self._changes[name]


def _top_nodes(announcement: Announcement) -> set[Node]:
    """What the top of a version is made of: the listing of its root, or the top of the tree over its file."""
    entry = announcement.entry
    if isinstance(entry, FileEntry):
        return {_top_node(entry.extent.object)} if entry.extent is not None else set()
    assert isinstance(entry, DirectoryEntry)
    ref = entry.content
    if isinstance(ref, tuple) or ref.size > MAX_LISTING_SIZE:  # one that is too long is refused when it is read
        return set()
    return {Node(ref, 0, index) for index in range(ref.geometry.counts[0])}


def _top_node(ref: ObjectRef) -> Node:
    return Node(ref, ref.geometry.top_level, 0)
