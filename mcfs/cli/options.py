"""Mount options: what may stand in ``-o``, in a line of fstab, or as a long option of ``mcfs mount``.

An option list is text between commas. A backslash takes the next character as it is, so ``\\,`` is a comma within a
value and ``\\\\`` a backslash, as libfuse reads it; double quotes keep commas within a value, as libmount reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from mcfs.cli import values
from mcfs.cli.exits import Exit
from mcfs.protocol.addressing import SITE_LOCAL
from mcfs.protocol.errors import UserError
from mcfs.protocol.wire import DEFAULT_PORT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

OptionValue: TypeAlias = "str | int | float | bool | Path | tuple[str, ...] | tuple[Path, ...] | None"


@dataclass(frozen=True, slots=True)
class MountOptions:
    cache_dir: Path | None = None
    """None: the default of the user."""
    cache_max: int | None = None
    """Bytes; None: 10 % of the file system, 20 GiB at most."""
    cache_min_free: int | None = None
    """Bytes; None: 1 % of the file system, 512 MiB at most."""
    timeout: float = 30.0
    max_wait: float | None = None
    """None: 300 seconds, and longer for what is sent round and round."""
    max_groups: int = 64
    iface: tuple[str, ...] = ()
    """Names of interfaces; none means all that are suited."""
    port: int = DEFAULT_PORT
    scope: int = SITE_LOCAL
    allow_other: bool = False
    uid: int | None = None
    gid: int | None = None
    noxattr: bool = False
    entry_timeout: float = 1.0
    debug: bool = False
    noexec: bool = False
    keyfile: tuple[Path, ...] = ()
    password_file: tuple[Path, ...] = ()
    known_publishers: Path | None = None
    """None: the default of the user."""
    publisher_key: str | None = None
    """A fingerprint."""
    strict: bool = False
    symlinks: str = "contain"


@dataclass(frozen=True, slots=True)
class Option:
    """An option that mcfs acts on."""

    name: str
    parse: Callable[[str], OptionValue] | None
    """None: a flag, which takes no value."""
    metavar: str
    help: str


OPTIONS: Final = (
    Option("cache_dir", values.parse_path, "DIR", "Where what was received is kept."),
    Option("cache_max", values.parse_size, "SIZE", "Most that the cache takes on the disk (10 %, 20G at most)."),
    Option("cache_min_free", values.parse_size, "SIZE", "What the cache leaves free on the disk (1 %, 512M at most)."),
    Option("timeout", values.parse_seconds, "SECONDS", "How long nothing may be heard before a read fails (30)."),
    Option("max_wait", values.parse_seconds, "SECONDS", "How long a read may take at all (300)."),
    Option("max_groups", values.parse_groups, "N", "Multicast groups joined at a time, 1 to 256 (64)."),
    Option("iface", values.parse_interfaces, "IFACE[:IFACE]...", "Interfaces to use; default: all that are suited."),
    Option("port", values.parse_port, "PORT", f"UDP port ({DEFAULT_PORT})."),
    Option("scope", values.parse_scope, "SCOPE", "Scope of the groups: 3 to 14, site, organization... (5, site)."),
    Option("allow_other", None, "", "Let other users see the files, with the permissions that the files have."),
    Option("uid", values.parse_uid, "USER", "The owner of all files."),
    Option("gid", values.parse_gid, "GROUP", "The group of all files."),
    Option("noxattr", None, "", "No extended attributes: `ls -l` of large directories is faster."),
    Option("entry_timeout", values.parse_seconds, "SECONDS", "How long the kernel keeps names and attributes (1)."),
    Option("debug", None, "", "Stay in the foreground and print what happens."),
    Option("noexec", None, "", "No program on the file system may be run."),
    Option("keyfile", values.parse_file, "FILE", "A share key, of 32 bytes or more; may be repeated."),
    Option("password_file", values.parse_file, "FILE", "A password that is a share key; may be repeated."),
    Option("known_publishers", values.parse_path, "FILE", "Where publishers of shares are remembered."),
    Option("publisher_key", values.parse_publisher_key, "KEY|FILE", "The only publisher to believe, by its key."),
    Option("strict", None, "", "Refuse publishers that are not known."),
    Option("symlinks", values.parse_symlinks, "WHAT", "Links that lead out of their share: contain, keep, hide."),
)
BY_NAME: Final = {option.name: option for option in OPTIONS}

_IGNORED_FLAGS: Final = frozenset(
    (  # noqa: SIM905 - forty quoted words in a column are hard to read
        "ro rw suid nosuid dev nodev exec sync async dirsync silent loud iversion noiversion mand nomand "
        "atime noatime diratime nodiratime relatime norelatime strictatime nostrictatime lazytime nolazytime "
        "user nouser users nousers owner noowner group nogroup auto noauto defaults _netdev nofail default_permissions"
    ).split()
)
"""Standard options without effect here. The file system is always read-only, nosuid and nodev, so has no access times
to write; the others are for mount(8) and systemd, which do not always keep them to themselves."""
_IGNORED_PREFIXES: Final = ("x-", "X-")
_IGNORED_VALUES: Final = frozenset({"comment", "fsname", "subtype", "user", "helper", "uhelper"})
REPEATED: Final = frozenset({"iface", "keyfile", "password_file"})
"""Options whose values add up; of any other the last one counts."""


def split_options(text: str) -> list[str]:
    """The items of an option list, with escapes still in place. Raises UserError for a quote that does not end."""
    items: list[str] = []
    current: list[str] = []
    quoted = escaped = False
    for character in text:
        if character == "," and not (quoted or escaped):
            items.append("".join(current))
            current = []
            continue
        if character == '"' and not escaped:
            quoted = not quoted
        else:
            current.append(character)
        escaped = character == "\\" and not escaped
    if quoted:
        raise UserError(f"mount options {text!r}: a quote does not end", Exit.USAGE)
    return [item for item in [*items, "".join(current)] if item]


def escape_value(value: str) -> str:
    """The value as it must be written in an option list."""
    return "".join("\\" + character if character in '\\,"' else character for character in value)


def unescape_value(text: str) -> str:
    """The reverse of `escape_value`; a backslash at the end stands for itself."""
    rest = iter(text)
    return "".join(next(rest, "\\") if character == "\\" else character for character in rest)


def parse_options(lists: Iterable[str], *, sloppy: bool = False) -> dict[str, OptionValue]:
    """The values that option lists set, by name. Raises UserError that names the option.

    `sloppy` (mount(8) -s) passes over options that are not known; the value of a known one must still be right.
    """
    found: dict[str, OptionValue] = {}
    for item in (item for text in lists for item in split_options(text)):
        name, equals, value = item.partition("=")
        if option := BY_NAME.get(name.replace("-", "_")):
            _merge(found, option.name, _value(option, unescape_value(value) if equals else None))
        elif not _ignored(name, bool(equals)) and not sloppy:
            raise UserError(f"unknown mount option {unescape_value(item)!r}", Exit.USAGE)
    return found


def _ignored(name: str, has_value: bool) -> bool:
    if name.startswith(_IGNORED_PREFIXES):
        return True
    return name in (_IGNORED_VALUES if has_value else _IGNORED_FLAGS)


def _value(option: Option, text: str | None) -> OptionValue:
    if option.parse is None:
        if text is not None:
            raise UserError(f"mount option {option.name!r} takes no value", Exit.USAGE)
        return True
    if text is None:
        raise UserError(f"mount option {option.name!r} needs a value: {option.name}={option.metavar}", Exit.USAGE)
    try:
        return option.parse(text)
    except ValueError as error:
        raise UserError(f"mount option {option.name!r}: {error}", Exit.USAGE) from None


def _merge(found: dict[str, OptionValue], name: str, value: OptionValue) -> None:
    earlier = found.get(name)
    if name in REPEATED and isinstance(earlier, tuple) and isinstance(value, tuple):
        value = (*earlier, *value)
    found[name] = value


def mount_options(lists: Sequence[str], given: Mapping[str, OptionValue], *, sloppy: bool = False) -> MountOptions:
    """Option lists and long options together; a long option counts more than ``-o``. Raises UserError."""
    found = parse_options(lists, sloppy=sloppy)
    for name, value in given.items():
        _merge(found, name, value)
    return MountOptions(**found)  # type: ignore[arg-type]  # each parser gives its field's type: tested field by field


def format_options(options: MountOptions) -> str:
    """An option list that means these options; without what is as by default."""
    default = MountOptions()
    pairs = ((field.name, getattr(options, field.name)) for field in fields(options))
    return ",".join(_format(name, value) for name, value in pairs if value != getattr(default, name))


def _format(name: str, value: OptionValue) -> str:
    if value is True:
        return name
    if not isinstance(value, tuple):
        return f"{name}={escape_value(str(value))}"
    if value and isinstance(value[0], Path):
        return ",".join(f"{name}={escape_value(str(path))}" for path in value)
    return f"{name}={escape_value(':'.join(map(str, value)))}"
