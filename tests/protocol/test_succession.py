"""A publisher's new key: only who has both keys can make a link, and a chain leads one way."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from mcfs.protocol.announce import decode_announcement_untrusted, encode_announcement
from mcfs.protocol.publisher import fingerprint
from mcfs.protocol.succession import (
    LINK_SIZE,
    MAX_LINKS,
    is_successor_untrusted,
    make_chain,
    make_link,
    predecessors,
)

from .hostile import patient
from .test_announce import ANNOUNCEMENT

KEYS = [SigningKey(bytes([n]) * 32) for n in range(1, 7)]
PUBLIC = [bytes(key.verify_key) for key in KEYS]
PRINTS = [fingerprint(key) for key in PUBLIC]
A, B, C, D, E, F = range(6)


def follows(links: tuple[bytes, ...], publisher: int, ancestor: int) -> bool:
    return is_successor_untrusted(links, PUBLIC[publisher], PRINTS[ancestor])


def chain(*numbers: int) -> tuple[bytes, ...]:
    return make_chain([KEYS[n] for n in numbers])


def test_a_chain_leads_from_each_former_key_to_the_last() -> None:
    links = chain(A, B, C, D)
    assert [len(link) for link in links] == [LINK_SIZE] * 3
    assert all(follows(links, D, former) for former in (A, B, C))
    assert predecessors(links) == tuple(PRINTS[:3])


def test_nobody_follows_upon_himself() -> None:
    assert not follows(chain(A, B), B, B)
    assert not follows((), A, A)


def test_it_does_not_lead_back_or_elsewhere() -> None:
    links = chain(A, B, C)
    assert not follows(links, B, A)
    assert not follows(links, A, C)
    assert not follows(links, D, A)
    assert not follows(links, C, D)
    assert not follows((), B, A)


def test_the_oldest_links_are_left_out_first() -> None:
    links = chain(A, B, C, D, E)
    assert len(links) == MAX_LINKS
    assert follows(links, E, B)
    assert not follows(links, E, A)


def test_no_key_comes_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        chain(A, B, A)
    with pytest.raises(ValueError, match="twice"):
        chain(A, A)
    circle = (make_link(KEYS[A], KEYS[B]), make_link(KEYS[B], KEYS[A]))
    assert not follows(circle, A, A)
    assert not follows(circle, A, B)


def test_both_have_to_sign() -> None:
    link = make_link(KEYS[A], KEYS[B])
    by_new, by_old = link[96:], link[32:96]
    assert follows((link,), B, A)
    assert not follows((PUBLIC[A] + by_old + by_old,), B, A)
    assert not follows((PUBLIC[A] + by_new + by_new,), B, A)
    assert not follows((PUBLIC[A] + by_new + by_old,), B, A)
    assert not follows((PUBLIC[A] + by_old + bytes(64),), B, A)


def test_links_of_others_do_not_make_a_chain() -> None:
    """From what has been on the wire: A to B, B to C, D to E."""
    links = [*chain(A, B, C), *chain(D, E)]
    for count in (1, 2, 3):
        for made in itertools.permutations(links, count):
            assert not any(follows(made, F, ancestor) for ancestor in range(6))
            assert not follows(made, E, A)
            assert not follows(made, C, D)
            assert not follows(made, A, B)


@patient
@given(st.data())
def test_every_bit_counts(data: st.DataObject) -> None:
    links = [bytearray(link) for link in chain(A, B, C)]
    bit = data.draw(st.integers(0, 2 * 8 * LINK_SIZE - 1))
    links[bit // (8 * LINK_SIZE)][bit // 8 % LINK_SIZE] ^= 1 << bit % 8
    assert not follows(tuple(map(bytes, links)), C, A)


@pytest.mark.parametrize("key", [bytes(32), b"\1" + bytes(31), b"\xff" * 32])
def test_keys_of_small_order_sign_nothing(key: bytes) -> None:
    link = key + (key + bytes(32)) * 2
    assert not is_successor_untrusted((link,), key, fingerprint(key))
    assert not is_successor_untrusted((link,), PUBLIC[A], fingerprint(key))


@given(st.lists(st.binary(min_size=LINK_SIZE, max_size=LINK_SIZE), max_size=MAX_LINKS).map(tuple))
def test_noise_is_no_chain(links: tuple[bytes, ...]) -> None:
    assert not any(is_successor_untrusted(links, PUBLIC[A], before) for before in (*predecessors(links), PRINTS[B]))


def test_an_announcement_carries_it() -> None:
    links = chain(A, B, C, D)
    found = decode_announcement_untrusted(encode_announcement(dataclasses.replace(ANNOUNCEMENT, links=links), KEYS[D]))
    assert found.links == links
    assert is_successor_untrusted(found.links, found.publisher, PRINTS[A])
