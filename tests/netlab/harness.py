"""A server and mounts in the hosts of a lab, and what is done with them, each step with a deadline.

    with Site(lab, tmp_path) as site:
        serving = site.serve(lab.server, source)
        mounted = site.mount(lab.clients[0], "source")
        site.start(mounted.host, ["cp", "-a", mounted.path, copy]).expect_success(60)

Every program runs inside a host of the lab, readers of a mount as well, and so ends with the lab if not before.

What has to look at a mount for longer than a moment does so in a process of its own, which can be killed:

    python -m tests.netlab.harness compare EXPECTED FOUND
    python -m tests.netlab.harness read-at-random EXPECTED FOUND COUNT
    python -m tests.netlab.harness map EXPECTED FOUND
    python -m tests.netlab.harness read-for FILE SECONDS
    python -m tests.netlab.harness send-garbage PID (noise | forged | tagged)
    python -m tests.netlab.harness hear-queries INTERFACE
    python -m tests.netlab.harness record-announcement SHARE FILE
    python -m tests.netlab.harness repeat-announcement SHARE FILE
    python -m tests.netlab.harness announce-forgeries SHARE
    python -m tests.netlab.harness record-gone PID FILE
    python -m tests.netlab.harness repeat-gone FILE
"""

from __future__ import annotations

import errno
import itertools
import json
import mmap
import os
import random
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import sysconfig
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from nacl.signing import SigningKey

from mcfs.cli.lab import INTERFACE, Host, Lab
from mcfs.cli.options import escape_value
from mcfs.net.listeners import ReportReader
from mcfs.net.receive import Receiver
from mcfs.protocol import mld, wire
from mcfs.protocol.addressing import SITE_LOCAL, catalogue_group, share_group
from mcfs.protocol.announce import Announcement, encode_announcement
from mcfs.protocol.catalog import Attributes, DirectoryEntry, Owners
from mcfs.protocol.ids import DEFAULT_BLOCK_SIZE, Digest, ObjectRef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ROOT: Final = Path(__file__).parents[2]
MIB: Final = 1 << 20
SERVE: Final = (sys.executable, "-m", "mcfs.cli.serve")
MCFS: Final = (sys.executable, "-m", "mcfs.cli.main")
HARNESS: Final = (sys.executable, "-m", "tests.netlab.harness")

START_DEADLINE: Final = 60.0
"""For hashing what is served, and for a mount: on a machine that has other things to do."""
STOP_DEADLINE: Final = 10.0
_POLL: Final = 0.02
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Late(AssertionError):
    """Something that was not done within its deadline."""


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Raises Late when `condition` is not true within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Late(f"not within {seconds:g} s: {what}")
        time.sleep(_POLL)


# --- programs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """A program that runs in a host; what it writes goes into a file."""

    process: subprocess.Popen[bytes]
    log: Path
    started: float

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def finish(self, deadline: float) -> int:
        """The exit code. Raises Late, and ends it, when `deadline` seconds pass."""
        try:
            return self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Late(f"not within {deadline:g} s: {self.process.args!r}: {self.output}") from None

    def expect_success(self, deadline: float) -> float:
        """Waits for exit code 0. Returns the seconds from its start until now."""
        code = self.finish(deadline)
        assert code == 0, f"exit code {code}: {self.process.args!r}: {self.output}"
        return time.monotonic() - self.started

    def kill(self) -> None:
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_DEADLINE)

    def cpu_seconds(self) -> float:
        """User and system time up to now, of all threads: proc_pid_stat(5), fields 14 and 15."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


@dataclass(frozen=True, slots=True)
class Serving:
    """A running mcfs-serve."""

    job: Job
    state: Path

    def kill(self) -> None:
        """As a crash would: it says goodbye to nobody."""
        self.job.kill()

    def stop(self) -> dict[str, int]:
        """Asks it to end. Returns its statistics."""
        self.job.process.terminate()
        self.job.expect_success(STOP_DEADLINE)
        statistics: dict[str, int] = json.loads((self.state / "status.json").read_text())
        return statistics


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount of a share, or of all shares, in a host."""

    host: Host
    path: Path
    cache: Path

    def umount(self) -> None:
        self.host.run([*MCFS, "umount", self.path])


