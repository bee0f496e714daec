"""A reader behind a slow port beside fast ones, on real namespaces: bytes, and the class that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.netlab.harness import MIB, join_all, random_file, same_bytes

if TYPE_CHECKING:
    from tests.netlab.conftest import SiteMaker

SIZE = 48 * MIB
RATE = ("--rate", "200M")
SLOW = "20mbit"
BUFFER = "150kb"
"""Much less than what a client asks for in the fastest class."""
DEADLINE = 120.0

pytestmark = [pytest.mark.netlab, pytest.mark.slow]


def test_a_slow_port_makes_its_reader_take_a_slower_class(make_site: SiteMaker) -> None:
    site = make_site(3, wire=True)
    directory = site.new_directory("data")
    source = random_file(directory / "file", SIZE)
    serving = site.serve(site.lab.server, directory, options=RATE)
    mounted = [site.mount(host, directory.name) for host in site.lab.clients]
    site.lab.slow_port(site.lab.clients[-1], SLOW, BUFFER)
    before = site.sent()
    jobs = [site.start(each.host, same_bytes(source, each.path / "file")) for each in mounted]
    fast = join_all(jobs[:-1], DEADLINE)
    slow = jobs[-1].expect_success(DEADLINE)
    assert site.sent() - before <= 3.0 * SIZE, "it was 4 times and more without pace classes"
    symbols = serving.stop()["slow_symbols"]
    assert symbols * 1424 >= 0.7 * SIZE, "most of what the slow one read came in a slow class"
    assert slow > 2 * max(fast), "the fast ones did not wait for it"


def test_readers_that_lose_datagrams_stay_in_the_fastest_class(make_site: SiteMaker) -> None:
    site = make_site(2, wire=True)
    directory = site.new_directory("data")
    source = random_file(directory / "file", SIZE)
    serving = site.serve(site.lab.server, directory, options=RATE)
    mounted = [site.mount(host, directory.name) for host in site.lab.clients]
    for host in site.lab.clients:
        site.lab.loss(host, 20)
    join_all([site.start(each.host, same_bytes(source, each.path / "file")) for each in mounted], DEADLINE)
    assert serving.stop()["slow_symbols"] == 0
