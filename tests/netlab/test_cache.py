"""The cache of real mounts: what is left of it when its process is killed, how much it takes, what it does when the
disk is full or fails, and what of a new version is fetched. `script/bench -m crash,quota,changed` does it at full size.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from mcfs.fetch.cachedir import user_of
from tests.netlab import cache_trials as trials
from tests.netlab.cache_trials import SHARE, Place, served
from tests.netlab.harness import MCFS, MIB, Mounted, random_file, wait_until

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from mcfs.cli.lab import Host
    from tests.netlab.conftest import SiteMaker
    from tests.netlab.harness import Job, Site

BLOCK = 64 << 10
LONG = 112 * MIB
"""More than a client keeps in memory: who reads it again reads the cache."""
KILLS = 4
DEADLINE = 60.0
WARNING = "cannot be written: serving without keeping"


# --- crashes ---------------------------------------------------------------------------------------------------------


def test_what_was_verified_before_a_kill_is_not_sent_again(make_site: SiteMaker) -> None:
    site = make_site(1)
    place, _ = served(site, 96 * MIB, BLOCK, "--rate", "300M")
    found = trials.crashes(place, KILLS)
    assert found.kills == KILLS
    assert found.verified >= KILLS * MIB
    assert found.share <= 0.05, found


def test_whatever_happens_to_the_files_no_byte_is_wrong(make_site: SiteMaker) -> None:
    site = make_site(1)
    place, _ = served(site, 96 * MIB, BLOCK, "--rate", "300M")
    found = trials.crashes(place, KILLS, seed=2, damage=True)
    assert found.damaged >= KILLS
    assert found.verified >= KILLS * MIB


# --- limits ----------------------------------------------------------------------------------------------------------


def test_the_limit_holds_under_eight_readers(make_site: SiteMaker) -> None:
    site = make_site(1)
    place, _ = served(site, 96 * MIB, BLOCK)
    most = trials.most_used(place, 8, cache_max="16M", cache_min_free="1M")
    assert 8 * MIB < most <= 16 * MIB + 4 * MIB  # 256 directories take 4 KiB each, and the rest is little


def test_a_disk_that_is_too_small(make_site: SiteMaker) -> None:
    site = make_site(1)
    with trials.small_disk(site.directory / "small", 12 * MIB) as disk:
        place, _ = served(site, 64 * MIB, BLOCK, cache=disk / "cache")
        most = trials.most_used(place, 4, cache_max="1G")
        assert MIB < most <= 12 * MIB


# --- new versions ----------------------------------------------------------------------------------------------------


def test_of_a_new_version_only_what_has_changed_is_sent(make_site: SiteMaker) -> None:
    site = make_site(1)
    place, serving = served(site, 64 * MIB, BLOCK)
    assert trials.read_whole(place) >= 64 * MIB
    changed = trials.change_blocks(place.file, BLOCK, 0.01)
    serving = trials.publish_again(place, serving)
    sent = trials.read_whole(place)
    page = 1024 * 32
    assert changed * BLOCK <= sent <= 0.015 * 64 * MIB + 2 * page, sent
    # The same again is in the cache, and then something is inserted.
    assert trials.read_whole(place) <= 2 * page
    trials.insert_blocks(place.file, BLOCK, at=100, count=10)
    trials.publish_again(place, serving)
    sent = trials.read_whole(place)
    assert 10 * BLOCK <= sent <= 15 * BLOCK + 4 * page, sent


# --- disks that fail -------------------------------------------------------------------------------------------------


def mount_in_foreground(site: Site, cache: Path, *options: str) -> tuple[Mounted, Job]:
    """So that its log can be read."""
    mounted = Mounted(site.lab.clients[0], site.new_directory("mount"), cache)
    known = site.directory / f"known-{mounted.path.name}"
    words = ",".join(["iface=eth0", f"cache_dir={cache}", f"known_publishers={known}", *options])
    site.lab.track_mount(mounted.path)
    job = site.start(mounted.host, [*MCFS, "mount", "-f", SHARE, mounted.path, "-o", words])
    wait_until(lambda: not job.running or os.path.ismount(mounted.path), DEADLINE, "the mount")
    assert job.running, job.output
    return mounted, job


def read_all(place: Place, mounted: Mounted, readers: int = 2) -> None:
    for job in place.read_parts(mounted, readers):
        job.expect_success(DEADLINE)


def test_others_fill_the_disk_and_make_room_again(make_site: SiteMaker) -> None:
    site = make_site(1)
    with trials.small_disk(site.directory / "small", 64 * MIB) as disk:
        place, _ = served(site, LONG, BLOCK, cache=disk / "cache")
        mounted, job = mount_in_foreground(site, place.cache, "cache_max=40M", "cache_min_free=0")
        place.read(mounted, "part", 0, 16).expect_success(DEADLINE)
        assert trials.disk_usage(place.cache) > 4 * MIB
        with Ballast(disk / "ballast"):
            read_all(place, mounted)
            assert job.output.count(WARNING) == 1, job.output
        before = trials.disk_usage(place.cache)
        drop_pages()
        read_all(place, mounted)
        assert trials.disk_usage(place.cache) > before + 4 * MIB
        assert job.output.count("can be written again") >= 1, job.output
        assert job.output.count(WARNING) == 1, job.output


class Ballast:
    """Somebody who takes all room on a disk as soon as there is some."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stop = threading.Event()
        self._full = threading.Event()
        self._thread = threading.Thread(target=self._fill)

    def __enter__(self) -> None:
        self._thread.start()
        assert self._full.wait(DEADLINE)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._path.unlink()

    def _fill(self) -> None:
        with self._path.open("ab", buffering=0) as file:
            while not self._stop.is_set():
                try:
                    file.write(bytes(1 << 16))
                except OSError:
                    self._full.set()
                    time.sleep(0.001)


