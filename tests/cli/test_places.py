from __future__ import annotations

from pathlib import Path

import pytest

from mcfs.cli import places
from mcfs.protocol.errors import UserError


@pytest.mark.parametrize(
    ("environment", "user", "cache", "state"),
    [
        ({}, 0, "/var/cache/mcfs", "/var/lib/mcfs"),
        ({"HOME": "/root", "XDG_CACHE_HOME": "/x"}, 0, "/var/cache/mcfs", "/var/lib/mcfs"),
        ({"HOME": "/home/a"}, 1000, "/home/a/.cache/mcfs", "/home/a/.local/state/mcfs"),
        ({"HOME": "/home/a", "XDG_CACHE_HOME": "/c", "XDG_STATE_HOME": "/s"}, 1000, "/c/mcfs", "/s/mcfs"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "relative"}, 1000, "/h/.cache/mcfs", "/h/.local/state/mcfs"),
        ({"CACHE_DIRECTORY": "/v/c:/v/d", "STATE_DIRECTORY": "/v/s"}, 1000, "/v/c", "/v/s"),
    ],
)
def test_default_places(environment: dict[str, str], user: int, cache: str, state: str) -> None:
    assert places.cache_dir(environment, user) == Path(cache)
    assert places.state_dir(environment, user) == Path(state)


def test_without_home_the_option_is_named() -> None:
    with pytest.raises(UserError, match=r"HOME is not set.*cache_dir="):
        places.cache_dir({}, 1000)
    with pytest.raises(UserError, match=r"HOME is not set.*--state-dir"):
        places.state_dir({"HOME": ""}, 1000)
