"""RaptorQ over one node: whatever is lost, as many symbols as there were (or a few more) bring it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcfs.protocol import fec

from .hostile import patient

if TYPE_CHECKING:
    from mcfs.protocol.fec import Symbols

MIB = 1 << 20
MAX_EXTRA = 8
"""Symbols beyond K after which a decode fails with a probability of 10^-16 (RFC 6330: two orders for each)."""

units = st.integers(1, 12)


def random_symbols(k: int, t: int, seed: int = 0) -> Symbols:
    return np.random.default_rng(seed).integers(0, 256, (k, t), dtype=np.uint8)


def decode(source: Symbols, kept: list[int], first_repair: int) -> tuple[Symbols, int]:
    """What a decoder makes of some source symbols and as many repair symbols as it needs; and how many more than K."""
    k, t = source.shape
    decoder = fec.Decoder(k, t)
    esis = np.array(kept, dtype=np.uint32)
    decoded = decoder.add(esis, source[esis]) if kept else None
    lost = k - len(kept)
    repair = fec.Encoder(source).repair(first_repair, lost + MAX_EXTRA)
    for i, symbol in enumerate(repair):
        if decoded is not None:
            return decoded, i - lost
        decoded = decoder.add(np.array([k + first_repair + i], dtype=np.uint32), symbol.reshape(1, t))
    assert decoded is not None, f"{MAX_EXTRA} symbols more than K={k} do not suffice"
    return decoded, MAX_EXTRA


class TestSizes:
    @patient
    @given(st.integers(1, 16 * MIB), st.integers(1, 1200).map(lambda n: 8 * n))
    def test_symbols_hold_the_node(self, length: int, most: int) -> None:
        t = fec.symbol_size(length, most)
        k = fec.source_symbols(length, t)
        assert t % fec.ALIGNMENT == 0
        assert 0 < t <= most
        assert (k - 1) * t < length <= k * t
        assert k == 1 or t == most

    @pytest.mark.parametrize(("length", "t"), [(1, 8), (8, 8), (9, 16), (1423, 1424), (1424, 1424), (1425, 1424)])
    def test_a_small_node_has_one_symbol(self, length: int, t: int) -> None:
        assert fec.symbol_size(length, 1424) == t

    def test_the_largest_block_fits_the_smallest_mtu(self) -> None:
        assert fec.source_symbols(16 * MIB, 1200) <= fec.MAX_SOURCE_SYMBOLS


class TestLoss:
    @patient
    @given(st.integers(1, 60), units, st.integers(0, 300), st.data())
    def test_any_loss_is_made_good(self, k: int, unit: int, first_repair: int, data: st.DataObject) -> None:
        source = random_symbols(k, 8 * unit, seed=k)
        kept = data.draw(st.lists(st.integers(0, k - 1), unique=True, max_size=k))
        decoded, _ = decode(source, kept, first_repair)
        assert np.array_equal(decoded, source)

    @pytest.mark.parametrize("k", [*range(1, 13), 26, 49, 50, 101, 737])
    def test_repair_symbols_alone_suffice(self, k: int) -> None:
        source = random_symbols(k, 16)
        assert np.array_equal(decode(source, [], 0)[0], source)

    def test_hardly_more_than_k_are_needed(self) -> None:
        """RFC 6330 promises a failure rate of 1 % with K symbols, and a hundredth of it with each more."""
        extra = [decode(random_symbols(40, 8, seed), list(range(0, 40, 2)), 40 * seed)[1] for seed in range(60)]
        assert sum(extra) <= 5

    @pytest.mark.parametrize("k", [1, 7, 50])
    def test_all_source_symbols_decode_at_once(self, k: int) -> None:
        source = random_symbols(k, 24)
        decoded = fec.Decoder(k, 24).add(np.arange(k, dtype=np.uint32), source)
        assert decoded is not None
        assert np.array_equal(decoded, source)

    def test_order_does_not_matter(self) -> None:
        source = random_symbols(20, 8)
        encoded = np.concatenate([source, fec.Encoder(source).repair(0, 10)])
        order = np.random.default_rng(1).permutation(30)[:26].astype(np.uint32)
        decoded = fec.Decoder(20, 8).add(order, encoded[order])
        assert decoded is not None
        assert np.array_equal(decoded, source)


class TestRepair:
    @patient
    @given(st.integers(1, 40), units, st.integers(0, 200), st.integers(1, 10))
    def test_pieces_are_those_of_the_whole(self, k: int, unit: int, start: int, count: int) -> None:
        encoder = fec.Encoder(random_symbols(k, 8 * unit))
        assert np.array_equal(encoder.repair(start, count), encoder.repair(0, start + count)[start:])

    @patient
    @given(st.integers(1, 40), st.integers(2, 12), st.data())
    def test_columns_are_coded_one_by_one(self, k: int, unit: int, data: st.DataObject) -> None:
        source = random_symbols(k, 8 * unit)
        at = 8 * data.draw(st.integers(0, unit - 1))
        column = np.ascontiguousarray(source[:, at : at + 8])
        assert np.array_equal(fec.Encoder(column).repair(0, 5), fec.Encoder(source).repair(0, 5)[:, at : at + 8])


class TestLargerThanTheLibrarysMemory:
    """Past 10 MiB the library cuts symbols into sub-symbols; what is on the wire must stay N = 1."""

    K, T = 11 * MIB // 1424 + 1, 1424

    def test_the_library_does_cut(self) -> None:
        assert fec._sub_blocks(self.K, self.T) > 1

    def test_repair_symbols_are_those_of_one_sub_block(self) -> None:
        source = random_symbols(self.K, self.T)
        repair = fec.Encoder(source).repair(0, 3)
        for at in (0, self.T // 16 * 8, self.T - 8):
            column = np.ascontiguousarray(source[:, at : at + 8])
            assert np.array_equal(fec.Encoder(column).repair(0, 3), repair[:, at : at + 8])

    def test_loss_is_made_good(self) -> None:
        source = random_symbols(self.K, self.T)
        kept = [i for i in range(self.K) if i % 1000]
        assert np.array_equal(decode(source, kept, 5)[0], source)


class TestGarbage:
    @patient
    @given(
        st.integers(1, 30), units, st.lists(st.integers(0, fec.MAX_ESI), unique=True, max_size=40), st.integers(0, 9)
    )
    def test_symbols_of_no_node_give_something_wrong_or_nothing(
        self, k: int, unit: int, numbers: list[int], seed: int
    ) -> None:
        """The hash finds out; the decoder must not fall over."""
        noise = random_symbols(len(numbers), 8 * unit, seed)
        decoded = fec.Decoder(k, 8 * unit).add(np.array(numbers, dtype=np.uint32), noise)
        assert decoded is None or decoded.shape == (k, 8 * unit)
