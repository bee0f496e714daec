"""`mcfs pin` and `mcfs unpin`: what is to be kept. The mount does it; the commands write it down for the mount."""

from __future__ import annotations

import os
import secrets
import time
from typing import TYPE_CHECKING, Final

import click

from mcfs.cli import mounts, on_mount, progress, terminal, values
from mcfs.cli.exits import Exit
from mcfs.fetch.cachepins import MAX_PINS, Pin, PinDirectory, PinState
from mcfs.protocol.errors import UserError
from mcfs.protocol.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mcfs.cli.mounts import Mounted
    from mcfs.cli.progress import Bars

ANSWER: Final = 10.0
"""Seconds in which a mount says something of a new pin, at least that it looks for it."""
_POLL: Final = 0.2


@click.command(context_settings=terminal.HELP_NAMES)
@click.argument("paths", type=values.PATH, nargs=-1, required=True, metavar="PATH...")
@click.option("-b", "--background", is_flag=True, help="Do not wait until all is there.")
def pin(paths: tuple[Path, ...], background: bool) -> int:
    """Keep files, and directories with all that is in them, in the cache, in their newest version.

    The mount fetches them; Ctrl-C ends only the waiting for that. `mcfs unpin` lets them go.
    """
    found = [(path, on_mount.mount_of(path), on_mount.place_of(path)) for path in paths]
    added = [(path, mounted, place.pins, _add(place)) for path, mounted, place in found]
    with progress.bars() as bars:
        for path, mounted, pins, kept in added:
            _wait(path, mounted, pins, kept, bars, background=background)
    return Exit.OK


def _add(place: on_mount.Place) -> Pin:
    """The pin, a new one if it is not pinned yet. Raises UserError, OSError."""
    new = Pin(place.share, place.path, secrets.token_hex(8))
    if (known := place.pins.find(new)) is not None:
        return known
    if len(place.pins.pins()) >= MAX_PINS:
        raise UserError(f"there are {MAX_PINS} pins already: pin directories instead, or unpin some")
    place.pins.add(new)
    return new


def _wait(path: Path, mounted: Mounted, pins: PinDirectory, kept: Pin, bars: Bars, *, background: bool) -> None:
    """Until the mount has all of it, or with `background` until it knows how much that is. Raises UserError."""
    bar, end, told = bars.add(printable(kept.name)), time.monotonic() + ANSWER, ""
    while True:
        state = pins.state(kept) or PinState()
        bar.show(state.done, state.bytes or None)
        if state.refused:
            pins.remove(kept)
            raise UserError(f"{path} is not pinned: {state.problem}")
        if state.problem and state.problem != told:
            told = state.problem
            bars.say(terminal.without_controls(f"mcfs: {path}: {told}; it goes on when that is over"))
        if state.complete or (background and state.files):
            return
        if mounts.has_ended(mounted):
            raise UserError(f"{path} is pinned, but its mount has ended: it goes on when the share is mounted again")
        if not state.nonce and time.monotonic() > end:
            raise UserError(f"{path} is pinned, but the mount has not looked at it within {ANSWER:g} s")
        time.sleep(_POLL)


@click.command(context_settings=terminal.HELP_NAMES)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--cache-dir", type=values.DIRECTORY, metavar="DIR", help="Of a share that is not mounted: PATH is SHARE/PATH."
)
def unpin(paths: tuple[str, ...], cache_dir: Path | None) -> None:
    """Let go of what was pinned: it stays in the cache until room is needed."""
    for path in paths:
        pins, named = _named(path, cache_dir)
        if not pins.remove(named):
            raise UserError(f"{path} is not pinned{_pinned_near(pins, named)}")


def _named(path: str, cache_dir: Path | None) -> tuple[PinDirectory, Pin]:
    if cache_dir is not None:
        root = on_mount.own_cache(cache_dir)
        share, _, below = os.fsencode(path.strip("/")).partition(b"/")
        return PinDirectory(root, root), Pin(share, below, "")
    place, rest = _nearest(values.parse_path(path))
    below = b"/".join(filter(None, (place.path, *rest)))
    return place.pins, Pin(place.share, below, "")


def _nearest(path: Path) -> tuple[on_mount.Place, Sequence[bytes]]:
    """The place of a path, or of the directory above it that is still there, and the names below that."""
    rest: list[bytes] = []
    while not os.path.lexists(path) and path != path.parent:
        rest.insert(0, os.fsencode(path.name))
        path = path.parent
    return on_mount.place_of(path), rest


def _pinned_near(pins: PinDirectory, named: Pin) -> str:
    """Of what is pinned, that which somebody may mean who names something else."""
    names = [pin.name for pin in pins.pins()]
    near = [name for name in names if name.startswith(named.name + b"/") or named.name.startswith(name + b"/")]
    return f"; {printable(near[0])} is" if near else ""
