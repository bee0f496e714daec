"""`mcfs demo`: a server and clients in network namespaces of this machine, the whole way from directory to copy.

The server's and the clients' programs are the ones that users run; only the network is made up (mcfs.cli.lab). All
that the demo makes, copies included, is in one directory that goes with it, also on Ctrl-C, SIGTERM and failure.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Table

from mcfs.cli import sample, values
from mcfs.cli.exits import Exit
from mcfs.cli.lab import INTERFACE, Host, Lab, Stale, exit_on_signals, missing_capabilities, signals_ignored
from mcfs.protocol.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PREFIX: Final = "mcfs-demo"
MIB: Final = 1 << 20
SHARED_MEMORY: Final = Path("/dev/shm")
SPARE_MEMORY: Final = 1 << 30
"""What is left to the machine when the copies are kept in memory."""

START_DEADLINE: Final = 60.0
STOP_DEADLINE: Final = 10.0
STALL_DEADLINE: Final = 90.0
"""Three times the time-out of a mount, which ends a copy with an error of its own."""
SLOWEST: Final = 20e6
"""Bytes per second that indexing and comparing reach on any disk."""
_POLL: Final = 0.02
_LOOK_EVERY: Final = 0.25
_LOOK_SHARE: Final = 20
"""Looking how much has arrived takes one part in 20 of the time at most, however many files there are."""


class DemoError(UserError):
    """A step of the demo that did not work; the text says which, and what the program said."""


@dataclass(frozen=True, slots=True)
class Data:
    """What is served: a directory or one file, and how much that is."""

    source: Path
    amount: sample.Amount

    @property
    def is_file(self) -> bool:
        return self.source.is_file()

    @property
    def share(self) -> str:
        return self.source.name


@dataclass(frozen=True, slots=True)
class Program:
    """A running program whose words go into a file."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def failure(self, what: str) -> DemoError:
        return DemoError(f"{self.name} {what}: {last_lines(self.said())}")

    def check_running(self) -> None:
        if (code := self.process.poll()) is not None:
            raise self.failure(f"ended with code {code}")


@dataclass(slots=True)
class Client:
    """One client and its copy: where it is, how far it is, how long it took."""

    host: Host
    directory: Path
    arrived: int = 0
    seconds: float | None = None
    differences: list[str] = field(default_factory=list)
    copying: Program | None = None
    started: float = 0.0
    heard: float = 0.0
    next_look: float = 0.0

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def mountpoint(self) -> Path:
        return self.directory / "mnt"

    @property
    def cache(self) -> Path:
        return self.directory / "cache"

    @property
    def copy(self) -> Path:
        return self.directory / "copy"


def demo(
    path: Path | None,
    *,
    clients: int = 3,
    size: int = 512 * MIB,
    rate: str | None = None,
    loss: float = 0.0,
    keep: bool = False,
) -> int:
    """Serves `path`, or a sample with a file of `size` bytes, to `clients` that copy it all at once, and compares.

    `rate` limits the server as --rate does, `loss` is the per cent of datagrams lost at each client, `keep` leaves the
    copies. Returns 0 when every copy is the same as the source. Raises UserError when something does not work.
    """
    if missing := missing_capabilities():
        raise UserError(f"mcfs demo needs {', '.join(missing)}", Exit.PRIVILEGE)
    source = None if path is None else path.resolve()
    if source is not None and not source.name:
        raise UserError(f"{source} has no last component to name the share", Exit.USAGE)
    console = Console(highlight=False, soft_wrap=True)
    with exit_on_signals():
        Lab.cleanup_stale(PREFIX)
        remove_stale_workspaces()
        lab = Lab(PREFIX, clients, wire=loss > 0)  # loss meets whole super-datagrams without
        base = choose_place(needed_space(source, size, clients))
        with workspace(base, lab.label, keep=keep) as directory, lab:
            data = prepare_data(source, size, directory, console)
            return Demo(lab, data, directory, console).run(rate, loss)


# --- room for it -----------------------------------------------------------------------------------------------------


def needed_space(source: Path | None, size: int, clients: int) -> int:
    """Bytes: a cache and a copy for each client, and the sample."""
    amount = sample.measure_sample(size) if source is None else sample.measure(source)
    copies = 2 * clients + (1 if source is None else 0)
    return copies * amount.on_disk + amount.on_disk // 20 + 64 * MIB


def choose_place(needed: int) -> Path:
    """Where this many bytes fit: in memory rather than on disk, so that the disk is not what is measured."""
    places = [place for place in (SHARED_MEMORY, Path(tempfile.gettempdir()), Path("/var/tmp")) if place.is_dir()]
    room = {place: free_space(place) for place in places}
    for place, free in room.items():
        if free >= needed:
            return place
    largest = max(places, key=lambda place: room[place])
    needs, has = values.format_size(needed), values.format_size(room[largest])
    raise DemoError(f"the copies need {needs} of space, and {largest} has {has}: take less data or fewer clients")


