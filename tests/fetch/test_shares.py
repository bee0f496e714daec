"""The table of shares."""

from __future__ import annotations

from dataclasses import replace

from mcfs.fetch.shares import ShareTable
from mcfs.protocol.announce import Announcement
from mcfs.protocol.catalog import Attributes, FileEntry, Owners
from mcfs.protocol.ids import Digest

ENTRY = FileEntry(b"data", Attributes(0o644, 0, 0, 0), None, Digest(bytes(32)))
FIRST = Announcement(5, 0, ENTRY, Owners(), 0, 1, 10**9, (), publisher=b"p" * 32)


def test_versions_never_go_back() -> None:
    table = ShareTable(30.0)
    assert table.announced(FIRST, 1, now=0.0)
    assert not table.announced(FIRST, 1, now=1.0)
    assert table.announced(replace(FIRST, version=6), 1, now=2.0)
    assert not table.announced(FIRST, 1, now=3.0)
    assert table.announcements()[b"data"].version == 6


def test_another_publisher_cannot_take_a_name() -> None:
    table = ShareTable(30.0)
    table.announced(FIRST, 1, now=0.0)
    assert not table.announced(replace(FIRST, version=9, publisher=b"q" * 32), 1, now=1.0)
    assert table.announcements()[b"data"].version == 5
    assert table.refused == 1


def test_a_share_is_down_after_the_time_out_and_up_when_heard() -> None:
    table = ShareTable(30.0)
    table.announced(FIRST, 1, now=0.0)
    never = float("-inf")
    assert not table.is_down(b"data", never, now=29.0)
    assert table.is_down(b"data", never, now=31.0)
    assert not table.is_down(b"data", 20.0, now=31.0)
    table.announced(FIRST, 2, now=32.0)
    assert not table.is_down(b"data", never, now=33.0)
    assert table.interfaces(b"data") == (1, 2)
    assert not table.is_down(b"unknown", never, now=1e9)


def test_the_period_is_that_of_the_newest_announcement() -> None:
    table = ShareTable(30.0)
    first = FIRST
    for time_ms, period in ((100, 0), (50, 604_800), (200, 60), (150, 0)):
        table.announced(replace(first, time_ms=time_ms, period=period), 1, now=1.0)
    share = table.get(first.name)
    assert share is not None
    assert share.period == 60
    table.announced(replace(first, time_ms=300, period=9, publisher=b"q" * 32), 1, now=1.0)
    assert share.period == 60


def test_another_server_of_the_same_content_may_have_given_it_another_version() -> None:
    table = ShareTable(30.0)
    table.announced(FIRST, 1, now=1.0)
    assert not table.announced(replace(FIRST, version=4), 2, now=8.0), "no news"
    share = table.get(b"data")
    assert share is not None
    assert share.last_heard == 8.0
    assert share.announcement.version == 5
