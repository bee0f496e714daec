"""`mcfs cache` on directories without a mount, and beside a process that has the directory."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mcfs.cli.main import mcfs
from mcfs.fetch.cache import Cache
from mcfs.fetch.cachepins import Pin, PinDirectory, PinState
from mcfs.protocol import merkle
from mcfs.protocol.errors import UserError
from mcfs.protocol.ids import MIN_BLOCK_SIZE, Node
from tests.fetch.cachefakes import object_file

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

BLOCK = MIN_BLOCK_SIZE
DATA = random.Random(1).randbytes(4 * BLOCK)
REF, LEAVES = merkle.object_of(DATA, BLOCK)
OTHER, _ = merkle.object_of(DATA[:BLOCK], BLOCK)


def run(*words: str | Path) -> Result:
    result = CliRunner().invoke(mcfs, ["cache", *map(str, words)], standalone_mode=False)
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exception is None, result.exc_info
    return result


def fill(path: Path) -> Cache:
    cache = Cache.open(path)
    cache.is_new_version(b"share/large \x1b", REF)
    for index in range(4):
        assert cache.store(Node(REF, 0, index), DATA[index * BLOCK :][:BLOCK])
    assert cache.store(Node(REF, 1, 0), LEAVES)
    assert cache.store(Node(OTHER, 0, 0), DATA[:BLOCK])
    return cache


def damage(path: Path) -> None:
    with object_file(path, REF).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x" if DATA[-1:] != b"x" else b"y")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_ls_shows_files_by_name(place: Path) -> None:
    cache = fill(place)
    lines = run("ls", "--cache-dir", place).stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].split()[:3] == ["256K", "of", "256K"]
    assert lines[0].endswith(r"share/large \x1b") or "\x1b" not in lines[0]
    assert lines[1].startswith(f"{place}: 320K of 2 objects")
    assert lines[1].endswith(f"used by process {os.getpid()}")
    assert len(run("ls", "-a", "--cache-dir", place).stdout.splitlines()) == 3
    cache.close()
    assert "used by" not in run("ls", "--cache-dir", place).stdout


def test_ls_shows_pins(place: Path) -> None:
    fill(place).close()
    pins, pin = PinDirectory(place, place), Pin(b"share", b"large", "1")
    pins.add(pin)
    assert run("ls", "--cache-dir", place).stdout.splitlines()[-1].split(maxsplit=2)[:2] == ["pinned", "share/large"]
    pins.write_state(pin, PinState("1", 1, 4 * BLOCK, BLOCK))
    pins.write_objects(pin, [REF.id])
    lines = run("ls", "--cache-dir", place).stdout.splitlines()
    assert lines[-1] == "pinned  share/large  64K of 256K in 1 files"
    assert "pinned" in lines[0]


def test_verify_finds_and_drops_what_is_damaged(place: Path) -> None:
    fill(place).close()
    result = run("verify", "--cache-dir", place)
    assert (result.return_value, result.stdout) == (0, f"{place}: 320K in 2 objects are right\n")
    damage(place)
    result = run("verify", "--cache-dir", place)
    assert result.return_value == 1
    assert "256K in 2 objects are right, 1 blocks, pages or files are damaged; they were dropped" in result.stdout
    result = run("verify", "--cache-dir", place)
    assert (result.return_value, result.stdout) == (0, f"{place}: 256K in 2 objects are right\n")


def test_verify_drops_nothing_under_a_mount(place: Path) -> None:
    cache = fill(place)
    damage(place)
    for _ in range(2):
        result = run("verify", "--cache-dir", place)
        assert result.return_value == 1
        assert "a mount uses it" in result.stdout
    cache.close()


def test_prune_and_clear(place: Path) -> None:
    fill(place).close()
    assert run("prune", "--cache-dir", place, "100G").return_value == 0
    cache = Cache.open(place)
    assert len(cache.refs()) == 2
    cache.close()
    os.utime(object_file(place, REF), (0, 0))
    assert run("prune", "--cache-dir", place, "100K").return_value == 0
    cache = Cache.open(place)
    assert 0 < cache.used <= 100 << 10
    cache.close()
    assert run("clear", "--cache-dir", place).return_value == 0
    cache = Cache.open(place)
    assert cache.used == 0
    cache.close()


def test_clear_spares_what_is_pinned(place: Path) -> None:
    fill(place).close()
    pins, pin = PinDirectory(place, place), Pin(b"share", b"large", "1")
    pins.add(pin)
    pins.write_objects(pin, [REF.id])
    assert run("clear", "--cache-dir", place).stdout.endswith("left, all of it pinned\n")
    assert [kept.split()[0] for kept in run("ls", "--cache-dir", place).stdout.splitlines()[:1]] == ["256K"]
    run("clear", "--all", "--cache-dir", place)
    assert pins.pins() == []
    assert run("ls", "--cache-dir", place).stdout.startswith(f"{place}: 0 of 0 objects")


def test_what_a_mount_uses_is_left_to_it(place: Path) -> None:
    cache, second = fill(place), fill(place)
    second_path = second.path
    assert second_path is not None
    second.close()
    result = run("clear", "--cache-dir", place)
    assert result.return_value == 1
    assert f"used by process {os.getpid()}" in result.stderr
    assert not second_path.exists()
    assert len(cache.refs()) == 2
    cache.close()


def test_where_there_is_no_cache(tmp_path: Path) -> None:
    for command in (["ls"], ["verify"], ["prune", "1G"], ["clear"]):
        with pytest.raises(UserError, match="there is no cache in"):
            run(*command, "--cache-dir", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_cache_of_another_user(place: Path) -> None:
    fill(place).close()
    os.chown(place, 12345, 12345)
    with pytest.raises(UserError, match="belongs to user 12345"):
        run("clear", "--cache-dir", place)
