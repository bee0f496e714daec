"""What happens on a link when listeners come, go and misbehave: each function lets it happen and returns figures.

test_mld_path.py judges them with generous limits, bench_mld.py prints them.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from mcfs.cli.lab import INTERFACE
from mcfs.protocol.ids import DEFAULT_BLOCK_SIZE
from mcfs.protocol.merkle import object_of
from tests.netlab.harness import MCFS, MIB, Job, Mounted, random_file, same_bytes, wait_until
from tests.netlab.members import FLOOD_RATE, Member, flood_command, groups_of, hole
from tests.netlab.namespaces import inside
from tests.netlab.switches import SETTLING, Packet, Tap

if TYPE_CHECKING:
    from pathlib import Path

    from mcfs.cli.lab import Host
    from mcfs.protocol.ids import Group, ObjectRef
    from tests.netlab.harness import Serving, Site

SLOW: Final = ("--rate", "100M")
SLOW_BYTES: Final = 100e6 / 8
"""What the slow server sends in a second."""
STEADY: Final = ("--rate", "500M")
DEADLINE: Final = 120.0
WATCHED: Final = 3.0
"""Seconds for which nothing more may come."""
TRICKLE: Final = ("--rate", "4M")
TRICKLE_BYTES: Final = 4e6 / 8


class Silence(NamedTuple):
    """How a server fell silent."""

    seconds: float
    """From what happened to its last datagram of data."""
    size: int
    """Bytes of data that it sent in this time."""


def data_share(site: Site, size: int) -> Path:
    """The directory `data` with one random file, which is returned."""
    directory = site.directory / "data"
    directory.mkdir()
    return random_file(directory / "file", size)


def object_in(source: Path) -> ObjectRef:
    return object_of(source.read_bytes(), DEFAULT_BLOCK_SIZE)[0]


def join(host: Host, *groups: Group) -> Member:
    """A socket of this process that listens in the host's name, but reads nothing."""
    with inside(host.namespace):
        return Member(socket.if_nametoindex(INTERFACE), groups)


def sent_data(packet: Packet) -> bool:
    return packet.outgoing and packet.is_data


def asked_for_group(packet: Packet) -> bool:
    return packet.outgoing and packet.is_specific_query


def _silence(tap: Tap, since: float) -> Silence:
    tap.watch(WATCHED)
    late = tap.select(sent_data, since=since)
    return Silence(late[-1].at - since if late else 0.0, sum(packet.size for packet in late))


def last_leave(site: Site, version: int) -> Silence:
    """A host that listens to 64 blocks by this version of MLD leaves them all while they are being sent."""
    client = site.lab.clients[0]
    client.run(["sysctl", "-qw", f"net.ipv6.conf.{INTERFACE}.force_mld_version={version}"])
    source = data_share(site, 64 * MIB)
    site.serve(site.lab.server, source.parent, options=SLOW)
    time.sleep(SETTLING)
    before = site.sent()
    with Tap(site.lab.server) as tap, join(client, *groups_of(object_in(source))) as member:
        site.wait_sent(before, 4 * MIB, DEADLINE)
        left = time.time()
        member.close()
        return _silence(tap, left)


def killed_client(site: Site) -> Silence:
    """The daemon of a mount is killed in the middle of a copy; the reader gets an error."""
    source = data_share(site, 64 * MIB)
    site.serve(site.lab.server, source.parent, options=SLOW)
    time.sleep(SETTLING)
    mounted, daemon = _mount_in_foreground(site, site.lab.clients[0])
    before = site.sent()
    with Tap(site.lab.server) as tap:
        reader = site.start(mounted.host, same_bytes(source, mounted.path / "file"))
        site.wait_sent(before, 4 * MIB, DEADLINE)
        killed = time.time()
        daemon.kill()
        found = _silence(tap, killed)
    assert reader.finish(DEADLINE) != 0
    return found


def _mount_in_foreground(site: Site, host: Host) -> tuple[Mounted, Job]:
    mounted = Mounted(host, site.new_directory("mount"), site.new_directory("cache"))
    site.lab.track_mount(mounted.path)
    options = f"cache_dir={mounted.cache},iface={INTERFACE}"
    daemon = site.start(host, [*MCFS, "mount", "-f", "data", mounted.path, "-o", options])
    wait_until(lambda: not daemon.running or os.path.ismount(mounted.path), DEADLINE, "the mount serves")
    assert daemon.running, daemon.output
    return mounted, daemon


def cut_cable(site: Site, blocks: int) -> tuple[Silence, dict[str, int]]:
    """The cable of a host that listens to some blocks is cut. Returns also how often each group was queried.

    Two queries ask whether anybody is left. A third is for switches, and sent only when the group was given up.
    """
    client = site.lab.clients[0]
    source = data_share(site, blocks * MIB)
    site.serve(site.lab.server, source.parent, options=SLOW)
    time.sleep(SETTLING)
    with Tap(site.lab.server) as tap, join(client, *groups_of(object_in(source))):
        wait_until(lambda: bool(tap.select(sent_data)), DEADLINE, "data")
        cut = time.time()
        site.lab.link(client, up=False)
        wait_until(lambda: len(tap.select(asked_for_group)) >= 3 * blocks, DEADLINE, "queries for each group")
        silence = _silence(tap, cut)
        queries: dict[str, int] = {}
        for packet in tap.select(asked_for_group):
            queries[packet.group] = queries.get(packet.group, 0) + 1
    return silence, queries


def trickle(site: Site, seconds: float) -> tuple[float, float]:
    """A client reads slowly, without a pause. Returns for how long data came, and the longest time without."""
    source = data_share(site, int(seconds * TRICKLE_BYTES))
    site.serve(site.lab.server, source.parent, options=TRICKLE)
    mounted = site.mount(site.lab.clients[0], "data", max_wait=int(2 * seconds))
    with Tap(mounted.host) as tap:
        job = site.start(mounted.host, same_bytes(source, mounted.path / "file"))
        while job.running:
            tap.watch(1)
        job.expect_success(1)
        times = [packet.at for packet in tap.select(lambda packet: packet.is_data and not packet.outgoing)]
    return times[-1] - times[0], max(after - before for before, after in itertools.pairwise(times))


class Flooded(NamedTuple):
    """A copy beside a host that floods the server with joins."""

    alone: float
    """Seconds that a copy of as much took before the flood."""
    seconds: float
    joins: int
    """How many the flood consisted of."""
    statistics: dict[str, int]
    """Of the server."""


def flooded_copy(site: Site, size: int, seconds: float) -> Flooded:
    source = data_share(site, size)
    random_file(source.parent / "before", size, seed=2)
    wanted = hole(site.directory / "wanted", int(FLOOD_RATE * seconds))
    serving: Serving = site.serve(site.lab.server, source.parent, site.directory / "wanted", options=STEADY)
    flooder, reader = site.lab.clients
    mounted = site.mount(reader, "data")
    alone = site.start(reader, same_bytes(source.parent / "before", mounted.path / "before")).expect_success(DEADLINE)
    flood = site.start(flooder, flood_command(wanted, seconds))
    wait_until(lambda: "ready" in flood.output, DEADLINE, "the flood begins")
    took = site.start(reader, same_bytes(source, mounted.path / "file")).expect_success(DEADLINE)
    flood.expect_success(DEADLINE)
    mounted.umount()
    return Flooded(alone, took, int(flood.output.split()[-1]), serving.stop())
