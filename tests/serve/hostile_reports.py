"""Reports that nobody must act upon: each of a kind that the kernel hands up although MLD forbids it, and random ones.

The groups that they name are really served, so that a check which is missing shows at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mcfs.protocol import mld
from mcfs.protocol.ids import Group, Host
from mcfs.protocol.mld import Envelope, OldMessage, Record, RecordType

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

KINDS: Final = (
    "hop limit",
    "no router alert",
    "global source",
    "no source",
    "unicast destination",
    "other destination",
    "count too large",
    "record over the end",
    "cut off",
    "unicast group",
    "low scope",
    "unknown type",
    "foreign group",
    "version 1 to the wrong address",
    "not MLD",
)

_GLOBAL: Final = Host(bytes.fromhex("20010db8") + bytes(11) + b"\1")
_MESSAGE_TYPES: Final = (mld.REPORT_V1, mld.DONE_V1, mld.REPORT_V2, mld.ADVERTISEMENT, mld.TERMINATION)


class HostileReports:
    """Makes (envelope, message) pairs of a host that joins these groups in all wrong ways.

    :param server: the unicast address that some are sent to
    """

    def __init__(self, rng: random.Random, served: Sequence[Group], *, host: Host, server: Host) -> None:
        self._rng = rng
        self._served = served
        self._host = host
        self._server = server

    def any(self) -> tuple[Envelope, bytes]:
        """One in two of a known kind, the others random bytes behind a good or a bad envelope."""
        if self._rng.random() < 0.5:
            return self.of_kind(self._rng.choice(KINDS))
        return self._noise()

    def of_kind(self, kind: str) -> tuple[Envelope, bytes]:
        envelope, message = self._envelope(), self._join()
        match kind:
            case "hop limit":
                return self._envelope(hop_limit=self._rng.choice((-1, 0, 2, 64, 255))), message
            case "no router alert":
                return self._envelope(router_alert=False), message
            case "global source":
                return self._envelope(source=_GLOBAL), message
            case "no source":
                return self._envelope(source=Host(mld.UNSPECIFIED)), message
            case "unicast destination":
                return self._envelope(destination=self._server), message
            case "other destination":
                return self._envelope(destination=self._rng.choice((mld.ALL_NODES, mld.ALL_ROUTERS))), message
            case _:
                return envelope, self._wrong(kind, message)

    def _wrong(self, kind: str, message: bytes) -> bytes:
        """A message that is wrong itself."""
        count = int.from_bytes(message[6:8], "big")
        match kind:
            case "count too large":
                return message[:6] + self._rng.randrange(count + 1, 65536).to_bytes(2, "big") + message[8:]
            case "record over the end":
                sources = self._rng.randrange(1, 65536) if self._rng.random() < 0.5 else 0
                aux = 0 if sources else self._rng.randrange(1, 256)
                last = len(message) - 20
                return message[: last + 1] + bytes([aux]) + sources.to_bytes(2, "big") + message[last + 4 :]
            case "cut off":
                return message[: self._rng.randrange(len(message))]
            case "unicast group":
                return message[:12] + self._rng.choice((b"\xfe\x80", bytes(2), b"\x20\x01")) + message[14:]
            case "low scope":
                return self._records(*(Group(b"\xff" + bytes([0x10 | self._rng.randrange(3)]) + self._group()[2:]),))
            case "unknown type":
                return message[:6] + b"\0\1" + bytes([self._rng.choice((0, *range(7, 256)))]) + message[9:28]
            case "foreign group":
                return self._records(Group(b"\xff" + bytes([0x10 | self._rng.randrange(3, 15)]) + self._random(14)))
            case "version 1 to the wrong address":
                return mld.build_old(OldMessage(self._group(), self._rng.random() < 0.3))
            case _:
                return bytes([self._rng.choice((0, 1, 128, 135, 144, 200, 255))]) + self._random(23)

    def _noise(self) -> tuple[Envelope, bytes]:
        good = self._rng.random() < 0.5
        envelope = self._envelope() if good else self._envelope(router_alert=False)
        head = bytes([self._rng.choice(_MESSAGE_TYPES)])
        return envelope, head + self._random(self._rng.choice((0, 3, 7, 23, 27, 47, 200)))

    def _envelope(
        self,
        *,
        source: Host | None = None,
        destination: bytes = mld.ALL_MLDV2_ROUTERS,
        hop_limit: int = 1,
        router_alert: bool = True,
    ) -> Envelope:
        return Envelope(source or self._host, destination, hop_limit, router_alert, 1)

    def _group(self) -> Group:
        return self._rng.choice(self._served)

    def _join(self) -> bytes:
        return self._records(*(self._group() for _ in range(self._rng.randrange(1, 5))))

    @staticmethod
    def _records(*groups: Group) -> bytes:
        return mld.build_report([Record(RecordType.CHANGE_TO_EXCLUDE_MODE, group) for group in groups])

    def _random(self, count: int) -> bytes:
        return self._rng.randbytes(count)
