"""The values that commands take: rates, sizes, names of shares; how they are read and how they are printed.

Parsers take the text of one value and raise ValueError with what would be right; `Value` makes a click type of one.
"""

from __future__ import annotations

import math
import os
import pwd
import re
from contextlib import suppress
from decimal import Decimal
from grp import getgrnam
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mcfs.protocol.addressing import SCOPES
from mcfs.protocol.announce import MAX_SHARE_NAME
from mcfs.protocol.ids import MAX_BLOCK_SIZE, MIN_BLOCK_SIZE, is_block_size
from mcfs.protocol.printable import printable as printable
from mcfs.protocol.publisher import format_fingerprint, parse_publisher
from mcfs.protocol.wire import MIN_MTU
from mcfs.serve.querier import MAX_QUERY_INTERVAL, MIN_QUERY_INTERVAL

if TYPE_CHECKING:
    from collections.abc import Callable

    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # generic for type checkers only, before click 8.4

MAX_MTU: Final = 65535
"""The IPv6 payload length field has 16 bits (RFC 8200 section 3)."""
MAX_SECONDS: Final = 10 * 365 * 86400
_RATE_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_NUMBER: Final = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?([kmgt]?)(i?b?|bit|bit/s|bps)", re.ASCII | re.IGNORECASE)
_MAX_KEY_FILE: Final = 65536
SYMLINKS: Final = ("contain", "keep", "hide")
_SCOPE_NAMES: Final = {"realm": 3, "admin": 4, "site": 5, "organization": 8, "global": 14}
"""RFC 7346 section 2."""


class Value(_ParamType):
    """A click type from a parser; what is not text is a default and passes."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _scaled(text: str, units: dict[str, int], suffixes: frozenset[str], example: str) -> int:
    match = _NUMBER.fullmatch(text.strip())
    if not match or match[3].lower() not in suffixes:
        raise ValueError(f"{text!r} is not a number like {example}")
    return int(Decimal(match[1]) * units[match[2].upper()])


def parse_rate(text: str) -> int:
    """Bits per second; units are decimal: 800M, 2.5G."""
    rate = _scaled(text, _RATE_UNITS, frozenset({"", "bit", "bit/s", "bps"}), "800M or 2.5G (bits per second)")
    if rate < 1000:
        raise ValueError(f"{text!r} is less than 1K (1,000 bits per second)")
    return rate


def parse_size(text: str) -> int:
    """Bytes; units are binary: 64K is 65,536."""
    return _scaled(text, _SIZE_UNITS, frozenset({"", "b", "ib"}), "64K or 1M (bytes)")


def parse_block_size(text: str) -> int:
    size = parse_size(text)
    if not is_block_size(size):
        smallest, largest = format_size(MIN_BLOCK_SIZE), format_size(MAX_BLOCK_SIZE)
        raise ValueError(f"{text!r} is not a power of two from {smallest} to {largest}")
    return size


def parse_integer(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers from low to high."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


parse_port = parse_integer(1, 65535)
parse_hops = parse_integer(1, 255)
parse_mtu = parse_integer(MIN_MTU, MAX_MTU)
parse_groups = parse_integer(1, 256)
"""256 is the cap per host: beyond it the kernel's walk of its group list costs more than the packet itself."""


def parse_scope(text: str) -> int:
    """A multicast scope, as a number or by its name in RFC 7346."""
    if text in _SCOPE_NAMES:
        return _SCOPE_NAMES[text]
    try:
        return parse_integer(SCOPES[0], SCOPES[-1])(text)
    except ValueError:
        names = ", ".join(_SCOPE_NAMES)
        raise ValueError(f"{text!r} is not a scope from {SCOPES[0]} to {SCOPES[-1]}, nor one of {names}") from None


parse_query_interval = parse_integer(MIN_QUERY_INTERVAL, MAX_QUERY_INTERVAL)


def parse_seconds(text: str) -> float:
    """A time span of more than nothing."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"{text!r} is not a number of seconds")
    return seconds


def parse_uid(text: str) -> int:
    """A user's number or name."""
    return _account(text, lambda name: pwd.getpwnam(name).pw_uid, "user")


def parse_gid(text: str) -> int:
    """A group's number or name."""
    return _account(text, lambda name: getgrnam(name).gr_gid, "group")


def parse_user(text: str) -> pwd.struct_passwd:
    """A user by number or name, who has an entry in the user database."""
    try:
        return pwd.getpwuid(parse_uid(text))
    except KeyError:
        raise ValueError(f"there is no user {text!r}") from None


