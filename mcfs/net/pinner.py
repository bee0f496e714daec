"""Keeping what the user has pinned: its blocks are fetched when nothing else is, and spared when room is made.

A task looks at the directory of pins, and there is one for each pin. Disks are asked in threads.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

import trio

from mcfs.fetch.cachepins import PinState
from mcfs.fetch.pinned import PinStream, Wanted, pages_first, resolve
from mcfs.protocol.errors import BadNode, BadObject, NotAvailable, UserError
from mcfs.protocol.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcfs.fetch.cache import Cache
    from mcfs.fetch.cachepins import Pin, PinDirectory
    from mcfs.protocol.announce import Announcement
    from mcfs.protocol.catalog import DirectoryEntry, Entry
    from mcfs.protocol.ids import Node, ObjectId, ObjectRef

log = logging.getLogger(__name__)

LOOK: Final = 1.0
"""Seconds between two looks at the directory of pins, and at whether there is a new version."""
STEP: Final = 0.25
"""Seconds between two looks at what has come, while it comes."""
LONGEST_PAUSE: Final = 30.0
"""The same while nothing comes."""
RECHECK: Final = 60.0
"""Seconds after which it is looked whether all is still there: a block may have turned out to be damaged."""
SHARE_OF_LIMIT: Final = 15 / 16
"""Of the cache's limit that pins may take; in the rest passes what else is read."""
PATIENCE: Final = 4
"""Looks in vain until that is said."""


class Client(Protocol):
    """What is asked of the client."""

    def share(self, name: bytes) -> Announcement | None: ...

    async def entries(self, share: bytes, content: ObjectRef | tuple[Entry, ...]) -> tuple[Entry, ...]: ...

    def stream(self, reader: PinStream) -> None: ...

    def is_heard(self, share: bytes) -> bool: ...

    def is_wanted(self, node: Node) -> bool: ...


