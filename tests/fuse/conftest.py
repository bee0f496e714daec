from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from mcfs.fuse import readdir
from tests.fuse import kernel_fake
from tests.fuse.fakes import TREE, FakeBackend, File
from tests.fuse.mounting import Mounted, mounted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session", autouse=True)
def _fake_readdir_reply() -> Iterator[None]:
    """The real one writes to the memory of a request of the kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readdir, "readdir_reply", kernel_fake.reply)
        yield


@pytest.fixture
def backend() -> FakeBackend:
    backend = FakeBackend()
    backend.publish(b"s", TREE)
    backend.publish(b"single", File(b"one file"))
    return backend


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What is published: kinds, modes, times, names and sizes that differ."""
    root = tmp_path / "source"
    numbers = random.Random(7)
    for directory in ("", "even", "odd", "even/deep/deeper", "empty"):
        (root / directory).mkdir(parents=True, exist_ok=True)
        for i in range(0 if directory == "empty" else 6):
            path = root / directory / f"file {i}"
            path.write_bytes(numbers.randbytes(numbers.choice([0, 1, 4096, 100_000, 3_000_001])))
            path.chmod(numbers.choice([0o644, 0o600, 0o755]))
    (root / os.fsdecode(b"not \xff utf-8")).write_bytes(b"x")
    (root / "link").symlink_to("odd/file 1")
    (root / "dangling").symlink_to("/does/not/exist")
    for i, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.utime(path, ns=(0, 1_234_567_890_000_000_000 + 1_000_000_007 * i), follow_symlinks=False)
    return root


@pytest.fixture
def mount(tmp_path: Path, source: Path) -> Iterator[Mounted]:
    with mounted(tmp_path, source, share="s", symlinks="keep") as mount:
        yield mount
