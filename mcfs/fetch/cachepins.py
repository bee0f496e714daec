"""What the user wants to be kept, in the directory `pins` of the cache directory, so that it outlives the mount.

::

    pins/ID           a pin: share, path and a nonce; made and removed by `mcfs pin` and `mcfs unpin`
    pins/ID.objects   the objects that it stands for in the newest version that was seen, 32 bytes each; by the mount
    pins/ID.state     how far it has come; by the mount

ID is a hash of share and path, 32 hexadecimal digits. Pins are those of all mounts that use the directory; what a mount
writes is in the directory that it has, which may be a mount-N. So a command needs no way to speak to a mount but these
files: who may write them may pin, and that is the user whose cache it is.

What is read here anybody may have damaged: a file that is no pin is none, and what cannot be read is not there.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from blake3 import blake3

from mcfs.protocol.ids import DIGEST_SIZE, ObjectId

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

DIRECTORY: Final = "pins"
MAX_PINS: Final = 1024
"""Each is a task of the mount, which walks a tree now and then."""
MAX_OBJECTS: Final = 1 << 18
"""Of one pin: as many as a cache holds at all."""
_MAX_TEXT: Final = 64 * 1024
"""A path of 4 KiB, every byte of it quoted twice over, and some more."""
_ID: Final = re.compile(r"[0-9a-f]{32}")
_SAFELY: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Pin:
    share: bytes
    path: bytes
    """Below the share's root; b"" is all of it."""
    nonce: str
    """Tells a pin from an earlier one of the same path."""

    @property
    def id(self) -> str:
        return blake3(self.share + b"\0" + self.path).hexdigest(16)

    @property
    def name(self) -> bytes:
        return self.share + b"/" + self.path if self.path else self.share


@dataclass(frozen=True, slots=True)
class PinState:
    """What the mount says of a pin."""

    nonce: str = ""
    files: int = 0
    bytes: int = 0
    """Of the blocks that it stands for; 0 while these are not known."""
    done: int = 0
    """Of these, the bytes that are there."""
    problem: str = ""
    """Why it does not go on; one line."""
    refused: bool = False
    """Whether that will not change by itself."""

    @property
    def complete(self) -> bool:
        return not self.problem and self.files > 0 and self.done == self.bytes


