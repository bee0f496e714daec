"""The mount commands over the kernel's FUSE, with a client that has no network."""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mcfs
from mcfs.cli import mounts
from tests.cli.with_fake_client import CONTENT

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_CI = os.environ.get("CI") == "true"
"""There a test that cannot run is a failure."""

pytestmark = [
    pytest.mark.netlab,
    pytest.mark.skipif(os.geteuid() != 0 and not IN_CI, reason="needs root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse") and not IN_CI, reason="needs /dev/fuse"),
]

PATIENCE = 15.0
ROOT = Path(mcfs.__file__).parents[1]
MCFS = [sys.executable, "-m", "tests.cli.with_fake_client", "mcfs"]
HELPER = [sys.executable, "-m", "tests.cli.with_fake_client", "mount.mcfs"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A mount point, with nothing mounted or running afterwards."""
    directory = tmp_path / "mount point"
    directory.mkdir()
    yield directory
    for pid in processes(directory):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while mounts.mounted_at(directory):
        mounts.unmount(directory, lazy=True)


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    places = {"CACHE_DIRECTORY": str(tmp_path / "cache"), "STATE_DIRECTORY": str(tmp_path / "state")}
    return {**os.environ, "PYTHONPATH": str(ROOT), **places, **more}


def run(place: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    variables = environment(place.parent, **more)
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE, env=variables)


def processes(place: Path) -> list[int]:
    """Those with the mount point in their command line."""
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()):
        with suppress(OSError):
            if os.fsencode(place) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def wait_until_gone(place: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while processes(place) or mounts.mounted_at(place):
        assert time.monotonic() < deadline, "still there"
        time.sleep(0.02)


def wait_until_mounted(place: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not (place / "file").exists():
        assert time.monotonic() < deadline, "not mounted"
        time.sleep(0.02)


@contextmanager
def in_foreground(place: Path, *arguments: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    command = [*MCFS, "mount", "data", str(place), "-f", *arguments]
    variables = environment(place.parent, **more)
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until_mounted(place)
            yield process
        finally:
            process.kill()


def options_of(place: Path) -> set[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    (line,) = [line for line in lines if line.split()[1] == str(place).replace(" ", "\\040")]
    return set(line.split()[3].split(","))


def test_from_mount_to_umount(place: Path) -> None:
    done = run(place, *MCFS, "mount", "data", str(place))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (place / "file").read_bytes() == CONTENT
    mounted = mounts.mounted_at(place)
    assert mounted is not None
    assert (mounted.type, mounted.source) == ("fuse.mcfs", "data")
    assert {"ro", "nosuid", "nodev"} <= options_of(place)
    assert run(place, *MCFS, "umount", str(place)).returncode == 0
    wait_until_gone(place)
    assert run(place, *MCFS, "umount", str(place)).returncode == 1


def test_all_shares(place: Path) -> None:
    assert run(place, *MCFS, "none", str(place), "-o", "rw,noexec,dev,suid,uid=12,gid=34").returncode == 0
    assert sorted(os.listdir(os.fsencode(place))) == [b"data", b"odd name\xff"]
    status = (place / "data" / "file").stat()
    assert (status.st_uid, status.st_gid) == (12, 34)
    assert {"ro", "nosuid", "nodev", "noexec"} <= options_of(place)


def test_a_busy_mount(place: Path) -> None:
    run(place, *MCFS, "mount", "data", str(place))
    with (place / "file").open("rb"):
        busy = run(place, *MCFS, "umount", str(place))
        assert busy.returncode == 1
        assert busy.stderr.count("\n") == 1
        assert "is in use" in busy.stderr
        assert run(place, *MCFS, "umount", "--lazy", str(place)).returncode == 0
        assert mounts.mounted_at(place) is None
    wait_until_gone(place)


def test_a_live_mount_stays_and_a_dead_one_is_replaced(place: Path) -> None:
    assert run(place, *MCFS, "mount", "data", str(place)).returncode == 0
    again = run(place, *MCFS, "mount", "data", str(place))
    assert (again.returncode, again.stderr) == (5, f"mcfs: {place} is already a mount of mcfs, of 'data'\n")
    for pid in processes(place):
        os.kill(pid, signal.SIGKILL)
    # What holds the device may take a moment to die.
    time.sleep(0.3)
    third = run(place, *MCFS, "mount", "data", str(place))
    assert third.returncode == 0, third.stderr
    assert (place / "file").read_bytes() == CONTENT


def make_dead_mount(place: Path, type_: str, user: int) -> None:
    """As a FUSE daemon leaves it that is killed."""
    device = os.open("/dev/fuse", os.O_RDWR)
    try:
        options = f"fd={device},rootmode=40000,user_id={user},group_id=0,allow_other"
        libc = ctypes.CDLL(None, use_errno=True)
        code = libc.mount(b"data", os.fsencode(place), type_.encode(), 0, options.encode())
        assert code == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(device)
    assert mounts.is_dead(place)


def test_dead_mounts_on_top_of_each_other_are_replaced(place: Path) -> None:
    for _ in range(3):
        make_dead_mount(place, "fuse.mcfs", os.geteuid())
    done = run(place, *MCFS, "mount", "data", str(place))
    assert (done.returncode, done.stderr.count("unmounted what a dead mcfs had left behind")) == (0, 3)
    assert (place / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("type_", "user", "code", "message"),
    [
        ("fuse.sshfs", 0, 5, "a mount of fuse.sshfs: Transport endpoint is not connected"),
        ("fuse", 0, 5, "a mount of fuse: Transport endpoint is not connected"),
        ("fuse.mcfs", 1234, 3, "a dead mcfs of another user is there (uid 1234)"),
    ],
)
def test_what_others_have_mounted_stays(place: Path, type_: str, user: int, code: int, message: str) -> None:
    make_dead_mount(place, type_, user)
    before = mounts.mounted_at(place)
    done = run(place, *MCFS, "mount", "data", str(place))
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert message in done.stderr
    assert mounts.mounted_at(place) == before


def test_a_live_mount_over_a_dead_one_stays(place: Path) -> None:
    make_dead_mount(place, "fuse.mcfs", os.geteuid())
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    assert run(place, *MCFS, "mount", "data", str(place)).returncode == 0
    assert (place / "file").read_bytes() == CONTENT
    assert run(place, *MCFS, "umount", str(place)).returncode == 0
    found = mounts.mounted_at(place)
    assert found is not None
    assert found.type == "tmpfs"


def test_a_share_that_is_not_heard(place: Path) -> None:
    start = time.monotonic()
    done = run(place, *MCFS, "mount", "absent", str(place), "-o", "timeout=0.5")
    assert done.returncode == 4
    assert done.stderr.startswith("mcfs: share 'absent' was not heard on ")
    assert done.stderr.endswith(" within 0.5 s: is mcfs-serve running, and does the network pass IPv6 multicast?\n")
    assert time.monotonic() - start < 5
    wait_until_gone(place)


def test_a_bug_in_the_child(place: Path) -> None:
    done = run(place, *MCFS, "mount", "data", str(place), MCFS_FAKE="crash")
    assert (done.returncode, done.stderr) == (70, "mcfs: internal error: RuntimeError: a bug with two lines\n")
    debug = run(place, *MCFS, "mount", "-d", "data", str(place), MCFS_FAKE="crash")
    assert debug.returncode == 70
    assert "Traceback" in debug.stderr


def test_where_nothing_can_be_mounted(place: Path) -> None:
    (place / "file").touch()
    for path, line in (
        (place / "file", f"mcfs: mount point {place}/file is not a directory\n"),
        (place / "none", f"mcfs: mount point {place}/none does not exist\n"),
    ):
        done = run(place, *MCFS, "mount", "data", str(path))
        assert (done.returncode, done.stderr) == (5, line)


def test_the_child_ends_with_the_parent(place: Path) -> None:
    command = [*MCFS, "mount", "absent", str(place)]
    with subprocess.Popen(command, env=environment(place.parent)) as parent:
        deadline = time.monotonic() + PATIENCE
        while len(processes(place)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.5)
        parent.kill()
    wait_until_gone(place)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts(place: Path, number: signal.Signals) -> None:
    with in_foreground(place) as process:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        file = os.open(place / "file", os.O_RDONLY)
        assert os.read(file, 100) == CONTENT
        start = time.monotonic()
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
        assert time.monotonic() - start < 2
        assert mounts.mounted_at(place) is None
        with suppress(OSError):  # nobody is there who could be told
            os.close(file)


def test_a_signal_unmounts_in_the_background(place: Path) -> None:
    run(place, *MCFS, "mount", "data", str(place))
    (pid,) = processes(place)
    os.kill(pid, signal.SIGTERM)
    wait_until_gone(place)


def test_a_process_that_does_not_end_is_ended(place: Path) -> None:
    with in_foreground(place, MCFS_FAKE="deaf") as process:
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert time.monotonic() - start < 4
        assert mounts.mounted_at(place) is None


def test_in_the_foreground_it_ends_when_unmounted(place: Path) -> None:
    with in_foreground(place) as process:
        assert run(place, *MCFS, "umount", str(place)).returncode == 0
        assert process.wait(PATIENCE) == 0


def test_another_user_without_allow_other(place: Path) -> None:
    for parent in (place, *place.parents):
        parent.chmod(parent.stat().st_mode | 0o755) if parent.stat().st_uid == 0 else None
    run(place, *MCFS, "mount", "data", str(place))
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", str(place / "file")]
    assert run(place, *nobody).returncode == 1
    run(place, *MCFS, "umount", str(place))
    run(place, *MCFS, "mount", "data", str(place), "--allow-other")
    assert run(place, *nobody).stdout == CONTENT.decode()


# --- mount(8) --------------------------------------------------------------------------------------------------------


def test_the_helper_as_mount_calls_it(place: Path) -> None:
    checked = run(place, *HELPER, "data", str(place), "-f", "-v", "-o", "rw")
    assert (checked.returncode, checked.stdout) == (0, f"mount.mcfs: data could be mounted on {place}\n")
    assert mounts.mounted_at(place) is None
    arguments = ["-s", "-n", "-v", "-o", "rw,bogus,_netdev", "-t", "fuse.mcfs"]
    assert run(place, *HELPER, "data", str(place), *arguments).returncode == 0
    assert mounts.mounted_at(place) is not None


@pytest.fixture
def helpers(tmp_path: Path) -> Path:
    """A directory with mcfs and mount.mcfs that use the client without a network."""
    directory = tmp_path / "helpers"
    directory.mkdir()
    for name in ("mcfs", "mount.mcfs"):
        script = directory / name
        script.write_text(
            f"#!/bin/sh\nPYTHONPATH={ROOT} CACHE_DIRECTORY={tmp_path}/cache STATE_DIRECTORY={tmp_path}/state"
            f' exec {sys.executable} -m tests.cli.with_fake_client {name} "$@"\n'
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return directory


def script(helpers: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a mount namespace of its own where the helpers stand in /sbin, in an empty environment."""
    # mount(8) keeps nothing of PATH, so mount.fuse3 finds mcfs where the shell looks by default.
    folders = {Path(folder).resolve() for folder in ("/sbin", "/usr/local/sbin")}
    overlays = [f"mount -t overlay overlay -o lowerdir={helpers}:{folder} {folder}" for folder in folders]
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", "\n".join([*overlays, text])]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=60, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    )


@pytest.mark.parametrize("type_", ["mcfs", "fuse.mcfs"])
def test_a_line_of_fstab(place: Path, helpers: Path, type_: str) -> None:
    field = str(place).replace(" ", "\\040")
    options = "ro,_netdev,nofail,x-systemd.automount,allow_other,timeout=3"
    fstab = place.parent / "fstab"
    fstab.write_text(f"data {field} {type_} {options} 0 0\n")
    text = f"""
        mount -a -T {fstab}
        cat "{place}/file"
        mount -a -T {fstab}
        findmnt --noheadings --output FSTYPE,SOURCE --mountpoint "{place}"
        umount "{place}"
        ls -A "{place}"
    """
    done = script(helpers, text)
    assert (done.returncode, done.stdout) == (0, CONTENT.decode() + "fuse.mcfs data\n"), done.stderr
    wait_until_gone(place)


@pytest.mark.parametrize("type_", ["mcfs", "fuse.mcfs"])
def test_an_absent_share_in_fstab(place: Path, helpers: Path, type_: str) -> None:
    field = str(place).replace(" ", "\\040")
    fstab = place.parent / "fstab"
    fstab.write_text(f"absent {field} {type_} nofail,_netdev,timeout=1 0 0\n")
    start = time.monotonic()
    done = script(helpers, f"mount -a -T {fstab}")
    assert time.monotonic() - start < 5
    assert "was not heard on" in done.stderr
    wait_until_gone(place)


def test_the_exit_code_passes_through_mount(place: Path, helpers: Path) -> None:
    done = script(helpers, f'mount -t mcfs -o bogus data "{place}"')
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "mount.mcfs: unknown mount option 'bogus'")
    assert script(helpers, f'mount -s -t mcfs -o bogus data "{place}"; umount "{place}"').returncode == 0
    assert script(helpers, f'mount -f -t mcfs absent "{place}"').returncode == 0
