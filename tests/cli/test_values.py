from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcfs.cli import values

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("800M", 800_000_000),
        ("2.5G", 2_500_000_000),
        ("1000", 1000),
        ("10k", 10_000),
        ("1Gbit", 10**9),
        ("1.5 Gbit/s", 1_500_000_000),
        ("100Mbps", 10**8),
    ],
)
def test_rates_are_decimal_bits(text: str, bits: int) -> None:
    assert values.parse_rate(text) == bits


@pytest.mark.parametrize(
    ("text", "size"), [("64K", 65536), ("1M", 1 << 20), ("1MiB", 1 << 20), ("1.5M", 3 << 19), ("7", 7), ("2g", 2 << 30)]
)
def test_sizes_are_binary_bytes(text: str, size: int) -> None:
    assert values.parse_size(text) == size


def test_block_sizes_are_powers_of_two() -> None:
    assert values.parse_block_size("64K") == 65536
    assert values.parse_block_size("16M") == 16 << 20


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (values.parse_rate, ""),
        (values.parse_rate, "fast"),
        (values.parse_rate, "-1M"),
        (values.parse_rate, "1MB"),
        (values.parse_rate, "999"),
        (values.parse_rate, "1e9"),
        (values.parse_rate, "٣M"),
        (values.parse_size, "1Mbit"),
        (values.parse_size, "1 000"),
        (values.parse_block_size, "1000"),
        (values.parse_block_size, "32K"),
        (values.parse_block_size, "32M"),
        (values.parse_block_size, "96K"),
        (values.parse_port, "0"),
        (values.parse_port, "65536"),
        (values.parse_port, "http"),
        (values.parse_hops, "256"),
        (values.parse_mtu, "1279"),
        (values.parse_scope, "2"),
        (values.parse_scope, "15"),
        (values.parse_scope, "link"),
        (values.parse_seconds, "0"),
        (values.parse_seconds, "-1"),
        (values.parse_seconds, "nan"),
        (values.parse_seconds, "inf"),
        (values.parse_uid, "no such user"),
        (values.parse_uid, "4294967295"),
        (values.parse_gid, "-1"),
        (values.parse_interfaces, ":"),
        (values.parse_path, ""),
        (values.parse_share_name, ""),
        (values.parse_share_name, "."),
        (values.parse_share_name, ".."),
        (values.parse_share_name, "a/b"),
        (values.parse_share_name, "x" * 256),
        (values.parse_share_name, "é" * 128),
    ],
)
def test_refused(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_accounts_by_number_and_name() -> None:
    assert (values.parse_uid("0"), values.parse_uid("root"), values.parse_gid("root")) == (0, 0, 0)


def test_scopes_by_number_and_name() -> None:
    assert (values.parse_scope("site"), values.parse_scope("8")) == (5, 8)


def test_paths_become_absolute() -> None:
    assert values.parse_path("x/../y") == Path.cwd() / "y"


def test_share_names_are_bytes() -> None:
    assert values.parse_share_name(os.fsdecode(b"caf\xe9")) == b"caf\xe9"
    assert values.parse_share_name("x" * 255) == b"x" * 255


@given(st.integers(0, 1 << 62))
def test_sizes_as_ls_prints_them(size: int) -> None:
    text = values.format_size(size)
    number, unit = (text[:-1], text[-1]) if text[-1].isalpha() else (text, "")
    assert len(text) <= 5
    # Rounded up, as ls does.
    assert size <= float(number) * 1024.0 ** " KMGTPE".index(unit or " ") * (1 + 1e-12)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1023, "1023"), (1024, "1.0K"), (1025, "1.1K"), (10240, "10K"), (1 << 20, "1.0M")]
)
def test_some_sizes(size: int, text: str) -> None:
    assert values.format_size(size) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [(999, "999 bit/s"), (950_000_000, "950 Mbit/s"), (2_500_000_000, "2.5 Gbit/s"), (10**12, "1 Tbit/s")],
)
def test_rates_for_people(rate: int, text: str) -> None:
    assert values.format_rate(rate) == text


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name))
def test_printable_names_are_safe(name: bytes) -> None:
    text = values.printable(name)
    assert text.isprintable()
    assert values.printable(name) == text


@pytest.mark.parametrize("name", [b"a b", b"new\nline", b"\x1b[2J", b"back\\slash", b"\xff\xfe", "für".encode()])
def test_printable_names_are_those_of_ls(name: bytes, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(name)).touch()
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    shown = subprocess.check_output(["ls", "-b", "--", tmp_path], env=environment).decode().rstrip("\n")
    assert values.printable(name) == shown


def test_a_printed_name_can_be_given_to_a_shell() -> None:
    assert shlex.split(values.printable(b"a b")) == ["a b"]
