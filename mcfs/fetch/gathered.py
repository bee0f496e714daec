"""What has come of one node, by source address and symbol size: neither is mixed with another.

A server's symbols are all of one size. Somebody may send others under its address, which must not cost what has come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mcfs.protocol.ids import Host

MAX_STRANGERS: Final = 4
"""Of sources of which nobody says that they are servers."""
MAX_SERVED: Final = 8
"""Of servers' addresses and sizes together: each may take as much memory as the node."""
MAX_SIZES: Final = 3
"""Of one server's address."""
FEW: Final = 64
"""Symbols up to which one gives way first, or half of the node if that is less."""


class Collected(Protocol):
    """What has come of a node from one source: an `Assembly`, or what stands for it where no bytes are moved."""

    @property
    def t(self) -> int: ...

    @property
    def missing(self) -> int:
        """Bytes that have still to come, at least."""
        ...

    def data(self) -> memoryview | None: ...


class Gathered:
    """Of one node of `length` bytes."""

    __slots__ = ("_all", "_length")

    def __init__(self, length: int) -> None:
        self._length = length
        self._all: dict[tuple[Host, int], Collected] = {}
        """Who has grown last is the last one."""

    def __iter__(self) -> Iterator[tuple[Host, Collected]]:
        for (source, _), collected in self._all.items():
            yield source, collected

    @property
    def missing(self) -> int:
        """Bytes that have still to come, at least."""
        return min((each.missing for each in self._all.values()), default=self._length)

    def find(self, source: Host, t: int) -> Collected | None:
        return self._all.get((source, t))

    def put(self, source: Host, collected: Collected) -> None:
        self._all[source, collected.t] = collected

    def drop(self, source: Host, t: int) -> None:
        self._all.pop((source, t), None)

    def clear(self) -> None:
        self._all.clear()

    def grown(self, source: Host, t: int) -> None:
        if len(self._all) > 1:
            self._all[source, t] = self._all.pop((source, t))

    def make_room(self, source: Host, is_server: Callable[[Host], bool], usual_t: int) -> None:
        """For something else of this source; `usual_t` is the symbol size of this share's right nodes, 0 if there was
        none."""
        if not is_server(source):
            strangers = [key for key in self._all if not is_server(key[0])]
            if len(strangers) >= MAX_STRANGERS:
                # Who has sent least gives way: a liar who keeps another one out has to send as much as he does.
                del self._all[max(strangers, key=lambda key: self._all[key].missing)]
            return
        served = [key for key in self._all if is_server(key[0])]
        of_source = [key for key in served if key[0] == source]
        if len(of_source) >= MAX_SIZES:
            self._drop_least(of_source, usual_t)
        elif len(served) >= MAX_SERVED:
            self._drop_least(served, usual_t)

    def _drop_least(self, keys: list[tuple[Host, int]], usual_t: int) -> None:
        """First those of which little came, and of these who has not grown for longest."""

        def is_much(key: tuple[Host, int]) -> bool:
            return self._length - self._all[key].missing > min(FEW * key[1], self._length // 2)

        del self._all[min(keys, key=lambda key: (key[1] == usual_t, is_much(key)))]

    def keep_only(self, is_server: Callable[[Host], bool]) -> None:
        """Forget what strangers sent."""
        self._all = {key: each for key, each in self._all.items() if is_server(key[0])}

    def change(self, how: Callable[[Host, Collected], Collected]) -> None:
        """Put something in the place of each."""
        self._all = {key: how(key[0], each) for key, each in self._all.items()}
