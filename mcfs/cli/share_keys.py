"""Share keys from where the user keeps them: key files, password files, the environment, the terminal.

A secret is never an argument, which all users of a machine can read, only the path to one is. `MCFS_PASSWORD` is taken
out of the environment when a command starts (`_environment.py`), so programs that it runs do not get it.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
from typing import TYPE_CHECKING, Final

import click

from mcfs.cli import _environment, values
from mcfs.cli.exits import Exit
from mcfs.protocol.errors import UserError
from mcfs.protocol.keys import MAX_KEYFILE, MAX_PASSWORD, ShareKeys, keys_of_file, keys_of_password
from mcfs.serve.store import MAX_KEYS as MAX_SERVED_KEYS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from pathlib import Path

MAX_KEYS: Final = 32
"""Of one client: each is a catalogue channel that it holds, and switches hold few."""
WEAK: Final = 12
"""Bytes of a password below which a warning is given."""

log: Final = logging.getLogger(__name__)


def read_keyfile(path: Path) -> ShareKeys:
    """Raises UserError."""
    return _derived(keys_of_file, _read(path, MAX_KEYFILE), str(path))


def read_password_file(path: Path) -> ShareKeys:
    """The content, without the end of line that editors add, is the password. Raises UserError."""
    content = _read(path, MAX_PASSWORD + 2)
    return _of_password(content.removesuffix(b"\n").removesuffix(b"\r"), str(path))


def environment_keys() -> ShareKeys | None:
    """From MCFS_PASSWORD, if that was set. Raises UserError."""
    password = _environment.PASSWORD
    return None if password is None else _of_password(password, _environment.PASSWORD_VARIABLE)


def ask(*, twice: bool) -> ShareKeys:
    """From a password typed at the terminal; `twice` where a slip would go unnoticed. Raises UserError."""
    if not sys.stdin.isatty():
        raise UserError("--password asks at a terminal, and there is none: take --password-file", Exit.USAGE)
    text: str = click.prompt("Password of the share", hide_input=True, confirmation_prompt=twice, err=True)
    return _of_password(os.fsencode(text), "the password")


def client_keys(keyfiles: Iterable[Path], password_files: Iterable[Path], *, prompt: bool) -> tuple[ShareKeys, ...]:
    """All keys that a client is given, each once. Raises UserError."""
    found = [*map(read_keyfile, keyfiles), *map(read_password_file, password_files)]
    if prompt:
        found.append(ask(twice=False))
    if (from_environment := environment_keys()) is not None:
        found.append(from_environment)
    keys = tuple(dict.fromkeys(found))
    if len(keys) > MAX_KEYS:
        raise UserError(f"{len(keys)} share keys: at most {MAX_KEYS} can be used at a time", Exit.USAGE)
    return keys


def server_keys(
    names: Collection[bytes], keyfiles: Sequence[str], password_files: Sequence[str], *, prompt: bool
) -> dict[bytes, ShareKeys]:
    """The key of each share that has one. Of the options' values `NAME=FILE` is for one share, `FILE` for all that
    have none of their own; so is the password of the terminal, or else the one of the environment. Raises UserError."""
    bound: dict[bytes | None, Callable[[], ShareKeys]] = {}
    options: tuple[tuple[str, Sequence[str], Callable[[Path], ShareKeys]], ...] = (
        ("--keyfile", keyfiles, read_keyfile),
        ("--password-file", password_files, read_password_file),
    )
    for option, texts, read in options:
        for text in texts:
            name, path = _binding(option, text, names)
            _bind(bound, name, lambda read=read, path=path: read(path))  # type: ignore[misc]
    if prompt:
        _bind(bound, None, lambda: ask(twice=True))
    read_default = bound.pop(None, None)
    default = read_default() if read_default else environment_keys()
    keys = {name: read() for name, read in bound.items() if name is not None}
    found = {name: key for name in names if (key := keys.get(name, default)) is not None}
    if len(set(found.values())) > MAX_SERVED_KEYS:
        raise UserError(f"more than {MAX_SERVED_KEYS} different share keys: run several servers", Exit.USAGE)
    return found


def _bind(
    bound: dict[bytes | None, Callable[[], ShareKeys]], name: bytes | None, read: Callable[[], ShareKeys]
) -> None:
    if name in bound:
        whom = "all shares" if name is None else f"the share {values.printable(name)!r}"
        raise UserError(f"two keys are given for {whom}: a share has one", Exit.USAGE)
    bound[name] = read


def _binding(option: str, text: str, names: Collection[bytes]) -> tuple[bytes | None, Path]:
    """The share of `NAME=FILE`, or None for `FILE`. A name has no slash in it, so a path with one is no doubt a path;
    what looks like a name that is misspelt is an error: else a share would have another key than was meant."""
    raw = os.fsencode(text)
    for name in sorted(names, key=len, reverse=True):
        if raw.startswith(name + b"="):
            return name, _path(option, raw[len(name) + 1 :])
    before, equals, _ = text.partition("=")
    if equals and "/" not in before:
        raise UserError(
            f"{option} {text}: no PATH is the share {before!r} (a file of that name is ./{text})", Exit.USAGE
        )
    return None, _path(option, raw)


def _path(option: str, raw: bytes) -> Path:
    try:
        return values.parse_path(os.fsdecode(raw))
    except ValueError as error:
        raise UserError(f"{option}: {error}", Exit.USAGE) from None


def _of_password(password: bytes, source: str) -> ShareKeys:
    keys = _derived(keys_of_password, password, source)
    if len(password) < WEAK:
        log.warning("%s: who hears the link can try passwords, and a short one is soon found", source)
    return keys


def _derived(derive: Callable[[bytes], ShareKeys], secret: bytes, source: str) -> ShareKeys:
    try:
        return derive(secret)
    except ValueError as error:
        raise UserError(f"{source} {error}") from None


def _read(path: Path, limit: int) -> bytes:
    """At most one byte more than the limit, so that what is too long can be told. A pipe is as good as a file."""
    try:
        with open(path, "rb") as file:
            about = os.fstat(file.fileno())
            if stat.S_ISREG(about.st_mode) and about.st_mode & 0o077:
                log.warning("%s: others may read it (mode %04o): chmod 600", path, about.st_mode & 0o7777)
            return file.read(limit + 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