class PinDirectory:
    """`root` is the cache directory, `own` the part of it that a mount has."""

    def __init__(self, root: Path, own: Path) -> None:
        self._requests = root / DIRECTORY
        self._own = own / DIRECTORY
        self.spared: dict[str, frozenset[ObjectId]] = {}
        """The objects of the pins that there were when the cache was opened, by ID."""
        self._changed = -1
        self._looks = 0

    # --- for the commands --------------------------------------------------------------------------------------------

    def add(self, pin: Pin) -> None:
        """Raises OSError."""
        self._requests.mkdir(mode=0o700, exist_ok=True)
        words = {"share": quote_from_bytes(pin.share), "path": quote_from_bytes(pin.path), "nonce": pin.nonce}
        _replace(self._requests / pin.id, json.dumps(words).encode())

    def remove(self, pin: Pin) -> bool:
        """False if there is none of that path. Raises OSError."""
        with suppress(FileNotFoundError):
            os.unlink(self._requests / pin.id)
            return True
        return False

    def state(self, pin: Pin) -> PinState | None:
        """None if the mount has not said anything of this pin."""
        return _state_untrusted(_read(self._own / f"{pin.id}.state", _MAX_TEXT), pin)

    def pins(self) -> list[Pin]:
        """All that there are, the oldest first."""
        return [pin for _, pin in sorted(self._found(), key=lambda pair: (pair[0], pair[1].id))][:MAX_PINS]

    def read_objects(self) -> dict[str, frozenset[ObjectId]]:
        """By ID: the objects of pins."""
        found = {}
        for name in _names(self._own):
            id_, _, kind = name.partition(".")
            if kind == "objects" and _ID.fullmatch(id_):
                found[id_] = _objects_untrusted(_read(self._own / name, MAX_OBJECTS * DIGEST_SIZE))
        return found

    def find(self, pin: Pin) -> Pin | None:
        """The pin of the same path, if there is one."""
        return _pin_untrusted(pin.id, _read(self._requests / pin.id, _MAX_TEXT))

    # --- for the mount -----------------------------------------------------------------------------------------------

    def has_changed(self) -> bool:
        """Whether pins may have come or gone since this was asked last; yes at first. A change may leave the time of
        the directory as it is, if the clock of the file system has not moved, so it is said a few times."""
        try:
            changed = self._requests.stat().st_mtime_ns
        except OSError:
            changed = 0
        self._looks = 0 if changed != self._changed else self._looks + 1
        self._changed = changed
        return self._looks < (3 if changed else 1)

    def objects(self) -> dict[str, frozenset[ObjectId]]:
        """The same as `read_objects`; what was written for pins that are no more is removed."""
        asked = {pin.id for pin in self.pins()}
        for name in _names(self._own):
            id_, _, kind = name.partition(".")
            if kind and id_ not in asked:
                with suppress(OSError):
                    os.unlink(self._own / name)
        return self.read_objects()

    def write_objects(self, pin: Pin, objects: Iterable[ObjectId]) -> None:
        """Raises OSError."""
        self._own.mkdir(mode=0o700, exist_ok=True)
        _replace(self._own / f"{pin.id}.objects", b"".join(objects))

    def write_state(self, pin: Pin, state: PinState) -> None:
        """Raises OSError."""
        self._own.mkdir(mode=0o700, exist_ok=True)
        _replace(self._own / f"{pin.id}.state", json.dumps(asdict(state)).encode())

    def forget(self, id_: str) -> None:
        """The pin is no more."""
        for kind in ("objects", "state"):
            with suppress(OSError):
                os.unlink(self._own / f"{id_}.{kind}")

    def _found(self) -> Iterable[tuple[int, Pin]]:
        for name in _names(self._requests):
            path = self._requests / name
            pin = _pin_untrusted(name, _read(path, _MAX_TEXT)) if _ID.fullmatch(name) else None
            with suppress(OSError):
                if pin is not None:
                    yield path.lstat().st_mtime_ns, pin


def _pin_untrusted(id_: str, data: bytes | None) -> Pin | None:
    words = _words_untrusted(data)
    share, path, nonce = (words.get(key) for key in ("share", "path", "nonce"))
    if not isinstance(share, str) or not isinstance(path, str) or not isinstance(nonce, str):
        return None
    try:
        pin = Pin(unquote_to_bytes(share), unquote_to_bytes(path), nonce)
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON allows
        return None
    return pin if pin.id == id_ else None


def _state_untrusted(data: bytes | None, pin: Pin) -> PinState | None:
    words = _words_untrusted(data)
    default = asdict(PinState())
    if words.get("nonce") != pin.nonce or words.keys() != default.keys():
        return None
    if any(type(words[key]) is not type(value) for key, value in default.items()):
        return None
    return PinState(**words)


def _words_untrusted(data: bytes | None) -> dict[str, Any]:
    try:
        words = json.loads(data or b"")
    except (ValueError, RecursionError):
        return {}
    return words if isinstance(words, dict) else {}


def _objects_untrusted(data: bytes | None) -> frozenset[ObjectId]:
    data = data or b""
    return frozenset(ObjectId(data[at : at + DIGEST_SIZE]) for at in range(0, len(data) - DIGEST_SIZE + 1, DIGEST_SIZE))


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _read(path: Path, most: int) -> bytes | None:
    """The file, None if it cannot be read."""
    try:
        with open(os.open(path, os.O_RDONLY | _SAFELY), "rb") as file:
            return file.read(most)
    except OSError:
        return None


def _replace(path: Path, data: bytes) -> None:
    """Write a file as a whole: who reads it sees the old one or the new one. Raises OSError."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _SAFELY, 0o600), "wb") as file:
            file.write(data)
        os.rename(new, path)
    except OSError:
        with suppress(OSError):
            os.unlink(new)
        raise