class Site:
    """All that runs in a lab, with a directory for its files; leaving it ends the programs and removes the files."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.directory = directory / "site"
        self._serial = itertools.count(1)
        self._jobs: list[Job] = []

    def __enter__(self) -> Self:
        self.directory.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        """The mounts end before their readers: whoever waits for an answer cannot end without."""
        for path in self.directory.glob("mount-*"):
            subprocess.run(["umount", "--lazy", path], check=False, capture_output=True)
        for job in self._jobs:
            if job.running:
                job.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def new_directory(self, kind: str) -> Path:
        path = self.directory / f"{kind}-{next(self._serial)}"
        path.mkdir()
        return path

    def start(self, host: Host, argv: Sequence[str | Path]) -> Job:
        """Starts a program in a host; its working directory is the root of the repository."""
        log = self.directory / f"log-{next(self._serial)}"
        with log.open("wb") as output:
            process = host.popen(argv, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
        job = Job(process, log, time.monotonic())
        self._jobs.append(job)
        return job

    def serve(
        self,
        host: Host,
        *paths: Path,
        state: Path | None = None,
        options: Sequence[str] = (),
        interfaces: Sequence[str] = (INTERFACE,),
        deadline: float = START_DEADLINE,
    ) -> Serving:
        """Returns when it serves. With the `state` of one before it is the same publisher."""
        state = state or self.new_directory("state")
        named = [word for name in interfaces for word in ("-i", name)]
        job = self.start(host, [*SERVE, *named, "--state-dir", state, *options, *paths])
        wait_until(
            lambda: not job.running or job.output.count("\nserving ") == len(paths), deadline, "mcfs-serve serves"
        )
        assert job.running, job.output
        return Serving(job, state)

    def mount(self, host: Host, share: str | None, *, cache: Path | None = None, **options: object) -> Mounted:
        """Mounts a share, or all; returns when the mount serves. An option that is True is a flag, one that is None is
        left out. Each mount has a file of known publishers of its own, since each server has a new key."""
        known = self.directory / f"known-publishers-{next(self._serial)}"
        options = {"iface": INTERFACE, "known_publishers": known, **options}
        mounted = Mounted(host, self.new_directory("mount"), cache or self.new_directory("cache"))
        given = {name: value for name, value in options.items() if value is not None}
        words = [name if value is True else f"{name}={escape_value(str(value))}" for name, value in given.items()]
        words += [f"cache_dir={escape_value(str(mounted.cache))}"]
        what = [share] if share is not None else []
        self.lab.track_mount(mounted.path)
        host.run([*MCFS, "mount", *what, mounted.path, "-o", ",".join(words)], timeout=START_DEADLINE)
        return mounted

    def sent(self) -> int:
        """Bytes that the server's interface has sent."""
        return self.lab.tx_bytes(self.lab.server)

    def wait_sent(self, since: int, count: int, seconds: float) -> None:
        wait_until(lambda: self.sent() - since >= count, seconds, f"the server sends {count} bytes")


def same_bytes(expected: Path, found: Path) -> list[str | Path]:
    """The command that reads a file from its start to its end and compares it."""
    return ["cmp", expected, found]


def join_all(jobs: Sequence[Job], deadline: float) -> list[float]:
    """Waits for all to succeed, `deadline` seconds in all. Returns the seconds that each took."""
    seconds: dict[int, float] = {}
    end = time.monotonic() + deadline
    while len(seconds) < len(jobs):
        for number, job in enumerate(jobs):
            if number not in seconds and (not job.running or time.monotonic() > end):
                seconds[number] = job.expect_success(max(0.0, end - time.monotonic()))
        time.sleep(_POLL)
    return [seconds[number] for number in range(len(jobs))]


# --- what is served --------------------------------------------------------------------------------------------------


