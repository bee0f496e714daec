from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mcfs.serve.index import Index
from mcfs.serve.store import NodeStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """An empty directory to publish."""
    path = tmp_path / "share"
    path.mkdir()
    return path


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def index(state: Path) -> Iterator[Index]:
    with Index.open(state, block_size=64 << 10, threads=2) as index:
        yield index


@pytest.fixture
def store(index: Index) -> Iterator[NodeStore]:
    store = NodeStore(index)
    yield store
    store.close()
