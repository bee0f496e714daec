"""A host that sends what nobody should send, at a steady rate; run inside a host of the lab.

    python -m tests.netlab.attacker KIND PID MBITS [--source ADDRESS] [--recorded FILE] [--sealed]

It speaks in the groups that the host of process PID has joined, as whoever listens to the link can. It writes whole
frames, so it can take any source address. With --sealed what it sends looks as it must in a share with a key, which it
has not. It prints `ready` when it begins, and on SIGTERM what it has sent, as JSON.

What it sends is made beforehand as far as possible: it shares its processors with those that it attacks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from nacl.signing import SigningKey

from mcfs.cli.lab import INTERFACE
from mcfs.protocol import addressing, fec, mld, wire
from mcfs.protocol.announce import Announcement, encode_announcement, encode_gone
from mcfs.protocol.beacon import encode_beacon
from mcfs.protocol.catalog import Attributes, DirectoryEntry, Owners
from mcfs.protocol.ids import DEFAULT_BLOCK_SIZE, SEAL_SIZE, Digest, Group, ObjectRef
from mcfs.protocol.mld import OldMessage, Query, Record, RecordType
from mcfs.protocol.seal import SEALED_SIZES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

NODE_SIZE: Final = DEFAULT_BLOCK_SIZE
SYMBOL_SIZE: Final = wire.max_symbol_size()
LOOK: Final = 0.02
"""Seconds between two looks at what the victim listens to: a client changes that every 40 ms."""
BURST: Final = 0.002
"""Seconds' worth of frames that are sent at once."""
FORGED: Final = 200
"""Announcements signed, and datagrams of noise drawn, beforehand."""
MADE: Final = 256
"""Messages that are kept: the victim listens to the same for some milliseconds."""
STRANGE: Final = 1000
"""Reports of groups that mean nothing, 70,000 of them."""
_NO_ROOM: Final = 0.0002
_UDP: Final = 17
_ICMPV6: Final = 58
_HOP_BY_HOP: Final = 0
_FRAME: Final = struct.Struct(">6s6sH")
_IPV6: Final = struct.Struct(">IHBB16s16s")
_UDP_HEADER: Final = struct.Struct(">HHHH")
_SYMBOL_HEADER: Final = struct.Struct(">BBHII")
_ETH_P_IPV6: Final = 0x86DD
_MAC: Final = bytes.fromhex("02000000ad0e")
_ETHERNET_EXTRA: Final = 4
"""The frame check, which no program sees."""
_DESERTED: Final = bytes.fromhex("ff15") + bytes(12) + b"\xad\x0e"
_LOWEST: Final = bytes.fromhex("fe80") + bytes(13) + b"\1"


@dataclass(slots=True)
class Victim:
    """What the attacked host listens to, looked up again when that is old."""

    pid: int
    numbers: random.Random
    _groups: tuple[Group, ...] = ()
    _looked: float = float("-inf")

    def groups(self) -> tuple[Group, ...]:
        now = time.monotonic()
        if now > self._looked + LOOK:
            self._looked = now
            with suppress(OSError):
                lines = [line.split() for line in Path(f"/proc/{self.pid}/net/igmp6").read_text().splitlines()]
                found = (Group(bytes.fromhex(line[2])) for line in lines if line[1] == INTERFACE)
                self._groups = tuple(group for group in found if group[0] == 0xFF and group[1] & 15 > mld.MIN_SCOPE)
        return self._groups


@dataclass(frozen=True, slots=True)
class Attack:
    victim: Victim
    source: bytes
    numbers: random.Random
    recorded: tuple[tuple[bytes, bytes], ...] = ()
    """Groups and datagrams."""
    sealed: bool = False

    def groups(self) -> tuple[Group, ...]:
        return self.victim.groups() or (Group(mld.ALL_NODES),)


# --- frames ----------------------------------------------------------------------------------------------------------


class Payload(NamedTuple):
    data: bytes
    total: int
    """What it adds to the checksum."""


def payload(data: bytes) -> Payload:
    return Payload(data, int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF)


