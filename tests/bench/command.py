"""The command line of script/bench."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from mcfs.cli.lab import LabError, exit_on_signals, missing_capabilities
from tests.bench import machine, measures, memory, report
from tests.bench.bench import Bench, Options, cleanup
from tests.bench.conditions import MIB, Mode
from tests.bench.install import InstallError, install, missing
from tests.bench.peers import PEERS, TOOLS
from tests.bench.scene import PREFIX
from tests.bench.summary import Row, line
from tests.netlab.harness import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Value = TypeVar("Value")

DOCUMENTED: Final = ROOT / "docs" / "benchmarks"
ELSEWHERE: Final = ROOT / "build" / "benchmarks"
"""Ignored by git."""
DESCRIPTION: Final = "Measures mcfs, beside other tools and alone, in network namespaces of this machine."
FRESH: Final = 2048 * MIB
QUICK: Final = [
    "--size",
    "256",
    "--shared-size",
    "64",
    "--runs",
    "1",
    "--readers",
    "1,4",
    "--losses",
    "0,5",
    "--files",
    "30",
]
QUICK_MEASURES: Final = ("one-reader", "readers", "loss", "together")


class Given(NamedTuple):
    names: tuple[str, ...]
    options: Options
    output: Path
    tools: tuple[str, ...]


def split(text: str) -> list[str]:
    return [word for word in text.split(",") if word and word != "none"]


def listed(kind: str, parse: Callable[[str], Value]) -> Callable[[str], tuple[Value, ...]]:
    """Parses words between commas."""

    def parse_all(text: str) -> tuple[Value, ...]:
        try:
            return tuple(dict.fromkeys(map(parse, split(text))))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {kind}") from None

    return parse_all


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    def parse(word: str) -> str:
        if word not in names:
            raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(names)}")
        return word

    return parse


def positive(word: str) -> int:
    if (number := int(word)) < 1:
        raise ValueError
    return number


def percent(word: str) -> float:
    if not 0 <= (number := float(word)) < 100:
        raise ValueError
    return number


def link_rate(word: str) -> int | None:
    """Bits per second: 1G, 500M; None for `unshaped`. Raises ValueError."""
    if word == "unshaped":
        return None
    factor = {"G": 10**9, "M": 10**6}.get(word[-1:])
    if factor is None or float(word[:-1]) <= 0:
        raise ValueError
    return round(float(word[:-1]) * factor)


def make_parser() -> argparse.ArgumentParser:
    about = "\n".join(f"  {name:14} {measures.about(name)}" for name in measures.MEASURES)
    parser = argparse.ArgumentParser(
        prog="script/bench", description=DESCRIPTION, epilog=f"measures:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    known = listed("names of measures", one_of(list(measures.MEASURES)))
    add("-m", "--measures", type=known, metavar="NAME,...", help=f"which; default: all but {', '.join(measures.LONG)}")
    add("--quick", action="store_true", help="a part of it that takes less than three minutes")
    add("--write", action="store_true", help="write into docs/benchmarks and README.md also if it is not the whole")
    add("--output", type=Path, metavar="DIR", help="write tables and pictures there instead")
    add(
        "--runs",
        type=positive,
        default=3,
        metavar="N",
        help="how often each is measured, of which the median counts (3)",
    )
    add("--peers", type=listed("names of tools", one_of(PEERS)), default=PEERS, metavar="NAME,...",
        help=f"other tools, or none ({','.join(PEERS)})")  # fmt: skip
    add("--readers", type=listed("numbers", positive), default=(1, 2, 4, 8), metavar="N,...", help="(1,2,4,8)")
    add("--modes", type=listed("modes", Mode), default=(), metavar="MODE,...", help="offload, wire, nic")
    add(
        "--links", type=listed("links", link_rate), default=(), metavar="LINK,...", help="unshaped, or a rate: 1G, 500M"
    )
    add(
        "--losses", type=listed("percentages", percent), default=(0, 1, 5, 20), metavar="PERCENT,...", help="(0,1,5,20)"
    )
    add("--size", type=positive, default=1024, metavar="MIB", help="the file of one-reader and tree (1024)")
    add("--shared-size", type=positive, default=256, metavar="MIB", help="the file of the others (256)")
    add("--files", type=positive, default=100, metavar="N", help="files for the first byte (100)")
    add("--kills", type=positive, default=200, metavar="N", help="of a client, in the measure crash (200)")
    add("--mld-size", type=positive, default=8192, metavar="MIB", help="read through a bridge (8192)")
    add("--mld-minutes", type=positive, default=10, metavar="N", help="of a slow copy (10)")
    add("--dir", type=Path, metavar="DIR", help="where data, caches and copies are kept meanwhile")
    add("--cold", action="store_true", help="do not touch memory before each measure")
    return parser


def parse(arguments: Sequence[str]) -> Given:
    parser = make_parser()
    quick = parser.parse_args(arguments).quick
    given = parser.parse_args([*QUICK, *arguments] if quick else arguments)
    usual = QUICK_MEASURES if quick else tuple(name for name in measures.MEASURES if name not in measures.LONG)
    whole = not quick and given.measures is None
    output = given.output or (DOCUMENTED if given.write or whole else ELSEWHERE)
    size, shared_size = given.size * MIB, given.shared_size * MIB
    tools = tuple(name for name in TOOLS if name not in PEERS or name in given.peers)
    options = Options(
        directory=given.dir or memory.place_for(max(size, max(given.readers) * shared_size)),
        size=size, shared_size=shared_size, runs=given.runs, tools=tools, readers=given.readers, modes=given.modes,
        links=given.links, losses=given.losses, files=given.files, quick=quick,
        cold=given.cold, mld_size=given.mld_size * MIB,
        mld_minutes=given.mld_minutes, kills=given.kills,
    )  # fmt: skip
    return Given(given.measures or usual, options, output, tools)


def programs_of(tools: Sequence[str]) -> dict[str, str]:
    return {program: package for name in tools for program, package in TOOLS[name].programs.items()}


def available(tools: Sequence[str]) -> tuple[str, ...]:
    """Those that are here or can be installed; says in one line what is missing."""
    try:
        install(programs_of(tools))
    except InstallError as error:
        print(f"bench: {error}", file=sys.stderr)
    return tuple(name for name in tools if not missing(TOOLS[name].programs))


def run_measure(bench: Bench, name: str) -> list[Row]:
    """Prints each row when it is known; a failure is a row as well."""
    bench.measure, bench.trials = name, []
    rows: list[Row] = []
    bench.progress(measures.about(name))
    try:
        for row in measures.MEASURES[name](bench):
            rows.append(row)
            print(line((name, *row[:3])), flush=True)
    except (AssertionError, LabError) as error:
        rows.append(Row(name, f"failed: {' '.join(str(error).split())[:200]}", failed=True))
        print(line((name, *rows[-1][:3])), flush=True)
    return rows


def touched() -> str:
    """What memory costs here that was never touched, and then."""
    if not (fresh := memory.roomy_size(FRESH)):
        return "no place to measure what memory costs"
    first, second = memory.touch_memory(fresh), memory.touch_memory(fresh)
    return f"{fresh // MIB} MiB of memory touched in {first:.2f} s, then in {second:.2f} s"


def command_for(name: str, words: Sequence[str]) -> str:
    """What measures one of the measures again, with the options that were given."""
    others = list(words)
    for option in ("-m", "--measures"):
        if option in others:
            place = others.index(option)
            del others[place : place + 2]
    return shlex.join(["script/bench", "-m", name, *(word for word in others if word != "--write")])


def run(given: Given, words: Sequence[str]) -> int:
    """0, or 1 when something failed."""
    failed = False
    facts = [*machine.describe(given.tools), touched()]
    print("\n".join(facts), flush=True)
    bench = Bench(given.options)
    for name in given.names:
        rows = run_measure(bench, name)
        failed = failed or any(row.failed for row in rows)
        load = f"load after it {os.getloadavg()[0]:.1f}"
        measured = report.Measured(name, rows, bench.trials, [*facts, load], command_for(name, words))
        for problem in report.write(measured, given.output):
            print(f"bench: {problem}", file=sys.stderr)
    if given.output == DOCUMENTED:
        report.rewrite_pages(DOCUMENTED, ROOT / "README.md")
    print(f"\ntables and pictures: {given.output}")
    return int(failed)


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    given = parse(words)
    if lacking := missing_capabilities():
        print(f"bench: needs {', '.join(lacking)}", file=sys.stderr)
        return 3
    cleanup()
    tools = available(given.tools)
    with (
        exit_on_signals(),
        machine.roomy_buffers(),
        tempfile.TemporaryDirectory(prefix=f"{PREFIX}-{os.getpid()}-", dir=given.options.directory) as place,
    ):
        options = replace(given.options, directory=Path(place), tools=tools)
        return run(given._replace(options=options, tools=tools), words)
