"""`mcfs umount`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mcfs.cli import mounts, values
from mcfs.cli.terminal import HELP_NAMES
from mcfs.protocol.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path


@click.command(context_settings=HELP_NAMES)
@click.argument("mountpoint", type=values.DIRECTORY)
@click.option("-l", "--lazy", is_flag=True, help="Take it away at once; it ends when nothing uses it any more.")
def umount(mountpoint: Path, lazy: bool) -> None:
    """Unmount what `mcfs mount` mounted on MOUNTPOINT."""
    path = mounts.resolve(mountpoint)
    mounted = mounts.mounted_at(path)
    if mounted is None:
        raise UserError(f"{mountpoint} is not mounted")
    if mounted.type != mounts.MOUNT_TYPE:
        raise UserError(f"{mountpoint} is not an mcfs mount, its type is {mounted.type}")
    mounts.unmount(path, lazy=lazy)
