"""What a server announces: its shares, on each of its links and to other servers of the same shares."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from mcfs.protocol import addressing, mld, wire
from mcfs.protocol.announce import Announcement, decode_announcement_untrusted, encode_announcement, encode_gone
from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.ids import Group, Host
from mcfs.serve.schedule import NOBODY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nacl.signing import SigningKey

    from mcfs.net.ports import Port
    from mcfs.net.settings import ServerSettings
    from mcfs.serve.link import Link

MAX_COORDINATED: Final = 128
"""Shares for which other servers are listened for, each with a group of its own; hosts may report 256."""


class Offer:
    """The newest announcement of each share, without what differs from link to link."""

    def __init__(self, settings: ServerSettings, key: SigningKey, links: tuple[bytes, ...] = ()) -> None:
        """`links` lead from the publisher's former keys to `key` (`mcfs.protocol.succession`)."""
        self.catalogue = addressing.catalogue_group(settings.scope)
        self._settings = settings
        self._key = key
        self._publisher = bytes(key.verify_key)
        self._links = links
        self._signed_at: dict[bytes, int] = {}
        self._announcements: dict[bytes, Announcement] = {}

    def replace(self, announcements: Mapping[bytes, Announcement]) -> list[bytes]:
        """Take over new announcements. Returns the names of those that were not known."""
        new = [name for name, announcement in announcements.items() if self._announcements.get(name) != announcement]
        self._announcements.update((name, announcements[name]) for name in new)
        return new

    def publish(self, link: Link, names: list[bytes] | None = None, *, now: float) -> None:
        """Tell a link of these shares; without names of all."""
        for name in self._announcements if names is None else names:
            link.announcer.publish(self._share_group(name), name, now=now)
            if self._settings.always:
                for group in (self._share_group(name), self.catalogue):
                    link.announcer.joined(NOBODY, group, now=now)
            self._coordinate(link, name, now)

    def announcement(self, port: Port, name: bytes) -> bytes:
        """The datagram for a link, signed now."""
        announcement, carousel = self._announcements[name], port.link.carousel
        addresses = (port.interface.link_local, port.transmitter.source(self.catalogue))
        complete = Announcement(
            announcement.version,
            self._later(name),
            announcement.entry,
            announcement.owners,
            announcement.total_bytes,
            announcement.total_files,
            port.rate,
            tuple(dict.fromkeys(address for address in addresses if address)),
            math.ceil(carousel.period) if carousel else 0,
            links=self._links,
        )
        return wire.control(wire.ANNOUNCEMENT, encode_announcement(complete, self._key))

    def gone(self, group: Group) -> bytes:
        """The datagram that tells the listeners of a channel that its node can no longer be produced."""
        return wire.control(wire.GONE, encode_gone(group, _unix_ms(), self._key))

    def other_server_untrusted(self, link: Link, channel: Group, datagram: bytes, *, now: float) -> None:
        """A datagram came in a senders' channel. Raises BadDatagram."""
        kind, body = wire.control_untrusted(datagram)
        if kind != wire.ANNOUNCEMENT or channel not in link.senders:
            raise BadDatagram("not for servers")
        announcement = decode_announcement_untrusted(body)
        address = min((Host(a) for a in announcement.addresses if mld.is_link_local(a)), default=None)
        if announcement.publisher != self._publisher or address is None or announcement.content is None:
            raise BadDatagram("not of a server with our key")
        time_ms = announcement.time_ms
        link.server_heard(channel, address, announcement.content, time_ms=time_ms, own_ms=_unix_ms(), now=now)

    def _coordinate(self, link: Link, name: bytes, now: float) -> None:
        """Look out for other servers of a share, unless there are too many shares for that."""
        content = self._announcements[name].content
        channel = addressing.senders_group(self._publisher, name, self._settings.scope)
        if content is not None and (channel in link.senders or len(link.senders.channels) < MAX_COORDINATED):
            link.senders.publish(channel, name, content, now=now)

    def _later(self, name: bytes) -> int:
        """The time, in ms, but later than that of what was said of this share before, whatever is done to the clock:
        what is not later is taken for a recording."""
        self._signed_at[name] = max(_unix_ms(), self._signed_at.get(name, 0) + 1)
        return self._signed_at[name]

    def _share_group(self, name: bytes) -> Group:
        return addressing.share_group(name, self._settings.scope)


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000
