"""What the fetcher asks for and when, with literal times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mcfs.fetch.batches import HURRY, TICK
from mcfs.fetch.channels import Changes
from mcfs.fetch.fetcher import SILENT_PLACES, UNHEARD, UNHEARD_BESIDE, Fetcher, Limits
from mcfs.fetch.fetchevents import Assembled, Failed
from mcfs.fetch.pace import Reception, Trail
from mcfs.fetch.wanted import NEVER
from mcfs.protocol import fec, wire
from mcfs.protocol.errors import Gone, TimedOut
from mcfs.protocol.ids import MIN_BLOCK_SIZE, Digest, Group, Host, Node, ObjectRef
from mcfs.protocol.keys import ShareKeys
from mcfs.protocol.seal import NodeSeal, seal_control

SERVER, LIAR = Host(b"s" * 16), Host(b"l" * 16)
REF = ObjectRef(1000 * MIN_BLOCK_SIZE, MIN_BLOCK_SIZE, Digest(bytes(32)))
T = 1424


def node(index: int) -> Node:
    return Node(REF, 0, index)


def group(index: int) -> Group:
    return Group(index.to_bytes(16, "big"))


def want(f: Fetcher, *indexes: int, now: float = 0.0, origin: bytes = b"o", urgent: bool = False) -> None:
    for index in indexes:
        f.want(node(index), group(index), origin, urgent=urgent, now=now)


def datagrams(index: int, first: int = 0, last: int | None = None) -> fec.Symbols:
    data = np.frombuffer(bytes([index % 256]) * node(index).size, dtype=np.uint8)
    k = -(-len(data) // T)
    padded = np.zeros(k * T, dtype=np.uint8)
    padded[: len(data)] = data
    last = k if last is None else last
    symbols = padded.reshape(k, T)[first:last]
    return wire.frame(len(data), np.arange(first, last, dtype=np.uint32), symbols)


def joins(changes: Changes | None) -> set[int]:
    return {int.from_bytes(g, "big") for g in changes.joins} if changes else set()


def test_wants_of_one_moment_are_joined_in_one_batch() -> None:
    f = Fetcher(Limits())
    want(f, 1, 2, 3)
    assert joins(f.changes(now=0.0)) == {1, 2, 3}
    assert f.changes(now=0.0) is None


def test_batches_are_limited_to_one_per_tick_after_a_few() -> None:
    f = Fetcher(Limits())
    made = []
    for step in range(100):
        now = step * 0.005
        want(f, step, now=now)
        if f.changes(now=now):
            made.append(now)
    assert made[:3] == [0.0, 0.005, 0.01]
    assert len(made) <= 3 + 0.5 / TICK
    assert (np.diff(made[3:]) >= TICK - 0.0001).all()


def batch_times(f: Fetcher, *, awaited: bool) -> list[float]:
    """When batches are made for somebody who wants another node every 5 ms."""
    made = []
    for step in range(100):
        now = step * 0.005
        f.want(node(step), group(step), b"o", urgent=True, awaited=awaited, now=now)
        if f.changes(now=now):
            made.append(now)
    return made


def test_what_somebody_waits_for_is_joined_sooner() -> None:
    gaps = np.diff(batch_times(Fetcher(Limits(max_groups=256)), awaited=True)[3:])
    assert gaps == pytest.approx(HURRY)


def test_what_is_only_sent_for_others_is_not() -> None:
    gaps = np.diff(batch_times(Fetcher(Limits(max_groups=256)), awaited=False)[3:])
    assert gaps == pytest.approx(TICK)


def test_on_a_kernel_with_slow_timers_there_is_no_hurry() -> None:
    gaps = np.diff(batch_times(Fetcher(Limits(max_groups=256, hurry=TICK)), awaited=True)[3:])
    assert gaps == pytest.approx(TICK)


def test_what_is_fetched_ahead_hurries_when_somebody_begins_to_wait() -> None:
    f = Fetcher(Limits())
    for index in range(4):
        want(f, index, now=0.0)
        f.changes(now=0.0)
    f.handle_timeout(now=0.0)
    assert f.next_timeout(now=0.0) == pytest.approx(TICK)
    f.want(node(3), group(3), b"o", urgent=True, awaited=True, now=0.0)
    assert f.next_timeout(now=0.0) == pytest.approx(HURRY)
    assert joins(f.changes(now=HURRY)) == {3}


def test_no_more_groups_than_allowed() -> None:
    f = Fetcher(Limits(max_groups=5))
    want(f, *range(20))
    assert len(joins(f.changes(now=0.0))) == 5
    f.receive(group(0), SERVER, datagrams(0), now=0.01)
    changes = f.changes(now=0.1)
    assert changes is not None
    assert changes.leaves == (group(0),)
    assert joins(changes) == {5}


def test_no_more_bytes_than_the_buffer_takes() -> None:
    f = Fetcher(Limits(max_bytes=3 * MIN_BLOCK_SIZE))
    want(f, *range(20))
    assert len(joins(f.changes(now=0.0))) == 3


def test_a_buffer_smaller_than_a_block_still_takes_one() -> None:
    f = Fetcher(Limits(max_bytes=1000))
    want(f, 1, 2)
    assert len(joins(f.changes(now=0.0))) == 1


def test_urgent_nodes_are_joined_first() -> None:
    f = Fetcher(Limits(max_groups=2))
    want(f, *range(10))
    want(f, 7, 8, urgent=True)
    assert joins(f.changes(now=0.0)) == {7, 8}


def test_symbols_become_a_node_and_the_channel_is_left() -> None:
    f = Fetcher(Limits())
    want(f, 1)
    f.changes(now=0.0)
    f.receive(group(1), SERVER, datagrams(1, 0, 20), now=0.01)
    assert list(f.events()) == []
    f.receive(group(1), SERVER, datagrams(1, 20), now=0.02)
    (event,) = f.events()
    assert isinstance(event, Assembled)
    assert bytes(event.data) == b"\x01" * MIN_BLOCK_SIZE
    f.accept(node(1), now=0.02)
    assert f.changes(now=0.03) is None, "leaves ride with the next join, or go after a tick"
    changes = f.changes(now=0.02 + TICK)
    assert changes is not None
    assert changes.leaves == (group(1),)


def test_a_wrong_node_sets_its_source_aside_and_the_honest_source_completes() -> None:
    f = Fetcher(Limits())
    want(f, 1)
    f.changes(now=0.0)
    f.receive(group(1), LIAR, datagrams(1), now=0.01)
    list(f.events())
    assert f.reject(node(1), LIAR, now=0.01)
    assert f.changes(now=0.1) is None, "it stays in the channel"
    f.receive(group(1), LIAR, datagrams(1), now=0.21)
    assert list(f.events()) == []
    f.receive(group(1), SERVER, datagrams(1), now=0.22)
    (event,) = f.events()
    assert isinstance(event, Assembled)
    assert event.source == SERVER


def test_symbols_of_two_sources_are_never_mixed() -> None:
    f = Fetcher(Limits())
    want(f, 1)
    f.changes(now=0.0)
    f.receive(group(1), LIAR, datagrams(1, 0, 30), now=0.01)
    f.receive(group(1), SERVER, datagrams(1, 30), now=0.02)
    assert list(f.events()) == []


def test_silence_fails_after_the_timeout() -> None:
    f = Fetcher(Limits(timeout=3.0))
    want(f, 1)
    now = 0.0
    events: list[object] = []
    while not events:
        f.changes(now=now)
        f.handle_timeout(now=now)
        events = list(f.events())
        now += TICK
    (event,) = events
    assert isinstance(event, Failed)
    assert isinstance(event.error, TimedOut)
    assert 3.0 < now < 3.2
    assert not f.wants(node(1))


def test_symbols_extend_the_timeout_but_not_max_wait() -> None:
    f = Fetcher(Limits(timeout=1.0, max_wait=10.0))
    want(f, 1)
    now, sent, failed_at = 0.0, 0, None
    while failed_at is None and now < 20:
        f.changes(now=now)
        f.handle_timeout(now=now)
        if now > sent * 0.5:
            f.receive(group(1), SERVER, datagrams(1, sent, sent + 1), now=now)
            sent += 1
        failed_at = next((now for _ in f.events()), None)
        now += TICK
    assert failed_at == pytest.approx(10.0, abs=0.2)


def test_a_silent_server_is_asked_again_with_growing_pauses() -> None:
    f = Fetcher(Limits(timeout=30.0))
    want(f, 1)
    batches = []
    for step in range(300):
        now = step * TICK
        f.handle_timeout(now=now)
        if group(1) in ((f.changes(now=now) or Changes((), ())).joins):
            batches.append(now)
    gaps = np.diff(batches)
    assert batches[0] == 0.0
    assert gaps[0] == pytest.approx(0.5, abs=0.15)
    assert (gaps <= 3.3).all()
    assert gaps[-1] > 2.5


def test_a_silent_share_does_not_take_the_places_of_a_live_one() -> None:
    f = Fetcher(Limits(max_groups=16))
    want(f, *range(100, 120), origin=b"dead")
    for step in range(100):
        now = step * TICK
        f.handle_timeout(now=now)
        f.changes(now=now)
    assert f.groups <= SILENT_PLACES
    want(f, *range(10), origin=b"live", now=4.0)
    assert joins(f.changes(now=4.0)) >= set(range(10))


def test_gone_is_told_to_those_who_wait() -> None:
    f = Fetcher(Limits())
    want(f, 1)
    f.changes(now=0.0)
    body = f.receive(group(1), SERVER, np.frombuffer(wire.control(wire.GONE, b"xy"), np.uint8).reshape(1, -1), now=0.1)
    assert body is not None
    f.gone(group(1), now=0.1)
    (event,) = f.events()
    assert isinstance(event, Failed)
    assert isinstance(event.error, Gone)


def test_what_is_given_up_is_left_and_forgotten() -> None:
    f = Fetcher(Limits())
    want(f, 1)
    f.changes(now=0.0)
    f.unwant(node(1), now=0.1)
    changes = f.changes(now=0.2)
    assert changes is not None
    assert changes.leaves == (group(1),)
    assert f.next_timeout(now=0.3) is None
    f.receive(group(1), SERVER, datagrams(1), now=0.3)
    assert list(f.events()) == []
    assert f.counters.foreign_datagrams == 47


def test_a_held_channel_is_joined_beside_the_cap_and_stays() -> None:
    f = Fetcher(Limits(max_groups=1))
    f.hold(group(500))
    want(f, 1)
    assert joins(f.changes(now=0.0)) == {1, 500}
    f.rejoin(group(500), now=1.0)
    changes = f.changes(now=1.0 + TICK)
    assert changes is not None
    assert changes.leaves == (group(500),)
    assert joins(f.changes(now=1.2)) == {500}
    f.release(group(500), now=2.0)
    changes = f.changes(now=2.1)
    assert changes is not None
    assert changes.leaves == (group(500),)


@pytest.mark.parametrize("size", [3, 12, 13, 19, 21, 1436])
def test_garbage_is_counted_and_dropped(size: int) -> None:
    f = Fetcher(Limits())
    want(f, 1)
    f.changes(now=0.0)
    f.receive(group(1), SERVER, np.full((5, size), 0xAA, dtype=np.uint8), now=0.1)
    assert f.counters.bad_datagrams == 5
    assert list(f.events()) == []


def test_a_node_that_was_queued_for_long_has_its_time_once_it_is_joined() -> None:
    f = Fetcher(Limits(timeout=1.0, max_groups=1))
    want(f, 1, 2)
    f.changes(now=0.0)
    for step in range(1, 25):  # node 1 comes, slowly
        f.receive(group(1), SERVER, datagrams(1, step, step + 1), now=step * 0.1)
        f.handle_timeout(now=step * 0.1)
    f.receive(group(1), SERVER, datagrams(1), now=2.5)
    assert [type(event) for event in f.events()] == [Assembled]
    assert joins(f.changes(now=2.6)) == {2}
    f.handle_timeout(now=2.65)
    assert list(f.events()) == []
    f.handle_timeout(now=3.6)
    assert [type(event) for event in f.events()] == [Failed]


def test_messages_that_are_taken_together_count_as_those_taken_one_by_one() -> None:
    """The kernel joins datagrams to messages, and messages of one shape come as one array."""
    figures = []
    for together in (False, True):
        f = Fetcher(Limits())
        f.paces.announced(b"o", b"server", 1 << 30, now=0.0)
        want(f, 0)
        f.changes(now=0.0)
        sent = datagrams(0)
        pieces = [sent[at : at + 8] for at in range(0, len(sent) // 8 * 8, 8)]
        for piece in [np.stack(pieces)] if together else pieces:
            f.receive(group(0), SERVER, piece, now=0.1)
        reception = f.paces.reception(b"o")
        assert reception is not None
        [trail] = f._passes._trailed
        assert trail.trail is not None
        figures.append((f.counters.symbols, trail.trail.sent, trail.trail.arrived))
    assert figures[0] == figures[1]


# --- shares with a key -----------------------------------------------------------------------------------------------

KEYS = ShareKeys(b"k" * 32)


def sealed_fetch(index: int = 1) -> tuple[Fetcher, bytes, fec.Symbols]:
    """A fetcher that has joined the channel of a node, what is sent of the node, and the datagrams."""
    f, seal = Fetcher(Limits()), NodeSeal(KEYS, node(index))
    f.want(node(index), group(index), b"o", urgent=True, seal=seal, now=0.0)
    f.changes(now=0.0)
    sealed = seal.seal(bytes(range(256)) * (MIN_BLOCK_SIZE // 256), Digest(bytes(32)))
    k = -(-len(sealed) // T)
    source = np.frombuffer(sealed.ljust(k * T, b"\0"), dtype=np.uint8).reshape(k, T)
    return f, sealed, wire.frame(len(sealed), np.arange(k, dtype=np.uint32), source, seal.tag_key)


def test_a_sealed_node_is_assembled_and_not_opened() -> None:
    f, sealed, sent = sealed_fetch()
    f.receive(group(1), SERVER, sent, now=0.1)
    (event,) = f.events()
    assert isinstance(event, Assembled)
    assert event.data == sealed
    assert event.seal is not None


def forged_ones(sent: fec.Symbols) -> fec.Symbols:
    forged = sent.copy()
    forged[:, 20] ^= 0xFF
    return forged


def test_forged_symbols_touch_no_decoder() -> None:
    """Under the server's own address, and joined by the kernel with what is genuine."""
    f, sealed, sent = sealed_fetch()
    forged = forged_ones(sent)
    mixed = np.stack([row for pair in zip(forged, sent, strict=True) for row in pair])
    f.receive(group(1), SERVER, forged[:20], now=0.1)
    assert list(f.events()) == []
    assert f.under_way == len(sealed), "nothing has come"
    f.receive(group(1), SERVER, mixed[:40], now=0.2)
    messages: Any = mixed[40:60].reshape(2, 10, -1)
    f.receive(group(1), LIAR, messages, now=0.2)
    f.receive(group(1), SERVER, mixed[40:], now=0.2)
    (event,) = f.events()
    assert isinstance(event, Assembled)
    assert event.data == sealed
    assert f.counters.forged_datagrams == 20 + len(sent) + 10
    assert f.counters.failed_nodes == 0


