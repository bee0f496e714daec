from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mcfs.fuse import readdir
from tests.fuse import kernel_fake

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def _fake_readdir_reply() -> Iterator[None]:
    """The real one writes to the memory of a request of the kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readdir, "readdir_reply", kernel_fake.reply)
        yield
