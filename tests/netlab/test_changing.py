"""Shares that change while they are served, on real file systems and a real link."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from mcfs.cli.exits import Exit
from mcfs.cli.lab import INTERFACE
from tests.netlab.harness import (
    MIB,
    ROOT,
    SERVE,
    Mounted,
    Serving,
    Site,
    differences,
    library_tree,
    random_file,
    same_bytes,
    wait_until,
)
from tests.netlab.unprivileged import USER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.netlab.conftest import SiteMaker
    from tests.netlab.harness import Job

DEADLINE: Final = 60.0
CHAOS: Final = (sys.executable, "-m", "tests.netlab.chaos")
CHAOS_SECONDS: Final = 12

pytestmark = pytest.mark.netlab


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that other users can enter, unlike pytest's."""
    path = Path(tempfile.mkdtemp(prefix="mcfs-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def expect_same(source: Path, mounted: Mounted) -> None:
    """The mount shows what is there, sooner or later."""
    wait_until(lambda: _is_same(source, mounted), DEADLINE, "the mount shows what is there")


def _is_same(source: Path, mounted: Mounted) -> bool:
    try:
        return not differences(source, mounted.path)
    except OSError:  # of the version before, of which something is gone
        return False


def test_changes_are_seen(make_site: SiteMaker) -> None:
    site = make_site(1)
    source = library_tree(site.directory / "source")
    serving = site.serve(site.lab.server, source)
    mounted = site.mount(site.lab.clients[0], source.name, symlinks="keep")
    expect_same(source, mounted)
    (source / "added").mkdir()
    random_file(source / "added" / "large", 3 * MIB)
    (source / "added" / "small").write_text("small")
    expect_same(source, mounted)
    (source / "added" / "small").write_text("other")
    with (source / "added" / "large").open("ab") as file:
        file.write(b"more")
    expect_same(source, mounted)
    (source / "added").rename(source / "renamed")
    expect_same(source, mounted)
    shutil.rmtree(source / "renamed")
    expect_same(source, mounted)
    assert "internal error" not in serving.job.output
    serving.stop()


def test_looking_only_when_told(make_site: SiteMaker) -> None:
    site = make_site(1)
    source = site.new_directory("source")
    (source / "file").write_text("one")
    serving = site.serve(site.lab.server, source, options=["--no-watch"])
    mounted = site.mount(site.lab.clients[0], source.name)
    (source / "file").write_text("another")
    time.sleep(2.0)
    assert "changed" not in serving.job.output
    serving.job.process.send_signal(signal.SIGHUP)
    expect_same(source, mounted)
    serving.stop()


def test_a_link_to_the_newest_release(make_site: SiteMaker) -> None:
    """Who has a file of the release before open reads it to its end; who opens it anew gets the new one."""
    site = make_site(1)
    top = site.new_directory("releases")
    for release in ("one", "two"):
        (top / release / "data").mkdir(parents=True)
        random_file(top / release / "data" / "file", 24 * MIB, seed=len(os.listdir(top)))
    (top / "current").symlink_to("one")
    serving = site.serve(site.lab.server, top / "current" / "data")
    mounted = site.mount(site.lab.clients[0], "data", timeout=10)
    with (mounted.path / "file").open("rb", buffering=0) as file:
        pieces = [file.read(MIB)]
        (top / "new").symlink_to("two")
        (top / "new").rename(top / "current")
        expect_same(top / "two" / "data", mounted)
        while piece := file.read(MIB):
            pieces.append(piece)
    assert b"".join(pieces) == (top / "one" / "data" / "file").read_bytes()
    assert "can no longer be sent" not in serving.job.output
    serving.stop()


def test_a_file_that_is_being_written_holds_up_no_other(make_site: SiteMaker) -> None:
    site = make_site(1)
    source = site.new_directory("source")
    (source / "log").write_bytes(b"a" * MIB)
    serving = site.serve(site.lab.server, source)
    mounted = site.mount(site.lab.clients[0], source.name)
    writer = subprocess.Popen(["sh", "-c", "while sleep 0.1; do echo more; done >>$1", "sh", source / "log"])
    try:
        time.sleep(1.0)
        (source / "other").write_text("other")
        wait_until(lambda: (mounted.path / "other").exists(), DEADLINE, "the other file is there")
        assert (mounted.path / "log").read_bytes() == b"a" * MIB
    finally:
        writer.kill()
        writer.wait()
    expect_same(source, mounted)
    serving.stop()


# --- the state directory ---------------------------------------------------------------------------------------------


def test_two_servers_do_not_share_a_state_directory(make_site: SiteMaker) -> None:
    site = make_site(1)
    source = random_file(site.new_directory("source") / "file", 1000)
    serving = site.serve(site.lab.server, source.parent)
    second = site.start(
        site.lab.clients[0], [*SERVE, "-i", INTERFACE, "--state-dir", serving.state, "--name", "other", source.parent]
    )
    assert second.finish(DEADLINE) == Exit.IN_USE
    assert "in use by another mcfs-serve" in second.output
    assert second.output.count("\n") <= 3
    serving.stop()


@contextmanager
def mounted_at(path: Path, *words: str) -> Iterator[Path]:
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", *words, str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(directory: Path) -> None:
    """Leave no room, not even a byte."""
    with (directory / "ballast").open("wb", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def expect_to_go_on(site: Site, serving: Serving, source: Path, mounted: Mounted) -> None:
    """It sends what was there, and publishes what is new; and it has said once that it cannot write."""
    site.start(mounted.host, same_bytes(source / "first", mounted.path / "first")).expect_success(DEADLINE)
    for number in range(3):
        random_file(source / f"later{number}", 2 * MIB, seed=number)
        expect_same(source, mounted)
    assert serving.job.running
    assert serving.job.output.count("kept in memory") == 1, serving.job.output
    assert "internal error" not in serving.job.output


def test_a_state_directory_that_is_full(make_site: SiteMaker, tmp_path: Path) -> None:
    site = make_site(1)
    source = site.new_directory("source")
    random_file(source / "first", 8 * MIB)
    with mounted_at(tmp_path / "small", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs") as state:
        serving = site.serve(site.lab.server, source, state=state)
        mounted = site.mount(site.lab.clients[0], source.name)
        fill(state)
        # A thousand directories do not fit into what the database has room for.
        for number in range(1000):
            (source / f"d{number}").mkdir()
        expect_to_go_on(site, serving, source, mounted)
        shutil.rmtree(source / "d0")
        expect_same(source, mounted)
        serving.job.process.terminate()
        serving.job.expect_success(DEADLINE)


@contextmanager
def ext4_at(path: Path, image: Path) -> Iterator[Path]:
    """A file system of its own, in a file."""
    with image.open("wb") as file:
        file.truncate(32 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    with mounted_at(path, "-o", "loop,errors=remount-ro", str(image)):
        yield path


def shut_down(directory: Path) -> None:
    """Every access to the disk is EIO from now on: EXT4_IOC_SHUTDOWN without a flush (fs/ext4/ext4.h)."""
    import fcntl

    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, 0x8004587D, (2).to_bytes(4, sys.byteorder))
    finally:
        os.close(fd)


def remount_read_only(directory: Path) -> None:
    """As the kernel does when it finds an error, though files are open for writing."""
    device = os.stat(directory).st_dev
    name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
    Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("a test\n")


@pytest.mark.parametrize("fail", [shut_down, remount_read_only])
def test_a_state_directory_that_fails(make_site: SiteMaker, tmp_path: Path, fail: object) -> None:
    assert callable(fail)
    site = make_site(1)
    source = site.new_directory("source")
    random_file(source / "first", 8 * MIB)
    with ext4_at(tmp_path / "state", tmp_path / "image") as state:
        serving = site.serve(site.lab.server, source, state=state)
        mounted = site.mount(site.lab.clients[0], source.name)
        fail(state)
        expect_to_go_on(site, serving, source, mounted)
        serving.job.process.terminate()
        serving.job.expect_success(DEADLINE)


def test_a_start_on_a_disk_that_is_read_only(make_site: SiteMaker, tmp_path: Path) -> None:
    site = make_site(1)
    source = site.new_directory("source")
    random_file(source / "first", 8 * MIB)
    with ext4_at(tmp_path / "state", tmp_path / "image") as state:
        site.serve(site.lab.server, source, state=state).stop()
        subprocess.run(["mount", "-o", "remount,ro", str(state)], check=True)
        serving = site.serve(site.lab.server, source, state=state)
        mounted = site.mount(site.lab.clients[0], source.name)
        expect_to_go_on(site, serving, source, mounted)
        serving.job.process.terminate()
        serving.job.expect_success(DEADLINE)


# --- everything at once ----------------------------------------------------------------------------------------------


def test_nobody_gets_a_wrong_byte_whatever_is_done_to_the_files(make_site: SiteMaker, public: Path) -> None:
    """Truncated, rewritten, replaced, deleted, forbidden, appended to, renamed: while two clients read."""
    site = make_site(2)
    source = public / "data"
    source.mkdir()
    log = public / "log"
    log.touch()
    seeds = itertools.count(1)
    state = public / "state"

    changer = site.start(site.lab.switch, [*CHAOS, "change", source, log, str(CHAOS_SECONDS), str(next(seeds))])
    wait_until(lambda: "ready" in changer.output, DEADLINE, "there are files")
    serving = site.serve(site.lab.server, source, state=state, options=["--user", str(USER)])
    readers: list[Job] = []
    for host in site.lab.clients:
        mounted = site.mount(host, source.name, timeout=10)
        for _ in range(2):
            words = ("read", mounted.path, log, str(CHAOS_SECONDS), str(next(seeds)))
            readers.append(site.start(host, [*CHAOS, *words]))
    changer.expect_success(CHAOS_SECONDS + DEADLINE)
    for reader in readers:
        reader.expect_success(CHAOS_SECONDS + DEADLINE)
        assert json.loads(reader.output.splitlines()[-1]).get("right", 0) > 0, reader.output
    assert serving.job.running, serving.job.output
    assert "internal error" not in serving.job.output
    assert "Traceback" not in serving.job.output
    assert serving.job.output.count("can no longer be sent") <= 2
    assert serving.job.output.count(": changed: version ") >= 3, "it watches as the user that it has become"
    assert "looking for changes every" not in serving.job.output
    serving.stop()


# --- what cannot be watched ------------------------------------------------------------------------------------------

_FEW_WATCHES: Final = """
import logging, os, sys, time
from pathlib import Path
import trio
from mcfs.cli.serve_watch import Reindexing
from mcfs.serve.index import Index
from mcfs.serve.store import NodeStore

class Server:
    sent_at, sends_all = float("-inf"), False
    def publish(self, announcements, keys):
        print("published", announcements[b"s"].total_files, flush=True)
        os._exit(0)

logging.basicConfig()
share, state = map(Path, sys.argv[1:])
with Index.open(state) as index:
    shares = Reindexing([(share, b"s")], index, NodeStore(index), {}, watch=True)
    shares.index_first()
    (share / "d9" / "new").touch()
    trio.run(shares.run, Server())
"""


def test_more_directories_than_may_be_watched(tmp_path: Path) -> None:
    """In a user namespace, whose limit is its own; the whole path from the kernel's answer to the next version."""
    share = tmp_path / "share"
    for number in range(10):
        (share / f"d{number}").mkdir(parents=True)
    script = 'echo 5 >/proc/sys/user/max_inotify_watches && exec "$@"'
    words = [sys.executable, "-c", _FEW_WATCHES, str(share), str(tmp_path / "state")]
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", *words],
        capture_output=True, text=True, timeout=DEADLINE, check=False, cwd=ROOT,
    )  # fmt: skip
    assert "published 1" in done.stdout, done.stderr
    assert done.stderr.count("looking for changes every 10 s: there are more directories than") == 1