def drop_pages() -> None:
    """What the kernel has of mounts, so that they are asked again."""
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("1\n")


def test_a_disk_that_is_read_only(make_site: SiteMaker) -> None:
    site = make_site(1)
    with trials.small_disk(site.directory / "small", 128 * MIB) as disk:
        place, serving = served(site, 32 * MIB, BLOCK, cache=disk / "cache")
        other = replace(place, file=random_file(place.file.with_name("other"), 16 * MIB, seed=2))
        trials.publish_again(place, serving)
        mounted = place.mount(cache_max="100M")
        read_all(place, mounted)
        mounted.umount()
        wait_until(lambda: user_of(place.cache) is None, DEADLINE, "the mount has ended")
        trials.run("mount", "-o", "remount,ro", str(disk))
        mounted, job = mount_in_foreground(site, place.cache, "cache_max=100M")
        trials.wait_quiet(site)
        before = site.sent()
        read_all(place, mounted)
        assert site.sent() - before < MIB, "what is in the cache is read from there"
        read_all(other, mounted)
        assert job.output.count(WARNING) == 1, job.output


def test_a_disk_that_breaks_down(make_site: SiteMaker) -> None:
    """From one moment on everything is an I/O error."""
    site = make_site(1)
    with trials.loop_disk(site.directory / "disk", 256 * MIB) as disk:
        place, _ = served(site, LONG, BLOCK, cache=disk / "cache")
        mounted, job = mount_in_foreground(site, place.cache, "cache_max=200M")
        place.read(mounted, "part", 0, 4).expect_success(DEADLINE)
        trials.break_down(disk)
        drop_pages()
        read_all(place, mounted, 4)
        assert job.output.count(WARNING) == 1, job.output
        assert job.running
        mounted.umount()
        job.expect_success(DEADLINE)


def test_a_disk_whose_writes_fail(make_site: SiteMaker) -> None:
    site = make_site(1)
    with trials.failing_disk(site.directory / "bad", 256 * MIB, 24 * MIB) as disk:
        place, _ = served(site, LONG, MIB, cache=disk / "cache")  # blocks that are written past the page cache
        mounted, job = mount_in_foreground(site, place.cache, "cache_max=200M")
        read_all(place, mounted, 4)
        drop_pages()
        read_all(place, mounted, 4)
        assert job.output.count(WARNING) >= 1, job.output
        assert job.running
        mounted.umount()
        job.expect_success(DEADLINE)


def test_a_directory_that_nobody_can_write(make_site: SiteMaker) -> None:
    site = make_site(1)
    place, _ = served(site, 8 * MIB, BLOCK, cache=site.directory / "no-directory")
    place.cache.write_bytes(b"a file")
    mounted, job = mount_in_foreground(site, place.cache)
    read_all(place, mounted)
    assert job.output.count(WARNING) == 1, job.output


# --- commands --------------------------------------------------------------------------------------------------------


