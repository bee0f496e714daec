"""Links that lead out of their share: judged by the text alone, and never wrong about what the kernel would do."""

from __future__ import annotations

import errno
import os
import random
from typing import TYPE_CHECKING

import pytest

from mcfs.fuse.links import Symlinks, stays_inside
from tests.fuse.fakes import Directory, FakeBackend, File, Link
from tests.fuse.kernel_fake import CONTEXT, FakeKernel, failure

if TYPE_CHECKING:
    from pathlib import Path

PUBLISHED = Directory(
    {
        b"file": File(b"content"),
        b"out": Link(b"/etc/passwd"),
        b"d": Directory({b"in": Link(b"../file"), b"out": Link(b"../../x")}),
    }
)


@pytest.mark.parametrize(
    "target",
    [b"a", b"./a", b"a/b//c/", b".", b"...", b"..a/b", b"..", b"../", b"../../f", b".././../f", b"../../d/e/link"],
)
def test_links_that_stay(target: bytes) -> None:
    assert stays_inside(b"share/d/e/link", target)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (b"share/link", b"/"),
        (b"share/link", b"/etc/passwd"),
        (b"share/link", b"//share/file"),
        (b"share/link", b".."),
        (b"share/link", b"./.."),
        (b"share/link", b"../other share/file"),
        (b"share/d/link", b"../.."),
        (b"share/d/link", b".././/../x"),
        # What follows a name climbs from wherever that name leads.
        (b"share/link", b"up/../x"),
        (b"share/d/e/link", b"up/.."),
        (b"share/d/e/link", b"../a/../f"),
        (b"share/d/e/link", b"a/b/c/../../../f"),
    ],
)
def test_links_that_do_not(path: bytes, target: bytes) -> None:
    assert not stays_inside(path, target)


async def test_reading_a_link_that_leads_out_is_not_permitted() -> None:
    backend = FakeBackend()
    backend.publish(b"s", PUBLISHED)
    for share, root in ((b"s", b""), (None, b"s/")):
        kernel = FakeKernel(backend, share)
        for path in (b"out", b"d/out"):
            link = await kernel.walk(root + path)
            assert await failure(kernel.operations.readlink(link.st_ino, CONTEXT)) == errno.EPERM
        link = await kernel.walk(root + b"d/in")
        assert await kernel.operations.readlink(link.st_ino, CONTEXT) == b"../file"
        assert await kernel.read(root + b"file") == b"content"


async def test_kept_links_are_passed_on_as_they_are() -> None:
    backend = FakeBackend()
    backend.publish(b"s", PUBLISHED)
    kernel = FakeKernel(backend, b"s", symlinks=Symlinks.KEEP)
    out = await kernel.walk(b"out")
    assert await kernel.operations.readlink(out.st_ino, CONTEXT) == b"/etc/passwd"


async def test_hidden_links_do_not_exist() -> None:
    backend = FakeBackend()
    backend.publish(b"s", PUBLISHED)
    kernel = FakeKernel(backend, b"s", symlinks=Symlinks.HIDE)
    root = await kernel.walk(b"")
    for buffer in (1, 2, 100):
        assert [row.name for row in await kernel.rows(root.st_ino, buffer)] == [b"d", b"file"]
    d = await kernel.walk(b"d")
    assert await kernel.rows(d.st_ino) == []
    assert await failure(kernel.walk(b"d/in")) == errno.ENOENT


@pytest.mark.parametrize("seed", range(30))
def test_the_kernel_never_gets_out_by_links_that_stay(tmp_path: Path, seed: int) -> None:
    """Random trees full of links, those left out that are refused; each name is then resolved by the kernel."""
    numbers = random.Random(seed)
    share = tmp_path / "above" / "share"
    share.mkdir(parents=True)
    directories = [b"share"]
    links = []
    names = [b"a", b"b", b"c", b"up"]
    for _ in range(40):
        path = numbers.choice(directories) + b"/" + numbers.choice(names)
        if os.path.lexists(os.fsencode(share.parent) + b"/" + path):
            continue
        if numbers.random() < 0.4:
            os.mkdir(os.fsencode(share.parent) + b"/" + path)
            directories.append(path)
            continue
        target = b"/".join(numbers.choice([b"..", b"..", b".", *names]) for _ in range(numbers.randint(1, 5)))
        if stays_inside(path, target):
            os.symlink(target, os.fsencode(share.parent) + b"/" + path)
            links.append(path)
    assert links
    inside = {os.stat(folder).st_ino for folder, _, _ in os.walk(share)}
    found = [reached(os.fsencode(share.parent) + b"/" + path) for path in links]
    assert {number for number in found if number} <= inside


def reached(path: bytes) -> int | None:
    """The inode that the kernel finds; None if the links lead nowhere or in circles."""
    try:
        return os.stat(path).st_ino
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise
