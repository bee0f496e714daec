"""`python -m tests.fuzz`: see --help."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from tests.fuzz.run import attempt, peak_memory
from tests.fuzz.session import Session, target_of
from tests.fuzz.targets import BY_NAME

if TYPE_CHECKING:
    from tests.fuzz.run import Outcome

MOST_MEMORY: Final = 200_000_000
"""Bytes that a process may have had at most, with Python, numpy and all of mcfs in it."""


@click.command()
@click.option("-n", "--inputs", default=10_000_000, show_default=True, help="How many, over all targets.")
@click.option("-j", "--jobs", default=os.cpu_count() or 1, show_default=True, help="Processes.")
@click.option("-s", "--seed", default=1, show_default=True, help="Another one gives other inputs.")
@click.option("-t", "--target", "targets", multiple=True, help="Only targets whose name has this in it.")
@click.option("--keep", default="fuzz-failures", show_default=True, help="Directory for inputs that fail.")
@click.option("--again", type=click.Path(exists=True, path_type=Path), help="Try one kept input and say what happens.")
def main(inputs: int, jobs: int, seed: int, targets: tuple[str, ...], keep: str, again: Path | None) -> None:
    """Feeds nearly valid inputs to every function that takes what comes from elsewhere.

    Exit code 1 if one raised something that it does not document, took too long, or if a process had 200 MB.
    """
    if again is not None:
        sys.exit(repeat(again))
    names = [name for name in BY_NAME if not targets or any(part in name for part in targets)]
    if not names:
        raise click.UsageError(f"no such target; there are {', '.join(BY_NAME)}")
    session = Session(Path(keep))
    session.run(names, inputs, seed=seed, jobs=jobs)
    sys.exit(report(session))


def repeat(path: Path) -> int:
    target = BY_NAME.get(target_of(path))
    if target is None:
        raise click.UsageError(f"{path}: its name does not begin with that of a target")
    what, took = attempt(target, path.read_bytes())
    print(f"{target.name}: {'accepted' if what is None else what or 'refused'}, {took * 1e3:.2f} ms")
    return 1 if what else 0


def report(session: Session) -> int:
    print(f"{'target':52} {'inputs':>9} {'accepted':>8} {'a second':>9} {'longest':>9}")
    for outcome in session.sums.values():
        print(line(outcome))
    peaks = [peak_memory(), *session.peaks.values()]
    total = sum(outcome.inputs for outcome in session.sums.values())
    print(f"memory at most, of this process and of each worker: {', '.join(f'{peak / 1e6:.0f} MB' for peak in peaks)}")
    print(f"{total} inputs, {len(session.kept)} kinds of failure, at most {max(peaks) / 1e6:.0f} MB of memory")
    return 1 if session.kept or max(peaks) > MOST_MEMORY else 0


def line(outcome: Outcome) -> str:
    rate = outcome.inputs / outcome.seconds if outcome.seconds else 0.0
    part = outcome.accepted / outcome.inputs if outcome.inputs else 0.0
    return f"{outcome.target:52} {outcome.inputs:9} {part:8.0%} {rate:9.0f} {outcome.longest * 1e3:6.1f} ms"


if __name__ == "__main__":
    main()
