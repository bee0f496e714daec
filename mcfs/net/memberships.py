"""Which groups the client is a member of, and on which of its interfaces, which come and go.

The fetcher decides which channels of nodes to be joined to, and when changes are made; here is where: nodes only on the
interfaces on which their share is heard, control channels on all. What the kernel has forgotten, or could not tell the
link, is joined anew as soon as there is an interface again, so that readers wait no longer than the interface was away.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mcfs.fetch.fetcher import Fetcher
    from mcfs.fetch.shares import ShareTable
    from mcfs.net.interfaces import Interface
    from mcfs.net.receive import Receiver
    from mcfs.net.reconcile import Plan
    from mcfs.protocol.ids import Group

log = logging.getLogger(__name__)

FIRST_REPEAT: Final = 1.5
MAX_REPEAT: Final = 10.0
"""A control channel in which nothing comes is joined anew after these many seconds, doubling."""
MAX_SHARE_CHANNELS: Final = 16
"""Shares whose own channels are held because files of them were opened, the latest ones."""
MIN_GROUPS: Final = 4
"""Channels of nodes that are tried for even where the kernel says that there is no room."""


@dataclass(slots=True)
class _Control:
    """A control channel that is held."""

    joined_at: float
    repeat: float = FIRST_REPEAT


class Memberships:
    def __init__(
        self, receiver: Receiver, fetcher: Fetcher, shares: ShareTable, interfaces: Iterable[Interface]
    ) -> None:
        self._receiver = receiver
        self._fetcher = fetcher
        self._shares = shares
        self._interfaces = {interface.index: interface for interface in interfaces}
        self._controls: dict[Group, _Control] = {}
        self._share_channels: OrderedDict[Group, None] = OrderedDict()
        self._joined: dict[Group, tuple[int, ...]] = {}
        """Where each group is joined: nowhere, while the kernel cannot do it."""
        self._warned = False

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """Those in use, as they were last known."""
        return tuple(self._interfaces.values())

    # --- control channels ---

    def is_control(self, group: Group) -> bool:
        return group in self._controls

    def hold(self, group: Group, *, now: float) -> bool:
        """Stay joined to a control channel. Returns whether that is new."""
        if group in self._controls:
            return False
        self._controls[group] = _Control(now)
        self._fetcher.hold(group)
        return True

    def release(self, group: Group, *, now: float) -> None:
        """Leave a control channel."""
        if self._controls.pop(group, None) is not None:
            self._share_channels.pop(group, None)
            self._fetcher.release(group, now=now)

    def hold_share(self, group: Group, *, now: float) -> bool:
        """Listen to the channel of a share that is in use, for its beacons. Returns whether that is new."""
        if group in self._share_channels:
            self._share_channels.move_to_end(group)
            return False
        if not self.hold(group, now=now):
            return False
        self._share_channels[group] = None
        if len(self._share_channels) > MAX_SHARE_CHANNELS:
            oldest, _ = self._share_channels.popitem(last=False)
            del self._controls[oldest]
            self._fetcher.release(oldest, now=now)
        return True

    def heard(self, group: Group, *, now: float) -> None:
        """An announcement came in this control channel."""
        control = self._controls[group]
        control.joined_at, control.repeat = now, FIRST_REPEAT

    def repeat(self, *, now: float) -> None:
        """Join control channels anew in which nothing comes."""
        for group, control in self._controls.items():
            if now >= control.joined_at + control.repeat:
                control.joined_at = now
                control.repeat = min(MAX_REPEAT, control.repeat * 2)
                self._fetcher.rejoin(group, now=now)

    def next_timeout(self) -> float | None:
        """When to call `repeat`."""
        return min((c.joined_at + c.repeat for c in self._controls.values()), default=None)

    # --- what the fetcher decides ---

    def change(self, *, now: float) -> None:
        """Make the changes whose time has come."""
        changes = self._fetcher.changes(now=now)
        if changes is None:
            return
        for group in changes.leaves:
            self._leave(group)
        refused = [group for group in changes.joins if not self._join(group)]
        for group in refused:
            self._fetcher.refused(group, now=now)
        if refused:
            self._fewer_groups()

    def _join(self, group: Group) -> bool:
        """False if the kernel has no room for it. Where an interface is not there now it is joined when that comes."""
        results = {index: self._receiver.join(group, index) for index in self._interfaces_of(group)}
        joined = tuple(index for index, result in results.items() if result.ok)
        if not joined and any(result.too_many for result in results.values()):
            return False
        self._joined[group] = joined
        return True

    def _leave(self, group: Group) -> None:
        for index in self._joined.pop(group, ()):
            self._receiver.leave(group, index)

    def _interfaces_of(self, group: Group) -> tuple[int, ...]:
        """A share's nodes are joined only where the share is heard."""
        origin = self._fetcher.origin_of(group)
        heard = self._shares.interfaces(origin) if origin is not None else ()
        return heard or tuple(self._interfaces)

    def _fewer_groups(self) -> None:
        """Hold as many channels of nodes as the kernel has just taken."""
        limits = self._fetcher.limits
        taken = sum(1 for group in self._joined if group not in self._controls)
        fewer = min(limits.max_groups, max(MIN_GROUPS, taken))
        self._fetcher.limits = replace(limits, max_groups=fewer)
        if not self._warned:
            self._warned = True
            log.warning(
                "the kernel allows no more multicast memberships: holding %d (sysctl net.core.optmem_max)", fewer
            )

    # --- interfaces that come and go ---

    def apply(self, plan: Plan, *, now: float) -> None:
        """The interfaces have changed: drop what was joined on those that went, join anew on those that came."""
        for interface in plan.close:
            log.info("%s: no longer used, the interface has gone", interface.name)
            self._drop(interface.index)
        for update in plan.update:
            if str(update):
                log.info("%s: %s", update.new.name, update)
            self._interfaces[update.new.index] = update.new
        for interface in plan.open:
            log.info("%s: used from now on", interface.name)
            self._interfaces[interface.index] = interface
        if plan.close and not self._interfaces:
            log.warning("no network interface is left: waiting for one")
        new = {interface.index for interface in plan.open}
        renewed = {update.new.index for update in plan.update if update.came_up}
        if new or renewed:
            self._renew(renewed, now)

    def _drop(self, index: int) -> None:
        del self._interfaces[index]
        self._shares.forget_interface(index)
        for group, indexes in self._joined.items():
            if index in indexes:
                self._receiver.leave(group, index)  # the kernel keeps account of it although the interface has gone
                self._joined[group] = tuple(i for i in indexes if i != index)

    def _renew(self, renewed: set[int], now: float) -> None:
        """Join control channels anew, and nodes that are joined nowhere or on one of these interfaces."""
        for control in self._controls.values():
            control.joined_at, control.repeat = now, FIRST_REPEAT
        self._fetcher.renew(
            [
                group
                for group, indexes in self._joined.items()
                if group in self._controls or not indexes or not renewed.isdisjoint(indexes)
            ],
            now=now,
        )
