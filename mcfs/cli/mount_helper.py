"""`mount.mcfs`: how mount(8) calls mcfs for a line of fstab of type mcfs.

    mount.mcfs SHARE DIR [-sfnv] [-N namespace] [-o options] [-t type.subtype]

SHARE is `none` or `mcfs` for all shares: the field must not be empty.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Final, NoReturn

import click

from mcfs.cli import _environment as _environment
from mcfs.cli import terminal, values
from mcfs.cli.mount import Request, perform
from mcfs.cli.options import mount_options

if TYPE_CHECKING:
    from collections.abc import Sequence

ALL_SHARES: Final = frozenset({b"none", b"mcfs"})
"""What stands in the first field of fstab when there is no share."""
_CLONE_NEWNS: Final = 0x20000
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@click.command(context_settings=terminal.HELP_NAMES)
@click.argument("share")
@click.argument("directory")
@click.option("-s", "sloppy", is_flag=True, help="Pass over mount options that are not known.")
@click.option("-f", "fake", is_flag=True, help="Only check; mount nothing.")
@click.option("-n", "_no_mtab", is_flag=True, help="No effect: there is no mtab to write.")
@click.option("-v", "verbose", is_flag=True, help="Say what is mounted.")
@click.option("-N", "namespace", metavar="NAMESPACE", help="Mount in the mount namespace of this process or file.")
@click.option("-t", "_type", metavar="TYPE", help="No effect: the type is known.")
@click.option("-o", "options", multiple=True, metavar="OPTIONS", help="Mount options between commas.")
def mount_helper(
    share: str,
    directory: str,
    sloppy: bool,
    fake: bool,
    verbose: bool,
    namespace: str | None,
    options: tuple[str, ...],
    **_: object,
) -> int:
    """Mount SHARE (`none`: all shares) on DIRECTORY, called by mount(8)."""
    request = Request(source(share), values.parse_path(directory), mount_options(options, {}, sloppy=sloppy))
    if namespace:
        _enter(namespace)
    code = perform(request, fake=fake)
    if verbose and code == 0:
        click.echo(f"mount.mcfs: {share} {'could be ' if fake else ''}mounted on {directory}")
    return code


def source(share: str) -> bytes | None:
    """The share that the first field of fstab names. Raises click.BadParameter."""
    if os.fsencode(share) in ALL_SHARES:
        return None
    try:
        return values.parse_share_name(share)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="SHARE") from None


def _enter(namespace: str) -> None:
    """Join a mount namespace, setns(2), given as mount(8) -N does: a process id or a file. Raises OSError."""
    # What is imported later may not be visible from there.
    import mcfs.fuse.mount
    import mcfs.net.client  # noqa: F401

    path = f"/proc/{namespace}/ns/mnt" if namespace.isdigit() else namespace
    with open(path, "rb") as file:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(file.fileno(), _CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    # A mount unit has no PATH, and libfuse looks for fusermount3 there.
    os.environ.setdefault("PATH", _PATH)
    terminal.run(mount_helper, "mount.mcfs", arguments)


if __name__ == "__main__":
    main()
