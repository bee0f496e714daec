"""mcfs: mcfs-serve, and `cp` through a mount at each reader."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tests.bench.peers.tool import Pulling

if TYPE_CHECKING:
    from pathlib import Path

    from tests.netlab.harness import Mounted


class Mcfs(Pulling):
    name = "mcfs"
    programs: ClassVar = {}
    about = (
        "`mcfs-serve [--rate LINK]`, a mount at each reader, `cp MOUNT/file /dev/null`; mcfs keeps a verified copy in "
        "its cache in memory, and the kernel another in its page cache"
    )
    _mounts: list[Mounted]

    def prepare(self) -> None:
        link = self.scene.conditions.link
        options = () if link is None else ("--rate", str(link))
        self.scene.site.serve(self.scene.lab.server, self.scene.source.parent, options=options)
        self._mounts = self.scene.mount_all()

    def command(self, number: int) -> list[str | Path]:
        return ["cp", self.copies()[number], "/dev/null"]

    def copies(self) -> list[Path]:
        return [mounted.path / self.scene.source.name for mounted in self._mounts]
