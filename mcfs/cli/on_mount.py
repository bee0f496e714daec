"""What a path on a mount of mcfs is to the mount: the share and the names below it, and where its cache is."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mcfs.cli import mounts, values
from mcfs.cli.exits import Exit
from mcfs.fetch.cachedir import is_cache, root_of
from mcfs.fetch.cachepins import PinDirectory
from mcfs.protocol.errors import UserError

_PATH: Final = "user.mcfs.path"
_CACHE: Final = "user.mcfs.cache"


@dataclass(frozen=True, slots=True)
class Place:
    share: bytes
    path: bytes
    """Below the share's root."""
    cache: Path
    """The directory, or the mount-N, that the mount uses."""

    @property
    def pins(self) -> PinDirectory:
        return PinDirectory(root_of(self.cache), self.cache)


def mount_of(path: Path) -> mounts.Mounted:
    """The mount of mcfs that a file or directory is on. Raises UserError."""
    try:
        device = os.stat(path, follow_symlinks=False).st_dev
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    mounted = mounts.of_device(device)
    if mounted is None or mounted.type != mounts.MOUNT_TYPE:
        raise UserError(f"{path} is not on a mount of mcfs")
    return mounted


def place_of(path: Path) -> Place:
    """Raises UserError."""
    mounted = mount_of(path)
    if mounted.user != os.geteuid():
        # What a mount says of itself is what another user says: nobody must write where that leads.
        raise UserError(f"{path} is on a mount of user {mounted.user}, who may do that", Exit.PRIVILEGE)
    name, cache = _attribute(path, _PATH), _attribute(path, _CACHE)
    if name is None:
        raise UserError(f"{path} shows all shares: name one of them")
    if cache is None:
        raise UserError(f"{path}: this mount keeps nothing; its log says why")
    share, _, below = name.partition(b"/")
    return Place(share, below, own_cache(Path(os.fsdecode(cache))))


def own_cache(path: Path) -> Path:
    """The path of a cache directory, if it is one of who asks. Raises UserError."""
    if not is_cache(path):
        raise UserError(f"there is no cache in {path}")
    owner = path.stat().st_uid
    if owner != os.geteuid():
        raise UserError(f"the cache in {path} belongs to user {owner}, who may do that", Exit.PRIVILEGE)
    return path


def _attribute(path: Path, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return None
        if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise UserError(f"{values.printable(os.fsencode(path))}: the mount has no attributes (noxattr)") from None
        raise UserError(f"{path}: {error.strerror}") from None
