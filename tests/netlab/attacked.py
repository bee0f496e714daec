"""A reader beside a host that attacks (attacker.py): what tests/netlab and the measure `attacker` have in common."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from mcfs.cli.lab import INTERFACE
from mcfs.net.receive import Receiver
from mcfs.protocol import addressing, wire
from tests.netlab.harness import STOP_DEADLINE, random_file, same_bytes, wait_until
from tests.netlab.namespaces import inside

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mcfs.cli.lab import Host
    from tests.netlab.harness import Job, Mounted, Site

SHARE: Final = "data"
LINK: Final = "1gbit"
RATE: Final = "1G"
MBITS: Final = 200.0
"""What the attacker sends, headers included."""
BY_STRANGERS: Final = ("noise", "symbols", "drip", "many", "replay", "announcements")
MEMBERSHIP: Final = ("queries", "joins", "leaves")
AS_THE_SERVER: Final = ("symbols", "drip")
RECORDED: Final = 3
"""Announcements that are heard before the share changes."""
SETTLING: Final = 1.0


class Outcome(NamedTuple):
    seconds: float
    code: int | None
    """Of the reader; None if it was not done in time."""
    mbits: float
    """What the attacker sent."""
    output: str


@dataclass
class Scene:
    """A server, a reader and an attacker on one link."""

    site: Site
    source: Path
    mounted: Mounted
    witness: Job
    """A process in the reader's namespace: /proc shows through it what the reader listens to."""
    recorded: Path | None = None

    @property
    def attacker(self) -> Host:
        return self.site.lab.clients[1]

    @contextlib.contextmanager
    def attack(self, kind: str, mbits: float = MBITS, *, as_server: bool = False) -> Iterator[Job]:
        """An attacker who has begun; at the end it is told to stop."""
        argv = [sys.executable, "-m", "tests.netlab.attacker", kind, str(self.witness.process.pid), str(mbits)]
        argv += [self.site.lab.link_local(self.site.lab.server) if as_server else ""]
        argv += [str(self.recorded)] if kind == "replay" and self.recorded else []
        job = self.site.start(self.attacker, argv)
        try:
            wait_until(lambda: "ready" in job.output or not job.running, STOP_DEADLINE, "the attack begins")
            assert job.running, job.output
            yield job
        finally:
            job.process.terminate()
            job.finish(STOP_DEADLINE)

    def read(self, deadline: float) -> Outcome:
        """Read the file from its start to its end and compare it."""
        job = self.site.start(self.mounted.host, same_bytes(self.source, self.mounted.path / "file"))
        code: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = job.process.wait(deadline)
        seconds = time.monotonic() - job.started
        job.kill()
        return Outcome(seconds, code, 0.0, job.output)

    def read_attacked(self, kind: str, deadline: float, *, as_server: bool = False) -> Outcome:
        with self.attack(kind, as_server=as_server) as attack:
            found = self.read(deadline)
        sent = json.loads(attack.output.splitlines()[-1])
        return found._replace(mbits=sent["mbits"])


def build(site: Site, size: int, *, state: Path | None = None, options: tuple[str, ...] = (), **mount: object) -> Scene:
    """With `options` of mcfs-serve and of the mount, as for a share with a key."""
    lab = site.lab
    lab.rate_limit(lab.server, LINK)
    directory = site.new_directory("served") / SHARE
    directory.mkdir()
    source = random_file(directory / "file", size)
    site.serve(lab.server, directory, state=state, options=("--rate", RATE, *options))
    witness = site.start(lab.clients[0], ["sleep", "100000"])
    mounted = site.mount(lab.clients[0], SHARE, cache=None, **mount)
    time.sleep(SETTLING)
    return Scene(site, source, mounted, witness)


def record(site: Site, host: Host) -> Path:
    """What a server announces of the share now, as its groups and datagrams; for `replay` when it is old."""
    path = site.new_directory("recorded") / "datagrams"
    group = addressing.share_group(SHARE.encode(), addressing.SITE_LOCAL)
    with inside(host.namespace):
        receiver = Receiver(wire.DEFAULT_PORT)
        index = socket.if_nametoindex(INTERFACE)
    found: list[tuple[str, str]] = []
    try:
        receiver.join(group, index)
        end = time.monotonic() + STOP_DEADLINE
        while len(found) < RECORDED and time.monotonic() < end:
            found += [(run.group.hex(), row.tobytes().hex()) for run in receiver.receive() or [] for row in run.rows()]
            time.sleep(0.01)
    finally:
        receiver.close()
    assert len(found) >= RECORDED, "the server announces"
    path.write_text(json.dumps(found))
    return path


def build_changed(site: Site, size: int) -> Scene:
    """The same, where the share has changed since something of it was recorded."""
    lab = site.lab
    directory = site.new_directory("before") / SHARE
    directory.mkdir()
    random_file(directory / "file", 3 << 20, seed=9)
    state = site.new_directory("state")
    before = site.serve(lab.server, directory, state=state)
    recorded = record(site, lab.clients[1])
    before.stop()
    scene = build(site, size, state=state)
    scene.recorded = recorded
    return scene
