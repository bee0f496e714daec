"""Doing things in a world, one after the other, from a thread that knows no event loop."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import trio
import trio.testing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeVar

    from tests.changing.world import World

    T = TypeVar("T")

DEADLINE = 60.0


class Portal:
    """`make` makes the world, in its event loop. Leaving the context ends it, and raises what went wrong in there."""

    def __init__(self, make: Callable[[], World]) -> None:
        self._make = make
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(DEADLINE)

    def do(self, step: Callable[[World], Awaitable[T]]) -> T:
        """Raises what it raises; virtual time passes until it is done."""

        async def run() -> T:
            return await self.world.do(lambda: step(self.world))

        return trio.from_thread.run(run, trio_token=self._token)

    def close(self) -> None:
        if self._thread.is_alive():
            trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            trio.run(self._main, clock=trio.testing.MockClock())
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self.world = self._make()
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.world.run)
                self._ready.set()
