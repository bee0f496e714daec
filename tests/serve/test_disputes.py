"""Leaves in the name of a host that has not left: they end no pass, and a true leave still counts soon."""

from __future__ import annotations

import random

import pytest

from mcfs.protocol import mld
from mcfs.protocol.mld import Query
from mcfs.serve.disputes import (
    APART,
    CONTRADICTED,
    CONTRADICTIONS,
    DISPUTED,
    MAX_DISPUTED,
    MAX_REMEMBERED,
    MAX_WITHHELD,
    Disputes,
)
from mcfs.serve.listening import KINDS, Kind
from mcfs.serve.membership import DOUBT_TIME, LAST_LISTENER_QUERY_TIME
from mcfs.serve.payload import Payload
from mcfs.serve.tables import table_maker
from tests.serve.interface import ALICE, BOB, Interface, group, link_local

FIRST_ANSWERS = CONTRADICTIONS * (APART + 0.1)
"""Seconds after which a forger has been found out: three answers that count."""


@pytest.fixture(params=KINDS)
def interface(request: pytest.FixtureRequest) -> Interface:
    kind: Kind = request.param
    made = Interface(table_maker(kind, secret=bytes(32), size=1024))
    made.run(10.0)
    return made


class Reader:
    """A host that listens to some groups, and answers queries as Linux does."""

    def __init__(self, interface: Interface, *numbers: int) -> None:
        self.interface = interface
        self.held = {group(number) for number in numbers}
        self._random = random.Random(3)
        self._answers: list[tuple[float, bytes]] = []
        interface.join(ALICE, *sorted(self.held), now=10.0)

    def step(self, now: float) -> int:
        """Returns how many queries were sent."""
        link = self.interface.link
        link.handle_timeout(now=now)
        asked = [outgoing.specific for outgoing in link.messages_to_send(now=now) if outgoing.specific is not None]
        self._answers += [(now + self._random.uniform(0.001, 0.19), each) for each in asked]
        due = [each for at, each in self._answers if at <= now]
        self._answers = [(at, each) for at, each in self._answers if at > now]
        for each in sorted(self.held.intersection(due)):
            self.interface.answer(ALICE, each, now=now)
        return len(asked)

    def is_served(self, number: int) -> bool:
        return ALICE in self.interface.link.scheduler.listeners(group(number))


def forge(reader: Reader, start: float, end: float) -> float:
    """Leaves of all groups a thousand times a second. Returns the part of the time in which all were served."""
    groups, steps, served = sorted(reader.held), int((end - start) * 1000), 0
    for step in range(steps):
        now = start + step / 1000
        reader.interface.leave(ALICE, *groups, now=now)
        reader.step(now)
        served += all(ALICE in reader.interface.link.scheduler.listeners(each) for each in groups)
    return served / steps


def test_a_flood_of_forged_leaves_ends_nothing_from_then_on(interface: Interface) -> None:
    reader = Reader(interface, *range(1, 11))
    forge(reader, 10.1, 10.1 + FIRST_ANSWERS)
    joins = interface.link.counters.joins
    assert forge(reader, 10.1 + FIRST_ANSWERS, 14.0) > 0.98
    assert interface.link.counters.joins <= joins + 10, "no pass begins anew"
    assert len(interface.warnings) == 1
    assert "fe80::c8" in interface.warnings[0]


def test_it_holds_while_others_listen_too(interface: Interface) -> None:
    reader = Reader(interface, 1, 2, 3)
    forge(reader, 10.1, 11.0)
    interface.join(BOB, group(1), now=11.0)
    assert forge(reader, 11.0, 13.5) > 0.98


def test_a_true_leave_counts_when_nobody_answers(interface: Interface) -> None:
    reader = Reader(interface, 1, 2, 3)
    forge(reader, 10.1, 11.0)
    reader.held.remove(group(2))
    interface.leave(ALICE, group(2), now=11.0)
    assert reader.is_served(2)
    for step in range(int((LAST_LISTENER_QUERY_TIME + 0.1) * 1000)):
        reader.step(11.0 + step / 1000)
    assert not reader.is_served(2)
    assert reader.is_served(1)
    assert reader.is_served(3)


def test_it_is_over_when_nobody_forges_any_more(interface: Interface) -> None:
    reader = Reader(interface, 1, 2, 3)
    forge(reader, 10.1, 11.0)
    for step in range(20):
        reader.step(11.0 + step / 10)
    now = 13.0 + DISPUTED
    interface.answer(ALICE, group(1), now=now - 1)
    assert reader.is_served(1)
    interface.leave(ALICE, group(1), now=now)
    assert not reader.is_served(1), "at once, as with others"


