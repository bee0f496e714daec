"""What `mcfs-serve` does once its arguments are checked: index, open the sockets, serve, leave."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import trio
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)

from mcfs.cli import privileges, share_keys, terminal, values
from mcfs.cli.exits import Exit
from mcfs.cli.publisher import fingerprint_of, load_key, load_or_make_key
from mcfs.cli.serve_watch import Reindexing, Share, announcement_of
from mcfs.net.allocator import keep_freed_memory
from mcfs.net.interfaces import Choice, Interface, choose
from mcfs.net.ports import link_rate
from mcfs.net.sdnotify import notify
from mcfs.net.server import Server
from mcfs.net.settings import ServerSettings
from mcfs.protocol.errors import UserError
from mcfs.protocol.publisher import format_fingerprint
from mcfs.protocol.succession import make_chain, predecessors
from mcfs.serve.index import Index, ScanProgress, Snapshot
from mcfs.serve.probe import WithProbe
from mcfs.serve.store import NodeStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from nacl.signing import SigningKey

    from mcfs.cli.serve import ServeRequest

STATUS_FILE: Final = "status.json"
GC_THRESHOLD: Final = 20_000
"""Allocations between two collections: with the default of 700 an index of 100,000 files takes half as long again."""
KEPT_MEMORY: Final = 8 << 20
"""Bytes; half of what is loaded ahead."""
_VERBOSITY: Final = {-1: logging.WARNING, 0: logging.INFO, 1: logging.INFO}
_CLOCK_TOLERANCE: Final = 60.0
"""Seconds; see `mcfs.fetch.freshness`."""
_DAD_SECONDS: Final = 3.0
"""Longest wait for a link-local address that is still being checked for duplicates (RFC 4862: one second)."""

log: Final = logging.getLogger(__name__)


def run(request: ServeRequest, verbosity: int) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code. Raises UserError."""
    terminal.log_to_stderr("mcfs-serve", _VERBOSITY.get(verbosity, logging.DEBUG))
    gc.set_threshold(GC_THRESHOLD)
    keep_freed_memory(KEPT_MEMORY)
    console = Console(stderr=True, quiet=verbosity < 0)
    names = [_share_name(request, path) for path in request.paths]
    with ExitStack() as stack:
        _restrict(request)
        keys = share_keys.server_keys(names, request.keyfiles, request.password_files, prompt=request.ask_password)
        choice = _interfaces(request.interfaces)
        _print_interfaces(console, choice, request)
        index = stack.enter_context(Index.open(request.state_dir, request.block_size))
        key = load_key(request.signing_key) if request.signing_key else load_or_make_key(request.state_dir)
        links = _links(request, key)
        for previous in predecessors(links):
            console.print(f"the publisher had the key {format_fingerprint(previous)} before", highlight=False)
        store = NodeStore(index, scope=request.scope)
        shares = Reindexing(list(zip(request.paths, names, strict=True)), index, store, keys, watch=request.watch)
        server = _open_server(store, choice, request, key, links)
        _restrict_further(request)
        snapshots = _index(shares, console)
        server.publish({snapshot.name: announcement_of(snapshot) for snapshot in snapshots}, keys)

        def say_what_is_served() -> None:
            for snapshot in snapshots:
                _check_clock(snapshot)
                _print_share(console, snapshot, fingerprint_of(key.verify_key), with_key=snapshot.name in keys)

        trio.run(_serve_until_signal, server, shares, say_what_is_served)
        _write_status(request.state_dir, server)
        _print_summary(console, server)
    return Exit.OK


def _restrict(request: ServeRequest) -> None:
    """From here on with no more privileges than are needed. Raises UserError."""
    if request.user is not None:
        if os.geteuid() == 0:
            privileges.own(request.state_dir, request.user)
        privileges.become(request.user)
        if not request.fixed_interfaces:
            log.info("running as %s, with CAP_NET_RAW for interfaces that come later", request.user.pw_name)
    privileges.confine()


def _restrict_further(request: ServeRequest) -> None:
    """Once the first sockets are open. Before the threads that hash, each of which would keep what this one had. Raises
    UserError."""
    if request.fixed_interfaces:
        privileges.give_up()
    elif request.user is not None:
        privileges.sockets_are_open()


# --- interfaces ------------------------------------------------------------------------------------------------------


def _interfaces(names: Sequence[str]) -> Choice:
    """Waits a moment for addresses that have just been given."""
    end = time.monotonic() + _DAD_SECONDS
    while True:
        choice = choose(names)
        if not any(i.tentative for i in choice.chosen) or time.monotonic() > end:
            return choice
        time.sleep(0.1)


