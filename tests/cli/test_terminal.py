"""What is printed and logged never moves a cursor, whatever names it contains."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from mcfs.cli.terminal import PlainFormatter, report, without_controls
from mcfs.protocol.errors import UserError

if TYPE_CHECKING:
    import pytest

NASTY = "\x1b[2J\x1b]0;title\x07\r\n\x9b31m\u202e\udcff\ud800 name"


def test_a_line_without_controls() -> None:
    assert without_controls(NASTY).isprintable()
    assert without_controls("a name: é, \\ and 'quotes'") == "a name: é, \\ and 'quotes'"


def test_log_lines() -> None:
    formatter = PlainFormatter("mcfs: %(message)s")
    record = logging.LogRecord("mcfs", logging.WARNING, __file__, 1, "%s: %s", (NASTY, NASTY), None)
    assert formatter.format(record).isprintable()


def test_tracebacks_keep_their_lines_and_no_others() -> None:
    formatter = PlainFormatter("mcfs: %(message)s")
    try:
        raise ValueError(NASTY)
    except ValueError:
        record = logging.LogRecord("mcfs", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    text = formatter.format(record)
    assert text.startswith("mcfs: failed\nTraceback")
    assert all(line.isprintable() for line in text.split("\n"))


def test_errors(capsys: pytest.CaptureFixture[str]) -> None:
    report(UserError(f"{NASTY} is no share"), "mcfs")
    assert capsys.readouterr().err.removesuffix("\n").isprintable()
