"""Writing down whom the client believes, in a thread, since a disk may be slow and the file locked."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from mcfs.net.loader import WorkerPool
from mcfs.protocol.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcfs.fetch.pinfile import KnownPublishers
    from mcfs.fetch.trust import Floor, Pin
    from mcfs.protocol.publisher import Fingerprint

log = logging.getLogger(__name__)

LOCK_SECONDS: Final = 5.0
"""Longest wait for another mount that writes to the same file: it takes milliseconds."""
_LOCK_PAUSE: Final = 0.02
RAISE_PAUSE: Final = 5.0
"""Seconds between two versions of a share that are written: a server may announce new ones as fast as it likes."""


@dataclass(frozen=True, slots=True)
class Pinning:
    """A pin that is to be written, and then what stands in the file."""

    name: bytes
    pin: Pin
    before: Fingerprint | None


@dataclass(frozen=True, slots=True)
class _Raising:
    name: bytes
    key: Fingerprint
    floor: Floor


class Keeper:
    """What is submitted is written in that order; `wake` is called when a pin is."""

    def __init__(self, known: KnownPublishers, wake: Callable[[], None]) -> None:
        self._known = known
        self._pool: WorkerPool[Pinning | _Raising, Pinning | _Raising] = WorkerPool("publishers", 1, self._write, wake)
        self._complained = False
        self._floors: dict[bytes, _Raising] = {}
        """To be written."""
        self._raised: dict[bytes, float] = {}
        """When versions were written last."""

    def pin(self, name: bytes, pin: Pin, *, before: Fingerprint | None) -> None:
        """Remember a pin, in the place of one for the key `before`."""
        self._pool.submit(Pinning(name, pin, before))

    def raise_floor(self, name: bytes, key: Fingerprint, floor: Floor) -> None:
        """Remember a version, soon."""
        self._floors[name] = _Raising(name, key, floor)

    def raise_due(self, *, now: float) -> None:
        """Write the versions whose time has come."""
        for name in [name for name in self._floors if now >= self._raised.get(name, float("-inf")) + RAISE_PAUSE]:
            self._raised[name] = now
            self._pool.submit(self._floors.pop(name))

    def take(self) -> list[Pinning]:
        """Pins as they stand in the file, or as they were submitted if it could not be written."""
        return [done for done in self._pool.take() if isinstance(done, Pinning)]

    def close(self) -> None:
        """Write what is left."""
        for floor in self._floors.values():
            self._pool.submit(floor)
        self._floors.clear()
        self._pool.close()

    def _write(self, item: Pinning | _Raising) -> Pinning | _Raising:
        """In the thread."""
        try:
            if isinstance(item, _Raising):
                self._known.raise_floor(item.name, item.key, item.floor, pause=_patience())
                return item
            note = time.strftime("first used %Y-%m-%d")
            pin = self._known.pin(item.name, item.pin, before=item.before, note=note, pause=_patience())
            return item if pin is None else replace(item, pin=pin)
        except UserError as error:
            self._complain(str(error))
        except Exception:
            log.exception("remembering a publisher failed")
        return item

    def _complain(self, text: str) -> None:
        if not self._complained:
            self._complained = True
            log.warning("publishers are not remembered: %s", text)


def _patience() -> Callable[[], None]:
    """Sleeps for a moment when called; raises TimeoutError when that was called for LOCK_SECONDS."""
    end = time.monotonic() + LOCK_SECONDS

    def pause() -> None:
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(_LOCK_PAUSE)

    return pause
