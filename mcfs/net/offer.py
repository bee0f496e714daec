"""What a server announces: its shares, on each of its links and to other servers of the same shares."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mcfs.protocol import addressing, mld, wire
from mcfs.protocol.announce import Announcement, decode_announcement_untrusted, encode_announcement, encode_gone
from mcfs.protocol.catalog import Owners
from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.ids import Group, Host
from mcfs.protocol.seal import MAX_CONTROL, open_control_untrusted, seal_control
from mcfs.serve.announcer import KEYED
from mcfs.serve.schedule import NOBODY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nacl.signing import SigningKey

    from mcfs.net.ports import Port
    from mcfs.net.settings import ServerSettings
    from mcfs.protocol.keys import ShareKeys
    from mcfs.serve.channel import Channel
    from mcfs.serve.link import Beacon, Link

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
        self._keys: dict[bytes, ShareKeys] = {}
        self._keys_of: dict[Group, ShareKeys] = {}
        """Of each control channel of a share with a key."""

    def replace(self, announcements: Mapping[bytes, Announcement], keys: Mapping[bytes, ShareKeys]) -> list[bytes]:
        """Take over new announcements, of shares that have these keys; the key of a share never changes. Returns the
        names of those that were not known."""
        self._keys.update(keys)
        new = [name for name, announcement in announcements.items() if self._announcements.get(name) != announcement]
        self._announcements.update((name, announcements[name]) for name in new)
        return new

    def publish(self, link: Link, names: list[bytes] | None = None, *, now: float) -> None:
        """Tell a link of these shares; without names of all."""
        for name in self._announcements if names is None else names:
            keys, share = self._keys.get(name), self._share_group(name)
            catalogue = self._sealed(addressing.catalogue_group(self._settings.scope, keys), keys)
            keyed = addressing.keyed_group(self._settings.scope)
            link.announcer.publish(share, name, now=now, catalogue=catalogue, keys=keys)
            if keys is not None:
                link.announcer.tell_keyed(keyed)
            if self._settings.always:
                for group in (share, catalogue, keyed):
                    link.announcer.joined(NOBODY, group, now=now)
            self._coordinate(link, name, now)

    def announcement(self, port: Port, name: bytes, group: Group) -> bytes:
        """The datagram for a channel of a link, signed now."""
        if name == KEYED:
            return wire.control(wire.KEYED, b"")
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
            key_check=keys.check(name) if (keys := self._keys.get(name)) else b"",
        )
        datagram = wire.control(wire.ANNOUNCEMENT, encode_announcement(complete, self._key))
        if len(datagram) > MAX_CONTROL:  # names of users may be of any length, and nobody needs them
            complete = replace(complete, owners=Owners())
            datagram = wire.control(wire.ANNOUNCEMENT, encode_announcement(complete, self._key))
        return self._seal(datagram, group)

    def beacon(self, beacon: Beacon) -> bytes:
        """The datagram of a beacon."""
        return self._seal(wire.control(wire.BEACON, beacon.body, round(1000 * beacon.hold)), beacon.channel)

    def gone(self, channel: Channel) -> bytes:
        """The datagram that tells the listeners of a channel that its node can no longer be produced."""
        datagram = wire.control(wire.GONE, encode_gone(channel.group, _unix_ms(), self._key))
        keys = channel.node.keys
        return datagram if keys is None else seal_control(datagram, keys, channel.group)

    def other_server_untrusted(self, link: Link, channel: Group, datagram: bytes, *, now: float) -> None:
        """A datagram came in a senders' channel. Raises BadDatagram."""
        keys = self._keys_of.get(channel)
        if keys is not None:
            datagram = open_control_untrusted(datagram, keys, channel)
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
        keys = self._keys.get(name)
        channel = self._sealed(addressing.senders_group(self._publisher, name, self._settings.scope, keys), keys)
        if content is not None and (channel in link.senders or len(link.senders.channels) < MAX_COORDINATED):
            link.senders.publish(channel, name, content, now=now)

    def _later(self, name: bytes) -> int:
        """The time, in ms, but later than that of what was said of this share before, whatever is done to the clock:
        what is not later is taken for a recording."""
        self._signed_at[name] = max(_unix_ms(), self._signed_at.get(name, 0) + 1)
        return self._signed_at[name]

    def _share_group(self, name: bytes) -> Group:
        keys = self._keys.get(name)
        return self._sealed(addressing.share_group(name, self._settings.scope, keys), keys)

    def _sealed(self, group: Group, keys: ShareKeys | None) -> Group:
        """Note that what goes to this group is sealed, if it has keys."""
        if keys is not None:
            self._keys_of[group] = keys
        return group

    def _seal(self, datagram: bytes, group: Group) -> bytes:
        keys = self._keys_of.get(group)
        return datagram if keys is None else seal_control(datagram, keys, group)


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000
