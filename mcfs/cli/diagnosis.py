"""What the facts that `mcfs doctor` gathered mean, in plain words. Pure: no network, no clock.

A *problem* keeps mcfs from working, or from working well enough to be of use; each says what to do. A *warning* is
what may be meant so, what makes mcfs slower, or what could not be looked at. The limits here are choices, not measured.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Final

from mcfs.cli import values
from mcfs.fetch.fetcher import DEFAULT_MAX_GROUPS
from mcfs.fetch.pace import pace_class
from mcfs.net.interfaces import Kind
from mcfs.net.memberships import MAX_SHARE_CHANNELS
from mcfs.net.receive import RECEIVE_BUFFER, USABLE_SHARE
from mcfs.protocol.wire import DEFAULT_MTU, MIN_MTU

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mcfs.fetch.probe import Reading
    from mcfs.net.facts import Facts, LinkFacts, ProbeFacts, QuerierHeard, ShareHeard
    from mcfs.net.interfaces import Interface, Skipped

MEMBERSHIP_BYTES: Final = 56
"""What a membership of a socket takes of net.core.optmem_max: 2,340 fit into 131,072 (Linux 6.18)."""
USUAL_RATE: Final = 10**9
"""Bits per second that a server is taken to send where none was heard."""
HEAVY_LOSS: Final = 0.25
"""Of the datagrams. A server sends at most 30 % more of its own accord (docs/protocol.md, section 8.2)."""
SLOW_ANSWER: Final = 1.0
"""Seconds from the join to the first datagram: five times what a server holds a channel."""
_NAMES_SHOWN: Final = 5


class Level(Enum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    text: str
    """One line."""
    remedy: str = ""
    """What to do, one line. No problem is without."""


def _ok(text: str) -> Finding:
    return Finding(Level.OK, text)


def _warning(text: str, remedy: str = "") -> Finding:
    return Finding(Level.WARNING, text, remedy)


def _problem(text: str, remedy: str) -> Finding:
    return Finding(Level.PROBLEM, text, remedy)


def judge(facts: Facts, *, cannot_mount: str = "") -> list[Finding]:
    """All findings, interface by interface, then those of the host. `cannot_mount` says why, if it cannot."""
    findings = list(_choice(facts))
    for link in facts.links:
        findings += (Finding(f.level, f"{_name(link.interface)}: {f.text}", f.remedy) for f in _link(link, facts))
    findings += _host(facts)
    if cannot_mount:
        findings.append(_warning(f"nothing can be mounted here, though mcfs ls and mcfs-serve work: {cannot_mount}"))
    return findings


def verdict(facts: Facts, findings: Sequence[Finding]) -> str:
    """One line: whether IPv6 multicast works here."""
    problems = sum(f.level is Level.PROBLEM for f in findings)
    warnings = sum(f.level is Level.WARNING for f in findings)
    rest = f", {_count(warnings, 'warning')}" if warnings else ""
    if problems:
        return f"IPv6 multicast does not work as it should: {_count(problems, 'problem')}{rest}"
    if any(link.probe and link.probe.readings for link in facts.links):
        return f"IPv6 multicast works here{rest}"
    return f"nothing is wrong as far as can be told without a server{rest}"


# --- which interfaces ------------------------------------------------------------------------------------------------


def _choice(facts: Facts) -> Iterator[Finding]:
    if not facts.links:
        yield _problem("no network interface is suited for IPv6 multicast", "name one with -i IFACE")
    elif len(facts.links) > 1:
        yield _ok(f"{len(facts.links)} interfaces are used: {', '.join(_name(link.interface) for link in facts.links)}")
    for skipped in facts.skipped:
        if skipped.interface.kind is not Kind.LOOPBACK:
            yield _skipped(skipped)
    mtus = {link.interface.mtu for link in facts.links}
    if len(mtus) > 1:
        yield _warning(
            f"the MTUs of the interfaces differ: {', '.join(map(str, sorted(mtus)))}",
            "use interfaces of one MTU; mcfs-serve sends datagrams for the smallest of its own",
        )


def _skipped(skipped: Skipped) -> Finding:
    text = f"{_name(skipped.interface)}: not used: {skipped.reason}"
    if skipped.interface.up and skipped.interface.wireless:
        return _warning(text, f"mcfs uses it only if it is named: -i {skipped.interface.name}")
    if skipped.interface.up and skipped.interface.kind is Kind.WIRED and skipped.interface.running:
        return _warning(text)
    return _ok(text)


# --- one interface ---------------------------------------------------------------------------------------------------


def _link(link: LinkFacts, facts: Facts) -> Iterator[Finding]:
    findings = list(_interface(link.interface))
    yield from findings
    if facts.port_taken or not link.listened:
        return
    yield from _reports(link)
    yield from _queriers(link)
    yield from _servers(link, facts)
    if link.probe is not None:
        yield from _probe(link.probe, link)


def _interface(i: Interface) -> Iterator[Finding]:
    if i.kind is Kind.LOOPBACK:
        yield _problem("is the loopback interface, which no other host hears", "name another one with -i")
        return
    if i.kind is Kind.PORT:
        yield _problem("is a member port of a bridge or bond, which takes what it receives", "name that one with -i")
    if i.kind is Kind.WIRELESS:
        yield _warning("is wireless: multicast there is slow and lossy", "use a cable if you can")
    if not i.up:
        yield _problem("is down", f"ip link set {i.name} up")
    elif not i.running:
        yield _problem("has no carrier", "plug in the cable, or switch on what is at its other end")
    if not i.multicast:
        yield _problem("is not capable of multicast", f"ip link set dev {i.name} multicast on")
    yield from _addresses(i)
    if i.unfit() is None and i.running:
        speed = f", {values.format_rate(i.speed_bits)}" if i.speed_bits else ""
        yield _ok(f"is up{speed}, MTU {i.mtu}, link-local address {_address(i.link_local)}")


def _addresses(i: Interface) -> Iterator[Finding]:
    if i.mtu < MIN_MTU:
        yield _problem(f"has an MTU of {i.mtu}, IPv6 needs {MIN_MTU}", f"ip link set {i.name} mtu {DEFAULT_MTU}")
        return
    if i.mtu < DEFAULT_MTU:
        yield _warning(
            f"has an MTU of {i.mtu}: longer datagrams do not arrive, and servers send up to {DEFAULT_MTU}",
            f"mcfs-serve --mtu {i.mtu} at the servers",
        )
    if i.up and i.link_local is None:
        yield _problem(
            "has no IPv6 link-local address, without which a host cannot report what it joins",
            f"sysctl net.ipv6.conf.{i.name}.disable_ipv6=0 net.ipv6.conf.{i.name}.addr_gen_mode=0; if "
            f"`ip -6 address show dev {i.name}` says dadfailed, another host has the same address",
        )
    if i.tentative:
        yield _warning("its link-local address is still being checked for duplicates", "run mcfs doctor again")


def _reports(link: LinkFacts) -> Iterator[Finding]:
    if not link.joined or link.member is False:
        yield _problem(
            "the kernel refuses to join multicast groups",
            "sysctl net.core.optmem_max=1048576" if link.too_many else "look for the cause in the kernel's log (dmesg)",
        )
    elif not link.looped and (link.reports_v1 or link.forced_version == 1):
        yield from _old_reports(link)  # reports of version 2 may still have been under way
    elif link.looped or link.reports_v2:
        yield _ok("what this host joins it reports by MLDv2")
        if link.raw and not link.looped:
            yield _warning(
                "MLD messages do not come in here, so this host may not hear the querier's questions",
                "let ICMPv6 types 130 to 132 and 143 in through the packet filter (nft list ruleset)",
            )
    elif link.reports_v2 is None:
        yield _warning("whether this host reports what it joins could not be seen", "run mcfs doctor as root")
    else:
        yield _problem(
            "this host joined groups, but no report of it left",
            "let ICMPv6 type 143 to ff02::16 out through the packet filter (nft list ruleset)",
        )


def _old_reports(link: LinkFacts) -> Iterator[Finding]:
    name = link.interface.name
    if link.forced_version == 1:
        yield _problem(
            "this host is told to speak MLDv1, so servers cannot tell who listens",
            f"sysctl net.ipv6.conf.all.force_mld_version=0 net.ipv6.conf.{name}.force_mld_version=0",
        )
    elif not any(querier.version == 1 for querier in link.queriers):
        yield _problem(
            "this host fell back to MLDv1, which a querier of that version caused, not heard now",
            "find the querier (mcfs doctor --timeout 130 waits for its next query) and set it to MLDv2; on a Linux "
            "bridge: ip link set BRIDGE type bridge mcast_mld_version 2. If there is none, its queries were forged: "
            f"sysctl net.ipv6.conf.{name}.force_mld_version=2",
        )


# --- queriers --------------------------------------------------------------------------------------------------------


def _queriers(link: LinkFacts) -> Iterator[Finding]:
    if link.queriers:
        yield from (_querier(querier, link) for querier in link.queriers)
        return
    asking = [router for router in link.routers if router.query_interval]
    if asking:
        for router in asking:
            who = _host_name(router.address, link)
            yield _ok(f"MLD querier: {who} answers as a multicast router, query interval {router.query_interval} s")
    else:
        yield _no_querier(link)


def _no_querier(link: LinkFacts) -> Finding:
    waited = f"none heard within {link.listened:.0f} s" if link.raw else "cannot be heard without CAP_NET_RAW"
    if link.queries_before:
        times = _count(link.queries_before, "query", "queries")
        return _ok(f"MLD querier: {waited}, but {times} since the interface was made")
    if not link.raw:
        return _warning(f"MLD querier: {waited}", "run mcfs doctor as root")
    return _warning(
        f"MLD querier: {waited}; without one a snooping switch forgets who listens",
        "start mcfs-serve, which is one, or switch on the querier of a switch or router, for MLDv2",
    )


def _querier(querier: QuerierHeard, link: LinkFacts) -> Finding:
    who = _host_name(querier.address, link)
    if querier.version == 1:
        return _problem(
            f"MLD querier: {who} speaks MLDv1, so hosts fall back to it and servers do not hear who listens",
            "set it to MLDv2; if it is a Linux bridge: ip link set BRIDGE type bridge mcast_mld_version 2",
        )
    interval = f", queries every {querier.interval} s" if querier.interval else ""
    return _ok(f"MLD querier: {who} speaks MLDv2{interval}")


# --- servers ---------------------------------------------------------------------------------------------------------


def _servers(link: LinkFacts, facts: Facts) -> Iterator[Finding]:
    if link.filtered:
        yield _problem(
            f"{_count(link.filtered, 'datagram')} of mcfs came to the interface, but none to the program: dropped here",
            f"let UDP port {facts.port} in through the packet filter (nft list ruleset)",
        )
        return
    if link.shares:
        yield _heard(link.shares)
    if link.keyed:
        yield _ok(f"{_count(link.keyed, 'server')} heard with shares that need a key (mcfs ls --keyfile)")
    if link.shares or link.keyed:
        return
    if not any(other.shares or other.keyed for other in facts.links):
        yield _warning(
            f"no mcfs server was heard within {link.listened:.0f} s",
            "if one runs on this link: it must use the same --port and --scope, and firewalls must let in UDP port "
            f"{facts.port} here and ICMPv6 types 130 to 132 and 143 at both",
        )
    else:
        yield _ok("no mcfs server was heard here")


def _heard(shares: Sequence[ShareHeard]) -> Finding:
    names = sorted({share.name for share in shares})
    servers = {share.server for share in shares}
    shown = ", ".join(map(values.printable, names[:_NAMES_SHOWN])) + (", ..." if len(names) > _NAMES_SHOWN else "")
    first = min(share.after for share in shares)
    return _ok(
        f"{_count(len(servers), 'server')} with {_count(len(names), 'share')} heard ({shown}), "
        f"the first {_seconds(first)} after joining"
    )


def _probe(probe: ProbeFacts, link: LinkFacts) -> Iterator[Finding]:
    yield from (_reading(reading, probe, link) for reading in probe.readings)
    if not probe.readings and (link.shares or link.keyed):
        yield _problem(
            f"the server is heard, but sent nothing of what this host joined within {probe.waited:.0f} s",
            "let ICMPv6 type 143 in at the server and out here; switch on MLDv2 on the switches between, or a querier; "
            "or the server is busy: try a longer --timeout",
        )


def _reading(reading: Reading, probe: ProbeFacts, link: LinkFacts) -> Finding:
    who = _host_name(reading.source, link)
    if reading.wrong:
        return _problem(
            f"probe: {_count(reading.wrong, 'datagram')} of {reading.symbols} from {who} came with wrong bytes",
            "another host forges them, or a cable, switch or network card damages them (ethtool -S)",
        )
    rate = f", {values.format_rate(round(reading.rate))}" if reading.rate else ""
    text = (
        f"probe: {reading.lost} of {reading.symbols} datagrams from {who} lost ({reading.lost / reading.symbols:.1%}), "
        f"the first {_seconds(reading.first_after)} after joining{rate}"
    )
    if reading.lost:
        level = Level.PROBLEM if reading.lost > HEAVY_LOSS * reading.symbols else Level.WARNING
        return Finding(level, text, _loss_remedy(probe))
    if reading.first_after > SLOW_ANSWER:
        return _warning(text, "the server or the network is busy, or joins are reported late")
    return _ok(text)


def _loss_remedy(probe: ProbeFacts) -> str:
    if probe.kernel_drops:
        return f"this host reads too slowly or its receive buffer is small: {_larger_buffer()}, or mcfs-serve --rate"
    return "look at cables, switch and network card (ethtool -S); if this port is slow: mcfs-serve --rate"


# --- the host --------------------------------------------------------------------------------------------------------


def _host(facts: Facts) -> Iterator[Finding]:
    if facts.port_taken:
        yield _problem(
            f"another program holds UDP port {facts.port} for itself", f"end it (ss -6ulpn 'sport = {facts.port}')"
        )
    else:
        yield _buffer(facts)
    yield from _memberships(facts)
    yield from _demanded(facts)


def _buffer(facts: Facts) -> Finding:
    rate = max((share.rate for link in facts.links for share in link.shares), default=USUAL_RATE)
    pace = pace_class(rate, int(facts.receive_buffer * USABLE_SHARE))
    size = values.format_size(facts.receive_buffer)
    if pace:
        return _warning(
            f"the receive buffer is small ({size}): data come at 1/{2**pace} of {values.format_rate(rate)}",
            _larger_buffer(),
        )
    return _ok(f"receive buffer: {size}, enough for {values.format_rate(rate)}")


def _larger_buffer() -> str:
    return f"sysctl net.core.rmem_max={RECEIVE_BUFFER}"


def _memberships(facts: Facts) -> Iterator[Finding]:
    needed = MEMBERSHIP_BYTES * (DEFAULT_MAX_GROUPS + MAX_SHARE_CHANNELS + 1) * max(1, len(facts.links))
    if facts.optmem_max is not None and facts.optmem_max < needed:
        yield _warning(
            f"net.core.optmem_max is {facts.optmem_max}: too little for {DEFAULT_MAX_GROUPS} groups",
            "sysctl net.core.optmem_max=131072",
        )


def _demanded(facts: Facts) -> Iterator[Finding]:
    if facts.share is None or facts.port_taken:
        return
    heard = {share.name for link in facts.links for share in link.shares}
    name = values.printable(facts.share)
    if facts.share in heard:
        yield _ok(f"share {name} is heard")
    else:
        yield _problem(
            f"share {name} was not heard",
            "start mcfs-serve for it; its name is the last component of the path, or that of --name",
        )


# --- words -----------------------------------------------------------------------------------------------------------


def _host_name(address: bytes, link: LinkFacts) -> str:
    notes = []
    if address == link.interface.link_local:
        notes.append("this host")
    if any(share.server == address for share in link.shares):
        notes.append("an mcfs server")
    return f"{_address(address)} ({', '.join(notes)})" if notes else _address(address)


def _name(interface: Interface) -> str:
    return values.printable(os.fsencode(interface.name))


def _address(address: bytes | None) -> str:
    return str(IPv6Address(address)) if address else "none"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _count(number: int, word: str, plural: str = "") -> str:
    return f"{number} {word if number == 1 else plural or word + 's'}"
