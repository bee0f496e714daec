"""A server that cannot hear who listens, and sends everything round and round."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.netlab.harness import HARNESS, MIB, SERVE, Site, join_all, library_tree, random_file, same_bytes, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mcfs.cli.lab import Lab

pytestmark = pytest.mark.netlab

DEADLINE = 180.0
RATE = "150M"
NO_MLD = """
add table inet mcfs_one_way
add chain inet mcfs_one_way input { type filter hook input priority 0; }
add rule inet mcfs_one_way input iifname "eth0" drop
"""


@pytest.fixture
def site(make_lab: Callable[..., Lab], tmp_path: Path) -> Iterator[Site]:
    """The server receives nothing at all: the link is one-way."""
    with ExitStack() as stack:
        lab = make_lab(2, snooping=False)
        lab.server.run(["nft", "-f", "-"], stdin=NO_MLD)
        yield stack.enter_context(Site(lab, tmp_path))


def test_a_tree_and_a_file_arrive_over_a_one_way_link(site: Site) -> None:
    tree = library_tree(site.directory / "library")
    source = random_file(tree / "large", 24 * MIB)
    serving = site.serve(site.lab.server, tree, options=("--always", "--rate", RATE))
    first = site.mount(site.lab.clients[0], "library", timeout=4, symlinks="keep")
    copied = site.new_directory("copied") / "tree"
    jobs = [site.start(first.host, ["cp", "-r", "--preserve=mode,timestamps", first.path, copied])]
    second = site.mount(site.lab.clients[1], None, timeout=4)
    wait_until((second.path / "library" / "large").exists, 30, "the share is heard of")
    jobs.append(site.start(second.host, same_bytes(source, second.path / "library" / "large")))
    join_all(jobs, DEADLINE)
    site.start(first.host, [*HARNESS, "compare", tree, copied]).expect_success(DEADLINE)
    statistics = serving.stop()
    assert statistics["listeners_seen"] == 0
    assert statistics["passes"] > 0


def test_loss_costs_no_more_than_another_round(site: Site) -> None:
    source = random_file(site.new_directory("data") / "file", 16 * MIB)
    site.serve(site.lab.server, source.parent, options=("--always", "--rate", RATE, "--name", "data"))
    for host in site.lab.clients:
        site.lab.wire_mode(host)
        site.lab.loss(host, 15)
    site.lab.wire_mode(site.lab.server)
    mounts = [site.mount(host, "data", timeout=4) for host in site.lab.clients]
    join_all([site.start(m.host, same_bytes(source, m.path / "file")) for m in mounts], DEADLINE)


def test_its_end_is_noticed(site: Site) -> None:
    source = random_file(site.new_directory("data") / "file", 64 * MIB)
    serving = site.serve(site.lab.server, source.parent, options=("--always", "--rate", "50M", "--name", "data"))
    mounted = site.mount(site.lab.clients[0], "data", timeout=3)
    job = site.start(mounted.host, ["cat", mounted.path / "file"])
    wait_until(lambda: site.lab.rx_bytes(mounted.host) > 8 * MIB, DEADLINE, "data come")
    serving.kill()
    assert job.finish(30) == 1
    assert "timed out" in job.output


def test_it_needs_a_rate(site: Site) -> None:
    done = site.lab.server.run([*SERVE, "--always", site.directory], check=False)
    assert done.returncode == 2
    assert "--rate" in done.stderr
