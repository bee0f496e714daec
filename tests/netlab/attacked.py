"""A reader beside a host that attacks (attacker.py): what tests/netlab and the measure `attacker` have in common.

The same file is in a share that everybody may read and in one that has a key; each read is through a mount of its own.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from mcfs.cli.lab import INTERFACE
from mcfs.net.receive import Receiver
from mcfs.protocol import addressing, wire
from mcfs.protocol.keys import keys_of_file
from tests.netlab.harness import MCFS, STOP_DEADLINE, random_file, same_bytes, wait_until
from tests.netlab.namespaces import inside

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mcfs.cli.lab import Host
    from tests.netlab.harness import Job, Mounted, Serving, Site

SHARES: Final = {False: "data", True: "secret"}
"""Names, by whether there is a key."""
LINK: Final = "1gbit"
RATE: Final = "1G"
MBITS: Final = 200.0
"""What the attacker sends, headers included."""
BY_STRANGERS: Final = ("noise", "symbols", "drip", "many", "replay", "announcements", "unlooked")
MEMBERSHIP: Final = ("queries", "joins", "leaves")
AS_THE_SERVER: Final = ("noise", "symbols", "drip", "announcements", "unlooked")
RECORDED: Final = 3
"""Announcements that are heard before the shares change."""
SETTLING: Final = 1.0


class Outcome(NamedTuple):
    seconds: float
    code: int | None
    """Of the reader; None if it was not done in time."""
    mbits: float
    """What the attacker sent."""
    output: str

    @property
    def right(self) -> bool:
        return self.code == 0

    @property
    def wrong(self) -> bool:
        """Whether other bytes were read than those of the source, as cmp says; of an error it names the error."""
        return "differ" in self.output or "EOF" in self.output


@dataclass
class Scene:
    """A server, a reader and an attacker on one link."""

    site: Site
    source: Path
    key: Path
    state: Path
    witness: Job
    """A process in the reader's namespace: /proc shows through it what the reader listens to."""
    recorded: dict[bool, Path] = field(default_factory=dict)

    def serve(self, rate: str, source: Path | None = None) -> Serving:
        """The file, or another one, in both shares."""
        top = self.site.new_directory("served")
        for name in SHARES.values():
            (top / name).mkdir()
            (top / name / "file").hardlink_to(source or self.source)
        options = ("--rate", rate, "--keyfile", f"{SHARES[True]}={self.key}")
        shares = [top / name for name in SHARES.values()]
        return self.site.serve(self.site.lab.server, *shares, state=self.state, options=options)

    @contextlib.contextmanager
    def mounted(self, *, keyed: bool) -> Iterator[Mounted]:
        """With an empty cache."""
        mounted = self.site.mount(self.site.lab.clients[0], SHARES[keyed], keyfile=self.key if keyed else None)
        try:
            time.sleep(SETTLING)
            yield mounted
        finally:
            mounted.host.run([*MCFS, "umount", "-l", mounted.path])
            shutil.rmtree(mounted.cache, ignore_errors=True)

    @contextlib.contextmanager
    def attack(self, kind: str, *, keyed: bool, mbits: float = MBITS, as_server: bool = False) -> Iterator[Job]:
        """An attacker who has begun; at the end it is told to stop, and has said what it sent."""
        lab = self.site.lab
        argv = [sys.executable, "-m", "tests.netlab.attacker", kind, str(self.witness.process.pid), str(mbits)]
        argv += ["--source", lab.link_local(lab.server)] if as_server else []
        argv += ["--recorded", str(self.recorded[keyed])] if kind == "replay" else []
        argv += ["--sealed"] if keyed else []
        job = self.site.start(lab.clients[1], argv)
        try:
            wait_until(lambda: "ready" in job.output or not job.running, STOP_DEADLINE, "the attack begins")
            assert job.running, job.output
            yield job
        finally:
            job.process.terminate()
            job.finish(STOP_DEADLINE)

    def read(self, mounted: Mounted, deadline: float) -> Outcome:
        """Read the file from its start to its end and compare it."""
        job = self.site.start(mounted.host, same_bytes(self.source, mounted.path / "file"))
        code: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = job.process.wait(deadline)
        seconds = time.monotonic() - job.started
        job.kill()
        return Outcome(seconds, code, 0.0, job.output)

    def read_attacked(
        self, mounted: Mounted, kind: str, deadline: float, *, keyed: bool, as_server: bool = False
    ) -> Outcome:
        with self.attack(kind, keyed=keyed, as_server=as_server) as attack:
            found = self.read(mounted, deadline)
        return found._replace(mbits=json.loads(attack.output.splitlines()[-1])["mbits"])

    def alone(self, deadline: float, *, keyed: bool) -> float:
        """Seconds that nobody disturbs."""
        with self.mounted(keyed=keyed) as mounted:
            found = self.read(mounted, deadline)
        assert found.right, found
        return found.seconds


def force_version_2(host: Host) -> None:
    """Has a host speak MLDv2 whatever it is asked in."""
    host.run(["sysctl", "-q", "-w", f"net.ipv6.conf.{INTERFACE}.force_mld_version=2"])


def prepare(site: Site, size: int, source: Path | None = None) -> Scene:
    """A scene with a file of so many bytes, or with `source`, that nobody serves yet."""
    lab = site.lab
    lab.rate_limit(lab.server, LINK)
    key = random_file(site.directory / "share.key", 128)
    key.chmod(0o600)
    source = source or random_file(site.directory / "source", size)
    witness = site.start(lab.clients[0], ["sleep", "100000"])
    return Scene(site, source, key, site.new_directory("state"), witness)


def build(site: Site, size: int, *, rate: str = RATE, source: Path | None = None, record: bool = False) -> Scene:
    """The same with a server. With `record` there was other content before, and what was announced of it is kept for
    `replay`."""
    scene = prepare(site, size, source)
    if record:
        before = scene.serve(rate, random_file(site.directory / "before", 3 << 20, seed=9))
        for keyed in SHARES:
            scene.recorded[keyed] = _record(site, site.lab.clients[1], scene.key if keyed else None)
        before.stop()
    scene.serve(rate)
    return scene


def _record(site: Site, host: Host, key: Path | None) -> Path:
    """What a server announces of a share now, as groups and datagrams."""
    path = site.new_directory("recorded") / "datagrams"
    keys = keys_of_file(key.read_bytes()) if key else None
    group = addressing.share_group(SHARES[key is not None].encode(), addressing.SITE_LOCAL, keys)
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
