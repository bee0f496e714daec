"""The command `mcfs-serve`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from mcfs import __version__
from mcfs.cli import _environment as _environment
from mcfs.cli import places, terminal, values
from mcfs.cli.exits import Exit
from mcfs.protocol.addressing import SITE_LOCAL
from mcfs.protocol.errors import UserError
from mcfs.protocol.ids import DEFAULT_BLOCK_SIZE
from mcfs.protocol.wire import DEFAULT_PORT
from mcfs.serve.listening import DEFAULT_LISTENERS, KINDS, MAX_LISTENERS, MIN_LISTENERS
from mcfs.serve.membership import QUERY_INTERVAL

if TYPE_CHECKING:
    import pwd
    from collections.abc import Sequence

    from mcfs.serve.listening import Kind
    from mcfs.serve.querier import Mode

DEFAULT_HOPS: Final = 1
"""This link and no further; with MLD proxies between (RFC 4605) one more for each router."""


@dataclass(frozen=True, slots=True)
class ServeRequest:
    """What the user asks of `mcfs-serve`, checked."""

    paths: tuple[Path, ...]
    """Absolute."""
    name: bytes | None
    """Of the share of a single path; None: the path's last component."""
    interfaces: tuple[str, ...]
    """None named means all that are suited."""
    rate: int | None
    """Bits per second; None: 95 % of the link's speed."""
    block_size: int
    scope: int
    hops: int
    port: int
    mtu: int | None
    querier: Mode
    query_interval: float
    """Seconds."""
    state_dir: Path
    signing_key: Path | None
    """A file; None: that in the state directory."""
    keyfiles: tuple[str, ...]
    """FILE, or NAME=FILE."""
    password_files: tuple[str, ...]
    ask_password: bool
    previous_keys: tuple[Path, ...]
    """Files of the keys that the publisher had before, oldest first."""
    always: bool
    """Send everything round and round, whoever listens."""
    listeners: Kind
    listeners_size: int
    user: pwd.struct_passwd | None = None
    """Whom to become; None: stay who we are."""
    fixed_interfaces: bool = False
    """Serve no interface that comes later, so that no capability has to be kept."""
    watch: bool = True
    """Look for changes while serving."""


