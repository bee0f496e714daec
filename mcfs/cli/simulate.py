"""`mcfs simulate`: what one server sends to many readers, and how long these take, without a network."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from mcfs.cli import terminal, values
from mcfs.cli.exits import Exit
from mcfs.fetch.fetcher import DEFAULT_MAX_GROUPS
from mcfs.protocol.ids import DEFAULT_BLOCK_SIZE, PACE_CLASSES
from mcfs.simulate.scenario import MAX_READERS, PORT_BUFFER, Scenario, Slow, Unplugged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mcfs.simulate.figures import Figures, Times
    from mcfs.simulate.scenario import Outcome

DEFAULT_SIZE: Final = 256 << 20
DEFAULT_LINK: Final = 10**9
_LABEL_WIDTH: Final = 16


def parse_slow(text: str) -> Slow:
    """N:RATE or N:RATE:CLASS."""
    count, _, rest = text.partition(":")
    rate, _, pace = rest.partition(":")
    if not rate:
        raise ValueError(f"{text!r} is not like 1:100M (readers:rate) or 1:100M:3 (and their pace class)")
    return Slow(
        values.parse_integer(1, MAX_READERS)(count),
        values.parse_rate(rate),
        values.parse_integer(0, PACE_CLASSES - 1)(pace) if pace else 0,
    )


def parse_busy(text: str) -> Slow:
    return replace(parse_slow(text), busy=True)


def parse_unplugged(text: str) -> Unplugged:
    """N:SECONDS."""
    count, _, seconds = text.partition(":")
    if not seconds:
        raise ValueError(f"{text!r} is not like 1:0.5 (readers:seconds)")
    return Unplugged(values.parse_integer(1, MAX_READERS)(count), values.parse_seconds(seconds))


@click.command(context_settings=terminal.HELP_NAMES)
@click.option("--readers", type=click.IntRange(1, MAX_READERS), default=4, show_default=True, help="How many.")
@click.option("--size", type=values.SIZE, default=DEFAULT_SIZE, help="Size of the file that each reads (256M).")
@click.option("--block-size", type=values.BLOCK_SIZE, default=DEFAULT_BLOCK_SIZE, help="Its block size (1M).")
@click.option("--random", "random_reads", type=click.IntRange(1, 100_000), default=None, metavar="N",
              help="Each makes N reads of 4 KiB at random places instead.")  # fmt: skip
@click.option("--link", type=values.RATE, default=DEFAULT_LINK, help="Speed of all cables (1G).")
@click.option("--rate", type=values.RATE, help="Sending rate of the server; default: 95 % of --link.")
@click.option(
    "--stagger", type=click.FloatRange(0, 3600), default=0.0, metavar="SECONDS", help="From one start to the next."
)
@click.option("--loss", type=click.FloatRange(0, 50), default=0.0, help="Per cent of datagrams lost at each reader.")
@click.option("--slow", type=values.Value("slow", parse_slow), multiple=True, metavar="N:RATE[:CLASS]",
              help="The last N readers have slow ports.")  # fmt: skip
@click.option("--busy", type=values.Value("busy", parse_busy), multiple=True, metavar="N:RATE[:CLASS]",
              help="The last N readers can take no more than RATE.")  # fmt: skip
@click.option("--port-buffer", type=values.SIZE, default=PORT_BUFFER, help=f"Of a slow port ({PORT_BUFFER}).")
@click.option("--unplug", type=values.Value("unplug", parse_unplugged), multiple=True, metavar="N:SECONDS",
              help="Cut the cables of N readers.")  # fmt: skip
@click.option("--max-groups", type=click.IntRange(1, 256), default=DEFAULT_MAX_GROUPS, show_default=True,
              help="Groups that a reader joins at a time.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Another one gives other chances.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw into this file (PNG, SVG).")
def simulate(
    readers: int,
    size: int,
    block_size: int,
    random_reads: int | None,
    link: int,
    rate: int | None,
    stagger: float,
    loss: float,
    slow: tuple[Slow, ...],
    busy: tuple[Slow, ...],
    port_buffer: int,
    unplug: tuple[Unplugged, ...],
    max_groups: int,
    seed: int,
    as_json: bool,
    picture: Path | None,
) -> int:
    """Simulate a server and readers of one file, and print bytes, times and reports.

    The rules are the ones that run on the network; cables, switches, kernels and processors are made up. The exit code
    is 1 if a reader that is plugged in has not got the file.
    """
    from mcfs.cli import picture as drawing
    from mcfs.simulate.figures import figures
    from mcfs.simulate.simulation import simulate as run

    if size < 1:
        raise click.BadParameter("the file is empty", param_hint="--size")
    if picture is not None:
        drawing.check(picture)
    try:
        scenario = Scenario(
            readers=readers,
            size=size,
            block_size=block_size,
            random_reads=random_reads or 0,
            link=link,
            rate=rate,
            stagger=stagger,
            loss=loss / 100,
            slow=slow + busy,
            port_buffer=port_buffer,
            unplugged=unplug,
            max_groups=max_groups,
            seed=seed,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    outcome = run(scenario)
    alone = figures(run(alone_of(scenario)))
    shown = figures(outcome)
    if picture is not None:
        drawing.draw(outcome, picture)
    if as_json:
        click.echo(json.dumps(as_dict(outcome, shown, alone), indent=1))
    else:
        for line in [*lines(outcome, shown, alone), "", *drawing.text(outcome)]:
            click.echo(line)
    return Exit.OK if all(r.unplugged or r.seconds is not None for r in outcome.readers) else Exit.ERROR


def alone_of(scenario: Scenario) -> Scenario:
    """One reader, with nothing in its way."""
    return replace(scenario, readers=1, stagger=0.0, loss=0.0, slow=(), unplugged=())


def as_dict(outcome: Outcome, shown: Figures, alone: Figures) -> dict[str, object]:
    return {
        "scenario": asdict(outcome.scenario),
        "figures": asdict(shown),
        "alone": asdict(alone),
        "wire_bytes": outcome.wire_bytes,
        "control_bytes": outcome.control_bytes,
        "useless_datagrams": outcome.useless,
        "readers": [asdict(reader) for reader in outcome.readers],
        "history": [asdict(sample) for sample in outcome.history],
    }


def lines(outcome: Outcome, shown: Figures, alone: Figures) -> Iterator[str]:
    """The figures for people."""
    yield _line("simulated", describe(outcome.scenario))
    control = outcome.control_bytes / outcome.scenario.size
    yield _line(
        "sent / data",
        f"{shown.sent:.3f} with headers and all else; symbols {shown.symbols:.3f}, of these {shown.repair:.1%} repair; "
        f"announcements, beacons, queries {control:.4f}",
    )
    if len(shown.classes) > 1:
        yield _line("by pace class", ", ".join(f"{pace}: {share:.3f}" for pace, share in shown.classes.items()))
    for name, times in (("readers", shown.fast), ("slow readers", shown.slow)):
        if times is not None:
            yield from _times(name, times, outcome.scenario, alone)
    each = "" if outcome.scenario.random_reads else f"{shown.reports_per_mib:.2f} per MiB and reader, "
    yield _line("reports", f"{each}{shown.reports} in all, at most {shown.reports_per_second:.0f} a second")
    yield _line(
        "lost effort",
        f"{shown.duplicates:.1%} of the symbols that came were known, {outcome.useless} datagrams came after enough, "
        f"{shown.dropped} were dropped at slow readers, {shown.rejoins} channels were joined anew",
    )
    for reader in {reader.failure for reader in outcome.readers if reader.failure}:
        yield _line("failed", reader)


def _times(name: str, times: Times, scenario: Scenario, alone: Figures) -> Iterator[str]:
    if times.finished < times.readers:
        yield _line(name, f"{times.readers - times.finished} of {times.readers} have not got the file")
    if not times.finished:
        return
    assert alone.fast is not None
    reads, bits = scenario.random_reads, scenario.size * 8
    speed = f"{reads / times.median:.1f} reads a second" if reads else values.format_rate(round(bits / times.median))
    yield _line(
        name,
        f"{times.finished} took {times.least:.3f} to {times.most:.3f} s, median {times.median:.3f} ({speed}), "
        f"{times.median / alone.fast.median:.2f} times one alone ({alone.fast.median:.3f})",
    )


def _line(label: str, text: str) -> str:
    return f"{label:{_LABEL_WIDTH}}{text}"


def describe(scenario: Scenario) -> str:
    """The scenario in one line."""
    return ", ".join(_properties(scenario))


def _properties(scenario: Scenario) -> Iterable[str]:
    yield f"{scenario.readers} readers of {values.format_size(scenario.size)}"
    if scenario.random_reads:
        yield f"{scenario.random_reads} random reads each"
    yield f"server at {values.format_rate(round(scenario.sending_rate))}"
    if scenario.stagger:
        yield f"{scenario.stagger:g} s from start to start"
    if scenario.loss:
        yield f"{scenario.loss:.3g} of all datagrams lost"
    for slow in scenario.slow:
        yield f"{slow.count} {'busy' if slow.busy else 'slow'} at {values.format_rate(round(slow.rate))}"
    for unplugged in scenario.unplugged:
        yield f"{unplugged.count} unplugged at {unplugged.at:g} s"
