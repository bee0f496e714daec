"""A server that means harm, on a real link, seen through the kernel: what it makes of a mount harms nobody.

Every rule that a listing can break has its test in tests/hostile; here is what the kernel makes of the rest.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.netlab.harness import Mounted, Site, random_file, same_bytes, wait_until
from tests.netlab.hostile_server import FINE, INSIDE, TRAPS
from tests.netlab.unprivileged import SETPRIV, USER, let_others_enter, status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.netlab.conftest import SiteMaker

pytestmark = pytest.mark.netlab

TIMEOUT = 4
DEADLINE = 60.0
MEMORY = 400 << 10
"""kB of a client's process, far below what ten million entries would take."""


def _open(path: bytes) -> int:
    return os.open(path, os.O_RDONLY)


LOOKS: Sequence[Callable[[bytes], object]] = (os.readlink, os.stat, _open, os.listdir)


class Scene:
    """A hostile and an honest server, and a mount of all shares."""

    def __init__(self, site: Site, *, cache: Path | None = None, **options: object) -> None:
        self.site = site
        server, honest, client = site.lab.server, *site.lab.clients
        self.server = site.start(server, [sys.executable, "-m", "tests.netlab.hostile_server", "eth0"])
        wait_until(lambda: "serving" in self.server.output, DEADLINE, "the hostile server serves")
        directory = site.directory / "honest"
        directory.mkdir()
        self.source = random_file(directory / "file", 300_000)
        site.serve(honest, directory)
        self.mounted: Mounted = site.mount(client, None, cache=cache, timeout=TIMEOUT, allow_other=True, **options)
        wait_until(lambda: sorted(os.listdir(self.mounted.path)) == ["evil", "honest", "wide"], DEADLINE, "all shares")
        self.evil = self.mounted.path / "evil"

    def expect_honest(self) -> None:
        found = self.mounted.path / "honest" / "file"
        self.site.start(self.mounted.host, same_bytes(self.source, found)).expect_success(DEADLINE)
        assert (self.evil / "fine").read_bytes() == FINE


@pytest.fixture
def scene(make_site: SiteMaker) -> Scene:
    return Scene(make_site(2))


def error_of(attempt: Callable[[], object]) -> int:
    try:
        attempt()
    except OSError as error:
        return error.errno or -1
    return 0


def test_links_do_not_lead_out(scene: Scene) -> None:
    """Followed by the kernel itself, also through other links."""
    for name, target in TRAPS.items():
        path = os.fsencode(scene.evil) + b"/" + name
        if name in INSIDE:
            assert os.readlink(path) == target
            continue
        for look in LOOKS:
            assert error_of(partial(look, path)) == errno.EPERM
    assert (scene.evil / "fine-link").read_bytes() == FINE
    assert os.path.samefile(scene.evil / "up", scene.evil)
    assert error_of(lambda: os.stat(scene.evil / "up" / "by-up")) == errno.EPERM
    # What the user himself writes is his own: the kernel climbs from where the link leads.
    assert os.path.samefile(f"{scene.evil}/up/..", scene.mounted.path)
    scene.expect_honest()


def test_hidden_links_are_not_there(make_site: SiteMaker) -> None:
    scene = Scene(make_site(2), symlinks="hide")
    names = {os.fsencode(name) for name in os.listdir(scene.evil)}
    assert not names & TRAPS.keys()
    assert error_of(lambda: os.lstat(scene.evil / "absolute")) == errno.ENOENT
    scene.expect_honest()


def test_directories_that_break_the_rules(scene: Scene) -> None:
    for number in range(5):
        bad = scene.evil / f"bad{number}"
        assert error_of(lambda bad=bad: os.listdir(bad)) == errno.EIO  # type: ignore[misc]
        assert error_of(lambda bad=bad: os.stat(bad / "x")) == errno.EIO  # type: ignore[misc]
    listed = scene.site.start(scene.mounted.host, ["ls", "-laR", scene.evil])
    assert listed.finish(DEADLINE) != 0
    scene.expect_honest()


def test_no_devices_and_no_set_user_id(scene: Scene) -> None:
    """Neither in the modes, nor by the mount."""
    device, su = scene.evil / "device", scene.evil / "su"
    assert device.lstat().st_mode == stat.S_IFREG | 0o666
    assert device.read_bytes() == b""
    assert stat.S_IMODE(su.stat().st_mode) == 0o755
    let_others_enter(scene.mounted.path)
    job = scene.site.start(scene.mounted.host, [*SETPRIV, su])
    job.expect_success(DEADLINE)
    assert job.output == f"{USER}\n"
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    (line,) = [line for line in lines if f" {scene.mounted.path} " in line]
    assert {"ro", "nosuid", "nodev"} <= set(line.split()[5].split(","))
    assert error_of(lambda: (scene.evil / "new").write_bytes(b"x")) == errno.EROFS


def test_numbers_at_the_ends(scene: Scene) -> None:
    """What stat(2), statfs(2) and ls can hold, they show; what they cannot, does not stop them."""
    assert (scene.evil / "huge").stat().st_size == (1 << 63) - 1
    assert (scene.evil / "future").stat().st_mtime_ns == (1 << 63) - 1
    assert (scene.evil / "past").stat().st_mtime_ns == -(1 << 63)
    assert (scene.evil / "nobody").stat().st_uid in (0xFFFFFFFF, USER)
    assert (scene.evil / "nobody").read_bytes() == b""
    assert (scene.evil / "\x1b[2J\n").exists()
    found = os.statvfs(scene.mounted.path)
    assert found.f_files == (1 << 63) - 1
    scene.site.start(scene.mounted.host, ["df", "-i", scene.mounted.path]).expect_success(DEADLINE)
    scene.site.start(scene.mounted.host, ["ls", "-l", scene.evil / "huge"]).expect_success(DEADLINE)
    scene.expect_honest()


def test_a_file_of_2_63_bytes_ends_in_time(scene: Scene) -> None:
    for offset in (0, 1 << 45, (1 << 63) - 8192):
        start = time.monotonic()
        skip = ["dd", f"if={scene.evil}/huge", "of=/dev/null", "bs=4096", "count=1", f"skip={offset >> 12}"]
        job = scene.site.start(scene.mounted.host, skip)
        assert job.finish(DEADLINE) != 0
        assert "timed out" in job.output
        assert time.monotonic() - start < 4 * TIMEOUT + 10
        scene.expect_honest()


def test_a_directory_of_ten_million_entries(scene: Scene) -> None:
    start = time.monotonic()
    wide = scene.mounted.path / "wide" / "wide"
    assert error_of(lambda: os.listdir(wide)) == errno.EIO
    assert time.monotonic() - start < DEADLINE
    daemons = [pid for pid in scene.site.lab.pids(scene.mounted.host) if is_mount(pid, scene.mounted.path)]
    assert daemons
    for pid in daemons:
        assert int(status(pid)["VmHWM"].split()[0]) < MEMORY
    scene.expect_honest()


def is_mount(pid: int, path: Path) -> bool:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return os.fsencode(path) in file.read().split(b"\0")
