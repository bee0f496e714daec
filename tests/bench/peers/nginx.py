"""nginx and curl: unicast, with sendfile."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from tests.bench.peers.tool import Pulling

if TYPE_CHECKING:
    from pathlib import Path

PORT: Final = 8880
CONFIGURATION: Final = """\
daemon off;
user root;
worker_processes auto;
pid {place}/pid;
error_log {place}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    server {{
        listen {address}:{port};
        root {root};
    }}
}}
"""


class Nginx(Pulling):
    name = "nginx"
    programs: ClassVar = {"nginx": "nginx-light", "curl": "curl"}
    about = (
        "nginx of a configuration of its own, `sendfile on`, a worker for each processor; `curl -o F` writes a file in "
        "memory"
    )

    def prepare(self) -> None:
        place = self.scene.directory("nginx")
        where = {"address": self.scene.address(self.scene.lab.server), "port": PORT, "root": self.scene.source.parent}
        file = place / "nginx.conf"
        file.write_text(CONFIGURATION.format(place=place, **where))
        self._files = [self.scene.directory("received") / "file" for _ in self.scene.readers]
        self.scene.start(self.scene.lab.server, ["nginx", "-e", place / "error.log", "-c", file])
        self.scene.wait_listening(PORT)

    def command(self, number: int) -> list[str | Path]:
        url = f"http://{self.scene.address(self.scene.lab.server)}:{PORT}/{self.scene.source.name}"
        return ["curl", "--silent", "--show-error", "--fail", "--output", self._files[number], url]

    def copies(self) -> list[Path]:
        return self._files
