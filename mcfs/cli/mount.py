"""`mcfs mount`: check, fork, wait for the share, mount, serve until told to stop."""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click
import trio

from mcfs.cli import daemon, mounts, places, share_keys, terminal, values
from mcfs.cli.exits import Exit
from mcfs.cli.options import OPTIONS, REPEATED, MountOptions, Option, mount_options
from mcfs.fetch.pinfile import KnownPublishers
from mcfs.net.allocator import keep_freed_memory
from mcfs.net.interfaces import choose
from mcfs.protocol.errors import NoKey, TimedOut, Untrusted, UserError
from mcfs.protocol.publisher import parse_publisher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mcfs.fuse.backend import Backend
    from mcfs.fuse.settings import FuseSettings
    from mcfs.net.client import ClientSettings, TrustSettings
    from mcfs.protocol.announce import Announcement

PROGRAM: Final = "mcfs"
STOP_TIMEOUT: Final = 2.0
"""Seconds from SIGTERM until the process ends by force; its mount is then detached first."""
KEPT_MEMORY: Final = 64 << 20
"""Bytes; the blocks that are kept in memory, which come and go."""
_FUSE_DEVICE: Final = "/dev/fuse"
_FUSE_CONF: Final = "/etc/fuse.conf"

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    share: bytes | None
    """None: all shares."""
    mountpoint: Path
    options: MountOptions
    foreground: bool = False
    ask_password: bool = False


def _long_options(command: Callable[..., int]) -> Callable[..., int]:
    """Every mount option as a long option as well."""
    for option in reversed(OPTIONS):
        command = _long_option(option)(command)
    return command


def _long_option(option: Option) -> Callable[[Callable[..., int]], Callable[..., int]]:
    names = [option.name, f"--{option.name.replace('_', '-')}"]
    names += {"iface": ["-i", "--interface"], "debug": ["-d"]}.get(option.name, [])
    if option.parse is None:
        return click.option(*names, is_flag=True, default=None, help=option.help)
    type_ = values.Value(option.name, option.parse)
    return click.option(*names, type=type_, metavar=option.metavar, help=option.help, multiple=option.name in REPEATED)


@click.command(context_settings=terminal.HELP_NAMES)
@click.argument("words", nargs=-1, required=True, metavar="[SHARE] MOUNTPOINT")
@click.option("-o", "options", multiple=True, metavar="OPTIONS", help="Mount options between commas, as in fstab.")
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground.")
@click.option("--password", "ask_password", is_flag=True, help="Ask for a password that is a share key.")
@_long_options
def mount(
    words: tuple[str, ...],
    options: tuple[str, ...],
    foreground: bool,
    ask_password: bool,
    **given: Any,  # noqa: ANN401
) -> int:
    """Show the files of SHARE in MOUNTPOINT; without SHARE every share that is heard, each under its name.

    Returns when the mount serves, or with an error that says why it does not.
    """
    for name in REPEATED:
        given[name] = tuple(one for several in given[name] for one in several) or None
    chosen = mount_options(options, {name: value for name, value in given.items() if value is not None})
    share, mountpoint = _split_words(words)
    return perform(Request(share, mountpoint, chosen, foreground, ask_password))


def _split_words(words: tuple[str, ...]) -> tuple[bytes | None, Path]:
    if len(words) > 2:
        raise click.UsageError(f"Got unexpected extra argument ({words[2]})")
    share = _argument("SHARE", values.parse_share_name, words[0]) if len(words) == 2 else None
    return share, _argument("MOUNTPOINT", values.parse_path, words[-1])


def _argument(name: str, parse: Callable[[str], Any], text: str) -> Any:  # noqa: ANN401
    try:
        return parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=name) from None


def perform(request: Request, *, fake: bool = False) -> int:
    """Mount. Returns the exit code: 0 when the mount serves. Raises UserError. `fake`: only check."""
    level = logging.DEBUG if request.options.debug else logging.INFO
    terminal.log_to_stderr(PROGRAM, level)
    check(request)
    work = partial(_work, request, _client_settings(request), _fuse_settings(request))
    if fake:
        return Exit.OK
    if request.foreground or request.options.debug:
        return daemon.in_foreground(work)
    return daemon.in_background(work, program=PROGRAM, log_level=level)


# --- before the fork -------------------------------------------------------------------------------------------------


def check(request: Request) -> None:
    """Find what the user can mend while his terminal is still at hand. Raises UserError."""
    _check_mountpoint(mounts.resolve(request.mountpoint))
    check_device()
    if request.options.allow_other and os.geteuid() != 0:
        _check_allow_other()


def _check_mountpoint(path: Path) -> None:
    mounted = mounts.mounted_at(path)
    if mounted and mounted.type == mounts.MOUNT_TYPE:
        if not mounts.is_dead(path):
            raise UserError(f"{path} is already a mount of mcfs, of {mounted.source!r}", Exit.CANNOT_MOUNT)
        log.warning("%s: unmounting what a dead mcfs left behind", path)
        mounts.unmount(path, lazy=True)
    if not path.exists():
        raise UserError(f"mount point {path} does not exist", Exit.CANNOT_MOUNT)
    if not path.is_dir():
        raise UserError(f"mount point {path} is not a directory", Exit.CANNOT_MOUNT)


def check_device() -> None:
    """Raises UserError where nothing can be mounted."""
    if not os.path.exists(_FUSE_DEVICE):
        raise UserError(f"{_FUSE_DEVICE} is missing: load the kernel module (modprobe fuse)", Exit.CANNOT_MOUNT)
    if not os.access(_FUSE_DEVICE, os.R_OK | os.W_OK):
        raise UserError(f"{_FUSE_DEVICE}: permission denied", Exit.PRIVILEGE)
    if os.geteuid() != 0 and mounts.find_program("fusermount3") is None:
        raise UserError("fusermount3 is not installed (package fuse3)", Exit.CANNOT_MOUNT)


