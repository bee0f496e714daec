from __future__ import annotations

from inspect import iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mcfs.fuse import readdir
from tests.fuse import kernel_fake
from tests.hostile.conftest import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and item.path.is_relative_to(HERE) and iscoroutinefunction(item.obj):
            item.add_marker(pytest.mark.trio(run=in_virtual_time), append=False)


@pytest.fixture(scope="session", autouse=True)
def _fake_readdir_reply() -> Iterator[None]:
    """The real one writes to the memory of a request of the kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readdir, "readdir_reply", kernel_fake.reply)
        yield
