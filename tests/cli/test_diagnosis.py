"""What the facts of `mcfs doctor` mean: each finding from the facts that cause it, without a network."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from mcfs.cli.diagnosis import HEAVY_LOSS, Finding, Level, judge, verdict
from mcfs.cli.doctor import lines
from mcfs.fetch.probe import Reading
from mcfs.net.facts import Facts, LinkFacts, ProbeFacts, QuerierHeard, RouterHeard, ShareHeard
from mcfs.net.interfaces import Interface, Kind, Skipped
from mcfs.protocol.ids import Host

OWN, SERVER, ROUTER = (Host(IPv6Address(f"fe80::{n}").packed) for n in (1, 2, 3))

ETH0 = Interface(
    name="eth0",
    index=2,
    mtu=1500,
    link_local=OWN,
    tentative=False,
    speed_bits=10**9,
    kind=Kind.WIRED,
    up=True,
    running=True,
    multicast=True,
)
READING = Reading(SERVER, symbols=1000, received=1000, wrong=0, first_after=0.02, rate=9e8)
GOOD = LinkFacts(
    ETH0,
    listened=2.0,
    raw=True,
    joined=True,
    member=True,
    forced_version=0,
    reports_v2=2,
    reports_v1=0,
    looped=True,
    queries_before=5,
    queriers=(QuerierHeard(SERVER, 2, 30),),
    shares=(ShareHeard(b"data", SERVER, 950_000_000, 0.01),),
    probe=ProbeFacts(waited=0.1, pace=0, readings=(READING,), kernel_drops=0),
)
DEAF = replace(GOOD, queriers=(), shares=(), probe=ProbeFacts(1.0, 0, (), 0), queries_before=0)
"""No server, no querier."""
FACTS = Facts(
    links=(GOOD,), skipped=(), port=27027, share=None, receive_buffer=128 << 20, port_taken=False, optmem_max=131072
)


def host(link: LinkFacts) -> Facts:
    return replace(FACTS, links=(link,))


def interface(**changes: object) -> Facts:
    """An interface on which nothing can be heard."""
    return host(LinkFacts(replace(ETH0, **changes)))  # type: ignore[arg-type]


def found(facts: Facts, level: Level, text: str) -> Finding:
    """The one finding of this level with this text. Fails unless there is one."""
    fitting = [finding for finding in judge(facts) if finding.level is level and text in finding.text]
    assert len(fitting) == 1, judge(facts)
    return fitting[0]


def problems(facts: Facts) -> int:
    return sum(finding.level is Level.PROBLEM for finding in judge(facts))


def test_all_is_well() -> None:
    findings = judge(FACTS)
    assert {finding.level for finding in findings} == {Level.OK}
    assert verdict(FACTS, findings) == "IPv6 multicast works here"
    assert "0 of 1000 datagrams from fe80::2 (an mcfs server) lost" in found(FACTS, Level.OK, "probe").text
    assert "the first 10 ms after joining" in found(FACTS, Level.OK, "1 server with 1 share heard (data)").text
    assert "queries every 30 s" in found(FACTS, Level.OK, "eth0: MLD querier: fe80::2 (an mcfs server)").text


# --- interfaces ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "text", "remedy"),
    [
        (interface(up=False, running=False, link_local=None), "eth0: is down", "ip link set eth0 up"),
        (interface(running=False), "no carrier", "cable"),
        (interface(link_local=None), "no IPv6 link-local address", "net.ipv6.conf.eth0.disable_ipv6=0"),
        (interface(link_local=None, mtu=1000), "MTU of 1000", "ip link set eth0 mtu 1500"),
        (interface(multicast=False), "not capable of multicast", "multicast on"),
        (interface(kind=Kind.LOOPBACK, link_local=None, multicast=False), "loopback", "-i"),
        (interface(kind=Kind.PORT), "member port", "-i"),
        (replace(FACTS, links=()), "no network interface is suited", "-i IFACE"),
    ],
)
def test_what_is_wrong_with_an_interface(facts: Facts, text: str, remedy: str) -> None:
    assert remedy in found(facts, Level.PROBLEM, text).remedy
    assert problems(facts) == 1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kind": Kind.WIRELESS}, "is wireless"),
        ({"mtu": 1400}, "an MTU of 1400"),
        ({"tentative": True}, "checked for duplicates"),
    ],
)
def test_what_is_odd_about_an_interface(changes: dict[str, object], text: str) -> None:
    facts = interface(**changes)
    assert found(facts, Level.WARNING, text).remedy
    assert problems(facts) == 0


def test_several_interfaces() -> None:
    other = replace(GOOD, interface=replace(ETH0, name="eth1", index=3, mtu=9000))
    facts = replace(FACTS, links=(GOOD, other))
    found(facts, Level.OK, "2 interfaces are used: eth0, eth1")
    found(facts, Level.WARNING, "MTUs of the interfaces differ: 1500, 9000")
    assert sum("probe: 0 of 1000" in finding.text for finding in judge(facts)) == 2


def test_what_is_skipped_is_named() -> None:
    wlan = Skipped(replace(ETH0, name="wlan0", kind=Kind.WIRELESS), "wireless")
    spare = Skipped(replace(ETH0, name="eth1", running=False), "no carrier")
    loopback = Skipped(replace(ETH0, name="lo", kind=Kind.LOOPBACK), "loopback")
    facts = replace(FACTS, skipped=(wlan, spare, loopback))
    assert "-i wlan0" in found(facts, Level.WARNING, "wlan0: not used: wireless").remedy
    found(facts, Level.OK, "eth1: not used: no carrier")
    assert not any(finding.text.startswith("lo") for finding in judge(facts))


def test_a_name_cannot_harm_a_terminal() -> None:
    text = judge(interface(name="e\x1b[2J", up=False))[0].text
    assert "\x1b" not in text


# --- MLD -------------------------------------------------------------------------------------------------------------


def test_the_host_is_told_to_speak_version_1() -> None:
    facts = host(replace(DEAF, looped=False, reports_v2=0, reports_v1=3, forced_version=1))
    assert "net.ipv6.conf.eth0.force_mld_version=0" in found(facts, Level.PROBLEM, "told to speak MLDv1").remedy


def test_reports_of_both_versions() -> None:
    both = replace(DEAF, reports_v2=1, reports_v1=1)
    found(host(both), Level.OK, "reports by MLDv2")  # its own came back
    found(host(replace(both, looped=False)), Level.PROBLEM, "fell back to MLDv1")


def test_an_old_querier_is_the_problem_and_not_twice() -> None:
    link = replace(DEAF, looped=False, reports_v2=0, reports_v1=3, queriers=(QuerierHeard(ROUTER, 1, 0),))
    assert "mcast_mld_version 2" in found(host(link), Level.PROBLEM, "fe80::3 speaks MLDv1").remedy
    assert problems(host(link)) == 1


def test_an_old_querier_that_was_not_heard_now() -> None:
    facts = host(replace(DEAF, looped=False, reports_v2=0, reports_v1=3, queries_before=2))
    assert "--timeout" in found(facts, Level.PROBLEM, "fell back to MLDv1").remedy


def test_reports_that_do_not_leave() -> None:
    facts = host(replace(DEAF, looped=False, reports_v2=0, reports_v1=0))
    assert "143" in found(facts, Level.PROBLEM, "no report of it left").remedy


def test_reports_that_do_not_come_back() -> None:
    facts = host(replace(DEAF, looped=False))
    assert "130 to 132" in found(facts, Level.WARNING, "MLD messages do not come in").remedy
    assert problems(facts) == 0


def test_joining_is_refused() -> None:
    assert "optmem_max" in found(host(replace(DEAF, joined=False, too_many=True)), Level.PROBLEM, "refuses").remedy
    found(host(replace(DEAF, member=False)), Level.PROBLEM, "refuses")


def test_no_querier() -> None:
    assert found(host(DEAF), Level.WARNING, "none heard within 2 s").remedy
    found(host(replace(DEAF, queries_before=3)), Level.OK, "none heard within 2 s, but 3 queries since")
    router = replace(DEAF, routers=(RouterHeard(ROUTER, 125),))
    found(host(router), Level.OK, "fe80::3 answers as a multicast router, query interval 125 s")
    mute = replace(DEAF, routers=(RouterHeard(ROUTER, 0),))
    found(host(mute), Level.WARNING, "none heard")  # it does not speak MLD


def test_without_capabilities() -> None:
    link = replace(GOOD, raw=False, looped=False, queriers=(), queries_before=0)
    assert "root" in found(host(link), Level.WARNING, "cannot be heard without CAP_NET_RAW").remedy
    found(host(link), Level.OK, "by MLDv2")  # as the kernel counts
    unseen = replace(link, reports_v2=None, reports_v1=None, queries_before=None)
    found(host(unseen), Level.WARNING, "could not be seen")
    assert problems(host(unseen)) == 0


# --- servers ---------------------------------------------------------------------------------------------------------


def test_no_server() -> None:
    facts = host(DEAF)
    findings = judge(facts)
    assert "UDP port 27027" in found(facts, Level.WARNING, "no mcfs server was heard within 2 s").remedy
    assert problems(facts) == 0
    assert verdict(facts, findings).startswith("nothing is wrong as far as can be told without a server, 2 warnings")


def test_a_server_on_one_of_two_interfaces_is_enough() -> None:
    facts = replace(FACTS, links=(GOOD, replace(DEAF, interface=replace(ETH0, name="eth1"))))
    found(facts, Level.OK, "eth1: no mcfs server was heard here")


def test_a_share_that_has_to_be_heard() -> None:
    found(replace(FACTS, share=b"data"), Level.OK, "share data is heard")
    missing = replace(FACTS, share=b"other one")
    assert found(missing, Level.PROBLEM, "share other\\ one was not heard").remedy


def test_a_packet_filter_on_this_host() -> None:
    facts = host(replace(DEAF, filtered=4))
    assert "UDP port 27027" in found(facts, Level.PROBLEM, "4 datagrams of mcfs came to the interface").remedy
    assert problems(facts) == 1


def test_a_server_that_does_not_answer() -> None:
    facts = host(replace(GOOD, probe=ProbeFacts(5.0, 0, (), 0)))
    assert "143" in found(facts, Level.PROBLEM, "sent nothing of what this host joined within 5 s").remedy


def probed(drops: int = 0, **changes: object) -> Facts:
    reading = replace(READING, **changes)  # type: ignore[arg-type]
    return host(replace(GOOD, probe=ProbeFacts(0.5, 0, (reading,), drops)))


def test_loss() -> None:
    few = found(probed(received=997), Level.WARNING, "3 of 1000")
    assert "(0.3%)" in few.text
    assert "ethtool" in few.remedy
    assert "rmem_max" in found(probed(received=997, drops=2), Level.WARNING, "3 of 1000").remedy
    limit = 1000 - int(1000 * HEAVY_LOSS)
    assert problems(probed(received=limit)) == 0
    assert problems(probed(received=limit - 1)) == 1


def test_wrong_bytes() -> None:
    assert found(probed(received=999, wrong=1), Level.PROBLEM, "1 datagram of 1000 from fe80::2").remedy


def test_a_slow_answer() -> None:
    assert found(probed(first_after=2.5), Level.WARNING, "the first 2.5 s after joining").remedy


# --- the host --------------------------------------------------------------------------------------------------------


def test_a_small_receive_buffer() -> None:
    facts = replace(FACTS, receive_buffer=425_984)
    finding = found(facts, Level.WARNING, "receive buffer is small (416K): data come at 1/4 of 950 Mbit/s")
    assert "sysctl net.core.rmem_max=67108864" in finding.remedy


def test_little_memory_for_memberships() -> None:
    assert found(replace(FACTS, optmem_max=4000), Level.WARNING, "optmem_max is 4000").remedy
    assert not any("optmem" in finding.text for finding in judge(replace(FACTS, optmem_max=None)))


def test_the_port_is_taken() -> None:
    facts = replace(interface(), port_taken=True, receive_buffer=0, share=b"data")
    assert "27027" in found(facts, Level.PROBLEM, "another program holds UDP port 27027").remedy
    assert problems(facts) == 1


def test_nothing_can_be_mounted() -> None:
    findings = judge(FACTS, cannot_mount="/dev/fuse is missing")
    assert [f.text for f in findings if f.level is Level.WARNING] == [
        "nothing can be mounted here, though mcfs ls and mcfs-serve work: /dev/fuse is missing"
    ]


# --- words -----------------------------------------------------------------------------------------------------------


def test_every_problem_says_what_to_do_on_the_line_after_it() -> None:
    (finding,) = [f for f in judge(interface(up=False)) if f.level is Level.PROBLEM]
    first, second = lines(finding)
    assert "problem" in first
    assert first.endswith("eth0: is down")
    assert second == "         -> ip link set eth0 up"


def test_the_verdict_counts() -> None:
    facts = replace(FACTS, links=(replace(GOOD, interface=replace(ETH0, mtu=1400)),), share=b"other")
    assert verdict(facts, judge(facts)) == "IPv6 multicast does not work as it should: 1 problem, 1 warning"
