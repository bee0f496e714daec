"""What each part of the sending rule is for: the same simulation with it and without it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from mcfs.simulate.figures import figures
from mcfs.simulate.scenario import Scenario, Unplugged
from mcfs.simulate.simulation import simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcfs.simulate.figures import Figures


@dataclass(frozen=True, slots=True)
class Ablation:
    name: str
    command: str
    scenario: Scenario
    patches: dict[str, Any]
    """Names in the package, and what they are without this part of the rule."""


ABLATIONS: Final = (
    Ablation(
        "waiting 80 ms for leaves before the first burst",
        "--loss 0",
        Scenario(),
        {"mcfs.serve.holdoff.HOLD_OFF": 0.0, "mcfs.serve.holdoff.LONGEST": 0.0},
    ),
    Ablation(
        "the first three bursts before first passes",
        "--loss 5",
        Scenario(loss=0.05),
        {"mcfs.serve.queues.URGENT_BURSTS": 0},
    ),
    Ablation(
        "later bursts behind first passes, less and less often",
        "--unplug 1:0.3",
        Scenario(unplugged=(Unplugged(1, 0.3),)),
        {"mcfs.serve.queues.URGENT_BURSTS": 10**9, "mcfs.serve.schedule.URGENT_BURSTS": 10**9},
    ),
    Ablation(
        "repair that nobody has asked for",
        "--loss 5",
        Scenario(loss=0.05),
        {"mcfs.serve.schedule.SHARE_START": 0.0, "mcfs.serve.schedule.SHARE_UP": 0.0},
    ),
    Ablation(
        "a first burst of 2 % of K (without: of all K)",
        "--loss 5",
        Scenario(loss=0.05),
        {"mcfs.serve.schedule.FIRST_BURST": 1.0},
    ),
    Ablation(
        "merging",
        "--stagger 0.5",
        Scenario(stagger=0.5),
        {"mcfs.fetch.merging.Followed.wanted": lambda self, *args, **kwargs: iter(())},
    ),
    Ablation(
        "holding new channels for others",
        "--readers 16 --link 10G",
        Scenario(readers=16, link=1e10),
        {"mcfs.serve.holding.FIRST_HOLD": 0.0, "mcfs.serve.holding.MAX_HOLD": 0.0},
    ),
)


def compare(ablation: Ablation) -> tuple[Figures, Figures]:
    """With that part and without it."""
    whole = figures(simulate(ablation.scenario))
    with ExitStack() as stack:
        for name, value in ablation.patches.items():
            stack.enter_context(patch(name, value))
        return whole, figures(simulate(ablation.scenario))


def table() -> Iterator[str]:
    yield "| part of the rule | symbols with it, without | last reader, s | `mcfs simulate` |"
    yield "|---|---|---|---|"
    for ablation in ABLATIONS:
        whole, without = compare(ablation)
        assert whole.fast is not None
        assert without.fast is not None
        symbols = f"{whole.symbols:.2f}, {without.symbols:.2f}"
        yield f"| {ablation.name} | {symbols} | {whole.fast.most:.2f}, {without.fast.most:.2f} | `{ablation.command}` |"
