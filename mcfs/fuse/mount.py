"""A mount, from the call of mount(2) to the end of the connection. pyfuse3 serves one mount per process."""

from __future__ import annotations

import errno
import logging
import os
import stat
from typing import TYPE_CHECKING, Final

import pyfuse3
import trio

from mcfs.fuse import kernel
from mcfs.fuse.operations import McfsOperations
from mcfs.fuse.settings import FuseSettings
from mcfs.protocol.errors import UserError

if TYPE_CHECKING:
    from mcfs.fuse.backend import Backend

__all__ = ["FuseSettings", "serve_mount"]

EXIT_CODE: Final = 5
"""The command's exit code when a mount fails."""
MAX_TASKS: Final = kernel.MAX_BACKGROUND + 256
"""Requests answered at a time: all that the kernel has in the background, and as many that somebody waits for."""
READY_TIMEOUT: Final = 10.0

log = logging.getLogger(__name__)


async def serve_mount(
    backend: Backend, settings: FuseSettings, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Mount, report `started` when the mount answers, and return when it is unmounted. Cancellation unmounts it.

    Raises UserError if the mount cannot be made or does not answer.
    """
    _check_mountpoint(settings.mountpoint)
    operations = McfsOperations(backend, settings)
    mount = _Mount(settings, operations, _initialise(operations, settings))
    try:
        await mount.serve(task_status)
    finally:
        pyfuse3.close(unmount=True)
        operations.close()
        mount.clean_up()


def _check_mountpoint(mountpoint: str) -> None:
    try:
        is_directory = stat.S_ISDIR(os.stat(mountpoint).st_mode)
        # A dead mount may still answer stat from the kernel's cache, but never this.
        os.statvfs(mountpoint)
    except OSError as error:
        advice = f"; unmount it first: fusermount3 -u {mountpoint}" if error.errno == errno.ENOTCONN else ""
        raise UserError(f"{mountpoint}: {error.strerror}{advice}", EXIT_CODE) from None
    if not is_directory:
        raise UserError(f"{mountpoint}: not a directory", EXIT_CODE)
    if kernel.kind_mounted_on(mountpoint) == f"fuse.{kernel.SUBTYPE}":
        raise UserError(f"{mountpoint}: already mounted", EXIT_CODE)


def _initialise(operations: McfsOperations, settings: FuseSettings) -> int | None:
    """Make the mount; the file descriptor of its connection if /proc tells it. Raises UserError."""
    _silence(settings.debug)
    messages = kernel.Messages()
    before = kernel.fuse_descriptors()
    try:
        with messages.captured():
            pyfuse3.init(operations, settings.mountpoint, kernel.mount_options(settings))
    except RuntimeError as error:
        raise UserError(f"cannot mount on {settings.mountpoint}: {messages.line() or error}", EXIT_CODE) from None
    return next(iter(kernel.fuse_descriptors() - before), None)


def _silence(debug: bool) -> None:
    """pyfuse3 logs an error for each request whose reader was killed meanwhile: that is no error."""
    logger = logging.getLogger("pyfuse3")
    logger.removeFilter(_not_a_failed_reply)
    if not debug:
        logger.addFilter(_not_a_failed_reply)


def _not_a_failed_reply(record: logging.LogRecord) -> bool:
    return "fuse_reply_" not in str(record.msg)


class _Mount:
    def __init__(self, settings: FuseSettings, operations: McfsOperations, descriptor: int | None) -> None:
        self._settings = settings
        self._operations = operations
        self._descriptor = descriptor
        self._device: int | None = None
        self._problem = "unmounted before it answered"

    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        """Answer the kernel until it ends the connection. Raises UserError."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._main, nursery.cancel_scope)
            nursery.start_soon(self._watch, nursery.cancel_scope)
            nursery.start_soon(self._operations.tell_changes, kernel.forget_attributes)
            self._device = await self._answering()
            if self._device is None:
                nursery.cancel_scope.cancel()
            else:
                kernel.tune(self._device, self._settings.read_ahead_kb)
                task_status.started()
        if self._device is None:
            raise UserError(f"{self._settings.mountpoint}: {self._problem}", EXIT_CODE)

    async def _main(self, scope: trio.CancelScope) -> None:
        try:
            await pyfuse3.main(max_tasks=MAX_TASKS)
        except* OSError as group:
            # The connection is of no more use, whatever the reason: the mount ends.
            log.error("%s: %s", self._settings.mountpoint, group.exceptions[0])
        scope.cancel()

    async def _watch(self, scope: trio.CancelScope) -> None:
        if self._descriptor is not None:
            await kernel.disconnected(self._descriptor)
            scope.cancel()

    async def _answering(self) -> int | None:
        """The device number of the mount, as soon as it answers a stat; None with a problem noted."""
        with trio.move_on_after(READY_TIMEOUT) as scope:
            try:
                # In a thread: this process itself must answer the kernel meanwhile.
                found = await trio.to_thread.run_sync(os.stat, self._settings.mountpoint, abandon_on_cancel=True)
            except OSError as error:
                self._problem = str(error.strerror)
            else:
                return found.st_dev
        if scope.cancelled_caught:
            self._problem = f"the mount does not answer within {READY_TIMEOUT:g} s"
        return None

    def clean_up(self) -> None:
        if self._device is not None:
            kernel.detach(self._settings.mountpoint, self._device)
