"""A real mount, read and changed by real programs."""

from __future__ import annotations

import mmap
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.fuse.mounting import Mounted, describe, mounted, run, running, until

pytestmark = [
    pytest.mark.netlab,
    pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/fuse").exists(), reason="needs root and /dev/fuse"),
]

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


@pytest.mark.parametrize("share", ["s", None])
def test_a_new_version_is_seen_although_the_kernel_may_remember_names(
    tmp_path: Path, source: Path, share: str | None
) -> None:
    with mounted(tmp_path, source, share=share, entry_timeout=300.0, attr_timeout=300.0) as mount:
        root = mount.path if share else mount.path / "s"
        shown, link = root / "odd/file 1", root / "link"
        before, mapped = shown.read_bytes(), map_of(shown)
        assert [os.readlink(link), os.path.exists(root / "new")] == ["odd/file 1", False]
        (root / "even/file 0").stat(), (root / "even/deep").stat()
        shutil.rmtree(source / "even")
        (source / "odd/file 1").unlink()
        (source / "odd/file 1").write_bytes(b"replaced")
        (source / "odd").chmod(0o700)
        (source / "link").unlink()
        (source / "link").symlink_to("odd")
        (source / "new").write_bytes(b"new")
        with shown.open("rb", buffering=0) as file:
            mount.process.send_signal(signal.SIGHUP)
            assert until(lambda: shown.read_bytes() == b"replaced", 3) < 3
            assert (shown.stat().st_size, os.fstat(file.fileno()).st_size) == (8, len(before))
            assert file.readall() == mapped[:] == before, "an open file keeps its version"
        assert os.readlink(link) == "odd"
        assert (root / "odd").stat().st_mode & 0o777 == 0o700
        assert not (root / "even/file 0").exists()
        assert not (root / "even").exists()
        assert until((root / "new").exists, 3) < 3
        mapped.close()


def map_of(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


def test_a_mount_on_a_directory_and_a_process_in_it_stay(mount: Mounted) -> None:
    """Of a directory in which nothing but content changes nothing is taken away."""
    directory = mount.path / "odd"
    before = os.getcwd()
    os.chdir(directory)
    assert run("mount", "-t", "tmpfs", "tmpfs", mount.path / "empty").returncode == 0
    try:
        (mount.source / "odd/file 1").write_bytes(b"replaced")
        mount.process.send_signal(signal.SIGHUP)
        assert until(lambda: Path("file 1").read_bytes() == b"replaced", 3) < 3
        assert os.getcwd() == str(directory)
        assert os.path.ismount(mount.path / "empty")
    finally:
        os.chdir(before)
        run("umount", mount.path / "empty")


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
