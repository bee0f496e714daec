"""Bytes that nobody who keeps to the protocol would send."""

from __future__ import annotations

from typing import Final

from hypothesis import settings
from hypothesis import strategies as st

patient: Final = settings(deadline=None)
"""For all property tests: how long an example takes is the machine's affair."""

BOMBS: Final = {
    "nothing": b"",
    "one array in another": b"\x91" * 60_000,
    "one map in another": b"\x81\x00" * 30_000,
    "array of 2^32-1": b"\xdd\xff\xff\xff\xff",
    "map of 2^32-1": b"\xdf\xff\xff\xff\xff",
    "bytes of 2^32-1": b"\xc6\xff\xff\xff\xff",
    "text of 2^32-1": b"\xdb\xff\xff\xff\xff",
    "extension of 2^32-1": b"\xc9\xff\xff\xff\xff\x00",
    "unused code": b"\xc1",
    "not a number": b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    "timestamp": b"\xd6\xff\x00\x00\x00\x00",
}
"""MessagePack as it comes in no message: by what is wrong with it."""


def with_bomb(message: bytes, bomb: bytes) -> bytes:
    """A short MessagePack array with one element more, which a receiver must pass over."""
    assert message[0] & 0xF0 == 0x90
    return bytes((message[0] + 1,)) + message[1:] + bomb


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """Valid bytes with a few of them changed, cut out or put in."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        out = draw(st.integers(0, 4))
        data[at : at + out] = draw(st.binary(max_size=4))
    return bytes(data)
