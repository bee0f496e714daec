"""rsync from its daemon: unicast."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from tests.bench.peers.tool import Pulling

if TYPE_CHECKING:
    from pathlib import Path

PORT: Final = 8873
CONFIGURATION: Final = """\
uid = root
gid = root
use chroot = no
reverse lookup = no
log file = {log}
pid file = {pid}
lock file = {lock}
[data]
path = {path}
read only = yes
"""


class Rsync(Pulling):
    name = "rsync"
    programs: ClassVar = {"rsync": "rsync"}
    about = "`rsync --daemon` of a configuration of its own; `rsync rsync://SERVER/data/file F` writes a file in memory"

    def prepare(self) -> None:
        place = self.scene.directory("rsync")
        names = {"log": place / "log", "pid": place / "pid", "lock": place / "lock", "path": self.scene.source.parent}
        file = place / "rsyncd.conf"
        file.write_text(CONFIGURATION.format(**names))
        self._files = [self.scene.directory("received") / "file" for _ in self.scene.readers]
        words: list[str | Path] = ["rsync", "--daemon", "--no-detach", "--port", str(PORT), "--config", file]
        self.scene.start(self.scene.lab.server, words)
        self.scene.wait_listening(PORT)

    def command(self, number: int) -> list[str | Path]:
        server = self.scene.address(self.scene.lab.server)
        return ["rsync", f"rsync://{server}:{PORT}/data/{self.scene.source.name}", self._files[number]]

    def copies(self) -> list[Path]:
        return self._files
