"""Run a command of mcfs over a client without a network: python -m tests.cli.with_fake_client COMMAND ARGUMENTS...

It hears the share `data`, a directory with one file. MCFS_FAKE=crash makes opening the client fail by a bug,
MCFS_FAKE=deaf stops its event loop as soon as it is asked to end, MCFS_FAKE=hang stops it before it mounts.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.fuse.fakes import Directory, FakeBackend, File

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mcfs.fuse.backend import Backend
    from mcfs.net.client import ClientSettings

CONTENT = b"what the file says\n"


@asynccontextmanager
async def open_client(_settings: ClientSettings, *, clock: object) -> AsyncIterator[Backend]:
    behaviour = os.environ.get("MCFS_FAKE", "")
    if behaviour == "crash":
        raise RuntimeError("a bug\nwith two lines")
    if behaviour == "hang":
        os.write(2, b"hanging\n")
        time.sleep(60)  # noqa: ASYNC251 - that is the point
    backend = FakeBackend()
    backend.publish(b"data", Directory({b"file": File(CONTENT)}))
    backend.publish(b"odd name\xff", File(CONTENT))
    try:
        yield backend
    finally:
        if behaviour == "deaf":
            time.sleep(60)  # noqa: ASYNC251 - that is the point


def install() -> None:
    """Put this in the place of the client."""
    from mcfs.net import client

    client.__dict__["open_client"] = open_client


if __name__ == "__main__":
    install()
    program = sys.argv.pop(1)
    if program == "mcfs":
        from mcfs.cli.main import main
    else:
        from mcfs.cli.mount_helper import main
    main()
