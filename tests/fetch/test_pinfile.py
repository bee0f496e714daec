"""The files of known publishers: several processes, crashes, and disks that are full or not ours."""

from __future__ import annotations

import multiprocessing
import os
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from mcfs.fetch.pinfile import MAX_SIZE, KnownPublishers
from mcfs.fetch.pintext import MAX_FLOORS, MAX_LINES, format_floors, with_pin
from mcfs.fetch.trust import MAX_REPLACED, Floor, Pin
from mcfs.protocol.announce import MAX_SHARE_NAME
from mcfs.protocol.errors import UserError
from mcfs.protocol.ids import MAX_OBJECT_SIZE
from mcfs.protocol.publisher import Fingerprint, format_fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A, B, C = (Fingerprint(bytes([n]) * 32) for n in (1, 2, 3))
WORD_A, WORD_B = format_fingerprint(A), format_fingerprint(B)


@pytest.fixture
def known(tmp_path: Path) -> KnownPublishers:
    return KnownPublishers(tmp_path / "state" / "mcfs" / "known-publishers")


def never() -> None:
    raise TimeoutError


def pin(known: KnownPublishers, name: bytes, key: Fingerprint, before: Fingerprint | None = None) -> Pin | None:
    replaces = (before,) if before else ()
    return known.pin(name, Pin(key, replaces), before=before, note="note", pause=never)


def test_nothing_is_known_at_first_and_then_what_was_written(known: KnownPublishers) -> None:
    assert known.load().pins == {}
    assert not known.path.parent.exists()
    assert pin(known, b"data", A) == Pin(A, (), 3)
    known.raise_floor(b"data", A, Floor(7, b""), pause=never)
    trust = KnownPublishers(known.path).load(strict=True)
    assert trust.pins == {b"data": Pin(A, (), 3)}
    assert trust.floors == {(b"data", A): Floor(7, b"", 1)}
    assert trust.strict
    assert (trust.pins_file, trust.versions_file) == (str(known.path), f"{known.path}.versions")
    for path in (known.path, known.versions):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(known.path.parent.stat().st_mode) == 0o700


def test_who_comes_second_is_told_who_is_known(known: KnownPublishers) -> None:
    pin(known, b"data", A)
    assert pin(known, b"data", B) == Pin(A, (), 3)
    assert pin(known, b"data", B, before=C) == Pin(A, (), 3)
    assert pin(known, b"data", B, before=A) == Pin(B, (A,), 3)
    assert pin(known, b"data", B, before=A) == Pin(B, (A,), 3), "another mount was faster"
    assert pin(known, b"data", A) == Pin(B, (A,), 3)


def test_mode_and_comments_stay(known: KnownPublishers) -> None:
    known.path.parent.mkdir(parents=True)
    known.path.write_text(f"# mine\ndata {WORD_A} # cellar\n")
    known.path.chmod(0o640)
    pin(known, b"other", B)
    pin(known, b"data", C, before=A)
    lines = known.path.read_text().splitlines()
    assert lines[0] == "# mine"
    assert lines[1].startswith("data SHA256:")
    assert lines[1].endswith(f" replaces {WORD_A} # cellar")
    assert stat.S_IMODE(known.path.stat().st_mode) == 0o640


def test_a_link_stays_one(known: KnownPublishers, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles"
    real.write_text("# mine\n")
    known.path.parent.mkdir(parents=True)
    known.path.symlink_to(real)
    through = KnownPublishers(known.path)
    pin(through, b"data", A)
    assert known.path.is_symlink()
    assert WORD_A in real.read_text()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"# first\ngarbage\n", "line 2: .*mend or remove that line"),
        (b"\xff\xfe", "it is not text.*known_publishers=FILE"),
        (b"#" * (MAX_SIZE + 1), "longer than 16 MiB"),
    ],
)
def test_a_damaged_file_is_one_line_and_stays_as_it_is(known: KnownPublishers, data: bytes, said: str) -> None:
    for path in (known.path, known.versions):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        with pytest.raises(UserError, match=said) as caught:
            known.load()
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
        with pytest.raises(UserError, match=said):
            known.raise_floor(b"data", A, Floor(7, b""), pause=never)
        assert path.read_bytes() == data
        path.unlink()


