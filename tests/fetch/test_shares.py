"""The table of shares: whose announcement counts under each name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mcfs.fetch.freshness import TOLERANCE
from mcfs.fetch.shares import (
    CHANGE_PAUSE,
    FORGET,
    MAX_CHOICES,
    MAX_GONE,
    MAX_OTHERS,
    MAX_PUBLISHERS,
    MAX_REMARKS,
    MAX_SHARES,
    SETTLE,
    KeyChanged,
    Remark,
    ShareTable,
    Standing,
    VersionRaised,
)
from mcfs.fetch.trust import Floor, Pin, Trust, content_id
from mcfs.protocol.ids import Group
from mcfs.protocol.keys import ShareKeys
from mcfs.protocol.publisher import format_fingerprint
from tests.fetch.publishers import Publisher, chain, content, in_order

if TYPE_CHECKING:
    from mcfs.protocol.announce import Announcement

FIRST, SECOND, THIRD = in_order(3)
GROUP = Group(b"g" * 16)


def table(trust: Trust | None = None) -> ShareTable:
    return ShareTable(30.0, trust)


def knowing(publisher: Publisher, name: bytes = b"data", version: int = 0, strict: bool = False) -> Trust:
    """As after an earlier mount."""
    floors = {(name, publisher.fingerprint): Floor(version, content(version % 251).id, 7)} if version else {}
    pins = {name: replace(publisher.pin, line=3)}
    return Trust(None, strict, pins, floors, "/known", "/known.versions")


def news(shares: ShareTable, announcement: Announcement, now: float = 0.0) -> bool:
    return shares.announced(announcement, 1, now=now).news


def believed(announcement: Announcement) -> ShareTable:
    """A table for which an unknown publisher was chosen at the time 0."""
    shares = table()
    assert not news(shares, announcement, -SETTLE)
    assert [a.name for a in shares.settle(now=0.0)] == [announcement.name]
    return shares


def remarks(shares: ShareTable) -> list[str]:
    return [event.text for event in shares.events() if isinstance(event, Remark)]


def version(shares: ShareTable, name: bytes = b"data") -> int | None:
    share = shares.get(name)
    return share.announcement.version if share else None


# --- an unknown name -------------------------------------------------------------------------------------------------


def test_an_unknown_publisher_is_believed_after_a_moment() -> None:
    shares = table()
    assert not news(shares, FIRST.says(), 5.0)
    assert b"data" not in shares
    assert shares.next_timeout() == 5.0 + SETTLE
    assert not shares.settle(now=5.0)
    assert [a.publisher for a in shares.settle(now=5.0 + SETTLE)] == [FIRST.public]
    assert shares.announcements()[b"data"].publisher == FIRST.public
    assert shares.next_timeout() is None
    assert remarks(shares) == []


@pytest.mark.parametrize("order", [(FIRST, SECOND, THIRD), (THIRD, SECOND, FIRST), (SECOND, FIRST, THIRD)])
def test_of_several_unknown_ones_all_clients_take_the_same_and_say_so(order: tuple[Publisher, ...]) -> None:
    shares = table()
    for number, publisher in enumerate(order):
        news(shares, publisher.says(version=10 + number), 0.0)
    shares.settle(now=SETTLE)
    assert shares.announcements()[b"data"].publisher == FIRST.public
    (text,) = remarks(shares)
    taken, _, left = text.partition(" and not ")
    assert format_fingerprint(FIRST.fingerprint) in taken
    assert format_fingerprint(SECOND.fingerprint) in left
    assert format_fingerprint(THIRD.fingerprint) in left


def test_another_publisher_cannot_take_a_name_that_is_in_use() -> None:
    shares = believed(SECOND.says(version=5))
    for number in range(10):
        assert not news(shares, FIRST.says(version=9 + number), 1.0)
        assert not shares.settle(now=100.0 + number)
    assert version(shares) == 5
    (text,) = remarks(shares)
    assert format_fingerprint(FIRST.fingerprint) in text
    assert format_fingerprint(SECOND.fingerprint) in text


def test_versions_never_go_back() -> None:
    shares = believed(FIRST.says(version=5))
    assert not news(shares, FIRST.says(version=5))
    assert news(shares, FIRST.says(version=6))
    assert not news(shares, FIRST.says(version=5))
    assert version(shares) == 6
    (text,) = remarks(shares)
    assert "version 5, and known is 6" in text


def test_since_when_a_share_is_announced_without_a_break() -> None:
    shares = table()
    news(shares, FIRST.says(version=5), 0.0)
    shares.settle(now=SETTLE)
    share = shares.get(b"data")
    assert share is not None
    found = []
    for now in (1.0, 2.0, 3.0, 8.0, 9.0, 10.0):
        news(shares, FIRST.says(version=5 + (now > 2)), now)
        found.append(share.steady_since)
    assert found == [SETTLE] * 3 + [8.0] * 3


def test_another_server_of_the_same_content_may_have_given_it_another_version() -> None:
    shares = believed(FIRST.says(version=5, seed=1))
    heard = shares.announced(FIRST.says(version=4, seed=1, address=b"b" * 16), 2, now=8.0)
    assert (heard.live, heard.news) == (True, False)
    share = shares.get(b"data")
    assert share is not None
    assert share.last_heard == 8.0
    assert share.announcement.version == 5


# --- what was heard just now, and what is repeated -------------------------------------------------------------------


def test_a_share_is_down_after_the_time_out_and_up_when_heard() -> None:
    shares = believed(FIRST.says())
    never = float("-inf")
    assert not shares.is_down(b"data", never, now=29.0)
    assert shares.is_down(b"data", never, now=31.0)
    assert not shares.is_down(b"data", 20.0, now=31.0)
    shares.announced(FIRST.says(), 2, now=32.0)
    assert not shares.is_down(b"data", never, now=33.0)
    assert shares.interfaces(b"data") == (1, 2)
    assert not shares.is_down(b"unknown", never, now=1e9)


def test_what_is_repeated_does_not_keep_a_share_alive() -> None:
    shares = believed(FIRST.says(time_ms=1000))
    said = [FIRST.says(time_ms=2000 + n) for n in range(20)]
    for second, announcement in enumerate(said):
        assert shares.announced(announcement, 1, now=float(second)).live
    for second in range(20, 60):
        heard = shares.announced(said[second % 20], 9, now=float(second))
        assert not heard.live
        assert not heard.news
    assert shares.is_down(b"data", float("-inf"), now=50.0)
    assert shares.interfaces(b"data") == (1,)


def test_the_period_is_that_of_the_newest_announcement() -> None:
    shares = believed(FIRST.says(time_ms=100))
    for time_ms, period in ((50, 604_800), (200, 60), (150, 0)):
        shares.announced(FIRST.says(time_ms=time_ms, period=period), 1, now=1.0)
    share = shares.get(b"data")
    assert share is not None
    assert share.period == 60
    shares.announced(SECOND.says(time_ms=300, period=9), 1, now=1.0)
    assert share.period == 60


def test_a_gone_counts_once_and_only_for_a_while() -> None:
    shares = believed(FIRST.says(time_ms=10_000_000))
    assert shares.gone(b"data", GROUP, 10_000_500)
    assert not shares.gone(b"data", GROUP, 10_000_500), "repeated"
    assert shares.gone(b"data", GROUP, 10_001_500), "said again"
    assert shares.gone(b"data", Group(b"h" * 16), 10_000_500), "of another node"
    shares.announced(FIRST.says(time_ms=10_002_000 + TOLERANCE), 1, now=60.0)
    assert not shares.gone(b"data", Group(b"i" * 16), 10_001_999), "recorded a minute ago"
    assert not shares.gone(b"other", GROUP, 10_002_000)


def test_what_is_remembered_of_gone_nodes_is_bounded() -> None:
    shares = believed(FIRST.says(time_ms=1))
    for number in range(MAX_GONE + 10):
        assert shares.gone(b"data", Group(number.to_bytes(16)), 5)
    share = shares.get(b"data")
    assert share is not None
    assert len(share.gone) == MAX_GONE
    assert not shares.gone(b"data", Group((MAX_GONE + 9).to_bytes(16)), 5)


# --- a known name ----------------------------------------------------------------------------------------------------


def test_who_is_known_is_believed_at_once() -> None:
    shares = table(knowing(SECOND))
    assert news(shares, SECOND.says())
    assert remarks(shares) == []


def test_who_comes_first_does_not_shut_out_who_is_known() -> None:
    shares = table(knowing(SECOND))
    for number in range(20):
        assert not news(shares, FIRST.says(version=1000 + number), float(number))
        assert not shares.settle(now=float(number))
    assert b"data" not in shares
    assert news(shares, SECOND.says(version=3), 21.0)
    assert version(shares) == 3


def test_a_refusal_names_both_and_the_line() -> None:
    shares = table(knowing(SECOND))
    assert shares.refusal(b"data") is None
    news(shares, FIRST.says())
    text = shares.refusal(b"data")
    assert text is not None
    for word in (format_fingerprint(FIRST.fingerprint), format_fingerprint(SECOND.fingerprint), "line 3 of /known"):
        assert word in text
    assert "\n" not in text
    assert remarks(shares) == [text], "said once"
    for _ in range(5):
        news(shares, FIRST.says())
        news(shares, THIRD.says())
    assert remarks(shares) == []


def test_strict_refuses_the_unknown_and_says_what_line_to_add() -> None:
    shares = table(knowing(SECOND, strict=True))
    assert not news(shares, FIRST.says(b"my films"))
    assert shares.next_timeout() is None
    assert not shares.settle(now=1000.0)
    assert news(shares, SECOND.says())
    assert list(shares.announcements()) == [b"data"]
    text = shares.refusal(b"my films")
    assert text is not None
    assert f"'my\\040films {format_fingerprint(FIRST.fingerprint)}' to /known" in text


def test_a_demanded_key_counts_under_every_name() -> None:
    shares = table(Trust(demanded=FIRST.fingerprint, pins=knowing(SECOND).pins))
    assert not news(shares, SECOND.says())
    assert news(shares, FIRST.says())
    assert news(shares, FIRST.says(b"other"))
    assert not news(shares, THIRD.says(b"third"))
    assert set(shares.announcements()) == {b"data", b"other"}
    text = shares.refusal(b"third")
    assert text is not None
    assert f"publisher_key demands {format_fingerprint(FIRST.fingerprint)}" in text


# --- across mounts ---------------------------------------------------------------------------------------------------


def test_an_old_version_is_refused_by_a_later_mount() -> None:
    shares = table(knowing(FIRST, version=100))
    assert not news(shares, FIRST.says(version=99))
    text = shares.refusal(b"data")
    assert text is not None
    assert "version 99, and known is 100 (line 7 of /known.versions)" in text
    assert news(shares, FIRST.says(version=100))


def test_an_older_version_of_what_was_used_last_is_no_way_back() -> None:
    """Another server of the same content is heard first, and then a recording of what was before both."""
    shares = table(knowing(FIRST, version=100))
    assert news(shares, FIRST.says(version=90, seed=100))
    assert not news(shares, FIRST.says(version=95))
    assert version(shares) == 90
    assert news(shares, FIRST.says(version=101))


def test_the_version_of_a_publisher_that_is_not_pinned_any_more_counts_still() -> None:
    trust = knowing(FIRST, version=100)
    trust.pins.clear()
    shares = table(trust)
    news(shares, FIRST.says(version=99), 0.0)
    assert not shares.settle(now=SETTLE)
    news(shares, FIRST.says(version=101), 10.0)
    assert shares.settle(now=10.0 + SETTLE)


def test_new_versions_are_told_once() -> None:
    shares = table(knowing(FIRST, version=100))
    for number in (100, 100, 102, 102, 101, 103):
        news(shares, FIRST.says(version=number))
    raised = [event for event in shares.events() if isinstance(event, VersionRaised)]
    assert raised == [VersionRaised(b"data")] * 2
    share = shares.get(b"data")
    assert share is not None
    assert (share.floor.version, share.floor.content) == (103, content_id(share.announcement))


# --- a new key -------------------------------------------------------------------------------------------------------


def test_a_known_publisher_may_change_its_key() -> None:
    shares = table(knowing(FIRST))
    news(shares, FIRST.says(version=5))
    assert news(shares, SECOND.says(version=6, links=chain(FIRST, SECOND)), 1.0)
    (changed,) = [event for event in shares.events() if isinstance(event, KeyChanged)]
    assert (changed.name, changed.before) == (b"data", FIRST.fingerprint)
    assert changed.pin == Pin(SECOND.fingerprint, (FIRST.fingerprint,), 3)
    assert version(shares) == 6


def test_the_key_counts_also_without_a_new_version() -> None:
    shares = table(knowing(FIRST))
    news(shares, FIRST.says(version=5))
    assert not news(shares, SECOND.says(version=5, links=chain(FIRST, SECOND)), 1.0)
    assert shares.announcements()[b"data"].publisher == SECOND.public
    assert shares.is_publisher(b"data", SECOND.public)
    assert not shares.is_publisher(b"data", FIRST.public)


def test_a_client_that_was_away_for_two_changes() -> None:
    shares = table(knowing(FIRST))
    assert news(shares, THIRD.says(links=chain(FIRST, SECOND, THIRD)))
    (changed,) = [event for event in shares.events() if isinstance(event, KeyChanged)]
    assert changed.pin.replaces == (SECOND.fingerprint, FIRST.fingerprint)


def test_keys_do_not_change_all_the_time() -> None:
    """Who has a key can make chains without end, and each change is a line of log and one in a file."""
    many = in_order(20)
    shares = table(knowing(many[0]))
    news(shares, many[0].says())
    changes = 0
    for second in range(240):
        before, after = many[changes], many[changes + 1]
        shares.announced(after.says(links=chain(before, after)), 1, now=float(second))
        changes += sum(isinstance(event, KeyChanged) for event in shares.events())
    assert changes == 240 / CHANGE_PAUSE


def test_the_old_key_counts_no_more() -> None:
    shares = table(knowing(FIRST))
    news(shares, SECOND.says(version=6, links=chain(FIRST, SECOND)))
    assert not news(shares, FIRST.says(version=7), 1.0)
    assert not news(shares, FIRST.says(version=8, links=chain(SECOND, FIRST)), 1.0), "nor by a chain that leads back"
    assert version(shares) == 6


def test_the_old_key_counts_no_more_after_another_mount() -> None:
    pin = Pin(SECOND.fingerprint, (FIRST.fingerprint,), 3)
    shares = table(Trust(pins={b"data": pin}))
    assert not news(shares, FIRST.says(version=7))
    assert not news(shares, FIRST.says(version=8, links=chain(SECOND, FIRST)))
    assert not news(shares, FIRST.says(version=8, links=chain(SECOND, THIRD, FIRST)))
    assert news(shares, SECOND.says(version=2))


def test_versions_do_not_go_back_with_a_new_key() -> None:
    shares = table(knowing(FIRST, version=100))
    assert not news(shares, SECOND.says(version=99, links=chain(FIRST, SECOND)))
    assert [event for event in shares.events() if isinstance(event, KeyChanged)] == []
    assert news(shares, SECOND.says(version=100, links=chain(FIRST, SECOND)))


def test_a_chain_that_somebody_else_repeats_is_of_no_use() -> None:
    """The links are those of the second; who signs is the third."""
    shares = table(knowing(FIRST))
    assert not news(shares, THIRD.says(links=chain(FIRST, SECOND)))
    forged = (chain(FIRST, SECOND)[0], chain(SECOND, THIRD)[0][:32] + bytes(128))
    assert not news(shares, THIRD.says(links=forged))
    assert b"data" not in shares


def test_a_demanded_key_may_be_followed_upon() -> None:
    trust = Trust(demanded=FIRST.fingerprint)
    shares = table(trust)
    assert news(shares, SECOND.says(links=chain(FIRST, SECOND)))
    assert "change publisher_key" in trust.changed(b"data", FIRST.fingerprint, SECOND.fingerprint)


def test_of_two_unknown_ones_who_follows_upon_the_other_is_believed() -> None:
    """While a publisher changes its key one of its servers may have the old one."""
    shares = table()
    news(shares, FIRST.says(version=5), 0.0)
    news(shares, SECOND.says(version=5, links=chain(FIRST, SECOND)), 0.0)
    news(shares, THIRD.says(links=chain(FIRST, SECOND)), 0.0)
    shares.settle(now=SETTLE)
    assert shares.announcements()[b"data"].publisher == SECOND.public


def test_an_unknown_name_has_no_ancestors() -> None:
    """A chain proves nothing to who knows none of its keys."""
    shares = table()
    news(shares, SECOND.says(links=chain(FIRST, SECOND)), 0.0)
    shares.settle(now=SETTLE)
    share = shares.get(b"data")
    assert share is not None
    assert share.pin == Pin(SECOND.fingerprint)


def test_what_is_told_is_one_line_whatever_the_name() -> None:
    name = b"\n\x1b[2Jmcfs: all is well\r #\xff"
    shares = table(Trust(pins={name: SECOND.pin}, strict=True, pins_file="/known"))
    news(shares, FIRST.says(name))
    news(shares, FIRST.says(name + b"!"))
    trust = Trust()
    for text in (
        shares.refusal(name),
        shares.refusal(name + b"!"),
        trust.changed(name, FIRST.fingerprint, SECOND.fingerprint),
        trust.ambiguous(name, FIRST.fingerprint, [SECOND.fingerprint]),
        trust.too_old(FIRST.says(name), Floor(9, b"")),
    ):
        assert text is not None
        assert text.isprintable()


# --- two mounts at once ----------------------------------------------------------------------------------------------


def test_what_stands_in_the_file_counts_and_what_was_shown_is_taken_away() -> None:
    shares = believed(FIRST.says())
    assert not shares.pinned(b"data", replace(SECOND.pin, line=9), shown=True)
    assert b"data" not in shares
    assert not news(shares, SECOND.says(), 1.0), "nobody could tell which of the two he had read"
    assert len(remarks(shares)) == 1


def test_before_anything_was_shown_the_right_one_is_waited_for() -> None:
    shares = believed(FIRST.says())
    assert not shares.pinned(b"data", replace(SECOND.pin, line=9), shown=False)
    assert not news(shares, FIRST.says(), 1.0)
    assert news(shares, SECOND.says(), 1.0)


def test_the_pin_that_was_written_is_the_same() -> None:
    shares = believed(FIRST.says())
    assert shares.pinned(b"data", replace(FIRST.pin, line=4), shown=True)
    share = shares.get(b"data")
    assert share is not None
    assert share.pin.line == 4
    news(shares, SECOND.says(links=chain(FIRST, SECOND)), 1.0)
    assert shares.pinned(b"data", replace(FIRST.pin, line=4), shown=True), "the file is about to follow"
    assert shares.is_publisher(b"data", SECOND.public)


# --- floods ----------------------------------------------------------------------------------------------------------


def flood(shares: ShareTable, now: float, count: int = MAX_SHARES + 100) -> None:
    for number in range(count):
        shares.announced(THIRD.says(b"forged %d" % number), 1, now=now)
    while shares.next_timeout() is not None:
        shares.settle(now=now + SETTLE)


def test_forged_names_do_not_take_the_room_of_known_ones() -> None:
    shares = table(knowing(FIRST))
    shares.want(b"wanted")
    flood(shares, 0.0)
    assert len(shares.announcements()) == MAX_SHARES
    flood(shares, 1.0, 2 * MAX_SHARES)
    assert len(shares.announcements()) == MAX_SHARES
    assert news(shares, FIRST.says(), 2.0)
    news(shares, SECOND.says(b"wanted"), 2.0)
    assert [a.name for a in shares.settle(now=3.0)] == [b"wanted"]


def test_forged_publishers_of_one_name_are_bounded_and_the_first_in_order_stays() -> None:
    shares = table()
    many = in_order(100)
    for publisher in [*many[1:], many[0], *many[1:]]:
        shares.announced(publisher.says(), 1, now=0.0)
        assert len(shares.listing()) <= MAX_PUBLISHERS + 1
    shares.settle(now=SETTLE)
    assert shares.announcements()[b"data"].publisher == many[0].public


def test_who_does_not_count_makes_room_when_silent() -> None:
    shares = table(Trust(strict=True))
    for number in range(MAX_OTHERS + 50):
        shares.announced(FIRST.says(b"forged %d" % number), 1, now=0.0)
    assert len(shares.listing()) == MAX_OTHERS
    shares.announced(FIRST.says(b"late"), 1, now=1.0)
    assert shares.refusal(b"late") is None
    shares.announced(FIRST.says(b"late"), 1, now=FORGET + 1.0)
    assert shares.refusal(b"late") is not None
    assert len(shares.listing()) == 1


def test_what_others_can_write_to_the_log_is_bounded() -> None:
    shares = table(Trust(strict=True))
    for number in range(MAX_REMARKS + 50):
        for publisher in (FIRST, SECOND):
            shares.announced(publisher.says(b"forged %d" % number), 1, now=0.0)
    assert len(remarks(shares)) == MAX_REMARKS


def test_whose_signatures_are_checked_first() -> None:
    shares = table(knowing(FIRST))
    assert shares.counts(FIRST.public)
    assert not shares.counts(SECOND.public)
    shares.want(b"wanted")
    news(shares, SECOND.says(b"other"), 0.0)
    news(shares, THIRD.says(b"wanted"), 0.0)
    shares.settle(now=SETTLE)
    assert not shares.counts(SECOND.public)
    assert shares.counts(THIRD.public)
    assert not table(Trust(demanded=FIRST.fingerprint, pins={b"x": SECOND.pin})).counts(SECOND.public)


# --- what is listed --------------------------------------------------------------------------------------------------


def test_all_publishers_of_a_name_are_listed() -> None:
    shares = table(knowing(SECOND))
    for publisher in (THIRD, SECOND, FIRST):
        news(shares, publisher.says(version=5))
    news(shares, FIRST.says(b"aside"))
    assert [(a.name, a.publisher, standing) for a, standing in shares.listing()] == [
        (b"aside", FIRST.public, Standing.NEW),
        (b"data", FIRST.public, Standing.OTHER),
        (b"data", SECOND.public, Standing.KNOWN),
        (b"data", THIRD.public, Standing.OTHER),
    ]


def test_who_follows_upon_the_known_one_is_listed_as_known() -> None:
    shares = table(knowing(FIRST))
    news(shares, SECOND.says(links=chain(FIRST, SECOND)))
    news(shares, FIRST.says(version=9))
    assert [standing for _, standing in shares.listing()] == [Standing.KNOWN, Standing.KNOWN]


def test_publishers_are_chosen_a_few_at_a_time() -> None:
    """Each choice may cost some milliseconds of signatures, and all else waits meanwhile."""
    shares, count = table(), 10 * MAX_CHOICES
    for number in range(count):
        news(shares, FIRST.says(b"%d" % number))
    for chosen in range(MAX_CHOICES, count + 1, MAX_CHOICES):
        assert len(shares.settle(now=SETTLE)) == MAX_CHOICES
        assert (shares.next_timeout() is None) == (chosen == count)


def test_without_room_nothing_is_chosen_again_and_again() -> None:
    shares = table()
    for number in range(MAX_SHARES):
        news(shares, FIRST.says(b"%d" % number))
    while shares.next_timeout() is not None:
        shares.settle(now=SETTLE)
    news(shares, FIRST.says(b"one more"), 1.0)
    assert shares.next_timeout() is None


# --- share keys ------------------------------------------------------------------------------------------------------

KEYS, OTHER_KEYS = ShareKeys(b"k" * 32), ShareKeys(b"o" * 32)


def keyed(announcement: Announcement, keys: ShareKeys | None) -> Announcement:
    return replace(announcement, keys=keys, key_check=keys.check(announcement.name) if keys else b"")


def keys_of(shares: ShareTable) -> ShareKeys | None:
    return shares.announcements()[b"data"].keys


def test_what_is_signed_later_says_which_share_key_there_is() -> None:
    shares = table(knowing(FIRST))
    recorded = [FIRST.says() for _ in range(5)]
    assert news(shares, recorded[0])
    news(shares, keyed(FIRST.says(), KEYS), 1.0)
    assert keys_of(shares) == KEYS
    (text,) = remarks(shares)
    assert "has changed the share key" in text
    for number, again in enumerate(recorded):
        assert not shares.announced(again, 1, now=2.0 + number * CHANGE_PAUSE).live
        shares.announced(keyed(FIRST.says(), KEYS), 1, now=2.5 + number * CHANGE_PAUSE)
    assert keys_of(shares) == KEYS


def test_servers_with_different_share_keys_do_not_change_it_all_the_time() -> None:
    shares = table(knowing(FIRST))
    changes, before = 0, None
    for second in range(300):
        shares.announced(keyed(FIRST.says(), (KEYS, OTHER_KEYS)[second % 2]), 1, now=float(second))
        changes, before = changes + (keys_of(shares) != before), keys_of(shares)
    assert changes <= 1 + 300 / CHANGE_PAUSE


def test_another_publisher_does_not_change_the_share_key() -> None:
    shares = believed(keyed(FIRST.says(), KEYS))
    news(shares, SECOND.says(), 1.0)
    news(shares, keyed(SECOND.says(), OTHER_KEYS), 1.0)
    assert keys_of(shares) == KEYS


# --- another mount has written something else ------------------------------------------------------------------------


def test_who_has_heard_only_the_new_key_goes_on_where_another_mount_wrote_the_old_one() -> None:
    shares = believed(SECOND.says(links=chain(FIRST, SECOND)))
    assert shares.pinned(b"data", FIRST.pin, shown=True)
    assert shares.announcements()[b"data"].publisher == SECOND.public
    (changed,) = [event for event in shares.events() if isinstance(event, KeyChanged)]
    assert (changed.before, changed.pin.fingerprint) == (FIRST.fingerprint, SECOND.fingerprint)
    assert FIRST.fingerprint in changed.pin.replaces


def test_that_a_share_is_taken_away_is_always_said() -> None:
    shares = table()
    for number in range(2 * MAX_REMARKS):
        for publisher in (FIRST, SECOND):
            news(shares, publisher.says(b"%d" % number))
    while shares.next_timeout() is not None:
        shares.settle(now=SETTLE)
    assert len(remarks(shares)) == MAX_REMARKS
    assert not shares.pinned(b"0", THIRD.pin, shown=True)
    assert len(remarks(shares)) == 1
