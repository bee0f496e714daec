"""Readers of a file on a mount, each a process of its own. They compare what they read with the file that is served.

    python -m tests.netlab.cache_reader wander EXPECTED FOUND BLOCK LOG SEED
    python -m tests.netlab.cache_reader again EXPECTED FOUND BLOCK LOG...
    python -m tests.netlab.cache_reader part EXPECTED FOUND BLOCK NUMBER OF [alone]

The first reads pieces here and there, at random, until the mount ends, and writes the number of each block that was
right into LOG. The second reads the blocks of some logs, each once, never one behind another: nothing is read ahead.
The third reads one of several equal parts from its start to its end, `alone` without the kernel's read-ahead. Exit
code 3: wrong bytes.
"""

from __future__ import annotations

import os
import random
import struct
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

WRONG: Final = 3
NUMBER: Final = struct.Struct("<I")
LONGEST: Final = 96
"""Blocks that are read one after the other."""


class Pair:
    """A file that is served and the same one on a mount."""

    def __init__(self, expected: str, found: str, block: int) -> None:
        self._expected = open(expected, "rb", buffering=0)  # noqa: SIM115 - as long as the process
        self._found = os.open(found, os.O_RDONLY)
        self._block = block
        self.count = -(-os.fstat(self._expected.fileno()).st_size // block)

    def alone(self) -> None:
        """Have the kernel read nothing ahead."""
        os.posix_fadvise(self._found, 0, 0, os.POSIX_FADV_RANDOM)

    def check(self, number: int) -> None:
        """Read a block of both. Raises OSError; ends the process if they differ."""
        offset = number * self._block
        if self._read(self._found, offset) != self._read(self._expected.fileno(), offset):
            print(f"block {number} is wrong", flush=True)
            os._exit(WRONG)

    def _read(self, fd: int, offset: int) -> bytes:
        data = b""
        while len(data) < self._block and (more := os.pread(fd, self._block - len(data), offset + len(data))):
            data += more
        return data


def wander(pair: Pair, log: str, seed: str) -> None:
    numbers = random.Random(int(seed))
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    first, length = 0, 1
    while True:
        for number in range(first, min(first + length, pair.count)):
            try:
                pair.check(number)
            except OSError as error:
                print(error.strerror, flush=True)
                return
            os.write(fd, NUMBER.pack(number))
        first, length = numbers.randrange(pair.count), numbers.randint(1, LONGEST)


def logged(logs: Iterable[str]) -> list[int]:
    """The blocks in some logs, each once, ascending."""
    found: set[int] = set()
    for log in logs:
        with open(log, "rb") as file:
            found.update(number for (number,) in NUMBER.iter_unpack(file.read()))
    return sorted(found)


def again(pair: Pair, *logs: str) -> None:
    pair.alone()
    for number in scattered(logged(logs)):
        pair.check(number)


def scattered(numbers: Sequence[int]) -> list[int]:
    """The same with steps of half of them, forth and back: that looks like no sequential reader."""
    half = -(-len(numbers) // 2)
    pairs = [numbers[start::half] for start in range(half)]
    return [number for pair in pairs for number in pair]


def part(pair: Pair, number: str, of: str, alone: str = "") -> None:
    if alone:
        pair.alone()
    size = -(-pair.count // int(of))
    for block in range(int(number) * size, min((int(number) + 1) * size, pair.count)):
        pair.check(block)


def main(task: str, expected: str, found: str, block: str, *words: str) -> None:
    tasks: dict[str, Callable[..., None]] = {"wander": wander, "again": again, "part": part}
    tasks[task](Pair(expected, found, int(block)), *words)


if __name__ == "__main__":
    main(*sys.argv[1:])
