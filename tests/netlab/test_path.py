"""The whole path: a directory is served, mounted and read over a bridge with real multicast.

Here are bytes, counts, states and errors, with deadlines that a busy machine meets; script/bench measures the speed.
MCFS_TEST_SIZE sets the size in MiB of the large file in the comparison (64).
"""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from mcfs.cli import mounts
from tests.netlab.harness import (
    HARNESS,
    MCFS,
    MIB,
    SERVE,
    Job,
    Mounted,
    Site,
    join_all,
    library_tree,
    random_file,
    same_bytes,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mcfs.cli.lab import Host
    from tests.netlab.conftest import SiteMaker

LARGE = int(os.environ.get("MCFS_TEST_SIZE", "64")) * MIB
SHARED = 128 * MIB
"""For factors of bytes: large enough that announcements and reports weigh nothing."""
STEADY = ("--rate", "500M")
"""A rate that four clients on two cores keep up with, so that it is the protocol that is measured."""
SLOW = ("--rate", "200M")
"""Time enough to do something in the middle of a copy."""
COPY_DEADLINE = 120.0
TIMEOUT = 4
MARGIN = 3.0
"""What a busy machine may add to a time-out; less than another time-out, since the kernel reads twice what failed."""
QUIET_BYTES = 20_000
"""More than announcements and MLD need in the few seconds that are looked at."""

pytestmark = pytest.mark.netlab


def start_reading(site: Site, mounted: Mounted, source: Path) -> Job:
    """Reads the file of a mounted share of one file, or of a share's directory, and compares it."""
    return site.start(mounted.host, same_bytes(source, mounted.path / source.name))


def serve_file(site: Site, size: int, *options: str) -> Path:
    """Serves the directory `data` with one random file."""
    directory = site.directory / "data"
    directory.mkdir()
    source = random_file(directory / "file", size)
    site.serve(site.lab.server, directory, options=options)
    return source


def mount_all(site: Site, *, timeout: float = 30) -> list[Mounted]:
    return [site.mount(host, "data", timeout=timeout) for host in site.lab.clients]


# --- a: the same tree ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_copied_tree_is_the_same(make_site: SiteMaker) -> None:
    site = make_site(1)
    source = library_tree(site.directory / "library")
    random_file(source / "large", LARGE)
    site.serve(site.lab.server, source)
    mounted = site.mount(site.lab.clients[0], "library", symlinks="keep")
    copied = site.directory / "copied"
    site.start(mounted.host, ["cp", "-r", "--preserve=mode,timestamps", mounted.path, copied]).expect_success(300)
    for found in (copied, mounted.path):
        site.start(mounted.host, [*HARNESS, "compare", source, found]).expect_success(COPY_DEADLINE)


def test_reads_at_random_and_maps_see_the_same_bytes(make_site: SiteMaker) -> None:
    site = make_site(2)
    source = serve_file(site, LARGE)
    one, two = mount_all(site)
    random_reads: list[str | Path] = [*HARNESS, "read-at-random", source, one.path / "file", "1000"]
    site.start(one.host, random_reads).expect_success(COPY_DEADLINE)
    site.start(two.host, [*HARNESS, "map", source, two.path / "file"]).expect_success(COPY_DEADLINE)


def test_a_share_of_one_file_and_all_shares(make_site: SiteMaker) -> None:
    site = make_site(2)
    directory = site.directory / "data"
    directory.mkdir()
    one, two = random_file(site.directory / "one", 3 * MIB), random_file(directory / "file", MIB + 1, seed=2)
    site.serve(site.lab.server, one, directory)
    every = site.mount(site.lab.clients[0], None)
    wait_until(lambda: sorted(os.listdir(every.path)) == ["data", "one"], 15, "both shares are heard")
    site.start(every.host, same_bytes(one, every.path / "one")).expect_success(COPY_DEADLINE)
    site.start(every.host, same_bytes(two, every.path / "data" / "file")).expect_success(COPY_DEADLINE)


# --- b, c, e: what the server sends ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("percent", "factor"), [(0, 1.12), (5, 1.25)])
def test_four_clients_cost_the_server_as_much_as_one(make_site: SiteMaker, percent: float, factor: float) -> None:
    site = make_site(4, wire=True)  # otherwise 45 datagrams have one header and one fate
    source = serve_file(site, SHARED, *STEADY)
    mounted = mount_all(site)
    for host in site.lab.clients:
        site.lab.loss(host, percent)
    before = site.sent()
    join_all([start_reading(site, each, source) for each in mounted], COPY_DEADLINE)
    assert site.sent() - before <= factor * SHARED


@pytest.mark.slow
def test_a_client_that_starts_in_the_middle_costs_less_than_a_copy_of_its_own(make_site: SiteMaker) -> None:
    site = make_site(2, wire=True)
    source = serve_file(site, SHARED, *STEADY)
    first, second = mount_all(site)
    before = site.sent()
    jobs = [start_reading(site, first, source)]
    site.wait_sent(before, SHARED // 2, COPY_DEADLINE)
    jobs.append(start_reading(site, second, source))
    join_all(jobs, COPY_DEADLINE)
    assert site.sent() - before <= 2.0 * SHARED


def test_what_is_cached_is_not_sent_again(make_site: SiteMaker) -> None:
    site = make_site(1)
    source = serve_file(site, 32 * MIB)
    mounted = site.mount(site.lab.clients[0], "data")
    start_reading(site, mounted, source).expect_success(COPY_DEADLINE)
    before = site.sent()
    start_reading(site, mounted, source).expect_success(COPY_DEADLINE)
    assert site.sent() - before < QUIET_BYTES, "the second read was not from the page cache"
    mounted.umount()
    again = mount_again(site, mounted, "data")
    before = site.sent()
    start_reading(site, again, source).expect_success(COPY_DEADLINE)
    assert site.sent() - before < QUIET_BYTES, "the next mount did not read from the disk cache"


def mount_again(site: Site, mounted: Mounted, share: str) -> Mounted:
    """With the cache of one that was unmounted: as soon as that has given it up."""
    wait_until(lambda: not daemons(mounted.path), 15, "the mount's process has ended")
    return site.mount(mounted.host, share, cache=mounted.cache)


def daemons(mountpoint: Path) -> list[str]:
    found = subprocess.run(["pgrep", "-f", f"mount.*{mountpoint}( |$)"], capture_output=True, text=True, check=False)
    return found.stdout.split()


# --- f: nobody listens -----------------------------------------------------------------------------------------------


def test_a_server_without_listeners_is_idle(make_site: SiteMaker) -> None:
    site = make_site(1)
    directory = site.directory / "data"
    directory.mkdir()
    source = random_file(directory / "file", 16 * MIB)
    serving = site.serve(site.lab.server, directory)
    mounted = site.mount(site.lab.clients[0], "data")
    start_reading(site, mounted, source).expect_success(COPY_DEADLINE)
    mounted.umount()
    time.sleep(3)  # the last leave, the queries that follow it, and their answer time
    sent, used = site.sent(), serving.job.cpu_seconds()
    time.sleep(5)
    assert site.sent() - sent < QUIET_BYTES
    assert serving.job.cpu_seconds() - used < 0.05 * 5
    statistics = serving.stop()
    assert statistics["listeners_seen"] == 1
    assert statistics["bad_messages"] == 0


# --- g: the server goes ----------------------------------------------------------------------------------------------


def test_a_server_that_is_killed_ends_a_copy_with_an_error(make_site: SiteMaker) -> None:
    site = make_site(1)
    source = random_file(site.directory / "file", SHARED)
    serving = site.serve(site.lab.server, source, options=SLOW)
    mounted = site.mount(site.lab.clients[0], None, timeout=TIMEOUT)
    wait_until((mounted.path / "file").exists, 15, "the share is heard")
    before, copied = site.sent(), site.directory / "copied"
    job = site.start(mounted.host, ["cp", mounted.path / "file", copied])
    site.wait_sent(before, SHARED // 4, COPY_DEADLINE)
    serving.kill()
    assert job.finish(TIMEOUT + MARGIN) == 1
    assert "Connection timed out" in job.output
    assert 0 < copied.stat().st_size < SHARED
    assert source.read_bytes().startswith(copied.read_bytes())


def test_a_server_that_comes_back_in_time_completes_a_copy(make_site: SiteMaker) -> None:
    site = make_site(1)
    source = random_file(site.directory / "file", SHARED)
    serving = site.serve(site.lab.server, source, options=SLOW)
    mounted = site.mount(site.lab.clients[0], None, timeout=20)
    wait_until((mounted.path / "file").exists, 15, "the share is heard")
    before = site.sent()
    job = start_reading(site, mounted, source)
    site.wait_sent(before, SHARED // 4, COPY_DEADLINE)
    serving.kill()
    time.sleep(1)
    assert job.running
    site.serve(site.lab.server, source, state=serving.state, options=SLOW)
    job.expect_success(COPY_DEADLINE)


# --- i: others' troubles ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_dead_share_does_not_hold_up_a_live_one(make_site: SiteMaker) -> None:
    site = make_site(2)
    alive, dead = site.directory / "alive", site.directory / "dead"
    client, other_server = site.lab.clients
    files = {}
    for number, directory in enumerate((alive, dead)):  # no content in common: whoever has it serves it
        directory.mkdir()
        files[directory] = [random_file(directory / f"file{n}", 2 * MIB, seed=n + 100 * number) for n in range(20)]
    site.serve(site.lab.server, alive)
    doomed = site.serve(other_server, dead)
    mounted = site.mount(client, None, timeout=TIMEOUT)
    for directory in (alive, dead):
        wait_until((mounted.path / directory.name / "file0").exists, 15, f"{directory.name} is heard")
    doomed.kill()
    readers = [
        site.start(client, [*HARNESS, "read-for", mounted.path / "dead" / file.name, "25"]) for file in files[dead]
    ]
    wait_until(lambda: all(reader.output for reader in readers), TIMEOUT + MARGIN, "the first time-out of each reader")
    for file in files[alive][:5]:
        job = site.start(client, same_bytes(file, mounted.path / "alive" / file.name))
        assert job.expect_success(30) < 2
    assert all(reader.running for reader in readers)
    assert {line for reader in readers for line in reader.output.split()} == {"ETIMEDOUT"}


@pytest.mark.slow
def test_an_unplugged_host_does_not_stop_the_others(make_site: SiteMaker) -> None:
    site = make_site(4)
    source = serve_file(site, SHARED, *STEADY)
    mounted = mount_all(site, timeout=TIMEOUT)
    before = site.sent()
    jobs = [start_reading(site, each, source) for each in mounted]
    site.wait_sent(before, SHARED // 4, COPY_DEADLINE)
    site.lab.link(site.lab.clients[3], up=False)
    join_all(jobs[:3], COPY_DEADLINE)
    assert jobs[3].finish(TIMEOUT + MARGIN) != 0
    assert "Connection timed out" in jobs[3].output


def test_a_host_that_is_plugged_in_again_completes(make_site: SiteMaker) -> None:
    site = make_site(1)
    source = serve_file(site, SHARED, *SLOW)
    mounted = site.mount(site.lab.clients[0], "data", timeout=20)
    before = site.sent()
    job = start_reading(site, mounted, source)
    site.wait_sent(before, SHARED // 4, COPY_DEADLINE)
    site.lab.link(mounted.host, up=False)
    time.sleep(2)
    site.lab.link(mounted.host, up=True)
    job.expect_success(COPY_DEADLINE)


@pytest.mark.parametrize("kind", ["noise", "forged"])
def test_what_others_send_to_its_groups_changes_nothing(make_site: SiteMaker, kind: str) -> None:
    site = make_site(2)
    size = 64 * MIB
    directory = site.directory / "data"
    directory.mkdir()
    source = random_file(directory / "file", size)
    serving = site.serve(site.lab.server, directory, options=SLOW)
    reader, attacker = site.lab.clients
    mounted = site.mount(reader, "data")
    pid = site.start(reader, ["sleep", "600"]).process.pid
    attack = site.start(attacker, [*HARNESS, "send-garbage", str(pid), kind])
    wait_until(lambda: attack.output == "ready\n", 15, "the attack begins")
    sent, arrived = site.sent(), site.lab.rx_bytes(reader)
    start_reading(site, mounted, source).expect_success(COPY_DEADLINE)
    attacked_with = site.lab.rx_bytes(reader) - arrived - (site.sent() - sent)
    assert attacked_with > (10 * MIB if kind == "forged" else 10_000)
    assert attack.running, attack.output
    attack.kill()
    assert sorted(os.listdir(mounted.path)) == ["file"]
    statistics = serving.stop()
    assert statistics["bad_messages"] > 0
    assert serving.job.output.count("\n") < 20, "one line of log per bad message"


# --- errors ----------------------------------------------------------------------------------------------------------


def test_everything_that_would_change_the_mount_is_refused(make_site: SiteMaker) -> None:
    site = make_site(1)
    serve_file(site, MIB)
    root = site.mount(site.lab.clients[0], "data").path
    attempts: list[Callable[[], object]] = [
        lambda: os.open(root / "file", os.O_WRONLY),
        lambda: os.open(root / "file", os.O_RDWR),
        lambda: os.open(root / "file", os.O_RDONLY | os.O_TRUNC),
        lambda: os.open(root / "new", os.O_CREAT | os.O_WRONLY),
        lambda: os.unlink(root / "file"),
        lambda: os.rename(root / "file", root / "other"),
        lambda: os.mkdir(root / "new"),
        lambda: os.rmdir(root / "file"),
        lambda: os.symlink("file", root / "new"),
        lambda: os.link(root / "file", root / "new"),
        lambda: os.chmod(root / "file", 0o600),
        lambda: os.chown(root / "file", 1, 1),
        lambda: os.utime(root / "file"),
        lambda: os.truncate(root / "file", 0),
        lambda: os.setxattr(root / "file", "user.a", b"b"),
        lambda: os.removexattr(root / "file", "user.a"),
    ]
    for attempt in attempts:
        with pytest.raises(OSError, match="Read-only file system"):
            attempt()
    with pytest.raises(FileNotFoundError):
        os.stat(root / "no such name")
    with pytest.raises(NotADirectoryError):
        os.stat(root / "file" / "below")
    assert (root / "file").stat().st_size == MIB


def run(host: Host, *argv: str | Path) -> tuple[int, str]:
    done = host.run([*argv], timeout=60, check=False)
    return done.returncode, done.stderr


def test_mistakes_of_the_user_are_one_line_and_a_code(make_site: SiteMaker) -> None:
    site = make_site(1)
    (client,) = site.lab.clients
    file = random_file(site.directory / "file", 10)
    code, text = run(client, *MCFS, "mount", file, "-i", "eth0")
    assert (code, text) == (5, f"mcfs: mount point {file} is not a directory\n")
    code, text = run(client, *MCFS, "mount", site.directory, "--no-such-option")
    assert code == 2
    assert text.startswith("Usage: ")
    code, text = run(client, *MCFS, "mount", site.directory, "-o", "iface=eth0,nonsense=1")
    assert (code, text.count("\n")) == (2, 1)
    assert "nonsense=1" in text
    code, text = run(site.lab.server, *SERVE, "--state-dir", site.directory / "state", site.directory / "absent")
    assert code == 2
    assert f"'{site.directory}/absent' does not exist" in text
    start = time.monotonic()
    code, text = run(client, *MCFS, "mount", "absent", site.new_directory("mount"), "-i", "eth0", "-o", "timeout=2")
    assert (code, text.count("\n")) == (4, 1)
    assert 2 <= time.monotonic() - start < 2 + MARGIN


def test_two_mounts_share_a_cache_directory(make_site: SiteMaker) -> None:
    site = make_site(1)
    source = serve_file(site, 16 * MIB)
    (client,) = site.lab.clients
    first = site.mount(client, "data")
    second = site.mount(client, "data", cache=first.cache)
    join_all([start_reading(site, mounted, source) for mounted in (first, second)], COPY_DEADLINE)
    second.umount()
    start_reading(site, first, source).expect_success(COPY_DEADLINE)
    assert mounts.mounted_at(second.path) is None


def test_umount_and_a_signal_leave_nothing_behind(make_site: SiteMaker) -> None:
    site = make_site(1)
    serve_file(site, MIB)
    (client,) = site.lab.clients
    by_umount, by_fusermount = site.mount(client, "data"), site.mount(client, "data")
    foreground = site.new_directory("mount")
    site.lab.track_mount(foreground)
    job = site.start(
        client, [*MCFS, "mount", "data", foreground, "-f", "-i", "eth0", "--cache-dir", site.new_directory("cache")]
    )
    wait_until(lambda: mounts.mounted_at(foreground) is not None, 15, "the mount in the foreground serves")
    client.run(["umount", by_umount.path])
    client.run(["fusermount3", "-u", by_fusermount.path])
    job.process.terminate()
    assert job.finish(5) == 0
    for path in (by_umount.path, by_fusermount.path, foreground):
        assert mounts.mounted_at(path) is None
        wait_until(lambda path=path: not daemons(path), 15, "no process is left")  # type: ignore[misc]
