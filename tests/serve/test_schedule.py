"""The sending rule, in literal times."""

from __future__ import annotations

import pytest

from mcfs.protocol.ids import MIN_BLOCK_SIZE, Digest, Group, Host, Node, ObjectRef
from mcfs.serve.channel import Channel
from mcfs.serve.holding import FIRST_HOLD, HOLD_UP, MAX_HOLD
from mcfs.serve.holdoff import HOLD_OFF
from mcfs.serve.payload import Payload, PayloadCache
from mcfs.serve.queues import MAX_LOAD_AHEAD, PASSES_BEFORE_GREEDY
from mcfs.serve.schedule import LEAST_SHARE, LIGHT_CHANNELS, MODEST_CHANNELS, Scheduler, Transmission

T = 1024
K = MIN_BLOCK_SIZE // T
REF = ObjectRef(200 * MIN_BLOCK_SIZE, MIN_BLOCK_SIZE, Digest(bytes(32)))
A, B = Host(b"a" * 16), Host(b"b" * 16)


def channel(index: int, pace: int = 0) -> Channel:
    return Channel(Group(bytes([index, pace]) * 8), Node(REF, 0, index), pace)


def scheduler(rate: float = 1e12, share: float = 0.0, symbol_size: int = T, *, proxies: bool = False) -> Scheduler:
    made = Scheduler(
        rate=rate, payloads=PayloadCache(), max_symbol_size=symbol_size, repair_start=lambda: 0, proxies=proxies
    )
    made.shares = [share] * 8
    return made


def load_all(s: Scheduler) -> None:
    while nodes := s.to_load():
        for node in nodes:
            s.loaded(Payload(node, bytes(node.size), T))


def drain(s: Scheduler, now: float) -> list[Transmission]:
    """Everything that is due at `now`, with as much loading as that takes."""
    out, idle = [], 0
    while idle < 2:
        load_all(s)
        transmission = s.next(now)
        out += [transmission] if transmission else []
        idle = 0 if transmission else idle + 1
    return out


def esis(transmissions: list[Transmission]) -> list[tuple[bool, int]]:
    return [(t.repair, t.start + i) for t in transmissions for i in range(t.count)]


def test_a_join_is_answered_by_one_pass_of_source_symbols() -> None:
    s = scheduler()
    s.joined(A, channel(0), now=0.0)
    assert esis(drain(s, 0.0)) == [(False, i) for i in range(K)]
    assert drain(s, HOLD_OFF - 0.001) == []


