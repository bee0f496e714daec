"""Share keys and what is derived from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.exceptions import RuntimeError as CryptoRuntimeError
from nacl.pwhash import argon2id

from mcfs.protocol.keys import MAX_KEYFILE, MAX_PASSWORD, ShareKeys, keys_of_file, keys_of_password

from .hostile import patient

SECRET = bytes(range(32))


def every(keys: ShareKeys) -> tuple[bytes, ...]:
    return keys.groups, keys.nodes, keys.tags, keys.control


def test_one_key_for_each_purpose() -> None:
    derived = every(ShareKeys(SECRET))
    assert len({*derived, SECRET}) == 5
    assert {len(key) for key in derived} == {32}


@patient
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_share_keys_are_equal_if_their_secrets_are(one: bytes, other: bytes) -> None:
    first, second = ShareKeys(one), ShareKeys(other)
    assert (first == second) == (one == other) == (every(first) == every(second))
    assert hash(first) == hash(ShareKeys(one))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_share_key_has_32_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        ShareKeys(bytes(size))


def test_a_share_key_is_not_printed() -> None:
    assert "\\x01\\x02" not in repr(ShareKeys(SECRET))
    assert SECRET.hex() not in repr(ShareKeys(SECRET))


@pytest.mark.parametrize("size", [32, 128, MAX_KEYFILE])
def test_a_key_file_of_any_length(size: int) -> None:
    assert keys_of_file(bytes(size)) != keys_of_file(bytes(size - 1) + b"\1")
    assert keys_of_file(bytes(size)).secret != bytes(32), "not the bytes themselves"


@pytest.mark.parametrize("size", [0, 31, MAX_KEYFILE + 1])
def test_a_key_file_that_is_none(size: int) -> None:
    with pytest.raises(ValueError, match="a key file has at"):
        keys_of_file(bytes(size))


def test_a_password() -> None:
    first, second = keys_of_password(b"correct horse battery staple"), keys_of_password(b"correct horse battery stapl3")
    assert first != second
    assert first == keys_of_password(b"correct horse battery staple")
    assert first != keys_of_file(b"correct horse battery staple....")


@pytest.mark.parametrize("password", [b"", b"x" * (MAX_PASSWORD + 1)])
def test_a_password_that_is_none(password: bytes) -> None:
    with pytest.raises(ValueError, match="a password has at"):
        keys_of_password(password)


def test_a_machine_with_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise CryptoRuntimeError("Unexpected failure in key derivation")

    monkeypatch.setattr(argon2id, "kdf", fail)
    with pytest.raises(ValueError, match="256 MiB of memory"):
        keys_of_password(b"password")
