"""When announcements are due."""

from __future__ import annotations

from mcfs.protocol.ids import Group, Host
from mcfs.protocol.keys import ShareKeys
from mcfs.serve.announcer import KEYED, Announcer

CATALOGUE, SHARE, OTHER = (Group(bytes([i]) * 16) for i in (1, 2, 3))
A, B = Host(b"a" * 16), Host(b"b" * 16)


def announcer() -> Announcer:
    made = Announcer(CATALOGUE)
    made.publish(SHARE, b"share", now=0.0)
    made.publish(OTHER, b"other", now=0.0)
    return made


def run(a: Announcer, start: float, end: float) -> list[tuple[float, Group, bytes]]:
    now, out = start, []
    while now <= end:
        out += [(round(now, 3), *due) for due in a.due(now=now)]
        due = a.next_timeout()
        if due is None:
            break
        now = max(now + 0.001, due)
    return out


def test_nothing_is_announced_to_nobody() -> None:
    a = announcer()
    assert a.due(now=5.0) == []
    assert a.next_timeout() is None


def test_a_join_is_answered_at_once_and_then_every_second() -> None:
    a = announcer()
    a.joined(A, SHARE, now=7.0)
    assert run(a, 7.0, 9.5) == [(7.0, SHARE, b"share"), (8.0, SHARE, b"share"), (9.0, SHARE, b"share")]
    a.left(A, SHARE)
    assert a.next_timeout() is None


def test_a_second_listener_is_answered_at_once_too() -> None:
    a = announcer()
    a.joined(A, SHARE, now=7.0)
    a.due(now=7.0)
    a.joined(B, SHARE, now=7.3)
    assert a.due(now=7.3) == [(SHARE, b"share")]


def test_hosts_that_join_without_end_cause_no_flood() -> None:
    a = announcer()
    count = 0
    for step in range(1000):
        a.joined(A, SHARE, now=7.0 + step / 1000)
        count += len(a.due(now=7.0 + step / 1000))
        a.left(A, SHARE)
    assert 5 <= count <= 11


def test_the_catalogue_channel_carries_all_shares_in_turn() -> None:
    a = announcer()
    a.joined(A, CATALOGUE, now=2.0)
    sent = run(a, 2.0, 3.9)
    assert [name for _, _, name in sent] == [b"share", b"other"] * 2
    assert {group for _, group, _ in sent} == {CATALOGUE}
    assert sent[2][0] >= 3.0


def test_a_new_version_is_announced_three_times_at_once() -> None:
    a = announcer()
    a.joined(A, SHARE, now=0.0)
    a.due(now=0.0)
    a.publish(SHARE, b"share", now=0.5)
    assert len(run(a, 0.5, 0.6)) == 3
    assert len(run(a, 0.6, 1.7)) == 1


def test_what_is_withdrawn_is_not_announced() -> None:
    a = announcer()
    a.joined(A, CATALOGUE, now=0.0)
    a.withdraw(OTHER)
    assert {name for _, _, name in run(a, 0.0, 3.0)} == {b"share"}
    assert OTHER not in a


def test_a_catalogue_for_each_key() -> None:
    a = announcer()
    keyed, sealed, keys = Group(b"k" * 16), Group(b"s" * 16), ShareKeys(bytes(32))
    a.publish(sealed, b"sealed", now=0.0, catalogue=keyed, keys=keys)
    assert keyed in a
    a.joined(A, CATALOGUE, now=1.0)
    assert {name for _, _, name in run(a, 1.0, 3.5)} == {b"share", b"other"}
    a.joined(B, keyed, now=4.0)
    assert {name for _, group, name in run(a, 4.0, 6.0) if group == keyed} == {b"sealed"}
    assert list(a.listeners(keyed)) == [B]
    assert dict(a.groups())[keyed] == {B}
    a.joined(A, sealed, now=6.0)
    a.joined(A, SHARE, now=6.0)
    assert a.beacon_channels(1) == [(SHARE, None), (sealed, keys)]
    a.withdraw(sealed)
    a.left(A, CATALOGUE)
    a.left(A, SHARE)
    assert run(a, 7.0, 9.0) == []


def test_that_something_has_a_key_is_told_to_who_asks() -> None:
    a, asked = announcer(), Group(b"?" * 16)
    a.tell_keyed(asked)
    a.tell_keyed(asked)
    assert a.due(now=1.0) == []
    a.joined(A, asked, now=2.0)
    assert run(a, 2.0, 4.5) == [(2.0, asked, KEYED), (3.0, asked, KEYED), (4.0, asked, KEYED)]
    a.silence(frozenset((b"share", b"other")), now=5.0)
    assert (asked, KEYED) in a.due(now=6.0), "whoever sends the shares"
    a.left(A, asked)
    assert run(a, 7.0, 9.0) == []
