"""Joins in the name of hosts that do not exist: they take a part of the link and no more."""

from __future__ import annotations

from mcfs.protocol.ids import MIN_BLOCK_SIZE, Digest, Group, Host, Node, ObjectRef
from mcfs.serve.channel import Channel
from mcfs.serve.crowd import CROWD, CROWDED
from mcfs.serve.holding import MAX_HOLD
from mcfs.serve.payload import Payload, PayloadCache
from mcfs.serve.queues import CROWD_PAUSE, MIN_LOAD_AHEAD, PASSES_BEFORE_CROWD
from mcfs.serve.schedule import LIGHT_CHANNELS, MODEST_CHANNELS, Scheduler
from tests.serve.interface import ALICE, BOB, Interface, group, link_local

T = 512
K = MIN_BLOCK_SIZE // T
REF = ObjectRef(1000 * MIN_BLOCK_SIZE, MIN_BLOCK_SIZE, Digest(bytes(32)))
READER = Host(b"r" * 16)
OTHER = Host(b"o" * 16)
LATE = Host(b"l" * 16)


def channel(index: int) -> Channel:
    return Channel(Group(index.to_bytes(16, "big")), Node(REF, 0, index), 0)


class Sending:
    """A scheduler that sends without end; a burst takes a millisecond."""

    def __init__(self) -> None:
        self.scheduler = Scheduler(rate=1e12, payloads=PayloadCache(), max_symbol_size=T, repair_start=lambda: 0)
        self.scheduler.shares = [0.0] * 8
        self.now = 0.0
        self.sent: dict[int, int] = {}
        """Symbols, by the number of the block."""

    def join(self, host: Host, *indexes: int) -> None:
        for index in indexes:
            self.scheduler.joined(host, channel(index), now=self.now)

    def leave(self, host: Host, *indexes: int) -> None:
        for index in indexes:
            self.scheduler.left(host, channel(index).group, now=self.now)

    def step(self) -> int | None:
        """The number of the block of which something is sent."""
        for _ in range(3):
            for node in self.scheduler.to_load():
                self.scheduler.loaded(Payload(node, bytes(node.size), T))
            if (transmission := self.scheduler.next(self.now)) is not None:
                break
        self.now += 0.001
        if transmission is None:
            return None
        index = int.from_bytes(transmission.group, "big")
        self.sent[index] = self.sent.get(index, 0) + transmission.count
        return index

    def become_regular(self, host: Host) -> None:
        self.join(host, 999)
        while self.sent.get(999, 0) < K:
            self.step()
        self.leave(host, 999)

    def crowd(self, *indexes: int, count: int = CROWD + 1, first: int = 0) -> None:
        for number in range(first, first + count):
            self.join(link_local(number), *indexes)


def test_one_who_reads_gets_most_of_the_link() -> None:
    sending = Sending()
    sending.become_regular(READER)
    sending.crowd(*range(100, 130))
    reading = 0
    sending.join(READER, *range(10))
    done, begun = set[int](), sending.now
    while len(done) < 60 and sending.now < begun + 5.0:
        index = sending.step()
        if index is not None and index < 100 and sending.sent[index] >= K and index not in done:
            done.add(index)
            sending.leave(READER, index)
            sending.join(READER, len(done) + 9)
    reading = sum(count for index, count in sending.sent.items() if index < 100)
    others = sum(count for index, count in sending.sent.items() if 100 <= index < 999)
    assert len(done) == 60
    assert others <= reading / PASSES_BEFORE_CROWD + 2 * K


def test_a_pass_is_not_prolonged_by_them() -> None:
    """Ever new ones join what the reader listens to; it leaves a block a little after it has it."""
    sending = Sending()
    sending.become_regular(READER)
    sending.crowd(*range(100, 106))
    sending.join(READER, *range(12))
    number = CROWD + 1
    for block in range(40):
        while sending.sent.get(block, 0) < K:
            assert sending.now < 20.0
            sending.crowd(*range(block, block + 12), count=2, first=number)
            number += 2
            sending.step()
        sending.leave(READER, block)
        sending.join(READER, block + 12)
    assert sum(sending.sent.values()) < 40 * K * (1 + 1 / PASSES_BEFORE_CROWD) * 1.3


def test_little_is_loaded_before_their_turn() -> None:
    """It would be thrown out, and would throw out what the reader needs next."""
    sending = Sending()
    sending.become_regular(READER)
    sending.crowd(1)
    sending.crowd(*range(100, 130))
    sending.join(READER, *range(10))
    loaded = {node.index for node in sending.scheduler.to_load()}
    assert {*range(10)} <= loaded
    assert len(loaded & {*range(100, 130)}) == MIN_LOAD_AHEAD


