"""`mcfs ls`: shares, or a directory of one, without mounting."""

from __future__ import annotations

import logging
import os
import stat
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import trio

from mcfs.cli import share_keys, terminal, values
from mcfs.cli.mount import hear, trust
from mcfs.net.interfaces import choose
from mcfs.protocol.addressing import SITE_LOCAL
from mcfs.protocol.catalog import DirectoryEntry, FileEntry, LinkEntry
from mcfs.protocol.errors import UserError
from mcfs.protocol.publisher import fingerprint, format_fingerprint
from mcfs.protocol.wire import DEFAULT_PORT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mcfs.fetch.shares import Standing
    from mcfs.fuse.backend import Backend
    from mcfs.net.client import ClientSettings
    from mcfs.protocol.announce import Announcement
    from mcfs.protocol.catalog import Entry

DEFAULT_WAIT: Final = 2.5
"""Seconds that shares are listened for: each is announced every second, and one announcement may be lost."""
_FILE_TYPES: Final = {FileEntry: stat.S_IFREG, DirectoryEntry: stat.S_IFDIR, LinkEntry: stat.S_IFLNK}


@dataclass(frozen=True, slots=True)
class Style:
    human: bool
    """Sizes like 1.5K."""
    escape: bool
    """Names made safe for a terminal."""

    def size(self, size: int) -> str:
        return values.format_size(size) if self.human else str(size)

    def name(self, name: bytes) -> str:
        return values.printable(name) if self.escape else os.fsdecode(name)


@click.command(context_settings={"help_option_names": ["--help"]})
@click.argument("place", required=False, metavar="[SHARE[/PATH]]")
@click.option(
    "-i", "--interface", "--iface", "interfaces", type=values.INTERFACES, multiple=True, help="Where to listen."
)
@click.option("-h", "--human", is_flag=True, help="Sizes like 1.5K and 2.0G.")
@click.option(
    "--wait", type=values.SECONDS, default=DEFAULT_WAIT, show_default=True, help="How long to listen for shares."
)
@click.option("--timeout", type=values.SECONDS, default=30.0, show_default=True, help="How long to wait for SHARE.")
@click.option("--port", type=values.PORT, default=DEFAULT_PORT, show_default=True, help="UDP port.")
@click.option("--scope", type=values.SCOPE, default=SITE_LOCAL, show_default=True, help="Scope of the groups.")
@click.option("--keyfile", "keyfiles", type=values.FILE, multiple=True, metavar="FILE", help="A share key.")
@click.option(
    "--password-file",
    "password_files",
    type=values.FILE,
    multiple=True,
    metavar="FILE",
    help="A password that is a share key.",
)
@click.option("--password", "ask_password", is_flag=True, help="Ask for a password that is a share key.")
@click.option("--known-publishers", type=values.DIRECTORY, metavar="FILE", help="Where publishers are remembered.")
@click.option("--publisher-key", type=values.PUBLISHER_KEY, metavar="KEY|FILE", help="The only publisher to believe.")
@click.option("--strict", is_flag=True, help="Refuse publishers that are not known.")
@click.option("-d", "--debug", is_flag=True, help="Print what happens.")
def ls(
    place: str | None,
    interfaces: tuple[tuple[str, ...], ...],
    human: bool,
    wait: float,
    timeout: float,
    port: int,
    scope: int,
    keyfiles: tuple[Path, ...],
    password_files: tuple[Path, ...],
    ask_password: bool,
    known_publishers: Path | None,
    publisher_key: str | None,
    strict: bool,
    debug: bool,
) -> None:
    """List the shares that are heard, or what is in SHARE or at PATH in it."""
    from mcfs.net.client import ClientSettings

    terminal.log_to_stderr("mcfs", logging.DEBUG if debug else logging.WARNING)
    names = [name for several in interfaces for name in several]
    keys = share_keys.client_keys(keyfiles, password_files, prompt=ask_password)
    with tempfile.TemporaryDirectory(prefix="mcfs-ls-") as cache:
        settings = ClientSettings(
            interfaces=choose(names).chosen,
            port=port,
            scope=scope,
            cache_dir=Path(cache),
            timeout=timeout,
            catalogue=place is None,
            interface_names=tuple(names),
            keys=keys,
            trust=trust(known_publishers, publisher_key, strict=strict, remember=False),
        )
        style = Style(human, escape=sys.stdout.isatty())
        if place is None:
            write_lines(trio.run(_list_shares, settings, wait, style))
        else:
            write_lines(trio.run(_list_place, settings, os.fsencode(place), style))


