"""`mcfs fetch`: read files through the mount, so that the cache has them."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, Final

import click

from mcfs.cli import on_mount, progress, terminal, values
from mcfs.cli.exits import Exit
from mcfs.protocol.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

_PIECE: Final = 1 << 20
"""Bytes read at a time: what the kernel asks of the mount at most."""
_CACHED: Final = "user.mcfs.cached"
_WRITTEN: Final = 3.0
"""Seconds within which what was read is in the cache: readers do not wait for the disk."""
_LOOK: Final = 0.1


@click.command(context_settings=terminal.HELP_NAMES)
@click.argument("paths", type=values.PATH, nargs=-1, required=True, metavar="PATH...")
def fetch(paths: tuple[Path, ...]) -> int:
    """Fetch files, and directories with all that is in them, into the cache of the mount that they are on."""
    for path in paths:
        on_mount.mount_of(path)
    failed: list[str] = []
    with progress.bars() as bars:
        files = [file for path in paths for file in _files(path, failed)]
        total = sum(size for _, size in files)
        bar, done = bars.add("fetched", total), 0
        for file, _ in files:
            try:
                for piece in _read(file):
                    done += piece
                    bar.advance(piece)
            except OSError as error:
                failed.append(f"{file}: {error.strerror}")
                bars.say(terminal.without_controls(f"mcfs: {failed[-1]}"))
    kept = _kept_at_last(files, total)
    click.echo(f"{len(files)} files, {values.format_size(done)} read{_lacking(kept, total)}")
    if failed:
        raise UserError(f"{len(failed)} could not be read: {failed[0]}")
    return Exit.OK


def _files(path: Path, failed: list[str]) -> Iterator[tuple[Path, int]]:
    """Each file at a path or below it, in the order in which a mount expects it, with its size."""
    try:
        state = path.lstat()
    except OSError as error:  # a new version of the share may have come meanwhile
        failed.append(f"{path}: {error.strerror}")
        return
    if stat.S_ISREG(state.st_mode):
        yield path, state.st_size
    elif stat.S_ISDIR(state.st_mode):
        try:
            names = sorted(os.listdir(path), key=os.fsencode)
        except OSError as error:
            failed.append(f"{path}: {error.strerror}")
            return
        for name in names:
            yield from _files(path / name, failed)


def _read(file: Path) -> Iterator[int]:
    """Reads it; yields how many bytes were read, piece by piece. Raises OSError."""
    buffer = bytearray(_PIECE)
    with open(file, "rb", buffering=0) as source:
        while size := source.readinto(buffer):
            yield size
        # It is to be in the cache; the kernel's pages are for what is read.
        os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _kept_at_last(files: Sequence[tuple[Path, int]], total: int) -> int | None:
    """The same as `_kept`, once all of `total` bytes are there; if some never will be, after `_WRITTEN` seconds."""
    end = time.monotonic() + _WRITTEN
    while (kept := _kept(files)) is not None and kept < total and time.monotonic() < end:
        time.sleep(_LOOK)
    return kept


def _kept(files: Iterable[tuple[Path, int]]) -> int | None:
    """Bytes of the files that are in the cache; None if the mount does not tell."""
    try:
        return sum(int(os.getxattr(file, _CACHED)) for file, _ in files)
    except OSError:
        return None


def _lacking(kept: int | None, total: int) -> str:
    if kept is None or kept >= total:
        return ""
    lacking = values.format_size(total - kept)
    return f"; {lacking} are not in the cache: cache_max is too small for all, or the cache cannot be written"
