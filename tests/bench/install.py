"""Installs other tools from Debian when they are missing, without starting the services that come with them."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

POLICY: Final = Path("/usr/sbin/policy-rc.d")
_FORBIDDEN: Final = "#!/bin/sh\nexit 101\n"
"""Exit code 101: action forbidden by policy (invoke-rc.d(8))."""
SERVICES: Final = {"nginx-light": "nginx", "uftp": "uftp", "rsync": "rsync"}
APT_DEADLINE: Final = 600.0


class InstallError(Exception):
    """What could not be installed; its text is one line."""


def missing(programs: Mapping[str, str]) -> list[str]:
    """Those programs that are not here."""
    return [program for program in programs if shutil.which(program) is None]


def install(programs: Mapping[str, str]) -> None:
    """Installs the packages of programs that are missing. Raises InstallError when some are still missing then."""
    absent = missing(programs)
    if not absent:
        return
    packages = sorted({programs[program] for program in absent})
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise InstallError(f"not installed, and no apt-get or no root to do it: {', '.join(packages)}")
    with _no_service_starts():
        _run(["apt-get", "-q", "update"])
        _run(["apt-get", "-q", "-y", "--no-install-recommends", "install", *packages])
    _disable(packages)
    if absent := missing(programs):
        raise InstallError(f"still missing after apt-get: {', '.join(absent)}")


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """nginx, rsync and uftp would start their services, which nobody asked for; a policy of others stays as it is."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text(_FORBIDDEN)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            POLICY.unlink()


def _disable(packages: Iterable[str]) -> None:
    """Nor shall what was installed just now start with the machine."""
    services = [SERVICES[package] for package in packages if package in SERVICES]
    if services and shutil.which("systemctl"):
        subprocess.run(["systemctl", "--quiet", "disable", *services], check=False, capture_output=True)


def _run(argv: list[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            timeout=APT_DEADLINE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InstallError(f"not done within {APT_DEADLINE:g} s: {' '.join(argv)}") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InstallError(f"{' '.join(argv[:1])}: {last}")


def version(package: str) -> str:
    """Of a Debian package; empty when it is not one that is installed."""
    if shutil.which("dpkg-query") is None:
        return ""
    words = ["dpkg-query", "-W", "-f", "${Version}", package]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
