"""What MLD messages may cost: a flood of one kind has nothing of another dropped."""

from __future__ import annotations

import pytest

from mcfs.net.reportload import (
    LEAST_PART,
    LEISURE,
    LOOK,
    MARGIN,
    MAX_REGULARS,
    MOST,
    MOST_AT_LEISURE,
    Kind,
    ReportLoad,
    Sampling,
    kind_of,
)
from mcfs.protocol import mld
from mcfs.protocol.ids import Group, Host
from mcfs.protocol.mld import Record, RecordType
from mcfs.serve.regulars import Regulars

NOBODY = Regulars()
READER = Host(bytes.fromhex("fe80") + bytes(13) + b"\1")
STRANGER = Host(bytes.fromhex("fe80") + bytes(13) + b"\2")


def run(load: ReportLoad, kind: Kind, cost: float, seconds: float, start: float, *, sending: float = 0.5) -> None:
    """Messages come that take `cost` of the time if all are handed up; `sending`: part of the time that this takes."""
    for step in range(int(seconds / 0.004)):
        now = start + step * 0.004
        load.spent(kind, 0.004 * cost * load.sampling.part(kind))
        load.look(NOBODY, sending=now * sending, now=now)


@pytest.mark.parametrize("kind", Kind)
def test_what_is_usual_is_heard(kind: Kind) -> None:
    load = ReportLoad(lambda _: pytest.fail("sampled"))
    run(load, kind, MOST[kind] * 0.9, 10.0, 0.0)
    assert load.patience == float("inf")


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("cost", [1.0, 8.0, 1000.0])
def test_a_flood_takes_no_more_than_its_part(kind: Kind, cost: float) -> None:
    said: list[Sampling] = []
    load = ReportLoad(said.append)
    run(load, kind, cost, 10.0, 0.0)
    assert load.sampling == said[-1]
    part = load.sampling.part(kind)
    assert cost * part <= MOST[kind] or part == LEAST_PART
    assert all(load.sampling.part(other) == 1.0 for other in Kind if other is not kind)
    assert load.patience == LOOK
    for step in range(20):
        load.look(NOBODY, sending=5.0, now=10.0 + step * LOOK * 1.01)
    assert load.sampling.everything, "it is over"


@pytest.mark.parametrize("usual", [0.0, 0.5, MARGIN * 0.95])
@pytest.mark.parametrize("peak", [1.4, 2.0, 20.0])
def test_after_a_peak_all_is_heard_again(peak: float, usual: float) -> None:
    load = ReportLoad(lambda _: None)
    most = MOST[Kind.STRANGER]
    run(load, Kind.STRANGER, most * usual, 1.0, 0.0)
    run(load, Kind.STRANGER, most * peak, 0.5, 1.0)
    assert load.sampling.part(Kind.STRANGER) < 1
    run(load, Kind.STRANGER, most * usual, 2.0, 1.5)
    assert load.sampling.everything
    assert load.patience == float("inf")


@pytest.mark.parametrize("kind", Kind)
def test_there_is_more_time_for_strangers_while_nothing_is_sent(kind: Kind) -> None:
    load = ReportLoad(lambda _: None)
    for start, sending, most in ((0.0, 0.9 * LEISURE, MOST_AT_LEISURE), (10.0, 1.1 * LEISURE, MOST)):
        run(load, kind, 8.0, 10.0, start, sending=sending)
        assert MARGIN * most[kind] / 4 < 8.0 * load.sampling.part(kind) <= most[kind]
    assert {each for each in Kind if MOST_AT_LEISURE[each] != MOST[each]} == {Kind.STRANGER}


def test_one_look_that_finds_too_much_is_no_flood() -> None:
    load = ReportLoad(lambda _: pytest.fail("sampled"))
    for look in range(100):
        load.spent(Kind.ROUTER, LOOK * MOST[Kind.ROUTER] * (0.5 if look % 2 else 2.0))
        load.look(NOBODY, sending=0.0, now=look * LOOK * 1.01)


def test_who_was_served_before_is_told_from_made_up_hosts() -> None:
    regulars, load = Regulars(), ReportLoad(lambda _: None)
    for number in range(2 * MAX_REGULARS):
        regulars.left(Host(number.to_bytes(16, "big")), now=0.0)
    for look in range(3):
        assert load.sampling.regulars == frozenset()
        load.spent(Kind.STRANGER, LOOK)
        load.look(regulars, sending=0.0, now=look * LOOK * 1.01)
    assert load.sampling.regulars == {Host(number.to_bytes(16, "big")) for number in range(MAX_REGULARS)}
    assert load.sampling.part(Kind.REGULAR) == 1.0


def test_kinds() -> None:
    regulars = Regulars()
    regulars.left(READER, now=0.0)
    leave, join = (
        Record(kind, Group(bytes.fromhex("ff15") + bytes(14)))
        for kind in (RecordType.CHANGE_TO_INCLUDE_MODE, RecordType.CHANGE_TO_EXCLUDE_MODE)
    )
    for records, expected in (([join], Kind.REGULAR), ([leave, join], Kind.REGULAR), ([leave] * 3, Kind.LEAVES)):
        assert kind_of(mld.build_report(records), READER, regulars) is expected
    assert kind_of(mld.build_report([join]), STRANGER, regulars) is Kind.STRANGER
    assert kind_of(bytes((mld.REPORT_V2,)) + bytes(7), STRANGER, regulars) is Kind.STRANGER
    for kind, expected in (
        (mld.REPORT_V1, Kind.OLD_REPORT),
        (mld.DONE_V1, Kind.DONE),
        (mld.QUERY, Kind.ROUTER),
        (mld.SOLICITATION, Kind.ROUTER),
        (0, Kind.ROUTER),
    ):
        assert kind_of(bytes((kind,)), READER, regulars) is expected
    assert kind_of(b"", READER, regulars) is Kind.ROUTER
