"""Which object a file was when it was opened last: what tells a new version from a file never seen.

    names    a line for each file opened: the object's id in hexadecimal digits, a blank, share/path, %-quoted

Only a hint. With it the pages of a new version are fetched before its blocks, since most of these may be there already;
without it the first blocks are asked for together with the page, and come in vain. People see the names in `mcfs cache
ls`. Lines are added at the end; the file is written anew when it has twice as many as are kept.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from mcfs.protocol.ids import ObjectId

if TYPE_CHECKING:
    from pathlib import Path

FILE: Final = "names"
MAX_NAMES: Final = 16_384
"""Files of more than one block that are remembered; some 3 MB of memory. Others are not noted."""
MAX_LENGTH: Final = 512
"""Bytes of a name. The file is twice MAX_NAMES lines long at most: 52 MB if each byte of such names is quoted."""
_MAX_BYTES: Final = 16 << 20
"""Read of the file, from its end."""
_SAFELY: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LINE: Final = re.compile(rb"([0-9a-f]{64}) ([!-~]+)")


class Names:
    """Any thread may use it; `flush` is for the one that writes."""

    def __init__(self, directory: Path | None) -> None:
        """None: nothing is kept on the disk."""
        self._path = directory / FILE if directory is not None else None
        self._objects: dict[bytes, ObjectId] = {}
        self._unwritten: list[bytes] = []
        self._lines = 0
        """In the file."""
        self._lock = Lock()
        if self._path is not None:
            self._load(self._path)

    def note(self, name: bytes, object_: ObjectId) -> ObjectId | None:
        """The file is that object now; returns which one it was before, None if it is new or was the same."""
        if len(name) > MAX_LENGTH:
            return None
        with self._lock:
            before = self._objects.get(name)
            if before == object_:
                return None
            self._enter(name, object_)
            if len(self._unwritten) < MAX_NAMES:
                self._unwritten.append(_line(name, object_))
            return before

    def flush(self) -> None:
        """Write what was noted; if that cannot be done it is forgotten."""
        if self._path is None or not self._unwritten:
            return
        with self._lock:
            lines, self._unwritten = self._unwritten, []
            self._lines += len(lines)
            anew = self._lines > 2 * MAX_NAMES
            if anew:
                lines = [_line(name, object_) for name, object_ in self._objects.items()]
                self._lines = len(lines)
        with suppress(OSError):
            _write(self._path, os.O_TRUNC if anew else os.O_APPEND, b"".join(lines))

    def _enter(self, name: bytes, object_: ObjectId) -> None:
        self._objects.pop(name, None)
        self._objects[name] = object_
        if len(self._objects) > MAX_NAMES:
            del self._objects[next(iter(self._objects))]

    def _load(self, path: Path) -> None:
        lines = _read_lines(path)
        self._lines = len(lines)
        for object_, name in lines:
            self._enter(name, object_)


def names_of(directory: Path) -> dict[ObjectId, bytes]:
    """The names of the objects in a cache, each the last that it had."""
    return dict(_read_lines(directory / FILE))


def _read_lines(path: Path) -> list[tuple[ObjectId, bytes]]:
    """Nothing of a file that cannot be read."""
    data = b""
    with suppress(OSError):
        data = _read(path)
    return parse_lines_untrusted(data)


def parse_lines_untrusted(data: bytes) -> list[tuple[ObjectId, bytes]]:
    """Objects and names, the oldest first; what is no such line is passed over."""
    matches = [match for line in data.split(b"\n") if (match := _LINE.fullmatch(line))]
    return [(ObjectId(bytes.fromhex(match[1].decode())), unquote_to_bytes(match[2])) for match in matches]


def _line(name: bytes, object_: ObjectId) -> bytes:
    return b"%s %s\n" % (object_.hex().encode(), quote_from_bytes(name).encode())


def _read(path: Path) -> bytes:
    with open(os.open(path, os.O_RDONLY | _SAFELY), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _MAX_BYTES))
        return file.read(_MAX_BYTES)


def _write(path: Path, flags: int, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags | _SAFELY, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
