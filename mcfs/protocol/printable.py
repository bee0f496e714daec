"""Names that others chose, made safe for terminals and logs.

A name is any bytes but "/" and NUL. Printed as it is it could move the cursor, set the title of the terminal, turn the
direction of writing, or pretend to be a further line of a log.
"""

from __future__ import annotations

import os
from typing import Final


def printable(name: bytes) -> str:
    """A name that is safe on a terminal and can be read back: escapes as `ls -b` writes them."""
    return "".join(_escape(character) for character in os.fsdecode(name))


def without_controls(text: str) -> str:
    """A line of text in which what is not printable is escaped: for what contains names and is not one itself."""
    if text.isprintable():
        return text
    return "".join(character if character in "\\ " else _escape(character) for character in text)


def _escape(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    # Not printable are also marks that turn the direction of writing, and the surrogates that stand for single bytes.
    if character.isprintable():
        return character
    stands_for_byte = "\udc80" <= character <= "\udcff"  # as os.fsdecode gives them
    encoded = bytes((ord(character) & 0xFF,)) if stands_for_byte else character.encode(errors="surrogatepass")
    return "".join(f"\\{byte:03o}" for byte in encoded)


_ESCAPES: Final = {
    "\\": "\\\\",
    " ": "\\ ",
    "\n": "\\n",
    "\t": "\\t",
    "\r": "\\r",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
}
