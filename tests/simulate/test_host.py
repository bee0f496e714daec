"""When a host reports what, as Linux was measured to do it."""

from __future__ import annotations

from random import Random

import pytest

from mcfs.protocol.ids import Group
from mcfs.protocol.mld import Record, RecordType
from mcfs.simulate.host import ReportingHost, report_delay
from mcfs.simulate.port import Port
from mcfs.simulate.timeline import Timeline

A, B = Group(bytes.fromhex("ff15") + bytes(13) + b"\1"), Group(bytes.fromhex("ff15") + bytes(13) + b"\2")
JOIN, LEAVE = RecordType.CHANGE_TO_EXCLUDE_MODE, RecordType.CHANGE_TO_INCLUDE_MODE


class Site:
    def __init__(self) -> None:
        self.timeline = Timeline()
        self.reports: list[tuple[float, list[Record]]] = []
        self.host = ReportingHost(self.timeline, Random(1), self._sent)

    def _sent(self, records: list[Record]) -> None:
        self.reports.append((self.timeline.now, records))

    def run(self, until: float) -> None:
        self.timeline.run(lambda: False, until)


@pytest.fixture
def site() -> Site:
    return Site()


def test_delays_are_those_that_were_measured() -> None:
    rng = Random(1)
    delays = sorted(report_delay(rng) for _ in range(2000))
    assert delays[0] >= 0.008
    assert delays[1000] == pytest.approx(0.0116, abs=0.0005)
    assert delays[1800] == pytest.approx(0.016, abs=0.0007)
    assert delays[-1] <= 0.023


def test_a_change_is_told_twice(site: Site) -> None:
    site.host.change([A], [])
    site.run(3.0)
    assert [records for _, records in site.reports] == [[Record(JOIN, A)]] * 2
    first, second = (when for when, _ in site.reports)
    assert 0.008 <= first <= 0.023
    assert first < second <= first + 1.0


def test_the_second_copy_rides_with_the_next_change(site: Site) -> None:
    site.host.change([A], [])
    site.run(0.03)
    site.host.change([B], [A])
    site.run(0.06)
    assert [records for _, records in site.reports] == [
        [Record(JOIN, A)],
        [Record(JOIN, B), Record(LEAVE, A)],
    ]


def test_changes_in_quick_succession_send_no_report_until_they_stop(site: Site) -> None:
    for i in range(40):
        site.timeline.at(0.005 * i, lambda i=i: site.host.change([A], []) if i % 2 else site.host.change([], [A]))  # type: ignore[misc]
    site.run(0.2)
    assert not site.reports
    site.run(0.3)
    assert site.reports[0][1] == [Record(JOIN, A)]


def test_a_query_is_answered_with_what_holds_then(site: Site) -> None:
    site.host.change([A, B], [])
    site.run(3.0)
    site.reports.clear()
    site.host.query(None, 1.0)
    site.host.query(A, 0.2)
    site.run(4.5)
    assert sorted(records for _, records in site.reports) == [
        [Record(RecordType.MODE_IS_EXCLUDE, A)],
        [Record(RecordType.MODE_IS_EXCLUDE, A), Record(RecordType.MODE_IS_EXCLUDE, B)],
    ]
    assert site.reports[0][0] <= 3.2


def test_a_port_sends_at_its_rate_and_drops_what_finds_it_full() -> None:
    port = Port(rate=8e6, buffer=10_000)
    taken = [port.take(count, 8000, now) for count, now in ((5, 1.0), (20, 1.002), (1, 2.0))]
    assert [kept for kept, _ in taken] == [5, 7, 1]
    assert [when for _, when in taken] == pytest.approx([1.005, 1.012, 2.001])
    assert port.dropped == 13
