"""Which object a file was when it was opened last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from mcfs.fetch import cachenames
from mcfs.fetch.cachenames import Names, names_of, parse_lines_untrusted

from .cachefakes import Sample

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

ONE, TWO, THREE = (Sample(seed, 10).ref.id for seed in range(3))


def test_a_new_version_is_told_from_a_file_never_seen(tmp_path: Path) -> None:
    names = Names(tmp_path)
    assert names.note(b"share/a", ONE) is None
    assert names.note(b"share/a", ONE) is None
    assert names.note(b"share/b", ONE) is None
    assert names.note(b"share/a", TWO) == ONE
    names.flush()
    names.flush()
    names = Names(tmp_path)
    assert names.note(b"share/a", TWO) is None
    assert names.note(b"share/a", THREE) == TWO
    assert names.note(b"share/b", TWO) == ONE


def test_the_names_of_objects(tmp_path: Path) -> None:
    names = Names(tmp_path)
    odd = bytes(range(256))
    for name, object_ in ((b"s/a", ONE), (b"s/\n%", TWO), (odd, THREE), (b"s/b", ONE)):
        names.note(name, object_)
    names.flush()
    assert names_of(tmp_path) == {ONE: b"s/b", TWO: b"s/\n%", THREE: odd}
    assert names_of(tmp_path / "nowhere") == {}


def test_nothing_is_kept_without_a_directory() -> None:
    names = Names(None)
    assert names.note(b"a", ONE) is None
    assert names.note(b"a", TWO) == ONE
    names.flush()


def test_there_are_only_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cachenames, "MAX_NAMES", 10)
    names = Names(tmp_path)
    for number in range(25):
        names.note(b"%d" % number, ONE)
        names.flush()
    names = Names(tmp_path)
    assert len(parse_lines_untrusted((tmp_path / "names").read_bytes())) <= 20
    assert names.note(b"24", TWO) == ONE
    assert names.note(b"14", TWO) is None


def test_a_file_that_changes_for_ever_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cachenames, "MAX_NAMES", 10)
    names = Names(tmp_path)
    for number in range(1000):
        names.note(b"share/a", (ONE, TWO)[number % 2])
        names.flush()
        assert len(parse_lines_untrusted((tmp_path / "names").read_bytes())) <= 20
    assert Names(tmp_path).note(b"share/a", ONE) == TWO


def test_a_name_that_is_too_long_is_not_noted(tmp_path: Path) -> None:
    names = Names(tmp_path)
    for id_ in (ONE, TWO):
        assert names.note(b"s/" + bytes(cachenames.MAX_LENGTH), id_) is None


def test_of_a_long_file_the_end_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cachenames, "_MAX_BYTES", 1000)
    names = Names(tmp_path)
    for number in range(100):
        names.note(b"%d" % number, ONE)
    names.flush()
    names = Names(tmp_path)
    assert names.note(b"99", TWO) == ONE
    assert names.note(b"0", TWO) is None


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "names").mkdir()
    names = Names(tmp_path)
    assert names.note(b"a", ONE) is None
    names.flush()
    assert names.note(b"a", TWO) == ONE


@given(st.binary(max_size=200))
def test_what_is_no_line_is_passed_over(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("names") / "names"
    path.write_bytes(b"%s a%%2Fb\n%s\n%s" % (ONE.hex().encode(), data, data))
    assert parse_lines_untrusted(path.read_bytes())[0] == (ONE, b"a/b")
    assert Names(path.parent).note(b"a/b", TWO) in (ONE, *(id_ for id_, _ in parse_lines_untrusted(data)))
