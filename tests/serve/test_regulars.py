"""Who has a place among those that come first."""

from __future__ import annotations

from mcfs.protocol.ids import Host
from mcfs.serve.regulars import IDLE, MAX_REGULARS, Regulars


def host(number: int) -> Host:
    return Host(number.to_bytes(16, "big"))


def test_who_leaves_something_is_one() -> None:
    regulars = Regulars()
    assert host(1) not in regulars
    regulars.left(host(1), now=0.0)
    assert host(1) in regulars
    assert list(regulars.first(5)) == [host(1)]


def test_new_hosts_push_nobody_out_who_goes_on_reading() -> None:
    regulars = Regulars()
    regulars.left(host(0), now=0.0)
    for number in range(1, 3 * MAX_REGULARS):
        regulars.left(host(0), now=number)
        regulars.left(host(number), now=number)
    assert host(0) in regulars
    assert list(regulars.first(1)) == [host(0)]
    assert len(list(regulars.first(10 * MAX_REGULARS))) == MAX_REGULARS


def test_the_place_of_one_who_reads_no_more_is_given_away() -> None:
    regulars = Regulars()
    for number in range(MAX_REGULARS):
        regulars.left(host(number), now=0.0)
    regulars.left(host(MAX_REGULARS), now=IDLE)
    assert host(MAX_REGULARS) not in regulars
    regulars.left(host(MAX_REGULARS), now=IDLE + 1)
    assert host(MAX_REGULARS) in regulars