@pytest.mark.parametrize("still_joined", [True, False])
def test_forged_symbols_between_genuine_ones_cost_one_pass(still_joined: bool) -> None:
    """Those that nobody looked at are found when the node is opened; then all are looked at, for a while."""
    f, sealed, sent = sealed_fetch()
    mixed = np.vstack([sent[:5], forged_ones(sent[5:6]), sent[6:]])
    f.receive(group(1), SERVER, mixed, now=0.1)
    (event,) = f.events()
    assert isinstance(event, Assembled)
    assert event.data != sealed
    now = 0.1
    if not still_joined:
        now = 0.2
        assert f.changes(now=now) is not None
    assert f.reject(node(1), SERVER, now=now)
    assert f.under_way == len(sealed), "nothing is kept of it"
    if not still_joined:
        f.changes(now=0.4)
    f.receive(group(1), SERVER, mixed, now=0.5)
    assert list(f.events()) == []
    assert f.counters.forged_datagrams == 1
    f.receive(group(1), SERVER, sent[4:7], now=0.5)
    (event,) = f.events()
    assert isinstance(event, Assembled)
    assert event.data == sealed


def test_what_was_forged_says_nothing_of_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[Trail]()
    monkeypatch.setattr(Reception, "passed", lambda _self, trail: told.append(trail))
    f, sealed, sent = sealed_fetch()
    f.paces.announced(b"o", b"server", 1_000_000_000, now=0.0)
    f.receive(group(1), SERVER, np.vstack([sent[:5], forged_ones(sent[5:6]), sent[6:]]), now=0.1)
    assert [type(event) for event in f.events()] == [Assembled]
    f.reject(node(1), SERVER, now=0.1)
    f.receive(group(1), SERVER, sent, now=0.2)
    (event,) = f.events()
    assert isinstance(event, Assembled)
    assert event.data == sealed
    f.handle_timeout(now=0.3)
    assert [(trail.begun, trail.count) for trail in told] == [(0.2, len(sent))]


def test_what_was_forged_is_no_fault_of_the_source() -> None:
    """Who is no known server is set aside after a wrong node, but not if others may have sent in its name."""
    f, sealed, sent = sealed_fetch()
    f.receive(group(1), SERVER, np.vstack([sent[:5], forged_ones(sent[5:6]), sent[6:]]), now=0.1)
    (event,) = f.events()
    f.reject(node(1), SERVER, now=0.1)
    f.receive(group(1), SERVER, sent, now=0.11)
    (event,) = f.events()
    assert isinstance(event, Assembled)
    assert event.data == sealed
    assert f.reject(node(1), SERVER, now=0.12)
    f.receive(group(1), SERVER, sent, now=0.13)
    assert list(f.events()) == [], "this time all tags were right, so it was the source"


def test_symbols_of_another_node_or_without_a_tag_are_no_symbols() -> None:
    f, _, sent = sealed_fetch(1)
    _, _, others = sealed_fetch(2)
    f.receive(group(1), SERVER, others, now=0.1)
    f.receive(group(1), SERVER, datagrams(1), now=0.1)
    f.receive(group(1), SERVER, sent[:, :20], now=0.1)
    f.receive(group(1), SERVER, sent[:0], now=0.1)
    assert list(f.events()) == []
    assert f.counters.symbols == 0
    assert f.counters.forged_datagrams + f.counters.bad_datagrams >= len(others) + len(datagrams(1)) + len(sent)


