"""Who waits for which node, and which of them wait in vain: for what only older versions of a share have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from mcfs.fetch.fetcher import UNHEARD
from mcfs.fetch.fetchevents import Failed
from mcfs.fetch.nodes import Ready
from mcfs.fetch.shares import BREAK
from mcfs.protocol.errors import BadNode, Gone, NotAvailable, TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcfs.fetch.fetcher import Fetcher
    from mcfs.fetch.nodes import NodeTree
    from mcfs.fetch.shares import Share, ShareTable
    from mcfs.protocol.ids import Node
    from mcfs.protocol.merkle import Buffer

NEWEST: Final = 1 << 64
"""Greater than any version."""
LOOK: Final = 0.5
"""Seconds between two looks for what the server does not know any more."""
OUTDATED: Final = "it is of an older version, of which the server sends nothing any more"


class _Waiter:
    """Those who wait for one node."""

    __slots__ = ("count", "data", "done", "error", "origin", "version")

    def __init__(self, origin: bytes) -> None:
        self.done = trio.Event()
        self.count = 0
        self.origin = origin
        self.version = 0
        """The newest version of which somebody wants it."""
        self.data: Buffer | None = None
        self.error: NotAvailable | BadNode | None = None


class Waiters:
    """Of one client. `timeout` in seconds; `wake` is called when something new was asked for."""

    def __init__(
        self,
        tree: NodeTree,
        fetcher: Fetcher,
        shares: ShareTable,
        *,
        timeout: float,
        clock: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        self._tree = tree
        self._fetcher = fetcher
        self._shares = shares
        self._timeout = timeout
        self._clock = clock
        self._wake = wake
        self._waiters: dict[Node, _Waiter] = {}
        self._looked_at = float("-inf")

    def ask(self, node: Node, origin: bytes) -> Buffer | None:
        """Start fetching what will be waited for; its bytes if they are in memory."""
        data = self._tree.request(node, origin, urgent=True, now=self._clock())
        if data is None:
            self._wake()
        return data

    async def node(self, node: Node, origin: bytes, version: int = NEWEST) -> Buffer:
        """The verified bytes of a node, of this version of its share. Many callers cause one fetch.

        Raises NotAvailable or BadNode. When cancelled, and nobody else waits, the fetch is given up.
        """
        data = self.ask(node, origin)
        if data is not None:
            return data
        waiter = self._waiters.setdefault(node, _Waiter(origin))
        waiter.version = max(waiter.version, version if origin == waiter.origin else NEWEST)
        waiter.count += 1
        try:
            await waiter.done.wait()
        finally:
            waiter.count -= 1
            if waiter.count == 0 and not waiter.done.is_set():
                self._waiters.pop(node, None)
                self._tree.cancel(node, now=self._clock())
        if isinstance(waiter.error, TimedOut) and self._outdated(waiter, self._clock()):
            raise Gone(OUTDATED)
        if waiter.error is not None:
            raise waiter.error
        assert waiter.data is not None
        return waiter.data

    def tell(self, outcome: Ready | Failed) -> None:
        """What became of a node."""
        waiter = self._waiters.pop(outcome.node, None)
        if waiter is None:
            return
        if isinstance(outcome, Ready):
            waiter.data = outcome.data
        else:
            waiter.error = outcome.error
        waiter.done.set()

    def give_up_outdated(self, *, now: float) -> None:
        """Let those fail now and then who wait for what a server does not know any more."""
        if now < self._looked_at + LOOK:
            return
        self._looked_at = now
        outdated = [(node, share) for node, waiter in self._waiters.items() if (share := self._outdated(waiter, now))]
        for node, share in outdated:
            if self._fetcher.is_unheard(node, since=share.steady_since, now=now):
                self._tree.failed(Failed(node, TimedOut(OUTDATED)), now=now)

    def _outdated(self, waiter: _Waiter, now: float) -> Share | None:
        """The share, if what is waited for is of an older version than the one that its server announces now: it may
        know nothing any more of what only the older one had, and then says nothing. A server that has just come back
        has had no time to say anything of what it does know."""
        share = self._shares.get(waiter.origin)
        if share is None or share.announcement.version <= waiter.version or now - share.last_heard >= BREAK:
            return None
        return share if now - share.steady_since > min(UNHEARD, self._timeout) else None
