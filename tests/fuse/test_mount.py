"""Real mounts of a fake client, each in a process of its own."""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mcfs.fuse import kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

pytestmark = [
    pytest.mark.netlab,
    pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/fuse").exists(), reason="needs root and /dev/fuse"),
]

DEADLINE = 20.0
NOBODY = 65534


@dataclass
class Mounted:
    path: Path
    process: subprocess.Popen[str]
    errors: Path
    source: Path

    def wait(self, timeout: float = DEADLINE) -> int:
        """The exit code of the process."""
        return self.process.wait(timeout)

    def stderr(self) -> str:
        return self.errors.read_text()


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


@contextmanager
def mounted(tmp_path: Path, source: Path | None = None, *, name: str = "mnt", **options: object) -> Iterator[Mounted]:
    """A mount, ready. Whatever happens, none is left behind."""
    with _started(tmp_path, source, name, options) as mount:
        assert mount.process.stdout is not None
        readable, _, _ = select.select([mount.process.stdout], [], [], DEADLINE)
        assert readable, "not ready in time"
        assert mount.process.stdout.readline() == "ready\n", mount.stderr()
        yield mount


@contextmanager
def _started(tmp_path: Path, source: Path | None, name: str, options: dict[str, object]) -> Iterator[Mounted]:
    path, errors = tmp_path / name, tmp_path / f"{name}.stderr"
    path.mkdir(exist_ok=True)
    job: dict[str, object] = {"source": str(source)} if source else {}
    command = [sys.executable, "-m", "tests.fuse.serve_fake", str(path), json.dumps(_merge(options, job))]
    with errors.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        yield Mounted(path, process, errors, source or tmp_path)
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
        subprocess.run(["umount", "-l", path], check=False, capture_output=True)


def _merge(options: dict[str, object], job: dict[str, object]) -> dict[str, object]:
    given = options.get("job", {})
    assert isinstance(given, dict)
    return {**options, "job": job | given}