def random_file(path: Path, size: int, seed: int = 1) -> Path:
    """Bytes that nothing can guess or compress, the same for the same seed."""
    source = random.Random(seed)
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            file.write(source.randbytes(min(MIB, size - start)))
    return path


def library_tree(path: Path) -> Path:
    """Python's standard library, without what was installed or compiled later, and what a library seldom holds."""
    ignore = shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__", "test", "config-*")
    shutil.copytree(sysconfig.get_path("stdlib"), path, symlinks=True, ignore=ignore)
    odd = path / "odd"
    (odd / "empty directory").mkdir(parents=True)
    (odd / "empty file").touch()
    (odd / os.fsdecode(b"not UTF-8: \xff\n,\\")).write_bytes(b"names are bytes")
    (odd / "zeros").write_bytes(bytes(3 * MIB + 5))
    (odd / "one block").write_bytes(random.Random(2).randbytes(MIB))
    (odd / "program").write_bytes(b"#!/bin/sh\n")
    (odd / "program").chmod(0o751)
    (odd / "private").write_bytes(b"for one user\n" * 10_000)
    (odd / "private").chmod(0o600)
    (odd / "link").symlink_to("../os.py")
    (odd / "dangling").symlink_to("/nowhere/at all")
    (odd / "to a directory").symlink_to("empty directory")
    for number, file in enumerate(sorted(odd.iterdir())):
        times = (0, 1_234_567_890_123_456_789 + number)
        os.utime(file, ns=times, follow_symlinks=False)
    return path


# --- comparing -------------------------------------------------------------------------------------------------------


def differences(expected: Path, found: Path) -> list[str]:
    """How one tree differs from another: names, kinds, modes, times, links' targets, and content (by diff)."""
    here, there = dict(_walk(expected)), dict(_walk(found))
    wrong = [f"missing: {name!r}" for name in here.keys() - there.keys()]
    wrong += [f"too much: {name!r}" for name in there.keys() - here.keys()]
    wrong += [f"{n!r}: {here[n]} became {there[n]}" for n in here.keys() & there.keys() if here[n] != there[n]]
    diff = subprocess.run(["diff", "-r", "--no-dereference", expected, found], capture_output=True, check=False)
    return wrong + (diff.stdout + diff.stderr).decode(errors="replace").splitlines()


def _walk(root: Path) -> Iterator[tuple[bytes, tuple[str, int, int, bytes]]]:
    """Name and (mode, mtime in ns, size, target) of everything in a tree, the root included."""
    top = os.fsencode(root)
    yield b"", _facts(top)
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            yield path[len(top) :], _facts(path)


def _facts(path: bytes) -> tuple[str, int, int, bytes]:
    status = os.lstat(path)
    target = os.readlink(path) if stat.S_ISLNK(status.st_mode) else b""
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return stat.filemode(status.st_mode), status.st_mtime_ns, size, target


def compare(expected: str, found: str) -> None:
    wrong = differences(Path(expected), Path(found))
    sys.exit("\n".join(wrong) if wrong else None)


def read_at_random(expected: str, found: str, count: str) -> None:
    """Reads of up to three blocks, also across the end and behind it."""
    numbers = random.Random(3)
    with open(expected, "rb") as source, open(found, "rb", buffering=0) as file:
        size = os.fstat(source.fileno()).st_size
        for _ in range(int(count)):
            offset, length = numbers.randrange(size + 100), int(3 * MIB ** numbers.random())
            if os.pread(file.fileno(), length, offset) != os.pread(source.fileno(), length, offset):
                sys.exit(f"{length} bytes at {offset} differ")


