from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mcfs.cli.ls import Style, entry_table, list_place, share_table
from mcfs.fetch.shares import Standing
from mcfs.net.client import ClientSettings
from mcfs.protocol.catalog import Attributes, LinkEntry
from mcfs.protocol.errors import UserError
from mcfs.protocol.publisher import fingerprint, format_fingerprint
from tests.fuse.fakes import Directory, FakeBackend, File, Item, Link

PLAIN = Style(human=False, escape=False)
SETTINGS = ClientSettings(interfaces=(), cache_dir=Path("/nowhere"), timeout=0.01)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    monkeypatch.setenv("TZ", "UTC")
    backend = FakeBackend()
    tree: dict[bytes, Item] = {
        b"a b": File(b"1234"),
        b"sub": Directory({b"deep\xff": File(b"x" * 2000)}),
        b"to": Link(b"a b\x1b"),
    }
    backend.publish(b"data", Directory(tree))
    backend.publish(b"image", File(b"x" * 5000))
    return backend


def test_shares(backend: FakeBackend) -> None:
    known, new = replace(backend.announcements[b"data"], publisher=b"p" * 32), backend.announcements[b"image"]
    lines = share_table([(known, Standing.KNOWN), (new, Standing.NEW)], Style(human=True, escape=True))
    assert [line.split()[:4] for line in lines] == [
        ["NAME", "KIND", "FILES", "BYTES"],
        ["data", "dir", lines[1].split()[2], "2.0K"],
        ["image", "file", lines[2].split()[2], "4.9K"],
    ]
    assert lines[1].split()[-2:] == ["known", format_fingerprint(fingerprint(b"p" * 32))]
    assert lines[2].split()[-2] == "new"


def test_nothing_heard_is_nothing_printed() -> None:
    assert share_table([], PLAIN) == []
    assert entry_table([], PLAIN) == []


async def test_a_directory(backend: FakeBackend) -> None:
    lines = await list_place(backend, b"data", SETTINGS, PLAIN)
    assert [line.split(maxsplit=4)[0] for line in lines] == ["-rw-r--r--", "drwxr-xr-x", "lrwxrwxrwx"]
    assert [line.split(maxsplit=4)[4] for line in lines] == ["a b", "sub", "to -> a b\x1b"]
    assert [line.split()[1] for line in lines] == ["4", "-", "-"]


async def test_names_are_safe_on_a_terminal(backend: FakeBackend) -> None:
    lines = await list_place(backend, b"data", SETTINGS, Style(human=False, escape=True))
    assert [line.split(maxsplit=4)[4] for line in lines] == ["a\\ b", "sub", "to -> a\\ b\\033"]


@pytest.mark.parametrize("place", [b"data/sub", b"data//sub/", b"data/./sub"])
async def test_a_subdirectory(backend: FakeBackend, place: bytes) -> None:
    (line,) = await list_place(backend, place, SETTINGS, PLAIN)
    assert line.endswith("deep\udcff")


@pytest.mark.parametrize("place", [b"image", b"data/a b", b"data/to"])
async def test_what_is_no_directory_is_one_line(backend: FakeBackend, place: bytes) -> None:
    assert len(await list_place(backend, place, SETTINGS, PLAIN)) == 1


@pytest.mark.parametrize(
    ("place", "said", "code"),
    [
        (b"data/none", "data/none: no such file or directory", 1),
        (b"image/x", "image: not a directory", 1),
        (b"data/to/x", "data/to: not a directory", 1),
        (b"other", "share 'other' was not heard on  within 0.01 s: is mcfs-serve running", 4),
    ],
)
async def test_what_is_not_there(backend: FakeBackend, place: bytes, said: str, code: int) -> None:
    with pytest.raises(UserError, match=said) as caught:
        await list_place(backend, place, SETTINGS, PLAIN)
    assert caught.value.exit_code == code


def test_a_time_beyond_the_calendar() -> None:
    entry = LinkEntry(b"x", Attributes(0o777, 0, 0, (1 << 63) - 1), b"y")
    late = LinkEntry(b"x", Attributes(0o777, 0, 0, -(1 << 63)), b"y")
    assert len(entry_table([entry, late], PLAIN)) == 2