def test_where_another_router_queries_a_withheld_leave_counts_too(interface: Interface) -> None:
    reader = Reader(interface, 1, 2, 3)
    forge(reader, 10.1, 11.0)
    interface.query(Query(max_response=1.0, robustness=2, interval=30), link_local(1), mld.ALL_NODES, now=11.0)
    reader.held.clear()
    interface.leave(ALICE, group(1), now=12.0)
    assert reader.is_served(1)
    interface.run(12.1 + DOUBT_TIME, start=12.0)
    assert not reader.is_served(1)


def test_who_leaves_and_joins_again_is_not_disputed(interface: Interface) -> None:
    for step in range(100):
        now = 10.0 + step * 0.1
        interface.join(ALICE, group(1), group(2), now=now)
        interface.answer(ALICE, group(1), group(2), now=now + 0.01)
        interface.leave(ALICE, group(1), group(2), now=now + 0.05)
        assert interface.link.scheduler.channels == 0
    assert interface.link.disputes.contradictions == 0
    assert interface.warnings == []


class TestTables:
    def test_an_answer_that_comes_late_contradicts_nothing(self) -> None:
        disputes = Disputes()
        disputes.left(ALICE, group(1), now=1.0)
        disputes.joined(ALICE, group(1), answered=True, now=1.0 + CONTRADICTED)
        assert disputes.contradictions == 0
        disputes.left(ALICE, group(1), now=5.0)
        disputes.joined(ALICE, group(1), answered=False, now=5.1)
        assert disputes.contradictions == 0
        disputes.left(ALICE, group(1), now=6.0)
        disputes.joined(ALICE, group(1), answered=True, now=6.1)
        assert disputes.contradictions == 1

    def test_what_comes_in_the_wrong_order_counts_once(self) -> None:
        """Leaves of MLDv1 overtake answers of MLDv2 when a host goes over to it."""
        disputes = Disputes()
        for each in range(10 * CONTRADICTIONS):
            disputes.left(ALICE, group(each), now=1.0)
            disputes.joined(ALICE, group(each), answered=True, now=1.0 + 0.9 * APART * each / (10 * CONTRADICTIONS))
        assert not disputes.is_disputed(ALICE, now=1.0 + APART)

    def test_they_are_bounded(self) -> None:
        disputes = Disputes()
        for number in range(2 * MAX_REMEMBERED):
            disputes.left(link_local(number), group(1), now=1.0)
        assert len(disputes._left) == MAX_REMEMBERED
        for number in range(2 * MAX_DISPUTED):
            contradict(disputes, number)
        assert len(disputes._doubted) == MAX_DISPUTED
        host = 2 * MAX_DISPUTED - 1
        withheld = [disputes.left(link_local(host), group(number), now=2.0) for number in range(MAX_WITHHELD + 10)]
        assert withheld == [True] * MAX_WITHHELD + [False] * 10
        assert len(disputes.expire(now=2.0 + DOUBT_TIME)) == MAX_WITHHELD
        assert disputes.next_timeout() is None
        assert disputes._withheld == {}


def contradict(disputes: Disputes, number: int) -> None:
    for each in range(CONTRADICTIONS):
        disputes.left(link_local(number), group(each), now=1.0 + each * APART)
        disputes.joined(link_local(number), group(each), answered=True, now=1.0 + each * APART)


class TestRepair:
    """What is lost while leaves are forged, and what is really left."""

    def test_who_answers_gets_repair_and_who_has_left_gets_none(self) -> None:
        interface = Interface()
        interface.run(10.0)
        reader, scheduler = Reader(interface, 1, 2, 3), interface.link.scheduler
        forge(reader, 10.1, 11.0)
        reader.held.remove(group(3))
        repair: dict[bytes, int] = {}
        for step in range(800):
            now = 11.0 + step / 1000
            interface.leave(ALICE, group(1), group(2), group(3), now=now)
            reader.step(now)
            for node in scheduler.to_load():
                scheduler.loaded(Payload(node, bytes(node.size), 1424))
            while (sent := scheduler.next(now)) is not None:
                repair[sent.group] = repair.get(sent.group, 0) + sent.count * sent.repair
        assert repair[group(1)] > 0
        assert repair[group(2)] > 0
        assert repair[group(3)] == 0