def map_file(expected: str, found: str) -> None:
    with open(found, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        if mapped[:] != Path(expected).read_bytes():
            sys.exit("the mapped bytes differ")


def read_for(path: str, seconds: str) -> None:
    """Tries to read a byte again and again; prints the error of each try, or `read`."""
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        try:
            with open(path, "rb", buffering=0) as file:
                file.read(1)
            print("read", flush=True)
        except OSError as error:
            print(errno.errorcode[error.errno or 0], flush=True)
        time.sleep(0.05)


# --- an unfriendly host ----------------------------------------------------------------------------------------------

PORT: Final = 27027
_HEADER: Final = struct.Struct(">BBHII")
_SYMBOL_SIZE: Final = 1424
_FORGED_BURST: Final = 800
"""More than a block of 1 MiB has symbols: what is forged can be decoded, and has the wrong hash."""


def groups_joined(pid: str) -> list[str]:
    """Multicast groups that the network namespace of a process has joined on eth0."""
    lines = (line.split() for line in Path(f"/proc/{pid}/net/igmp6").read_text().splitlines())
    return [socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line[2])) for line in lines if line[1] == INTERFACE]


def send_garbage(pid: str, kind: str) -> None:
    """Sends to each group that the host of process `pid` joins, and bad reports to the routers, until it is killed."""
    index = socket.if_nametoindex(INTERFACE)
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    icmp = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    icmp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
    numbers = random.Random(5)
    print("ready", flush=True)
    while True:
        for group in groups_joined(pid):
            for datagram in _garbage(kind if group.startswith("ff15") else "noise", numbers):
                with suppress(OSError):
                    udp.sendto(datagram, (group, PORT, 0, index))
        for report in _bad_reports(numbers):
            icmp.sendto(report, ("ff02::16", 0, 0, index))
        time.sleep(0.01)


def _garbage(kind: str, numbers: random.Random) -> Iterator[bytes]:
    if kind == "noise":
        return _noise(numbers)
    return _forged() if kind == "forged" else _tagged(numbers)


def _noise(numbers: random.Random) -> Iterator[bytes]:
    yield b""
    yield numbers.randbytes(numbers.randrange(1, 1452))
    for type_ in range(6):
        yield bytes([1, type_]) + numbers.randbytes(numbers.choice((0, 1, 2, 9, 10, 200, 1434, 1435)))
    yield _HEADER.pack(1, 1, 0, MIB, 0xFFFFFFFF) + bytes(_SYMBOL_SIZE)
    yield _HEADER.pack(1, 1, 0, 0, 0) + bytes(_SYMBOL_SIZE)
    yield _HEADER.pack(1, 1, 0, MIB, 5)


