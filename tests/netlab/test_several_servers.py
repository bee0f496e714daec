"""Several servers of one share on one link."""

from __future__ import annotations

import ipaddress
import shutil
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from mcfs.serve.senders import WARM_UP
from tests.netlab.harness import MIB, Serving, Site, random_file, same_bytes, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mcfs.cli.lab import Host, Lab

pytestmark = pytest.mark.netlab

SIZE = 48 * MIB
DEADLINE = 120.0


class Pair:
    """Two servers with copies of the same data and the same publisher's key, the one that sends first, and a client."""

    def __init__(self, site: Site, *options: str) -> None:
        self.site = site
        reader, second = site.lab.clients
        self.source = random_file(site.new_directory("first") / "file", SIZE)
        other = site.new_directory("second")
        shutil.copy2(self.source, other / "file")
        hosts = sorted((site.lab.server, second), key=lambda host: _address(site.lab, host))
        self.servers: list[tuple[Host, Serving]] = []
        key = site.new_directory("key") / "key"
        key.write_bytes(bytes(range(32)))
        key.chmod(0o600)
        self.options = ("--name", "data", "--signing-key", str(key), *options)
        for host, directory in zip(hosts, (self.source.parent, other), strict=True):
            self.servers.append((host, site.serve(host, directory, options=self.options)))
            time.sleep(WARM_UP)  # while it is new, it leaves the sending to any other server that it hears
        self.mounted = site.mount(reader, "data")

    def sent(self) -> list[int]:
        return [self.site.lab.tx_bytes(host) for host, _ in self.servers]


def _address(lab: Lab, host: Host) -> bytes:
    return ipaddress.IPv6Address(lab.link_local(host)).packed


@pytest.fixture
def make_pair(make_lab: Callable[..., Lab], tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    with ExitStack() as stack:
        yield lambda *options: Pair(stack.enter_context(Site(make_lab(2), tmp_path)), *options)


def test_only_one_of_two_sends(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair()
    before = pair.sent()
    pair.site.start(pair.mounted.host, same_bytes(pair.source, pair.mounted.path / "file")).expect_success(DEADLINE)
    first, second = (now - then for now, then in zip(pair.sent(), before, strict=True))
    assert first + second < 1.15 * SIZE
    assert second < 0.02 * SIZE, "announcements and MLD"


@pytest.mark.parametrize("killed", [True, False])
def test_the_other_takes_over(make_pair: Callable[..., Pair], killed: bool) -> None:
    pair = make_pair("--rate", "100M")
    before = pair.sent()
    job = pair.site.start(pair.mounted.host, same_bytes(pair.source, pair.mounted.path / "file"))
    wait_until(lambda: pair.sent()[0] - before[0] > SIZE // 3, DEADLINE, "a third is sent")
    host, serving = pair.servers[0]
    if killed:
        serving.kill()
    else:
        pair.site.lab.link(host, up=False)
    job.expect_success(DEADLINE)
    assert pair.sent()[1] - before[1] > SIZE // 3


def test_who_comes_back_sends_again(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair("--rate", "40M")
    host, serving = pair.servers[0]
    serving.kill()
    before = pair.sent()
    job = pair.site.start(pair.mounted.host, same_bytes(pair.source, pair.mounted.path / "file"))
    wait_until(lambda: pair.sent()[1] - before[1] > SIZE // 5, DEADLINE, "the second sends")
    pair.servers[0] = (host, pair.site.serve(host, pair.source.parent, state=serving.state, options=pair.options))
    wait_until(lambda: not job.running or pair.sent()[0] - before[0] > SIZE // 10, DEADLINE, "the first sends again")
    job.expect_success(DEADLINE)
    second = pair.sent()[1]
    assert pair.sent()[0] - before[0] > SIZE // 10
    pair.site.start(pair.mounted.host, ["cat", pair.mounted.path / "file"]).expect_success(DEADLINE)
    assert pair.sent()[1] - second < 0.02 * SIZE
