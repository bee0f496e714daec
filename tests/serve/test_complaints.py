from __future__ import annotations

from mcfs.serve.complaints import INTERVAL, Complaints


def test_one_line_in_a_minute() -> None:
    complaints = Complaints()
    assert complaints.line("a", now=0.0) == "a"
    assert [complaints.line(f"b{n}", now=n / 100) for n in range(100)] == [None] * 100
    assert complaints.line("c", now=INTERVAL) == "c (100 more like this before)"
    assert complaints.line("d", now=2 * INTERVAL) == "d"
