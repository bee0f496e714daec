"""The whole path with the Bloom listener table: real joins, refreshes and leaves come to the same as with the exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.netlab.harness import MIB, Site, join_all, random_file, same_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mcfs.cli.lab import Lab

pytestmark = pytest.mark.netlab


def test_two_clients_read_the_same_file(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    lab = make_lab(2)
    with Site(lab, tmp_path) as site:
        directory = site.new_directory("data")
        source = random_file(directory / "file", 16 * MIB)
        site.serve(lab.server, directory, options=("--listeners", "bloom", "--listeners-size", "1024"))
        mounts = [site.mount(host, directory.name) for host in lab.clients]
        join_all([site.start(m.host, same_bytes(source, m.path / "file")) for m in mounts], 60.0)
        sent = site.sent()
        assert sent < 4 * 16 * MIB, "leaves are heard: nothing is sent for ever"
