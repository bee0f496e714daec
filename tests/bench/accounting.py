"""What processes cost, and when they end, without disturbing them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.netlab.harness import Late

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.netlab.harness import Job

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_POLL: Final = 0.002


class Cpu(NamedTuple):
    """Seconds of processor time. What the kernel does in interrupts is charged to whom it interrupts: on a lab in one
    machine bridge and receivers' stacks run within the sender's system calls."""

    user: float
    system: float

    def since(self, before: Cpu) -> Cpu:
        return Cpu(self.user - before.user, self.system - before.system)


def parse_stat(text: str) -> Cpu:
    """Times of a process and of its children that it has waited for: proc_pid_stat(5), fields 14 to 17."""
    fields = text.rpartition(")")[2].split()
    user, system, children_user, children_system = (int(field) / _TICKS for field in fields[11:15])
    return Cpu(user + children_user, system + children_system)


def cpu_of(pids: Iterable[int]) -> Cpu:
    """The sum for processes that run, or have ended and were not waited for; others do not count."""
    total = Cpu(0.0, 0.0)
    for pid in pids:
        try:
            used = parse_stat(Path(f"/proc/{pid}/stat").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
        total = Cpu(total.user + used.user, total.system + used.system)
    return total


def has_ended(job: Job) -> bool:
    """Whether it has; it stays a zombie, whose times can be read."""
    flags = os.WEXITED | os.WNOWAIT | os.WNOHANG
    return job.process.returncode is not None or os.waitid(os.P_PID, job.process.pid, flags) is not None


def end_times(jobs: Sequence[Job], deadline: float) -> list[float]:
    """When each ended, by the monotonic clock. Raises Late after `deadline` seconds."""
    ended: dict[int, float] = {}
    last = time.monotonic() + deadline
    while len(ended) < len(jobs):
        now = time.monotonic()
        ended |= {number: now for number, job in enumerate(jobs) if number not in ended and has_ended(job)}
        if now > last:
            raise Late(f"not within {deadline:g} s")
        time.sleep(_POLL)
    return [ended[number] for number in range(len(jobs))]
