"""What the kernel says, in /proc for the most part, of its settings and of MLD.

/proc/net and /proc/sys/net follow the network namespace of the thread that reads. Whatever cannot be read is None: an
older kernel, a container that hides it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NET: Final = Path("/proc/thread-self/net")
_SYSCTL: Final = Path("/proc/sys/net")
_CLOCK_MONOTONIC_COARSE: Final = 6
"""linux/time.h; the time module does not name it."""
_OVERFLOWS: Final = "Udp6RcvbufErrors"


@dataclass(frozen=True, slots=True)
class MldCounters:
    """Messages of an interface since it was made (RFC 4293; /proc/net/dev_snmp6)."""

    queries_in: int
    reports_v1_out: int
    reports_v2_out: int


def mld_counters(interface: str) -> MldCounters | None:
    with suppress(OSError, ValueError):
        return parse_counters((_NET / "dev_snmp6" / interface).read_text())
    return None


def parse_counters(text: str) -> MldCounters:
    """Raises ValueError."""
    counts = dict(line.split(maxsplit=1) for line in text.splitlines())
    try:
        return MldCounters(
            int(counts["Icmp6InGroupMembQueries"]),
            int(counts["Icmp6OutGroupMembResponses"]),
            int(counts["Icmp6OutMLDv2Reports"]),
        )
    except KeyError as error:
        raise ValueError(f"no counter {error}") from None


def buffer_overflows() -> int | None:
    """UDP datagrams over IPv6 that found a receive buffer full, of all sockets (RFC 4113; /proc/net/snmp6)."""
    with suppress(OSError, ValueError):
        for line in (_NET / "snmp6").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == _OVERFLOWS:
                return int(count)
    return None


def is_member(ifindex: int, group: bytes) -> bool | None:
    """Whether the host has joined a group on an interface."""
    with suppress(OSError):
        lines = (line.split(maxsplit=3) for line in (_NET / "igmp6").read_text().splitlines())
        return any(line[0] == str(ifindex) and line[2] == group.hex() for line in lines if len(line) > 2)
    return None


def forced_mld_version(interface: str) -> int | None:
    """1 or 2 if the host is told to speak that version, whatever the querier speaks; 0 if it is not."""
    for name in ("all", interface):
        version = _number(_SYSCTL / "ipv6" / "conf" / name / "force_mld_version")
        if version != 0:
            return version
    return 0


def optmem_max() -> int | None:
    """Bytes that a socket may use for its memberships, among other things."""
    return _number(_SYSCTL / "core" / "optmem_max")


def jiffy() -> float:
    """Seconds: the resolution of the kernel's own timers (1/HZ, 1 to 10 ms), which is that of its coarse clocks."""
    return time.clock_getres(_CLOCK_MONOTONIC_COARSE)


def _number(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None
