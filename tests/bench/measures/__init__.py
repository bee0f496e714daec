"""All measures by name. Each takes a Bench and yields rows as soon as they are known; its docstring says what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.bench.measures import alone, caching, changing, compared, keyed, on_link, plugged_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.bench import Bench
    from tests.bench.summary import Row

    Measure = Callable[[Bench], Iterator[Row]]

MEASURES: Final[dict[str, Measure]] = {
    **compared.MEASURES,
    **on_link.MEASURES,
    **alone.MEASURES,
    **plugged_in.MEASURES,
    **keyed.MEASURES,
    **caching.MEASURES,
    **changing.MEASURES,
}
LONG: Final = ("mld", "attacker", "forged-mld", "crash", "quota")
"""Measured only if asked for."""


def about(name: str) -> str:
    """What a measure measures, in one line."""
    return " ".join((MEASURES[name].__doc__ or "").split()).rstrip(".")