def _forged() -> Iterator[bytes]:
    """Symbols as the server might send them, of a block that is not the one."""
    for esi in range(_FORGED_BURST):
        yield _HEADER.pack(1, 1, 0, MIB, esi) + esi.to_bytes(2, "big") * (_SYMBOL_SIZE // 2)


def _tagged(numbers: random.Random) -> Iterator[bytes]:
    """The same, as it looks in a share with a key; and what looks like a sealed control datagram."""
    for esi in range(_FORGED_BURST):
        yield _HEADER.pack(1, 1, 0, MIB + 16, esi) + esi.to_bytes(2, "big") * (_SYMBOL_SIZE // 2 + 8)
    for size in (684, 1228):
        yield bytes((1, 5, 0, 0)) + numbers.randbytes(size - 4)


def _bad_reports(numbers: random.Random) -> Iterator[bytes]:
    """MLDv2 reports (RFC 9777 section 5.2) that end too soon, or say nonsense; the kernel adds the checksum."""
    record = bytes([numbers.randrange(256), numbers.randrange(256)]) + numbers.randbytes(18)
    yield bytes([143, 0, 0, 0, 0, 0, 0, 5]) + record
    yield bytes([143, 0, 0, 0, 0, 0, 255, 255]) + numbers.randbytes(numbers.randrange(1200))
    yield bytes([143, 0, 0, 0])
    yield bytes([131, 0, 0, 0]) + numbers.randbytes(numbers.randrange(30))


def hear_queries(interface: str) -> None:
    """Prints the source of each MLD query that comes on an interface, until it is killed."""
    with ReportReader(socket.if_nametoindex(interface), interface) as reader:
        while select.select([reader], [], []):
            for envelope, message in reader.receive():
                if message[0] == mld.QUERY:
                    print(socket.inet_ntop(socket.AF_INET6, envelope.source), flush=True)


def record_announcement(share: str, file: str) -> None:
    """Writes the first announcement that comes in a share's channel to a file."""
    with closing(Receiver(PORT)) as receiver:
        receiver.join(_share_group(share), socket.if_nametoindex(INTERFACE))
        while select.select([receiver.socket], [], []):
            for run in receiver.receive() or ():
                for row in run.rows():
                    if row[1] == wire.ANNOUNCEMENT:
                        Path(file).write_bytes(row.tobytes())
                        return


def repeat_announcement(share: str, file: str) -> None:
    """Sends a datagram again and again into a share's channel, until it is killed."""
    _send_for_ever(share, itertools.repeat(Path(file).read_bytes()), 0.1)


def record_gone(pid: str, file: str) -> None:
    """Joins what the host of process `pid` joins; writes the first gone that comes, behind its group, to a file."""
    index = socket.if_nametoindex(INTERFACE)
    joined: set[str] = set()
    with closing(Receiver(PORT)) as receiver:
        print("ready", flush=True)
        while True:
            new = {group for group in groups_joined(pid) if group.startswith("ff15")} - joined
            for group in new:
                receiver.join(socket.inet_pton(socket.AF_INET6, group), index)
            joined |= new
            select.select([receiver.socket], [], [], 0.005)
            for run in receiver.receive() or ():
                gone = next((row.tobytes() for row in run.rows() if row[1] == wire.GONE), None)
                if gone is not None:
                    Path(file).write_bytes(run.group + gone)
                    return


def repeat_gone(file: str) -> None:
    """Sends it again and again to its group, until it is killed."""
    recorded = Path(file).read_bytes()
    group = socket.inet_ntop(socket.AF_INET6, recorded[:16])
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    print("ready", flush=True)
    while True:
        with suppress(OSError):
            udp.sendto(recorded[16:], (group, PORT, 0, socket.if_nametoindex(INTERFACE)))
        time.sleep(0.001)


def announce_forgeries(share: str) -> None:
    """Announces a share, and shares of other names, each time as another publisher, until it is killed."""
    _send_for_ever(share, _forged_announcements(os.fsencode(share)), 0.0005)


def _forged_announcements(share: bytes) -> Iterator[bytes]:
    content = ObjectRef(1000, DEFAULT_BLOCK_SIZE, Digest(bytes(32)))
    for number in itertools.count(1):
        key = SigningKey(number.to_bytes(32))
        for name in (share, b"forged %d" % number):
            entry = DirectoryEntry(name, Attributes(0o755, 0, 0, 0), content)
            said = Announcement(1 << 62, 1 << 62, entry, Owners(), 0, 0, 10**9, ())
            yield wire.control(wire.ANNOUNCEMENT, encode_announcement(said, key))


def _send_for_ever(share: str, datagrams: Iterable[bytes], pause: float) -> None:
    """Into the channel of a share, and into that of all shares."""
    index = socket.if_nametoindex(INTERFACE)
    groups = [socket.inet_ntop(socket.AF_INET6, group) for group in (_share_group(share), catalogue_group(SITE_LOCAL))]
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    print("ready", flush=True)
    for datagram in datagrams:
        for group in groups:
            with suppress(OSError):
                udp.sendto(datagram, (group, PORT, 0, index))
        time.sleep(pause)


def _share_group(share: str) -> bytes:
    return share_group(os.fsencode(share), SITE_LOCAL)


COMMANDS: Final[dict[str, Callable[..., None]]] = {
    "compare": compare,
    "read-at-random": read_at_random,
    "map": map_file,
    "read-for": read_for,
    "send-garbage": send_garbage,
    "hear-queries": hear_queries,
    "record-announcement": record_announcement,
    "repeat-announcement": repeat_announcement,
    "announce-forgeries": announce_forgeries,
    "record-gone": record_gone,
    "repeat-gone": repeat_gone,
}

if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    COMMANDS[sys.argv[1]](*sys.argv[2:])
