"""The measure attacker: a transfer at 1 Gbit/s beside a host that sends 200 Mbit/s. tests/bench prints it.

It takes a maker of sites and yields (what, value, goal): a row for each attack without a share key and with one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tests.netlab.attacked import Outcome, Scene, build, force_version_2, prepare
from tests.netlab.harness import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.netlab.harness import Mounted, Site

    SiteMaker = Callable[[int], AbstractContextManager[Site]]
    Row = tuple[str, str, str]

FACTORS: Final = {False: 3.0, True: 1.5}
"""Times the undisturbed time, by whether there is a key."""
PATIENCE: Final = 4.0
"""Times the undisturbed time after which an attacked transfer is given up, and what comes after it is looked at."""
RECOVERY: Final = 120.0
SLOWEST: Final = 0.1e9
"""Bits per second that the undisturbed transfer has at least."""
STRANGER: Final = ("noise", "symbols", "many", "replay", "announcements", "unlooked")
SERVER: Final = ("symbols", "drip")
"""Under the server's address."""
MEMBERSHIP: Final = (("nobody", False), ("queries", False), ("queries", True), ("joins", False), ("leaves", False))
"""With whether the reader's host is told to speak MLDv2 whatever queries say. Each in a lab of its own: what they do to
the server's tables outlives them. The first is none, to compare with: small datagrams for nobody."""


def attacker(make: SiteMaker, size: int) -> Iterator[Row]:
    """The undisturbed transfer is measured before and after some of them; each is compared with the mean of both."""
    with make(2) as site:
        scene = build(site, size, record=True)
        alone = _alone(scene, size)
        yield from _undisturbed(size, alone)
        for kinds, as_server in ((STRANGER[:3], False), (STRANGER[3:], False), (SERVER, True)):
            found = [
                (kind, keyed, _one(scene, kind, alone[keyed], keyed, as_server)) for kind in kinds for keyed in FACTORS
            ]
            before, alone = alone, _alone(scene, size)
            mean = {keyed: (before[keyed] + alone[keyed]) / 2 for keyed in FACTORS}
            for kind, keyed, outcomes in found:
                yield _row(kind, keyed, as_server, outcomes, mean[keyed])
        yield from _membership(make, size, scene.source)


def membership(make: SiteMaker, size: int) -> Iterator[Row]:
    """Of these rows only the last ones."""
    with make(2) as site:
        yield from _membership(make, size, prepare(site, size).source)


def _membership(make: SiteMaker, size: int, source: Path) -> Iterator[Row]:
    """Each compared with an undisturbed transfer right before it, in a lab of its own: a reader whom the server knows
    would have it easier."""
    for kind, forced in MEMBERSHIP:
        for keyed in FACTORS:
            with make(2) as site:
                alone = build(site, size, source=source).alone(size * 8 / SLOWEST, keyed=keyed)
            with make(2) as site:
                if forced:
                    force_version_2(site.lab.clients[0])
                outcomes = _one(build(site, size, source=source), kind, alone, keyed, False)
            name = f"{kind}, force_mld_version=2 at the reader" if forced else kind
            yield _row(name, keyed, False, outcomes, alone)


def _alone(scene: Scene, size: int) -> dict[bool, float]:
    return {keyed: scene.alone(size * 8 / SLOWEST, keyed=keyed) for keyed in FACTORS}


def _undisturbed(size: int, alone: dict[bool, float]) -> Sequence[Row]:
    what = f"{size // MIB} MiB at 1 Gbit/s, undisturbed"
    return [(f"{what}, {_key(keyed)}", f"{alone[keyed]:.2f} s", "") for keyed in FACTORS]


def _one(scene: Scene, kind: str, alone: float, keyed: bool, as_server: bool) -> tuple[Outcome, Outcome | None]:
    """What became of a read beside an attack, and of one after it if it was needed."""
    with scene.mounted(keyed=keyed) as mounted:
        found = scene.read_attacked(mounted, kind, PATIENCE * alone, keyed=keyed, as_server=as_server)
        after = None if found.right else _read_again(scene, mounted)
    for each in (found, after):
        assert each is None or not each.wrong, f"wrong bytes: {each}"
    return found, after


def _read_again(scene: Scene, mounted: Mounted) -> Outcome:
    """Until it is read: a share of which nothing was heard for long is an error until it is heard again."""
    start = time.monotonic()
    while True:
        outcome = scene.read(mounted, RECOVERY)
        seconds = time.monotonic() - start
        if outcome.right or outcome.wrong or seconds > RECOVERY:
            return outcome._replace(seconds=seconds)
        time.sleep(1.0)


def _row(kind: str, keyed: bool, as_server: bool, outcomes: tuple[Outcome, Outcome | None], alone: float) -> Row:
    name = f"{kind}, under the server's address" if as_server else kind
    goal = f"<= {FACTORS[keyed]:g} x" if keyed or not as_server else "right bytes or an error; recovers"
    return f"{name}, {_key(keyed)}", describe(*outcomes, alone), goal


def _key(keyed: bool) -> str:
    return "with a key" if keyed else "no key"


def describe(found: Outcome, after: Outcome | None, alone: float) -> str:
    sent = f"{found.mbits:.0f} Mbit/s"
    if after is None:
        return f"{found.seconds / alone:.2f} x ({found.seconds:.1f} s); {sent}"
    how = "not done" if found.code is None else "an error"
    then = f"read in {after.seconds:.1f} s after it" if after.right else "NOT READ after it"
    return f"{how} after {found.seconds / alone:.1f} x, {then}; {sent}"
