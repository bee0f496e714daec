from __future__ import annotations

import errno

import click
import pytest

from mcfs.cli.exits import Exit, describe
from mcfs.protocol.errors import BadNode, Gone, McfsError, ShareDown, TimedOut, UserError


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (UserError("mend it"), "mend it", Exit.ERROR),
        (UserError("two\nlines", 5), "two lines", Exit.CANNOT_MOUNT),
        (TimedOut("share"), "share", Exit.NOT_HEARD),
        (ShareDown("share"), "share", Exit.NOT_HEARD),
        (Gone("it"), "it", Exit.NOT_HEARD),
        (BadNode("hash"), "hash", Exit.ERROR),
        (McfsError("some"), "some", Exit.ERROR),
        (KeyboardInterrupt(), "interrupted", Exit.INTERRUPTED),
        (click.Abort(), "interrupted", Exit.INTERRUPTED),
        (PermissionError(errno.EPERM, "No", "/x"), "/x: No", Exit.PRIVILEGE),
        (OSError(errno.ENOSPC, "Full"), "Full", Exit.ERROR),
        (OSError("odd"), "odd", Exit.ERROR),
        (ZeroDivisionError("division"), "internal error: ZeroDivisionError: division", Exit.INTERNAL),
        (ExceptionGroup("a", [ValueError("x"), ExceptionGroup("b", [UserError("this", 3)])]), "this", Exit.PRIVILEGE),
        (ExceptionGroup("a", [KeyError("k")]), "internal error: KeyError: 'k'", Exit.INTERNAL),
    ],
)
def test_the_line_and_the_code_of_an_error(error: BaseException, line: str, code: Exit) -> None:
    assert describe(error) == (line, code)
