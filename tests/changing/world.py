"""A server that publishes versions at will, and a mount of its share, in virtual time."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import trio
import trio.testing

from mcfs.fetch.nodes import _Memory
from mcfs.net.client import Client, ClientSettings
from mcfs.net.receive import Receiver, Run
from mcfs.protocol import addressing, announce, merkle, wire
from mcfs.protocol.ids import Group, Node, ObjectRef
from tests.changing.kernel import PagedKernel
from tests.fakelink import SCOPE, SERVER, FakeClient, FakeNetwork, Hostility
from tests.fetch.cachefakes import kill
from tests.fuse.kernel_fake import FakeKernel
from tests.hostile.publisher import BLOCK, HostileStore, Publisher, directory, file, listing
from tests.hostile.site import INTERFACE, STEPS, TICK, Inline, LinkReceiver

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from pathlib import Path
    from typing import TypeAlias, TypeVar

    from tests.fuse.fakes import FakeBackend
    from tests.hostile.publisher import Raw
    from tests.hostile.site import Datagrams

    T = TypeVar("T")
    Files: TypeAlias = Mapping[bytes, bytes]
    """Content by path; a path has one slash at most."""

SHARE: Final = b"s"
START_MS: Final = 1_700_000_000_000
TIMEOUT: Final = 4.0
MAX_WAIT: Final = 20.0
ENTRY_TIMEOUT: Final = 60.0
"""Seconds for which the kernel remembers names: longer than any version may be shown that is not the newest."""
MEMORY: Final = 2 * BLOCK
"""Bytes of blocks that the client keeps in memory: few, so that its cache on disk is used."""


class Old(Enum):
    """What a server does with what only older versions have."""

    KEPT = "kept"
    GONE = "gone"
    """It says that it cannot produce it."""
    UNKNOWN = "unknown"
    """It says nothing."""


class Store(HostileStore):
    def forget(self, ref: ObjectRef) -> None:
        for tag in [tag for tag, (known, _) in self._objects.items() if known == ref]:
            del self._objects[tag]


@dataclass
class Network(FakeNetwork):
    """The link, with a server that says what is gone."""

    say_gone: Callable[[Group], None] = lambda group: None

    def _serve(self) -> None:
        super()._serve()
        for group in list(self.scheduler.told_gone()) if self.scheduler is not None else []:
            self.say_gone(group)


@dataclass
class World:
    """`history` has every version that was published, and when; the newest is the last."""

    cache: Path
    loss: float = 0.0
    timeout: float = TIMEOUT
    max_wait: float = MAX_WAIT
    up: bool = True
    history: list[tuple[float, Files]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = Store()
        self.network = Network(self.store, say_gone=self._say_gone)
        self.network.now = trio.current_time()
        self.publisher = Publisher(self.store)
        self._last_used: dict[ObjectRef, int] = {}
        self._root: ObjectRef | None = None
        self._busy = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The link, the server and the mount, until cancelled."""
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        try:
            async with trio.open_nursery() as self._nursery:
                self.start_client()
                self._nursery.start_soon(self._drive, clock)
                self._nursery.start_soon(self._repeat_announcements)
                task_status.started()
        finally:
            self.client.close()

    async def do(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do something in the world; time passes meanwhile, and else not."""
        self._busy.set()
        try:
            return await step()
        finally:
            self._busy = trio.Event()

    async def wait(self, seconds: float) -> None:
        async def pass_by() -> None:
            await trio.sleep(seconds)

        await self.do(pass_by)

    # --- the server ---

    @property
    def newest(self) -> Files:
        return self.history[-1][1]

    def publish(self, files: Files, old: Old = Old.KEPT) -> None:
        """A new version. While the server is down it is heard when that is up again."""
        self.history.append((trio.current_time(), files))
        self._root = self._add_directory(files)
        for ref, version in self._last_used.items():
            if version < len(self.history) and old is Old.GONE:
                self.store.lost.update(_nodes(ref))
            elif version < len(self.history) and old is Old.UNKNOWN:
                self.store.forget(ref)
        self._announce()

    def stop_server(self) -> None:
        self.up = False
        self.network.stop_server()

    def start_server(self) -> None:
        self.up = True
        self.network.start_server()
        self._announce()

    def _announce(self) -> None:
        """As the server does when there is a new version, and every second."""
        if not self.up or self._root is None:
            return
        datagram = self.publisher.announcement(
            directory(SHARE, 0), objects=[self._root], version=len(self.history), time_ms=self._time_ms()
        )
        for channel in (addressing.catalogue_group(SCOPE), addressing.share_group(SHARE, SCOPE)):
            self._receive(channel, datagram)

    async def _repeat_announcements(self) -> None:
        while True:
            await trio.sleep(1.0)
            self._announce()

    def _say_gone(self, group: Group) -> None:
        gone = announce.encode_gone(group, self._time_ms(), self.publisher.key)
        self._receive(group, wire.control(wire.GONE, gone))

    def _time_ms(self) -> int:
        return START_MS + int(1000 * trio.current_time())

    def _add_directory(self, files: Files) -> ObjectRef:
        refs: list[ObjectRef] = []
        entries: list[Raw] = []
        for name in sorted({path.partition(b"/")[0] for path in files}):
            if name in files:
                entries.append(self._add_file(name, files[name], refs))
            else:
                start = name + b"/"
                below = {path.removeprefix(start): data for path, data in files.items() if path.startswith(start)}
                refs.append(self._add_directory(below))
                entries.append(directory(name, len(refs) - 1))
        return self._add(listing(*entries, objects=refs))

    def _add_file(self, name: bytes, data: bytes, refs: list[ObjectRef]) -> Raw:
        if not data:
            return file(name, size=0, number=None)
        refs.append(self._add(data))
        return file(name, size=len(data), number=len(refs) - 1)

    def _add(self, data: bytes) -> ObjectRef:
        ref = self.store.add(data)
        self._last_used[ref] = len(self.history)
        self.store.lost.difference_update(_nodes(ref))
        return ref

    @staticmethod
    def ref(data: bytes) -> ObjectRef:
        """The object that holds a file."""
        return merkle.object_of(data, BLOCK)[0]

    # --- the mount ---

    def start_client(self) -> None:
        self.receiver = LinkReceiver(self.network, hostility=Hostility(loss=self.loss))
        settings = ClientSettings((INTERFACE,), self.cache, timeout=self.timeout, max_wait=self.max_wait)
        self.client = client = Client(settings, trio.current_time, cast("Receiver", self.receiver))
        workers = client._workers
        workers.readers, workers.writer = cast("None", Inline(workers.load)), cast("None", Inline(workers.store))
        workers.learn_leaves(client._cache)
        client._tree._memory = _Memory(MEMORY)
        client._hold(addressing.catalogue_group(SCOPE))
        self.receiver.deliver = self._deliver
        self.network.clients[:] = [cast("FakeClient", self.receiver)]
        fake = FakeKernel(cast("FakeBackend", client), SHARE, timeout=self.timeout, entry_timeout=ENTRY_TIMEOUT)
        self.kernel = PagedKernel(fake)
        self._scope = trio.CancelScope()
        self._nursery.start_soon(self._run_client, self._scope)

    async def _run_client(self, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.client._time_loop)
                nursery.start_soon(self.kernel.fake.operations.tell_changes, self.kernel.told)

    def crash_client(self) -> None:
        """The daemon dies, and with it all that is open; its memberships end with its socket."""
        self._scope.cancel()
        self.receiver.deliver = None
        kill(self.client._cache)
        for group in list(self.receiver.joined):
            self.receiver.leave(group, INTERFACE.index)

    def evict(self, keep: Callable[[], bool]) -> None:
        """Blocks and pages leave the cache, those that are not kept, and the memory."""
        for ref in self.client._cache.refs():
            for node in _nodes(ref):
                if not keep():
                    self.client._cache.drop(node)
        self.client._tree._memory = _Memory(MEMORY)
        self.client._tree._pages.clear()

    def damage(self, numbers: random.Random) -> None:
        """A bit here and there in the files of the cache, whoever uses it."""
        for path in sorted(self.cache.glob("objects/*/*")):
            with path.open("r+b") as file:
                at = numbers.randrange(path.stat().st_size)
                file.seek(at)
                byte = file.read(1)
                file.seek(at)
                file.write(bytes([byte[0] ^ 1 << numbers.randrange(8)]))

    def _receive(self, group: Group, datagram: bytes) -> None:
        if group in self.receiver.joined:
            self._deliver(group, np.frombuffer(datagram, dtype=np.uint8).reshape(1, -1))

    def _deliver(self, group: Group, datagrams: Datagrams) -> None:
        now = trio.current_time()
        self.client._received(Run(group, SERVER, INTERFACE.index, datagrams), now)
        self.client._pump(now)

    # --- time ---

    async def _drive(self, clock: trio.testing.MockClock) -> None:
        """Let time pass whenever everybody waits for it."""
        while True:
            await self._busy.wait()
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(STEPS):
                if not self._busy.is_set():
                    break
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


def _nodes(ref: ObjectRef) -> Iterator[Node]:
    return (Node(ref, level, i) for level, count in enumerate(ref.geometry.counts) for i in range(count))