def _account(text: str, number_of: Callable[[str], int], kind: str) -> int:
    if re.fullmatch(r"\d{1,10}", text, re.ASCII) and int(text) < 0xFFFFFFFF:
        return int(text)
    try:
        return number_of(text)
    except KeyError:
        raise ValueError(f"there is no {kind} {text!r}") from None


def parse_path(text: str) -> Path:
    """A path, made absolute at once: a daemon changes its directory."""
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is not a path")
    return Path(os.path.abspath(_home_expanded(text) if text.startswith("~") else text))


def _home_expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{text!r}: the home directory is not known") from None


def parse_file(text: str) -> tuple[Path, ...]:
    """A path of an option that may be repeated."""
    return (parse_path(text),)


def parse_interfaces(text: str) -> tuple[str, ...]:
    """Names of interfaces between colons."""
    names = tuple(name for name in text.split(":") if name)
    if not names:
        raise ValueError(f"{text!r} names no network interface")
    return names


def parse_symlinks(text: str) -> str:
    """What becomes of symbolic links: see `mcfs.fuse.links`."""
    if text not in SYMLINKS:
        raise ValueError(f"{text!r} is not one of {', '.join(SYMLINKS)}")
    return text


def parse_share_name(text: str) -> bytes:
    """The name of a share: what can be the name of a directory entry."""
    name = os.fsencode(text)
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise ValueError(f"{printable(name)!r} cannot be the name of a share")
    if len(name) > MAX_SHARE_NAME:
        raise ValueError(f"the name of a share has at most {MAX_SHARE_NAME} bytes")
    return name


def parse_publisher_key(text: str) -> str:
    """The fingerprint of a key, a fingerprint, or either in a text file (what `mcfs keygen` prints is one)."""
    with suppress(ValueError):
        return format_fingerprint(parse_publisher(text))
    path = parse_path(text)
    try:
        with open(path, "rb") as file:
            words = file.read(_MAX_KEY_FILE).decode().split()
    except OSError as error:
        kinds = "a fingerprint (SHA256:...), a public key, or a file with one of them"
        raise ValueError(f"{text!r} is not {kinds} ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError(
            f"{text!r} is not text; `mcfs keygen --show` prints the fingerprint of a signing key"
        ) from None
    found = set()
    for word in words:
        with suppress(ValueError):
            found.add(parse_publisher(word))
    if len(found) != 1:
        raise ValueError(f"{text!r} holds {len(found) or 'no'} publishers' keys and has to hold one")
    return format_fingerprint(found.pop())


RATE: Final = Value("rate", parse_rate)
BLOCK_SIZE: Final = Value("size", parse_block_size)
SIZE: Final = Value("size", parse_size)
PORT: Final = Value("port", parse_port)
HOPS: Final = Value("hops", parse_hops)
MTU: Final = Value("bytes", parse_mtu)
SCOPE: Final = Value("scope", parse_scope)
SECONDS: Final = Value("seconds", parse_seconds)
QUERY_INTERVAL: Final = Value("seconds", parse_query_interval)
USER: Final = Value("user", parse_user)
DIRECTORY: Final = Value("dir", parse_path)
FILE: Final = Value("file", parse_path)
INTERFACES: Final = Value("iface", parse_interfaces)
SHARE_NAME: Final = Value("name", parse_share_name)
PUBLISHER_KEY: Final = Value("key", parse_publisher_key)


# --- printing --------------------------------------------------------------------------------------------------------


def format_size(size: int) -> str:
    """Bytes for people, as `ls -h` prints them: 512, 1.5K, 64K, 2.0M."""
    value, unit = float(size), ""
    for unit in ("", "K", "M", "G", "T", "P", "E"):
        if math.ceil(value) < 1024 or unit == "E":
            break
        value /= 1024
    if not unit:
        return str(size)
    tenths = math.ceil(value * 10)
    return f"{math.ceil(value)}{unit}" if tenths >= 100 else f"{tenths / 10:.1f}{unit}"


def format_rate(rate: int) -> str:
    """Bits per second for people: 950 Mbit/s, 2.5 Gbit/s."""
    for unit, factor in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if rate >= factor:
            return f"{rate / factor:.3g} {unit}bit/s" if rate < 1000 * factor else f"{rate / factor:.0f} {unit}bit/s"
    return f"{rate} bit/s"
