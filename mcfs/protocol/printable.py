"""Names, which are bytes, as text of one word that is safe on a terminal and can be read back."""

from __future__ import annotations

import re
from typing import Final

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
_LETTERS: Final = {escape[1]: character for character, escape in _ESCAPES.items()}
_ESCAPED: Final = re.compile(r"\\(?:([0-3][0-7]{2})|(.)|$)", re.ASCII | re.DOTALL)


def printable(name: bytes) -> str:
    """UTF-8, with escapes as `ls -b` writes them for what is not, and for what is not visible."""
    return "".join(_escape(character) for character in name.decode("utf-8", "surrogateescape"))


def one_word(name: bytes) -> str:
    """As `printable`, but without blanks, and without `#` at the start: a word in a file with comments."""
    text = printable(name).replace("\\ ", "\\040")
    return "\\043" + text[1:] if text.startswith("#") else text


def parse_printable(text: str) -> bytes:
    """The reverse of `printable` and `one_word`. Raises ValueError for an escape that it does not write."""
    out, end = bytearray(), 0
    for match in _ESCAPED.finditer(text):
        out += text[end : match.start()].encode()
        end = match.end()
        octal, letter = match.groups()
        if octal:
            out.append(int(octal, 8))
        elif letter in _LETTERS:
            out += _LETTERS[letter].encode()
        else:
            raise ValueError(f"{match[0]!r} is no escape")
    return bytes(out + text[end:].encode())


def _escape(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable() and not "\udc80" <= character <= "\udcff":
        return character
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))
