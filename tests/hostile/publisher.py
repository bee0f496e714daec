"""A publisher that signs whatever it likes: listings are made from raw MessagePack, trees need not fit together."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

import msgspec
from nacl.signing import SigningKey

from mcfs.protocol import announce, merkle, wire
from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.ids import MIN_BLOCK_SIZE, Digest, Node, ObjectRef
from tests.fakelink import SERVER, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcfs.protocol.ids import Group

Raw = list[Any]
"""An entry as it is on the wire."""

HASH: Final = bytes(32)
BLOCK: Final = MIN_BLOCK_SIZE
BIG: Final = (1 << 63) - 1


def file(name: object = b"f", *, size: object = 5, number: object = 0, offset: object = 0, **more: object) -> Raw:
    return [0, name, *_attributes(more), size, number, offset, HASH]


def directory(name: object = b"d", number: object = None, entries: Sequence[Raw] = (), **more: object) -> Raw:
    return [1, name, *_attributes(more), number, list(entries)]


def link(name: object = b"l", target: object = b"x", **more: object) -> Raw:
    return [2, name, *_attributes(more), target]


def _attributes(more: dict[str, object]) -> Raw:
    return [more.get("mode", 0o755), more.get("uid", 0), more.get("gid", 0), more.get("mtime", 0)]


def triple(ref: ObjectRef) -> Raw:
    return [ref.size, ref.block_size, ref.top]


def listing(*entries: Raw, objects: Sequence[object] = (), parts: Sequence[object] = (), **more: object) -> bytes:
    """The bytes of a listing; `objects` are ObjectRefs, or whatever is to stand for one."""
    table = [triple(each) if isinstance(each, ObjectRef) else each for each in objects]
    value = [more.get("format", 1), table, more.get("users", {}), more.get("groups", {}), list(parts), list(entries)]
    return msgspec.msgpack.encode(value)


def made_up(size: int = BIG, block_size: int = BLOCK, top: bytes = HASH) -> ObjectRef:
    """An object that nobody has."""
    return ObjectRef(size, block_size, Digest(top))


class HostileStore(MemoryStore):
    """Objects in memory, of which some nodes are not what they should be."""

    def __init__(self) -> None:
        super().__init__()
        self.lies: dict[Node, bytes] = {}
        self.loaded: list[Node] = []
        self.refs: list[ObjectRef] = []
        self.publishers: dict[bytes, Publisher] = {}
        """By their keys."""

    def add(self, data: bytes, block_size: int = BLOCK) -> ObjectRef:
        ref = super().add(data, block_size)
        self.refs.append(ref)
        return ref

    def load(self, node: Node) -> bytes | None:
        self.loaded.append(node)
        return self.lies[node] if node in self.lies else super().load(node)


class Publisher:
    """One key, and shares under it."""

    def __init__(self, store: HostileStore, seed: int = 1) -> None:
        self.store = store
        self.key = SigningKey(seed.to_bytes(32, "big"))
        self._versions = itertools.count(1)
        self._times = itertools.count(1_700_000_000_000)
        store.publishers[bytes(self.key.verify_key)] = self

    def announcement(self, *top: Raw, objects: Sequence[object] = (), **more: object) -> bytes:
        """A datagram, signed. The top entry's name is that of the share."""
        signed = [
            more.get("version", next(self._versions)),
            more.get("time_ms", next(self._times)),
            more.get("top", listing(*top, objects=objects)),
            more.get("total_bytes", 0),
            more.get("total_files", 0),
            more.get("rate", 1_000_000_000),
            more.get("addresses", [SERVER]),
            more.get("period", 0),
        ]
        return self._sign(msgspec.msgpack.encode(signed))

    def _sign(self, message: bytes) -> bytes:
        context = announce._ANNOUNCEMENT_CONTEXT
        body = [bytes(self.key.verify_key), self.key.sign(context + message).signature, message]
        return wire.control(wire.ANNOUNCEMENT, msgspec.msgpack.encode(body))

    def again(self, message: bytes) -> bytes:
        """What was signed, signed later: else it would be taken for a recording."""
        signed = msgspec.msgpack.decode(message)
        if isinstance(signed[1], int) and 0 <= signed[1] < BIG:
            signed[1] = next(self._times)
        return self._sign(msgspec.msgpack.encode(signed))

    def share(self, name: bytes, root: bytes, **more: object) -> bytes:
        """The announcement of a share whose root is this listing."""
        return self.announcement(directory(name, 0), objects=[self.store.add(root)], **more)

    def gone(self, group: Group) -> bytes:
        return wire.control(wire.GONE, announce.encode_gone(group, next(self._times), self.key))


def again(store: HostileStore, datagram: bytes) -> bytes:
    """An announcement as its publisher repeats it; one that is forged stays as it is."""
    try:
        key, message = announce._open_untrusted(announce._ANNOUNCEMENT_CONTEXT, wire.control_untrusted(datagram)[1])
    except BadDatagram:
        return datagram
    return store.publishers[key].again(message)


def honest(publisher: Publisher, content: bytes, name: bytes = b"good") -> bytes:
    """A share with one file, which has to stay readable whatever others do."""
    return publisher.share(name, listing(file(b"file", size=len(content)), objects=[publisher.store.add(content)]))


def top_over(leaves: bytes, size: int, block_size: int = BLOCK) -> ObjectRef:
    """An object whose pages are over these leaves, whatever its blocks are."""
    return merkle.object_ref(size, block_size, leaves)