def write_lines(lines: Iterable[str]) -> None:
    """Names are bytes: what is not UTF-8 goes out as it came."""
    sys.stdout.flush()
    for line in lines:
        sys.stdout.buffer.write(os.fsencode(line) + b"\n")


async def _list_shares(settings: ClientSettings, wait: float, style: Style) -> list[str]:
    from mcfs.net.client import open_client

    async with open_client(settings) as client:
        await trio.sleep(wait)
        return share_table(client.publishers(), style)


async def _list_place(settings: ClientSettings, place: bytes, style: Style) -> list[str]:
    from mcfs.net.client import open_client

    async with open_client(settings) as client:
        return await list_place(client, place, settings, style)


async def list_place(client: Backend, place: bytes, settings: ClientSettings, style: Style) -> list[str]:
    """The lines for SHARE or SHARE/PATH. Raises UserError when it is not there, or the share is not heard."""
    share, *path = [part for part in place.split(b"/") if part and part != b"."] or [place]
    announcement = await hear(client, share, settings)
    entry = await _find(client, share, announcement.entry, path)
    if isinstance(entry, DirectoryEntry):
        return entry_table(await client.entries(share, entry.content), style)
    return entry_table([entry], style)


async def _find(client: Backend, share: bytes, entry: Entry, path: Sequence[bytes]) -> Entry:
    """Links on the way are not followed: where they lead is for the machine that mounts."""
    passed = share
    for name in path:
        if not isinstance(entry, DirectoryEntry):
            raise UserError(f"{values.printable(passed)}: not a directory")
        passed += b"/" + name
        found = [child for child in await client.entries(share, entry.content) if child.name == name]
        if not found:
            raise UserError(f"{values.printable(passed)}: no such file or directory")
        entry = found[0]
    return entry


# --- tables ----------------------------------------------------------------------------------------------------------


def share_table(heard: Sequence[tuple[Announcement, Standing]], style: Style) -> list[str]:
    """A line for each name and publisher; `known`, `new` or `other` stands before the fingerprint."""
    rows = [["NAME", "KIND", "FILES", "BYTES", "VERSION", "PUBLISHER", ""]] if heard else []
    rows += [_share_row(announcement, standing, style) for announcement, standing in heard]
    return _align(rows, right=(2, 3))


def _share_row(announcement: Announcement, standing: Standing, style: Style) -> list[str]:
    return [
        style.name(announcement.name),
        "dir" if isinstance(announcement.entry, DirectoryEntry) else "file",
        str(announcement.total_files),
        style.size(announcement.total_bytes),
        _time(announcement.version // 1000),
        standing.value,
        format_fingerprint(fingerprint(announcement.publisher)),
    ]


def entry_table(entries: Iterable[Entry], style: Style) -> list[str]:
    """Mode, size, time of change and name, as `ls -l` prints them."""
    return _align([_entry_row(entry, style) for entry in entries], right=(1,))


def _entry_row(entry: Entry, style: Style) -> list[str]:
    a = entry.attributes
    target = f" -> {style.name(entry.target)}" if isinstance(entry, LinkEntry) else ""
    size = style.size(entry.size) if isinstance(entry, FileEntry) else "-"
    mode = stat.filemode(_FILE_TYPES[type(entry)] | a.mode)
    return [mode, size, _time(a.mtime_ns // 1_000_000_000), style.name(entry.name) + target]


def _time(seconds: int) -> str:
    """Local time; what a publisher can write may be more than a calendar holds."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def _align(rows: Sequence[Sequence[str]], right: tuple[int, ...]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [_line(row, widths, right) for row in rows]


def _line(row: Sequence[str], widths: Sequence[int], right: tuple[int, ...]) -> str:
    cells: list[Callable[[int], str]] = [cell.rjust if i in right else cell.ljust for i, cell in enumerate(row)]
    return "  ".join(cell(width) for cell, width in zip(cells, widths, strict=True)).rstrip(" ")
