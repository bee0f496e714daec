"""A mount without a kernel on a link without a network: the real client, its cache, the file system on top of it, and
the real server's cores below, in virtual time."""

from __future__ import annotations

import heapq
import time
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import numpy as np
import trio
import trio.testing

from mcfs.fetch.shares import SETTLE
from mcfs.net.client import Client, ClientSettings
from mcfs.net.interfaces import Interface, Kind
from mcfs.net.receive import Joined, Receiver, Run
from mcfs.protocol import addressing, mld
from tests.fakelink import SCOPE, SERVER, FakeClient, FakeNetwork, Hostility, host
from tests.fuse.kernel_fake import FakeKernel
from tests.hostile.publisher import HostileStore, Publisher, again, honest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from mcfs.fuse.backend import Backend
    from mcfs.protocol.ids import Group
    from tests.fuse.fakes import FakeBackend

    Datagrams = np.ndarray[tuple[int, int], np.dtype[np.uint8]]

Item = TypeVar("Item")
Result = TypeVar("Result")

GOOD = b"honest bytes\n" * 10_000
INTERFACE = Interface("lan", 1, 1500, host(0), False, 10**9, Kind.WIRED, True, True, True)
TICK = 1e-5
"""Seconds that pass at least, or what is due a rounding error later would be waited for without end."""
SHOWN = 2.0
"""Seconds in which the top of a new version comes, so that it is shown, if it is ever shown."""
STEPS = 50
"""Events of the link between two looks whether somebody waits no more."""


class Inline(Generic[Item, Result]):
    """Stands for a pool of threads: virtual time has no room for them."""

    def __init__(self, work: Callable[[Item], Result]) -> None:
        self._work = work
        self._results: deque[Result] = deque()

    def submit(self, item: Item) -> None:
        self._results.append(self._work(item))

    def take(self) -> list[Result]:
        taken = list(self._results)
        self._results.clear()
        return taken

    def close(self, timeout: float = 0.0) -> None: ...


@dataclass
class LinkReceiver:
    """The client's socket: joins and leaves become reports, as Linux makes them of a batch."""

    network: FakeNetwork
    host: bytes = host(0)
    joined: set[Group] = field(default_factory=set)
    hostility: Hostility = field(default_factory=Hostility)
    port: None = None
    unplugged: bool = False
    usable: int = 8 << 20
    malformed: int = 0
    deliver: Callable[[Group, Datagrams], None] | None = None
    most_joined: int = 0
    _records: dict[Group, mld.RecordType] = field(default_factory=dict)

    # --- what the client calls ---

    def attach(self, program: object) -> None:
        """All comes up."""

    def kernel_drops(self) -> int:
        return 0

    def join(self, group: Group, ifindex: int) -> Joined:
        self.joined.add(group)
        self.most_joined = max(self.most_joined, len(self.joined))
        self._changed(group, mld.RecordType.CHANGE_TO_EXCLUDE_MODE)
        return Joined(True)

    def leave(self, group: Group, ifindex: int) -> None:
        self.joined.discard(group)
        self._changed(group, mld.RecordType.CHANGE_TO_INCLUDE_MODE)

    def close(self) -> None: ...

    def _changed(self, group: Group, kind: mld.RecordType) -> None:
        if not self._records:
            self.network.at(self.network.now, self._report)
        self._records[group] = kind

    def _report(self) -> None:
        records = [mld.Record(kind, group) for group, kind in self._records.items()]
        self._records.clear()
        self.network.report(cast("FakeClient", self), records)

    # --- what the link calls ---

    def receive(self, group: Group, source: bytes, datagrams: Datagrams) -> None:
        if group in self.joined and self.deliver is not None:
            self.deliver(group, datagrams)

    def beacon(self, groups: list[Group], hold: float) -> None:
        """Beacons are for those who merge: here is one reader."""


