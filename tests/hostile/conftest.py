from __future__ import annotations

from inspect import iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from mcfs.fuse import readdir
from tests.fuse import kernel_fake
from tests.hostile.site import Site, open_site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence


HERE = Path(__file__).parent


def in_virtual_time(
    test: Callable[[], Awaitable[None]], *, clock: None, instruments: Sequence[trio.abc.Instrument]
) -> None:
    trio.run(test, clock=trio.testing.MockClock(), instruments=instruments)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and item.path.is_relative_to(HERE) and iscoroutinefunction(item.obj):
            item.add_marker(pytest.mark.trio(run=in_virtual_time), append=False)


@pytest.fixture(autouse=True)
def _fake_readdir_reply() -> Iterator[None]:
    """The real one writes to the memory of a request of the kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readdir, "readdir_reply", kernel_fake.reply)
        yield


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path / "cache") as site:
        yield site
