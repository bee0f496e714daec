"""The publisher's key: an Ed25519 seed in the state directory, made at the first start."""

from __future__ import annotations

import base64
import hashlib
import os
from typing import TYPE_CHECKING, Final

from nacl.signing import SigningKey

from mcfs.protocol.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from nacl.signing import VerifyKey

KEY_FILE: Final = "publisher.key"
_SEED_SIZE: Final = 32


def load_or_make_key(state_dir: Path) -> SigningKey:
    """Raises UserError if the file cannot be read or is not a key."""
    path = state_dir / KEY_FILE
    try:
        return _load(path)
    except FileNotFoundError:
        return _make(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def load_key(path: Path) -> SigningKey:
    """A key that somebody chose. Raises UserError if it cannot be read or is not a key."""
    try:
        return _load(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def fingerprint(key: VerifyKey) -> str:
    """As ssh prints it: SHA256 in base64 without padding."""
    digest = hashlib.sha256(bytes(key)).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _load(path: Path) -> SigningKey:
    seed = path.read_bytes()
    if len(seed) != _SEED_SIZE:
        raise UserError(f"{path} is not a key: it has {len(seed)} bytes and not {_SEED_SIZE}; take a publisher.key")
    return SigningKey(seed)


def _make(path: Path) -> SigningKey:
    """Written under another name first, so that a crash leaves no half key."""
    key = SigningKey.generate()
    temporary = path.with_suffix(".new")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(bytes(key))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    return key
