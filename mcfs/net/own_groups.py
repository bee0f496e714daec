"""What this very host listens to, from /proc: in MLDv1 mode the kernel does not show its own reports to raw sockets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from mcfs.protocol.ids import Group

if TYPE_CHECKING:
    from collections.abc import Iterator

_IGMP6: Final = Path("/proc/thread-self/net/igmp6")
"""Of the network namespace of the calling thread."""


def own_groups(ifindex: int) -> set[Group]:
    """The groups that programs of this host have joined on an interface; none if that cannot be told."""
    try:
        text = _IGMP6.read_text()
    except OSError:
        return set()
    return set(_parse(text, ifindex))


def _parse(text: str, ifindex: int) -> Iterator[Group]:
    """Lines of index, name, group in 32 hexadecimal digits, users, flags, timer."""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 3 and fields[0] == str(ifindex):
            yield Group(bytes.fromhex(fields[2]))
