"""One transfer of a file by one tool, with all that is measured of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from mcfs.cli.lab import LabError
from tests.bench import scene as scenes
from tests.bench.conditions import Conditions, Trial, failed
from tests.bench.memory import warm_memory
from tests.netlab.harness import same_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.peers.tool import Timing, Tool
    from tests.bench.scene import Scene

SETTLE: Final = 0.3
"""Seconds after the last reader's end until bytes and processor time are read: what is sent in vain counts as well."""
COMPARE_DEADLINE: Final = 120.0
BASE_DEADLINE: Final = 30.0
SLOWEST: Final = 0.25e9
"""Bits per second that a tool must carry to all readers together, or it is given up; half the link if that is less."""


def deadline(conditions: Conditions) -> float:
    """Seconds that a transfer may take, unicast to each reader."""
    rate = min(SLOWEST, (conditions.link or SLOWEST) / 2)
    return BASE_DEADLINE + conditions.size * 8 * conditions.readers / rate


def measure(
    name: str, tool: type[Tool], conditions: Conditions, run: int, source: Path, *, cold: bool = False
) -> Trial:
    """Never raises for what the tool does wrong: the trial says so."""
    try:
        with scenes.build(conditions, source, source.parents[1]) as scene:
            return _measured(name, tool(scene), scene, run, cold=cold)
    except (AssertionError, LabError) as error:
        return failed(name, tool.name, conditions, run, " ".join(str(error).split())[:160] or "failed")


def _measured(name: str, tool: Tool, scene: Scene, run: int, *, cold: bool) -> Trial:
    given = scene.conditions
    tool.prepare()
    if not cold:
        warm_memory(given.size, given.readers)
    sent, used = scene.sent(), scene.cpu(scene.lab.server)
    used_by_readers = [scene.cpu(host) for host in scene.readers]
    timing = tool.transfer(deadline(given))
    time.sleep(SETTLE)
    sent, used = scene.sent() - sent, scene.cpu(scene.lab.server).since(used)
    spent = [sum(scene.cpu(host).since(old)) for host, old in zip(scene.readers, used_by_readers, strict=True)]
    check(tool, scene)
    return _trial(name, tool, scene, run, timing, sent, (*used, sum(spent) / len(spent)))


def check(tool: Tool, scene: Scene) -> None:
    """Raises AssertionError when a reader does not have the bytes that the server has."""
    tool.finish()
    copies = zip(scene.readers, tool.copies(), strict=True)
    for job in [scene.start(host, same_bytes(scene.source, copy)) for host, copy in copies]:
        assert job.finish(COMPARE_DEADLINE) == 0, f"wrong bytes: {job.output}"


def _trial(
    name: str, tool: Tool, scene: Scene, run: int, timing: Timing, sent: int, cpu: tuple[float, float, float]
) -> Trial:
    given = scene.conditions
    where = (given.mode.value, given.link or 0, given.loss, given.readers, given.size, run)
    return Trial(name, tool.name, *where, max(timing.each), min(timing.each), timing.whole, sent, *cpu)
