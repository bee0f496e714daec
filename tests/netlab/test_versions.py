"""Shares that change while they are mounted and read, on a real kernel."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest

from tests.netlab.harness import MIB, Serving, Site, random_file, same_bytes, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.netlab.conftest import SiteMaker

pytestmark = pytest.mark.netlab

VERSIONS: Final = 100
RATE: Final = "400M"
SEEN: Final = 3.0
"""Seconds within which clients show a new version."""
BUSY: Final = 5.0
"""What a busy machine may add to that."""
DEADLINE: Final = 60.0
READERS: Final = (sys.executable, "-m", "tests.netlab.readers")


@dataclass
class Publishing:
    """A server of the directory `data`, which publishes when it is told to."""

    site: Site
    serving: Serving = field(init=False)

    def __post_init__(self) -> None:
        self.directory = self.site.directory / "data"
        self.directory.mkdir()
        self.state = self.site.new_directory("state")

    def start(self, *options: str) -> None:
        options = ("--rate", RATE, *options)
        self.serving = self.site.serve(self.site.lab.server, self.directory, state=self.state, options=options)

    def publish(self) -> None:
        """Returns when the new version is announced."""
        before = self.versions()
        self.serving.job.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.versions() > before, DEADLINE, "a version is published")

    def versions(self) -> int:
        """How many came after the first."""
        return self.serving.job.output.count(": changed: version ")

    def write(self, name: str, data: bytes) -> None:
        """As programs should: what is there under the name is always complete."""
        new = self.directory.parent / "new"
        new.write_bytes(data)
        new.replace(self.directory / name)


@pytest.fixture
def publishing(make_site: SiteMaker) -> Publishing:
    return Publishing(make_site(2))


def content(version: int, name: str) -> bytes:
    """Half of the blocks change from one version to the next."""
    pieces = (f"{name} {version // 2 * 2 if block % 2 else version} {block}" for block in range(4))
    return b"".join(random.Random(piece).randbytes(MIB) for piece in pieces)[: 3 * MIB + 5]


def seconds_until_shown(path: Path, data: bytes) -> float:
    def is_shown() -> bool:
        try:
            return path.read_bytes() == data
        except OSError as error:
            if error.errno != errno.ESTALE:  # opened just before, and the server has forgotten it
                raise
            return False

    start = time.monotonic()
    wait_until(is_shown, DEADLINE, f"{path.name} is shown in the new version")
    return time.monotonic() - start


@pytest.mark.slow
def test_each_hash_is_that_of_one_version(publishing: Publishing, capsys: pytest.CaptureFixture[str]) -> None:
    site = publishing.site
    names = ["one", "two", "small"]
    hashes: dict[str, list[str]] = {name: [] for name in names}

    def write(version: int) -> None:
        for name in names:
            data = content(version, name)[: 1000 if name == "small" else MIB + 5]
            publishing.write(name, data)
            hashes[name].append(hashlib.sha256(data).hexdigest())

    write(0)
    publishing.start("--no-watch")
    mounts = [site.mount(host, "data", timeout=10) for host in site.lab.clients]
    readers = [
        site.start(mounted.host, [*READERS, how, *(mounted.path / name for name in names)])
        for mounted in mounts
        for how in ("hash", "map")
    ]
    for version in range(1, VERSIONS + 1):
        write(version)
        publishing.publish()
        time.sleep(0.2)
    for mounted in mounts:
        for name in names:
            seconds_until_shown(mounted.path / name, (publishing.directory / name).read_bytes())
    for reader in readers:
        counts = [reader.output.count("\n")]
        wait_until(lambda r=reader, c=counts: r.output.count("\n") > c[0] + 6, DEADLINE, "a whole round")  # type: ignore[misc]
        reader.kill()
        found = [line.split() for line in reader.output.splitlines()[:-1]]
        # An error is that of a version which the server has forgotten while it was read.
        versions = [hashes[name].index(what) for name, what in found if what not in ("ESTALE", "SIGBUS")]
        with capsys.disabled():
            errors = len(found) - len(versions)
            print(f"\n{len(versions)} hashes of {len(set(versions))} versions, {errors} times ESTALE or SIGBUS")
        assert len(set(versions)) > VERSIONS // 10, "readers saw many of them"
        assert set(versions[-len(names) :]) == {VERSIONS}


def test_a_restarted_server_with_another_version(publishing: Publishing) -> None:
    """A copy of a file that has not changed goes on; what has changed is shown, and stale where it is open."""
    site = publishing.site
    data = random_file(publishing.directory / "large", 64 * MIB)
    old, new = content(1, "x"), content(2, "x")
    publishing.write("x", old)
    publishing.start("--no-watch")
    mounted = site.mount(site.lab.clients[0], "data", timeout=15)
    file = os.open(mounted.path / "x", os.O_RDONLY)
    try:
        before = site.sent()
        job = site.start(mounted.host, same_bytes(data, mounted.path / "large"))
        site.wait_sent(before, 16 * MIB, DEADLINE)
        publishing.serving.kill()
        publishing.write("x", new)
        publishing.start("--no-watch")
        assert seconds_until_shown(mounted.path / "x", new) < SEEN + BUSY
        assert os.fstat(file).st_size == len(old)
        start = time.monotonic()
        with pytest.raises(OSError, match="Stale file handle"):
            os.pread(file, 1, len(old) - 1)
        assert time.monotonic() - start < SEEN + BUSY
        job.expect_success(DEADLINE)
    finally:
        os.close(file)


def test_what_is_mapped_stays_what_it_was(publishing: Publishing) -> None:
    """Pages that were not read before the change come from blocks that have not changed."""
    old = content(0, "x")
    new = random.Random(5).randbytes(MIB) + old[MIB:]
    publishing.write("x", old)
    publishing.start("--no-watch")
    mounted = publishing.site.mount(publishing.site.lab.clients[0], "data", timeout=15)
    path = mounted.path / "x"
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:MIB] == old[:MIB]
        publishing.write("x", new)
        publishing.publish()
        seconds_until_shown(path, new)
        assert mapped[:] == old
        with path.open("rb") as again, mmap.mmap(again.fileno(), 0, prot=mmap.PROT_READ) as other:
            assert other[:] == new
            assert mapped[:] == old
        file.seek(0)
        assert file.read() == old
    assert path.read_bytes() == new


def test_names_come_and_go(publishing: Publishing) -> None:
    publishing.write("x", b"first")
    publishing.start("--no-watch")
    one, two = publishing.site.lab.clients
    roots = [publishing.site.mount(one, "data").path, publishing.site.mount(two, None).path / "data"]
    wait_until((roots[1] / "x").exists, DEADLINE, "the share is heard")
    for root in roots:
        assert not (root / "folder").exists()
    (publishing.directory / "folder").mkdir()
    publishing.write("folder/y", b"second")
    (publishing.directory / "x").unlink()
    publishing.publish()
    for root in roots:
        wait_until((root / "folder/y").exists, SEEN + BUSY, "a new file is shown")
        assert (root / "folder/y").read_bytes() == b"second"
        assert os.listdir(root) == ["folder"]
        with pytest.raises(FileNotFoundError):
            (root / "x").stat()