def test_what_is_no_file(known: KnownPublishers) -> None:
    known.path.mkdir(parents=True)
    with pytest.raises(UserError, match="known_publishers=FILE"):
        known.load()
    known.path.rmdir()
    os.mkfifo(known.path)
    with pytest.raises(UserError, match="not a regular file"):
        known.load()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    known = KnownPublishers(tmp_path / "file" / "known")
    with pytest.raises(UserError, match=r"/file/known.*known_publishers=FILE"):
        pin(known, b"data", A)


def test_a_full_disk_leaves_the_old_file(known: KnownPublishers, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(known, b"data", A)
    before = known.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        pin(known, b"other", B)
    assert known.path.read_bytes() == before
    assert sorted(path.name for path in known.path.parent.iterdir()) == ["known-publishers", "known-publishers.lock"]


def test_what_a_crash_left_behind_does_no_harm(known: KnownPublishers, tmp_path: Path) -> None:
    pin(known, b"data", A)
    new = known.path.with_name("known-publishers.new")
    victim = tmp_path / "victim"
    victim.write_text("safe")
    new.symlink_to(victim)
    pin(known, b"other", B)
    assert known.load().pins.keys() == {b"data", b"other"}
    assert victim.read_text() == "safe"
    assert not new.exists()


def test_the_longest_names_do_not_make_a_file_too_long() -> None:
    """Or whoever makes somebody look into so many shares could keep him from ever mounting again."""
    name = b"\xff" * MAX_SHARE_NAME
    pin = with_pin("", name, Pin(A, (B,) * MAX_REPLACED), "first used 2026-11-21")
    floor = format_floors({(name, A): Floor(MAX_OBJECT_SIZE, bytes(32))})
    assert len(pin) * MAX_LINES < MAX_SIZE
    assert len(floor) * MAX_FLOORS < MAX_SIZE


@contextmanager
def locked(known: KnownPublishers) -> Iterator[None]:
    """By somebody else."""
    with known._locked(never):
        yield


def test_a_lock_is_waited_for_and_not_for_ever(known: KnownPublishers) -> None:
    waits = 0

    def pause() -> None:
        nonlocal waits
        waits += 1
        if waits == 3:
            raise TimeoutError

    with locked(known), pytest.raises(UserError, match="another process does not let go"):
        known.pin(b"data", Pin(A), before=None, note="", pause=pause)
    assert waits == 3
    assert pin(known, b"data", A) == Pin(A, (), 3)


def _write_many(path: Path, first: int, count: int) -> None:
    known = KnownPublishers(path)

    def pause() -> None:
        time.sleep(0.001)

    for number in range(first, first + count):
        key = Fingerprint(number.to_bytes(32))
        known.pin(b"n%d" % number, Pin(key), before=None, note="", pause=pause)
        known.pin(b"same", Pin(key), before=None, note="", pause=pause)
        known.raise_floor(b"same", A, Floor(number, b""), pause=pause)


def test_several_processes_at_once_lose_nothing(known: KnownPublishers) -> None:
    context = multiprocessing.get_context("spawn")
    count = 25
    writers = [context.Process(target=_write_many, args=(known.path, 1 + count * i, count)) for i in range(3)]
    for writer in writers:
        writer.start()
    try:
        end = time.monotonic() + 60
        while any(writer.is_alive() for writer in writers):
            known.load()  # never half a file
            assert time.monotonic() < end
    finally:
        for writer in writers:
            writer.kill()
            writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    trust = known.load()
    numbers = range(1, 1 + 3 * count)
    assert {name: pin.fingerprint for name, pin in trust.pins.items() if name != b"same"} == {
        b"n%d" % number: number.to_bytes(32) for number in numbers
    }
    assert trust.pins[b"same"].fingerprint in {number.to_bytes(32) for number in (1, 1 + count, 1 + 2 * count)}
    assert trust.floors[b"same", A].version == numbers[-1]


def test_what_others_can_write_is_not_believed(known: KnownPublishers) -> None:
    pin(known, b"data", A)
    for path in (known.path, known.versions, known.path.parent):
        known.raise_floor(b"data", A, Floor(7, b""), pause=never)
        mode = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode | stat.S_IWOTH)
        with pytest.raises(UserError, match=f"chmod go-w {path}$"):
            known.load()
        path.chmod(mode)
        assert known.load().pins


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_others_is_not_believed(known: KnownPublishers) -> None:
    pin(known, b"data", A)
    for path in (known.path, known.path.parent):
        os.chown(path, 12345, -1)
        with pytest.raises(UserError, match="belongs to another user"):
            known.load()
        os.chown(path, 0, -1)