def udp(source: bytes, group: bytes, content: Payload) -> bytes:
    length = _UDP_HEADER.size + len(content.data)
    header = _UDP_HEADER.pack(wire.DEFAULT_PORT, wire.DEFAULT_PORT, length, 0)
    pseudo = source + group + length.to_bytes(4, "big") + _UDP.to_bytes(4, "big")
    total = (int.from_bytes(pseudo + header, "big") + content.total) % 0xFFFF
    checksum = (0xFFFF - total) or 0xFFFF
    return ipv6(source, group, _UDP, header[:6] + checksum.to_bytes(2, "big") + content.data)


def icmp(source: bytes, destination: bytes, message: bytes) -> bytes:
    message = mld.with_checksum(source, destination, message)
    return ipv6(source, destination, _HOP_BY_HOP, mld.ROUTER_ALERT_HOP_BY_HOP + message)


def ipv6(source: bytes, group: bytes, following: int, data: bytes) -> bytes:
    head = _FRAME.pack(b"\x33\x33" + group[-4:], _MAC, _ETH_P_IPV6)
    return head + _IPV6.pack(6 << 28, len(data), following, 1, source, group) + data


# --- what is sent ----------------------------------------------------------------------------------------------------


def noise(attack: Attack) -> Iterator[bytes]:
    """Random bytes of all lengths, half of them behind a version and a type; to every group."""
    numbers = attack.numbers
    made = []
    for number in range(FORGED):
        data = numbers.randbytes(numbers.randrange(1440))
        made.append(payload(data if number % 2 else bytes((wire.VERSION, numbers.randrange(7))) + data))
    while True:
        for group in attack.groups():
            yield udp(attack.source, group, numbers.choice(made))


