"""Targets that are small files of a cache directory. What is damaged there is passed over, so nothing is raised."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Final

from mcfs.fetch import cachenames, cachepins
from mcfs.fetch.cachepins import Pin, PinState
from tests.fuzz import mutate
from tests.fuzz.target import Target

PIN: Final = Pin(b"share", b"a/b", "1")
OBJECT: Final = "ab" * 32


def pin(data: bytes) -> object:
    found = cachepins._pin_untrusted(PIN.id, data)
    assert found is None or found.id == PIN.id
    return found


def pins() -> list[bytes]:
    return [json.dumps({"share": "share", "path": path, "nonce": nonce}).encode()
        for path, nonce in (("a/b", "1"), ("a%2Fb", "2" * 16))]  # fmt: skip


def state(data: bytes) -> object:
    found = cachepins._state_untrusted(data, PIN)
    assert found is None or (found.nonce == PIN.nonce and isinstance(found.bytes, int))
    return found


def states() -> list[bytes]:
    some = (PinState("1"), PinState("1", 3, 1000, 10, "slow", True))
    return [json.dumps(asdict(each)).encode() for each in some]


def objects(data: bytes) -> object:
    found = cachepins._objects_untrusted(data)
    assert len(found) <= len(data) // 32
    return found


def names() -> list[bytes]:
    return [b"%s share/file\n%s share/%%00%%0A\n" % (OBJECT.encode(), OBJECT.encode()), b""]


TARGETS: Final = (
    Target(cachepins._pin_untrusted, pin, pins, (), mutate.lines, (cachepins._words_untrusted,)),
    Target(cachepins._state_untrusted, state, states, (), mutate.lines),
    Target(cachepins._objects_untrusted, objects, lambda: [bytes(96), b""], ()),
    Target(cachenames.parse_lines_untrusted, cachenames.parse_lines_untrusted, names, (), mutate.lines),
)
