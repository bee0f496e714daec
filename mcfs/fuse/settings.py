"""What the user chooses about a mount."""

from __future__ import annotations

from dataclasses import dataclass

from mcfs.fuse.links import Symlinks


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseSettings:
    mountpoint: str
    share: bytes | None = None
    """The share whose content the mount shows; None shows all shares, each under its name."""
    allow_other: bool = False
    """Let other users in, each with the permissions that the published modes give them."""
    uid: int | None = None
    """The owner shown for everything; None shows the published owners."""
    gid: int | None = None
    noxattr: bool = False
    """No extended attributes: the kernel stops asking for them, which makes `ls -l` faster."""
    entry_timeout: float = 1.0
    """Seconds for which the kernel may use a looked up name without asking; one that is absent, a second at most."""
    attr_timeout: float = 1.0
    """Seconds for which the kernel may use attributes without asking."""
    share_wait: float = 1.5
    """Seconds to wait for a name not heard of yet, in a mount of all shares, before it does not exist."""
    timeout: float = 30.0
    """Seconds to wait for the first announcement of `share` before ETIMEDOUT."""
    symlinks: Symlinks = Symlinks.CONTAIN
    kernel_options: frozenset[str] = frozenset()
    """Mount options for the kernel, such as noexec or noatime."""
    debug: bool = False
    """Log each request to stderr."""
    read_ahead_kb: int = 4096
    """KiB that the kernel reads ahead. Set where permitted (root)."""