def begun(s: Scheduler, count: int) -> list[int]:
    """The blocks whose passes begin first, of 128 symbols each, which is not small."""
    order: list[int] = []
    now = 0.0
    while len(order) < count:
        while nodes := s.to_load():
            for node in nodes:
                s.loaded(Payload(node, bytes(node.size), T // 2))
        transmission = s.next(now)
        if transmission is not None and transmission.start == 0:
            order.append(transmission.group[0])
        now += 0.001
    return order


def test_a_host_that_wants_too_much_has_every_fourth_turn() -> None:
    s = scheduler(symbol_size=T // 2)
    for index in range(MODEST_CHANNELS + 1):
        s.joined(A, channel(index), now=0.0)
    for index in range(150, 166):
        s.joined(B, channel(index), now=0.0)
    theirs = [index for index in begun(s, 2 * (PASSES_BEFORE_GREEDY + 1)) if index >= 150]
    assert len(theirs) == 2 * PASSES_BEFORE_GREEDY


def test_who_reads_a_little_has_every_second_turn() -> None:
    s = scheduler(symbol_size=T // 2)
    for index in range(100):
        s.joined(A, channel(index), now=0.0)
    for index in range(150, 150 + LIGHT_CHANNELS):
        s.joined(B, channel(index), now=0.0)
    order = begun(s, 20)
    assert [index >= 150 for index in order[:10]].count(True) == LIGHT_CHANNELS
    assert order[0] < 5 or order[1] < 5, "the others have the other turns"


def test_many_who_read_a_little_leave_half_of_the_link_to_others() -> None:
    s = scheduler(symbol_size=T // 2)
    for index in range(100):
        s.joined(A, channel(index), now=0.0)
    for number in range(40):
        s.joined(Host(bytes([number]) * 16), channel(150 + number), now=0.0)
    order = begun(s, 30)
    assert 13 <= sum(index >= 150 for index in order) <= 17


def test_one_who_begins_does_not_wait_for_what_another_has_queued() -> None:
    s = scheduler(symbol_size=T // 2)
    for index in range(100):
        s.joined(A, channel(index), now=0.0)
    begun(s, 1)
    s.joined(B, channel(150), now=0.01)
    order = begun(s, 4)
    assert 150 in order[:2]


def test_what_another_wants_too_is_not_held_up_by_a_greedy_host() -> None:
    s = scheduler(symbol_size=T // 2)
    for index in range(MODEST_CHANNELS + 1):
        s.joined(A, channel(index), now=0.0)
    s.joined(B, channel(100), now=0.0)
    assert 100 in begun(s, 2)


def test_a_host_is_greedy_only_while_it_listens_to_too_much() -> None:
    s = scheduler()
    for index in range(MODEST_CHANNELS + 1):
        s.joined(A, channel(index), now=0.0)
    s.left(A, channel(0).group, now=0.0)
    s.joined(A, channel(199), now=0.0)
    s.left(A, channel(199).group, now=0.0)
    assert len(s._channels_of[A]) == MODEST_CHANNELS
    for index in range(1, MODEST_CHANNELS + 1):
        s.left(A, channel(index).group, now=0.0)
    assert s._channels_of == {}


def test_no_more_is_loaded_ahead_than_stays_in_memory() -> None:
    s = scheduler()
    for index in range(200):
        s.joined(A, channel(index), now=0.0)
    assert len(s.to_load()) == MAX_LOAD_AHEAD
    assert s.to_load() == []


def test_what_is_sent_or_left_makes_room_for_loading() -> None:
    s = scheduler()
    for index in range(100):
        s.joined(A, channel(index), now=0.0)
    nodes = s.to_load()
    for node in nodes:
        s.loaded(Payload(node, bytes(node.size), T))
    assert s.to_load() == []
    s.next(0.0)
    assert [node.index for node in s.to_load()] == [MAX_LOAD_AHEAD]
    s.left(A, channel(10).group, now=0.0)
    assert [node.index for node in s.to_load()] == [MAX_LOAD_AHEAD + 1]
    for index in range(100):
        s.left(A, channel(index).group, now=0.0)
    s.joined(A, channel(150), now=0.0)
    assert [node.index for node in s.to_load()] == [150]


def test_a_slow_pace_class_does_not_hold_up_the_loading_for_a_fast_one() -> None:
    s = scheduler()
    for index in range(100):
        s.joined(A, channel(index, 7), now=0.0)
    s.to_load()
    s.joined(B, channel(150), now=0.0)
    assert [node.index for node in s.to_load()] == [150]


def test_nothing_is_sent_before_the_payload_is_loaded() -> None:
    s = scheduler()
    s.joined(A, channel(0), now=0.0)
    assert s.next(0.0) is None
    assert s.next_timeout(0.0) is None


def test_a_host_that_joins_later_gets_the_whole_node_from_there() -> None:
    s = scheduler()
    s.joined(A, channel(0), now=0.0)
    load_all(s)
    first = s.next(0.0)
    assert first is not None
    s.joined(B, channel(0), now=0.0)
    rest = esis(drain(s, 0.0))
    assert rest == [(False, i % K) for i in range(first.count, first.count + K)]


def test_a_leave_ends_the_pass() -> None:
    s = scheduler()
    s.joined(A, channel(0), now=0.0)
    load_all(s)
    assert s.next(0.0) is not None
    s.left(A, channel(0).group, now=0.0)
    assert drain(s, 0.0) == []
    assert s.channels == 0
    assert drain(s, 10.0) == []


def test_the_leave_of_the_late_one_ends_what_only_it_needed() -> None:
    s = scheduler()
    s.joined(A, channel(0), now=0.0)
    load_all(s)
    sent = s.next(0.0)
    assert sent is not None
    s.joined(B, channel(0), now=0.0)
    s.left(B, channel(0).group, now=0.0)
    assert len(esis(drain(s, 0.0))) == K - sent.count


def test_a_listener_that_stays_gets_bursts_of_new_repair_symbols_that_double() -> None:
    s = scheduler()
    s.joined(A, channel(0), now=0.0)
    drain(s, 0.0)
    first = esis(drain(s, HOLD_OFF))
    second = esis(drain(s, 2 * HOLD_OFF + 0.01))
    assert first == [(True, i) for i in range(8)]
    assert second == [(True, 8 + i) for i in range(16)]


def test_repair_numbers_go_on_after_a_leave() -> None:
    s = scheduler()
    s.joined(A, channel(0), now=0.0)
    drain(s, 0.0)
    drain(s, HOLD_OFF)
    s.left(A, channel(0).group, now=0.5)
    s.joined(B, channel(0), now=0.5)
    drain(s, 1.0)
    assert esis(drain(s, 1.0 + HOLD_OFF))[0] == (True, 8)


def test_after_k_repair_symbols_without_a_report_the_querier_is_asked() -> None:
    s = scheduler()
    s.joined(A, channel(0), now=0.0)
    now, symbols = 0.0, 0
    for _ in range(200):
        symbols += sum(t.count for t in drain(s, now) if t.repair)
        now += 0.1
    assert K <= symbols <= 2 * K
    assert s.asks() == [channel(0).group]
    assert s.refreshed(A, [channel(0).group, channel(1).group], now=now) == [channel(1).group]
    assert drain(s, now + 3.0) != []


def test_late_bursts_go_behind_first_passes() -> None:
    s = scheduler()
    s.joined(A, channel(0), now=0.0)
    now = 0.0
    for _ in range(4):  # the pass and the three urgent bursts
        drain(s, now)
        now += HOLD_OFF + 0.001
    s.joined(A, channel(1), now=0.0)
    load_all(s)
    order = [t.group for t in drain(s, now + 10)]
    assert order[0] == channel(1).group
    assert order[-1] == channel(0).group


def test_urgent_bursts_go_before_first_passes() -> None:
    s = scheduler()
    s.joined(A, channel(0), now=0.0)
    drain(s, 0.0)
    s.joined(A, channel(1), now=0.0)
    load_all(s)
    assert next(t.repair for t in drain(s, HOLD_OFF + 0.001)) is True


def test_the_share_of_proactive_repair_rises_with_bursts_and_falls_with_passes() -> None:
    s = scheduler(share=0.1)
    s.joined(A, channel(0), now=0.0)
    sent = esis(drain(s, 0.0))
    assert sent == [(False, i) for i in range(K)] + [(True, i) for i in range(7)]
    assert s.shares[0] == pytest.approx(0.1 - 0.0004)
    drain(s, HOLD_OFF + 0.001)
    assert s.shares[0] == pytest.approx(0.1 - 0.0004 + 0.002)


def test_the_rate_is_kept() -> None:
    s = scheduler(rate=8e6)
    for i in range(8):
        s.joined(A, channel(i), now=0.0)
    now, bits = 0.0, 0
    while now < 0.5:
        load_all(s)
        transmission = s.next(now)
        if transmission is None:
            now = max(now + 1e-6, s.next_timeout(now) or now)
            continue
        bits += transmission.wire_bits
    assert 0.5 * 8e6 <= bits <= 0.5 * 8e6 + 3 * 65536 * 8


def test_a_slow_class_is_paced_at_a_fraction() -> None:
    s = scheduler(rate=8e8)
    for i in range(8):
        s.joined(A, channel(i, pace=3), now=0.0)
    now, bits = 0.0, 0
    while now < 0.004:
        load_all(s)
        transmission = s.next(now)
        if transmission is None:
            now = max(now + 1e-6, s.next_timeout(now) or now)
            continue
        bits += transmission.wire_bits
    assert bits <= 0.004 * 1e8 + 2 * 65536 * 8


def test_a_node_that_is_gone_is_told_once_a_second() -> None:
    s = scheduler()
    s.joined(A, channel(0), now=0.0)
    (node,) = s.to_load()
    s.gone(node, now=0.0)
    told = []
    for tenth in range(25):
        s.next(tenth / 10)
        told += s.told_gone()
    assert told == [channel(0).group] * 3


def test_leaves_while_loading_leave_nothing_behind() -> None:
    s = scheduler()
    s.joined(A, channel(0), now=0.0)
    (node,) = s.to_load()
    s.left(A, channel(0).group, now=0.0)
    s.joined(B, channel(0), now=0.0)
    assert s.to_load() == []
    s.loaded(Payload(node, bytes(node.size), T))
    assert len(esis(drain(s, MAX_HOLD))) == K


def test_a_payload_that_was_evicted_is_loaded_again() -> None:
    payloads = PayloadCache(max_bytes=1)
    s = Scheduler(rate=1e12, payloads=payloads, max_symbol_size=T, repair_start=lambda: 0)
    s.joined(A, channel(0), now=0.0)
    s.joined(A, channel(1), now=0.0)
    sent = drain(s, 0.0)
    assert sorted({t.group for t in sent}) == [channel(0).group, channel(1).group]
    assert len([e for e in esis(sent) if not e[0]]) == 2 * K
    assert [t.repair for t in drain(s, HOLD_OFF + 0.001)] == [True, True]


def test_hosts_that_come_too_late_for_one_another_are_waited_for() -> None:
    s = scheduler()

    def passes(start: float) -> int:
        symbols = 0
        for i in range(20):  # two hosts, 30 ms apart, on an idle link
            now = start + i
            s.joined(A, channel(i), now=now)
            symbols += len(esis(drain(s, now)))
            symbols += len(esis(drain(s, now + 0.029)))
            s.joined(B, channel(i), now=now + 0.03)
            symbols += len(esis(drain(s, now + 0.03)))
            symbols += len(esis(drain(s, now + 0.06)))
            for host in (A, B):
                s.left(host, channel(i).group, now=now + 0.14)
        return symbols // K

    passes(0.0)
    assert s.hold() > 0.03
    assert passes(100.0) <= 22
    assert 0 < s.hold() <= MAX_HOLD


def test_a_channel_is_held_until_all_who_read_have_joined_it() -> None:
    s = scheduler()
    for i in range(20):  # each of two hosts gets a pass of its own, so new channels are held from now on
        for host, now in ((A, i), (B, i + 0.2)):
            s.joined(host, channel(i), now=now)
            drain(s, now + 0.19)
        for host in (A, B):
            s.left(host, channel(i).group, now=i + 0.4)
    assert s.hold() > 0.1
    s.joined(A, channel(50), now=20.0)
    assert drain(s, 20.0 + s.hold() - 0.01) == []
    s.joined(B, channel(50), now=20.0 + s.hold() - 0.01)
    assert len(esis(drain(s, 20.0 + s.hold() - 0.005))) == K, "one pass for both, and at once"
    for host in (A, B):
        s.left(host, channel(50).group, now=20.3)
    s.joined(A, channel(51), now=30.0)
    assert len(esis(drain(s, 30.0))) == K, "B has stopped reading"


def test_a_lone_host_never_waits() -> None:
    s = scheduler()
    for i in range(100):
        s.joined(A, channel(i % 8), now=i / 10)
        s.left(A, channel(i % 8).group, now=0.0)
    assert s.hold() == 0.0


def test_a_proxy_that_stays_into_the_third_burst_is_waited_for() -> None:
    s = scheduler(proxies=True)
    for i in range(4):  # somebody behind it has come too late each time
        s.joined(A, channel(i), now=i)
        assert s.hold() == pytest.approx(i * HOLD_UP, abs=0.001)
        for now in (i, i + 0.1, i + 0.3, i + 0.5, i + 0.7):
            drain(s, now)
        s.left(A, channel(i).group, now=i + 0.8)
    s.joined(A, channel(50), now=10.0)
    assert drain(s, 10.0 + 3.5 * HOLD_UP) == [], "who else has joined cannot be known"
    assert drain(s, 10.0 + 4 * HOLD_UP)


@pytest.mark.parametrize("bursts", [0, 2])
def test_a_proxy_that_needs_little_repair_never_waits(bursts: int) -> None:
    s = scheduler(proxies=True)
    for i in range(20):
        s.joined(A, channel(i), now=i)
        for burst in range(1 + bursts):
            assert drain(s, i + 0.3 * burst)
        s.left(A, channel(i).group, now=i + 0.7)
        assert s.hold() == 0.0


def test_a_host_that_needs_much_repair_is_no_reason_to_wait() -> None:
    s = scheduler()
    s.joined(A, channel(0), now=0.0)
    for now in (0.0, 0.3, 0.5, 0.7):
        assert drain(s, now)
    s.left(A, channel(0).group, now=0.8)
    s.joined(B, channel(0), now=0.8)  # two hosts have joined of late, so that a hold would show
    assert 0 < s.hold() <= FIRST_HOLD


def test_readers_that_leave_late_are_waited_for_longer() -> None:
    s = scheduler()
    now = 0.0

    def bursts_of_a_reader_that_leaves_after(delay: float) -> int:
        nonlocal now
        now += 1.0
        s.joined(A, channel(0), now=now)
        drain(s, now)
        sent = drain(s, now + delay)
        s.left(A, channel(0).group, now=now + delay)
        return len(sent)

    first = [bursts_of_a_reader_that_leaves_after(0.1) for _ in range(50)]
    assert first[0] == 1
    assert first[-40:].count(0) >= 38
    assert s.shares[0] < 0.003


def test_a_late_reader_is_waited_for_once_the_prompt_one_has_left() -> None:
    s = scheduler()
    now = 0.0
    for _ in range(3):  # A is learnt to leave after 0.3 s
        now += 1.0
        s.joined(A, channel(0), now=now)
        drain(s, now)
        s.left(A, channel(0).group, now=now + 0.07)
        s._hold_offs.learn(A, 0.3)  # as if the burst at 80 ms had not come
    now += 1.0
    s.joined(A, channel(0), now=now)
    s.joined(B, channel(0), now=now)
    drain(s, now)
    s.left(B, channel(0).group, now=now + 0.05)
    assert drain(s, now + 0.3) == []
    assert drain(s, now + 0.4)  # not for ever


@pytest.mark.parametrize(("share", "repair"), [(LEAST_SHARE - 0.001, 0), (LEAST_SHARE + 0.001, 6)])
def test_a_small_share_is_left_to_bursts(share: float, repair: int) -> None:
    s = scheduler(share=share, symbol_size=T // 16)  # K = 1024
    s.joined(A, channel(0), now=0.0)
    while nodes := s.to_load():
        for node in nodes:
            s.loaded(Payload(node, bytes(node.size), T // 16))
    sent = []
    while transmission := s.next(0.0):
        sent.append(transmission)
    assert sum(t.count for t in sent if t.repair) == repair


def test_a_host_in_another_class_is_not_waited_for() -> None:
    s = scheduler()
    s.joined(A, channel(0), now=0.0)
    s.joined(B, channel(1), now=0.0)
    assert s.hold() > 0
    s.joined(B, channel(1, 3), now=0.1)
    assert s.hold() == s.hold(3) == 0.0


def test_each_class_is_named_by_itself() -> None:
    s = scheduler()
    for index in range(5):
        s.joined(A, channel(index), now=0.0)
    s.joined(B, channel(0, 2), now=0.0)
    assert s.ahead(3) == {0: [channel(index).group for index in (4, 3, 2)], 2: [channel(0, 2).group]}


def test_each_class_learns_its_own_share() -> None:
    s = scheduler()
    s.joined(A, channel(0, 2), now=0.0)
    now = 0.0
    while s.counters.bursts < 2:
        drain(s, now)
        now += 0.05
    assert s.shares[2] > 0.0
    assert s.shares[0] == s.shares[1] == s.shares[3] == 0.0


def test_who_wants_little_need_not_wait_for_a_pass_that_others_have_asked_for_before() -> None:
    s = scheduler(rate=1e9, symbol_size=T // 2)
    for index in range(20):
        s.joined(A, channel(index), now=0.0)
    load_all(s)
    first = s.next(0.0)
    assert first is not None
    s.joined(B, channel(19), now=0.0)
    now, groups = 0.0, list[Group]()
    while len(groups) < 4:
        now += 1e-3
        load_all(s)
        if (sent := s.next(now)) and sent.group not in groups:
            groups.append(sent.group)
    assert channel(19).group in groups
