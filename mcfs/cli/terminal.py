"""How a command starts and ends: its arguments, its one line of error, its log."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from mcfs.cli.exits import Exit, describe

if TYPE_CHECKING:
    from collections.abc import Sequence

HELP_NAMES: Final = {"help_option_names": ["-h", "--help"]}
SYSLOG: Final = "/dev/log"
log: Final = logging.getLogger("mcfs")


def without_controls(line: str) -> str:
    """What moves no cursor and makes no further line, whatever name is in it: names are what others chose."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


class PlainFormatter(logging.Formatter):
    """Whatever a record contains, it moves no cursor and makes no further line; tracebacks keep their own lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return without_controls(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: ANN401 - as in the class above
        return "\n".join(without_controls(line) for line in super().formatException(ei).split("\n"))


def run(command: click.Command, program: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code; every error becomes one line."""
    try:
        code = command.main(args=arguments, prog_name=program, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as exit_:
        code = exit_.exit_code
    except BrokenPipeError:
        code = _reader_gone()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except Exception as error:
        code = report(error, program)
    except (KeyboardInterrupt, BaseExceptionGroup) as error:
        code = report(error, program)
    sys.exit(code if isinstance(code, int) else Exit.OK)


def _reader_gone() -> int:
    """`mcfs ls | head`: nobody reads what is left, and flushing it at exit would complain."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return Exit.ERROR


def report(error: BaseException, program: str) -> int:
    """Print the line of an error; its traceback only where bugs are looked for. Returns the exit code."""
    line, code = describe(error)
    print(f"{program}: {without_controls(line)}", file=sys.stderr, flush=True)
    if code == Exit.INTERNAL or log.isEnabledFor(logging.DEBUG):
        log.debug("traceback", exc_info=error)
    return code


def log_to_stderr(program: str, level: int) -> None:
    """Log lines of at least `level` go to stderr."""
    handler = logging.StreamHandler()
    layout = "%(asctime)s %(name)s %(levelname)s: %(message)s" if level <= logging.DEBUG else f"{program}: %(message)s"
    handler.setFormatter(PlainFormatter(layout))
    _replace_handlers(handler, level)


def log_to_syslog(program: str, level: int) -> None:
    """Log lines go to syslog, thus to the journal; nowhere if this machine has none."""
    handler: logging.Handler = logging.NullHandler()
    with suppress(OSError):
        handler = logging.handlers.SysLogHandler(SYSLOG, logging.handlers.SysLogHandler.LOG_DAEMON)
    handler.setFormatter(PlainFormatter(f"{program}[{os.getpid()}]: %(message)s"))
    _replace_handlers(handler, level)


def _replace_handlers(handler: logging.Handler, level: int) -> None:
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    log.setLevel(level)