@pytest.fixture
def mount(tmp_path: Path, source: Path) -> Iterator[Mounted]:
    with mounted(tmp_path, source, share="s") as mount:
        yield mount


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def running(commands: Sequence[Sequence[str | Path]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes side by side; killed at the end."""
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for command in commands]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=DEADLINE)


def is_mounted(path: Path) -> bool:
    return any(line.split()[1] == str(path) for line in Path("/proc/mounts").read_text().splitlines())


def until(condition: Callable[[], bool], timeout: float = DEADLINE) -> float:
    """Seconds until a condition holds."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < timeout
        time.sleep(0.02)
    return time.monotonic() - start


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_copy_is_the_same(mount: Mounted, tmp_path: Path) -> None:
    for copy, command in (("r", ["cp", "-r"]), ("a", ["cp", "-a"])):
        done = run(*command, mount.path, tmp_path / copy)
        assert (done.returncode, done.stderr) == (0, "")
        assert run("diff", "-r", "--no-dereference", mount.source, tmp_path / copy).stdout == ""
    assert describe(tmp_path / "a") == describe(mount.source)
    assert mount.stderr() == ""


def test_modes_times_and_links_are_as_published(mount: Mounted) -> None:
    assert describe(mount.path) == describe(mount.source)


def describe(root: Path) -> dict[str, tuple[int, int, int, int, str]]:
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        size = status.st_size if path.is_file() else 0
        target = os.readlink(path) if path.is_symlink() else ""
        found[str(path.relative_to(root))] = (status.st_mode, status.st_mtime_ns, status.st_uid, size, target)
    return found


def test_random_reads_and_maps(mount: Mounted) -> None:
    numbers = random.Random(3)
    for path in (path for path in mount.source.rglob("*") if path.is_file() and path.stat().st_size):
        data = path.read_bytes()
        with (mount.path / path.relative_to(mount.source)).open("rb") as file:
            for _ in range(30):
                offset, length = numbers.randrange(len(data) + 10), numbers.randrange(200_000)
                assert os.pread(file.fileno(), length, offset) == data[offset : offset + length]
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                offset = numbers.randrange(len(data))
                assert mapped[offset : offset + 5000] == data[offset : offset + 5000]
                assert mapped[-1] == data[-1]


def test_readers_beside_each_other(mount: Mounted) -> None:
    with running([["diff", "-r", "--no-dereference", mount.source, mount.path]] * 8) as readers:
        assert [reader.wait(60) for reader in readers] == [0] * 8


def test_extended_attributes(mount: Mounted) -> None:
    file = mount.path / "odd/file 1"
    assert os.listxattr(file) == []
    assert re.fullmatch(rb"[0-9a-f]{64}", os.getxattr(file, "user.mcfs.b3sum"))
    assert os.getxattr(mount.path, "user.mcfs.version") == b"1"
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(file, "user.other")


def test_statfs(mount: Mounted) -> None:
    done = os.statvfs(mount.path)
    total = sum(path.stat().st_size for path in mount.source.rglob("*") if path.is_file() and not path.is_symlink())
    assert (done.f_blocks, done.f_bfree, done.f_namemax) == (-(-total // done.f_frsize), 0, 255)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "echo x > {0}/new",
        "echo x > '{0}/odd/file 1'",
        "echo x >> '{0}/odd/file 1'",
        "mkdir {0}/new",
        "rm '{0}/odd/file 1'",
        "rmdir {0}/empty",
        "mv '{0}/odd/file 1' {0}/new",
        "ln '{0}/odd/file 1' {0}/new",
        "ln -s x {0}/new",
        "chmod 777 '{0}/odd/file 1'",
        "chown 1 '{0}/odd/file 1'",
        "touch '{0}/odd/file 1'",
        "truncate -s 0 '{0}/odd/file 1'",
        "mkfifo {0}/new",
        """python3 -c "import os; os.setxattr('{0}/link', 'user.x', b'1')" """,
    ],
)
def test_a_change_is_refused(mount: Mounted, command: str) -> None:
    done = run("sh", "-c", command.format(mount.path))
    assert done.returncode != 0
    assert "Read-only file system" in done.stderr


# --- versions --------------------------------------------------------------------------------------------------------


def test_a_new_version_is_seen_within_three_seconds(mount: Mounted) -> None:
    old, shown = mount.source / "odd/file 1", mount.path / "odd/file 1"
    before = old.read_bytes()
    with shown.open("rb", buffering=0) as file:
        first = file.read(1)
        old.write_bytes(b"replaced")
        (mount.source / "odd/new").write_bytes(b"new")
        mount.process.send_signal(signal.SIGHUP)
        assert until(lambda: shown.read_bytes() == b"replaced", 3) < 3
        assert (mount.path / "odd/new").read_bytes() == b"new"
        assert first + file.readall() == before, "an open file keeps its version"
    assert "new" in os.listdir(mount.path / "odd")


def test_a_directory_that_is_gone_is_stale(mount: Mounted) -> None:
    directory = os.open(mount.path / "even/deep", os.O_RDONLY)
    try:
        run("rm", "-r", mount.source / "even")
        mount.process.send_signal(signal.SIGHUP)
        until(lambda: "even" not in os.listdir(mount.path))
        with pytest.raises(OSError, match="Stale file handle"):
            os.stat("file 1", dir_fd=directory)
        until(lambda: not (mount.path / "even/deep").exists(), 3)
    finally:
        os.close(directory)


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
    with _started(tmp_path, None, "mnt", {}) as second:
        assert second.wait() == 5
        assert "unmount it first" in second.stderr()
        assert run("umount", mount.path).returncode == 0
    assert not is_mounted(mount.path)


def test_an_aborted_connection_leaves_no_mount(mount: Mounted) -> None:
    connection = Path("/sys/fs/fuse/connections") / str(os.minor(mount.path.stat().st_dev))
    if not connection.exists():
        pytest.skip("no fusectl file system")
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
    with mounted(tmp_path, source, share="s", job={"hang": True}) as mount:
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
    with mounted(tmp_path, source, name="one", share="s") as one, mounted(tmp_path, source, name="two") as two:
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


# --- many ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("noxattr", [False, True])
def test_a_large_directory(tmp_path: Path, noxattr: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with mounted(tmp_path, share="many", noxattr=noxattr, job={"files": 100_000}) as mount:
        start = time.monotonic()
        lines = run("ls", "-lR", mount.path).stdout.splitlines()
        taken = time.monotonic() - start
        assert len(lines) == 100_000 + 2
        names = [line.rsplit(" ", 1)[1] for line in lines[2:]]
        assert names == [f"file{i:06}" for i in range(100_000)]
    with capsys.disabled():
        print(f"\nls -lR of 100,000 entries, noxattr={noxattr}: {taken:.1f} s")
