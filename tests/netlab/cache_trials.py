"""What is done to the cache of a real mount: processes that are killed, files that are damaged, limits, full disks.

Each trial checks what has to hold whatever the figures are (right bytes, always), and returns the figures.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mcfs.fetch.cachedir import user_of
from tests.netlab.cache_reader import logged
from tests.netlab.harness import Late, random_file, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.netlab.harness import Job, Mounted, Serving, Site

READER: Final = (sys.executable, "-m", "tests.netlab.cache_reader")
SHARE: Final = "data"
DEADLINE: Final = 300.0
QUIET: Final = 20_000
"""Bytes that a server sends in 0.2 s of which nobody wants anything: announcements, beacons, queries."""
_SHUTDOWN: Final = 0x8004587D  # _IOR('X', 125, __u32), linux/ext4.h
_NO_FLUSH: Final = struct.pack("I", 2)
FEWEST: Final = 64
"""Blocks that are read before a kill, at least: of a few the next ones would be read ahead when they are read again."""
HEAD: Final = 4096
"""Bytes at the start of each cached object's file: a header and the beginning of its map."""


@dataclass(frozen=True, slots=True)
class Place:
    """A file, served, and the cache that reads it."""

    site: Site
    file: Path
    block: int
    cache: Path

    def mount(self, **options: object) -> Mounted:
        return self.site.mount(self.site.lab.clients[0], SHARE, cache=self.cache, **options)

    def read(self, mounted: Mounted, task: str, *words: object) -> Job:
        paths = [self.file, mounted.path / self.file.name, self.block, *words]
        return self.site.start(mounted.host, [*READER, task, *map(str, paths)])

    def read_parts(self, mounted: Mounted, readers: int) -> list[Job]:
        return [self.read(mounted, "part", number, readers) for number in range(readers)]


def served(site: Site, size: int, block: int, *options: str, cache: Path | None = None) -> tuple[Place, Serving]:
    data = site.new_directory("data")
    file = random_file(data / "file", size)
    serving = serve(site, data, block, *options)
    return Place(site, file, block, cache or site.new_directory("cache")), serving


def serve(site: Site, data: Path, block: int, *options: str, state: Path | None = None) -> Serving:
    words = ("--name", SHARE, "--block-size", str(block), *options)
    return site.serve(site.lab.server, data, options=words, state=state)


def wait_quiet(site: Site) -> None:
    """Until the server sends nothing of which it would have to send much."""
    sent = [site.sent()]

    def is_quiet() -> bool:
        time.sleep(0.2)
        sent.append(site.sent())
        return sent[-1] - sent[-2] < QUIET

    wait_until(is_quiet, DEADLINE, "the server falls silent")


# --- crashes ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Crashes:
    kills: int = 0
    verified: int = 0
    """Bytes of blocks that had been read, and were right, before a kill; of all kills."""
    sent_again: int = 0
    """Bytes that the server's interface sent while these were read after it."""
    damaged: int = 0
    """Places that were damaged."""

    @property
    def share(self) -> float:
        return self.sent_again / max(1, self.verified)


def crashes(place: Place, kills: int, *, readers: int = 4, seed: int = 1, damage: bool = False) -> Crashes:
    """Kill the daemon at random moments under readers; after each remount read again what they had read.

    Raises AssertionError at a wrong byte.
    """
    found, numbers = Crashes(), random.Random(seed)
    logs: list[Path] = []
    mounted = place.mount()
    for kill in range(kills):
        new = [place.site.directory / f"read-{kill}-{reader}" for reader in range(readers)]
        _crash(place, mounted, new, numbers)
        logs += new
        if damage:
            found.damaged += _damage(place.cache, numbers)
        mounted = place.mount()
        wait_quiet(place.site)
        before = place.site.sent()
        place.read(mounted, "again", *new).expect_success(DEADLINE)
        found.sent_again += place.site.sent() - before
        found.verified += len(logged(map(str, new))) * place.block
        found.kills += 1
        if len(logged(map(str, logs))) * place.block * 2 > place.file.stat().st_size:
            mounted, logs = _afresh(place, mounted), []
    mounted.umount()
    return found


def _crash(place: Place, mounted: Mounted, logs: list[Path], numbers: random.Random) -> None:
    jobs = [place.read(mounted, "wander", log, numbers.randrange(1 << 30)) for log in logs]
    wait_until(lambda: all(log.exists() for log in logs) and len(logged(map(str, logs))) >= FEWEST, DEADLINE, "reads")
    time.sleep(numbers.uniform(0.0, 1.0))
    process = user_of(place.cache)
    assert process, "nobody uses the cache"
    os.kill(process, signal.SIGKILL)
    for job in jobs:
        job.expect_success(DEADLINE)
    mounted.host.run(["umount", "--lazy", mounted.path])
    wait_until(lambda: user_of(place.cache) is None, DEADLINE, "the daemon has died")


def _afresh(place: Place, mounted: Mounted) -> Mounted:
    """Most is in the cache: begin with an empty one."""
    mounted.umount()
    wait_until(lambda: user_of(place.cache) is None, DEADLINE, "the daemon has ended")
    shutil.rmtree(place.cache)
    place.cache.mkdir()
    return place.mount()


