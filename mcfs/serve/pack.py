"""Packs: small files of one directory behind each other in one block.

Where packs end depends on the names and sizes of the files near by, so that a new or changed file changes the pack that
it is in, and no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
from blake3 import blake3

from mcfs.protocol.catalog import cut_after

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mcfs.protocol.ids import Digest
    from mcfs.serve.walk import FoundFile

SMALL: Final = 64 << 10
"""Bytes of the largest file that goes into a pack."""
MEAN: Final = 512 << 10

_members: Final = msgspec.msgpack.Decoder(list[tuple[bytes, int]])


@dataclass(frozen=True, slots=True)
class Pack:
    """At least one file, in name order."""

    members: Sequence[FoundFile]

    @property
    def size(self) -> int:
        return sum(member.size for member in self.members)


def cut(files: Sequence[FoundFile], block_size: int) -> Iterator[Pack]:
    """Cut small files, sorted by name, into packs of at most one block."""
    start = 0
    for end, file in enumerate(files, 1):
        if cut_after(file.name, file.size, MEAN) or end == len(files):
            yield from _fit(files[start:end], block_size)
            start = end


def _fit(files: Sequence[FoundFile], block_size: int) -> Iterator[Pack]:
    """Halve what is longer than a block, again and again, after the file whose name draws the lowest.

    Filling each pack up to the brim instead would move every cut behind a new file, up to the next cut by name.
    """
    todo = [files]
    while todo:
        pack = Pack(todo.pop())
        if pack.size <= block_size:
            yield pack
            continue
        lowest = min(range(len(pack.members) - 1), key=lambda i: blake3(pack.members[i].name).digest(length=8))
        todo += [pack.members[lowest + 1 :], pack.members[: lowest + 1]]


def key(content: Sequence[tuple[Digest, int]], block_size: int) -> bytes:
    """What a pack's object depends on: (b3sum, size) of each member, and the block size."""
    hasher = blake3(block_size.to_bytes(4, "big"))
    for b3sum, size in content:
        hasher.update(b3sum + size.to_bytes(4, "big"))
    return hasher.digest(length=16)


def encode_members(pack: Pack) -> bytes:
    """Names and sizes, as the database keeps them."""
    return msgspec.msgpack.encode([(member.name, member.size) for member in pack.members])


def decode_members(data: bytes) -> list[tuple[bytes, int]]:
    """None if the disk gave back what was never written."""
    try:
        return _members.decode(data)
    except msgspec.DecodeError:
        return []
