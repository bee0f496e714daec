"""Hashing one large file with several threads, as in a relay race.

The leaves of the object can be hashed in any order, but the plain BLAKE3 that `b3sum` prints goes through the file from
its start to its end. So each thread takes the next piece, reads it and hashes its leaves; then it waits until all
earlier pieces have been handed on, and hashes the piece a second time, while it is still in its processor's cache. That
second part is a third of the work for a piece, so up to three threads hardly ever wait. 4 GiB in the page cache, two
cores: 5.2 GB/s, where `b3sum`, which hashes once, has 6.9, and both hashes without any order would have 5.6.

With more threads the plain hash of a piece is itself computed by several (AUTO of blake3, which pays for long pieces
only: 2.6 to 3.7 GB/s with 1 MiB on two cores); in a file that is mostly holes as well, since there is nothing else to
do. What is in memory is one piece for each thread, whatever the file's size.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from mcfs.protocol.ids import Digest, ObjectRef
from mcfs.protocol.merkle import leaf_hash, zero_leaf
from mcfs.serve.pages import PageWriter
from mcfs.serve.reading import pieces, read_exactly

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcfs.serve.reading import Piece

PIECE: Final = 1 << 20
"""Bytes that a thread takes at a time, one block if that is longer: they should fit the L2 cache."""
MANY: Final = 4
"""Threads from which a single one is too slow for the plain hash."""
_LONG_PIECE: Final = 8 << 20
"""Bytes that several threads hash together."""
_ZEROS: Final = bytes(4 << 20)
"""Never written, so it is the kernel's zero page over and over and takes no memory."""
_LEAVES: Final = 8 * 1024
"""Leaf hashes of a hole that are appended at a time: 256 KiB."""


class Abandoned(Exception):
    """Another thread has failed."""


class Relay:
    """One file being hashed; `run` is called once in each of the threads."""

    def __init__(
        self,
        fd: int,
        size: int,
        block_size: int,
        *,
        shared: bool,
        emit: Callable[[int, int, bytes], None],
        tick: Callable[[int], None],
    ) -> None:
        """`shared`: have the plain hash of a piece computed by several threads.

        `emit` gets the pages, `tick` the number of bytes that were hashed; what they raise ends the race.
        """
        self._fd = fd
        self._size = size
        self._block_size = block_size
        longest = max(_LONG_PIECE if shared else PIECE, block_size)
        self._tick = tick
        self._tree = PageWriter(emit)
        self._plain = blake3(max_threads=blake3.AUTO if shared else 1)
        self._taking = threading.Lock()
        self._pieces = pieces(fd, size, block_size, longest)
        self._last = threading.Event()
        """Set when all pieces that were taken so far have been handed on, or the race has ended."""
        self._last.set()
        self._failed = False

    def run(self) -> None:
        """Raises OSError, Unsteady, what `tick` and `emit` raise; Abandoned if another thread has raised that."""
        buffer = memoryview(b"")
        while taken := self._take():
            piece, turn, done = taken
            try:
                if piece.is_hole:
                    self._hole(piece, turn)
                else:
                    size = piece.end - piece.start
                    if len(buffer) < size:  # most pieces of a sparse file are short
                        buffer = memoryview(bytearray(size))
                    self._data(piece, buffer[:size], turn)
            except BaseException:
                self._failed = True
                raise
            finally:
                done.set()

    def finish(self) -> tuple[ObjectRef, Digest]:
        """The object and the plain BLAKE3, once all threads have returned."""
        return ObjectRef(self._size, self._block_size, self._tree.finish()), Digest(self._plain.digest())

    def _take(self) -> tuple[Piece, threading.Event, threading.Event] | None:
        """The next piece; what says that its turn has come; and what says so of the piece after it."""
        with self._taking:
            piece = next(self._pieces, None)
            if piece is None:
                return None
            turn, self._last = self._last, threading.Event()
            return piece, turn, self._last

    def _wait(self, turn: threading.Event) -> None:
        # Who fails sets the event as well, so that this ends.
        turn.wait()
        if self._failed:
            raise Abandoned

    def _data(self, piece: Piece, data: memoryview, turn: threading.Event) -> None:
        read_exactly(self._fd, data, piece.start)
        step = self._block_size
        leaves = b"".join(leaf_hash(data[at : at + step]) for at in range(0, len(data), step))
        self._wait(turn)
        self._tree.add(leaves)
        self._plain.update(data)
        self._tick(len(data))

    def _hole(self, piece: Piece, turn: threading.Event) -> None:
        """Blocks of zeros: their leaf is known; only the plain hash has to go through them."""
        size = piece.end - piece.start
        blocks, rest = divmod(size, self._block_size)
        self._wait(turn)
        for at in range(0, blocks, _LEAVES):
            self._tree.add(zero_leaf(self._block_size) * min(_LEAVES, blocks - at))
        if rest:
            self._tree.add(zero_leaf(rest))
        for at in range(0, size, len(_ZEROS)):
            self._plain.update(memoryview(_ZEROS)[: size - at])
            self._tick(min(len(_ZEROS), size - at))