def _damage(cache: Path, numbers: random.Random) -> int:
    """Do things to the files of objects that no disk should. Returns how many."""
    paths = sorted(path for path in cache.glob("objects/??/*") if path.is_file())
    chosen = numbers.choices(paths, k=12) if paths else []
    for path in chosen:
        with suppress(FileNotFoundError):
            numbers.choice((_flip, _flip, _flip_head, _flip_head, _claim, _cut, _unlink))(path, numbers)
    return len(chosen)


def _flip(path: Path, numbers: random.Random) -> None:
    """Bits anywhere."""
    size = path.stat().st_size
    _flip_at(path, [numbers.randrange(size) for _ in range(20)], numbers)


def _flip_head(path: Path, numbers: random.Random) -> None:
    _flip_at(path, [numbers.randrange(256, HEAD)], numbers)


def _flip_at(path: Path, places: list[int], numbers: random.Random) -> None:
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            before = file.read(1)
            file.seek(place)
            file.write(bytes((before[0] ^ 1 << numbers.randrange(8),)) if before else b"\xff")


def _claim(path: Path, numbers: random.Random) -> None:
    """The map says that all is there."""
    with path.open("r+b") as file:
        file.seek(256)
        file.write(b"\xff" * numbers.randrange(1, 64))


def _cut(path: Path, numbers: random.Random) -> None:
    os.truncate(path, numbers.randrange(path.stat().st_size + 1))


def _unlink(path: Path, _numbers: random.Random) -> None:
    path.unlink()


# --- limits ----------------------------------------------------------------------------------------------------------


def disk_usage(path: Path) -> int:
    """Bytes, as du counts them; files come and go meanwhile."""
    total = 0
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


def most_used(place: Place, readers: int, **options: object) -> int:
    """Read the whole file with several readers at the same time; the most that the cache took meanwhile, in bytes."""
    mounted = place.mount(**options)
    jobs = place.read_parts(mounted, readers)
    most, end = 0, time.monotonic() + DEADLINE * 10
    while any(job.running for job in jobs):
        most = max(most, disk_usage(place.cache))
        time.sleep(0.05)
        if time.monotonic() > end:
            raise Late("the readers do not end")
    for job in jobs:
        job.expect_success(DEADLINE)
    most = max(most, disk_usage(place.cache))
    mounted.umount()
    return most


# --- new versions ----------------------------------------------------------------------------------------------------


def change_blocks(file: Path, block: int, share: float, seed: int = 5) -> int:
    """Change a byte in so many of a file's blocks, by its part of all. Returns how many were changed."""
    numbers = random.Random(seed)
    count = -(-file.stat().st_size // block)
    chosen = numbers.sample(range(count), max(1, round(count * share)))
    _flip_at(file, [number * block + numbers.randrange(100) for number in chosen], numbers)
    return len(chosen)


def insert_blocks(file: Path, block: int, at: int, count: int) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: at * block] + random.Random(6).randbytes(count * block) + data[at * block :])


def read_whole(place: Place) -> int:
    """Mount, read everything, unmount. Returns the bytes that the server sent."""
    wait_quiet(place.site)
    before = place.site.sent()
    mounted = place.mount()
    place.read(mounted, "part", 0, 1).expect_success(DEADLINE * 10)
    sent = place.site.sent() - before
    mounted.umount()
    wait_until(lambda: user_of(place.cache) is None, DEADLINE, "the mount has ended")
    return sent


def publish_again(place: Place, serving: Serving, *options: str) -> Serving:
    """A new version, by a restart of the server."""
    serving.stop()
    return serve(place.site, place.file.parent, place.block, *options, state=serving.state)


# --- disks -----------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[Path]:
    """A tmpfs of so many bytes."""
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(path))
    try:
        yield path
    finally:
        run("umount", "--lazy", str(path))


@contextmanager
def failing_disk(path: Path, size: int, holds: int) -> Iterator[Path]:
    """An ext4 of `size` bytes whose writes fail by an I/O error when it holds more than `holds` or so: it lies in a
    sparse file on a disk that is smaller."""
    with small_disk(path.with_name(f"{path.name}-below"), holds) as below, loop_disk(path, size, below):
        yield path


def break_down(path: Path) -> None:
    """From now on everything that is asked of an ext4 is an I/O error (EXT4_IOC_SHUTDOWN)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, _SHUTDOWN, _NO_FLUSH)
    finally:
        os.close(fd)


@contextmanager
def loop_disk(path: Path, size: int, below: Path | None = None) -> Iterator[Path]:
    """An ext4 of `size` bytes, in a file in `below`."""
    image = (below or path.parent) / f"{path.name}.image"
    with image.open("wb") as file:
        file.truncate(size)
    run("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", "-m", "0", str(image))
    path.mkdir()
    run("mount", "-o", "loop", str(image), str(path))
    try:
        yield path
    finally:
        run("umount", "--lazy", str(path))
        deadline = time.monotonic() + 30
        while _loops(image) and time.monotonic() < deadline:
            time.sleep(0.1)
        for device in _loops(image):
            run("losetup", "--detach", device)


def _loops(image: Path) -> list[str]:
    found = subprocess.run(["losetup", "--noheadings", "--output", "NAME", "--associated", str(image)],
        check=False, capture_output=True, text=True)  # fmt: skip
    return found.stdout.split()


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
