"""A store that serves the probe object beside what another store has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mcfs.protocol.addressing import CONTROL_KIND, SITE_LOCAL, addresser_of, prefix
from mcfs.protocol.ids import Group, Node
from mcfs.protocol.probe import probe_content, probe_object
from mcfs.serve.channel import Channel

if TYPE_CHECKING:
    from mcfs.protocol.merkle import Buffer
    from mcfs.serve.carousel import Content


class Store(Protocol):
    """What a server sends: `mcfs.serve.store.NodeStore`, or one that adds to it. Thread-safe."""

    def resolve(self, group: bytes) -> Channel | None:
        """The channel of a group, None if it is no node of ours."""
        ...

    def load(self, node: Node) -> Buffer:
        """What is sent of a node: its verified bytes, sealed if it has a key. Raises Gone."""
        ...

    def contents(self) -> list[Content]:
        """All objects that are served now."""
        ...

    def group(self, node: Node) -> Group:
        """The channel of a node in the fastest pace class."""
        ...


class WithProbe:
    """A join of the probe object is served as that of any other node: one pass, hold-off, bounded by MLD."""

    def __init__(self, store: Store, *, scope: int = SITE_LOCAL) -> None:
        self._store = store
        self._object = probe_object()
        self._addresser = addresser_of(self._object)
        self._start = prefix(scope) + self._addresser.tag

    def resolve(self, group: bytes) -> Channel | None:
        own = self._channel(Group(group)) if group.startswith(self._start) else None
        return own or self._store.resolve(group)

    def load(self, node: Node) -> Buffer:
        return probe_content() if node.object == self._object else self._store.load(node)

    def contents(self) -> list[Content]:
        """Without the probe object, which nobody needs to get unasked."""
        return self._store.contents()

    def group(self, node: Node) -> Group:
        return self._store.group(node)

    def _channel(self, group: Group) -> Channel | None:
        coordinate = self._addresser.coordinate(group)
        if coordinate is None or coordinate.kind == CONTROL_KIND:
            return None
        if not self._object.geometry.has(coordinate.kind, coordinate.index):
            return None
        return Channel(group, Node(self._object, coordinate.kind, coordinate.index), coordinate.pace)
