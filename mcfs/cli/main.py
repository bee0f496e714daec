"""The command `mcfs`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from mcfs import __version__
from mcfs.cli import _environment as _environment
from mcfs.cli import terminal, values
from mcfs.cli.cache import cache
from mcfs.cli.doctor import doctor
from mcfs.cli.fetch import fetch
from mcfs.cli.keygen import keygen
from mcfs.cli.ls import ls
from mcfs.cli.mount import mount
from mcfs.cli.mount_helper import ALL_SHARES
from mcfs.cli.pin import pin, unpin
from mcfs.cli.simulate import simulate
from mcfs.cli.umount import umount

if TYPE_CHECKING:
    from collections.abc import Sequence

DEMO_SIZE: Final = 512 << 20


@click.group(context_settings=terminal.HELP_NAMES)
@click.version_option(__version__, "--version", "-V", message="%(prog)s %(version)s")
def mcfs() -> None:
    """Read files that are shared over IPv6 multicast.

    `mcfs SHARE DIR -o OPTIONS` without a command mounts, as mount(8) needs it for the type fuse.mcfs.
    """


@mcfs.command(context_settings=terminal.HELP_NAMES)
@click.argument("path", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--clients", type=click.IntRange(1, 16), default=3, show_default=True, help="How many clients copy.")
@click.option("--size", type=values.SIZE, default=DEMO_SIZE, help="Size of the large file, without PATH (512M).")
@click.option("--rate", metavar="RATE", help="Sending rate of the server, like 800M or 2.5G.")
@click.option("--loss", type=click.FloatRange(0, 50), default=0.0, help="Per cent of datagrams lost at each client.")
@click.option("--keep", is_flag=True, help="Keep the copies.")
def demo(path: Path | None, clients: int, size: int, rate: str | None, loss: float, keep: bool) -> int:
    """Serve PATH, or a sample, to clients in network namespaces of their own; copy, compare, and show the figures."""
    if rate is not None:
        _check_rate(rate)
    from mcfs.cli.demo import demo as run_demo

    return run_demo(path, clients=clients, size=size, rate=rate, loss=loss, keep=keep)


def _check_rate(rate: str) -> None:
    try:
        values.parse_rate(rate)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--rate") from None


mcfs.add_command(mount)
mcfs.add_command(umount)
mcfs.add_command(ls)
mcfs.add_command(cache)
mcfs.add_command(fetch)
mcfs.add_command(pin)
mcfs.add_command(unpin)
mcfs.add_command(keygen)
mcfs.add_command(doctor)
mcfs.add_command(simulate)


def with_command(arguments: Sequence[str]) -> list[str]:
    """The command line with the command that it means: without one, SHARE DIR or DIR is a mount."""
    words = list(arguments)
    if not words or words[0].startswith("-") or words[0] in mcfs.commands:
        return words
    if len(words) > 1 and not words[1].startswith("-"):
        return ["mount", *(words[1:] if os.fsencode(words[0]) in ALL_SHARES else words)]
    return ["mount", *words] if os.path.isdir(words[0]) else words


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    terminal.run(mcfs, "mcfs", with_command(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    main()
