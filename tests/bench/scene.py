"""The lab in which one transfer is measured: a server, a bridge, readers, and the file that the server has."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mcfs.cli.lab import INTERFACE, Host, Lab
from tests.bench.accounting import Cpu, cpu_of
from tests.bench.conditions import Conditions, Mode
from tests.netlab.harness import Job, Mounted, Site, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PREFIX: Final = "mcfs-bench"
LISTEN: Final = "0A"
"""State of a TCP socket in /proc/net/tcp."""
READY_DEADLINE: Final = 10.0
SHARE: Final = "data"
_TX_BYTES: Final = 8
"""Column of /proc/net/dev behind the colon."""
_MOUNTS_AT_ONCE: Final = 3


@dataclass(frozen=True, slots=True)
class Scene:
    site: Site
    conditions: Conditions
    source: Path
    """The file, called `file`, alone in a directory called `data`."""
    holder: Job
    """A process in the server's namespace that does nothing: /proc shows the namespace through it."""
    jobs: dict[str, list[Job]] = field(default_factory=dict)

    @property
    def lab(self) -> Lab:
        return self.site.lab

    @property
    def readers(self) -> tuple[Host, ...]:
        return self.lab.clients

    def address(self, host: Host) -> str:
        """Its IPv4 address, for tools that need one."""
        return address(self.lab, host)

    def directory(self, kind: str) -> Path:
        return self.site.new_directory(kind)

    def start(self, host: Host, argv: Sequence[str | Path]) -> Job:
        """Starts a program; its processor time counts for the host, also when it has ended."""
        job = self.site.start(host, argv)
        self.jobs.setdefault(host.name, []).append(job)
        return job

    def mount_all(self) -> list[Mounted]:
        """Mounts the share at each reader."""
        with ThreadPoolExecutor(_MOUNTS_AT_ONCE) as pool:
            return list(pool.map(lambda host: self.site.mount(host, SHARE), self.readers))

    def cpu(self, host: Host) -> Cpu:
        """What all processes of a host have used up to now."""
        return cpu_of(self.lab.pids(host) | {job.process.pid for job in self.jobs.get(host.name, ())})

    def sent(self) -> int:
        """Bytes that the server's interface has sent, link-layer headers included."""
        text = Path(f"/proc/{self.holder.process.pid}/net/dev").read_text()
        return parse_sent(text)

    def wait_listening(self, port: int) -> None:
        """Until the server listens at a TCP port."""
        wait_until(lambda: port in self._listening(), READY_DEADLINE, f"the server listens at port {port}")

    def _listening(self) -> set[int]:
        ports: set[int] = set()
        for name in ("tcp", "tcp6"):
            with suppress(FileNotFoundError):
                ports |= parse_listening(Path(f"/proc/{self.holder.process.pid}/net/{name}").read_text())
        return ports


def parse_sent(text: str) -> int:
    """Bytes that eth0 has sent, from /proc/net/dev."""
    line = next(line for line in text.splitlines() if line.strip().startswith(f"{INTERFACE}:"))
    return int(line.partition(":")[2].split()[_TX_BYTES])


def parse_listening(text: str) -> set[int]:
    """Ports at which somebody listens, from /proc/net/tcp."""
    lines = (line.split() for line in text.splitlines()[1:])
    return {int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == LISTEN}


def address(lab: Lab, host: Host) -> str:
    return f"10.77.0.{lab.hosts.index(host) + 1}"


def make_lab(readers: int, mode: Mode) -> Lab:
    return Lab(PREFIX, readers, wire=mode is not Mode.OFFLOAD, gro=mode is Mode.NIC)


def _give_addresses(lab: Lab) -> None:
    for host in lab.hosts:
        host.run(["ip", "address", "add", f"{address(lab, host)}/24", "broadcast", "+", "dev", INTERFACE])
        host.run(["ip", "route", "add", "224.0.0.0/4", "dev", INTERFACE])


@contextmanager
def build(conditions: Conditions, source: Path, directory: Path) -> Iterator[Scene]:
    """A fresh lab, shaped and lossy as wanted; what runs and lies in it ends with it."""
    with (
        tempfile.TemporaryDirectory(prefix=f"{PREFIX}-", dir=directory) as place,
        make_lab(conditions.readers, conditions.mode) as lab,
        Site(lab, Path(place)) as site,
    ):
        _give_addresses(lab)
        if conditions.link is not None:
            lab.rate_limit(lab.server, f"{conditions.link}bit")
        for host in lab.clients:
            lab.loss(host, conditions.loss)
        holder = site.start(lab.server, ["sh", "-c", "echo ready; exec sleep 100000"])
        wait_until(lambda: holder.output == "ready\n", READY_DEADLINE, "a process in the server's namespace")
        yield Scene(site, conditions, source, holder)
