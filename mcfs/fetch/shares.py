"""The shares that were heard of: which announcement counts under each name, and whether its publisher is still there.

A name that is known, or demanded, belongs to its publisher from the start. One that is unknown is left open for SETTLE
seconds and then belongs to the first in order of those that were heard, so that clients that hear the same agree. From
then on others are heard, and listed, and that is all. What they can fill is bounded apart from what is known.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from mcfs.fetch.freshness import Freshness
from mcfs.fetch.trust import NO_FLOOR, Floor, Pin, Trust, Verdict, content_id, successor
from mcfs.protocol.publisher import fingerprint
from mcfs.protocol.succession import is_successor_untrusted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcfs.protocol.announce import Announcement
    from mcfs.protocol.ids import Group
    from mcfs.protocol.publisher import Fingerprint

MAX_SHARES: Final = 4096
"""Shares of one link, a few hundred bytes each."""
MAX_OTHERS: Final = 4096
"""Announcements by publishers that do not count, or not yet: some 2 kB each."""
MAX_PUBLISHERS: Final = 8
"""Of one name that do not count: the first ones in order, as these are those that may come to count."""
MAX_REMARKS: Final = 64
"""Lines of log that strangers can cause."""
SETTLE: Final = 0.3
"""Seconds from the first announcement of an unknown name until its publisher is chosen: servers announce at once when
somebody joins, and reports of joins take up to 24 ms."""
BREAK: Final = 1.6
"""Seconds without an announcement after which a share was away: there is one every second."""
MAX_GONE: Final = 1024
"""Nodes of a share of which it is known when they were last said to be gone."""
CHANGE_PAUSE: Final = 60.0
"""Seconds between two changes of a key: each is a line of log and a line in a file, and who has a key can make chains
without end. The same for share keys, as servers of one share may have been given different ones."""
MAX_CHOICES: Final = 4
"""Names for which a publisher is chosen in one turn: each may cost up to 5 ms of signatures."""
SWEEP: Final = 1.0
"""Seconds between two searches for such: they go through all."""
FORGET: Final = 30.0
"""Seconds after which one that does not count, and is silent, makes room."""


@dataclass(slots=True)
class Share:
    announcement: Announcement
    last_heard: float
    pin: Pin
    """Who publishes it."""
    floor: Floor = NO_FLOOR
    freshness: Freshness = field(default_factory=Freshness)
    period: int = 0
    """Seconds; see `Announcement`. That of the last announcement that was not repeated by somebody."""
    interfaces: dict[int, float] = field(default_factory=dict)
    """Indexes of the interfaces on which it was heard, and when."""
    steady_since: float = float("-inf")
    """Since when it has been announced without a break."""
    gone: OrderedDict[Group, int] = field(default_factory=OrderedDict)
    """Nodes that cannot be produced, and the latest time at which that was signed."""
    changed_at: float = float("-inf")
    """When the publisher has changed its key."""
    rekeyed_at: float = float("-inf")
    """When it has changed the share key."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of an announcement."""

    live: bool = False
    """Whether the publisher that counts said it just now."""
    news: bool = False
    """Whether it is of a new share or a new version."""


@dataclass(frozen=True, slots=True)
class Remark:
    """A line for people."""

    name: bytes
    text: str


@dataclass(frozen=True, slots=True)
class KeyChanged:
    """The publisher of a share has another key from now on."""

    name: bytes
    before: Fingerprint
    pin: Pin


@dataclass(frozen=True, slots=True)
class VersionRaised:
    """A share has a version that nobody may go back behind."""

    name: bytes


Event = Remark | KeyChanged | VersionRaised


class Standing(Enum):
    """How a publisher that was heard stands to what is known of the name."""

    KNOWN = "known"
    NEW = "new"
    OTHER = "other"


@dataclass(slots=True)
class _Other:
    announcement: Announcement
    interface: int
    heard: float
    refusal: str


@dataclass(slots=True)
class _Name:
    """Publishers of one name that do not count."""

    others: dict[Fingerprint, _Other] = field(default_factory=dict)