class Site:
    """`publisher` has the share b"good", and whatever a test announces. `kernel` sees all shares."""

    def __init__(self, cache: Path, **settings: float) -> None:
        self.store = HostileStore()
        self.network = FakeNetwork(self.store)
        self.publisher = Publisher(self.store)
        self.evil = Publisher(self.store, seed=2)
        self.announced: dict[bytes, bytes] = {}
        self.receiver = LinkReceiver(self.network)
        chosen = ClientSettings((INTERFACE,), cache, catalogue=True, **settings)  # type: ignore[arg-type]
        self.client = Client(chosen, trio.current_time, cast("Receiver", self.receiver))
        workers = self.client._workers
        workers.readers, workers.writer = cast("None", Inline(workers.load)), cast("None", Inline(workers.store))
        self.client._hold(addressing.catalogue_group(SCOPE))
        self.receiver.deliver = self._deliver
        self.network.clients.append(cast("FakeClient", self.receiver))
        self.kernel = self.mount()

    def mount(self, share: bytes | None = None, **settings: object) -> FakeKernel:
        backend: Backend = self.client
        return FakeKernel(cast("FakeBackend", backend), share, **settings)

    def announce(self, datagram: bytes, share: bytes = b"evil") -> None:
        """An announcement comes in the catalogue channel, and again every second until there is another one."""
        self.announced[share] = datagram
        self._send_announcement(datagram)

    async def announce_and_wait(self, datagram: bytes, share: bytes = b"evil") -> None:
        """The same; returns when it is shown, if it is another version of a share that is used."""
        again = share in self.announced
        self.announce(datagram, share)
        if again:
            with trio.move_on_after(SHOWN):
                while self.client._versions.is_changing(share):  # noqa: ASYNC110 - nothing tells
                    await trio.sleep(0.1)

    def receive(self, group: Group, datagram: bytes) -> None:
        """A datagram comes in a channel, from the server's address."""
        if group in self.receiver.joined:
            self._deliver(group, np.frombuffer(datagram, dtype=np.uint8).reshape(1, -1))

    async def repeat_announcements(self) -> None:
        while True:
            await trio.sleep(1.0)
            for datagram in self.announced.values():
                self._send_announcement(again(self.store, datagram))

    def _send_announcement(self, datagram: bytes) -> None:
        rows = np.frombuffer(datagram, dtype=np.uint8).reshape(1, -1)
        self._deliver(addressing.catalogue_group(SCOPE), rows)
        self._settle()

    def _settle(self) -> None:
        """Nobody else is heard under the name of an unknown publisher, so it need not be waited for here."""
        now = trio.current_time()
        for announcement in self.client._shares.settle(now=now + SETTLE):
            self.client._live(announcement, now)
            self.client._tell_news()

    async def expect_honest(self) -> None:
        """The honest share is there and right."""
        assert await self.kernel.read(b"good/file", 1 << 17) == GOOD

    def _deliver(self, group: Group, datagrams: Datagrams) -> None:
        now = trio.current_time()
        self.client._received(Run(group, SERVER, INTERFACE.index, datagrams), now)
        self.client._pump(now)

    async def drive(self, clock: trio.testing.MockClock) -> None:
        """Let time pass whenever everybody waits."""
        limiter = trio.to_thread.current_default_thread_limiter()
        while True:
            await trio.testing.wait_all_tasks_blocked()
            if limiter.borrowed_tokens:  # a long listing is being decoded, which takes no virtual time
                time.sleep(0.001)  # noqa: ASYNC251
                continue
            for _ in range(STEPS):
                deadline = trio.lowlevel.current_statistics().seconds_to_next_deadline
                due = self.network._events[0][0] if self.network._events else float("inf")
                if due > trio.current_time() + deadline:
                    clock.jump(max(TICK, deadline))
                    self.network.now = trio.current_time()
                    break
                when, _, action = heapq.heappop(self.network._events)
                self.network.now = max(self.network.now, when)
                clock.jump(max(0.0, when - trio.current_time()))
                action()


@asynccontextmanager
async def open_site(cache: Path, **settings: float) -> AsyncIterator[Site]:
    """For trio.run with a MockClock, which stands still but for what the site does."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    site = Site(cache, **settings)
    site.network.now = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.client._time_loop)
        nursery.start_soon(site.drive, clock)
        nursery.start_soon(site.repeat_announcements)
        site.announce(honest(site.publisher, GOOD), b"good")
        try:
            yield site
        finally:
            nursery.cancel_scope.cancel()
            site.client.close()


__all__ = ["GOOD", "Site", "open_site"]