def test_one_who_comes_while_there_is_a_crowd_is_served_too() -> None:
    sending = Sending()
    sending.become_regular(READER)
    sending.crowd(*range(100, 100 + LIGHT_CHANNELS + 2))
    sending.join(READER, *range(10))
    while sending.step() != 0:
        pass
    sending.join(LATE, 0)  # its pass has begun
    block, joined_at = 0, sending.sent[0]
    assert 0 < joined_at < K
    while sending.sent[0] < joined_at + K:
        assert sending.now < 1.0
        index = sending.step()
        if index is not None and index < 100 and sending.sent[index] >= K:
            sending.leave(READER, index)
            block += 1
            sending.join(READER, 10 + block)
    sending.leave(LATE, 0)
    assert LATE in sending.scheduler.regulars


def test_nothing_more_is_sent_for_a_crowd_that_does_not_answer() -> None:
    """Repair costs more than a pass; who exists answers the query, and gets it then."""
    sending = Sending()
    sending.crowd(1)
    for _ in range(1000):
        sending.step()
    assert sending.sent == {1: K}
    assert sending.scheduler.asks() == [channel(1).group]
    sending.scheduler.refreshed(link_local(3), [channel(1).group], now=sending.now)
    while sending.sent[1] == K:
        assert sending.now < 2.0
        sending.step()


def test_it_is_a_crowd_for_a_while_after_it_has_been_thinned_out() -> None:
    sending = Sending()
    sending.become_regular(READER)
    sending.crowd(1)
    for number in range(CROWD):
        sending.scheduler.left(link_local(number), channel(1).group, now=sending.now, said=False)
    sending.join(READER, *range(10, 20))
    sending.join(link_local(9999), 30)
    assert 30 not in [sending.step() for _ in range(9)]
    sending.leave(READER, *range(10, 20))
    for _ in range(1000):
        sending.step()
    assert sending.sent[30] == K, "and nobody has answered"
    sending.now += CROWDED
    sending.join(link_local(10_000), 31)
    for _ in range(1000):
        sending.step()
    assert sending.sent[31] > K, "a new host is believed again"


def test_a_crowd_waits_when_the_link_is_idle_for_a_moment() -> None:
    """A reader that is slow, because somebody keeps his host busy, has nothing of what is sent to others meanwhile."""
    sending = Sending()
    sending.become_regular(READER)
    sending.crowd(1)
    sending.join(READER, 10)
    while sending.sent.get(10, 0) < K:
        sending.step()
    sending.leave(READER, 10)
    end = sending.now + CROWD_PAUSE
    while sending.step() is None:
        due = sending.scheduler.next_timeout(sending.now)
        assert due is not None, "somebody would wait for ever"
        assert due > sending.now - 0.001 or sending.now >= end - 0.002, "nobody may look without a pause"
    assert end - 0.002 < sending.now < end + 0.01
    assert sending.sent[1] > 0


def test_a_reader_that_joins_what_a_crowd_waits_for_does_not_wait_with_it() -> None:
    sending = Sending()
    sending.become_regular(READER)
    sending.become_regular(OTHER)
    sending.crowd(*range(1, 40))
    sending.now += MAX_HOLD
    sending.join(READER, *range(100, 110))
    for _ in range(25):
        sending.step()
    assert not sending.sent.keys() & set(range(30, 38)), "they wait"
    sending.join(OTHER, *range(30, 38))
    begun = list(dict.fromkeys(sending.step() for _ in range(20)))
    assert set(range(30, 38)) <= set(begun)
    assert len([index for index in begun if index is not None and index < 30]) <= 2


def test_who_asks_for_too_much_has_what_others_leave_of_the_link() -> None:
    """Several mounts of one host do; that is no reason to let the link idle."""
    sending = Sending()
    sending.become_regular(READER)
    sending.become_regular(OTHER)
    sending.join(OTHER, *range(200, 201 + MODEST_CHANNELS))
    sending.join(READER, 1)
    sent = [sending.step() for _ in range(200)]
    assert sent[100:].count(None) == 0


def test_hosts_that_nobody_has_heard_of_come_in_by_and_by() -> None:
    interface = Interface()
    interface.run(10.0)
    interface.join(ALICE, group(1), now=10.0)
    for number in range(1000, 21000):
        interface.join(link_local(number), group(1), group(2), now=10.0 + number / 10_000)
    assert interface.link.membership.host_count < 1500
    assert interface.link.membership.counters.too_many_hosts > 18000
    interface.leave(ALICE, group(1), now=13.0)
    assert ALICE not in interface.link.scheduler.listeners(group(1)), "who is known is heard"
    interface.join(ALICE, group(3), now=13.0)
    assert ALICE in interface.link.scheduler.listeners(group(3))
    interface.join(BOB, group(3), now=14.0)
    assert BOB in interface.link.scheduler.listeners(group(3)), "a new one too, when the flood is over"