def test_tagged_symbols_are_none_where_there_is_no_key() -> None:
    _f, _, sent = sealed_fetch()
    plain = Fetcher(Limits())
    want(plain, 1)
    plain.changes(now=0.0)
    plain.receive(group(1), SERVER, sent, now=0.1)
    assert plain.counters.symbols == 0


def test_a_sealed_gone_does_not_hide_symbols_that_come_with_it() -> None:
    """Anybody can send what looks like one; the caller finds out."""
    index, seal = 1, NodeSeal(KEYS, node(1))
    f = Fetcher(Limits())
    f.want(node(index), group(index), b"o", urgent=True, seal=seal, now=0.0)
    f.changes(now=0.0)
    gone = seal_control(wire.control(wire.GONE, b"body"), KEYS, group(index))
    t = len(gone) - wire.HEADER_SIZE - wire.TAG_SIZE
    assert t % 8 == 0, "a symbol can have its size"
    sent = wire.frame(
        node(index).size + 16, np.arange(4, dtype=np.uint32), np.ones((4, t), dtype=np.uint8), seal.tag_key
    )
    rows = np.vstack([sent[:2], np.frombuffer(gone, dtype=np.uint8)[None], sent[2:]])
    assert f.receive(group(index), SERVER, rows, now=0.1) == gone
    assert f.counters.forged_datagrams == 0


