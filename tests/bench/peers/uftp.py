"""UFTP: multicast with negative acknowledgements."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Final

from tests.bench.accounting import end_times
from tests.bench.peers.tool import Timing, Tool
from tests.netlab.harness import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.netlab.harness import Job

PUBLIC: Final = "ff15::4:4:1"
PRIVATE: Final = "ff15::5:5:1"
BUFFER: Final = 4 << 20
SHARE_OF_LINK: Final = 0.95
READY_DEADLINE: Final = 10.0
_COMPLETED: Final = re.compile(r"^Host: 0x([0-9A-Fa-f]+)\s+Status: (\w+)\s+time:\s+([\d.]+) seconds", re.MULTILINE)


def completed(report: str) -> dict[int, float]:
    """Seconds of each client, by its number, from what the server prints at the end."""
    return {
        int(client, 16): float(time) for client, status, time in _COMPLETED.findall(report) if status == "Completed"
    }


class Uftp(Tool):
    name = "uftp"
    programs: ClassVar = {"uftp": "uftp", "uftpd": "uftp"}
    about = (
        "`uftpd -d -q -B 4194304 -I ADDR -M ff15::4:4:1` writes a file in memory; `uftp -M ff15::4:4:1 -P ff15::5:5:1 "
        "-B 4194304 -I ADDR -R -1` (0.95 of the link when shaped). The time is what UFTP itself reports, from the "
        "file's announcement on: the two seconds in which it looks for receivers are left out"
    )
    _daemons: list[Job]
    _sender: Job

    def prepare(self) -> None:
        self._directories = [self.scene.directory("received") for _ in self.scene.readers]
        self._daemons = [self.scene.start(host, self._daemon(n)) for n, host in enumerate(self.scene.readers)]
        wait_until(lambda: all("Loaded" in job.output for job in self._daemons), READY_DEADLINE, "uftpd runs")

    def _daemon(self, number: int) -> list[str | Path]:
        place, local = self._directories[number], self.scene.lab.link_local(self.scene.readers[number])
        words: list[str | Path] = ["uftpd", "-d", "-q", "-B", str(BUFFER), "-I", local, "-M", PUBLIC]
        return [*words, "-U", f"0x{number + 1:08x}", "-D", place, "-P", place.with_suffix(".pid")]

    def transfer(self, deadline: float) -> Timing:
        link, server = self.scene.conditions.link, self.scene.lab.server
        rate = "-1" if link is None else str(int(link * SHARE_OF_LINK / 1000))
        words = ["uftp", "-M", PUBLIC, "-P", PRIVATE, "-I", self.scene.lab.link_local(server), "-B", str(BUFFER)]
        self._sender = self.scene.start(server, [*words, "-R", rate, self.scene.source])
        [ended] = end_times([self._sender], deadline)
        found = completed(self._sender.output)
        assert len(found) == len(self.scene.readers), (
            f"only {len(found)} receivers completed: {self._sender.output[-300:]}"
        )
        return Timing(tuple(found.values()), ended - self._sender.started)

    def finish(self) -> None:
        self._sender.expect_success(1.0)

    def copies(self) -> list[Path]:
        return [directory / self.scene.source.name for directory in self._directories]
