"""Which channels are joined, which are to be left, and which are held: it changes in batches (batches.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mcfs.fetch.batches import HURRY, TICK, BatchBucket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcfs.protocol.ids import Group

SETTLE: Final = TICK
"""Seconds for which a channel that is to be left waits for others: who leaves one mostly leaves more."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Memberships to change now, together; leaves first."""

    joins: tuple[Group, ...]
    leaves: tuple[Group, ...]


class Channels:
    """The memberships of one client, as it wants them and as it has asked the kernel for them.

    A channel that is to be left counts as joined until the batch in which it is left, and is not joined in that batch:
    only by the next one would it be reported anew.
    """

    def __init__(self, hurry: float = HURRY) -> None:
        self._joined: set[Group] = set()
        self._leaving: dict[Group, float] = {}
        """Since when."""
        self._held: dict[Group, None] = {}
        self._bucket = BatchBucket(hurry=hurry)

    def __len__(self) -> int:
        return len(self._joined)

    def __contains__(self, group: Group) -> bool:
        return group in self._joined

    @property
    def used(self) -> int:
        """Channels that stay joined when the next batch is made, without those that are held."""
        return len(self._joined.difference(self._leaving, self._held))

    @property
    def leaving(self) -> tuple[Group, ...]:
        return tuple(self._leaving)

    def hold(self, group: Group) -> None:
        """Stay joined to a control channel."""
        self._held[group] = None

    def release(self, group: Group, *, now: float) -> None:
        if self._held.pop(group, 0) is None and group in self._joined:
            self.leave(group, now=now)

    def rejoin(self, group: Group, *, now: float) -> None:
        """Leave a held channel and join it again, which repeats the report."""
        if group in self._held and group in self._joined:
            self.leave(group, now=now)

    def leave(self, group: Group, *, now: float) -> None:
        self._leaving.setdefault(group, now)

    def stay(self, group: Group) -> bool:
        """Do not leave it after all. False if it was left, or was not to be."""
        return group in self._joined and self._leaving.pop(group, None) is not None

    def refused(self, group: Group) -> None:
        """The kernel would not join it."""
        self._joined.discard(group)

    # --- batches ---

    def held_to_join(self) -> list[Group]:
        return [group for group in self._held if group not in self._joined]

    def is_due(self, *, now: float) -> bool:
        """Whether there is something to change now, apart from what a fetch wants joined."""
        if any(group not in self._joined for group in self._held):
            return True
        return bool(self._leaving) and now >= min(self._leaving.values()) + SETTLE

    def is_pending(self) -> bool:
        """Whether there will be."""
        return bool(self._leaving) or any(group not in self._joined for group in self._held)

    def due_at(self, *, joins: bool, hurried: bool, now: float) -> float:
        """When the next batch is to be made, if something is pending or there are `joins`; `hurried` if somebody waits
        for one of these."""
        settled = [] if self.held_to_join() else [since + SETTLE for since in self._leaving.values()]
        if joins and settled:
            settled.append(now)
        return max(self._bucket.ready_at(now, hurried=hurried), min(settled, default=now))

    def may_change(self, *, hurried: bool, now: float) -> bool:
        """Whether a batch may be made now; if so it is counted, and `change` has to follow."""
        return self._bucket.take(now, hurried=hurried)

    def change(self, joins: Sequence[Group]) -> Changes:
        """The batch: all that is to be left, and these."""
        changes = Changes(tuple(joins), self.leaving)
        self._joined.difference_update(changes.leaves)
        self._joined.update(joins)
        self._leaving.clear()
        return changes
