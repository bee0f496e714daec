"""Making and ending real mounts."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mcfs.fuse import kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

from tests.fuse.mounting import NOBODY, Mounted, describe, is_mounted, mounted, run, running, started

pytestmark = [
    pytest.mark.netlab,
    pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/fuse").exists(), reason="needs root and /dev/fuse"),
]

# --- unmounting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["umount"], ["fusermount3", "-u"]])
def test_unmounting_ends_the_process(mount: Mounted, command: list[str]) -> None:
    os.listdir(mount.path)
    assert run(*command, mount.path).returncode == 0
    assert (mount.wait(), mount.stderr()) == (0, "")
    assert not is_mounted(mount.path)


def test_cancellation_unmounts_even_while_a_file_is_open(mount: Mounted) -> None:
    file = os.open(mount.path / "odd/file 1", os.O_RDONLY)
    mount.process.terminate()
    try:
        assert (mount.wait(), mount.stderr()) == (0, "")
        assert not is_mounted(mount.path)
    finally:
        with pytest.raises(OSError, match="not connected"):
            os.close(file)


def test_a_killed_process_shows_not_connected_and_can_be_unmounted(mount: Mounted, tmp_path: Path) -> None:
    mount.process.kill()
    mount.wait()
    with pytest.raises(OSError, match="Transport endpoint is not connected") as caught:
        os.listdir(mount.path)
    assert caught.value.errno == errno.ENOTCONN
    with started(tmp_path, None, "mnt", {}) as second:
        assert second.wait() == 5
        assert "unmount it first" in second.stderr()
        assert run("umount", mount.path).returncode == 0
    assert not is_mounted(mount.path)


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[Path]:
    """The kernel's FUSE connections: a mount of our own, as not every machine has one."""
    directory = tmp_path / "connections"
    directory.mkdir()
    subprocess.run(["mount", "-t", "fusectl", "fusectl", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


def test_an_aborted_connection_leaves_no_mount(mount: Mounted, connections: Path) -> None:
    connection = connections / str(os.minor(mount.path.stat().st_dev))
    (connection / "abort").write_text("1")
    assert (mount.wait(), mount.stderr()) == (0, "")
    assert not is_mounted(mount.path)


def test_a_read_that_hangs_does_not_hold_up_the_end(tmp_path: Path, source: Path) -> None:
    for end in (["umount", "-f"], ["umount", "-l"]):
        with mounted(tmp_path, source, share="s", job={"hang": True}) as mount:
            with running([["cat", mount.path / "odd/file 1"]]):
                time.sleep(0.3)
                run(*end, mount.path)
            assert (mount.wait(5), mount.stderr()) == (0, "")
            assert not is_mounted(mount.path)


def test_a_reader_that_is_killed_makes_no_noise(tmp_path: Path, source: Path) -> None:
    with mounted(tmp_path, source, share="s", job={"hang": True}) as mount:
        with running([["cat", mount.path / "odd/file 1"]] * 5) as readers:
            time.sleep(0.3)
            assert [reader.poll() for reader in readers] == [None] * 5
        assert os.listdir(mount.path)
        mount.process.terminate()
        assert (mount.wait(), mount.stderr()) == (0, "")


def test_hanging_readers_do_not_hold_up_others(tmp_path: Path, source: Path) -> None:
    with mounted(tmp_path, source, share="s", symlinks="keep", job={"hang": True}) as mount:
        files = [path for path in mount.path.rglob("*") if path.is_file() and path.stat().st_size]
        with running([["cat", path] for path in files * 9]) as readers:
            time.sleep(0.5)
            assert len(readers) > 100
            start = time.monotonic()
            os.listdir(mount.path / "even")
            assert time.monotonic() - start < 1
            # The kernel lets a reader die only when its request is answered, and this client never does.
            mount.process.terminate()
            mount.wait()


# --- mounting --------------------------------------------------------------------------------------------------------


def test_two_processes_mount_at_the_same_time(tmp_path: Path, source: Path) -> None:
    with (
        mounted(tmp_path, source, name="one", share="s", symlinks="keep") as one,
        mounted(tmp_path, source, name="two", symlinks="keep") as two,
    ):
        assert describe(one.path) == describe(two.path / "s") == describe(source)
        run("umount", one.path)
        assert one.wait() == 0
        assert describe(two.path / "s") == describe(source)


def test_mount_options(tmp_path: Path, source: Path) -> None:
    kernel_options = ["noexec", "noatime"]
    with mounted(tmp_path, source, share="s", kernel_options=kernel_options, allow_other=True) as mount:
        line = next(line for line in Path("/proc/mounts").read_text().splitlines() if str(mount.path) in line)
        name, _, kind, options = line.split()[:4]
        assert (name, kind) == ("s", "fuse.mcfs")
        assert {"ro", "nosuid", "nodev", "noexec", "noatime", "allow_other", "default_permissions"} <= set(
            options.split(",")
        )


def test_a_share_with_an_odd_name(tmp_path: Path) -> None:
    with mounted(tmp_path, share="a,b \\ é%", timeout=0.1) as mount:
        with pytest.raises(OSError, match="timed out"):
            os.listdir(mount.path)
        assert "a%2Cb%20%5C%20%C3%A9%25 " in Path("/proc/mounts").read_text()


@pytest.mark.parametrize("allow_other", [False, True])
def test_other_users(source: Path, allow_other: bool) -> None:
    for path, mode in ((source / "open", 0o644), (source / "secret", 0o600)):
        path.write_text("text")
        path.chmod(mode)
    # pytest's own directories are closed to others.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with mounted(Path(name), source, share="s", allow_other=allow_other) as mount:
            assert (mount.path / "secret").read_text() == "text"
            results = [_readable_by_nobody(mount.path / name) for name in ("open", "secret")]
            assert results == [allow_other, False]


def _readable_by_nobody(path: Path) -> bool:
    done = subprocess.run(["cat", path], user=NOBODY, group=NOBODY, capture_output=True, check=False)
    return done.returncode == 0


def test_a_second_mount_on_the_same_directory_is_refused(mount: Mounted) -> None:
    done = run(sys.executable, "-m", "tests.fuse.serve_fake", mount.path, "{}")
    assert (done.returncode, done.stderr) == (5, f"mcfs: {mount.path}: already mounted\n")
    assert describe(mount.path) == describe(mount.source)


def test_the_kernel_is_tuned(mount: Mounted) -> None:
    device = mount.path.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    assert Path(f"/sys/class/bdi/{name}/read_ahead_kb").read_text() == "4096\n"
    connection = Path("/sys/fs/fuse/connections") / str(os.minor(device))
    if connection.exists():
        assert (connection / "max_background").read_text() == f"{kernel.MAX_BACKGROUND}\n"


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: (path.rmdir(), path.write_text("")), "mnt: not a directory"),
        (lambda path: path.rmdir(), "mnt: No such file or directory"),
    ],
)
def test_a_mount_that_cannot_be(tmp_path: Path, prepare: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "mnt"
    path.mkdir()
    prepare(path)
    done = run(sys.executable, "-m", "tests.fuse.serve_fake", path, "{}")
    assert done.returncode == 5
    assert done.stderr == f"mcfs: {tmp_path}/{message}\n"


def test_what_libfuse_says_becomes_the_message(tmp_path: Path) -> None:
    options = json.dumps({"kernel_options": ["nonsense"]})
    done = run(sys.executable, "-m", "tests.fuse.serve_fake", tmp_path, options)
    assert done.returncode == 5
    assert re.fullmatch(rf"mcfs: cannot mount on {tmp_path}: .*nonsense.*\n", done.stderr)
