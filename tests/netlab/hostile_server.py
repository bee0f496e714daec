"""A server with a valid key whose share is what a malicious publisher makes of it, on a real interface:

    python -m tests.netlab.hostile_server INTERFACE

Prints "serving" when it serves the shares b"evil" and b"wide". Until it is killed.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING

import trio
from nacl.signing import SigningKey

from mcfs.net.interfaces import choose
from mcfs.net.server import Server
from mcfs.net.settings import ServerSettings
from mcfs.protocol.addressing import SITE_LOCAL, addresser_of, node_group
from mcfs.protocol.announce import Announcement
from mcfs.protocol.catalog import Attributes, DirectoryEntry, Owners
from mcfs.protocol.errors import Gone
from tests.hostile.publisher import BIG, BLOCK, HostileStore, directory, file, link, listing, made_up

if TYPE_CHECKING:
    from mcfs.protocol.ids import Group, Node, ObjectRef
    from mcfs.serve.carousel import Content

FINE = b"beside it\n"
TRAPS = {
    b"absolute": b"/etc/passwd",
    b"climbs": b"../../../../../../../../../../etc/passwd",
    b"root": b"/",
    b"above": b"..",
    b"up": b"d/deep/back",
    b"by-up": b"up/../../../../../../../../../etc/passwd",
    b"inside": b"d/deep/../deep",
    b"fine-link": b"fine",
}
"""Links at the top of the share and their targets."""
INSIDE = frozenset({b"up", b"fine-link"})
"""Those that may be followed."""


class Store(HostileStore):
    """As a server asks."""

    def load(self, node: Node) -> bytes:
        data = super().load(node)
        if data is None:
            raise Gone("lost")
        return data

    def contents(self) -> list[Content]:
        return []

    def group(self, node: Node) -> Group:
        return node_group(node, 0, addresser_of(node.object), SITE_LOCAL)


def evil(store: Store) -> ObjectRef:
    """The root of the share."""
    fine = store.add(FINE)
    bad_names = [
        store.add(listing(link(b"../escape", b"x"))),
        store.add(listing(link(b"..", b"x"))),
        store.add(listing(link(b"same"), link(b"same"))),
        store.add(listing(link(b"b"), link(b"a"))),
        store.add(b"no listing"),
    ]
    deep = directory(b"deep", None, [link(b"back", b"../..")])
    entries = [
        *(directory(b"bad%d" % number, 1 + number) for number in range(len(bad_names))),
        directory(b"d", None, [deep]),
        file(b"device", size=0, mode=stat.S_IFBLK | 0o666),
        file(b"fine", size=len(FINE)),
        file(b"future", size=0, mtime=(1 << 63) - 1),
        file(b"huge", size=BIG, number=1 + len(bad_names)),
        file(b"nobody", size=0, uid=0xFFFFFFFF, gid=0xFFFFFFFF),
        file(b"past", size=0, mtime=-(1 << 63)),
        file(b"su", size=len(SU), number=2 + len(bad_names), mode=0o6755),
        file(b"\x1b[2J\n", size=0),
        *(link(name, target) for name, target in TRAPS.items()),
    ]
    entries.sort(key=lambda entry: entry[1])
    objects = [fine, *bad_names, made_up(BIG, BLOCK << 8), store.add(SU)]
    return store.add(listing(*entries, objects=objects))


SU = b"#!/bin/sh\nid -u\n"


def wide(store: Store) -> ObjectRef:
    """A directory that claims ten million entries."""
    parts = [made_up(8 << 20, BLOCK << 8, number.to_bytes(32, "big")) for number in range(100)]
    root = listing(directory(b"wide", 0), objects=[store.add(listing(objects=parts, parts=list(range(100))))])
    return store.add(root)


def announcement(name: bytes, root: ObjectRef) -> Announcement:
    entry = DirectoryEntry(name, Attributes(0o755, 0, 0, 0), root)
    return Announcement(1, 0, entry, Owners(), BIG, BIG, 0, ())


async def main(interface: str) -> None:
    store = Store()
    announcements = {b"evil": announcement(b"evil", evil(store)), b"wide": announcement(b"wide", wide(store))}
    settings = ServerSettings(interface_names=(interface,))
    server = Server(store, choose([interface]).chosen, settings, SigningKey(os.urandom(32)))
    server.publish(announcements)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        print("serving", flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