def symbols(attack: Attack) -> Iterator[bytes]:
    """Whole blocks of symbols with right headers and wrong bytes: what comes of them can be decoded."""
    made = forged_symbols(attack)
    while True:
        group = attack.numbers.choice(attack.groups())
        for each in made[: len(made) // 2]:
            yield udp(attack.source, group, each)


def drip(attack: Attack) -> Iterator[bytes]:
    """One wrong symbol after the other, each of another channel: one is enough to spoil a block."""
    made = forged_symbols(attack)
    while True:
        for group in attack.groups():
            yield udp(attack.source, group, attack.numbers.choice(made))


def many(attack: Attack) -> Iterator[bytes]:
    """The same as `symbols`, each block under an address that nobody has heard of."""
    numbers, made = attack.numbers, forged_symbols(attack)
    while True:
        liar = stranger(numbers)
        group = numbers.choice(attack.groups())
        for each in made[: len(made) // 2]:
            yield udp(liar, group, each)


def forged_symbols(attack: Attack) -> list[Payload]:
    """A block of source symbols, and as many of repair; where there is a key, with tags."""
    size = NODE_SIZE + (SEAL_SIZE if attack.sealed else 0)
    tag = attack.numbers.randbytes(wire.TAG_SIZE) if attack.sealed else b""
    return [
        payload(
            _SYMBOL_HEADER.pack(wire.VERSION, wire.SYMBOL, 0, size, esi)
            + esi.to_bytes(4, "big") * (SYMBOL_SIZE // 4)
            + tag
        )
        for esi in range(2 * fec.source_symbols(size, SYMBOL_SIZE))
    ]


def replay(attack: Attack) -> Iterator[bytes]:
    """Genuine datagrams of the past."""
    past = [(group, payload(datagram)) for group, datagram in attack.recorded]
    while True:
        for group, datagram in past:
            yield udp(attack.source, group, datagram)


def announcements(attack: Attack) -> Iterator[bytes]:
    """Announcements of the same and of other names by another publisher, gones and beacons of his, and damaged ones;
    where there is a key also what looks sealed, in all channels."""
    numbers = attack.numbers
    key = SigningKey(numbers.randbytes(32))
    made = [wire.control(wire.ANNOUNCEMENT, forged(key, number, attack)) for number in range(FORGED)]
    gone = payload(wire.control(wire.GONE, encode_gone(Group(mld.ALL_NODES), 1, key)))
    boxes = [payload(bytes((wire.VERSION, wire.SEALED, 0, 0)) + numbers.randbytes(size - 4)) for size in SEALED_SIZES]
    controls = (
        addressing.catalogue_group(addressing.SITE_LOCAL),
        addressing.share_group(b"data", addressing.SITE_LOCAL),
    )
    while True:
        for number, datagram in enumerate(made):
            groups = attack.groups()
            damaged = bytearray(datagram)
            damaged[numbers.randrange(4, len(damaged))] ^= 1
            yield udp(attack.source, controls[number % 2], payload(datagram))
            yield udp(attack.source, controls[1], payload(bytes(damaged)))
            for group in groups if attack.sealed else ():
                yield udp(attack.source, group, numbers.choice(boxes))
            for group in groups[:2]:
                yield udp(attack.source, group, gone)
            beacon = encode_beacon([Group(group) for group in groups[:80]])
            yield udp(attack.source, controls[1], payload(wire.control(wire.BEACON, beacon, 500)))


def unlooked(attack: Attack) -> Iterator[bytes]:
    """What a filter has to take from everybody, as an announcement may be in it; also in the channels of nodes."""
    numbers = attack.numbers
    kinds = (wire.ANNOUNCEMENT, wire.SEALED, wire.KEYED)
    sizes = (wire.CONTROL_HEADER.size, 100, *sorted(SEALED_SIZES))
    made = [
        payload(bytes((wire.VERSION, kind, 0, 0)) + numbers.randbytes(size - 4)) for kind in kinds for size in sizes
    ]
    while True:
        for group in attack.groups():
            yield udp(attack.source, group, numbers.choice(made))


def stranger(numbers: random.Random) -> bytes:
    return bytes.fromhex("fe80") + bytes(6) + numbers.randbytes(8)


def forged(key: SigningKey, number: int, attack: Attack) -> bytes:
    name = b"data" if number % 2 else b"other-%d" % number
    top = DirectoryEntry(
        name, Attributes(0o755, 0, 0, 0), ObjectRef(1000, 1 << 20, Digest(attack.numbers.randbytes(32)))
    )
    said = Announcement(
        (1 << 62) + number, time.time_ns() // 1_000_000, top, Owners({}, {}), 1000, 1, 10**9, (attack.source,)
    )
    return encode_announcement(said, key)


def nobody(attack: Attack) -> Iterator[bytes]:
    """Small datagrams for a group in which nobody is: no attack, but what the sending of one costs those who share its
    processors."""
    made = [payload(attack.numbers.randbytes(40)) for _ in range(FORGED)]
    while True:
        yield udp(attack.source, _DESERTED, attack.numbers.choice(made))


def queries(attack: Attack) -> Iterator[bytes]:
    """Of the lowest address there can be, so that it is the querier: of both versions, with extreme times."""
    general = [
        icmp(_LOWEST, mld.ALL_NODES, mld.build_query(query))
        for query in (
            Query(max_response=0.0, robustness=1, interval=1),
            Query(max_response=8000.0, robustness=7, interval=31_744),
            Query(max_response=0.001, version=1),
        )
    ]

    @lru_cache(MADE)
    def specific(asked: Group) -> bytes:
        return mld.build_query(Query(asked, 0.001))

    while True:
        groups = joined_by(attack)
        yield attack.numbers.choice(general)
        yield icmp(_LOWEST, groups[0], specific(attack.numbers.choice(groups)))


def joins(attack: Attack) -> Iterator[bytes]:
    """Reports of hosts that there are not: for what the victim listens to, and for groups that mean nothing. Hardly two
    are of the same host."""
    numbers = attack.numbers
    prefix = joined_by(attack)[0][:10]
    strange = itertools.cycle(
        [
            report_of(stranger(numbers), [Group(prefix + numbers.randbytes(6)) for _ in range(mld.MAX_RECORDS)])
            for _ in range(STRANGE)
        ]
    )
    made = lru_cache(MADE)(lambda groups: report_of(stranger(numbers), groups))
    while True:
        host = numbers.randbytes(2)
        yield renamed(made(joined_by(attack)[: mld.MAX_RECORDS]), host)
        yield renamed(next(strange), host)


def report_of(host: bytes, groups: Iterable[Group], kind: RecordType = RecordType.CHANGE_TO_EXCLUDE_MODE) -> bytes:
    """A report in which it joins all of these, or leaves them."""
    return icmp(host, mld.ALL_MLDV2_ROUTERS, mld.build_report([Record(kind, group) for group in groups]))


def renamed(frame: bytes, name: bytes) -> bytes:
    """The same of another host: two words of its address change, and their sum, which a checksum is made of, does not.
    A new frame takes 25 us, this one 1."""
    at = _FRAME.size + 16
    total = int.from_bytes(frame[at : at + 2], "big") + int.from_bytes(frame[at + 2 : at + 4], "big")
    other = (total - int.from_bytes(name, "big")) % 0xFFFF
    return frame[:at] + name + other.to_bytes(2, "big") + frame[at + 4 :]


def leaves(attack: Attack) -> Iterator[bytes]:
    """In the victim's name, of all that it listens to."""
    leaver = address_of(attack.victim.pid) or attack.source
    all_left = lru_cache(MADE)(lambda groups: report_of(leaver, groups, RecordType.CHANGE_TO_INCLUDE_MODE))
    done = lru_cache(MADE)(lambda group: icmp(leaver, mld.ALL_ROUTERS, mld.build_old(OldMessage(group, done=True))))
    while True:
        groups = joined_by(attack)[: mld.MAX_RECORDS]
        yield all_left(groups)
        yield done(attack.numbers.choice(groups))


def joined_by(attack: Attack) -> tuple[Group, ...]:
    return attack.victim.groups() or (Group(mld.ALL_SNOOPERS),)


KINDS: Final[dict[str, Callable[[Attack], Iterator[bytes]]]] = {
    attack.__name__: attack
    for attack in (noise, symbols, drip, many, replay, announcements, unlooked, nobody, queries, joins, leaves)
}


# --- sending ---------------------------------------------------------------------------------------------------------


def address_of(pid: int) -> bytes | None:
    """The link-local address of a host on eth0 (/proc/net/if_inet6)."""
    lines = (line.split() for line in Path(f"/proc/{pid}/net/if_inet6").read_text().splitlines())
    return next((bytes.fromhex(line[0]) for line in lines if line[5] == INTERFACE and line[3] == "20"), None)


def run(frames: Iterator[bytes], bits_per_second: float) -> None:
    """Sends until SIGTERM comes."""
    going = True

    def stop(*_: object) -> None:
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, stop)
    sent, count, start = 0, 0, time.monotonic()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind((INTERFACE, 0))
        print("ready", flush=True)
        while going:
            due = bits_per_second / 8 * (time.monotonic() - start)
            if sent >= due:
                time.sleep(BURST)
                continue
            for frame in itertools.islice(frames, 64):
                try:
                    raw.send(frame)
                except OSError:  # no room: the link carries no more
                    time.sleep(_NO_ROOM)
                sent += len(frame) + _ETHERNET_EXTRA
                count += 1
    seconds = time.monotonic() - start
    print(json.dumps({"mbits": sent * 8 / seconds / 1e6, "frames": count, "seconds": seconds}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("pid", type=int)
    parser.add_argument("mbits", type=float)
    parser.add_argument("--source")
    parser.add_argument("--recorded", type=Path)
    parser.add_argument("--sealed", action="store_true")
    given = parser.parse_args()
    numbers = random.Random(7)
    source = socket.inet_pton(socket.AF_INET6, given.source) if given.source else address_of(os.getpid())
    assert source is not None
    past = json.loads(given.recorded.read_text()) if given.recorded else []
    datagrams = tuple((bytes.fromhex(group), bytes.fromhex(datagram)) for group, datagram in past)
    attack = Attack(Victim(given.pid, numbers), source, numbers, datagrams, given.sealed)
    run(KINDS[given.kind](attack), given.mbits * 1e6)


if __name__ == "__main__":
    main()
