"""Nobody uses up what others have."""

from __future__ import annotations

import pytest

from mcfs.net.budgets import BEACONS, SIGNATURES, Budgets, Kind

ALL = [(kind, sealed) for kind in Kind for sealed in (False, True)]


def taken(budgets: Budgets, kind: Kind, sealed: bool, seconds: float, start: float = 0.0) -> int:
    """How many are looked at while a thousand come every 0.1 s."""
    return sum(
        budgets.take(kind, sealed=sealed, now=start + step * 0.1)
        for step in range(round(seconds * 10))
        for _ in range(1000)
    )


@pytest.mark.parametrize(("kind", "sealed"), ALL)
def test_so_many_a_second(kind: Kind, sealed: bool) -> None:
    per_second = BEACONS if kind is Kind.BEACON else SIGNATURES
    budgets = Budgets()
    assert taken(budgets, kind, sealed, 1.0) <= 2 * per_second, "what was saved up is for one second"
    assert taken(budgets, kind, sealed, 10.0, start=1.0) == pytest.approx(10 * per_second, rel=0.05)


@pytest.mark.parametrize(("kind", "sealed"), ALL)
def test_one_takes_nothing_from_another(kind: Kind, sealed: bool) -> None:
    budgets = Budgets()
    for each in ALL:
        if each != (kind, sealed):
            taken(budgets, *each, 3.0)
    assert budgets.take(kind, sealed=sealed, now=3.0)