def test_what_has_come_of_a_sealed_node_counts_with_its_tags() -> None:
    f, _sealed, sent = sealed_fetch()
    f.receive(group(1), SERVER, sent[:10], now=0.1)
    assert f.under_way == len(sent) * T - 10 * T
    assert f.counters.symbols == 10


# --- nodes that a server does not know ---


def unheard_at(f: Fetcher, end: float, *, since: float = NEVER, others: int = 0) -> float | None:
    """When node 1, wanted at 0, is first taken as unknown to its server; `others` nodes of its origin come each second,
    one after the other."""
    step, came = 0.02, 0
    for turn in range(int(end / step)):
        now = turn * step
        f.handle_timeout(now=now)
        f.changes(now=now)
        if f.is_unheard(node(1), since=since, now=now):
            return now
        if others and now * others > came:
            came += 1
            want(f, 100 + came, now=now)
            f.changes(now=now)
            f.receive(group(100 + came), SERVER, datagrams(100 + came), now=now)
            for event in f.events():
                f.accept(event.node, now=now)
    return None


def test_what_a_server_says_nothing_of_is_unheard_after_a_while() -> None:
    f = Fetcher(Limits())
    want(f, 1)
    at = unheard_at(f, 20.0)
    assert at is not None
    assert UNHEARD < at < UNHEARD + 2


def test_of_a_server_that_was_away_only_the_time_since_counts() -> None:
    """It has to have heard a join, too."""
    f = Fetcher(Limits())
    want(f, 1)
    at = unheard_at(f, 30.0, since=9.0)
    assert at is not None
    assert 9.0 + UNHEARD < at < 9.0 + UNHEARD + 4


def test_what_may_be_behind_other_nodes_is_unheard_later() -> None:
    f = Fetcher(Limits())
    want(f, 1)
    at = unheard_at(f, 40.0, others=5)
    assert at is not None
    assert at > UNHEARD_BESIDE


def test_what_waits_for_room_of_our_own_is_not_unheard() -> None:
    f = Fetcher(Limits(max_groups=1))
    want(f, 1)
    f.changes(now=0.0)
    for turn in range(500):
        now = turn * 0.02
        f.handle_timeout(now=now)
        if turn == 10:
            f.want(node(2), group(2), b"other", urgent=True, now=now)
        if not f.is_unheard(node(1), since=NEVER, now=now):
            f.changes(now=now)
            f.queued([group(2)], now=now)
            continue
        raise AssertionError(now)
