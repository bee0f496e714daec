"""What is mounted in this namespace, and how it is unmounted."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mcfs.cli.exits import Exit
from mcfs.protocol.errors import UserError

MOUNT_TYPE: Final = "fuse.mcfs"
_MNT_DETACH: Final = 2  # umount(2)
_FUSERMOUNT_TIMEOUT: Final = 10.0
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs are looked for when there is no PATH, as in a mount unit."""


@dataclass(frozen=True, slots=True)
class Mounted:
    mountpoint: Path
    type: str
    source: str
    user: int | None = None
    """Whose mount it is, where the table says that, as it does of FUSE."""
    number: int = 0
    """The mount's number; another mount at the same place has another one."""


def mounted_at(mountpoint: Path) -> Mounted | None:
    """The uppermost mount at exactly this path; None if it is no mount point. Asks nothing of the mount itself."""
    table = Path("/proc/self/mountinfo").read_bytes()
    found = [mount for mount in map(_parse, table.splitlines()) if mount.mountpoint == mountpoint]
    return found[-1] if found else None


def of_device(device: int) -> Mounted | None:
    """A mount of the file system that has a device number (st_dev); None if it is not mounted here."""
    number = f"{os.major(device)}:{os.minor(device)}".encode()
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        if line.split(b" ", 3)[2] == number:
            return _parse(line)
    return None


def _parse(line: bytes) -> Mounted:
    """proc(5): the mount point is the fifth field; type, source and the file system's options follow a dash after
    optional fields."""
    before, _, after = line.partition(b" - ")
    type_, source, options = (*after.split(b" "), b"")[:3]
    fields = before.split(b" ")
    return Mounted(Path(_text(fields[4])), _text(type_), _text(source), _user(options), int(fields[0]))


def _user(options: bytes) -> int | None:
    found = re.search(rb"(?:^|,)user_id=([0-9]+)(?:,|$)", options)
    return int(found[1]) if found else None


def _text(field: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field))


def resolve(mountpoint: Path) -> Path:
    """The path as the mount table has it: absolute, links followed, but the mount point itself not looked at.

    The mount there may be dead or slow, and any look at it would fail or wait.
    """
    return Path(os.path.realpath(mountpoint.parent)) / mountpoint.name if mountpoint.name else mountpoint


def has_ended(mounted: Mounted) -> bool:
    """Whether a mount was unmounted, or the process behind it has gone."""
    table = Path("/proc/self/mountinfo").read_bytes()
    return not any(_parse(line) == mounted for line in table.splitlines()) or is_dead(mounted.mountpoint)


def is_dead(mountpoint: Path) -> bool:
    """Whether the process behind a FUSE mount has gone."""
    try:
        os.statvfs(mountpoint)  # not stat: the kernel may still remember the answer
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def remove_dead(mountpoint: Path, user: int) -> bool:
    """Unmount what a daemon of mcfs that is no more has left at a path, if it was this user's. Returns whether there
    was such a mount. Raises UserError if it is another user's, or cannot be unmounted."""
    dead = mounted_at(mountpoint)
    if dead is None or dead.type != MOUNT_TYPE or not is_dead(mountpoint):
        return False
    if dead.user != user:
        raise UserError(f"{mountpoint}: a dead mcfs of another user is there (uid {dead.user})", Exit.PRIVILEGE)
    if mounted_at(mountpoint) == dead:  # and nothing was mounted over it while it was looked at
        unmount(mountpoint, lazy=True)
    return True


def unmount(mountpoint: Path, *, lazy: bool = False) -> None:
    """Unmount, by umount(2) where permitted, else by fusermount3. Raises UserError."""
    code = _umount2(mountpoint, _MNT_DETACH if lazy else 0)
    if code == errno.EPERM:
        _fusermount(mountpoint, lazy=lazy)
    elif code == errno.EBUSY:
        raise UserError(f"{mountpoint} is in use: close what uses it (fuser -vm {mountpoint}), or unmount with --lazy")
    elif code:
        raise UserError(f"cannot unmount {mountpoint}: {os.strerror(code)}")


def _umount2(mountpoint: Path, flags: int) -> int:
    """0, or the errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    return ctypes.get_errno() if libc.umount2(os.fsencode(mountpoint), flags) else 0


def _fusermount(mountpoint: Path, *, lazy: bool) -> None:
    program = find_program("fusermount3")
    if program is None:
        raise UserError("fusermount3 is not installed (package fuse3)", Exit.PRIVILEGE)
    command = [program, "-u", *(["-z"] if lazy else []), "--", str(mountpoint)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, timeout=_FUSERMOUNT_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise UserError(f"fusermount3 does not end: {mountpoint} is still mounted") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        line = re.sub(r"^\S*fusermount3?: ", "", lines[-1])
        if "not permitted" in line or "not found in" in line:  # it is in the table, but under another user's name
            raise UserError(f"{mountpoint} was mounted by another user", Exit.PRIVILEGE)
        raise UserError(line)


def find_program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=_PATH)
