"""A process that mounts a fake client: python -m tests.fuse.serve_fake MOUNTPOINT OPTIONS (a JSON object).

Prints "ready" when the mount answers. SIGHUP publishes the source again, SIGTERM cancels.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from mcfs.fuse.links import Symlinks
from mcfs.fuse.mount import FuseSettings, serve_mount
from mcfs.protocol.catalog import PERMISSIONS, Attributes
from mcfs.protocol.errors import UserError
from tests.fuse.fakes import BulkBackend, Directory, FakeBackend, File, Item, Link

if TYPE_CHECKING:
    from collections.abc import Callable


def load(path: Path) -> Item:
    """A real directory as a tree in memory. Every second directory is inlined."""
    status = path.lstat()
    attributes = Attributes(status.st_mode & PERMISSIONS, status.st_uid, status.st_gid, status.st_mtime_ns)
    if path.is_symlink():
        return Link(os.fsencode(os.readlink(path)), attributes)
    if path.is_file():
        return File(path.read_bytes(), attributes)
    children = {os.fsencode(child.name): load(child) for child in path.iterdir()}
    return Directory(children, attributes, inlined=len(path.name) % 2 == 0)


@dataclass(frozen=True)
class Job:
    mountpoint: str
    source: str | None = None
    """A directory to publish as the share "s"."""
    files: int = 0
    """Publish a directory of so many files."""
    bulk: int = 0
    """Publish a file of so many bytes, whose content costs nothing to make."""
    hang: bool = False
    """Never answer a read."""

    def backend(self) -> FakeBackend:
        backend = BulkBackend(hang=self.hang)
        self.publish(backend)
        return backend

    def publish(self, backend: FakeBackend) -> None:
        if self.source is not None:
            item = load(Path(self.source))
            assert not isinstance(item, Link)
            backend.publish(b"s", item)
        if self.files:
            backend.publish(b"many", Directory({b"file%06d" % i: File(b"x") for i in range(self.files)}))
        if self.bulk and isinstance(backend, BulkBackend):
            backend.publish_bulk(b"bulk", self.bulk)


async def serve(job: Job, settings: FuseSettings) -> None:
    backend = job.backend()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_on_signals, nursery.cancel_scope, lambda: job.publish(backend))
        await nursery.start(_serve, backend, settings, nursery.cancel_scope)
        print("ready", flush=True)


async def _serve(
    backend: FakeBackend, settings: FuseSettings, scope: trio.CancelScope, task_status: trio.TaskStatus[None]
) -> None:
    await serve_mount(backend, settings, task_status=task_status)
    scope.cancel()


async def _on_signals(scope: trio.CancelScope, publish: Callable[[], None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        async for number in signals:
            if number == signal.SIGTERM:
                scope.cancel()
            else:
                publish()


def main(mountpoint: str, options: dict[str, Any]) -> None:
    logging.basicConfig(level=logging.WARNING)
    job = Job(mountpoint, **options.pop("job", {}))
    if share := options.pop("share", None):
        options["share"] = os.fsencode(share)
    options["symlinks"] = Symlinks(options.get("symlinks", "contain"))
    options["kernel_options"] = frozenset(options.get("kernel_options", ()))
    failed = False
    try:
        trio.run(serve, job, FuseSettings(mountpoint=mountpoint, **options))
    except* UserError as group:
        for error in group.exceptions:
            print(f"mcfs: {error}", file=sys.stderr)
        failed = True
    sys.exit(5 if failed else 0)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
