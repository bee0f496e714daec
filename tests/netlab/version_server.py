"""A server that looks at its directory again when it is told to, and only then:

    python -m tests.netlab.version_server STATE DIRECTORY RATE

Prints "published N" for each version, the first one at the start; SIGUSR1 makes another one. Until it is killed.
"""

from __future__ import annotations

import itertools
import signal
import sys
import time
from pathlib import Path

import trio

from mcfs.cli.lab import INTERFACE
from mcfs.cli.publisher import load_or_make_key
from mcfs.net.interfaces import choose
from mcfs.net.server import Server
from mcfs.net.settings import ServerSettings
from mcfs.protocol.announce import Announcement
from mcfs.serve.index import Index
from mcfs.serve.store import NodeStore


async def serve(state: Path, directory: Path, rate: int) -> None:
    settings = ServerSettings(interface_names=(INTERFACE,), rate=rate)
    with Index.open(state) as index:
        store = NodeStore(index)
        server = Server(store, choose([INTERFACE]).chosen, settings, load_or_make_key(state))
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(signal.SIGUSR1) as told:
                await nursery.start(server.run)
                for number in itertools.count(1):
                    await publish(index, store, server, directory)
                    print(f"published {number}", flush=True)
                    await anext(told)


async def publish(index: Index, store: NodeStore, server: Server, directory: Path) -> None:
    name = directory.name.encode()
    snapshot = await trio.to_thread.run_sync(lambda: index.scan(directory, name, now_ms=time.time_ns() // 1_000_000))
    await trio.to_thread.run_sync(store.replace, [snapshot])
    announcement = Announcement(
        version=snapshot.version,
        time_ms=0,
        entry=snapshot.entry,
        owners=snapshot.owners,
        total_bytes=snapshot.total_bytes,
        total_files=snapshot.total_files,
        rate=0,
        addresses=(),
    )
    server.publish({name: announcement})


if __name__ == "__main__":
    trio.run(serve, Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
