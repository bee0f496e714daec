"""fstab end to end: a server, a client that mounts by `mount -a`, types mcfs and fuse.mcfs."""

from __future__ import annotations

import shlex
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mcfs

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcfs.cli.lab import Host, Lab

ROOT = Path(mcfs.__file__).parents[1]
PATIENCE = 60.0
OPTIONS = "ro,_netdev,nofail,x-systemd.automount,allow_other,iface=eth0"
SBIN = tuple({Path(folder).resolve() for folder in ("/sbin", "/usr/local/sbin")})
"""Where mount(8) looks for mount.mcfs, and where the shell that mount.fuse3 starts looks first for mcfs."""


@pytest.fixture
def helpers(tmp_path: Path) -> Path:
    """A directory with the commands as script/setup installs them, of this very tree."""
    directory = tmp_path / "helpers"
    directory.mkdir()
    for name, module in (("mcfs", "main"), ("mount.mcfs", "mount_helper")):
        command = f"exec {shlex.quote(sys.executable)} -m mcfs.cli.{module}"
        (directory / name).write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} {command} "$@"\n')
        (directory / name).chmod(stat.S_IRWXU)
    return directory


def script(host: Host, helpers: Path, text: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell script on a host, in a mount namespace of its own where the helpers are installed."""
    overlays = [f"mount -t overlay overlay -o lowerdir={helpers}:{folder} {folder}" for folder in SBIN]
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", "\n".join([*overlays, text])]
    return subprocess.run(
        host.argv(argv), check=False, capture_output=True, timeout=PATIENCE, env={"PATH": "/usr/sbin:/usr/bin"}
    )


@pytest.mark.parametrize("type_", ["mcfs", "fuse.mcfs"])
def test_a_line_of_fstab(make_lab: Callable[..., Lab], helpers: Path, tmp_path: Path, type_: str) -> None:
    lab = make_lab(1)
    source, mountpoint, fstab = tmp_path / "data", tmp_path / "mnt", tmp_path / "fstab"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_bytes(b"over the network\n" * 10_000)
    mountpoint.mkdir()
    fstab.write_text(
        f"data {mountpoint} {type_} {OPTIONS},cache_dir={tmp_path}/cache,known_publishers={tmp_path}/known 0 0\n"
    )
    lab.server.popen(
        [sys.executable, "-m", "mcfs.cli.serve", "--state-dir", str(tmp_path / "state"), str(source)], cwd=ROOT
    )
    text = f"""
        mount -a -T {fstab}
        diff -r {source} {mountpoint}
        mount -a -T {fstab}
        findmnt --noheadings --output FSTYPE,SOURCE --mountpoint {mountpoint}
        umount {mountpoint}
        ls -A {mountpoint}
    """
    done = script(lab.clients[0], helpers, text)
    assert (done.returncode, done.stdout) == (0, b"fuse.mcfs data\n"), done.stderr


@pytest.mark.parametrize("type_", ["mcfs", "fuse.mcfs"])
def test_an_absent_share_holds_nothing_up(
    make_lab: Callable[..., Lab], helpers: Path, tmp_path: Path, type_: str
) -> None:
    lab = make_lab(1)
    fstab = tmp_path / "fstab"
    (tmp_path / "mnt").mkdir()
    fstab.write_text(f"absent {tmp_path}/mnt {type_} {OPTIONS},cache_dir={tmp_path}/cache,timeout=2 0 0\n")
    start = time.monotonic()
    done = script(lab.clients[0], helpers, f"mount -a -T {fstab}")
    assert 2 <= time.monotonic() - start < 6
    assert b"share 'absent' was not heard on eth0 within 2 s" in done.stderr
