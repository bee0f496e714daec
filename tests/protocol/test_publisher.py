"""How a publisher is named: by its key, or the key's fingerprint."""

from __future__ import annotations

import base64
import contextlib
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcfs.protocol.printable import one_word, parse_printable, printable
from mcfs.protocol.publisher import (
    Fingerprint,
    fingerprint,
    format_fingerprint,
    format_key,
    parse_publisher,
)

if TYPE_CHECKING:
    from pathlib import Path

KEY = bytes.fromhex("03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8")
WORD = "SHA256:VkdauC24GJ6UbHu+NBqBAmyBF3/qpNq9fAVxL7E3wEc"


def test_a_fingerprint_is_that_of_other_programs(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY)
    plain = subprocess.check_output(["sha256sum", tmp_path / "key"], text=True).split()[0]
    assert fingerprint(KEY).hex() == plain
    expected = base64.b64encode(bytes.fromhex(plain)).decode().rstrip("=")
    assert format_fingerprint(fingerprint(KEY)) == "SHA256:" + expected


@given(st.binary(min_size=32, max_size=32))
def test_every_spelling_names_the_same(key: bytes) -> None:
    found = fingerprint(key)
    for text in (format_fingerprint(found), format_key(key), key.hex(), key.hex().upper()):
        assert parse_publisher(text) == found
    assert len(format_fingerprint(found)) == 50


@given(st.binary(min_size=32, max_size=32))
def test_a_fingerprint_has_one_spelling_and_no_comma(found: bytes) -> None:
    text = format_fingerprint(Fingerprint(found))
    assert not set(text) & set(",\\\" '#\t")
    last = text[-1]
    for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/":
        if other != last:
            try:
                assert parse_publisher(text[:-1] + other) != found
            except ValueError:
                continue


@pytest.mark.parametrize(
    "text",
    ["", "SHA256:", "SHA256:abc", "sha256:" + WORD[7:], WORD + "==", WORD + " ", KEY.hex()[1:], "x" * 43, "é" * 43],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is n"):
        parse_publisher(text)


@given(st.text(max_size=80))
def test_any_text_is_a_key_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert len(parse_publisher(text)) == 32


# --- names -----------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=40))
def test_names_can_be_read_back(name: bytes) -> None:
    assert parse_printable(printable(name)) == name
    word = one_word(name)
    assert parse_printable(word) == name
    assert word.split() == ([word] if name else [])
    assert word.isprintable()
    assert not word.startswith("#")


def test_a_backslash_before_a_blank() -> None:
    assert one_word(b"a\\ b") == "a\\\\\\040b"
    assert parse_printable("a\\\\\\040b") == b"a\\ b"


@pytest.mark.parametrize("text", ["\\", "a\\", "\\x41", "\\8", "\\400", "\\08 ", "\udc80"])
def test_what_is_no_escape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"escape|codec"):
        parse_printable(text)
