"""`mcfs doctor`: whether IPv6 multicast works here, and if not, what to do."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

from mcfs.cli import terminal, values
from mcfs.cli.exits import Exit
from mcfs.protocol.addressing import SITE_LOCAL
from mcfs.protocol.errors import UserError
from mcfs.protocol.wire import DEFAULT_PORT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mcfs.cli.diagnosis import Finding

DEFAULT_TIMEOUT: Final = 5.0
"""Seconds: routers answer a solicitation within two, and servers announce every second."""
_COLOURS: Final = {"ok": "green", "warning": "yellow", "problem": "red"}
_MARK_WIDTH: Final = 9


@click.command(context_settings=terminal.HELP_NAMES)
@click.option(
    "-i", "--interface", "--iface", "interfaces", type=values.INTERFACES, multiple=True, help="Where to look."
)
@click.option(
    "--timeout", type=values.SECONDS, default=DEFAULT_TIMEOUT, show_default=True, help="How long to listen at most."
)
@click.option("--share", type=values.SHARE_NAME, metavar="NAME", help="A share that has to be heard.")
@click.option("--port", type=values.PORT, default=DEFAULT_PORT, show_default=True, help="UDP port.")
@click.option("--scope", type=values.SCOPE, default=SITE_LOCAL, show_default=True, help="Scope of the groups.")
def doctor(interfaces: tuple[tuple[str, ...], ...], timeout: float, share: bytes | None, port: int, scope: int) -> int:
    """Say whether IPv6 multicast works here, and what to do where it does not.

    The exit code is 1 if there is a problem; warnings are none. As root it can tell more.
    """
    from mcfs.cli.diagnosis import Level, judge, verdict
    from mcfs.net.doctor import DoctorSettings, examine

    names = [name for several in interfaces for name in several]
    with _progress() as tell:
        facts = examine(names, DoctorSettings(timeout, port, scope, share), tell)
    findings = judge(facts, cannot_mount=_cannot_mount())
    for finding in findings:
        for line in lines(finding):
            click.echo(line)
    click.echo(verdict(facts, findings))
    return Exit.ERROR if any(f.level is Level.PROBLEM for f in findings) else Exit.OK


def lines(finding: Finding) -> Iterator[str]:
    """The line of a finding, and what to do on the next one. Colours, which `click.echo` keeps on a terminal only."""
    mark = finding.level.value
    yield click.style(mark.ljust(_MARK_WIDTH), fg=_COLOURS[mark]) + finding.text
    if finding.remedy:
        yield f"{'':{_MARK_WIDTH}}-> {finding.remedy}"


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A line on a terminal that says what is being waited for, and goes when that is over."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status("looking at the interfaces") as status:
        yield status.update


def _cannot_mount() -> str:
    """Why, if nothing can be mounted here."""
    from mcfs.cli.mount import check_device

    try:
        check_device()
    except UserError as error:
        return str(error)
    return ""
