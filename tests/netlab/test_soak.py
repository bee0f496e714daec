"""A short soak: the bytes are right, and nothing is left joined."""

from __future__ import annotations

import pytest

from tests.soak.content import PAGE, Wrong, generation_of, page, whole
from tests.soak.samples import FEWEST, Life, Sample
from tests.soak.soak import Options, run


@pytest.mark.slow
def test_a_short_soak(capable: None, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(Options(seconds=20, clients=2, change_every=2, restarts=1))
    with capsys.disabled():
        print("\n" + "\n".join(result.lines()))
    assert result.problems == []
    assert result.versions >= 3
    assert result.restarts == 1
    assert result.counts["reads"] > 50
    assert set(result.counts) <= {"reads", "bytes", "ESTALE", "EFAULT"}
    assert len(result.lives) >= 3


def test_pages_tell_what_is_wrong() -> None:
    data = whole(3, 8, 5)
    assert generation_of(3, 0, data) == 5
    assert generation_of(3, 2, data[2 * PAGE :]) == 5
    for bad in (data[:-1] + b"x", data[:PAGE] + page(3, 1, 6) + data[2 * PAGE :], data[PAGE:]):
        with pytest.raises(Wrong):
            generation_of(3, 0, bad)


def test_growth_is_seen() -> None:
    steady = Life("steady", [Sample(100 << 20, 20, 5 + i % 3) for i in range(FEWEST)])
    assert steady.problems() == []
    assert "(+0.0%)" in steady.line()
    growing = Life("growing", [Sample((100 + i) << 20, 20 + i, 5 + i) for i in range(FEWEST)])
    assert len(growing.problems()) == 3
    assert Life("short", growing.samples[:-1]).problems() == []
