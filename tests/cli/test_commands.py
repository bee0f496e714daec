"""Command lines: exit codes and the one line of error, as a shell sees them."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mcfs.cli.main import with_command
from mcfs.cli.mount_helper import source

if TYPE_CHECKING:
    from pathlib import Path


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("", 2, "Usage: mcfs"),
        ("--bogus", 2, "No such option '--bogus'"),
        ("bogus", 2, "No such command 'bogus'"),
        ("bogus -o x", 2, "No such command 'bogus'"),
        ("mount", 2, "Missing argument"),
        ("mount a /tmp c", 2, "extra argument (c)"),
        ("mount --bogus /tmp", 2, "No such option '--bogus'"),
        ("mount -o ro,bogus=1 /tmp", 2, "unknown mount option 'bogus=1'"),
        ("mount --timeout soon /tmp", 2, "'soon' is not a number of seconds"),
        ("mount a/b /tmp", 2, "cannot be the name of a share"),
        ("mount -i no-such-if0 /tmp", 2, "there is no network interface 'no-such-if0'; there are: lo"),
        ("share /tmp -o ro,bogus", 2, "unknown mount option 'bogus'"),
        ("umount", 2, "Missing argument"),
        ("umount /nowhere", 1, "/nowhere is not mounted"),
        ("umount /proc", 1, "/proc is not an mcfs mount, its type is proc"),
        ("ls --port 0", 2, "'0' is not a whole number from 1 to 65535"),
        ("ls a b", 2, "extra argument"),
        ("demo /nowhere", 2, "does not exist"),
        ("demo --rate fast", 2, "'fast' is not a number like"),
    ],
)
def test_mcfs_refuses(line: str, code: int, said: str) -> None:
    done = run("mcfs.cli.main", *line.split())
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["mcfs.cli.main", "mcfs.cli.serve"])
def test_version_and_help(module: str) -> None:
    version, usage = run(module, "--version"), run(module, "-h")
    assert (version.returncode, version.stdout.split()[0]) == (0, "mcfs-serve" if "serve" in module else "mcfs")
    assert (usage.returncode, usage.stdout[:6]) == (0, "Usage:")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "Missing argument 'PATH...'"),
        ("--bogus {a}", "No such option '--bogus'"),
        ("{a} /nowhere", "'/nowhere' does not exist"),
        ("{a} {b}/../a {b}/a", "would both be the share 'a'"),
        ("--name x {a} {b}", "--name is for a single PATH"),
        ("--name a/b {a}", "cannot be the name of a share"),
        ("--name .. {a}", "cannot be the name of a share"),
        ("--rate 5 {a}", "less than 1K"),
        ("--block-size 100K {a}", "not a power of two"),
        ("--scope 2 {a}", "not a scope"),
        ("--hops 0 {a}", "not a whole number from 1 to 255"),
        ("--querier maybe {a}", "'maybe' is not one of 'auto', 'on', 'off'"),
        ("--query-interval 4 {a}", "not a whole number from 5 to 600"),
        ("--mtu 576 {a}", "not a whole number from 1280"),
        ("--listeners most {a}", "'most' is not one of 'exact', 'bloom'"),
        ("--listeners bloom --listeners-size 5 {a}", "not in the range 1024<=x<=10000000"),
        ("--listeners-size 5000 {a}", "--listeners-size is for --listeners bloom"),
        ("-v -q {a}", "exclude each other"),
        ("/", "no last component"),
    ],
)
def test_mcfs_serve_refuses(line: str, said: str, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    (b / "a").mkdir(parents=True)
    done = run("mcfs.cli.serve", *line.format(a=a, b=b).split())
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_without_a_command_it_is_a_mount() -> None:
    assert with_command(["data", "/mnt", "-o", "rw,dev,suid"]) == ["mount", "data", "/mnt", "-o", "rw,dev,suid"]
    assert with_command(["none", "/mnt", "-o", "rw"]) == ["mount", "/mnt", "-o", "rw"]
    assert with_command(["mcfs", "/mnt"]) == ["mount", "/mnt"]
    assert with_command(["/tmp", "-o", "rw"]) == ["mount", "/tmp", "-o", "rw"]
    assert with_command(["/tmp"]) == ["mount", "/tmp"]


@pytest.mark.parametrize("line", ["", "ls data", "mount data /mnt", "--version", "-h", "bogus", "bogus -f"])
def test_otherwise_the_line_stays(line: str) -> None:
    assert with_command(line.split()) == line.split()


def test_the_first_field_of_fstab() -> None:
    assert (source("none"), source("mcfs"), source("data")) == (None, None, b"data")


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("", 2, "Missing argument 'SHARE'"),
        ("data", 2, "Missing argument 'DIRECTORY'"),
        ("data /tmp -o bogus", 2, "unknown mount option 'bogus'"),
        ("data /tmp -z", 2, "No such option '-z'"),
        ("a/b /tmp", 2, "cannot be the name of a share"),
        ("data /tmp -N /nowhere", 1, "/nowhere: No such file or directory"),
    ],
)
def test_mount_helper_refuses(line: str, code: int, said: str) -> None:
    done = run("tests.cli.with_fake_client", "mount.mcfs", *line.split())
    assert done.returncode == code
    assert said in done.stderr
