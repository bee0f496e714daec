"""Which of the nodes that are being sent for others we are going to need as well.

Four readers who start half a second apart cost the server 2.2 passes of the file if each asks only for what it needs
next, and 1.7 if each also takes what is sent for the others (least possible: 1.66). Only sequential readers do so: one
who reads here and there would get the whole file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mcfs.protocol.addressing import tag_of
from mcfs.protocol.ids import Group, Node, ObjectRef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mcfs.protocol.addressing import Addresser

MAX_FOLLOWED: Final = 1024
"""Objects: open files and the packs of the tree that is being copied."""
FOLLOW_SECONDS: Final = 5.0
"""How long after its last read the rest of a file counts as wanted."""


@dataclass(slots=True)
class _Followed:
    object: ObjectRef
    addresser: Addresser
    origin: bytes
    first: int
    stop: int
    until: float


class Followed:
    """Ranges of blocks that will be wanted: those ahead of each sequential reader. `addresser` gives the groups of an
    object of an origin."""

    def __init__(self, addresser: Callable[[ObjectRef, bytes], Addresser]) -> None:
        self._addresser = addresser
        self._by_tag: dict[bytes, _Followed] = {}
        self._tags: dict[ObjectRef, bytes] = {}

    def follow(
        self, object_: ObjectRef, blocks: range, origin: bytes, *, now: float, seconds: float = FOLLOW_SECONDS
    ) -> None:
        """Blocks of this range, and those behind it that were named before, will be wanted; forgotten unless said
        again within `seconds`."""
        tag = self._tags.get(object_)
        if tag is not None:
            known = self._by_tag[tag]
            known.first, known.stop = blocks.start, max(known.stop, blocks.stop)
            known.until = max(known.until, now + seconds)
            return
        if len(self._tags) >= MAX_FOLLOWED:
            self._prune(now)
        if len(self._tags) < MAX_FOLLOWED:
            addresser = self._addresser(object_, origin)
            self._tags[object_] = addresser.tag
            self._by_tag[addresser.tag] = _Followed(
                object_, addresser, origin, blocks.start, blocks.stop, now + seconds
            )

    def wanted(
        self, groups: Iterable[Group], pace: Callable[[bytes], int], *, now: float
    ) -> Iterator[tuple[Node, bytes]]:
        """Nodes, with their origins, behind those of the named groups that are followed, in the class in which the
        origin is received: what is sent in another one does not come here."""
        for group in groups:
            followed = self._by_tag.get(tag_of(group))
            if followed is None or followed.until < now:
                continue
            at = followed.addresser.coordinate(group)
            if at is None or at.kind != 0 or at.pace != pace(followed.origin):
                continue
            if followed.first <= at.index < followed.stop:
                yield Node(followed.object, 0, at.index), followed.origin

    def _prune(self, now: float) -> None:
        for tag, followed in list(self._by_tag.items()):
            if followed.until < now:
                del self._by_tag[tag], self._tags[followed.object]
