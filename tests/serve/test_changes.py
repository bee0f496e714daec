"""When changes are looked at: literal times."""

from __future__ import annotations

from mcfs.serve.changes import MAX_NOTED, PATIENCE, QUIET, RETRY, Changes, Touched


def take_all(changes: Changes, until: float) -> list[tuple[float, Touched]]:
    """What is taken, and when, by somebody who looks each time that he is told to, for no time."""
    taken = []
    while (due := changes.next_timeout()) is not None and due <= until:
        touched = changes.take(now=due)
        if touched is not None:
            taken.append((due, touched))
            changes.looked(started=due, now=due)
    return taken


def test_nothing_is_taken_before_something_changes() -> None:
    changes = Changes(now=0.0)
    assert changes.next_timeout() is None
    assert changes.take(now=1e9) is None


def test_a_change_is_taken_when_it_is_quiet() -> None:
    changes = Changes(now=0.0)
    changes.names(b"a", now=10.0)
    changes.tree(b"a/b", now=10.2)
    assert changes.take(now=10.0 + QUIET) is None
    assert take_all(changes, 100.0) == [
        (10.2 + QUIET, Touched(directories=frozenset({b"a"}), trees=frozenset({b"a/b"})))
    ]
    assert changes.next_timeout() is None


def test_changes_without_end_are_taken_now_and_then() -> None:
    changes = Changes(now=0.0)
    taken = []
    for tick in range(200):
        changes.names(b"%d" % tick, now=tick / 10)
        taken += take_all(changes, tick / 10)
    times = [at for at, _ in taken]
    assert times == [PATIENCE, 2 * PATIENCE + 0.1, 3 * PATIENCE + 0.2]
    assert frozenset().union(*(touched.directories for _, touched in taken)) == {b"%d" % tick for tick in range(153)}


def test_a_file_that_grows_stays_as_it_was_and_holds_nobody_up() -> None:
    changes = Changes(now=0.0)
    taken = []
    for tick in range(100):
        now = tick / 10
        changes.written(b"d", b"log", now=now)
        if tick in (1, 80):
            changes.names(b"other", now=now)
        taken += take_all(changes, now)
    grows = frozenset({(b"d", b"log")})
    assert taken == [
        (PATIENCE, Touched(directories=frozenset({b"other"}), unsettled=grows)),
        (8.0 + QUIET, Touched(directories=frozenset({b"other"}), unsettled=grows)),
    ]
    assert take_all(changes, 100.0) == [(9.9 + QUIET, Touched(directories=frozenset({b"d"})))]
    assert changes.next_timeout() is None


def test_only_growing_files_cause_no_look() -> None:
    changes = Changes(now=0.0)
    for tick in range(1000):
        changes.written(b"", b"a", now=tick / 10)
        assert take_all(changes, tick / 10) == []


def test_a_file_that_went_is_not_waited_for() -> None:
    changes = Changes(now=0.0)
    changes.written(b"", b"a", now=1.0)
    changes.gone(b"", b"a", now=1.1)
    assert take_all(changes, 10.0) == [(1.1 + QUIET, Touched(directories=frozenset({b""})))]


def test_everything_at_once() -> None:
    changes = Changes(now=0.0)
    changes.everything(now=5.0, at_once=True)
    assert changes.next_timeout() == 5.0
    assert changes.take(now=5.0) == Touched(everything=True)


def test_too_many_notes_become_everything() -> None:
    changes = Changes(now=0.0)
    for number in range(MAX_NOTED + 1):
        changes.names(b"%d" % number, now=1.0)
    assert take_all(changes, 10.0) == [(1.0 + QUIET, Touched(everything=True))]
    for number in range(3 * MAX_NOTED):
        changes.written(b"", b"%d" % number, now=20.0)
    (_, touched), *rest = take_all(changes, 20.0 + PATIENCE)
    assert touched.everything
    assert not rest


def test_a_look_that_takes_long_is_not_repeated_at_once() -> None:
    changes = Changes(now=0.0)
    changes.names(b"", now=1.0)
    assert changes.take(now=2.0) is not None
    changes.names(b"", now=3.0)
    changes.looked(started=2.0, now=12.0)
    assert changes.next_timeout() == 22.0


def test_polling() -> None:
    changes = Changes(now=0.0, poll=10.0)
    assert take_all(changes, 35.0) == [(10.0 * n, Touched(everything=True)) for n in (1, 2, 3)]
    assert changes.take(now=40.0) is not None
    changes.looked(started=40.0, now=45.0)
    assert changes.next_timeout() == 45.0 + 20 * 5.0


def test_a_failed_look_is_repeated() -> None:
    changes = Changes(now=0.0)
    changes.tree(b"a", now=1.0)
    changes.written(b"b", b"f", now=1.4)
    touched = changes.take(now=1.0 + PATIENCE)
    assert touched is not None
    changes.failed(touched, now=7.0)
    assert changes.next_timeout() == 7.0 + RETRY
    again = changes.take(now=7.0 + RETRY)
    assert again == Touched(directories=frozenset({b"b"}), trees=frozenset({b"a"}))


def test_what_is_in_a_tree() -> None:
    touched = Touched(trees=frozenset({b"a/b"}))
    assert touched.within(b"a/b")
    assert touched.within(b"a/b/c/d")
    assert not touched.within(b"a")
    assert not touched.within(b"a/bc")
    assert Touched(everything=True).within(b"x")
    assert Touched(trees=frozenset({b""})).within(b"x/y")
