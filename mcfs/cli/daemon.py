"""Going into the background: the parent ends with success only when the child's work is ready.

::

    parent                       child
      | fork ---------------------> |  own session, no terminal; dies with its parent
      | waits for one byte          |  work(ready): errors go to the parent's stderr, which is still open
      |                             |
      | <--- 0 --- ready() ---------|  from here on stderr is /dev/null, the log goes to syslog, the parent may die
      | exit 0                      |  work goes on
      |
      | <--- code ---- or ----------|  work failed: its line is printed already
      | exit code
      |
      | <--- end of file -- or -----|  the child was killed
      | exit 70

The fork comes before any event loop or thread is started.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Final, NoReturn

from mcfs.cli import terminal
from mcfs.cli.exits import Exit, describe
from mcfs.net import sdnotify
from mcfs.protocol.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_HIGHEST_FD: Final = 65536
"""Descriptors above this are not closed one by one: RLIMIT_NOFILE may be a thousand million."""

log: Final = logging.getLogger(__name__)


def in_foreground(work: Callable[[Callable[[], None]], int]) -> int:
    """Run work(ready) in this process. Returns its exit code."""
    return work(_tell_systemd)


def in_background(work: Callable[[Callable[[], None]], int], *, program: str, log_level: int = logging.INFO) -> int:
    """Run work(ready) in a child. Returns 0 as soon as it calls ready(), else its exit code when it ends."""
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _be_child(work, writer, parent, program, log_level)
    os.close(writer)
    with open(reader, "rb") as pipe:
        return _outcome(pipe.read(1), pid, program)


def _outcome(answer: bytes, pid: int, program: str) -> int:
    if answer:
        return answer[0]
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    print(f"{program}: internal error: the background process {how}", file=sys.stderr)
    return Exit.INTERNAL


def _be_child(
    work: Callable[[Callable[[], None]], int], writer: int, parent: int, program: str, log_level: int
) -> NoReturn:
    ready = _Ready(writer, program, log_level)
    code: int = Exit.INTERNAL
    try:
        _detach(writer, parent)
        # The terminal is the user's: he is told what may matter to him, unless he asked for more.
        terminal.log_to_stderr(program, logging.DEBUG if log_level <= logging.DEBUG else logging.WARNING)
        code = work(ready)
        ready.ended(code)
    except BaseException as error:
        code = _report(error, program, ready)
    finally:
        os._exit(code)


def _report(error: BaseException, program: str, ready: _Ready) -> int:
    line, code = describe(error)
    if ready.done:
        log.error("%s", line, exc_info=error)
        return code
    terminal.report(error, program)
    ready.answer(code)
    return code


class _Ready:
    """The child's end of the pipe; called once, when the work is ready."""

    def __init__(self, writer: int, program: str, log_level: int) -> None:
        self.done = False
        self._writer = writer
        self._program = program
        self._log_level = log_level

    def __call__(self) -> None:
        """Let the parent end with success. Raises UserError if it has gone without waiting for that."""
        _die_with_parent(0)
        terminal.log_to_syslog(self._program, self._log_level)
        try:
            self.answer(Exit.OK)
        except BrokenPipeError:
            raise UserError("the process that started this mount has gone") from None
        self.done = True
        _redirect(os.O_WRONLY, 2)
        _tell_systemd()

    def ended(self, code: int) -> None:
        """The work returned. Success without having been ready is none: it was stopped by a signal."""
        if not self.done:
            if code == Exit.OK:
                print(f"{self._program}: stopped before it was ready", file=sys.stderr, flush=True)
            self.answer(code or Exit.ERROR)

    def answer(self, code: int) -> None:
        os.write(self._writer, bytes([code]))
        os.close(self._writer)


def _detach(keep: int, parent: int) -> None:
    _die_with_parent(signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above
        os._exit(Exit.ERROR)
    os.setsid()
    os.chdir("/")
    _redirect(os.O_RDONLY, 0)
    _redirect(os.O_WRONLY, 1)
    os.closerange(3, keep)
    os.closerange(keep + 1, min(os.sysconf("SC_OPEN_MAX"), _HIGHEST_FD))


def _redirect(flags: int, fd: int) -> None:
    null = os.open(os.devnull, flags)
    os.dup2(null, fd)
    if null != fd:
        os.close(null)


def _die_with_parent(signal_number: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def _tell_systemd() -> None:
    sdnotify.notify("READY=1", f"MAINPID={os.getpid()}")
