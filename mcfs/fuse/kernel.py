"""The kernel's side of a mount: its options, its tuning, its messages, and whether it still is there."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote_from_bytes

import pyfuse3
import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcfs.fuse.settings import FuseSettings

SUBTYPE: Final = "mcfs"
MAX_BACKGROUND: Final = 512
"""Read-ahead requests that the kernel keeps under way. With its own 12, twelve readers of a silent share hold up those
of all other shares in the mount. A reader has up to eight, so it now takes 64 of them."""
CONGESTION_THRESHOLD: Final = MAX_BACKGROUND * 3 // 4
"""libfuse's own proportion. Above it the kernel reads nothing ahead."""
_DISCONNECT_POLL: Final = 0.5
_UNMOUNT_TIMEOUT: Final = 10.0


def mount_options(settings: FuseSettings) -> set[str]:
    """The options for libfuse. max_read is not among them: pyfuse3 fails with it."""
    name = settings.share if settings.share is not None else SUBTYPE.encode()
    # A comma would end the option, and pyfuse3 takes ASCII only.
    options = {f"fsname={quote_from_bytes(name, safe='/:@+=~!()')}", f"subtype={SUBTYPE}", "ro", "nosuid", "nodev"}
    if settings.allow_other:
        # The kernel's check of modes is what keeps other users apart: never one without the other.
        options |= {"allow_other", "default_permissions"}
    if settings.debug:
        options.add("debug")
    return options | settings.kernel_options


def tune(device: int, read_ahead_kb: int) -> None:
    """Larger read-ahead and more requests under way for a mounted device (st_dev), as far as that is permitted."""
    number = f"{os.major(device)}:{os.minor(device)}"
    connection = Path("/sys/fs/fuse/connections") / str(os.minor(device))
    _set(Path("/sys/class/bdi") / number / "read_ahead_kb", read_ahead_kb)
    _set(connection / "max_background", MAX_BACKGROUND)
    _set(connection / "congestion_threshold", CONGESTION_THRESHOLD)


def _set(path: Path, value: int) -> None:
    # Not root, no sysfs in the container, no fusectl mounted: slower, but it works.
    with contextlib.suppress(OSError):
        path.write_text(f"{value}\n")


def forget_attributes(inode: int) -> None:
    """Have the kernel ask for an inode's attributes when they are next needed. Raises OSError.

    It takes no lock that a request could hold, so the event loop may call it.
    """
    pyfuse3.invalidate_inode(inode, attr_only=True)


class Messages:
    """What libfuse and fusermount3 write to stderr while they mount: the only place where they say what is wrong."""

    def __init__(self) -> None:
        self._text = ""

    @contextlib.contextmanager
    def captured(self) -> Iterator[None]:
        with open(os.memfd_create("mount messages"), "w+b") as file:
            stderr = os.dup(2)
            os.dup2(file.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(stderr, 2)
                os.close(stderr)
                file.seek(0)
                self._text = file.read().decode(errors="replace")

    def line(self) -> str:
        """The last line, without the name of the program that wrote it."""
        lines = self._text.strip().splitlines()
        return re.sub(r"^(fuse|fusermount3?): ", "", lines[-1]) if lines else ""


def fuse_descriptors() -> set[int]:
    """The file descriptors of this process that are connections to the kernel's FUSE."""
    found: set[int] = set()
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = os.listdir("/proc/self/fd")
    for name in names:
        # The one that listed them is closed by now.
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == "/dev/fuse":
                found.add(int(name))
    return found


async def disconnected(descriptor: int) -> None:
    """Return when the kernel has ended the connection: unmounted, or aborted by force.

    pyfuse3's main loop would first wait for all handlers, and those of a silent share take their time.
    """
    poll = select.poll()
    # No event is asked for: what remains is POLLERR. trio can only wait for events.
    poll.register(descriptor, 0)
    while not poll.poll(0):  # noqa: ASYNC110 - nothing sets an event when the kernel hangs up
        await trio.sleep(_DISCONNECT_POLL)


def detach(mountpoint: str, device: int) -> None:
    """Unmount what an aborted connection left behind: libfuse takes such a mount for already unmounted."""
    if not is_mounted(device):
        return
    for command in (["fusermount3", "-u", "-z", "--", mountpoint], ["umount", "-l", "--", mountpoint]):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(command, check=False, capture_output=True, timeout=_UNMOUNT_TIMEOUT)
        if not is_mounted(device):
            return


def is_mounted(device: int) -> bool:
    """Whether a device (st_dev) is mounted anywhere in this namespace. Asks nothing of the mount itself."""
    number = f"{os.major(device)}:{os.minor(device)}".encode()
    return any(mount.device == number for mount in _mounts())


def kind_mounted_on(path: str) -> str | None:
    """The type of the file system mounted on a directory, the topmost if there are several."""
    wanted = os.fsencode(os.path.realpath(path))
    kinds = [mount.kind for mount in _mounts() if mount.path == wanted]
    return os.fsdecode(kinds[-1]) if kinds else None


class _MountLine(NamedTuple):
    device: bytes
    path: bytes
    kind: bytes


def _mounts() -> Iterator[_MountLine]:
    """The lines of mountinfo, see proc_pid_mountinfo(5)."""
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split(b" ")
        path = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), fields[4])
        yield _MountLine(fields[2], path, fields[fields.index(b"-", 6) + 1])