@click.command(context_settings=terminal.HELP_NAMES)
@click.version_option(__version__, "--version", "-V", message="%(prog)s %(version)s")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(exists=True, path_type=Path))
@click.option(
    "-i",
    "--interface",
    "--iface",
    "interfaces",
    type=values.INTERFACES,
    multiple=True,
    metavar="IFACE",
    help="Interface to serve on, may be repeated; default: all that are suited.",
)
@click.option("--name", type=values.SHARE_NAME, metavar="NAME", help="Name of the share, for a single PATH.")
@click.option(
    "--rate",
    type=values.RATE,
    metavar="RATE",
    help="Bits per second, like 800M or 2.5G; default: 95 % of the link's speed.",
)
@click.option(
    "--block-size",
    type=values.BLOCK_SIZE,
    metavar="SIZE",
    default=DEFAULT_BLOCK_SIZE,
    help="A power of two from 64K to 16M (1M).",
)
@click.option(
    "--scope",
    type=values.SCOPE,
    metavar="SCOPE",
    default=SITE_LOCAL,
    help="Scope of the groups: 3 to 14, or realm, admin, site, organization, global (5, site).",
)
@click.option("--hops", type=values.HOPS, metavar="N", default=DEFAULT_HOPS, show_default=True, help="Hop limit.")
@click.option("--port", type=values.PORT, metavar="PORT", default=DEFAULT_PORT, show_default=True, help="UDP port.")
@click.option(
    "--mtu", type=values.MTU, metavar="BYTES", help="Largest packet; default: the interface's MTU, at most 1500."
)
@click.option(
    "--signing-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The publisher's key, for several servers of one share; default: publisher.key in the state directory.",
)
@click.option(
    "--keyfile",
    "keyfiles",
    multiple=True,
    metavar="[NAME=]FILE",
    help="A share key, of 32 bytes or more, for all shares or the one of this name; may be repeated.",
)
@click.option(
    "--password-file",
    "password_files",
    multiple=True,
    metavar="[NAME=]FILE",
    help="The same with a password in the file.",
)
@click.option("--password", "ask_password", is_flag=True, help="Ask for the password of all shares.")
@click.option(
    "--previous-key",
    "previous_keys",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="A key that the publisher had before: who knows it learns of the new one. Repeated: the oldest first.",
)
@click.option(
    "--always",
    is_flag=True,
    help="Send everything round and round at --rate, for links on which listeners cannot be heard.",
)
@click.option(
    "--querier",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Whether to send MLD queries; auto: unless a router of a lower address does.",
)
@click.option(
    "--query-interval",
    type=values.QUERY_INTERVAL,
    metavar="SECONDS",
    default=round(QUERY_INTERVAL),
    show_default=True,
    help="Between two general queries.",
)
@click.option("--state-dir", type=values.DIRECTORY, metavar="DIR", help="Where the index and the key are kept.")
@click.option(
    "--listeners",
    type=click.Choice(KINDS),
    default="exact",
    help="How to remember who listens: exactly, or in a Bloom filter of fixed size (exact).",
)
@click.option(
    "--listeners-size",
    type=click.IntRange(MIN_LISTENERS, MAX_LISTENERS),
    metavar="N",
    help=f"Listeners on an interface, for --listeners bloom: groups times hosts ({DEFAULT_LISTENERS}).",
)
@click.option("--user", type=values.USER, metavar="USER", help="Become this user before any file is read; for root.")
@click.option(
    "--fixed-interfaces",
    is_flag=True,
    help="Serve the interfaces that are there at the start and no others; then no capability is kept.",
)
@click.option(
    "--no-watch",
    is_flag=True,
    help="Do not look for changes: they are published when SIGHUP comes, or at the next start.",
)
@click.option("-v", "--verbose", count=True, help="Say more; twice: debug.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings and errors.")
def serve(
    paths: tuple[Path, ...],
    interfaces: tuple[tuple[str, ...], ...],
    name: bytes | None,
    rate: int | None,
    block_size: int,
    scope: int,
    hops: int,
    port: int,
    mtu: int | None,
    querier: Mode,
    query_interval: int,
    state_dir: Path | None,
    signing_key: Path | None,
    keyfiles: tuple[str, ...],
    password_files: tuple[str, ...],
    ask_password: bool,
    previous_keys: tuple[Path, ...],
    always: bool,
    listeners: Kind,
    listeners_size: int | None,
    user: pwd.struct_passwd | None,
    fixed_interfaces: bool,
    no_watch: bool,
    verbose: int,
    quiet: bool,
) -> int:
    """Serve each PATH, a directory or a file, as a share named by its last component."""
    if quiet and verbose:
        raise click.UsageError("-v and -q exclude each other")
    if always and rate is None:
        raise click.UsageError("--always sends without end, so it needs --rate")
    if listeners_size is not None and listeners != "bloom":
        raise click.UsageError("--listeners-size is for --listeners bloom")
    absolute = tuple(Path(os.path.abspath(path)) for path in paths)
    check_names(absolute, name)
    request = ServeRequest(
        interfaces=tuple(one for several in interfaces for one in several),
        rate=rate,
        block_size=block_size,
        scope=scope,
        hops=hops,
        port=port,
        mtu=mtu,
        querier=querier,
        query_interval=query_interval,
        state_dir=state_dir or places.state_dir(os.environ, os.geteuid()),
        signing_key=signing_key,
        keyfiles=keyfiles,
        password_files=password_files,
        ask_password=ask_password,
        previous_keys=previous_keys,
        always=always,
        name=name,
        paths=absolute,
        listeners=listeners,
        listeners_size=listeners_size or DEFAULT_LISTENERS,
        user=user,
        fixed_interfaces=fixed_interfaces,
        watch=not no_watch,
    )
    from mcfs.cli.serve_run import run

    return run(request, -1 if quiet else verbose) or Exit.OK


def check_names(paths: Sequence[Path], name: bytes | None) -> None:
    """Every path has the name of a share, and no two have the same. Raises UserError."""
    if name is not None:
        if len(paths) > 1:
            raise UserError("--name is for a single PATH", Exit.USAGE)
        return
    seen: dict[str, Path] = {}
    for path in paths:
        if not path.name:
            raise UserError(f"{path} has no last component to name the share: say --name", Exit.USAGE)
        other = seen.setdefault(path.name, path)
        if other is not path:
            raise UserError(f"{other} and {path} would both be the share {path.name!r}", Exit.USAGE)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    terminal.run(serve, "mcfs-serve", arguments)


if __name__ == "__main__":
    main()
