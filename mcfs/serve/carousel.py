"""Sending everything round and round, for links on which nobody can be heard (one-way links, networks that drop MLD).

The carousel is one more listener of the scheduler: it joins each channel in turn, a little ahead of what is sent so
that beacons can name it, and leaves when the pass is sent. What clients need before anything else, listings and pages
of hashes, goes round on its own, in META_SHARE of the bits: a mount must not wait for a terabyte to pass.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mcfs.protocol import fec, wire
from mcfs.protocol.ids import Node, node_under
from mcfs.serve.schedule import NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mcfs.protocol.ids import Group, ObjectRef
    from mcfs.protocol.keys import ShareKeys
    from mcfs.serve.channel import Channel
    from mcfs.serve.schedule import Scheduler

META_SHARE: Final = 0.1
MIN_REPAIR: Final = 0.05
"""Repair symbols of each pass: as nobody says what was lost, enough for a poor wire. More loss costs a second round."""
AHEAD_SECONDS: Final = 0.3
"""How far ahead channels are open: beacons come every 40 ms, and a client joins within another 40."""
MAX_AHEAD: Final = 64
MIN_AHEAD: Final = 4
LOOK: Final = 0.01
"""Seconds between two looks at what is sent."""
IDLE: Final = 1.0
"""The same while there is nothing to send."""
MAX_SKIPPED: Final = 64
"""Nodes that are passed over in one look, since another server sends them."""


@dataclass(frozen=True, slots=True)
class Content:
    """An object to send; `meta` if it is a listing."""

    object: ObjectRef
    meta: bool
    keys: ShareKeys | None = None

    def node(self, level: int, index: int) -> Node:
        return node_under(self.keys, self.object, level, index)


class Carousel:
    """The order of everything on one link.

    :param contents: what there is now; asked for at the start of each round
    :param group: the channel of a node in the fastest pace class
    :param resolve: a group's channel, None if it is no longer served
    """

    def __init__(
        self,
        *,
        contents: Callable[[], Sequence[Content]],
        group: Callable[[Node], Group],
        resolve: Callable[[Group], Channel | None],
        rate: float,
        max_symbol_size: int,
    ) -> None:
        self.period = 0.0
        """Seconds of one round, as far as it can be told."""
        self.rounds = 0
        self._contents = contents
        self._group = group
        self._resolve = resolve
        self._rate = rate
        self._max_symbol_size = max_symbol_size
        self._open: OrderedDict[Group, None] = OrderedDict()
        self._meta: Iterator[Node] = iter(())
        self._blocks: Iterator[Node] = iter(())
        self._meta_credit = 0.0
        self._look_at = 0.0

    def turn(self, scheduler: Scheduler, silent: frozenset[bytes], *, now: float) -> None:
        """Leave what is sent, join what comes next. `silent`: shares that another server sends."""
        if now < self._look_at:
            return
        self._look_at = now + LOOK
        for group in [group for group in self._open if scheduler.is_sent(group)]:
            del self._open[group]
            scheduler.left(NOBODY, group, now=now)
        ahead: float = sum(scheduler.bits_ahead(group) for group in self._open)
        skipped = 0
        while skipped < MAX_SKIPPED and len(self._open) < MAX_AHEAD:
            if len(self._open) >= MIN_AHEAD and ahead >= AHEAD_SECONDS * self._rate:
                return
            channel = self._next()
            if channel is None or channel.group in self._open or channel.is_only_in(silent):
                skipped += 1
                continue
            self._open[channel.group] = None
            scheduler.joined(NOBODY, channel, now=now)
            ahead += self._bits(channel.node)
        if not self._open:
            self._look_at = now + IDLE

    def next_timeout(self) -> float:
        return self._look_at

    def _next(self) -> Channel | None:
        node = self._next_node()
        return self._resolve(self._group(node)) if node is not None else None

    def _next_node(self) -> Node | None:
        if self._meta_credit > 0 and (meta := self._next_meta()) is not None:
            self._meta_credit -= self._bits(meta)
            return meta
        block = next(self._blocks, None) or self._next_round()
        if block is None:
            return self._next_meta()
        self._meta_credit += self._bits(block) * META_SHARE / (1 - META_SHARE)
        return block

    def _next_round(self) -> Node | None:
        contents = self._contents()
        self.rounds += 1
        self._blocks = _blocks(contents)
        block_bits = sum(self._bits_of(content, 0) for content in contents if not content.meta)
        meta_bits = sum(self._bits_of(content, level) for content in contents for level in _meta_levels(content))
        self.period = max(block_bits / (1 - META_SHARE), meta_bits / META_SHARE if block_bits else meta_bits)
        self.period /= self._rate
        return next(self._blocks, None)

    def _next_meta(self) -> Node | None:
        node = next(self._meta, None)
        if node is None:
            self._meta = _meta(self._contents())
            node = next(self._meta, None)
        return node

    def _bits_of(self, content: Content, level: int) -> float:
        """Of all nodes of a level: all but the last are of one size."""
        count = content.object.geometry.counts[level]
        return (count - 1) * self._bits(content.node(level, 0)) + self._bits(content.node(level, count - 1))

    def _bits(self, node: Node) -> float:
        """On the wire, with headers and repair."""
        t = fec.symbol_size(node.length, self._max_symbol_size)
        k = fec.source_symbols(node.length, t)
        size = wire.datagram_size(t, tagged=node.keys is not None)
        return 8 * k * (1 + MIN_REPAIR) * (size + wire.LINK_OVERHEAD)


def _blocks(contents: Sequence[Content]) -> Iterator[Node]:
    for content in contents:
        if not content.meta:
            yield from (content.node(0, index) for index in range(content.object.geometry.counts[0]))


def _meta(contents: Sequence[Content]) -> Iterator[Node]:
    for content in contents:
        for level in reversed(_meta_levels(content)):
            yield from (content.node(level, index) for index in range(content.object.geometry.counts[level]))


def _meta_levels(content: Content) -> range:
    return range(0 if content.meta else 1, len(content.object.geometry.counts))
