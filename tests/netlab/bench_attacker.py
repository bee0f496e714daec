"""The measure attacker: a transfer at 1 Gbit/s beside a host that sends 200 Mbit/s. tests/bench prints it.

It takes a maker of sites and yields (what, value, goal).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.netlab.attacked import AS_THE_SERVER, BY_STRANGERS, MEMBERSHIP, Outcome, build, build_changed
from tests.netlab.harness import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.netlab.harness import Site

    SiteMaker = Callable[[int], AbstractContextManager[Site]]
    Figures = Iterator[tuple[str, str, str]]

FACTOR: Final = 3.0
"""Times the undisturbed time, without a share key."""
PATIENCE: Final = 8.0
"""Times the undisturbed time after which an attacked transfer is given up, and what comes after it is looked at."""
RECOVERY: Final = 120.0
SLOWEST: Final = 0.2e9
"""Bits per second that the undisturbed transfer has at least."""


def attacker(make: SiteMaker, size: int) -> Figures:
    """Each kind of attack in a lab of its own; the undisturbed transfer before it is of the same lab."""
    with make(2) as site:
        alone = build(site, size).read(size * 8 / SLOWEST).seconds
    yield f"{size // MIB} MiB at 1 Gbit/s, undisturbed", f"{alone:.2f} s", ""
    for kind in (*BY_STRANGERS, *MEMBERSHIP):
        yield _one(make, size, kind, alone, as_server=False)
    for kind in AS_THE_SERVER:
        yield _one(make, size, kind, alone, as_server=True)


def _one(make: SiteMaker, size: int, kind: str, alone: float, *, as_server: bool) -> tuple[str, str, str]:
    with make(2) as site:
        scene = build_changed(site, size) if kind == "replay" else build(site, size)
        found = scene.read_attacked(kind, PATIENCE * alone, as_server=as_server)
        after = scene.read(RECOVERY) if found.code != 0 else None
    assert "differ" not in found.output, f"wrong bytes: {found.output}"
    name = f"{kind}, under the server's address" if as_server else kind
    goal = "right bytes or an error; recovers" if as_server else f"<= {FACTOR:g} x"
    return name, describe(found, after, alone), goal


def describe(found: Outcome, after: Outcome | None, alone: float) -> str:
    sent = f"{found.mbits:.0f} Mbit/s"
    if after is None:
        return f"{found.seconds:.2f} s, {found.seconds / alone:.2f} x; {sent}"
    how = "not done" if found.code is None else "an error"
    then = f"read {after.seconds:.1f} s after it" if after.code == 0 else "NOT READ after it"
    return f"{how} after {found.seconds:.1f} s, {then}; {sent}"
