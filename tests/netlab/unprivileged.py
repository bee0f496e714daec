"""Programs in a host of the lab that run as an ordinary user, and what they may do.

A namespace of mounts is made for each, in which /dev/fuse is open to everybody, as on most machines, whatever this one
has it like.
"""

from __future__ import annotations

import shlex
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    Words = list[str | Path]

USER = 65534
"""nobody: has an entry in the user database everywhere."""
SETPRIV = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")


def as_nobody(*, net_raw: bool = False) -> Words:
    """Before a command: run it as an ordinary user, without any capability or, as systemd's AmbientCapabilities= does,
    with CAP_NET_RAW."""
    if net_raw:
        return [*SETPRIV, "--inh-caps=-all,+net_raw", "--ambient-caps=-all,+net_raw", "--bounding-set=-all,+net_raw"]
    return [*SETPRIV, "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-net_raw"]


def with_fuse(command: Sequence[str | Path], device: Path) -> Words:
    """Run a command in a namespace of mounts of its own, with `device`, a copy of /dev/fuse, in its place."""
    words = " ".join(shlex.quote(str(word)) for word in command)
    script = f"mount --bind {shlex.quote(str(device))} /dev/fuse && exec {words}"
    return ["unshare", "--mount", "sh", "-c", script]


def let_others_enter(path: Path) -> None:
    """The directories above a path, which pytest keeps to itself."""
    for parent in path.parents:
        mode = stat.S_IMODE(parent.stat().st_mode)
        if not mode & stat.S_IXOTH:
            parent.chmod(mode | stat.S_IXOTH)


def status(pid: int) -> dict[str, str]:
    """The lines of /proc/PID/status."""
    with open(f"/proc/{pid}/status") as lines:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
