"""udpcast: multicast with acknowledgements, over IPv4."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, Final

from tests.bench.accounting import end_times, has_ended
from tests.bench.peers.tool import Timing, Tool
from tests.netlab.harness import Late

if TYPE_CHECKING:
    from pathlib import Path

    from tests.netlab.harness import Job

GROUP: Final = "232.99.0.1"
SHARE_OF_LINK: Final = 0.95
FIRST_DATA: Final = 64 * 1024
"""Bytes that are more than its greetings."""
_POLL: Final = 0.005
_READY: Final = 0.5
"""Seconds that a receiver has for its start; the sender waits for it in any case."""


class Udpcast(Tool):
    name = "udpcast"
    programs: ClassVar = {"udp-sender": "udpcast", "udp-receiver": "udpcast"}
    about = (
        "`udp-receiver --nokbd --file F` writes a file in memory; `udp-sender --nokbd --full-duplex --min-receivers N "
        "--mcast-data-address 232.99.0.1` (`--max-bitrate` 0.95 of the link when shaped). The time begins with the "
        "first data on the wire: the 2 seconds before are left out"
    )
    _receivers: list[Job]
    _sender: Job

    def prepare(self) -> None:
        self._files = [self.scene.directory("received") / "file" for _ in self.scene.readers]
        common = ["udp-receiver", "--interface", "eth0", "--nokbd", "--file"]
        pairs = zip(self.scene.readers, self._files, strict=True)
        self._receivers = [self.scene.start(host, [*common, file]) for host, file in pairs]
        time.sleep(_READY)

    def transfer(self, deadline: float) -> Timing:
        before, link = self.scene.sent(), self.scene.conditions.link
        words = ["udp-sender", "--interface", "eth0", "--nokbd", "--full-duplex", "--mcast-data-address", GROUP]
        words += ["--min-receivers", str(len(self.scene.readers))]
        words += [] if link is None else ["--max-bitrate", f"{int(link * SHARE_OF_LINK / 1e6)}m"]
        self._sender = self.scene.start(self.scene.lab.server, [*words, "--file", self.scene.source])
        began = self._first_data(before, deadline)
        ended = end_times(self._receivers, deadline)
        return Timing(tuple(end - began for end in ended), max(ended) - self._sender.started)

    def _first_data(self, before: int, deadline: float) -> float:
        """When data began to flow, by the monotonic clock."""
        while self.scene.sent() - before < FIRST_DATA:
            assert not has_ended(self._sender), f"udp-sender ended: {self._sender.output[-300:]}"
            if time.monotonic() - self._sender.started > deadline:
                raise Late(f"not within {deadline:g} s: no data")
            time.sleep(_POLL)
        return time.monotonic()

    def finish(self) -> None:
        for job in (self._sender, *self._receivers):
            job.expect_success(10.0)

    def copies(self) -> list[Path]:
        return self._files
