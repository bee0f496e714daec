"""Symbolic links that a publisher may have made to lead somewhere else on the machine that mounts.

The kernel follows links by itself: all that a file system can do is refuse to say where one leads. So whether a link
stays in its share is judged by its target's text and by where the link is, and the answer has to hold whatever else the
share contains. It does, for these reasons:

- The directories of a mount are a tree, and a link's place in it is known: ".." at the start of a target climbs from
  there, one directory each, and no further than the share's root if there are no more of them than directories above.
- Any other name leads down, or is itself a link, which is judged by the same rule from its own place; wherever that one
  ends is inside. What follows leads down from there.
- But ".." behind a name climbs from wherever that name leads, which may be a directory less deep than the text says. So
  such a target is refused, also where it would have stayed inside.

It says nothing of a part of the mount that is bound to another place (mount --bind), where the kernel's ".." leads to
whatever is above that place.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Symlinks(Enum):
    """What becomes of symbolic links."""

    CONTAIN = "contain"
    """Following one out of its share is not permitted."""
    KEEP = "keep"
    """They are shown as published."""
    HIDE = "hide"
    """They are not shown."""


_HERE: Final = (b"", b".")


def stays_inside(path: bytes, target: bytes) -> bool:
    """Whether the link at `path` (the share's name and the names below it, joined by "/") leads nowhere outside."""
    if target.startswith(b"/"):
        return False
    parts = [part for part in target.split(b"/") if part not in _HERE]
    climbs = next((i for i, part in enumerate(parts) if part != b".."), len(parts))
    return climbs <= path.count(b"/") - 1 and b".." not in parts[climbs:]