def _check_allow_other() -> None:
    with suppress(OSError), open(_FUSE_CONF) as lines:
        if "user_allow_other" not in (line.strip() for line in lines):
            message = f"allow_other is for root, unless {_FUSE_CONF} has a line 'user_allow_other'"
            raise UserError(message, Exit.PRIVILEGE)


def _client_settings(request: Request) -> ClientSettings:
    """Raises UserError."""
    from mcfs.net.client import ClientSettings

    options = request.options
    keys = share_keys.client_keys(options.keyfile, options.password_file, prompt=request.ask_password)
    return ClientSettings(
        interfaces=choose(options.iface).chosen,
        port=options.port,
        scope=options.scope,
        cache_dir=options.cache_dir or places.cache_dir(os.environ, os.geteuid()),
        timeout=options.timeout,
        max_wait=options.max_wait,
        max_groups=options.max_groups,
        catalogue=request.share is None,
        interface_names=options.iface,
        keys=keys,
        trust=trust(options.known_publishers, options.publisher_key, strict=options.strict),
    )


def trust(known: Path | None, key: str | None, *, strict: bool, remember: bool = True) -> TrustSettings:
    """Raises UserError if the file of known publishers cannot be read."""
    from mcfs.net.client import TrustSettings

    file = known or _known_publishers(remember)
    if file is not None:
        KnownPublishers(file).load()
    return TrustSettings(file, parse_publisher(key) if key else None, strict, remember)


def _known_publishers(remember: bool) -> Path | None:
    """The user's own file; who only looks needs none. Raises UserError."""
    try:
        return places.known_publishers(os.environ, os.geteuid())
    except UserError:
        if remember:
            raise
        return None


def _fuse_settings(request: Request) -> FuseSettings:
    from mcfs.fuse.links import Symlinks
    from mcfs.fuse.settings import FuseSettings

    options = request.options
    return FuseSettings(
        mountpoint=str(mounts.resolve(request.mountpoint)),
        share=request.share,
        allow_other=options.allow_other,
        uid=options.uid,
        gid=options.gid,
        noxattr=options.noxattr,
        entry_timeout=options.entry_timeout,
        timeout=options.timeout,
        symlinks=Symlinks(options.symlinks),
        kernel_options=frozenset({"noexec"} if options.noexec else ()),
        debug=options.debug,
    )


# --- after it --------------------------------------------------------------------------------------------------------


def _work(request: Request, client: ClientSettings, fuse: FuseSettings, ready: Callable[[], None]) -> int:
    keep_freed_memory(KEPT_MEMORY)
    trio.run(_serve, request, client, fuse, ready)
    return Exit.OK


async def _serve(
    request: Request, client_settings: ClientSettings, fuse_settings: FuseSettings, ready: Callable[[], None]
) -> None:
    """Returns when the mount has ended: unmounted, or by a signal."""
    from mcfs.fuse.mount import serve_mount
    from mcfs.net.client import open_client

    async with trio.open_nursery() as outer:
        await outer.start(_stop_on_signal, outer.cancel_scope, mounts.resolve(request.mountpoint))
        async with open_client(client_settings) as client, trio.open_nursery() as inner:
            if request.share is not None:
                await hear(client, request.share, client_settings)
            await inner.start(partial(serve_mount, client, fuse_settings))
            ready()
        outer.cancel_scope.cancel()


async def hear(client: Backend, share: bytes, settings: ClientSettings) -> Announcement:
    """The announcement of a share. Raises UserError when none comes in time."""
    try:
        return await client.wait_share(share, settings.timeout)
    except NoKey:
        hint = "" if settings.keys else " (--keyfile or --password-file gives one)"
        message = (
            f"wrong key or no such share: {values.printable(share)!r} was not heard within {settings.timeout:g} s, "
            f"while something that needs a key is{hint}"
        )
        raise UserError(message, Exit.KEY) from None
    except Untrusted as error:
        raise UserError(str(error), Exit.UNTRUSTED) from None
    except TimedOut:
        names = ", ".join(interface.name for interface in settings.interfaces)
        keys = " with one of the keys that were given (without a key it is not taken then)" if settings.keys else ""
        message = (
            f"share {values.printable(share)!r} was not heard on {names} within {settings.timeout:g} s{keys}: "
            "is mcfs-serve running, and does the network pass IPv6 multicast?"
        )
        raise UserError(message, Exit.NOT_HEARD) from None


async def _stop_on_signal(
    scope: trio.CancelScope, mountpoint: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Cancel `scope` at SIGTERM or SIGINT; SIGHUP, which will re-read settings, must not end the process."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            log.info("%s", signal.Signals(number).name)
            if number != signal.SIGHUP:
                _end_by_force_later(mountpoint)
                scope.cancel()


def _end_by_force_later(mountpoint: Path) -> None:
    """A thread, since what hinders the end may be the event loop itself."""
    timer = threading.Timer(STOP_TIMEOUT, _end_by_force, [mountpoint])
    timer.daemon = True
    timer.start()


def _end_by_force(mountpoint: Path) -> None:
    with suppress(OSError, UserError):
        mounted = mounts.mounted_at(mountpoint)
        if mounted and mounted.type == mounts.MOUNT_TYPE:
            mounts.unmount(mountpoint, lazy=True)
    os._exit(Exit.OK)
