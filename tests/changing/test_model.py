"""Random sequences of reads, evictions, crashes, changes and losses of the server, against a plain dictionary.

What a reader gets is what one version has there that was the newest within SEEN seconds, or an error, and the error is
one for which there is a reason. Whatever is open stays what it was. Nothing waits longer than the limits.
"""

from __future__ import annotations

import errno
import functools
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import hypothesis.strategies as st
import trio
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.changing.portal import Portal
from tests.changing.world import MAX_WAIT, TIMEOUT, Old, World
from tests.hostile.publisher import BLOCK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeVar

    from tests.changing.kernel import Opened
    from tests.changing.world import Files

    T = TypeVar("T")

EXAMPLES: Final = int(os.environ.get("MCFS_TEST_SEQUENCES", "500"))
STEPS: Final = 20
SEEN: Final = 3.0
"""Seconds within which a new version is shown."""
CALM: Final = 12.0
"""Seconds without a change or a loss of the server after which every error needs another reason: a client that has
joined in vain tries again every 3 s, and a node that nobody knows is given up after 6."""
MARGIN: Final = 0.5
MAX_OPEN: Final = 4

PATHS: Final = (b"a", b"b", b"d/x", b"d/y")
SIZES: Final = (0, 100, BLOCK, 2 * BLOCK + 1)

paths = st.sampled_from(PATHS)
contents = st.tuples(st.integers(0, 3), st.sampled_from(SIZES))
olds = st.sampled_from(Old)
places = st.integers(0, 3 * BLOCK)


