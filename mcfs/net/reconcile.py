"""What to do when network interfaces have changed: a pure function of those in use, those that there are, and the names
that the user gave.

An interface comes into use when it is fit, and then stays in use while it exists, also without carrier or address: it
will have them again, and then whoever listens must not have been forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mcfs.net.interfaces import Interface, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Update:
    """An interface that stays in use and is not as it was."""

    old: Interface
    new: Interface

    @property
    def came_up(self) -> bool:
        """Whether multicast can pass again, or from another address than before: time to report, or to ask for it."""
        return is_ready(self.new) and (not is_ready(self.old) or self.new.link_local != self.old.link_local)

    def __str__(self) -> str:
        """What a log line says; empty if it is nothing that a user would notice."""
        old, new = self.old, self.new
        if is_ready(old) != is_ready(new):
            return _state(new)
        if new.link_local != old.link_local and is_ready(new):
            return "has another link-local address"
        return ""


@dataclass(frozen=True, slots=True)
class Plan:
    close: tuple[Interface, ...] = ()
    update: tuple[Update, ...] = ()
    open: tuple[Interface, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.close or self.update or self.open)


def is_ready(interface: Interface) -> bool:
    """Whether multicast passes now, and MLD has an address to send from."""
    return interface.running and interface.unfit() is None and not interface.tentative


def plan(
    used: Iterable[Interface],
    listed: Sequence[Interface],
    names: Sequence[str] = (),
    *,
    deleted: frozenset[int] = frozenset(),
) -> Plan:
    """From those in use, those that there are now, and the names given (none: all that are suited).

    :param deleted: indexes that went away since the last time: what has such an index now is another interface
    """
    there = {interface.index: interface for interface in listed}
    close: list[Interface] = []
    update: list[Update] = []
    kept: set[int] = set()
    for old in used:
        new = there.get(old.index)
        if new is None or old.index in deleted or not _may_stay(new, names):
            close.append(old)
            continue
        kept.add(old.index)
        new = _steady(old, new)
        if new != old:
            update.append(Update(old, new))
    opened = tuple(new for new in listed if new.index not in kept and _may_come(new, names))
    return Plan(tuple(close), tuple(update), opened)


def faster(one: Interface, other: Interface) -> Interface:
    """Which of two interfaces on one link to use; of two that are equally fast that of the lower index."""
    return max(one, other, key=lambda interface: (interface.speed_bits or 0, -interface.index))


def _may_come(interface: Interface, names: Sequence[str]) -> bool:
    wanted = interface.name in names if names else interface.unsuited() is None
    return wanted and interface.unfit() is None and not interface.tentative


def _may_stay(interface: Interface, names: Sequence[str]) -> bool:
    if names:
        return interface.name in names
    return interface.kind is Kind.WIRED and interface.multicast


def _steady(old: Interface, new: Interface) -> Interface:
    """With several link-local addresses the one in use stays so: the order in which they are listed means nothing."""
    if new.link_local != old.link_local and old.link_local in new.addresses and not old.tentative:
        return replace(new, link_local=old.link_local, tentative=False)
    return new


def _state(interface: Interface) -> str:
    if is_ready(interface):
        return "is up"
    if interface.up and not interface.running:
        return "has no carrier"
    return "is down" if not interface.up else "has no IPv6 link-local address"
