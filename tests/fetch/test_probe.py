"""Counting what came of the probe object."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mcfs.fetch.probe import MAX_SOURCES, Reading, Tally
from mcfs.protocol import wire
from mcfs.protocol.ids import Host
from mcfs.protocol.probe import probe_content, probe_node
from mcfs.serve.payload import Payload

if TYPE_CHECKING:
    from mcfs.protocol.fec import Symbols

SERVER, OTHER = Host(b"s" * 16), Host(b"o" * 16)
PAYLOAD = Payload(probe_node(), probe_content(), wire.max_symbol_size())
K = 1000
BURST = 45


def only(tally: Tally) -> Reading:
    (reading,) = tally.readings()
    return reading


def send(tally: Tally, order: list[int], *, source: Host = SERVER, now: float = 1.0, step: float = 0.0) -> None:
    for at in range(0, len(order), BURST):
        tally.receive(source, PAYLOAD.source(0, K)[order[at : at + BURST]], now=now + step * (at // BURST))


def test_a_whole_pass() -> None:
    tally = Tally(joined_at=10.0)
    assert not tally.done()
    send(tally, list(range(K)), now=10.25, step=0.001)
    reading = only(tally)
    assert tally.done()
    assert (reading.source, reading.symbols, reading.received, reading.wrong, reading.lost) == (SERVER, K, K, 0, 0)
    assert reading.first_after == 0.25
    # 22 bursts of 45 and one of 10 in 22 ms; what came with the first is not counted.
    assert reading.rate == pytest.approx((K - BURST) * 8 * (1424 + 12 + 66) / 0.022)


@pytest.mark.parametrize("start", [0, 1, 500, K - 1])
def test_losses_are_counted_wherever_the_pass_starts(start: int) -> None:
    rng = random.Random(start)
    way = [(start + i) % K for i in range(K)]
    lost = set(rng.sample(range(K), 100))
    tally = Tally(joined_at=0.0)
    send(tally, [esi for esi in way if esi not in lost])
    assert only(tally).lost == 100
    assert not tally.done(), "what is missing may still come"
    tally.receive(SERVER, PAYLOAD.repair(7, 5), now=2.0)
    assert tally.done()
    send(tally, sorted(lost), now=3.0)
    assert only(tally).lost == 100, "after the pass it is repair"


def test_a_second_round_is_not_counted() -> None:
    tally = Tally(joined_at=0.0)
    send(tally, [esi for esi in range(K) if esi % 10 != 5])
    send(tally, list(range(K)), now=2.0)
    assert tally.done()
    assert only(tally).lost == 100


def test_a_pass_that_goes_on_is_counted_so_far() -> None:
    tally = Tally(joined_at=0.0)
    send(tally, [esi for esi in range(100, 500) if esi % 100 != 50])
    assert not tally.done()
    (so_far,), (whole,) = tally.readings(so_far=True), tally.readings()
    assert (so_far.symbols, so_far.lost) == (400, 4)
    assert (whole.symbols, whole.lost) == (K, 604)
    tally.receive(SERVER, PAYLOAD.repair(0, 1), now=2.0)
    assert tally.readings(so_far=True) == (whole,), "it is over"


def test_datagrams_may_swap_places() -> None:
    rng = random.Random(1)
    order = sorted(range(K), key=lambda esi: esi + rng.uniform(0, 20))
    tally = Tally(joined_at=0.0)
    send(tally, order)
    assert only(tally).lost == 0


def test_repair_that_was_on_its_way_does_not_end_the_pass() -> None:
    tally = Tally(joined_at=0.0)
    tally.receive(SERVER, PAYLOAD.repair(0, 8), now=0.1)
    assert not tally.done()
    send(tally, list(range(K)))
    assert only(tally).lost == 0


def test_wrong_bytes_are_counted_and_not_taken() -> None:
    forged = PAYLOAD.source(0, K).copy()
    forged[3:5, 100] ^= 1
    tally = Tally(joined_at=0.0)
    tally.receive(SERVER, forged, now=1.0)
    assert (only(tally).wrong, only(tally).lost) == (2, 2)


def test_two_servers_are_counted_apart() -> None:
    tally = Tally(joined_at=0.0)
    for at in range(0, K, BURST):
        send(tally, list(range(at, min(K, at + BURST))))
        send(tally, [esi for esi in range(at, min(K, at + BURST)) if esi % 100], source=OTHER, now=1.5)
    assert not tally.done()
    tally.receive(OTHER, PAYLOAD.repair(0, 1), now=2.0)
    assert tally.done()
    assert {r.source: r.lost for r in tally.readings()} == {SERVER: 0, OTHER: 10}


def test_sources_are_bounded() -> None:
    tally = Tally(joined_at=0.0)
    for number in range(MAX_SOURCES + 3):
        send(tally, [0], source=Host(bytes([number]) * 16))
    assert len(tally.readings()) == MAX_SOURCES


def rows(data: bytes) -> Symbols:
    return np.frombuffer(data, dtype=np.uint8).reshape(1, -1)


@pytest.mark.parametrize(
    "datagram",
    [
        b"\1",
        b"\1\1" + bytes(200),
        PAYLOAD.source(0, 1).tobytes()[:600],
        b"\2" + PAYLOAD.source(0, 1).tobytes()[1:],
        PAYLOAD.source(0, 1).tobytes() + b"x",
    ],
)
def test_garbage_is_passed_over(datagram: bytes) -> None:
    tally = Tally(joined_at=0.0)
    tally.receive(SERVER, rows(datagram), now=1.0)
    assert tally.readings() == ()
    assert tally.last_at is None
