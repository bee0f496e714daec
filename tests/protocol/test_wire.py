"""Datagrams: framing both ways, and rows that are not what they should be."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt as chacha20_poly1305  # libsodium's, not the code's

from mcfs.protocol import fec, wire
from mcfs.protocol.beacon import MAX_CHANNELS, decode_beacon_untrusted, encode_beacon
from mcfs.protocol.errors import BadDatagram
from mcfs.protocol.ids import MAX_BLOCK_SIZE, Group

from .hostile import patient

if TYPE_CHECKING:
    from mcfs.protocol.fec import Symbols

esi = st.integers(0, fec.MAX_ESI)
sizes = st.integers(1, 20).map(lambda units: 8 * units)


def symbols(count: int, t: int, seed: int = 0) -> Symbols:
    return np.random.default_rng(seed).integers(0, 256, (count, t), dtype=np.uint8)


def rows(data: bytes, count: int) -> Symbols:
    """Bytes as `count` datagrams of one size."""
    size = len(data) // count
    return np.frombuffer(data[: count * size], dtype=np.uint8).reshape(count, size)


class TestSymbolSize:
    @pytest.mark.parametrize(("mtu", "t"), [(1500, 1424), (1280, 1200), (9000, 8920), (1499, 1416)])
    def test_of_an_mtu(self, mtu: int, t: int) -> None:
        assert wire.max_symbol_size(mtu) == t

    @patient
    @given(st.integers(wire.MIN_MTU, 65535))
    def test_fills_the_datagram_and_no_more(self, mtu: int) -> None:
        left = mtu - 40 - 8 - wire.HEADER_SIZE - wire.TAG_SIZE - wire.max_symbol_size(mtu)
        assert 0 <= left < 8


class TestSymbolRun:
    def test_literal_bytes(self) -> None:
        framed = wire.frame(100, np.array([7], dtype=np.uint32), np.full((1, 8), 0xAA, dtype=np.uint8))
        assert framed.tobytes().hex() == "010100000000006400000007aaaaaaaaaaaaaaaa"

    @patient
    @given(st.lists(esi, min_size=1, max_size=20), sizes, st.integers(1, 1 << 24), st.integers(0, 99))
    def test_comes_back(self, numbers: list[int], t: int, length: int, seed: int) -> None:
        length = min(length, t * fec.FEW)
        sent = symbols(len(numbers), t, seed)
        run = wire.symbol_run_untrusted(wire.frame(length, np.array(numbers, dtype=np.uint32), sent), length)
        assert run.esis.tolist() == numbers
        assert run.length == length
        assert np.array_equal(run.symbols, sent)
        assert run.contiguous == (numbers == list(range(numbers[0], numbers[0] + len(numbers))))

    def test_is_a_view(self) -> None:
        framed = wire.frame(100, np.arange(3, dtype=np.uint32), symbols(3, 40))
        assert np.shares_memory(wire.symbol_run_untrusted(framed, 100).symbols, framed)

    @pytest.mark.parametrize(
        ("at", "value"),
        [(0, 0), (0, 2), (1, 2), (1, 4), (2, 1), (3, 1), (4, 1), (7, 101), (8, 1)],
        ids=["version 0", "version 2", "announcement", "gone", "reserved", "reserved", "length", "length", "24 bits"],
    )
    def test_a_wrong_row_is_left_out(self, at: int, value: int) -> None:
        framed = wire.frame(100, np.arange(3, dtype=np.uint32), symbols(3, 40))
        framed[1, at] = value
        run = wire.symbol_run_untrusted(framed, 100)
        assert run.esis.tolist() == [0, 2]
        assert not run.contiguous
        with pytest.raises(BadDatagram):
            wire.symbol_run_untrusted(framed[1:2], 100)

    def test_the_last_esi_is_allowed_and_the_next_is_not(self) -> None:
        framed = wire.frame(100, np.array([fec.MAX_ESI, fec.MAX_ESI + 1], dtype=np.uint32), symbols(2, 40))
        assert wire.symbol_run_untrusted(framed, 100).esis.tolist() == [fec.MAX_ESI]

    @pytest.mark.parametrize("size", [0, 1, 11, 12, 13, 19, 21, 27])
    def test_sizes_that_are_none(self, size: int) -> None:
        with pytest.raises(BadDatagram):
            wire.symbol_run_untrusted(np.ones((2, size), dtype=np.uint8), 100)

    def test_no_datagram(self) -> None:
        with pytest.raises(BadDatagram):
            wire.symbol_run_untrusted(np.empty((0, 20), dtype=np.uint8), 100)

    @pytest.mark.parametrize(
        ("length", "t", "fits"),
        [
            (8 * fec.FEW, 8, True),
            (8 * fec.FEW + 1, 8, False),
            (MAX_BLOCK_SIZE, 1024, True),
            (MAX_BLOCK_SIZE, 1016, False),
            (MAX_BLOCK_SIZE, 1200, True),
            (1 << 20, 24, False),
        ],
    )
    def test_how_many_source_symbols_there_may_be(self, length: int, t: int, fits: bool) -> None:
        framed = wire.frame(length, np.arange(1, dtype=np.uint32), symbols(1, t))
        with contextlib.nullcontext() if fits else pytest.raises(BadDatagram):
            wire.symbol_run_untrusted(framed, length)

    @patient
    @given(st.binary(max_size=2000), st.integers(1, 8), st.integers(1, 1 << 24))
    def test_anything_raises_nothing_else(self, data: bytes, count: int, node_size: int) -> None:
        with contextlib.suppress(BadDatagram):
            wire.symbol_run_untrusted(rows(data, count), node_size)

    @patient
    @given(st.data(), st.integers(1, 6), sizes)
    def test_what_comes_out_was_in_a_good_row(self, data: st.DataObject, count: int, t: int) -> None:
        framed = wire.frame(100, np.arange(count, dtype=np.uint32), symbols(count, t))
        for _ in range(data.draw(st.integers(1, 4))):
            row, at = data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, 11))
            framed[row, at] = data.draw(st.integers(0, 255))
        good = [row for row in framed if row[:8].tobytes().hex() == "0101000000000064" and row[8] == 0]
        if not good:
            with pytest.raises(BadDatagram):
                wire.symbol_run_untrusted(framed, 100)
            return
        run = wire.symbol_run_untrusted(framed, 100)
        assert run.esis.tolist() == [int.from_bytes(row[8:12].tobytes(), "big") for row in good]
        assert np.array_equal(run.symbols, np.array([row[12:] for row in good]))


class TestControl:
    def test_literal_bytes(self) -> None:
        assert wire.control(wire.GONE, b"body").hex() == "01040000" + b"body".hex()

    @patient
    @given(st.sampled_from([wire.ANNOUNCEMENT, wire.BEACON, wire.GONE]), st.binary())
    def test_comes_back(self, kind: int, body: bytes) -> None:
        datagram = wire.control(kind, body)
        assert wire.control_untrusted(datagram) == (kind, body)

    @pytest.mark.parametrize("datagram", [b"", b"\1", b"\1\2\0", b"\0\2\0\0", b"\2\2\0\0", b"\1\0\0\0", b"\1\5\0\0"])
    def test_refused(self, datagram: bytes) -> None:
        with pytest.raises(BadDatagram):
            wire.control_untrusted(datagram)

    def test_a_symbol_is_no_control_datagram(self) -> None:
        framed = wire.frame(100, np.arange(1, dtype=np.uint32), symbols(1, 40))
        with pytest.raises(BadDatagram):
            wire.control_untrusted(framed.tobytes())

    @patient
    @given(st.binary(max_size=64))
    def test_anything_raises_nothing_else(self, datagram: bytes) -> None:
        with contextlib.suppress(BadDatagram):
            wire.control_untrusted(datagram)


class TestBeacon:
    @patient
    @given(st.lists(st.binary(min_size=14, max_size=14), min_size=1, max_size=120), st.integers(3, 14))
    def test_comes_back(self, tails: list[bytes], scope: int) -> None:
        prefix = bytes((0xFF, 0x10 | scope))
        groups = [Group(prefix + tail) for tail in tails]
        assert decode_beacon_untrusted(encode_beacon(groups), prefix) == groups[:MAX_CHANNELS]

    @pytest.mark.parametrize("size", [0, 1, 13, 15, 14 * 101, 60_000])
    def test_sizes_that_are_none(self, size: int) -> None:
        with pytest.raises(BadDatagram):
            decode_beacon_untrusted(bytes(size), b"\xff\x15")

    @patient
    @given(st.binary(max_size=100))
    def test_anything_raises_nothing_else(self, body: bytes) -> None:
        with contextlib.suppress(BadDatagram):
            assert all(len(group) == 16 for group in decode_beacon_untrusted(body, b"\xff\x15"))


class TestTags:
    """Symbols of a share with a key."""

    KEY = bytes(range(32))

    def framed(self, count: int = 5, t: int = 40) -> fec.Symbols:
        return wire.frame(100, np.arange(count, dtype=np.uint32), symbols(count, t), self.KEY)

    def test_layout(self) -> None:
        plain = wire.frame(100, np.arange(5, dtype=np.uint32), symbols(5, 40))
        framed = self.framed()
        assert framed.shape == (5, 12 + 40 + 16)
        assert (framed[:, :-16] == plain).all()
        nonce = bytes((0, 0, 0, 40)) + plain[3, 4:12].tobytes()
        assert framed[3, -16:].tobytes() == chacha20_poly1305(b"", plain[3].tobytes(), nonce, self.KEY)
        assert wire.datagram_size(40, tagged=True) == 68
        assert wire.datagram_size(40, tagged=False) == 52

    @pytest.mark.parametrize("key", [b"", KEY])
    @pytest.mark.parametrize("length", [1, 39, 40, 41, 120, 121])
    def test_source_symbols_are_the_node_and_zeros(self, length: int, key: bytes) -> None:
        data = bytes(range(1, length + 1))
        k = -(-length // 40)
        source = np.frombuffer(data.ljust(40 * k, b"\0"), dtype=np.uint8).reshape(k, 40)
        assert (
            wire.frame_source(data, 40, key) == wire.frame(length, np.arange(k, dtype=np.uint32), source, key)
        ).all()

    @pytest.mark.parametrize("at", [0, 5, 12, 51, 52, 67])
    def test_one_alone(self, at: int) -> None:
        framed = self.framed()
        assert all(wire.is_genuine_untrusted(row, self.KEY) for row in framed)
        framed[2, at] ^= 1
        assert not wire.is_genuine_untrusted(framed[2], self.KEY)
        assert not wire.is_genuine_untrusted(framed[1, :5], self.KEY)

    def test_a_full_datagram_fits_the_mtu(self) -> None:
        for mtu in (1280, 1500, 9000):
            t = wire.max_symbol_size(mtu)
            assert wire.datagram_size(t, tagged=True) + wire.IPV6_UDP_OVERHEAD <= mtu

    @pytest.mark.parametrize("at", [0, 5, 11, 12, 51, 52, 67])
    def test_every_byte_counts(self, at: int) -> None:
        framed = self.framed()
        framed[2, at] ^= 1
        assert wire.genuine_untrusted(framed, self.KEY).tolist() == [True, True, False, True, True]

    def test_another_key(self) -> None:
        assert not wire.genuine_untrusted(self.framed(), bytes(32)).any()

    def test_as_they_come_from_the_socket(self) -> None:
        """Rows of a larger matrix, and messages of several datagrams."""
        framed = self.framed(6)
        buffers = np.zeros((6, 4096), dtype=np.uint8)
        buffers[:, :68] = framed
        assert wire.genuine_untrusted(buffers[:, :68], self.KEY).all()
        joined = np.zeros((3, 4096), dtype=np.uint8)
        joined[:, :136] = framed.reshape(3, 136)
        messages: Any = joined[:, :136].reshape(3, 2, 68)
        assert wire.genuine_untrusted(messages, self.KEY).all()
        messages = messages.copy()
        messages[1, 0, 20] ^= 1
        assert wire.genuine_untrusted(messages, self.KEY).tolist() == [True, True, False, True, True, True]

    @patient
    @given(st.binary(max_size=300), st.integers(1, 4))
    def test_anything_is_false_or_refused(self, data: bytes, count: int) -> None:
        datagrams = rows(data, count)
        try:
            assert not wire.genuine_untrusted(datagrams, self.KEY).any()
        except BadDatagram:
            assert datagrams.shape[-1] < 36 or not datagrams.size
