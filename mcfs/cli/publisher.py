"""A publisher's signing key: an Ed25519 seed of 32 bytes in a file of its owner's."""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nacl.signing import SigningKey

from mcfs.protocol.errors import UserError
from mcfs.protocol.publisher import fingerprint, format_fingerprint

if TYPE_CHECKING:
    from pathlib import Path

    from nacl.signing import VerifyKey

KEY_FILE: Final = "publisher.key"
MODE: Final = 0o600
_SEED_SIZE: Final = 32

log: Final = logging.getLogger(__name__)


def load_or_make_key(state_dir: Path) -> SigningKey:
    """The key of a state directory that nobody else uses now. Raises UserError if the file cannot be read or is not a
    key."""
    path = state_dir / KEY_FILE
    try:
        return _load(path)
    except FileNotFoundError:
        return _make_whole(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def load_key(path: Path) -> SigningKey:
    """A key that somebody chose. Raises UserError if it cannot be read or is not a key."""
    try:
        return _load(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def make_key(path: Path) -> SigningKey:
    """A new key in a new file. Raises UserError, also if the file is there already."""
    try:
        return _make(path)
    except FileExistsError:
        raise UserError(f"{path} is there already, and a key is never overwritten") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def fingerprint_of(key: VerifyKey) -> str:
    return format_fingerprint(fingerprint(bytes(key)))


def _load(path: Path) -> SigningKey:
    """Raises OSError, UserError."""
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        seed = file.read(_SEED_SIZE + 1) if stat.S_ISREG(status.st_mode) else b""
    if len(seed) != _SEED_SIZE:
        size = f"more than {_SEED_SIZE}" if len(seed) > _SEED_SIZE else str(len(seed))
        raise UserError(
            f"{path} is not a signing key: it has {size} bytes and not {_SEED_SIZE}; take a publisher.key, or make one "
            "with mcfs keygen"
        )
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(status.st_mode)
        log.warning("%s: others may use this key, its mode is %04o: chmod 600 %s", path, mode, path)
    return SigningKey(seed)


def _make_whole(path: Path) -> SigningKey:
    """Under another name first, so that a crash leaves no half key."""
    temporary = path.with_suffix(".new")
    try:
        temporary.unlink(missing_ok=True)
        key = _make(temporary)
        temporary.rename(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    return key


def _make(path: Path) -> SigningKey:
    """Raises OSError, and leaves no file then."""
    key = SigningKey.generate()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
    try:
        with open(fd, "wb") as file:
            file.write(bytes(key))
            file.flush()
            os.fsync(fd)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
    return key
