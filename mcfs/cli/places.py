"""Where things are kept when the user does not say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mcfs.protocol.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping


def cache_dir(environment: Mapping[str, str], user: int) -> Path:
    """Of a mount. Raises UserError when there is no place for it."""
    option = "-o cache_dir=DIR"
    return _place(environment, user, ("CACHE_DIRECTORY", "/var/cache", "XDG_CACHE_HOME", ".cache", option))


def state_dir(environment: Mapping[str, str], user: int) -> Path:
    """Of a server: its index and its key. Raises UserError when there is no place for it."""
    option = "--state-dir DIR"
    return _place(environment, user, ("STATE_DIRECTORY", "/var/lib", "XDG_STATE_HOME", ".local/state", option))


def known_publishers(environment: Mapping[str, str], user: int) -> Path:
    """The file of known publishers of a mount. Raises UserError when there is no place for it.

    Not where the state of a server is, which belongs to whom the server runs as: he must not say whom root believes.
    """
    option = "-o known_publishers=FILE"
    words = ("STATE_DIRECTORY", "/var/lib", "XDG_STATE_HOME", ".local/state", option)
    return _place(environment, user, words, "mcfs-mount") / "known-publishers"


def _place(
    environment: Mapping[str, str], user: int, words: tuple[str, str, str, str, str], name: str = "mcfs"
) -> Path:
    """What systemd gives (systemd.exec(5)), root's place, or what the XDG base directory specification says."""
    service, system, variable, folder, option = words
    if given := environment.get(service):
        return Path(given.split(":")[0])
    if user == 0:
        return Path(system, name)
    if os.path.isabs(base := environment.get(variable, "")):
        return Path(base, name)
    if os.path.isabs(home := environment.get("HOME", "")):
        return Path(home, folder, name)
    raise UserError(f"HOME is not set, so there is no default place: say {option}")
