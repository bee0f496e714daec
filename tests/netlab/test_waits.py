"""Reads that wait, and what ends them: deadlines, signals, unmounting, a daemon that dies or is stopped for a while."""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil
import pytest

from mcfs.cli import mounts
from tests.netlab.harness import (
    MCFS,
    MIB,
    Job,
    Mounted,
    Serving,
    Site,
    groups_joined,
    random_file,
    same_bytes,
    wait_until,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.netlab.conftest import SiteMaker

pytestmark = pytest.mark.netlab

TIMEOUT: Final = 4
MARGIN: Final = 4.0
"""What a busy machine may add to a time-out."""
SIZE: Final = 64 * MIB
SLOW: Final = ("--rate", "100M")
DEADLINE: Final = 90.0


@dataclass
class Scene:
    """A mount whose server can be killed in the middle of a file."""

    site: Site
    source: Path
    serving: Serving
    mounted: Mounted

    @property
    def file(self) -> Path:
        return self.mounted.path / self.source.name

    def read_and_wait(self, readers: int = 1) -> list[Job]:
        """Readers that have begun and wait for a server that is no more."""
        before = self.site.sent()
        jobs = [self.site.start(self.mounted.host, ["cat", self.file]) for _ in range(readers)]
        self.site.wait_sent(before, 2 * MIB, DEADLINE)
        self.serving.kill()
        time.sleep(0.5)
        assert all(job.running for job in jobs)
        return jobs

    def daemons(self) -> list[psutil.Process]:
        found = [psutil.Process(pid) for pid in self.site.lab.pids(self.mounted.host)]
        return [
            each for each in found if str(self.mounted.path) in each.cmdline() and "mcfs.cli.main" in each.cmdline()
        ]

    @property
    def daemon(self) -> psutil.Process:
        (found,) = self.daemons()
        return found

    def groups(self) -> list[str]:
        """What the client's host has joined of ours."""
        pid = self.site.start(self.mounted.host, ["sleep", "5"]).process.pid
        return [group for group in groups_joined(str(pid)) if group.startswith("ff15")]

    def expect_nothing_left(self, seconds: float) -> None:
        """No process, no mount, no group."""
        wait_until(lambda: not self.daemons(), seconds, "the daemon has ended")
        assert mounts.mounted_at(self.mounted.path) is None
        assert self.groups() == []
        assert os.listdir(self.mounted.path) == []


@pytest.fixture
def scene(make_site: SiteMaker) -> Scene:
    site = make_site(1)
    directory = site.directory / "data"
    directory.mkdir()
    source = random_file(directory / "file", SIZE)
    serving = site.serve(site.lab.server, directory, options=SLOW)
    return Scene(site, source, serving, site.mount(site.lab.clients[0], "data", timeout=TIMEOUT))


# --- readers ---------------------------------------------------------------------------------------------------------


def test_a_reader_that_is_killed_dies_and_leaves_no_group(scene: Scene) -> None:
    before = set(scene.groups())
    jobs = scene.read_and_wait(4)
    for job in jobs:
        job.process.kill()
    for job in jobs:
        job.finish(TIMEOUT + MARGIN)
    assert os.listdir(scene.mounted.path) == ["file"]
    wait_until(lambda: len(scene.groups()) <= len(before) + 1, 2 * (TIMEOUT + MARGIN), "only control channels are left")
    scene.mounted.umount()
    scene.expect_nothing_left(MARGIN)


def test_all_that_wait_fail_in_time_and_the_next_ones_at_once(scene: Scene) -> None:
    jobs = scene.read_and_wait(20)
    start = time.monotonic()
    for job in jobs:
        assert job.finish(TIMEOUT + MARGIN) == 1
        assert "Connection timed out" in job.output
    assert time.monotonic() - start < TIMEOUT + MARGIN
    assert not is_readable(scene.file)  # they may have begun to wait before the server was heard last: this waits anew
    for _ in range(3):
        start = time.monotonic()
        with pytest.raises(OSError, match="timed out"):
            read_last(scene.file)
        assert time.monotonic() - start < TIMEOUT / 2, "the share is down"
    scene.site.serve(scene.site.lab.server, scene.source.parent, state=scene.serving.state)
    wait_until(lambda: is_readable(scene.file), TIMEOUT + MARGIN, "the server is heard again")


def read_last(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), 1, SIZE - 1)


def is_readable(path: Path) -> bool:
    try:
        return len(read_last(path)) == 1
    except OSError as error:
        if error.errno != errno.ETIMEDOUT:
            raise
        return False


# --- the end of a mount ----------------------------------------------------------------------------------------------


def test_sigterm(scene: Scene) -> None:
    (job,) = scene.read_and_wait()
    scene.daemon.terminate()
    assert job.finish(MARGIN) != 0
    scene.expect_nothing_left(MARGIN)


