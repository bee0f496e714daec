"""Results that nobody measured, for tests."""

from __future__ import annotations

from tests.bench.conditions import MIB, Conditions, Mode, Trial

SIZE = 100 * MIB
GIGABIT = 1_000_000_000


def conditions(
    readers: int = 1, *, mode: Mode = Mode.WIRE, link: int | None = GIGABIT, loss: float = 0.0, size: int = SIZE
) -> Conditions:
    return Conditions(mode, readers, size, link, loss)


def trial(
    tool: str,
    seconds: float,
    given: Conditions,
    *,
    run: int = 1,
    sent: float = 1.0,
    user: float = 0.5,
    problem: str = "",
) -> Trial:
    """`sent` counts in sizes of the file."""
    where = (given.mode.value, given.link or 0, given.loss, given.readers, given.size, run)
    cost = (round(sent * given.size), user, 0.25, 0.125)
    return Trial("readers", tool, *where, seconds, seconds, seconds + 2, *cost, problem)