@functools.cache
def content(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def changed(files: Files, path: bytes, data: bytes | None) -> Files:
    rest = {name: other for name, other in files.items() if name != path}
    return rest if data is None else {**rest, path: data}


class ChangingShare(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="mcfs-model-"))
        self.portal: Portal | None = None
        self.open: list[tuple[Opened, bytes, Files]] = []
        """What is open, what it has to be, and the version in which it was opened."""
        self.served: set[bytes] = set()
        """Contents that the server has."""
        self.disturbed_at = 0.0
        self.due: list[float] = []
        """When each version has to be shown at the latest; infinite while the server is down."""

    def teardown(self) -> None:
        try:
            if self.portal is not None:
                self.portal.close()
        finally:
            shutil.rmtree(self.directory)

    @initialize(first=st.dictionaries(paths, contents, max_size=4), loss=st.sampled_from([0.0, 0.0, 0.03]))
    def begin(self, first: dict[bytes, tuple[int, int]], loss: float) -> None:
        self.portal = Portal(lambda: World(self.directory / "cache", loss))
        self.publish_files({path: content(*made) for path, made in first.items()}, Old.KEPT)
        self.wait(1.0)

    # --- changes and losses ---

    @rule(path=paths, made=contents, old=olds)
    def write(self, path: bytes, made: tuple[int, int], old: Old) -> None:
        self.publish_files(changed(self.world.newest, path, content(*made)), old)

    @rule(path=paths, seed=st.integers(0, 3), block=st.integers(0, 2), old=olds)
    def write_a_block(self, path: bytes, seed: int, block: int, old: Old) -> None:
        data = bytearray(self.world.newest.get(path, b""))
        piece = slice(block * BLOCK, (block + 1) * BLOCK)
        data[piece] = content(seed, 3 * BLOCK)[: len(data[piece])]
        self.publish_files(changed(self.world.newest, path, bytes(data)), old)

    @rule(path=paths, old=olds)
    def remove(self, path: bytes, old: Old) -> None:
        self.publish_files(changed(self.world.newest, path, None), old)

    @rule(path=paths, other=paths, old=olds)
    def rename(self, path: bytes, other: bytes, old: Old) -> None:
        data = self.world.newest.get(path)
        self.publish_files(changed(changed(self.world.newest, path, None), other, data), old)

    @precondition(lambda self: self.world.up)
    @rule()
    def stop_the_server(self) -> None:
        self.do_now(World.stop_server)
        self.disturbed_at = self.now
        self.due = [due if due < self.now else float("inf") for due in self.due]

    @precondition(lambda self: not self.world.up)
    @rule()
    def start_the_server(self) -> None:
        self.do_now(World.start_server)
        self.disturbed_at = self.now
        self.due = [min(due, self.now + CALM) for due in self.due]

    @rule(seconds=st.sampled_from([SEEN + MARGIN, CALM]))
    def wait_and_look(self, seconds: float) -> None:
        self.wait(seconds)
        self.look()

    @rule(seconds=st.sampled_from([0.02, 0.3, 1.0]))
    def wait(self, seconds: float) -> None:
        async def pass_by(_: World) -> None:
            await trio.sleep(seconds)

        self.do(pass_by)

    # --- troubles of the client ---

    @rule(damage=st.none() | st.integers(0, 9), look=st.booleans())
    def crash(self, damage: int | None, look: bool) -> None:
        self.do_now(World.crash_client)
        if damage is not None:
            self.world.damage(random.Random(damage))
        self.open.clear()
        self.do_now(World.start_client)
        self.disturbed_at = self.now
        if look:
            self.wait(1.0)
            self.look()

    @rule(seed=st.integers(0, 9), part=st.sampled_from([0.0, 0.5]))
    def evict(self, seed: int, part: float) -> None:
        numbers = random.Random(seed)
        self.do_now(lambda world: world.evict(lambda: numbers.random() < part))

    @rule(names=st.booleans())
    def forget(self, names: bool) -> None:
        """The kernel does."""
        if names:
            self.do(lambda world: world.kernel.forget())
        self.world.kernel.drop_pages()

    # --- reading ---

    @rule()
    def look(self) -> None:
        """At everything that has a name."""
        for path in PATHS:
            self.read(path)

    @rule(path=paths)
    def read(self, path: bytes) -> None:
        self.check(path, lambda world: world.kernel.read_all(path))

    @rule(path=paths, made=contents, old=olds, after=st.sampled_from([0.0, 0.01, 0.03, 0.06, 0.3]))
    def read_while_it_changes(self, path: bytes, made: tuple[int, int], old: Old, after: float) -> None:
        found: list[bytes | OSError] = []

        async def read() -> None:
            try:
                found.append(await self.world.kernel.read_all(path))
            except OSError as error:
                found.append(error)

        async def both(world: World) -> bytes:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await trio.sleep(after)
                self.publish_now(world, changed(world.newest, path, content(*made)), old)
            if isinstance(found[0], OSError):
                raise found[0]
            return found[0]

        self.check(path, both)

    @rule(folder=st.sampled_from([b"", b"d"]))
    def list_names(self, folder: bytes) -> None:
        start = self.now
        try:
            found = self.do(lambda world: world.kernel.names_in(folder))
        except OSError as error:
            absent = any(not names(files, folder) for files in self.possible(start))
            self.check_reason(error, absent=absent)
            return
        assert found in [names(files, folder) for files in self.possible(start)]

    @precondition(lambda self: len(self.open) < MAX_OPEN)
    @rule(path=paths)
    def open_file(self, path: bytes) -> None:
        start = self.now
        try:
            file = self.do(lambda world: world.kernel.open(path))
        except OSError as error:
            self.check_error(error, path, start)
            return
        possible = [files for files in self.possible(start) if len(files.get(path, b"?")) == file.size]
        assert possible
        # Which of those that are as long it is shows with the first byte that is read.
        self.open.append((file, path, possible[-1] if len(possible) == 1 else self.tell_version(file, path, possible)))

    def tell_version(self, file: Opened, path: bytes, possible: list[Files]) -> Files:
        reader = self.world.kernel.fake.operations._files[file.handle]
        extent = getattr(reader, "_extent", None)
        for files in possible:
            if extent is None or self.world.ref(files[path]) == extent.object:
                return files
        raise AssertionError("what was opened is of no version that may be shown")

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, MAX_OPEN - 1), start=places, length=st.integers(1, 2 * BLOCK))
    def read_open(self, which: int, start: int, length: int) -> None:
        file, path, files = self.open[which % len(self.open)]
        data = files[path]
        try:
            found = self.do(lambda world: world.kernel.read(file, min(start, file.size), length))
        except OSError as error:
            self.check_open_error(error, data)
            return
        assert found == data[min(start, file.size) :][:length]

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, MAX_OPEN - 1), at=places)
    def read_mapped(self, which: int, at: int) -> None:
        """A byte of a map: it brings the page of the inode in, or finds it there."""
        self.read_open(which, at, 1)

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, MAX_OPEN - 1))
    def close(self, which: int) -> None:
        file, _, _ = self.open.pop(which % len(self.open))
        self.do(lambda world: world.kernel.close(file))

    # --- what may be ---

    def check(self, path: bytes, read: Callable[[World], Awaitable[bytes]]) -> None:
        start = self.now
        try:
            found = self.do(read)
        except OSError as error:
            self.check_error(error, path, start)
            return
        assert found in [files.get(path) for files in self.possible(start)]

    def check_error(self, error: OSError, path: bytes, start: float) -> None:
        self.check_reason(error, absent=any(path not in files for files in self.possible(start)))

    def check_reason(self, error: OSError, *, absent: bool) -> None:
        assert self.is_excused(error) or (absent and error.errno == errno.ENOENT), error

    def check_open_error(self, error: OSError, data: bytes) -> None:
        if self.is_calm:
            assert data not in self.served
            assert error.errno == errno.ESTALE
        assert error.errno in (errno.ESTALE, errno.ETIMEDOUT)

    def is_excused(self, error: OSError) -> bool:
        return not self.is_calm and error.errno in (errno.ESTALE, errno.ETIMEDOUT)

    @property
    def is_calm(self) -> bool:
        return self.world.up and self.now - self.disturbed_at > CALM

    def possible(self, start: float) -> list[Files]:
        """The versions that may have been shown at some time since `start`."""
        history = self.world.history
        last_due = max((i for i, due in enumerate(self.due) if due < start), default=0)
        return [files for _, files in history[last_due:]]

    # --- doing ---

    @property
    def world(self) -> World:
        assert self.portal is not None
        return self.portal.world

    @property
    def now(self) -> float:
        return self.world.network.now

    def publish_files(self, files: Files, old: Old) -> None:
        self.do_now(lambda world: self.publish_now(world, files, old))

    def publish_now(self, world: World, files: Files, old: Old) -> None:
        world.publish(files, old)
        now = trio.current_time()
        self.disturbed_at = now
        self.due.append(now + SEEN if world.up else float("inf"))
        self.served = set(files.values()) | (self.served if old is Old.KEPT else set())

    def do_now(self, step: Callable[[World], None]) -> None:
        async def run(world: World) -> None:
            step(world)

        self.do(run)

    def do(self, step: Callable[[World], Awaitable[T]]) -> T:
        assert self.portal is not None
        kernel, down = self.world.kernel, not self.world.up
        kernel.longest = 0.0
        try:
            return self.portal.do(step)
        finally:
            assert kernel.longest <= (TIMEOUT if down and not self.world.up else MAX_WAIT) + MARGIN


def names(files: Files, folder: bytes) -> list[bytes]:
    below = (path.removeprefix(folder).lstrip(b"/") for path in files if path.startswith(folder))
    return sorted({path.partition(b"/")[0] for path in below})


ChangingShare.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestChangingShare = ChangingShare.TestCase
