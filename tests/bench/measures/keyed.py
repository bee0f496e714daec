"""What a share key costs: one client's copy with it and without it, in turns."""

from __future__ import annotations

import random
import statistics
from typing import TYPE_CHECKING, Final

from tests.bench.bench import DEADLINE, Bench
from tests.bench.conditions import Mode
from tests.bench.measures.alone import copy
from tests.bench.summary import Row
from tests.netlab.harness import same_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.netlab.harness import Site

MODES: Final = (Mode.OFFLOAD, Mode.WIRE)


def keyed(bench: Bench) -> Iterator[Row]:
    """One client copies a file of a share with a key, and without one, in turns, unshaped."""
    size = bench.options.size
    source = bench.source(size)
    for mode in bench.options.modes or MODES:
        found: dict[bool, list[float]] = {False: [], True: []}
        for run in range(bench.options.runs):
            for with_key in (False, True) if run % 2 == 0 else (True, False):
                with bench.site_in(mode, 1) as place:
                    found[with_key].append(size * 8e-9 / _seconds(bench, place, source, with_key=with_key))
            bench.progress(
                f"{mode.value}, run {run + 1}: {found[False][-1]:.2f}, with a key {found[True][-1]:.2f} Gbit/s"
            )
        plain, sealed = (statistics.median(found[with_key]) for with_key in (False, True))
        what = f"one client, {mode.value}"
        yield Row(f"{what}, with a share key: Gbit/s", _shown(found[True]), ">= 1")
        yield Row(f"{what}, without: Gbit/s", _shown(found[False]))
        yield Row(f"{what}: with a key / without", f"{sealed / plain:.2f}", ">= 0.40")


def _seconds(bench: Bench, place: Site, source: Path, *, with_key: bool) -> float:
    key = place.directory / "share.key"
    key.write_bytes(random.Random(7).randbytes(128))
    key.chmod(0o600)
    place.serve(place.lab.server, source.parent, options=("--keyfile", str(key)) if with_key else ())
    mounted = place.mount(place.lab.clients[0], source.parent.name, keyfile=key if with_key else None)
    bench.warm_memory(source.stat().st_size)
    seconds = copy(place, mounted)
    place.start(mounted.host, same_bytes(source, mounted.path / source.name)).expect_success(DEADLINE)
    return seconds


def _shown(rates: list[float]) -> str:
    """The median, and all of them."""
    return f"{statistics.median(rates):.2f} ({', '.join(f'{rate:.2f}' for rate in rates)})"


MEASURES: Final[dict[str, Callable[[Bench], Iterator[Row]]]] = {"keyed": keyed}
