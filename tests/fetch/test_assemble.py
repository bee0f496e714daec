"""Symbols to nodes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mcfs.fetch.assemble import MAX_DECODES, Assembly
from mcfs.protocol import fec, wire

if TYPE_CHECKING:
    from mcfs.protocol.fec import Symbols


def coded(length: int, t: int, repairs: int) -> tuple[bytes, Symbols]:
    """Data, and the datagrams of all source symbols and some repair symbols."""
    data = random.Random(length).randbytes(length)
    k = fec.source_symbols(length, t)
    padded = np.zeros(k * t, dtype=np.uint8)
    padded[:length] = np.frombuffer(data, dtype=np.uint8)
    rows = padded.reshape(k, t)
    symbols = np.concatenate([rows, fec.Encoder(rows).repair(0, repairs)])
    return data, wire.frame(length, np.arange(k + repairs, dtype=np.uint32), symbols)


def feed(assembly: Assembly, datagrams: Symbols, length: int, order: list[int], piece: int) -> memoryview | None:
    for at in range(0, len(order), piece):
        assembly.add(wire.symbol_run_untrusted(datagrams[order[at : at + piece]], length))
        data = assembly.data()
        if data is not None:
            return data
    return None


@pytest.mark.parametrize("length", [1, 7, 8, 9, 1000, 65536])
@pytest.mark.parametrize("piece", [1, 7, 64])
def test_source_symbols_in_order_need_no_decoding(length: int, piece: int) -> None:
    t = fec.symbol_size(length, 64)
    data, datagrams = coded(length, t, 0)
    assembly = Assembly(length, t)
    assert feed(assembly, datagrams, length, list(range(len(datagrams))), piece) == memoryview(data)
    assert assembly.missing == 0


@pytest.mark.parametrize("seed", range(30))
def test_any_symbols_suffice_in_any_order_with_duplicates(seed: int) -> None:
    rng = random.Random(seed)
    length, t = rng.randint(1, 20000), 64
    t = fec.symbol_size(length, t)
    k = fec.source_symbols(length, t)
    data, datagrams = coded(length, t, k + 20)
    order = [i for i in range(len(datagrams)) for _ in range(rng.choice((0, 1, 1, 2)))]
    if len(set(order)) < k + 5:
        order = list(range(len(datagrams)))
    rng.shuffle(order)
    assembly = Assembly(length, t)
    assert feed(assembly, datagrams, length, order, rng.randint(1, 50)) == memoryview(data)


def test_duplicates_are_not_new() -> None:
    _, datagrams = coded(640, 64, 4)
    assembly = Assembly(640, 64)
    run = wire.symbol_run_untrusted(datagrams[2:5], 640)
    assert assembly.add(run) == 3
    assert assembly.add(run) == 0
    assert assembly.missing == 7 * 64
    repair = wire.symbol_run_untrusted(datagrams[[11, 10, 11]], 640)
    assert assembly.add(repair) == 2
    assert assembly.data() is None


def same_symbols(k: int, count: int) -> list[int]:
    """Numbers of repair symbols of which each two are made of the same source symbols."""
    source = np.random.default_rng(1).integers(0, 256, (k, 8), dtype=np.uint8)
    repair = fec.Encoder(source).repair(0, 100_000)
    first: dict[bytes, int] = {}
    found: list[int] = []
    for number, symbol in enumerate(repair):
        other = first.setdefault(symbol.tobytes(), number)
        if other != number:
            found += [k + other, k + number]
    assert len(found) >= count, "the test needs more symbols"
    return found[:count]


def test_symbols_that_cannot_be_decoded_are_not_tried_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever chooses the numbers can make every attempt fail."""
    k, t, tried = 200, 64, 0
    decode = fec.Decoder.add

    def add(self: fec.Decoder, esis: fec.Esis, symbols: Symbols) -> Symbols | None:
        nonlocal tried
        tried += len(esis)
        return decode(self, esis, symbols)

    monkeypatch.setattr(fec.Decoder, "add", add)
    pairs = same_symbols(k, 100)
    assembly, data = Assembly(k * t, t), None
    esis = [*range(k - 100), *pairs, *range(k + 200_000, k + 200_000 + 50)]
    rows = np.zeros((1, t), dtype=np.uint8)
    came = 0
    while data is None:
        esi = np.array([esis[came]], dtype=np.uint32)
        assembly.add(wire.symbol_run_untrusted(wire.frame(k * t, esi, rows + np.uint8(came % 251)), k * t))
        came, data = came + 1, assembly.data()
    assert came == tried == k + MAX_DECODES - 1
    assert len(data) == k * t, "to be refused by its hash"
