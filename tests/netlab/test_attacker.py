"""A host on the link that sends 200 Mbit/s of what hinders most: readers get the right bytes, or an error and no more.

How long a transfer takes beside it is measured by tests/bench (`attacker`); here deadlines are generous.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.netlab.attacked import AS_THE_SERVER, BY_STRANGERS, MBITS, MEMBERSHIP, build, build_changed
from tests.netlab.harness import MIB

if TYPE_CHECKING:
    from tests.netlab.conftest import SiteMaker

SIZE = 48 * MIB
DEADLINE = 60.0
ATTACKED = 8.0
"""Seconds for which a reader tries that has no chance."""
RECOVERY = 90.0
"""Seconds from the end of the attack: what is silent is asked again after up to 16."""
WRONG = "differ"
"""What cmp says of wrong bytes; of an error it names the error."""

pytestmark = [pytest.mark.netlab, pytest.mark.slow]


@pytest.mark.parametrize("kind", BY_STRANGERS)
def test_a_reader_gets_the_right_bytes_beside_an_attacker(make_site: SiteMaker, kind: str) -> None:
    site = make_site(2, wire=True)
    scene = build_changed(site, SIZE) if kind == "replay" else build(site, SIZE)
    found = scene.read_attacked(kind, DEADLINE)
    assert found.code == 0, found
    assert found.mbits > 0.6 * MBITS, "it was an attack"


@pytest.mark.parametrize("kind", MEMBERSHIP)
def test_forged_membership_does_not_make_wrong_bytes(make_site: SiteMaker, kind: str) -> None:
    scene = build(make_site(2, wire=True), SIZE)
    found = scene.read_attacked(kind, ATTACKED)
    assert WRONG not in found.output
    assert scene.read(RECOVERY).code == 0, "it recovers"


@pytest.mark.parametrize("kind", AS_THE_SERVER)
def test_who_takes_the_servers_address_makes_no_wrong_bytes(make_site: SiteMaker, kind: str) -> None:
    scene = build(make_site(2, wire=True), SIZE)
    found = scene.read_attacked(kind, ATTACKED, as_server=True)
    assert WRONG not in found.output
    assert scene.read(RECOVERY).code == 0, "it recovers"
