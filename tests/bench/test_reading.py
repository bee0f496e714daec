"""What is read from programs and from /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.bench.accounting import Cpu, cpu_of, parse_stat
from tests.bench.machine import processor
from tests.bench.peers.uftp import completed
from tests.bench.scene import parse_listening, parse_sent

NET_DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier comp.
    lo:     100       1    0    0    0     0          0         0      200       1    0    0    0     0       0     0
  eth0: 1234567    1000    0    2    0     0          0         9 76543210    2000    0    0    0     0       0     0
"""
NET_TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 01004D0A:22B0 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 01004D0A:22B1 02004D0A:9C40 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1
"""
UFTP_REPORT = """\
Transfer status:
Host: 0x00000001       Status: Completed   time:   3.787 seconds
Host: 0x0000000A       Status: Completed   time:   3.757 seconds
Host: 0x00000003       Status: Lost
Host: 0x00000004       Status: Rejected    time:   1.000 seconds
Total elapsed time: 3.787 seconds
"""


def test_bytes_that_an_interface_has_sent() -> None:
    assert parse_sent(NET_DEV) == 76543210


def test_ports_at_which_somebody_listens() -> None:
    assert parse_listening(NET_TCP) == {0x22B0}


def test_uftp_reports_those_that_completed() -> None:
    assert completed(UFTP_REPORT) == {1: 3.787, 10: 3.757}


def test_model_of_the_processor() -> None:
    assert processor("processor\t: 0\nmodel name\t: Fast One\n\nmodel name\t: Fast One\n") == "Fast One"
    assert processor("processor\t: 0\n") == ""


def test_times_of_a_process_and_of_children_that_it_waited_for() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    times = f"{3 * ticks} {2 * ticks} {ticks} {4 * ticks}"
    assert parse_stat(f"7 (a (strange) name) S 1 1 1 0 -1 0 0 0 0 0 {times} 20 0 1 0") == Cpu(4.0, 6.0)


def test_processor_time_of_a_process_that_has_ended_and_was_not_waited_for() -> None:
    code = "import time\nwhile time.process_time() < 0.2: pass"
    process = subprocess.Popen([sys.executable, "-c", code])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    used = cpu_of([process.pid])
    assert process.wait() == 0
    assert sum(used) == pytest.approx(0.2, abs=0.15)
    assert sum(cpu_of([process.pid])) == 0.0


def test_processor_time_since() -> None:
    assert Cpu(3.0, 5.0).since(Cpu(1.0, 1.5)) == Cpu(2.0, 3.5)


def test_processor_time_of_a_process_that_sleeps() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        time.sleep(0.05)
        assert sum(cpu_of([process.pid])) < 0.05
    finally:
        process.kill()
        process.wait()
