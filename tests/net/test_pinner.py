"""What a mount does for pins, without a network: nodes that are asked for come when the test says so."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import trio

from mcfs.fetch.cache import Cache
from mcfs.fetch.cachepins import Pin, PinState
from mcfs.net import pinner
from mcfs.net.pinner import Pinner
from mcfs.protocol.announce import Announcement
from mcfs.protocol.catalog import Attributes, DirectoryEntry, Entry, Extent, FileEntry, Owners
from mcfs.protocol.errors import TimedOut
from mcfs.protocol.ids import Digest, ObjectRef
from tests.fetch.cachefakes import BLOCK, FaultyDisk, Sample, failing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from mcfs.fetch.pinned import PinStream
    from mcfs.protocol.ids import Node

PLAIN = Attributes(0o644, 0, 0, 0)
ONE, TWO = Sample(1, 5 * BLOCK + 7), Sample(2, 3 * BLOCK)
PATIENCE = 10.0


def tree(**files: Sample) -> DirectoryEntry:
    entries = [
        FileEntry(name.encode(), PLAIN, Extent(sample.ref, 0, sample.ref.size), Digest(bytes(32)))
        for name, sample in sorted(files.items())
    ]
    return DirectoryEntry(b"share", PLAIN, tuple(entries))


@dataclass
class FakeClient:
    cache: Cache
    announced: dict[bytes, Announcement] = field(default_factory=dict)
    samples: dict[ObjectRef, Sample] = field(default_factory=dict)
    failure: Exception | None = None
    deaf: bool = False
    lost: int = 0
    """So many blocks that are asked for do not come."""
    asked: list[Node] = field(default_factory=list)
    known: set[Node] = field(default_factory=set)
    """Blocks that need not be fetched, if their page is there."""
    fetched: set[Node] = field(default_factory=set)

    def publish(self, version: int, **files: Sample) -> None:
        self.samples |= {sample.ref: sample for sample in files.values()}
        self.announced[b"share"] = Announcement(version, 0, tree(**files), Owners(), 0, 0, 0, ())

    def share(self, name: bytes) -> Announcement | None:
        return self.announced.get(name)

    async def entries(self, share: bytes, content: ObjectRef | tuple[Entry, ...]) -> tuple[Entry, ...]:
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        assert isinstance(content, tuple)
        return content

    def stream(self, reader: PinStream) -> None:
        while (node := reader.next_ahead()) is not None:
            self.asked.append(node)
            page = node.parent()
            if node not in self.known or (page is not None and not self.cache.has(page)):
                self.fetched.add(node)
            if self.lost:
                self.lost -= 1
            else:
                self.cache.store(node, self.samples[node.object].bytes(node))
                page = node.parent()
                if page is not None:
                    self.cache.store(page, self.samples[node.object].bytes(page))

    def is_heard(self, share: bytes) -> bool:
        return not self.deaf

    def is_wanted(self, node: Node) -> bool:
        return False


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK", "STEP"):
        monkeypatch.setattr(pinner, name, 0.01)
    monkeypatch.setattr(pinner, "LONGEST_PAUSE", 0.3)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[FakeClient]:
    cache = Cache.open(tmp_path, max_bytes=4 << 20, min_free=0)
    client = FakeClient(cache)
    client.publish(1, one=ONE, two=TWO)
    assert cache.pins is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Pinner(client, cache, cache.pins).run)
        yield client
        nursery.cancel_scope.cancel()
    cache.close()


def pin(client: FakeClient, path: bytes, nonce: str = "1", share: bytes = b"share") -> Pin:
    assert client.cache.pins is not None
    pin = Pin(share, path, nonce)
    client.cache.pins.add(pin)
    return pin


def state(client: FakeClient, pin: Pin) -> PinState:
    assert client.cache.pins is not None
    return client.cache.pins.state(pin) or PinState()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for is in files
            await trio.sleep(0.01)


async def test_a_pinned_file_is_fetched_and_spared(client: FakeClient) -> None:
    kept = pin(client, b"one")
    await until(lambda: state(client, kept).complete)
    assert state(client, kept) == PinState("1", 1, ONE.ref.size, ONE.ref.size)
    assert client.cache.pinned == {ONE.ref.id}
    assert client.cache.pins is not None
    assert client.cache.pins.read_objects() == {kept.id: {ONE.ref.id}}
    client.cache.pins.remove(kept)
    await until(lambda: not client.cache.pinned)
    await until(lambda: client.cache.pins is not None and client.cache.pins.read_objects() == {})


async def test_a_directory_and_a_file_in_it(client: FakeClient) -> None:
    one, both = pin(client, b"one"), pin(client, b"")
    await until(lambda: state(client, one).complete and state(client, both).complete)
    assert state(client, both).bytes == ONE.ref.size + TWO.ref.size
    assert client.cache.pins is not None
    client.cache.pins.remove(both)
    await until(lambda: client.cache.pinned == {ONE.ref.id})


async def test_a_new_version_is_followed(client: FakeClient) -> None:
    kept = pin(client, b"one")
    await until(lambda: state(client, kept).complete)
    client.publish(2, one=TWO)
    await until(lambda: state(client, kept).bytes == TWO.ref.size and state(client, kept).complete)
    assert client.cache.pinned == {TWO.ref.id}
    client.publish(3, other=ONE)
    await until(lambda: state(client, kept).refused)
    assert "no such file" in state(client, kept).problem
    assert client.cache.pinned == frozenset()
    client.publish(4, one=ONE)
    await until(lambda: state(client, kept).complete)


async def test_too_much_is_refused(client: FakeClient) -> None:
    huge = Sample(3, 10 << 20)
    client.publish(2, one=ONE, huge=huge)
    one, refused = pin(client, b"one"), pin(client, b"huge")
    await until(lambda: state(client, one).complete and state(client, refused).refused)
    assert "cache_max" in state(client, refused).problem
    assert client.cache.pinned == {ONE.ref.id}
    assert not any(node.object == huge.ref for node in client.asked)


async def test_what_does_not_fit_beside_others_is_refused(client: FakeClient) -> None:
    first, second = Sample(4, 2 << 20), Sample(5, 2 << 20)
    client.publish(2, first=first, second=second)
    kept = pin(client, b"first")
    await until(lambda: state(client, kept).complete)
    refused = pin(client, b"second")
    await until(lambda: state(client, refused).refused)
    assert "beside" in state(client, refused).problem


async def test_when_the_limit_becomes_less_it_is_let_go(client: FakeClient) -> None:
    kept = pin(client, b"one")
    await until(lambda: state(client, kept).complete)
    client.cache._objects.quota.limit = 2 * BLOCK
    client.publish(2, one=ONE)  # or it would be looked at in a minute
    await until(lambda: state(client, kept).refused)
    assert client.cache.pinned == frozenset()
    client.cache._objects.quota.limit = 4 << 20
    await until(lambda: state(client, kept).complete)


async def test_a_share_that_is_not_heard_yet(client: FakeClient) -> None:
    kept = pin(client, b"one")
    announcement = client.announced.pop(b"share")
    await trio.sleep(0.1)
    assert state(client, kept) == PinState()
    client.announced[b"share"] = announcement
    await until(lambda: state(client, kept).complete)


async def test_blocks_that_do_not_come_are_asked_for_again(client: FakeClient) -> None:
    client.lost = 4
    kept = pin(client, b"one")
    await until(lambda: state(client, kept).complete)
    assert len(client.asked) > 6


async def test_a_disk_that_can_be_written_again_is_noticed_though_nobody_reads(client: FakeClient) -> None:
    client.cache._health.failed(OSError(errno.ENOSPC, "full"))
    assert not client.cache.keeping
    kept = pin(client, b"one")
    await until(lambda: state(client, kept).complete)
    assert client.cache.keeping


async def test_while_the_disk_stays_full_a_block_is_asked_for_now_and_then(client: FakeClient) -> None:
    client.cache._objects.disk = FaultyDisk(failing(errno.ENOSPC, "create"))  # type: ignore[misc]
    client.cache._health.failed(OSError(errno.ENOSPC, "full"))
    kept = pin(client, b"one")
    await until(lambda: len(client.asked) >= 3)
    assert set(client.asked) == {ONE.node(0)}
    assert "cannot be written" in state(client, kept).problem


async def test_a_page_comes_before_the_blocks_of_which_it_has_the_hashes(client: FakeClient) -> None:
    """Most of them may be here in the former version of the file."""
    client.known = {ONE.node(index) for index in range(1, 6)}
    kept = pin(client, b"one")
    await until(lambda: state(client, kept).complete)
    assert client.asked[0] == ONE.node(0)
    assert set(client.asked[1:]) == client.known
    assert client.fetched == {ONE.node(0)}


async def test_it_is_said_why_nothing_comes(client: FakeClient, caplog: pytest.LogCaptureFixture) -> None:
    client.deaf = True
    kept = pin(client, b"one")
    await until(lambda: "nothing is heard" in state(client, kept).problem)
    assert client.asked == []
    client.deaf = False
    await until(lambda: state(client, kept).complete)
    assert caplog.text.count("nothing is heard") == 1


async def test_a_directory_that_cannot_be_read_now(client: FakeClient) -> None:
    client.failure = TimedOut("silence")
    kept = pin(client, b"one")
    await until(lambda: "cannot be read (silence)" in state(client, kept).problem)
    assert not state(client, kept).refused
    client.failure = None
    await until(lambda: state(client, kept).complete)


async def test_one_that_is_removed_and_made_again_is_a_new_one(client: FakeClient) -> None:
    kept = pin(client, b"absent")
    await until(lambda: state(client, kept).refused)
    again = pin(client, b"absent", "2")
    await until(lambda: state(client, again).refused)
    assert state(client, kept) == PinState()