def free_space(place: Path) -> int:
    free = shutil.disk_usage(place).free
    if place == SHARED_MEMORY:
        return min(free, psutil.virtual_memory().available - SPARE_MEMORY)
    return free


@contextmanager
def workspace(base: Path, label: str, *, keep: bool) -> Iterator[Path]:
    """A directory named after the lab, so that it is known for stale if this process is killed; or one to keep."""
    directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-kept-" if keep else f"{label}-", dir=base))
    try:
        yield directory
    finally:
        if keep:
            print(f"kept: {directory}")
        else:
            with signals_ignored():
                remove_tree(directory)


def remove_stale_workspaces() -> None:
    is_stale = Stale(PREFIX)
    for base in (SHARED_MEMORY, Path(tempfile.gettempdir()), Path("/var/tmp")):
        for path in filter(is_stale, base.glob(f"{PREFIX}-*")):
            remove_tree(path)


def remove_tree(directory: Path) -> None:
    """Nothing below is a mount any more; a mount of mcfs would be read-only in any case."""
    shutil.rmtree(directory, ignore_errors=True)


# --- the data --------------------------------------------------------------------------------------------------------


def prepare_data(source: Path | None, size: int, directory: Path, console: Console) -> Data:
    if source is None:
        console.print(f"making the sample from {sample.library()}")
        source = directory / "data"
        source.mkdir()
        sample.make_sample(source, size)
    return Data(source, sample.measure(source))


# --- the demo --------------------------------------------------------------------------------------------------------


