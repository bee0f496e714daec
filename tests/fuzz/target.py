"""What a target of the fuzzers is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcfs.protocol.errors import BadDatagram
from tests.fuzz import mutate

if TYPE_CHECKING:
    from tests.fuzz.mutate import Mutator

Run = Callable[[bytes], object]


class Refused(Exception):
    """What a target raises whose function answers that it does not believe its input."""


@dataclass(frozen=True)
class Target:
    """It takes bytes and hands them to its function in the form that it wants. It may raise nothing but what its
    function documents; what it returns is looked at where something can be said of it."""

    function: Callable[..., Any]
    run: Run
    seeds: Callable[[], Sequence[bytes]]
    raises: tuple[type[Exception], ...] = (BadDatagram,)
    mutator: Callable[[Sequence[bytes]], Mutator] = mutate.plain
    helpers: tuple[Callable[..., Any], ...] = ()
    """What else its inputs reach; with functions of the same kind that are called by this one alone."""
    alias: str = ""
    wrong: Callable[[], Sequence[bytes]] = tuple
    """Inputs that are refused, from which others are made as well."""

    @property
    def name(self) -> str:
        return self.alias or name_of(self.function)

    def make(self) -> Mutator:
        return self.mutator([*self.seeds(), *self.wrong()])


def name_of(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"
