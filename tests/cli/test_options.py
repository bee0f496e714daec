from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcfs.cli.options import (
    OPTIONS,
    MountOptions,
    escape_value,
    format_options,
    mount_options,
    parse_options,
    split_options,
    unescape_value,
)
from mcfs.protocol.errors import UserError
from mcfs.protocol.publisher import fingerprint, format_fingerprint

TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=20)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-.", min_size=1, max_size=15)
SECONDS = st.floats(0.001, 1e6)
PATHS = TEXT.map(lambda text: Path("/") / text.strip("/")).filter(lambda path: ".." not in path.parts)
SETTINGS = st.builds(
    MountOptions,
    cache_dir=st.none() | PATHS,
    cache_max=st.none() | st.integers(0, 10**15 - 1),  # as many digits as are read
    cache_min_free=st.none() | st.integers(0, 10**15 - 1),
    timeout=SECONDS,
    max_wait=SECONDS,
    max_groups=st.integers(1, 256),
    iface=st.lists(NAMES, max_size=3).map(tuple),
    port=st.integers(1, 65535),
    scope=st.integers(3, 14),
    allow_other=st.booleans(),
    uid=st.none() | st.integers(0, 1 << 31),
    gid=st.none() | st.integers(0, 1 << 31),
    noxattr=st.booleans(),
    entry_timeout=SECONDS,
    debug=st.booleans(),
    noexec=st.booleans(),
    keyfile=st.lists(PATHS, max_size=3).map(tuple),
    password_file=st.lists(PATHS, max_size=2).map(tuple),
    known_publishers=st.none()
    | TEXT.map(lambda text: Path("/") / text.strip("/")).filter(lambda path: ".." not in path.parts),
    publisher_key=st.none() | st.binary(min_size=32, max_size=32).map(lambda key: format_fingerprint(fingerprint(key))),
    strict=st.booleans(),
    symlinks=st.sampled_from(("contain", "keep", "hide")),
)


@given(SETTINGS)
def test_what_is_written_is_read_back(settings: MountOptions) -> None:
    assert mount_options([format_options(settings)], {}) == settings


@given(TEXT)
def test_an_escaped_value_is_one_item(value: str) -> None:
    items = split_options(f"a={escape_value(value)},b")
    assert [unescape_value(item) for item in items] == [f"a={value}", "b"]


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_way(text: str) -> None:
    try:
        mount_options([text], {})
    except UserError as error:
        assert error.exit_code == 2  # noqa: PT017 - either outcome is right


def test_the_line_of_a_fstab() -> None:
    line = "ro,_netdev,nofail,x-systemd.automount,allow_other,iface=eth0,cache_dir=/var/cache/mcfs"
    assert mount_options([line], {}) == MountOptions(
        allow_other=True, iface=("eth0",), cache_dir=Path("/var/cache/mcfs")
    )


def test_what_mount_and_mount_fuse3_add() -> None:
    added = "rw,nofail,user=alice,_netdev,noauto,users,dev,suid,nosuid,nodev,exec,noatime,diratime,relatime,sync"
    assert (
        mount_options([added + ",async,defaults,comment=for\\,me,X-mount.mkdir=0700,fsname=a,subtype=mcfs"], {})
        == MountOptions()
    )


def test_every_field_has_an_option_and_each_option_a_field() -> None:
    assert {option.name for option in OPTIONS} == {field.name for field in fields(MountOptions)}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("bogus", "bogus"),
        ("ro,bogus=1", "bogus=1"),
        ("timeout", "timeout"),
        ("timeout=", "timeout"),
        ("timeout=soon", "timeout"),
        ("allow_other=1", "allow_other"),
        ("ro=1", "ro"),
        ("comment", "comment"),
        ("uid=no such user", "uid"),
        ('iface="eth0', "iface"),
    ],
)
def test_a_wrong_option_is_named(text: str, named: str) -> None:
    with pytest.raises(UserError, match=named) as caught:
        mount_options([text], {})
    assert caught.value.exit_code == 2


def test_a_value_with_commas_in_quotes() -> None:
    assert parse_options(['cache_dir="/a,b",ro']) == {"cache_dir": Path("/a,b")}


def test_hyphens_and_repeated_lists() -> None:
    assert parse_options(["cache-dir=/a,timeout=1", "timeout=2,,"]) == {"cache_dir": Path("/a"), "timeout": 2.0}


def test_interfaces_add_up() -> None:
    assert mount_options(["iface=a:b,iface=c"], {"iface": ("d",)}).iface == ("a", "b", "c", "d")


def test_a_long_option_counts_more() -> None:
    assert mount_options(["port=1,scope=8"], {"port": 2}) == MountOptions(port=2, scope=8)


def test_sloppy_passes_over_the_unknown_only() -> None:
    assert mount_options(["bogus,port=1"], {}, sloppy=True).port == 1
    with pytest.raises(UserError):
        mount_options(["port=x"], {}, sloppy=True)