class Demo:
    """One run in a lab that is up."""

    def __init__(self, lab: Lab, data: Data, directory: Path, console: Console) -> None:
        self._lab = lab
        self._data = data
        self._directory = directory
        self._state = directory / "state"
        self._console = console
        self._clients = [Client(host, directory / host.name) for host in lab.clients]

    def run(self, rate: str | None, loss: float) -> int:
        sent_before = self._lab.tx_bytes(self._lab.server)
        server = self._serve(rate)
        for client in self._clients:
            if loss:
                self._lab.loss(client.host, loss)
            self._mount(client)
        self._copy_all(server)
        sent = self._lab.tx_bytes(self._lab.server) - sent_before
        self._compare_all()
        status = self._stop(server)
        self._report(sent, status)
        return Exit.ERROR if any(client.differences for client in self._clients) else Exit.OK

    def _serve(self, rate: str | None) -> Program:
        limit = [] if rate is None else ["--rate", rate]
        words = ["-i", INTERFACE, "--state-dir", str(self._state), *limit, "--", str(self._data.source)]
        server = self._start_server(words)
        line = self._wait_for_share(server)
        self._console.print(f"server: {line}", markup=False)
        return server

    def _start_server(self, words: Sequence[str]) -> Program:
        log = self._directory / "mcfs-serve.log"
        argv = [sys.executable, "-m", "mcfs.cli.serve", *words]
        with open(log, "wb") as output:
            return Program("mcfs-serve", self._lab.server.popen(argv, stdout=output, stderr=output), log)

    def _wait_for_share(self, server: Program) -> str:
        """The line that says that the share is served."""
        start = f"serving {values.printable(os.fsencode(self._data.share))}:"
        deadline = time.monotonic() + START_DEADLINE + self._data.amount.size / SLOWEST
        while time.monotonic() < deadline:
            for line in server.said().splitlines():
                if line.startswith(start):
                    return line
            server.check_running()
            time.sleep(_POLL)
        raise server.failure("does not serve in time")

    def _mount(self, client: Client) -> None:
        """With its share; one that is a file cannot be the root of a mount, so all shares are mounted then."""
        for directory in (client.mountpoint, client.cache, client.copy):
            directory.mkdir(parents=True)
        share = [] if self._data.is_file else [self._data.share]
        known = client.directory / "known-publishers"
        # What is copied is our own, so that all its links are to be the same in the copy.
        options = ["-i", INTERFACE, "--symlinks", "keep"]
        options += ["--cache-dir", str(client.cache), "--known-publishers", str(known)]
        argv = [sys.executable, "-m", "mcfs.cli.main", "mount", *options, "--", *share, str(client.mountpoint)]
        self._lab.track_mount(client.mountpoint)
        done = client.host.run(argv, timeout=START_DEADLINE, check=False)
        if done.returncode != 0:
            raise DemoError(f"{client.name}: mcfs mount: {last_lines(done.stderr)}")
        if self._data.is_file:
            self._wait_for_entry(client)
        self._console.print(f"{client.name}: mounted {values.printable(os.fsencode(self._data.share))}", markup=False)

    def _wait_for_entry(self, client: Client) -> None:
        deadline = time.monotonic() + START_DEADLINE
        while client.host.run(["test", "-e", client.mountpoint / self._data.share], check=False).returncode != 0:
            if time.monotonic() > deadline:
                raise DemoError(f"{client.name}: the share is not heard within {START_DEADLINE:g} s")
            time.sleep(_POLL)

    # --- copying

    def _copy_all(self, server: Program) -> None:
        self._console.print(f"copying {describe_amount(self._data.amount)} on {len(self._clients)} clients at once")
        for client in self._clients:
            self._start_copy(client)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
        with Progress(*columns, TransferSpeedColumn(), console=self._console) as progress:
            tasks = [progress.add_task(client.name, total=self._data.amount.size) for client in self._clients]
            while any(client.seconds is None for client in self._clients):
                server.check_running()
                self._look(progress, tasks)
                time.sleep(_POLL)

    def _start_copy(self, client: Client) -> None:
        name = self._data.share if self._data.is_file else "."
        to = client.copy / name if self._data.is_file else client.copy
        log = client.directory / "cp.log"
        client.started = client.heard = time.monotonic()
        with open(log, "wb") as output:
            # os.path.join, since a Path has no `/.` at its end
            process = client.host.popen(["cp", "-r", os.path.join(client.mountpoint, name), to], stderr=output)
        client.copying = Program(f"{client.name}: cp -r", process, log)

    def _look(self, progress: Progress, tasks: Sequence[TaskID]) -> None:
        for client, task in zip(self._clients, tasks, strict=True):
            if client.seconds is None:
                self._look_at(client)
                progress.update(task, completed=client.arrived)

    def _look_at(self, client: Client) -> None:
        assert client.copying is not None
        code = client.copying.process.poll()
        now = time.monotonic()
        if code is not None:
            client.seconds = now - client.started
        if code:
            raise client.copying.failure(f"ended with code {code}")
        if code == 0 or now >= client.next_look:
            self._count_arrived(client, now)
        if now - client.heard > STALL_DEADLINE:
            raise client.copying.failure(f"has copied nothing for {STALL_DEADLINE:g} s, at {client.arrived} bytes")

    def _count_arrived(self, client: Client, now: float) -> None:
        arrived = sample.measure(client.copy).size
        if arrived != client.arrived:
            client.arrived, client.heard = arrived, now
        client.next_look = now + max(_LOOK_EVERY, _LOOK_SHARE * (time.monotonic() - now))

    # --- the outcome

    def _compare_all(self) -> None:
        for client in self._clients:
            self._console.print(f"{client.name}: comparing with diff -r")
            client.differences = self._compare(client)

    def _compare(self, client: Client) -> list[str]:
        copy = client.copy / self._data.share if self._data.is_file else client.copy
        timeout = START_DEADLINE + self._data.amount.size / SLOWEST
        argv = ["diff", "-r", "-q", "--no-dereference", str(self._data.source), str(copy)]
        done = client.host.run(argv, timeout=timeout, check=False)
        return (done.stdout + done.stderr).splitlines()

    def _stop(self, server: Program) -> dict[str, int]:
        """What the server counted; it writes that when it leaves."""
        server.process.terminate()
        try:
            server.process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            raise server.failure(f"has not ended within {STOP_DEADLINE:g} s of SIGTERM") from None
        with suppress(OSError, ValueError):
            return dict(json.loads((self._state / "status.json").read_text()))
        raise server.failure(f"left no figures (code {server.process.returncode})")

    def _report(self, sent: int, status: dict[str, int]) -> None:
        size = self._data.amount.size
        self._console.print(results(self._clients, size))
        self._console.print(
            f"server: sent {sent / 1e6:,.1f} MB for {size / 1e6:,.1f} MB of data ({ratio(sent, size)}), "
            f"listeners seen: {status.get('listeners_seen', 'unknown')}"
        )
        for client in self._clients:
            for line in client.differences[:10]:
                self._console.print(f"{client.name}: {line}", markup=False)


def results(clients: Sequence[Client], size: int) -> Table:
    table = Table("client", "seconds", "Gbit/s", "diff -r")
    for column in table.columns[1:3]:
        column.justify = "right"
    for client in clients:
        seconds = client.seconds or 0.0
        verdict = f"{len(client.differences)} lines" if client.differences else "silent"
        table.add_row(client.name, f"{seconds:.2f}", f"{gigabits_per_second(size, seconds):.2f}", verdict)
    return table


def gigabits_per_second(size: int, seconds: float) -> float:
    return size * 8 / seconds / 1e9 if seconds else 0.0


def ratio(sent: int, size: int) -> str:
    return f"{sent / size:.3f} x" if size else "no data"


def describe_amount(amount: sample.Amount) -> str:
    return f"{amount.files:,} files with {amount.size / 1e6:,.1f} MB"


def last_lines(text: str, count: int = 3) -> str:
    """The end of what a program said, on one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-count:]) or "it said nothing"
