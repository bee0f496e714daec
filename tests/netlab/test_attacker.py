"""A host on the link that sends 200 Mbit/s of what hinders most: readers get the right bytes, or an error and no more.

Each attack without a share key and with one. How long a transfer takes beside it is measured by tests/bench
(`attacker`); here deadlines are generous, and the server sends no more than the attacker.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from mcfs.cli.lab import INTERFACE
from tests.netlab.attacked import (
    AS_THE_SERVER,
    BY_STRANGERS,
    MBITS,
    MEMBERSHIP,
    SHARES,
    Scene,
    build,
    force_version_2,
    prepare,
)
from tests.netlab.harness import MCFS, MIB, same_bytes

if TYPE_CHECKING:
    from tests.netlab.conftest import SiteMaker

SIZE = 24 * MIB
RATE = "200M"
DEADLINE = 60.0
ATTACKED = 8.0
"""Seconds for which a reader tries that may have no chance."""
RECOVERY = 90.0
"""Seconds from the end of the attack: what is silent is asked again after up to 16."""

pytestmark = [pytest.mark.netlab, pytest.mark.slow]


def expect_right_bytes(scene: Scene, kind: str, *, keyed: bool, as_server: bool = False) -> None:
    with scene.mounted(keyed=keyed) as mounted:
        found = scene.read_attacked(mounted, kind, DEADLINE, keyed=keyed, as_server=as_server)
    assert found.right, found
    assert found.mbits > 0.05 * MBITS, "it was an attack"


def expect_nothing_wrong(scene: Scene, kind: str, *, keyed: bool, as_server: bool = False) -> None:
    with scene.mounted(keyed=keyed) as mounted:
        found = scene.read_attacked(mounted, kind, ATTACKED, keyed=keyed, as_server=as_server)
        assert found.right or not found.wrong, found
        after = scene.read(mounted, RECOVERY)
    assert after.right, f"it recovers: {after}"


@pytest.mark.parametrize("kind", BY_STRANGERS)
def test_a_reader_gets_the_right_bytes_beside_an_attacker(make_site: SiteMaker, kind: str) -> None:
    scene = build(make_site(2, wire=True), SIZE, rate=RATE, record=kind == "replay")
    for keyed in SHARES:
        expect_right_bytes(scene, kind, keyed=keyed)


@pytest.mark.parametrize("kind", AS_THE_SERVER)
def test_with_a_key_who_takes_the_servers_address_hinders_nobody(make_site: SiteMaker, kind: str) -> None:
    scene = build(make_site(2, wire=True), SIZE, rate=RATE)
    expect_right_bytes(scene, kind, keyed=True, as_server=True)


@pytest.mark.parametrize("kind", AS_THE_SERVER)
def test_who_takes_the_servers_address_makes_no_wrong_bytes(make_site: SiteMaker, kind: str) -> None:
    scene = build(make_site(2, wire=True), SIZE, rate=RATE)
    expect_nothing_wrong(scene, kind, keyed=False, as_server=True)


@pytest.mark.parametrize("keyed", SHARES)
@pytest.mark.parametrize("kind", MEMBERSHIP)
def test_forged_membership_keeps_nobody_from_reading(make_site: SiteMaker, kind: str, keyed: bool) -> None:
    expect_right_bytes(build(make_site(2, wire=True), SIZE, rate=RATE), kind, keyed=keyed)


@pytest.mark.parametrize("keyed", SHARES)
def test_with_version_2_forced_forged_queries_keep_nobody_from_reading(make_site: SiteMaker, keyed: bool) -> None:
    site = make_site(2, wire=True)
    force_version_2(site.lab.clients[0])
    expect_right_bytes(build(site, SIZE, rate=RATE), "queries", keyed=keyed)


@pytest.mark.parametrize("keyed", SHARES)
def test_a_server_is_heard_when_who_had_its_address_has_stopped(make_site: SiteMaker, keyed: bool) -> None:
    """Somebody floods a client that waits for a share, from the address that its server will have."""
    site = make_site(2, wire=True)
    scene, mountpoint = prepare(site, SIZE), site.new_directory("mount")
    reader = site.lab.clients[0]
    site.lab.track_mount(mountpoint)
    words = [*MCFS, "mount", SHARES[keyed], str(mountpoint), "-i", INTERFACE]
    words += ["--cache-dir", str(site.new_directory("cache"))]
    waiting = site.start(reader, [*words, "--keyfile", str(scene.key)] if keyed else words)
    for _ in range(3):
        with scene.attack("unlooked", keyed=keyed, as_server=True):
            time.sleep(1.0)
    assert waiting.running, waiting.output
    scene.serve(RATE)
    waiting.expect_success(DEADLINE)
    site.start(reader, same_bytes(scene.source, mountpoint / "file")).expect_success(DEADLINE)
