"""What root makes for the user that a server becomes, where others try to have something else handed over to them."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mcfs.cli.privileges import own
from mcfs.protocol.errors import UserError
from tests.netlab.unprivileged import USER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY = pwd.getpwuid(USER)
SOMEBODY = 1

pytestmark = pytest.mark.netlab


@pytest.fixture
def roots() -> Iterator[Path]:
    """A directory of root's in one in which others can make things, as /tmp."""
    with tempfile.TemporaryDirectory(prefix="mcfs-test-") as path:
        os.chmod(path, 0o755)
        yield Path(path)


def owner(path: Path) -> int:
    return path.lstat().st_uid


def test_it_is_made_below_roots(roots: Path) -> None:
    own(roots / "some" / "state", NOBODY)
    found = (roots / "some" / "state").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (USER, NOBODY.pw_gid, 0o700)
    assert (owner(roots / "some"), stat.S_IMODE((roots / "some").stat().st_mode)) == (0, 0o755)
    own(roots / "some" / "state", NOBODY)


def test_below_his_own_nothing_is_made_as_root(roots: Path) -> None:
    home = roots / "home"
    home.mkdir()
    os.chown(home, USER, USER)
    own(home / "some" / "state", NOBODY)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(("uid", "mode"), [(0, 0o777), (0, 0o775), (SOMEBODY, 0o755), (SOMEBODY, 0o1777)])
def test_where_others_can_rename_it_nothing_is_made(roots: Path, uid: int, mode: int) -> None:
    shared = roots / "shared"
    shared.mkdir()
    shared.chmod(mode)
    os.chown(shared, uid, uid)
    for directory in (shared / "state", shared / "some" / "state"):
        with pytest.raises(UserError, match=r"others than root can write it.*as nobody"):
            own(directory, NOBODY)
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize("where", ["state", "state/below"])
def test_no_link_is_followed(roots: Path, where: str) -> None:
    target, shared = roots / "target", roots / "shared"
    target.mkdir()
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "state").symlink_to(target / "made" if where == "state" else target)
    os.chown(shared / "state", USER, USER, follow_symlinks=False)
    with pytest.raises(UserError, match="without links"):
        own(shared / where, NOBODY)
    assert list(target.iterdir()) == []
    assert owner(target) == 0


@pytest.mark.parametrize("what", ["directory of root", "directory of somebody", "file", "link"])
def test_what_somebody_puts_there_meanwhile_is_not_handed_over(
    roots: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    secret, state = roots / "secret", roots / "state"
    secret.mkdir()

    def first(make: Callable[..., None]) -> Callable[..., None]:
        def mkdir(*words: object, **options: object) -> None:
            match what:
                case "file":
                    state.touch()
                case "link":
                    state.symlink_to(secret)
                case _:
                    make(state)
                    os.chown(state, 0 if what == "directory of root" else SOMEBODY, -1)
            make(*words, **options)

        return mkdir

    monkeypatch.setattr(os, "mkdir", first(os.mkdir))
    with pytest.raises(UserError, match=r"just made it|without links"):
        own(state, NOBODY)
    assert owner(state) != USER
    assert owner(secret) == 0
