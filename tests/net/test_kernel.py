"""What the kernel says in /proc."""

from __future__ import annotations

import socket
import struct

import pytest

from mcfs.net import kernel

SNMP6 = """ifIndex                         	2
Ip6InReceives                   	90
Icmp6InGroupMembQueries         	7
Icmp6OutGroupMembResponses      	3
Icmp6OutMLDv2Reports            	11
Icmp6OutType143                 	11
"""


def test_counters() -> None:
    assert kernel.parse_counters(SNMP6) == kernel.MldCounters(queries_in=7, reports_v1_out=3, reports_v2_out=11)


@pytest.mark.parametrize("text", ["", SNMP6.replace("OutMLDv2", "Other"), SNMP6.replace("\t7", "\tx"), "word\n"])
def test_counters_of_another_kernel(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever int and dict say
        kernel.parse_counters(text)


def test_an_interface_that_is_not_there() -> None:
    assert kernel.mld_counters("no-such-interface") is None
    assert kernel.forced_mld_version("no-such-interface") is None


def test_a_jiffy_is_what_hz_may_be() -> None:
    assert 0.001 <= kernel.jiffy() <= 0.0101


def test_membership() -> None:
    try:
        index = socket.if_nametoindex("lo")
        member = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    except OSError:
        pytest.skip("no IPv6 here")
    group = socket.inet_pton(socket.AF_INET6, "ff15::6d63:6673:7465:7374")
    with member:
        assert kernel.is_member(index, group) is False
        member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, struct.pack("@16sI", group, index))
        assert kernel.is_member(index, group) is True
