"""`mcfs cache`: what is in a cache directory, whether it is right, and how it becomes less.

A mount that uses the directory does not end what can be looked at; it alone may change what is in there.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING, Final

import click

from mcfs.cli import on_mount, places, progress, terminal, values
from mcfs.cli.exits import Exit
from mcfs.fetch.cache import Cache
from mcfs.fetch.cachedir import parts_of, user_of
from mcfs.fetch.cacheinspect import Inspection
from mcfs.fetch.cachenames import names_of
from mcfs.fetch.cachepins import PinDirectory, PinState
from mcfs.protocol.printable import printable

if TYPE_CHECKING:
    from pathlib import Path

    from mcfs.fetch.cacheinspect import Kept, Verdict
    from mcfs.fetch.cachepins import Pin

_DIRECTORY: Final = click.option(
    "--cache-dir", type=values.DIRECTORY, metavar="DIR", help="Which one; default: the user's own."
)


@click.group(context_settings=terminal.HELP_NAMES)
def cache() -> None:
    """Look after a cache directory, also while a mount uses it."""


def _root(cache_dir: Path | None) -> Path:
    """Raises UserError."""
    return on_mount.own_cache(cache_dir or places.cache_dir(os.environ, os.geteuid()))


# --- ls --------------------------------------------------------------------------------------------------------------


@cache.command("ls", context_settings=terminal.HELP_NAMES)
@_DIRECTORY
@click.option("-a", "--all", "everything", is_flag=True, help="Also listings and small files, which have no name here.")
def ls(cache_dir: Path | None, everything: bool) -> None:
    """List what is kept: how much of each file, its size, when it was used last; and what is pinned."""
    root = _root(cache_dir)
    for path in parts_of(root):
        _list_part(root, path, everything=everything)
    for pin in PinDirectory(root, root).pins():
        click.echo(f"pinned  {printable(pin.name)}  {_pin_state(root, pin)}")


def _list_part(root: Path, path: Path, *, everything: bool) -> None:
    user = user_of(path)
    used_by = "" if user is None else f", used by process {user}" if user else ", used by a process"
    pinned = frozenset[bytes]().union(*PinDirectory(root, path).read_objects().values())
    names = names_of(path)
    cached = allocated = objects = 0
    for kept in Inspection(path).kept():
        cached, allocated, objects = cached + kept.cached, allocated + kept.allocated, objects + 1
        if everything or kept.id in names:
            click.echo(_line(kept, names.get(kept.id), pinned=kept.id in pinned))
    size = values.format_size(allocated)
    click.echo(f"{path}: {values.format_size(cached)} of {objects} objects, {size} on the disk{used_by}")


def _line(kept: Kept, name: bytes | None, *, pinned: bool) -> str:
    size = values.format_size(kept.ref.size) if kept.ref is not None else "damaged"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(kept.used_ns / 1e9))
    what = kept.id.hex()[:16] if name is None else printable(name)
    return f"{values.format_size(kept.cached):>6} of {size:>7}  {when}  {'pinned' if pinned else '      '}  {what}"


def _pin_state(root: Path, pin: Pin) -> str:
    """What the mounts say of a pin: that which has most of it."""
    states = [state for part in parts_of(root) if (state := PinDirectory(root, part).state(pin)) is not None]
    state = max(states, key=lambda state: state.done, default=PinState())
    if not state.nonce:
        return "no mount of the share has looked at it yet"
    text = f"{values.format_size(state.done)} of {values.format_size(state.bytes)} in {state.files} files"
    return terminal.without_controls(f"{text}: {state.problem}" if state.problem else text)


# --- verify ----------------------------------------------------------------------------------------------------------


@cache.command("verify", context_settings=terminal.HELP_NAMES)
@_DIRECTORY
def verify(cache_dir: Path | None) -> int:
    """Hash all that is kept. What is damaged is dropped, and fetched again when it is read.

    While a mount uses the directory nothing is dropped; the mount does so when it reads. The exit code is 1 if
    something is damaged.
    """
    bad = sum(_verify_part(path) for path in parts_of(_root(cache_dir)))
    return Exit.ERROR if bad else Exit.OK


def _verify_part(path: Path) -> int:
    """Returns how many blocks and pages are damaged, or files whose head is."""
    inspection, names = Inspection(path), names_of(path)
    kept = list(inspection.kept())
    good_bytes = unknown = bad = 0
    damaged: list[Verdict] = []
    with progress.bars() as bars:
        bar = bars.add(str(path), sum(each.cached for each in kept))
        for each in kept:
            verdict = inspection.verify(each.id)
            bar.advance(each.cached)
            what = printable(names[each.id]) if each.id in names else each.id.hex()[:16]
            if verdict is None:
                bad += each.ref is None
                continue
            good_bytes, unknown = good_bytes + verdict.good_bytes, unknown + verdict.unknown
            if verdict.bad:
                bad += len(verdict.bad)
                damaged.append(verdict)
                bars.say(terminal.without_controls(f"{what}: {len(verdict.bad)} blocks or pages are damaged"))
    text = f"{path}: {values.format_size(good_bytes)} in {len(kept)} objects are right"
    text += f", {bad} blocks, pages or files are damaged" if bad else ""
    text += f", {unknown} blocks cannot be checked yet: their hashes are fetched with them" if unknown else ""
    click.echo(f"{text}{_drop(path, damaged) if damaged else ''}")
    return bad


def _drop(path: Path, damaged: list[Verdict]) -> str:
    opened = Cache.open_existing(path)
    if opened is None:
        return "; a mount uses it, so they stay until it reads them"
    try:
        for verdict in damaged:
            for node in verdict.bad:
                opened.drop(node)
    finally:
        opened.close()
    return "; they were dropped"


# --- prune and clear -------------------------------------------------------------------------------------------------


@cache.command("prune", context_settings=terminal.HELP_NAMES)
@_DIRECTORY
@click.argument("size", type=values.SIZE, metavar="SIZE")
def prune(cache_dir: Path | None, size: int) -> int:
    """Make the cache no larger than SIZE on the disk: what was used longest ago goes first, what is pinned does not."""
    return _shrink(_root(cache_dir), size)


@cache.command("clear", context_settings=terminal.HELP_NAMES)
@_DIRECTORY
@click.option("--all", "everything", is_flag=True, help="Also what is pinned, and the pins.")
def clear(cache_dir: Path | None, everything: bool) -> int:
    """Remove all that is kept, but what is pinned."""
    root = _root(cache_dir)
    if everything:
        pins = PinDirectory(root, root)
        for pin in pins.pins():
            pins.remove(pin)
    return _shrink(root, 0)


def _shrink(root: Path, size: int) -> int:
    """What former second mounts have left goes first: nobody else uses it."""
    left, busy = size, False
    for path in parts_of(root):
        opened = Cache.open_existing(path)
        if opened is None:
            busy = True
            click.echo(f"mcfs: {_in_use(path)}", err=True)
            continue
        try:
            before = opened.used
            opened.prune(max(0, left))
            left -= opened.used
            freed, now = values.format_size(before - opened.used), values.format_size(opened.used)
            spared = ", all of it pinned" if opened.used and size == 0 else ""
        finally:
            opened.close()
        click.echo(f"{path}: {freed} removed, {now} left{spared}")
        if path != root and not opened.used:
            shutil.rmtree(path, ignore_errors=True)
    return Exit.ERROR if busy else Exit.OK


def _in_use(path: Path) -> str:
    user = user_of(path)
    return (
        f"{path} is used by {f'process {user}' if user else 'a process'}, which alone can change it: unmount first, "
        "or mount with a smaller cache_max"
    )
