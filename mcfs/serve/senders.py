"""Which of several servers of the same content sends on one link. Sans-IO.

Servers that have the same publisher's key and a share of the same name meet in the share's *senders' channel*. While
nobody else has joined it nothing is sent there. Each announces its share in it once a second, and of those that
announce the same content the one with the lowest address sends; the others listen to reports as before, and send
nothing. They take over

- at once when the sender leaves the channel, which the kernel does for it when it ends or is killed;
- when three of its announcements are missed, if its cable was cut.

A server that starts while another sends says nothing for a moment: it first has to learn who listens.

Who has no key can only repeat what was said. So an announcement counts once, and only while it is fresh by our clock:
servers whose clocks differ by more than MAX_SKEW both send.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from mcfs.protocol.ids import Group, Host, ObjectRef

MIN_INTERVAL: Final = 0.1
"""Seconds, however many come and go: each announcement costs a signature."""
INTERVAL: Final = 1.0
"""Seconds between two announcements to the other servers."""
MISSED: Final = 3.5
"""Seconds without one, after which a sender is gone."""
WARM_UP: Final = 3.0
"""Seconds after its start in which a server that hears another one leaves the sending to it: three general queries go
out in the first two, and the answers come within another."""
MAX_SKEW: Final = 30.0
"""Seconds between the time in an announcement and our own."""
MAX_PEERS: Final = 64
"""Servers of one share on one link. They all have the publisher's key, so this bounds mistakes, not attacks."""


@dataclass(slots=True)
class _Share:
    name: bytes
    content: ObjectRef
    peers: dict[Host, tuple[float, ObjectRef]] = field(default_factory=dict)
    """When each other server was heard last, and what it serves."""
    newest: OrderedDict[Host, int] = field(default_factory=OrderedDict)
    """The time in the newest announcement of each, also of those that have gone."""
    present: set[Host] = field(default_factory=set)
    """Other hosts that have joined the senders' channel."""
    tell_at: float = float("inf")
    told_at: float = float("-inf")
    silent: bool = False
    """Whether another server sends."""


class Senders:
    """The shares of one server on one link, and the other servers that have them.

    :param own: our address on the link; the lowest sends
    """

    def __init__(self, own: Host, *, now: float) -> None:
        self._own = own
        self._warm_at = now + WARM_UP
        self._shares: dict[Group, _Share] = {}

    def __contains__(self, group: object) -> bool:
        return group in self._shares

    @property
    def channels(self) -> list[Group]:
        return list(self._shares)

    def listeners(self, channel: Group) -> Collection[Host]:
        """The other servers there."""
        share = self._shares.get(channel)
        return share.present if share is not None else ()

    def groups(self) -> Iterator[tuple[Group, Collection[Host]]]:
        """All senders' channels with the other servers there."""
        return ((channel, share.present) for channel, share in self._shares.items())

    @property
    def silent(self) -> frozenset[bytes]:
        """Names of the shares that another server sends."""
        return frozenset(share.name for share in self._shares.values() if share.silent)

    def publish(self, channel: Group, name: bytes, content: ObjectRef, *, now: float) -> None:
        """We serve this content; `channel` is the share's senders' channel."""
        share = self._shares.get(channel)
        if share is None:
            self._shares[channel] = _Share(name, content)
        elif share.content != content:
            share.content = content
            share.tell_at = now if share.present else share.tell_at
            self._judge(share, now)

    def set_own(self, own: Host, *, now: float) -> None:
        """Our address has changed."""
        self._own = own
        for share in self._shares.values():
            self._judge(share, now)

    def joined(self, host: Host, channel: Group, *, now: float) -> None:
        """Another server has come, or shows again that it is there."""
        share = self._shares[channel]
        if host != self._own and len(share.present) < MAX_PEERS:
            share.present.add(host)
            share.tell_at = max(now, share.told_at + MIN_INTERVAL)

    def left(self, host: Host, channel: Group, *, now: float) -> None:
        """It has left, or ended."""
        share = self._shares[channel]
        share.present.discard(host)
        share.peers.pop(host, None)
        if not share.present:
            share.tell_at = float("inf")
        self._judge(share, now)

    def heard(
        self, channel: Group, address: Host, content: ObjectRef, *, time_ms: int, own_ms: int, now: float
    ) -> None:
        """An announcement with our own publisher's key came in a senders' channel, signed at `time_ms` by the other
        one's clock, `own_ms` by ours."""
        if abs(time_ms - own_ms) > 1000 * MAX_SKEW:
            return
        share = self._shares.get(channel)
        if share is None or address == self._own or (address not in share.peers and len(share.peers) >= MAX_PEERS):
            return
        newest = share.newest.get(address, -1)
        clock_was_set_back = newest > own_ms + 1000 * MAX_SKEW
        if time_ms <= newest and not clock_was_set_back:
            return
        share.newest[address] = time_ms
        share.newest.move_to_end(address)
        if len(share.newest) > MAX_PEERS:
            share.newest.popitem(last=False)
        share.peers[address] = (now, content)
        self._judge(share, now)

    def due(self, *, now: float) -> Iterator[tuple[Group, bytes]]:
        """Channels in which to announce now, with the names of their shares."""
        for channel, share in self._shares.items():
            if now >= share.tell_at:
                share.told_at, share.tell_at = now, now + INTERVAL
                if now >= self._warm_at or not share.silent:
                    yield channel, share.name

    def handle_timeout(self, *, now: float) -> None:
        """Peers that are not heard any more, and the end of our own warm-up."""
        for share in self._shares.values():
            self._judge(share, now)

    def restart(self, *, now: float) -> None:
        """The link was down: who listens has to be learnt anew."""
        self._warm_at = now + WARM_UP

    def next_timeout(self) -> float | None:
        times = [share.tell_at for share in self._shares.values() if share.present]
        for share in self._shares.values():
            times += [at + MISSED for at, _ in share.peers.values()]
            if share.silent and any(at < self._warm_at for at, _ in share.peers.values()):
                times.append(self._warm_at)
        return min(times, default=None)

    def _judge(self, share: _Share, now: float) -> None:
        share.peers = {host: peer for host, peer in share.peers.items() if now - peer[0] < MISSED}
        senders = [host for host, (_, content) in share.peers.items() if content == share.content]
        share.silent = any(host < self._own or now < self._warm_at for host in senders)
