"""The files in which a machine remembers publishers: the known ones, and beside it their versions.

Several mounts use them at the same time. Each change is made under a lock, to what stands there then, in a new file
that takes the old one's place, so a crash, or a full disk, leaves the old one. Comments, mode and owner stay.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from mcfs.fetch.pintext import (
    MAX_LINES,
    BadLine,
    Full,
    parse_floors_untrusted,
    parse_pins_untrusted,
    with_floor,
    with_pin,
)
from mcfs.fetch.trust import Trust
from mcfs.protocol.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mcfs.fetch.trust import Floor, Pin
    from mcfs.protocol.publisher import Fingerprint

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

MAX_SIZE: Final = 16 << 20
"""Bytes of one file: more than MAX_FLOORS lines with the longest names, each byte of them escaped."""


class KnownPublishers:
    """Where several processes look things up, and write them down one after the other.

    :param path: of the known publishers; the versions are in `path`.versions, the lock is `path`.lock

    `pause` is called between two tries to get the lock, and raises TimeoutError when that takes too long.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))
        self.versions = self.path.with_name(self.path.name + ".versions")
        self._lock = self.path.with_name(self.path.name + ".lock")

    def load(self, *, demanded: Fingerprint | None = None, strict: bool = False) -> Trust:
        """What is known. Raises UserError if a file cannot be read, is damaged, or if others can write it."""
        for path in (self.path.parent, self.path, self.versions):
            _check_owner(path)
        pins = self._parsed(self.path, parse_pins_untrusted)
        floors = self._parsed(self.versions, parse_floors_untrusted)
        return Trust(demanded, strict, pins, floors, str(self.path), str(self.versions))

    def pin(
        self, name: bytes, pin: Pin, *, before: Fingerprint | None, note: str, pause: Callable[[], None]
    ) -> Pin | None:
        """Remember the key of a name. Returns the pin that stands there now: another one if `name` has one already that
        is not `before`. Raises UserError.
        """
        with self._locked(pause):
            known = self._parsed(self.path, parse_pins_untrusted).get(name)
            if known is not None and known.fingerprint != before:
                return known
            text = self._changed(self.path, lambda text: with_pin(text, name, pin, note))
            return parse_pins_untrusted(text).get(name)

    def raise_floor(self, name: bytes, key: Fingerprint, floor: Floor, *, pause: Callable[[], None]) -> None:
        """Remember the version of a name. Raises UserError."""
        with self._locked(pause):
            pinned = self._parsed(self.path, parse_pins_untrusted)
            self._changed(self.versions, lambda text: with_floor(text, name, key, floor, pinned))

    # --- files -------------------------------------------------------------------------------------------------------

    def _parsed(self, path: Path, parse: Callable[[str], dict[_Key, _Value]]) -> dict[_Key, _Value]:
        try:
            return parse(_read(path))
        except BadLine as error:
            raise UserError(f"{path}: {error}; mend or remove that line") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: {_reason(error)}; {_ADVICE}") from None

    def _changed(self, path: Path, change: Callable[[str], str]) -> str:
        try:
            before = _read(path)
            after = change(before)
            if after != before:
                _replace(path, after)
        except BadLine as error:
            raise UserError(f"{path}: {error}; mend or remove that line") from None
        except Full:
            raise UserError(f"{path}: {MAX_LINES} shares are remembered, no more: remove lines") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: {_reason(error)}; {_ADVICE}") from None
        return after

    @contextmanager
    def _locked(self, pause: Callable[[], None]) -> Iterator[None]:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UserError(f"{self._lock}: {_reason(error)}; {_ADVICE}") from None
        try:
            self._wait_for(fd, pause)
            yield
        finally:
            os.close(fd)

    def _wait_for(self, fd: int, pause: Callable[[], None]) -> None:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                try:
                    pause()
                except TimeoutError:
                    raise UserError(f"{self._lock}: another process does not let go of it") from None
            except OSError as error:
                raise UserError(f"{self._lock}: {_reason(error)}; {_ADVICE}") from None


_ADVICE: Final = "mend that, or name another file (-o known_publishers=FILE)"


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return str(error.strerror)
    return "it is not text" if isinstance(error, UnicodeError) else str(error)


def _check_owner(path: Path) -> None:
    """Raises UserError if somebody else could say whom to believe."""
    try:
        found = os.stat(path)
    except OSError:
        return  # who needs it will say so
    others = stat.S_IWOTH if os.geteuid() else stat.S_IWOTH | stat.S_IWGRP
    if found.st_uid not in (0, os.geteuid()):
        raise UserError(f"{path}: it belongs to another user, who could say whom to believe; {_ADVICE}")
    if found.st_mode & others and not (stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX):
        raise UserError(f"{path}: others can write it, and so say whom to believe; chmod go-w {path}")


def _read(path: Path) -> str:
    """Empty if there is none. Raises OSError, and ValueError for what is not text or too long."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return ""
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        data = file.read(MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise ValueError(f"it is longer than {MAX_SIZE >> 20} MiB")
    return data.decode()


def _replace(path: Path, text: str) -> None:
    """Raises OSError."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "wb") as file:
            _like(path, fd)
            file.write(text.encode())
            file.flush()
            os.fsync(fd)
        new.rename(path)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise


def _like(path: Path, fd: int) -> None:
    """Mode and owner of the file whose place the new one takes."""
    with suppress(OSError):
        old = os.stat(path)
        os.fchmod(fd, stat.S_IMODE(old.st_mode))
        if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(fd, old.st_uid, old.st_gid)
