"""Which tags are looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

from mcfs.fetch.tagchecks import CAREFUL, TagChecks
from mcfs.protocol import wire
from mcfs.protocol.errors import BadDatagram

if TYPE_CHECKING:
    from mcfs.protocol.fec import Symbols

KEY: Final = b"k" * 32


def datagrams(n: int, *, forged: tuple[int, ...] = ()) -> Symbols:
    framed = wire.frame(n * 64, np.arange(n, dtype=np.uint32), np.ones((n, 64), dtype=np.uint8), KEY)
    framed[list(forged), 20] ^= 1
    return framed


def sifted(checks: TagChecks, batch: Symbols, now: float = 0.0) -> tuple[int, int, bool]:
    """How many are left and forged, and whether all were checked."""
    left, forged, checked = checks.sift_untrusted(batch, KEY, now=now)
    return left.size // left.shape[-1], forged, checked


def test_what_is_genuine_is_looked_at_in_two_places() -> None:
    assert sifted(TagChecks(), datagrams(10)) == (10, 0, False)
    assert sifted(TagChecks(), datagrams(10, forged=(4,))) == (10, 0, False)


@pytest.mark.parametrize("forged", [(0,), (9,), (0, 4), tuple(range(10))])
def test_a_forged_end_makes_all_be_looked_at(forged: tuple[int, ...]) -> None:
    assert sifted(TagChecks(), datagrams(10, forged=forged)) == (10 - len(forged), len(forged), True)


@pytest.mark.parametrize(("forged", "left"), [(0, 11), (11, 11), (5, 12)])
def test_the_ends_of_several_messages_are_those_of_the_first_and_the_last(forged: int, left: int) -> None:
    messages: Any = datagrams(12, forged=(forged,)).reshape(3, 4, -1)
    assert sifted(TagChecks(), messages) == (left, 12 - left, left < 12)


def test_all_are_looked_at_for_a_while_after_the_last_forged_one() -> None:
    checks = TagChecks()
    checks.alarm(now=0.0)
    assert sifted(checks, datagrams(10, forged=(4,)), now=CAREFUL / 2) == (9, 1, True)
    assert sifted(checks, datagrams(10), now=1.4 * CAREFUL) == (10, 0, True)
    assert sifted(checks, datagrams(10, forged=(4,)), now=1.6 * CAREFUL) == (10, 0, False)


def test_one_datagram_is_always_looked_at() -> None:
    """So nothing comes of it to send a forged one now and then."""
    assert sifted(TagChecks(), datagrams(1, forged=(0,))) == (0, 1, True)


@pytest.mark.parametrize("careful", [False, True])
def test_what_has_no_room_for_a_tag(careful: bool) -> None:
    checks = TagChecks()
    if careful:
        checks.alarm(now=0.0)
    with pytest.raises(BadDatagram):
        checks.sift_untrusted(np.ones((3, 20), dtype=np.uint8), KEY, now=0.0)
