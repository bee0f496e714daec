"""The tools that are measured beside each other, one module each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.bench.peers.mcfs import Mcfs
from tests.bench.peers.nginx import Nginx
from tests.bench.peers.rsync import Rsync
from tests.bench.peers.udpcast import Udpcast
from tests.bench.peers.uftp import Uftp

if TYPE_CHECKING:
    from tests.bench.peers.tool import Tool

TOOLS: Final[dict[str, type[Tool]]] = {tool.name: tool for tool in (Mcfs, Uftp, Udpcast, Rsync, Nginx)}
PEERS: Final = tuple(name for name in TOOLS if name != Mcfs.name)