class ShareTable:
    """What was heard under each name."""

    def __init__(self, timeout: float, trust: Trust | None = None) -> None:
        self._timeout = timeout
        self._trust = trust if trust is not None else Trust()
        self._shares: dict[bytes, Share] = {}
        self._names: dict[bytes, _Name] = {}
        self._count = 0
        self._swept_at = float("-inf")
        self._settling: dict[bytes, float] = {}
        """When a publisher is chosen, in that order."""
        self._unpinned: set[bytes] = set()
        """Shares whose room is limited."""
        self._wanted: set[bytes] = set()
        self._withdrawn: set[bytes] = set()
        self._events: deque[Event] = deque()
        self._told: set[bytes] = set()
        self._counting = {pin.fingerprint for pin in self._trust.pins.values()}
        if self._trust.demanded is not None:
            self._counting = {self._trust.demanded}
        self.refused = 0

    def __contains__(self, name: object) -> bool:
        return name in self._shares

    def get(self, name: bytes) -> Share | None:
        return self._shares.get(name)

    def announcements(self) -> dict[bytes, Announcement]:
        return {name: share.announcement for name, share in self._shares.items()}

    def events(self) -> Iterator[Event]:
        while self._events:
            yield self._events.popleft()

    def want(self, name: bytes) -> None:
        """There is room for this name whatever else is heard."""
        self._wanted.add(name)

    def counts(self, publisher: bytes) -> bool:
        """Whether this key (32 bytes) is one that is known, demanded, or that of a name that is wanted."""
        return fingerprint(publisher) in self._counting

    # --- what is heard -----------------------------------------------------------------------------------------------

    def announced(self, announcement: Announcement, interface: int, *, now: float) -> Heard:
        """A verified announcement came."""
        pin = self._pin(announcement.name)
        verdict = self._trust.judge(announcement, pin)
        if verdict is Verdict.SUCCESSOR and not self._may_change(announcement.name, now):
            verdict = Verdict.REFUSED
        if verdict is Verdict.UNKNOWN:
            possible = announcement.name not in self._withdrawn and self._has_room(announcement.name)
            self._other(announcement, interface, "", now + SETTLE if possible else None, now)
            return Heard()
        if pin is None or verdict is Verdict.REFUSED:
            refusal = self._trust.refusal(announcement.name, fingerprint(announcement.publisher), pin)
            self._other(announcement, interface, refusal, None, now)
            return Heard()
        if verdict is Verdict.SUCCESSOR:
            pin = self._succeed(announcement, pin, now)
        return self._accept(announcement, interface, pin, now)

    def settle(self, *, now: float) -> list[Announcement]:
        """Choose publishers of names whose time has come, a few at a time. Returns the announcements of new shares."""
        due = [name for name, at in itertools.islice(self._settling.items(), MAX_CHOICES) if at <= now]
        return [self._shares[name].announcement for name in due if self._choose(name, now)]

    def next_timeout(self) -> float | None:
        """When to call `settle`."""
        return next(iter(self._settling.values()), None)

    def pinned(self, name: bytes, pin: Pin, *, shown: bool) -> bool:
        """This is the key that stands in the file now. Returns False if the share is another publisher's: then it is
        taken away; for good if it has been shown, as nobody could tell which of the two he had read."""
        self._trust.pins[name] = pin
        self._counting.add(pin.fingerprint)
        self._unpinned.discard(name)
        share = self._shares.get(name)
        if share is None or pin.fingerprint in share.pin.replaces:
            return True
        if share.pin.fingerprint == pin.fingerprint:
            share.pin = pin
            return True
        if self._trust.judge(share.announcement, pin) is Verdict.SUCCESSOR:  # another mount has heard the former key
            share.pin = successor(share.announcement, pin)
            self._events.append(KeyChanged(name, pin.fingerprint, share.pin))
            return True
        if shown:
            self._withdrawn.add(name)
        self._remark(name, self._trust.refusal(name, share.pin.fingerprint, pin), always=True)
        del self._shares[name]
        return False

    def is_publisher(self, name: bytes, publisher: bytes) -> bool:
        """Whether this key (32 bytes) is that of the share's publisher."""
        share = self._shares.get(name)
        return share is not None and share.pin.fingerprint == fingerprint(publisher)

    def gone(self, name: bytes, group: Group, time_ms: int) -> bool:
        """The publisher signed at that time that a node cannot be produced. Returns whether it says so now: what it
        said long ago, or was heard before, is repeated by somebody."""
        share = self._shares.get(name)
        if share is None or time_ms <= share.gone.get(group, -1) or not share.freshness.is_recent(time_ms):
            return False
        share.gone[group] = time_ms
        share.gone.move_to_end(group)
        if len(share.gone) > MAX_GONE:
            share.gone.popitem(last=False)
        return True

    def _pin(self, name: bytes) -> Pin | None:
        share = self._shares.get(name)
        return share.pin if share is not None else self._trust.pin(name)

    def _may_change(self, name: bytes, now: float) -> bool:
        share = self._shares.get(name)
        return share is None or now >= share.changed_at + CHANGE_PAUSE

    def _succeed(self, announcement: Announcement, pin: Pin, now: float) -> Pin:
        new = successor(announcement, pin)
        name, key = announcement.name, new.fingerprint
        share = self._shares.get(name)
        old = share.floor if share is not None else self._trust.floor(name, pin.fingerprint)
        if not max(old, self._trust.floor(name, key), key=lambda floor: floor.version).admits(announcement):
            return new
        if share is not None:
            share.pin, share.changed_at = new, now
        elif name in self._withdrawn or not self._has_room(name):
            return new
        self._events.append(KeyChanged(name, pin.fingerprint, new))
        return new

    def _accept(self, announcement: Announcement, interface: int, pin: Pin, now: float) -> Heard:
        name = announcement.name
        share = self._shares.get(name)
        floor = share.floor if share is not None else self._floor(name, pin)
        if not floor.admits(announcement):
            self.refused += 1
            self._other(announcement, interface, self._trust.too_old(announcement, floor), None, now)
            return Heard()
        if share is None:
            if name in self._withdrawn or not self._has_room(name):
                self.refused += 1
                return Heard()
            share = self._shares[name] = Share(announcement, now, pin, floor, steady_since=now)
            if name in self._wanted:
                self._counting.add(pin.fingerprint)
            elif name not in self._trust.pins:
                self._unpinned.add(name)
            self._forget_other(name, pin.fingerprint)
            self._current(share, announcement, interface, now)
            self._raise(share)
            return Heard(live=True, news=True)
        if announcement.keys != share.announcement.keys and not self._rekey(share, announcement, now):
            self._other(announcement, interface, self._trust.other_share_key(name), None, now)
            return Heard()
        live = self._current(share, announcement, interface, now)
        if announcement.version <= share.announcement.version:
            if announcement.publisher != share.announcement.publisher:
                a = announcement
                share.announcement = replace(share.announcement, publisher=a.publisher, links=a.links)
            return Heard(live)
        share.announcement = announcement
        self._raise(share)
        return Heard(live, news=True)

    def _rekey(self, share: Share, announcement: Announcement, now: float) -> bool:
        """Whether the share has another share key from now on. That it had the one before may be a recording: what was
        signed later counts."""
        if announcement.time_ms <= share.freshness.latest or now < share.rekeyed_at + CHANGE_PAUSE:
            return False
        share.rekeyed_at = now
        share.announcement = replace(share.announcement, keys=announcement.keys, key_check=announcement.key_check)
        self._remark(announcement.name, self._trust.rekeyed(announcement.name), always=True)
        return True

    @staticmethod
    def _current(share: Share, announcement: Announcement, interface: int, now: float) -> bool:
        """Whether this is not repeated by somebody; then the share is there."""
        if not share.freshness.heard(announcement.addresses, announcement.time_ms, now=now):
            return False
        if now - share.last_heard > BREAK:
            share.steady_since = now
        share.last_heard = share.interfaces[interface] = now
        share.period = announcement.period
        return True

    def _raise(self, share: Share) -> None:
        a = share.announcement
        if a.version > share.floor.version:
            share.floor = Floor(a.version, content_id(a), share.floor.line)
            self._events.append(VersionRaised(a.name))

    def _floor(self, name: bytes, pin: Pin) -> Floor:
        """Of a publisher under all its keys: it does not go back with a new one."""
        floors = [self._trust.floor(name, key) for key in (pin.fingerprint, *pin.replaces)]
        return max(floors, key=lambda floor: floor.version)

    def _has_room(self, name: bytes) -> bool:
        return name in self._wanted or name in self._trust.pins or len(self._unpinned) < MAX_SHARES

    # --- who does not count ------------------------------------------------------------------------------------------

    def _other(
        self, announcement: Announcement, interface: int, refusal: str, settles: float | None, now: float
    ) -> None:
        name, key = announcement.name, fingerprint(announcement.publisher)
        heard = self._names.get(name)
        known = heard.others.get(key) if heard is not None else None
        if heard is None or known is None:
            if not self._room_for_other(name, now):
                self.refused += 1
                return
            heard = self._names.setdefault(name, _Name())
            self._count += 1
        if settles is not None:
            self._settling.setdefault(name, settles)
        if refusal:
            self.refused += 1
            self._remark(name, refusal)
        heard.others[key] = _Other(announcement, interface, now, refusal)
        if len(heard.others) > MAX_PUBLISHERS:
            self._forget_other(name, max(heard.others))

    def _room_for_other(self, name: bytes, now: float) -> bool:
        if self._count >= MAX_OTHERS and name not in self._wanted and now - self._swept_at >= SWEEP:
            self._swept_at = now
            silent = [
                (name, key)
                for name, heard in self._names.items()
                for key, other in heard.others.items()
                if now - other.heard > FORGET
            ]
            for entry in silent:
                self._forget_other(*entry)
        return self._count < MAX_OTHERS or name in self._wanted

    def _forget_other(self, name: bytes, key: Fingerprint) -> None:
        heard = self._names.get(name)
        if heard is not None and heard.others.pop(key, None) is not None:
            self._count -= 1
            if not heard.others:
                del self._names[name]

    def _choose(self, name: bytes, now: float) -> bool:
        del self._settling[name]
        if self._pin(name) is not None:
            return False
        heard = self._names.get(name)
        others = dict(heard.others) if heard is not None else {}
        # While a publisher changes its key its servers may have either.
        given_up = {key for key in others for other in others.values() if _follows(other.announcement, key)}
        possible = sorted(others.keys() - given_up)
        for key in possible:
            other = others[key]
            if self._accept(other.announcement, other.interface, Pin(key), now).news:
                rest = [each for each in possible if each != key]
                if rest:
                    self._remark(name, self._trust.ambiguous(name, key, rest))
                return True
        return False

    def _remark(self, name: bytes, text: str, *, always: bool = False) -> None:
        """One line for each name; of names that are neither known nor asked for a few in all."""
        expected = name in self._trust.pins or name in self._wanted
        room = expected or sum(told not in self._trust.pins for told in self._told) < MAX_REMARKS
        if always or (name not in self._told and room):
            self._told.add(name)
            self._events.append(Remark(name, text))

    # --- what people want to know ------------------------------------------------------------------------------------

    def refusal(self, name: bytes) -> str | None:
        """Why a share that was heard does not count. One line; None if nothing was heard of it."""
        heard = self._names.get(name)
        others = sorted(heard.others) if heard is not None else []
        return next((heard.others[key].refusal for key in others if heard and heard.others[key].refusal), None)

    def listing(self) -> list[tuple[Announcement, Standing]]:
        """All that was heard, by name and fingerprint."""
        found = [share.announcement for share in self._shares.values()]
        found += [other.announcement for heard in self._names.values() for other in heard.others.values()]
        found.sort(key=lambda a: (a.name, fingerprint(a.publisher)))
        return [(a, self._standing(a)) for a in found]

    def _standing(self, announcement: Announcement) -> Standing:
        pin = self._trust.pin(announcement.name)
        if pin is None:
            return Standing.NEW
        verdict = self._trust.judge(announcement, pin)
        return Standing.OTHER if verdict is Verdict.REFUSED else Standing.KNOWN

    # --- whether it is there -----------------------------------------------------------------------------------------

    def is_down(self, name: bytes, symbol_at: float, *, now: float) -> bool:
        """Whether nothing was heard of a known share for the time-out; `symbol_at` is when its last symbol came."""
        share = self._shares.get(name)
        return share is not None and now - max(share.last_heard, symbol_at) > self._timeout

    def interfaces(self, name: bytes) -> tuple[int, ...]:
        share = self._shares.get(name)
        return tuple(share.interfaces) if share else ()

    def forget_interface(self, index: int) -> None:
        """It has gone: what is heard on one that has this index later is another matter."""
        for share in self._shares.values():
            share.interfaces.pop(index, None)


def _follows(announcement: Announcement, ancestor: Fingerprint) -> bool:
    return is_successor_untrusted(announcement.links, announcement.publisher, ancestor)