def test_sighup_changes_nothing(scene: Scene) -> None:
    scene.daemon.send_signal(signal.SIGHUP)
    scene.site.start(scene.mounted.host, same_bytes(scene.source, scene.file)).expect_success(DEADLINE)
    scene.mounted.umount()
    scene.expect_nothing_left(MARGIN)


@pytest.mark.parametrize("command", [["umount", "-l"], ["fusermount3", "-u", "-z"]])
def test_a_lazy_unmount(scene: Scene, command: list[str]) -> None:
    """It is gone at once; who reads still waits for his deadline."""
    (job,) = scene.read_and_wait()
    scene.mounted.host.run([*command, scene.mounted.path])
    assert mounts.mounted_at(scene.mounted.path) is None
    assert job.finish(TIMEOUT + MARGIN) == 1
    assert "Connection timed out" in job.output
    scene.expect_nothing_left(MARGIN)


def test_an_unmount_while_it_is_in_use_is_refused(scene: Scene) -> None:
    (job,) = scene.read_and_wait()
    done = scene.mounted.host.run(["fusermount3", "-u", scene.mounted.path], check=False)
    assert done.returncode != 0
    assert "busy" in done.stderr.lower()
    assert os.listdir(scene.mounted.path) == ["file"]
    assert job.finish(TIMEOUT + MARGIN) == 1
    scene.mounted.host.run(["fusermount3", "-u", scene.mounted.path])
    scene.expect_nothing_left(MARGIN)


def test_an_unmount_by_force(scene: Scene) -> None:
    (job,) = scene.read_and_wait()
    scene.mounted.host.run(["umount", "-f", "-l", scene.mounted.path])
    assert job.finish(MARGIN) != 0
    scene.expect_nothing_left(MARGIN)


def test_a_daemon_that_dies(scene: Scene) -> None:
    """Its readers fail at once, its directory says so and is not empty, and a new mount takes its place."""
    jobs = scene.read_and_wait(3)
    scene.daemon.kill()
    for job in jobs:
        assert job.finish(MARGIN) == 1
        assert "not connected" in job.output or "aborted" in job.output, job.output
    with pytest.raises(OSError, match="not connected") as caught:
        os.listdir(scene.mounted.path)
    assert caught.value.errno == errno.ENOTCONN
    assert scene.groups() == []
    scene.site.serve(scene.site.lab.server, scene.source.parent, state=scene.serving.state)
    done = mount_again(scene)
    assert "unmounted what a dead mcfs had left behind" in done
    scene.site.start(scene.mounted.host, same_bytes(scene.source, scene.file)).expect_success(DEADLINE)
    scene.mounted.umount()
    scene.expect_nothing_left(MARGIN)


def mount_again(scene: Scene) -> str:
    options = f"iface=eth0,timeout={TIMEOUT},cache_dir={scene.mounted.cache}"
    known = f"known_publishers={scene.site.directory / 'known-again'}"
    command: list[str | Path] = [*MCFS, "mount", "data", scene.mounted.path, "-o", f"{options},{known}"]
    return scene.mounted.host.run(command, timeout=DEADLINE).stderr


# --- a daemon that cannot run for a while ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_daemon_that_is_stopped_for_longer_than_the_timeout_goes_on(scene: Scene) -> None:
    before = scene.site.sent()
    job = scene.site.start(scene.mounted.host, same_bytes(scene.source, scene.file))
    scene.site.wait_sent(before, SIZE // 4, DEADLINE)
    daemon = scene.daemon
    daemon.suspend()
    time.sleep(2.5 * TIMEOUT)
    assert job.running
    daemon.resume()
    job.expect_success(DEADLINE)


@pytest.mark.slow
def test_server_and_network_change_while_the_daemon_is_stopped(scene: Scene) -> None:
    """As a laptop that is suspended in one place and resumed in another: another address, and a server with a new
    version."""
    client = scene.mounted.host
    before = scene.site.sent()
    job = scene.site.start(client, same_bytes(scene.source, scene.file))
    scene.site.wait_sent(before, SIZE // 4, DEADLINE)
    daemon = scene.daemon
    daemon.suspend()
    scene.serving.kill()
    client.run(["ip", "link", "set", "eth0", "down"])
    (scene.source.parent / "other").write_bytes(b"new")
    time.sleep(1.5 * TIMEOUT)
    scene.site.serve(scene.site.lab.server, scene.source.parent, state=scene.serving.state)
    client.run(["ip", "link", "set", "eth0", "address", "02:00:00:00:00:77"])
    client.run(["ip", "link", "set", "eth0", "up"])
    wait_until(lambda: scene.site.lab.has_address(client), DEADLINE, "the client has an address")
    daemon.resume()
    job.expect_success(DEADLINE)
    wait_until((scene.mounted.path / "other").exists, TIMEOUT + MARGIN, "the new version is shown")
    assert (scene.mounted.path / "other").read_bytes() == b"new"
