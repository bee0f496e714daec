"""Knowing when network interfaces or their IPv6 addresses have changed: rtnetlink(7), on trio.

The kernel's messages only say *that* there is something new. What holds then is what `list_interfaces` finds: messages
can be lost, and several changes that belong together (down, address gone, up, address back) come one by one. One thing
no list shows: an interface that was deleted and made anew with the same name and index. So deletions are remembered.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import trio

from mcfs.net.interfaces import list_interfaces
from mcfs.net.reconcile import plan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from mcfs.net.interfaces import Interface
    from mcfs.net.reconcile import Plan

log = logging.getLogger(__name__)

SETTLE: Final = 0.1
"""Seconds from a change until it is told: `ip link set up` is followed by a carrier and an address within 20 ms."""
RETRY: Final = 1.0
"""Seconds until what failed is tried again, if nothing changes sooner."""
MESSAGES_PER_CALL: Final = 256
"""Reads in one turn: whoever makes changes in a loop does not keep us in one."""

# linux/rtnetlink.h
_RTMGRP_LINK: Final = 0x1
_RTMGRP_IPV6_IFADDR: Final = 0x100
_RTM_NEWLINK: Final = 16
_RTM_DELLINK: Final = 17
_RTM_NEWADDR: Final = 20
_RTM_DELADDR: Final = 21
_CHANGES: Final = (_RTM_NEWLINK, _RTM_DELLINK, _RTM_NEWADDR, _RTM_DELADDR)
_HEADER: Final = struct.Struct("=IHHII")
"""struct nlmsghdr: length with this header, type, flags, sequence, port."""
_LINK: Final = struct.Struct("=BxHi")
"""The beginning of struct ifinfomsg: family, type, index."""
_BUFFER: Final = 64 << 10
"""Bytes; the kernel puts one message in a datagram, of some KB with all attributes of a link."""


@dataclass(frozen=True, slots=True)
class Changed:
    """Something may be different now."""

    deleted: frozenset[int] = frozenset()
    """Indexes of interfaces that were deleted, whether or not there is one of this index again."""

    def __or__(self, other: Changed) -> Changed:
        return Changed(self.deleted | other.deleted)


class LinkWatch:
    """A socket that hears of changes in the network namespace of the calling thread, from now on.

    :raises OSError: there is no rtnetlink here, for instance because the process may not open such sockets
    """

    def __init__(self) -> None:
        self._found: Changed | None = None
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            self._socket.bind((0, _RTMGRP_LINK | _RTMGRP_IPV6_IFADDR))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    async def changed(self) -> Changed:
        """Wait for a change, and until what belongs to it should be over. Cancelled it loses nothing."""
        while not self._drain():
            await trio.lowlevel.wait_readable(self.fileno())
        await trio.sleep(SETTLE)
        self._drain()
        found, self._found = self._found, None
        return found or Changed()

    def _drain(self) -> bool:
        """Take what has come. Returns whether there is anything to tell."""
        for _ in range(MESSAGES_PER_CALL):
            try:
                data, (sender, _) = self._socket.recvfrom(_BUFFER)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._add(Changed())  # an overrun: something has changed
            else:
                if sender == 0:  # the kernel: other processes can send here too
                    self._add(parse_changes(data))
        return self._found is not None

    def _add(self, change: Changed | None) -> None:
        if change is not None:
            self._found = change if self._found is None else self._found | change


def parse_changes(data: bytes) -> Changed | None:
    """What one datagram of the kernel's tells; None if nothing that matters."""
    found: Changed | None = None
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, offset)
        if kind in _CHANGES:
            found = (found or Changed()) | Changed(_deleted(kind, data[offset + _HEADER.size : offset + length]))
        offset += max(_HEADER.size, length + 3 & ~3)
    return found


def _deleted(kind: int, body: bytes) -> frozenset[int]:
    if kind != _RTM_DELLINK or len(body) < _LINK.size:
        return frozenset()
    family, _, index = _LINK.unpack_from(body)
    # A bridge tells in its own family that a port has left it: that port is still there.
    return frozenset((index,)) if family == socket.AF_UNSPEC else frozenset()


async def follow(
    used: Callable[[], Iterable[Interface]], names: Sequence[str], apply: Callable[[Plan], Awaitable[bool]]
) -> None:
    """Keep the interfaces in use as they should be, until cancelled; returns only where changes cannot be heard.

    :param used: those in use now, as they were last known
    :param apply: does what the plan says; returns False if some of it failed and is to be tried again in a second
    """
    try:
        watch = LinkWatch()
    except OSError as error:
        log.warning("changes of network interfaces are not followed: %s", error.strerror)
        return
    with watch:
        change = Changed()  # what was chosen before the socket was there may have changed
        while True:
            done = await _reconcile(change, used(), names, apply)
            change = Changed()
            with trio.move_on_after(float("inf") if done else RETRY):
                change = await watch.changed()


async def _reconcile(
    change: Changed, used: Iterable[Interface], names: Sequence[str], apply: Callable[[Plan], Awaitable[bool]]
) -> bool:
    try:
        listed = list_interfaces()
    except OSError as error:  # one that went away while it was looked at
        log.debug("cannot list network interfaces: %s", error)
        return False
    todo = plan(used, listed, names, deleted=change.deleted)
    return await apply(todo) if todo else True
