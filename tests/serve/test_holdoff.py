"""How long leaves are waited for."""

from mcfs.protocol.ids import Host
from mcfs.serve.holdoff import HOLD_OFF, LONGEST, REMEMBERED_HOSTS, HoldOffs

PROMPT = Host(bytes(15) + b"\1")
LATE = Host(bytes(15) + b"\2")


def test_an_unknown_host_is_given_the_usual_time() -> None:
    assert HoldOffs().of([PROMPT]) == HOLD_OFF
    assert HoldOffs().of([]) == HOLD_OFF


def test_a_late_host_is_waited_for_longer_than_it_took() -> None:
    h = HoldOffs()
    h.learn(LATE, 0.2)
    assert 0.2 < h.of([LATE]) < 0.3
    for _ in range(1000):
        h.learn(LATE, 0.05)
    assert h.of([LATE]) == HOLD_OFF


def test_a_late_host_does_not_delay_repair_for_a_prompt_one() -> None:
    h = HoldOffs()
    h.learn(LATE, 0.2)
    h.learn(PROMPT, 0.03)
    assert h.of([LATE, PROMPT]) == HOLD_OFF


def test_the_wait_has_a_limit_and_so_has_the_table() -> None:
    h = HoldOffs()
    h.learn(LATE, 1000.0)
    assert h.of([LATE]) == LONGEST
    for number in range(REMEMBERED_HOSTS):
        h.learn(Host(b"\xfe" + number.to_bytes(15, "big")), 0.2)
    assert h.of([LATE]) == HOLD_OFF
