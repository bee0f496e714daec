"""What `mcfs-serve` may do once it runs: read its paths as an ordinary user, hear and send MLD messages, no more.

Capabilities belong to threads (capabilities(7)), so all of this is called before there is a second one, and it is an
error if there is.

- `become` changes from root to another user, with that user's groups, and keeps CAP_NET_RAW and CAP_NET_ADMIN.
- `confine` is for any user: what is executed by this process never gains a privilege, and inherits none.
- `sockets_are_open` drops CAP_NET_ADMIN.
- `give_up` drops what `become` has kept, or systemd has given: what is open stays open, and nothing more can be opened.

CAP_NET_RAW is for raw sockets, of which each interface needs two. Interfaces that come later need theirs later.
CAP_NET_ADMIN is for receive buffers larger than net.core.rmem_max, of the interfaces that are there at the start.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import threading
from typing import TYPE_CHECKING, Final

from mcfs.cli.exits import Exit
from mcfs.protocol.errors import UserError

if TYPE_CHECKING:
    import pwd
    from pathlib import Path

# prctl(2), linux/prctl.h
_PR_SET_KEEPCAPS: Final = 8
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
# capset(2), linux/capability.h: version 3, this thread; two words each of effective, permitted, inheritable
_HEADER: Final = struct.pack("@Ii", 0x20080522, 0)
_DATA: Final = struct.Struct("@6I")
_CAP_NET_ADMIN: Final = 12
_CAP_NET_RAW: Final = 13
_MAX_CAPABILITIES: Final = 64


def become(user: pwd.struct_passwd) -> None:
    """Change from root to `user` for good. Raises UserError if this process is neither."""
    if os.getuid() == os.geteuid() == user.pw_uid:
        return
    if os.geteuid() != 0:
        raise UserError(f"--user {user.pw_name}: only root can become another user", Exit.PRIVILEGE)
    _expect_one_thread()
    _prctl(_PR_SET_KEEPCAPS, 1)
    _bound(_CAP_NET_RAW)
    os.initgroups(user.pw_name, user.pw_gid)
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    _set_capabilities((1 << _CAP_NET_RAW | 1 << _CAP_NET_ADMIN) & _permitted())


def confine() -> None:
    """Let nothing that is executed gain or inherit a privilege. Raises OSError, and UserError."""
    _expect_one_thread()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _set_capabilities(_permitted())  # of which none can be inherited


def sockets_are_open() -> None:
    """Keep CAP_NET_RAW alone, of what `become` has kept. Raises OSError, and UserError."""
    _expect_one_thread()
    _set_capabilities((1 << _CAP_NET_RAW) & _permitted())


def give_up() -> None:
    """Drop all capabilities, also those of root. Raises OSError, and UserError."""
    _expect_one_thread()
    _set_capabilities(0)


def own(directory: Path, user: pwd.struct_passwd) -> None:
    """Have a directory that belongs to `user`, made if there is none; called as root. Raises UserError.

    Below one that belongs to `user` nothing is made: that can be done later, as that user.
    """
    try:
        owner = directory.stat().st_uid
    except FileNotFoundError:
        _make_owned(directory, user)
        return
    except OSError as error:
        raise UserError(f"{directory}: {error.strerror}") from None
    if owner != user.pw_uid:
        # Not changed here: a link that somebody has put into it would be followed as root.
        raise UserError(f"{directory} does not belong to {user.pw_name}: chown -R {user.pw_name} {directory}")


# --- a new directory -------------------------------------------------------------------------------------------------

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _make_owned(directory: Path, user: pwd.struct_passwd) -> None:
    """Go down from the root, one directory after the other, by descriptors: no name is looked up twice, no link is
    followed, and nothing is made where somebody else could put another thing in its place before it is handed over."""
    path = directory.absolute()
    fd = os.open(path.root, _DIRECTORY)
    try:
        for part in (*reversed(path.parents[:-1]), path):
            found = os.fstat(fd)
            if found.st_uid == user.pw_uid:
                return
            if not _is_roots_alone(found):
                raise UserError(
                    f"{part.parent}: others than root can write it, so nothing is made there as root: "
                    f"make {directory} as {user.pw_name}, or say another --state-dir"
                )
            made, above = _make(fd, part.name, 0o700 if part == path else 0o755), fd
            fd = os.open(part.name, _DIRECTORY, dir_fd=above)
            os.close(above)
        if not made:
            raise UserError(f"{directory}: somebody else has just made it")
        os.fchown(fd, user.pw_uid, user.pw_gid)
    except OSError as error:
        how = "a link or no directory; give the path without links" if error.errno in _NO_DIRECTORY else error.strerror
        raise UserError(f"{directory}: {part}: {how}") from None
    finally:
        os.close(fd)


_NO_DIRECTORY: Final = (errno.ELOOP, errno.ENOTDIR)


def _make(above: int, name: str, mode: int) -> bool:
    """Make a directory in another one; False if there is something of this name. Raises OSError."""
    try:
        os.mkdir(name, mode, dir_fd=above)
    except FileExistsError:
        return False
    return True


def _is_roots_alone(found: os.stat_result) -> bool:
    """Whether nobody else can rename what root makes in a directory."""
    others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return found.st_uid == 0 and (not others or bool(found.st_mode & stat.S_ISVTX))


# --- capabilities ----------------------------------------------------------------------------------------------------


def _expect_one_thread() -> None:
    """Raises UserError: another one would keep what this one drops."""
    try:
        threads = len(os.listdir("/proc/self/task"))
    except OSError:
        threads = threading.active_count()
    if threads > 1:
        raise UserError(
            f"privileges cannot be given up: a library has started {threads - 1} threads, which would keep them",
            Exit.PRIVILEGE,
        )


def _bound(kept: int) -> None:
    """No program can ever get any other capability back. The kernel says EINVAL behind the last one."""
    for capability in range(_MAX_CAPABILITIES):
        if capability != kept:
            try:
                _prctl(_PR_CAPBSET_DROP, capability)
            except OSError:
                return


def _permitted() -> int:
    """The capabilities that this thread may use, as bits."""
    data = ctypes.create_string_buffer(_DATA.size)
    _check(ctypes.CDLL(None, use_errno=True).capget(_HEADER, data))
    _, low, _, _, high, _ = _DATA.unpack(data.raw)
    return int(low | high << 32)


def _set_capabilities(bits: int) -> None:
    low, high = bits & 0xFFFFFFFF, bits >> 32
    _check(ctypes.CDLL(None, use_errno=True).capset(_HEADER, _DATA.pack(low, low, 0, high, high, 0)))


def _prctl(option: int, value: int) -> None:
    _check(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0))


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
