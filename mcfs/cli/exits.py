"""What exit codes mean, and which one an exception gets: the one table, docs/commands.md prints it for users."""

from __future__ import annotations

import errno
from enum import IntEnum

import click

from mcfs.protocol.errors import InUse, McfsError, NotAvailable, Untrusted, UserError


class Exit(IntEnum):
    OK = 0
    ERROR = 1
    USAGE = 2
    PRIVILEGE = 3
    """A privilege or capability is missing."""
    NOT_HEARD = 4
    CANNOT_MOUNT = 5
    KEY = 7
    """No share of that name is heard, but something is that has a key which was not given."""
    UNTRUSTED = 6
    """A share was heard, but not from a publisher that may publish it."""
    IN_USE = 8
    """Another mcfs-serve uses the state directory."""
    INTERNAL = 70
    """A bug in mcfs; EX_SOFTWARE of sysexits(3)."""
    INTERRUPTED = 130
    """Ctrl-C, as shells count it."""


def cause(error: BaseException) -> BaseException:
    """The exception that a person should read of: in a group, one that the user can mend comes first."""
    leaves = _leaves(error)
    for kind in (UserError, click.ClickException, McfsError, OSError):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0]


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def describe(error: BaseException) -> tuple[str, int]:
    """One line for the user, and the exit code."""
    leaf = cause(error)
    line = " ".join(str(leaf).split())
    match leaf:
        case InUse():
            return line, Exit.IN_USE
        case UserError():
            return line, leaf.exit_code
        case Untrusted():
            return line, Exit.UNTRUSTED
        case NotAvailable():
            return line, Exit.NOT_HEARD
        case McfsError():
            return line, Exit.ERROR
        case KeyboardInterrupt() | click.Abort():
            return "interrupted", Exit.INTERRUPTED
        case OSError():
            denied = leaf.errno in (errno.EPERM, errno.EACCES)
            return _os_error(leaf), Exit.PRIVILEGE if denied else Exit.ERROR
    return f"internal error: {type(leaf).__name__}: {line}", Exit.INTERNAL


def _os_error(error: OSError) -> str:
    if error.strerror is None:
        return " ".join(str(error).split()) or type(error).__name__
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
