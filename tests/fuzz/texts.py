"""Targets that are text, and files with secrets in them."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from unittest import mock

from mcfs.cli import publisher as signing_keys
from mcfs.cli import share_keys, values
from mcfs.fetch import pinfile, pintext
from mcfs.fetch.pinfile import KnownPublishers
from mcfs.fetch.pintext import (
    BadLine,
    format_floors,
    parse_floors_untrusted,
    parse_pins_untrusted,
    with_floor,
    with_pin,
)
from mcfs.fetch.trust import Floor, Pin
from mcfs.protocol import keys
from mcfs.protocol.errors import UserError
from mcfs.protocol.printable import one_word, parse_printable, printable
from mcfs.protocol.publisher import Fingerprint, fingerprint, format_fingerprint, format_key, parse_publisher
from tests.fuzz import mutate
from tests.fuzz.target import Run, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

A, B, C = (fingerprint(bytes((number,)) * 32) for number in range(3))
WORDS: Final = [format_fingerprint(each) for each in (A, B, C)]
ID: Final = "ab" * 32
_NEW: Final = b"never \n used # before"


def text_of(data: bytes) -> str:
    """UTF-8, or what has as many characters as bytes."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


# --- known publishers -------------------------------------------------------------------------------------------------


def pins() -> list[bytes]:
    a, b, c = WORDS
    many = "".join(f"share{number} {a} replaces {b} replaces {c} # used\n" for number in range(20))
    people = (
        f"# mine\n\n  data\t{a}   # the one in the cellar\r\nmy\\040films {b} replaces {a}\n\\043x {format_key(C)}\n"
    )
    return [text.encode() for text in ("", f"{pintext.HEADER}data {a} # used\n", many, people, f"é\\377 {'0f' * 32}")]


def pins_text(data: bytes) -> object:
    """A pin that is added changes no other one, and one that is changed neither; comments stay."""
    text = text_of(data)
    found = parse_pins_untrusted(text)
    assert all(1 <= pin.line <= text.count("\n") + 1 for pin in found.values())
    new = Pin(C, (A,))
    for name in {_NEW, *list(found)[:1]}:
        after = with_pin(text, name, new, "note")
        expected = {known: _plain(pin) for known, pin in found.items()} | {name: _plain(new)}
        assert {known: _plain(pin) for known, pin in parse_pins_untrusted(after).items()} == expected
        assert after.count("#") >= text.count("#") - 1
    return found


def _plain(pin: Pin) -> tuple[Fingerprint, tuple[Fingerprint, ...]]:
    return pin.fingerprint, pin.replaces


# --- versions ---------------------------------------------------------------------------------------------------------


def floors() -> list[bytes]:
    a, b, _ = WORDS
    many = "".join(f"share{number} {a} {1_795_269_600_000 + number} {ID}\n" for number in range(20))
    return [text.encode() for text in ("", f"data {a} 5 {ID}\n", f"data {a} 5 -\ndata {b} {2**63 - 1} -\n", many)]


def floors_text(data: bytes) -> object:
    """What is read is written so that it is read again; a floor never falls."""
    found = parse_floors_untrusted(text_of(data))
    again = parse_floors_untrusted(format_floors(found))
    assert {key: (f.version, f.content) for key, f in again.items()} == {
        key: (f.version, f.content) for key, f in found.items()
    }
    for name, key in {(b"never used", A), *list(found)[:1]}:
        text = with_floor(format_floors(found), name, key, Floor(9, b"c" * 32), ())
        after = parse_floors_untrusted(text)
        assert after[name, key].version == max(9, found[name, key].version if (name, key) in found else 0)
        assert after.keys() == found.keys() | {(name, key)}
    return found


# --- names and keys ---------------------------------------------------------------------------------------------------


def names() -> list[bytes]:
    return [
        b"plain",
        b" #\\\n\t\r\a\b\f\v\0\x7f\xff",
        "ünï \u2028\u00a0\u202e\U0010ffff".encode(),
        b"\\043\\040",
        b"\xed\xa0\x80\xc0\x80",
    ]


def name_and_back(data: bytes) -> None:
    for text in (printable(data), one_word(data)):
        assert text.isprintable()
        assert parse_printable(text) == data
    word = one_word(data)
    assert word.split() == ([word] if data else [])
    assert not word.startswith("#")


