"""Publishers are written down in a thread, and not more often than need be."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest

from mcfs.fetch.pinfile import KnownPublishers
from mcfs.fetch.trust import Floor, Pin
from mcfs.net.keeper import RAISE_PAUSE, Keeper
from mcfs.protocol.publisher import Fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A, B = Fingerprint(b"a" * 32), Fingerprint(b"b" * 32)


class Keeping:
    def __init__(self, path: Path) -> None:
        self.known = KnownPublishers(path)
        self.woken = threading.Event()
        self.keeper = Keeper(self.known, self.woken.set)

    def wait(self) -> None:
        assert self.woken.wait(20)
        self.woken.clear()


@pytest.fixture
def keeping(tmp_path: Path) -> Iterator[Keeping]:
    keeping = Keeping(tmp_path / "known")
    yield keeping
    keeping.keeper.close()


def test_a_pin_is_written_and_told(keeping: Keeping) -> None:
    keeping.keeper.pin(b"data", Pin(A), before=None)
    keeping.wait()
    (done,) = keeping.keeper.take()
    assert (done.name, done.pin) == (b"data", Pin(A, (), 3))
    keeping.keeper.pin(b"data", Pin(B), before=None)
    keeping.wait()
    (done,) = keeping.keeper.take()
    assert done.pin.fingerprint == A, "another one stands there"


def test_versions_are_written_now_and_then(keeping: Keeping) -> None:
    keeper = keeping.keeper
    for version in range(1, 1000):
        keeper.raise_floor(b"data", A, Floor(version, b""))
        keeper.raise_due(now=version * RAISE_PAUSE / 900)
    keeping.wait()
    assert keeper._pool._queue.qsize() <= 1
    keeper.raise_floor(b"other", A, Floor(5, b""))
    keeper.close()
    trust = keeping.known.load()
    assert trust.floor(b"data", A).version == 999
    assert trust.floor(b"other", A).version == 5


def test_what_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    keeping = Keeping(tmp_path / "file" / "known")
    with caplog.at_level(logging.WARNING):
        for name in (b"one", b"two", b"three"):
            keeping.keeper.pin(name, Pin(A), before=None)
            keeping.keeper.raise_floor(name, A, Floor(1, b""))
        keeping.keeper.close()
    assert [done.pin for done in keeping.keeper.take()] == [Pin(A)] * 3
    (message,) = caplog.messages
    assert message.startswith(f"publishers are not remembered: {tmp_path}/file/known")
