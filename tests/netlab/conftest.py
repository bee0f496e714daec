"""What all tests in namespaces share: they are skipped where they cannot run, except in CI, where that is a failure."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mcfs.cli.lab import Lab, missing_capabilities
from tests.netlab.harness import Site

PREFIX = "mcfs-test"
HERE = Path(__file__).parent
IN_CI = os.environ.get("CI") == "true"

LabMaker = Callable[..., Lab]
SiteMaker = Callable[..., Site]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.netlab)


@pytest.fixture(scope="session")
def missing() -> list[str]:
    found = missing_capabilities()
    if not found:
        Lab.cleanup_stale(PREFIX)
    return found


@pytest.fixture(autouse=True)
def capable(missing: list[str]) -> None:
    if missing and IN_CI:
        pytest.fail(f"CI must run these tests, but here is missing: {', '.join(missing)}")
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


@pytest.fixture(autouse=True)
def place_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a command remembers when it is not told where: not in this machine's own files."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state-of-commands"))


@pytest.fixture
def make_lab(capable: None) -> Iterator[LabMaker]:
    """Makes labs as `Lab(prefix, ...)` does; they end with the test."""
    with ExitStack() as stack:

        def make(clients: int, *, snooping: bool = True, wire: bool = False) -> Lab:
            return stack.enter_context(Lab(PREFIX, clients, snooping=snooping, wire=wire))

        yield make


@pytest.fixture
def make_site(make_lab: LabMaker, tmp_path: Path) -> Iterator[SiteMaker]:
    """Makes a lab with a `Site` in it; both end with the test."""
    with ExitStack() as stack:

        def make(clients: int, *, snooping: bool = True, wire: bool = False) -> Site:
            return stack.enter_context(Site(make_lab(clients, snooping=snooping, wire=wire), tmp_path))

        yield make
