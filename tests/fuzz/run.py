"""Runs inputs of one target in this process: what they raise, how long each takes, and how much memory they want.

Inputs come in batches. A batch is the same whenever target, seed and number are.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fuzz.mutate import Mutator
    from tests.fuzz.target import Target

BATCH: Final = 500
LONGEST: Final = 0.05
"""Seconds of processor time that one input of up to 64 KiB may take; the slowest that is right takes a tenth."""
TRIES: Final = 5
"""Of one that took longer: a virtual machine may have been stopped meanwhile."""
MORE_MEMORY: Final = 64 << 20
"""Bytes that one input may make a process allocate beyond what it has with everything imported."""
MAX_FAILURES: Final = 5
"""Of one batch: the rest is more of the same."""


@dataclass(frozen=True, slots=True)
class Failure:
    target: str
    what: str
    data: bytes


@dataclass(slots=True)
class Outcome:
    target: str
    inputs: int = 0
    accepted: int = 0
    seconds: float = 0.0
    """Of processor time, as is `longest`."""
    longest: float = 0.0
    peak: int = 0
    """Bytes of memory that the process had at most up to now."""
    process: int = 0
    """Which one that was."""
    failures: list[Failure] = field(default_factory=list)


def run_batch(
    target: Target, mutator: Mutator, seed: int, number: int, *, note: Callable[[bytes], None] = lambda _: None
) -> Outcome:
    """`note` is told each input before it is tried, in case that it ends the process."""
    rng = Random(f"{target.name} {seed} {number}")
    outcome = Outcome(target.name)
    start = time.process_time()
    for _ in range(BATCH):
        data = mutator(rng)
        note(data)
        what, took = attempt(target, data)
        outcome.inputs += 1
        outcome.accepted += what is None
        outcome.longest = max(outcome.longest, took)
        if what and len(outcome.failures) < MAX_FAILURES:
            outcome.failures.append(Failure(target.name, what, data))
    outcome.seconds = time.process_time() - start
    outcome.peak, outcome.process = peak_memory(), os.getpid()
    return outcome


def attempt(target: Target, data: bytes) -> tuple[str | None, float]:
    """What is wrong, "" if the input was refused as it should be, None if it was accepted; and seconds."""
    what, took = _once(target, data)
    if took <= LONGEST:
        return what, took
    took = min(_once(target, data)[1] for _ in range(TRIES))
    return (f"took {took:.3f} s" if took > LONGEST else what), took


def _once(target: Target, data: bytes) -> tuple[str | None, float]:
    start = time.thread_time()
    what: str | None = None
    try:
        target.run(data)
    except target.raises:
        what = ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also a panic in Rust, which is no Exception
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return what, time.thread_time() - start


def limit_memory() -> None:
    """From now on what needs much more fails with MemoryError, which no target may raise."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * os.sysconf("SC_PAGE_SIZE") + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def peak_memory() -> int:
    """Bytes that this process had at most. Not `ru_maxrss`, which begins with what the parent had: it survives exec."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
