"""A mount on the server's own host, without a namespace between."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.netlab.harness import MIB, Site, join_all, random_file, same_bytes, wait_until
from tests.netlab.switches import SETTLING, make_querier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mcfs.cli.lab import Lab

pytestmark = pytest.mark.netlab

SIZE = 32 * MIB
DEADLINE = 120.0
QUIET = 0.02


@pytest.fixture
def site(make_lab: Callable[..., Lab], tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield stack.enter_context(Site(make_lab(2), tmp_path))


@pytest.mark.parametrize("version", [2, 1])
def test_it_is_served_and_others_get_each_datagram_once(site: Site, version: int) -> None:
    lab = site.lab
    source = random_file(site.new_directory("data") / "file", SIZE)
    if version == 1:
        make_querier(lab, 1)
    serving = site.serve(lab.server, source.parent, options=("--name", "data", "--rate", "300M"))
    if version == 1:
        wait_until(lambda: "speaks MLDv1" in serving.job.output, 30, "the querier is heard")
    mounts = [site.mount(host, "data") for host in (lab.server, lab.clients[0])]
    time.sleep(2 * SETTLING)
    sent, idle = site.sent(), lab.rx_bytes(lab.clients[1])
    site.start(lab.server, same_bytes(source, mounts[0].path / "file")).expect_success(DEADLINE)
    alone = site.sent() - sent
    assert alone < 1.15 * SIZE
    site.start(lab.clients[0], same_bytes(source, mounts[1].path / "file")).expect_success(DEADLINE)
    assert lab.rx_bytes(lab.clients[1]) - idle < QUIET * SIZE


def test_it_and_another_client_share_one_pass(site: Site) -> None:
    lab = site.lab
    source = random_file(site.new_directory("data") / "file", SIZE)
    site.serve(lab.server, source.parent, options=("--name", "data", "--rate", "300M"))
    mounts = [site.mount(host, "data") for host in (lab.server, lab.clients[0])]
    sent = site.sent()
    join_all([site.start(m.host, same_bytes(source, m.path / "file")) for m in mounts], DEADLINE)
    assert site.sent() - sent < 1.3 * SIZE
