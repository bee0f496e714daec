"""The measure mld: what the server's MLD side costs, and how soon it acts. tests/bench prints it.

Each takes a maker of sites and yields (what, value, goal).
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

from tests.netlab.harness import MIB, random_file, same_bytes
from tests.netlab.listening import DEADLINE, STEADY, cut_cable, flooded_copy, killed_client, last_leave, trickle
from tests.netlab.switches import is_snooping, set_bridge
from tests.serve.hostile_reports import HostileReports
from tests.serve.interface import ALICE, CATALOGUE, SERVER, SHARE, Interface, assert_untouched, group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.netlab.harness import Site

    SiteMaker = Callable[[int], AbstractContextManager[Site]]
    Figures = Iterator[tuple[str, str, str]]

PART: Final = 1024 * MIB
"""Bytes of a file: it, the client's cache and the page cache have to fit the memory, so it is served file by file."""
FUZZED: Final = 1_000_000
FLOOD_SECONDS: Final = 10.0
SHORT_INTERVAL: Final = 2000
"""Hundredths of a second for which the bridge believes members and queriers: less than the server's query interval."""


def one_reader(make: SiteMaker, size: int) -> Figures:
    """The bridge's table while one client reads more blocks than it has room for."""
    largest, last, seconds = 0, 0, 0.0
    with make(1) as site:
        state = site.new_directory("state")
        for number, start in enumerate(range(0, size, PART)):
            source = random_file(site.new_directory("data") / "file", min(PART, size - start), seed=number)
            serving = site.serve(site.lab.server, source.parent, state=state, options=("--name", "data"))
            mounted = site.mount(site.lab.clients[0], "data")
            job = site.start(mounted.host, same_bytes(source, mounted.path / "file"))
            while job.running:
                largest = max(largest, site.lab.bridge_groups())
                time.sleep(0.1)
            seconds += job.expect_success(DEADLINE)
            last = site.lab.bridge_groups()
            mounted.umount()
            serving.stop()
            for directory in (source.parent, mounted.cache):
                for path in directory.rglob("*"):
                    path.unlink() if path.is_file() else None
        snooping = "on" if is_snooping(site.lab) else "off"
    yield (
        f"{size // MIB} MiB read through a default bridge: entries of its table at most / at the end, snooping",
        f"{largest} / {last}, {snooping}, {seconds:.0f} s",
        "< 300 at the end, on",
    )


def silence(make: SiteMaker, _size: int) -> Figures:
    for version, goal in ((2, "<= 100 ms"), (1, "<= 1 s")):
        with make(1) as site:
            found = last_leave(site, version)
        what = f"last leave until silence, MLDv{version}"
        yield what, f"{found.seconds * 1e3:.0f} ms, {found.size} bytes", goal
    with make(1) as site:
        found = killed_client(site)
    yield "killed client until silence", f"{found.seconds * 1e3:.0f} ms, {found.size} bytes", "<= 100 ms"
    with make(1) as site:
        found, _ = cut_cable(site, blocks=4)
    value = f"{found.seconds:.1f} s, {found.size / (4 * MIB):.2f} times their size"
    yield "cable cut until silence, four blocks", value, "<= 75 s"


def gaps(make: SiteMaker, minutes: float) -> Figures:
    with make(1) as site:
        times = {"mcast_membership_interval": SHORT_INTERVAL, "mcast_querier_interval": SHORT_INTERVAL}
        set_bridge(site.lab, **times)
        seconds, gap = trickle(site, 60 * minutes)
    what = "slow copy, a bridge that forgets after 20 s: longest time without data"
    yield what, f"{gap * 1e3:.0f} ms in {seconds:.0f} s", "<= 1 s"


def fuzz(_make: SiteMaker, _size: int) -> Figures:
    """In this process, without sockets."""
    interface = Interface()
    interface.run(10.0)
    served = (group(1), CATALOGUE, SHARE)
    hostile = HostileReports(random.Random(4), served, host=ALICE, server=SERVER)
    spent = 0.0
    for number in range(FUZZED):
        envelope, message = hostile.any()
        start = time.perf_counter()
        interface.link.receive(envelope, message, now=11.0 + number / 10_000)
        spent += time.perf_counter() - start
    assert_untouched(interface)
    link = interface.link
    value = f"nothing; {link.counters.bad_messages + link.membership.counters.refused} counted, {spent:.1f} s"
    yield f"{FUZZED} hostile reports: what they triggered", value, "nothing"


def flooded(make: SiteMaker, size: int) -> Figures:
    with make(2) as site:
        found = flooded_copy(site, size, FLOOD_SECONDS)
    rate = f"{STEADY[1]}, {size // MIB} MiB"
    value = f"{found.seconds:.1f} s, alone {found.alone:.1f} s; {found.joins} joins, {found.statistics['joins']} taken"
    yield f"copy beside {found.joins / FLOOD_SECONDS:.0f} joins a second for 10 s, {rate}", value, "<= 3 x alone"