class Pinner:
    """For all pins of a cache directory."""

    def __init__(self, client: Client, cache: Cache, pins: PinDirectory) -> None:
        self._client = client
        self._cache = cache
        self._pins = pins
        self._objects: dict[str, frozenset[ObjectId]] = {}
        """What is spared, by the pin's ID."""
        self._rooms: dict[str, int] = {}
        """Bytes that pins take, by ID."""
        self._tasks: dict[Pin, trio.CancelScope] = {}
        self._states: dict[str, PinState] = {}

    async def run(self) -> None:
        self._objects = dict(self._pins.spared)
        async with trio.open_nursery() as nursery:
            while True:
                # Nearly always there is nothing new, which one system call tells.
                if self._pins.has_changed():
                    await self._follow(nursery, await trio.to_thread.run_sync(self._pins.pins))
                await trio.sleep(LOOK)

    async def _follow(self, nursery: trio.Nursery, asked: Sequence[Pin]) -> None:
        """Let there be a task for each of these pins, and no others."""
        ids = {pin.id for pin in asked}
        for pin in self._tasks.keys() - set(asked):
            self._tasks.pop(pin).cancel()
            await self._forget(pin, again=pin.id in ids)
        for pin in asked:
            if pin not in self._tasks:
                self._tasks[pin] = trio.CancelScope()
                nursery.start_soon(self._keep, pin, self._tasks[pin])

    async def _forget(self, pin: Pin, *, again: bool) -> None:
        self._rooms.pop(pin.id, None)
        self._states.pop(pin.id, None)
        if not again:
            self._objects.pop(pin.id, None)
            self._spare()
            await trio.to_thread.run_sync(self._pins.forget, pin.id)

    def _spare(self) -> None:
        self._cache.pin(frozenset().union(*self._objects.values()))

    async def _keep(self, pin: Pin, scope: trio.CancelScope) -> None:
        with scope:
            wanted: Wanted | None = None
            stream, pause = PinStream(pin.share), STEP
            while True:
                announcement = self._client.share(pin.share)
                if announcement is not None and (wanted is None or wanted.version < announcement.version):
                    wanted, pause = await self._resolve(pin, announcement), STEP
                elif wanted is not None and not await self._still_fits(pin, wanted):
                    wanted = None
                if wanted is not None:
                    pause = await self._fetch(pin, wanted, stream, pause)
                await self._until_news(pin.share, announcement, pause if wanted is not None else LONGEST_PAUSE)

    async def _until_news(self, share: bytes, last: Announcement | None, seconds: float) -> None:
        """Wait so long, or until the share has another version."""
        version = last.version if last is not None else None
        while seconds > 0:
            await trio.sleep(min(seconds, LOOK))
            seconds -= LOOK
            announcement = self._client.share(share)
            if announcement is not None and announcement.version != version:
                return

    async def _resolve(self, pin: Pin, announcement: Announcement) -> Wanted | None:
        """Find out what it stands for, and spare it; None, and it is said why, if that cannot be done."""

        async def entries(directory: DirectoryEntry) -> tuple[Entry, ...]:
            await trio.lowlevel.checkpoint()  # what is known comes at once, and others want to read meanwhile
            return await self._client.entries(pin.share, directory.content)

        try:
            wanted = await resolve(announcement.entry, pin.path, announcement.version, entries)
            self._check_room(pin, wanted)
        except (NotAvailable, BadNode, BadObject, UserError) as error:
            if isinstance(error, UserError):
                await self._refuse(pin, str(error))
            else:
                await self._say(pin, PinState(pin.nonce, problem=f"its directory cannot be read ({error})"))
            return None
        self._rooms[pin.id] = wanted.room
        self._objects[pin.id] = wanted.objects
        self._spare()
        try:
            await trio.to_thread.run_sync(self._pins.write_objects, pin, sorted(wanted.objects))
        except OSError as error:
            log.warning("pin %s may not outlive this mount: %s", printable(pin.name), error)
        return wanted

    async def _still_fits(self, pin: Pin, wanted: Wanted) -> bool:
        """The limit becomes less when there is a second mount: then what is pinned has to go, and not to come again."""
        try:
            self._check_room(pin, wanted)
        except UserError as error:
            await self._refuse(pin, str(error))
            return False
        return True

    async def _refuse(self, pin: Pin, why: str) -> None:
        self._rooms.pop(pin.id, None)
        self._objects.pop(pin.id, None)
        self._spare()
        await self._say(pin, PinState(pin.nonce, problem=why, refused=True))

    def _check_room(self, pin: Pin, wanted: Wanted) -> None:
        """Raises UserError."""
        allowed = int(self._cache.limit * SHARE_OF_LIMIT)
        others = sum(room for id_, room in self._rooms.items() if id_ != pin.id)
        if wanted.room + others > allowed:
            beside = f" beside {others} bytes of other pins" if others else ""
            raise UserError(
                f"it takes {wanted.room} bytes{beside}, and pins may take {allowed}, "
                f"15/16 of this mount's part of cache_max ({self._cache.limit})"
            )

    async def _fetch(self, pin: Pin, wanted: Wanted, stream: PinStream, pause: float) -> float:
        """Ask for what is missing. Returns the seconds until the next look."""
        before = self._states.get(pin.id, PinState())
        done, missing = await trio.to_thread.run_sync(wanted.survey, self._cache)
        waiting = stream.reading or any(self._client.is_wanted(node) for node in missing)
        moved = done != before.done or before.bytes != wanted.bytes
        pause = STEP if moved or not missing else min(LONGEST_PAUSE, pause * 2)
        problem = self._problem(pin) if missing and pause > STEP * 2**PATIENCE else ""
        await self._say(pin, PinState(pin.nonce, wanted.files, wanted.bytes, done, problem))
        if not missing:
            return RECHECK
        if not waiting and self._client.is_heard(pin.share) and (missing := self._worth_asking(missing, pause)):
            stream.feed(pages_first(missing, self._cache))
            self._client.stream(stream)
        return pause

    def _worth_asking(self, missing: list[Node], pause: float) -> list[Node]:
        """Of a cache that cannot be written a block tells now and then whether it can be again; nobody else may ask."""
        if self._cache.keeping:
            return missing
        if pause < LONGEST_PAUSE:
            return []
        self._cache.try_again()
        return missing[:1]

    def _problem(self, pin: Pin) -> str:
        if not self._client.is_heard(pin.share):
            return "nothing is heard of the share"
        if not self._cache.keeping:
            return "the cache cannot be written"
        return "blocks do not come, or there is no room to keep them"

    async def _say(self, pin: Pin, state: PinState) -> None:
        before = self._states.get(pin.id)
        if before == state:
            return
        self._states[pin.id] = state
        if state.problem and (before is None or before.problem != state.problem):
            log.warning("pin %s: %s", printable(pin.name), state.problem)
        try:
            await trio.to_thread.run_sync(self._pins.write_state, pin, state)
        except OSError as error:
            log.debug("the state of pin %s cannot be written: %s", printable(pin.name), error)
