"""Which error number the kernel gets for which exception: the one place where that is chosen.

A handler of pyfuse3 may raise nothing but FUSEError: anything else ends the main loop, and with it the mount.
"""

from __future__ import annotations

import errno
import functools
import logging
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from pyfuse3 import FUSEError

from mcfs.protocol.errors import BadNode, BadObject, Gone, McfsError, NoKey, ShareDown, TimedOut, Untrusted, WrongKey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)


class Stale(McfsError):
    """A directory, or an inode number, that the newest version of its share no longer has."""


ERRNOS: Final[dict[type[Exception], int]] = {
    TimedOut: errno.ETIMEDOUT,
    Untrusted: errno.EACCES,
    ShareDown: errno.ETIMEDOUT,
    Gone: errno.ESTALE,
    Stale: errno.ESTALE,
    NoKey: errno.EACCES,
    WrongKey: errno.EKEYREJECTED,
    BadNode: errno.EIO,
    BadObject: errno.EIO,
}
"""ENOENT is not here: it is the answer of a verified listing alone, never of a failure."""


def errno_of(error: Exception) -> int:
    """The error number for an exception: that of its nearest class in the table, EIO if there is none."""
    return next((ERRNOS[kind] for kind in type(error).__mro__ if kind in ERRNOS), errno.EIO)


def translated(handler: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[object, object, T]]:
    """Let a handler raise what it likes: the kernel gets an error number, the log what was not expected."""
    unexpected: set[type[Exception]] = set()

    @functools.wraps(handler)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(*args, **kwargs)
        except FUSEError:
            raise
        except Exception as error:
            if errno_of(error) == errno.EIO and not isinstance(error, McfsError):
                _log_once(handler.__name__, error, unexpected)
            raise FUSEError(errno_of(error)) from None

    return wrapper


def _log_once(handler: str, error: Exception, known: set[type[Exception]]) -> None:
    # A read that fails is repeated by whoever reads: one traceback says all that thousands would.
    if type(error) not in known:
        known.add(type(error))
        log.error("%s failed", handler, exc_info=error)
    else:
        log.debug("%s failed again: %s", handler, error)
