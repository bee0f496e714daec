"""Publishers by their keys: how a key is named to people, and read back.

A publisher is an Ed25519 public key of 32 bytes. People compare its fingerprint, which is written as ssh writes that of
a host: `SHA256:` and the SHA-256 of the key in base64 without padding (RFC 4648 section 4).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Final, NewType

Fingerprint = NewType("Fingerprint", bytes)
"""SHA-256 of a public key, 32 bytes."""

KEY_SIZE: Final = 32
_PREFIX: Final = "SHA256:"
_FINGERPRINT: Final = re.compile(r"SHA256:([A-Za-z0-9+/]{43})=?", re.ASCII)
_BASE64: Final = re.compile(r"([A-Za-z0-9+/]{43})=", re.ASCII)
_HEXADECIMAL: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)


def fingerprint(public_key: bytes) -> Fingerprint:
    return Fingerprint(hashlib.sha256(public_key).digest())


def format_fingerprint(found: Fingerprint) -> str:
    """50 characters, none of which has a meaning in an option list or a shell."""
    return _PREFIX + base64.b64encode(found).decode().rstrip("=")


def format_key(public_key: bytes) -> str:
    """Base64, 44 characters."""
    return base64.b64encode(public_key).decode()


def parse_publisher(text: str) -> Fingerprint:
    """A fingerprint, or that of a public key in base64 (44 characters) or hexadecimal (64). Raises ValueError."""
    if match := _FINGERPRINT.fullmatch(text):
        return Fingerprint(_decode(match[1]))
    if match := _BASE64.fullmatch(text):
        return fingerprint(_decode(match[1]))
    if _HEXADECIMAL.fullmatch(text):
        return fingerprint(bytes.fromhex(text))
    raise ValueError(f"{text!r} is neither a fingerprint (SHA256:...) nor a public key in base64 or hexadecimal")


def _decode(text: str) -> bytes:
    """43 characters of base64 whose two unused bits are 0: a key has one spelling."""
    try:
        found = base64.b64decode(text + "=", validate=True)
    except binascii.Error as error:
        raise ValueError(f"{text!r} is not base64: {error}") from None
    if base64.b64encode(found).decode().rstrip("=") != text:
        raise ValueError(f"{text!r} is not base64 of {KEY_SIZE} bytes")
    return found