def mcfs(host: Host, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    return host.run([*MCFS, *words], check=check, timeout=DEADLINE)


def test_fetch_brings_files_into_the_cache(make_site: SiteMaker) -> None:
    site = make_site(1)
    place, serving = served(site, 24 * MIB, BLOCK)
    more = place.file.parent / "directory"
    more.mkdir()
    for number in range(30):
        (more / f"small {number}").write_bytes(b"%d" % number * 1000)
    trials.publish_again(place, serving)
    mounted = place.mount()
    done = mcfs(mounted.host, "fetch", mounted.path / "file", mounted.path / "directory")
    assert done.stdout.startswith("31 files, 25M read\n"), done.stdout
    assert os.getxattr(mounted.path / "file", "user.mcfs.cached") == b"%d" % (24 * MIB)
    done = mcfs(mounted.host, "fetch", site.directory, check=False)
    assert (done.returncode, done.stderr) == (1, f"mcfs: {site.directory} is not on a mount of mcfs\n")
    done = mcfs(mounted.host, "fetch", mounted.path / "absent", check=False)
    assert done.returncode == 1


def test_fetch_says_what_the_cache_has_no_room_for(make_site: SiteMaker) -> None:
    site = make_site(1)
    place, _ = served(site, 24 * MIB, BLOCK)
    mounted = place.mount(cache_max="8M")
    done = mcfs(mounted.host, "fetch", mounted.path)
    assert "are not in the cache: cache_max is too small" in done.stdout


def test_a_pin_is_fetched_and_spared_and_outlives_the_mount(make_site: SiteMaker) -> None:
    site = make_site(1)
    place, serving = served(site, LONG, BLOCK)
    pinned = place.file.parent / "pinned"
    pinned.mkdir()
    random_file(pinned / "large", 4 * MIB, seed=7)
    (pinned / "small").write_bytes(b"small")
    trials.publish_again(place, serving)
    mounted = place.mount(cache_max="12M", cache_min_free="1M")
    mcfs(mounted.host, "pin", mounted.path / "pinned")
    large = mounted.path / "pinned" / "large"
    assert os.getxattr(large, "user.mcfs.cached") == b"%d" % (4 * MIB)
    read_all(place, mounted)
    assert os.getxattr(large, "user.mcfs.cached") == b"%d" % (4 * MIB)
    listed = mcfs(mounted.host, "cache", "ls", "--cache-dir", place.cache).stdout
    assert "pinned  data/pinned  4.1M of 4.1M in 2 files" in listed, listed
    assert "used by process" in listed
    # Too much.
    done = mcfs(mounted.host, "pin", mounted.path / "file", check=False)
    assert done.returncode == 1
    assert "is not pinned" in done.stderr
    assert "cache_max" in done.stderr
    mounted.umount()
    wait_until(lambda: user_of(place.cache) is None, DEADLINE, "the mount has ended")
    mounted = place.mount(cache_max="12M", cache_min_free="1M")
    read_all(place, mounted)
    large = mounted.path / "pinned" / "large"
    assert os.getxattr(large, "user.mcfs.cached") == b"%d" % (4 * MIB)
    mcfs(mounted.host, "unpin", mounted.path / "pinned")
    done = mcfs(mounted.host, "unpin", mounted.path / "pinned", check=False)
    assert (done.returncode, done.stderr) == (1, f"mcfs: {mounted.path}/pinned is not pinned\n")
    wait_until(lambda: not list((place.cache / "pins").iterdir()), DEADLINE, "the mount lets go of it")
    drop_pages()
    read_all(place, mounted)
    assert int(os.getxattr(large, "user.mcfs.cached")) < 4 * MIB


def test_who_waits_for_a_pin_hears_that_its_mount_has_ended(make_site: SiteMaker) -> None:
    site = make_site(1)
    place, serving = served(site, 4 * MIB, BLOCK)
    mounted = place.mount()
    os.listdir(mounted.path)
    serving.kill()
    waiting = site.start(mounted.host, [*MCFS, "pin", mounted.path])
    wait_until(lambda: (place.cache / "pins").exists(), DEADLINE, "the pin")
    assert waiting.running
    mounted.umount()
    assert waiting.finish(DEADLINE) == 1
    assert "its mount has ended" in waiting.output


def test_a_pin_follows_new_versions(make_site: SiteMaker) -> None:
    site = make_site(1)
    place, serving = served(site, 4 * MIB, BLOCK)
    mounted = place.mount()
    mcfs(mounted.host, "pin", mounted.path)
    trials.change_blocks(place.file, BLOCK, 0.5)
    trials.publish_again(place, serving)

    def has_new_one() -> bool:
        path = mounted.path / "file"
        new = os.getxattr(path, "user.mcfs.version") != version
        return new and os.getxattr(path, "user.mcfs.cached") == b"%d" % (4 * MIB)

    version = os.getxattr(mounted.path / "file", "user.mcfs.version")
    wait_until(has_new_one, DEADLINE, "the new version is in the cache, and nobody has read it")


def test_cache_commands_beside_a_mount(make_site: SiteMaker) -> None:
    site = make_site(1)
    place, _ = served(site, 4 * MIB, BLOCK)
    mounted = place.mount()
    mcfs(mounted.host, "fetch", mounted.path)
    done = mcfs(mounted.host, "cache", "verify", "--cache-dir", place.cache)
    assert "are right" in done.stdout
    done = mcfs(mounted.host, "cache", "clear", "--cache-dir", place.cache, check=False)
    assert done.returncode == 1
    assert "which alone can change it" in done.stderr
    mounted.umount()
    wait_until(lambda: user_of(place.cache) is None, DEADLINE, "the mount has ended")
    mcfs(mounted.host, "cache", "clear", "--cache-dir", place.cache)
    assert trials.disk_usage(place.cache) < 3 * MIB