def escaped() -> list[bytes]:
    return [printable(name).encode() for name in names()] + [one_word(name).encode() for name in names()]


def name_of_text(data: bytes) -> bytes:
    name = parse_printable(text_of(data))
    assert parse_printable(printable(name)) == name
    return name


def publishers() -> list[bytes]:
    return [text.encode() for text in (*WORDS, WORDS[0] + "=", format_key(A), A.hex(), A.hex().upper())]


def publisher(data: bytes) -> object:
    found = parse_publisher(text_of(data))
    assert parse_publisher(format_fingerprint(found)) == found
    return found


# --- files ------------------------------------------------------------------------------------------------------------


class _Files:
    """Files in memory, whose content is another one each time."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}

    def path(self, name: str, content: bytes) -> Path:
        if name not in self._fds:
            self._fds[name] = os.memfd_create(name)
            os.fchmod(self._fds[name], 0o600)
        fd = self._fds[name]
        os.ftruncate(fd, 0)
        os.pwrite(fd, content, 0)
        return Path(f"/proc/self/fd/{fd}")


_FILES: Final = _Files()


@contextmanager
def one_line() -> Iterator[None]:
    """What people are told in here is one line that does nothing to a terminal."""
    try:
        yield
    except (UserError, ValueError) as error:
        text = str(error)
        if not text.isprintable():
            raise AssertionError(repr(text)) from None
        raise


def known_publishers(data: bytes) -> object:
    """Both files. A NUL stands between them."""
    first, _, second = data.partition(b"\0")
    known = KnownPublishers(Path("known"))
    known.path, known.versions = _FILES.path("known", first), _FILES.path("versions", second)
    with one_line():
        return known.load()


def both_files() -> list[bytes]:
    return [first + b"\0" + second for first in pins() for second in floors()]


def file_of(parse: Callable[[Path], object]) -> Run:
    """A function that reads a file."""

    def run(data: bytes) -> object:
        with one_line():
            return parse(_FILES.path("secret", data))

    return run


def password_file(path: Path) -> object:
    """With parameters of Argon2id that take microseconds, the least that it has."""
    with mock.patch.multiple(keys, ARGON2_BYTES=8192, ARGON2_PASSES=1):
        return share_keys.read_password_file(path)


def of_sizes(*sizes: int) -> Callable[[], list[bytes]]:
    return lambda: [b"k" * size for size in sizes]


def passwords() -> list[bytes]:
    return [*of_sizes(1, 33, keys.MAX_PASSWORD)(), b"password of many words\n", b"password of many words\r\n"]


def publisher_files() -> list[bytes]:
    """What `mcfs keygen --show` prints, and others."""
    return [f"data {WORDS[0]}\n".encode(), format_key(A).encode(), f"{WORDS[0]} # {WORDS[0]}=\n".encode()]


TARGETS: Final = (
    Target(parse_pins_untrusted, pins_text, pins, (BadLine,), mutate.lines),
    Target(parse_floors_untrusted, floors_text, floors, (BadLine,), mutate.lines),
    Target(KnownPublishers.load, known_publishers, both_files, (UserError,), mutate.lines, (pinfile._read,)),
    Target(printable, name_and_back, names, ()),
    Target(parse_printable, name_of_text, escaped, (ValueError,), mutate.lines),
    Target(parse_publisher, publisher, publishers, (ValueError,), mutate.lines),
    Target(
        signing_keys.load_key,
        file_of(signing_keys.load_key),
        of_sizes(32),
        (UserError,),
        wrong=of_sizes(0, 31, 33, 4096),
    ),
    Target(
        share_keys.read_keyfile,
        file_of(share_keys.read_keyfile),
        of_sizes(32, 33, 128),
        (UserError,),
        wrong=of_sizes(0, 31),
    ),
    Target(
        share_keys.read_password_file,
        file_of(password_file),
        passwords,
        (UserError,),
        wrong=lambda: [b"\n", b"\r\n", *of_sizes(0, keys.MAX_PASSWORD + 1, keys.MAX_PASSWORD + 3)()],
    ),
    Target(
        values.parse_publisher_key,
        file_of(lambda path: values.parse_publisher_key(str(path))),
        publisher_files,
        (ValueError,),
        mutate.lines,
        wrong=lambda: [f"{WORDS[0]} {WORDS[1]}".encode(), b"\xff"],
    ),
)