def _print_interfaces(console: Console, choice: Choice, request: ServeRequest) -> None:
    for interface in choice.chosen:
        rate = values.format_rate(link_rate(interface, request.rate))
        console.print(f"interface {interface.name}: sending at most {rate}", highlight=False)
    for skipped in choice.notable:
        console.print(f"not served: {skipped} (-i {skipped.interface.name} serves it)", highlight=False)


def _links(request: ServeRequest, key: SigningKey) -> tuple[bytes, ...]:
    """From the publisher's former keys to the one that it has now. Raises UserError."""
    try:
        return make_chain([*(load_key(path) for path in request.previous_keys), key])
    except ValueError:
        raise UserError("--previous-key: no key may come twice, and the present one is none of the former") from None


def _open_server(
    store: NodeStore, choice: Choice, request: ServeRequest, key: SigningKey, links: tuple[bytes, ...]
) -> Server:
    settings = ServerSettings(
        port=request.port,
        scope=request.scope,
        hops=request.hops,
        rate=request.rate,
        mtu=_mtu(request, choice.chosen),
        always=request.always,
        querier=request.querier,
        query_interval=request.query_interval,
        interface_names=request.interfaces,
        fixed_interfaces=request.fixed_interfaces,
        listeners=request.listeners,
        listeners_size=request.listeners_size,
    )
    try:
        return Server(WithProbe(store, scope=request.scope), choice.chosen, settings, key, links=links)
    except PermissionError:
        raise UserError(
            "mcfs-serve needs the capability CAP_NET_RAW to hear MLD reports: run it as root, or give it the "
            "capability (systemd: AmbientCapabilities=CAP_NET_RAW); without it --always works",
            Exit.PRIVILEGE,
        ) from None
    except OSError as error:
        raise UserError(f"cannot open the sockets: {error.strerror or error}") from None


def _mtu(request: ServeRequest, interfaces: Sequence[Interface]) -> int:
    """Datagrams longer than 1,500 only where the user says so: a client with a smaller MTU would hear nothing."""
    return request.mtu or min(1500, *(i.mtu for i in interfaces))


# --- indexing --------------------------------------------------------------------------------------------------------


def _share_name(request: ServeRequest, path: Path) -> bytes:
    return request.name or os.fsencode(path.name)


def _index(shares: Reindexing, console: Console) -> list[Snapshot]:
    """Index all shares, with a bar for each on a terminal. Raises UserError."""
    if not sys.stderr.isatty() or console.quiet:
        return shares.index_first()
    columns = (
        SpinnerColumn(),
        TextColumn("indexing {task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[files]} files"),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[bytes, TaskID] = {}

        def show(share: Share, done: ScanProgress) -> None:
            if share.name not in tasks:
                tasks[share.name] = bars.add_task(share.label, total=None, files=0)
            bars.update(tasks[share.name], completed=done.bytes_hashed, files=done.files)

        return shares.index_first(show)


def _check_clock(snapshot: Snapshot) -> None:
    """Versions are times, and go on where they were; but what is signed has the time of the clock."""
    ahead = (snapshot.version - _unix_ms()) / 1000
    if ahead > _CLOCK_TOLERANCE:
        log.warning(
            "%s: its version was made %d s after the time that the clock shows: clients that have heard it may not "
            "believe for a minute that the share is there; set the clock",
            values.printable(snapshot.name),
            ahead,
        )


def _print_share(console: Console, snapshot: Snapshot, key: str, *, with_key: bool) -> None:
    size = values.format_size(snapshot.total_bytes)
    console.print(
        f"serving {values.printable(snapshot.name)}: {snapshot.total_files} files, {size}, publisher {key}"
        + (", for who has its key" if with_key else ""),
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


# --- serving ---------------------------------------------------------------------------------------------------------


async def _serve_until_signal(server: Server, shares: Reindexing, say_what_is_served: Callable[[], None]) -> None:
    """Says so only when a signal ends it in good order: who reads that may send one at once."""
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            say_what_is_served()
            await nursery.start(server.run)
            nursery.start_soon(shares.run, server)
            notify("READY=1")
            async for number in signals:
                if number != signal.SIGHUP:
                    break
                shares.look()
        shares.stop()
        nursery.cancel_scope.cancel()


def _write_status(state_dir: Path, server: Server) -> None:
    try:
        (state_dir / STATUS_FILE).write_text(json.dumps(server.statistics, indent=1) + "\n")
    except OSError as error:
        log.warning("%s: %s", state_dir / STATUS_FILE, error.strerror)


def _print_summary(console: Console, server: Server) -> None:
    statistics = server.statistics
    console.print(
        f"sent {statistics['bytes_sent']} bytes in {statistics['datagrams_sent']} datagrams, "
        f"listeners {statistics['listeners_seen']}",
        highlight=False,
    )


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000
