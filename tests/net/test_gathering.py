"""When datagrams are looked at."""

from mcfs.net.gathering import ENOUGH, LONGEST, ROOMY, SHORTEST, Gathering


def looks(gathering: Gathering, start: float, count: int) -> list[float]:
    waits, now = [], start
    for _ in range(count):
        waits.append(gathering.seconds(1000, now=now))
        now += waits[-1]
    return waits


def test_the_first_looks_come_soon_and_later_ones_less_often() -> None:
    waits = looks(Gathering(ROOMY), 5.0, 40)
    assert waits[0] == SHORTEST
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST


def test_after_a_pause_it_begins_anew() -> None:
    gathering = Gathering(ROOMY)
    looks(gathering, 5.0, 40)
    assert gathering.seconds(1000, now=6.0) == SHORTEST


def test_much_is_followed_at_once() -> None:
    assert Gathering(ROOMY).seconds(ENOUGH, now=0.0) == 0


def test_a_small_buffer_is_emptied_often() -> None:
    assert set(looks(Gathering(ROOMY - 1), 5.0, 40)) == {SHORTEST}
