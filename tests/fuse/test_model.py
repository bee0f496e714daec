"""Random operations on the file system against a plain dictionary of paths."""

from __future__ import annotations

import errno
import stat
from dataclasses import dataclass, field
from typing import TypeAlias

import pyfuse3
from hypothesis import given, settings
from hypothesis import strategies as st

from mcfs.fuse.links import Symlinks
from mcfs.protocol.catalog import Attributes
from tests.fuse.fakes import Directory, FakeBackend, File, Item, Link, walk
from tests.fuse.kernel_fake import FakeKernel, failure

# Few names and few contents: they must meet again and again, as files, directories and links.
NAMES = st.sampled_from([b"a", b"a.b", b"b", b"\xff\xfe", b"z" * 255])
ATTRIBUTES = st.builds(
    Attributes, st.sampled_from([0o644, 0o755]), st.just(1), st.just(2), st.integers(-(2**40), 2**62)
)
FILES = st.builds(File, st.sampled_from([b"", b"one", b"two", b"three" * 50]), ATTRIBUTES)
LINKS = st.builds(Link, st.sampled_from([b"..", b"/etc/passwd", b"a/b"]), ATTRIBUTES)
TREES = st.recursive(
    st.one_of(FILES, LINKS),
    lambda below: st.builds(Directory, st.dictionaries(NAMES, below, max_size=4), ATTRIBUTES, st.booleans()),
    max_leaves=12,
)
DIRECTORIES = st.builds(Directory, st.dictionaries(NAMES, TREES, max_size=5), ATTRIBUTES)
SHARES = st.one_of(DIRECTORIES, FILES)


@dataclass(frozen=True)
class Publish:
    share: bytes
    item: Directory | File


@dataclass(frozen=True)
class Look:
    """Walk to a path, existing or not, and read or list what is there."""

    names: tuple[bytes, ...]


@dataclass(frozen=True)
class Open:
    """Open a file or a directory and keep it open."""

    choice: int


@dataclass(frozen=True)
class Recheck:
    """Read everything that is open."""


@dataclass(frozen=True)
class ListAll:
    """Visit the whole tree, as `ls -lR`."""


@dataclass(frozen=True)
class Forget:
    """Let the kernel drop all it knows but what is open."""


Step: TypeAlias = Publish | Look | Open | Recheck | ListAll | Forget
STEPS = st.lists(
    st.one_of(
        st.builds(Publish, st.sampled_from([b"s", b"t"]), SHARES),
        st.builds(Look, st.lists(NAMES, max_size=4).map(tuple)),
        st.builds(Open, st.integers(0, 100)),
        st.just(Recheck()),
        st.just(ListAll()),
        st.just(Forget()),
    ),
    max_size=25,
)


@dataclass
class Harness:
    share: bytes | None
    backend: FakeBackend = field(default_factory=FakeBackend)
    published: dict[bytes, Directory | File] = field(default_factory=dict)
    open_files: dict[int, bytes] = field(default_factory=dict)
    open_directories: dict[int, list[bytes]] = field(default_factory=dict)
    contents: dict[int, tuple[bytes, object]] = field(default_factory=dict)
    """What each inode number stood for when it was first seen."""

    def __post_init__(self) -> None:
        self.kernel = FakeKernel(self.backend, self.share, share_wait=0.0, symlinks=Symlinks.KEEP)

    def model(self) -> dict[bytes, Item]:
        """Every path that the mount must show, and what is there."""
        root = Directory(dict(self.published))
        if self.share is not None:
            top = self.published[self.share]
            root = top if isinstance(top, Directory) else Directory({self.share: top})
        return {path.removeprefix(b"/"): item for path, _, item in walk(root)}

    async def run(self, step: Step) -> None:
        match step:
            case Publish(share, item):
                self.published[share] = item
                self.backend.publish(share, item)
            case Look(names):
                await self.look(b"/".join(names))
            case Open(choice):
                await self.open(sorted(self.model())[choice % len(self.model())])
            case Recheck():
                await self.recheck()
            case ListAll():
                for path in self.model():
                    await self.look(path)
            case Forget():
                await self.kernel.forget()
                # The listing is what a process still has of an open directory; a file handle is the client's.

    async def look(self, path: bytes) -> None:
        item = self.model().get(path)
        if item is None:
            assert await failure(self.kernel.walk(path)) in (errno.ENOENT, errno.ENOTDIR)
            return
        found = await self.kernel.walk(path)
        self.check_number(found.st_ino, path, item)
        if isinstance(item, Directory):
            await self.check_listing(found.st_ino, path, item)
        elif isinstance(item, File):
            assert (found.st_mode, found.st_size) == (stat.S_IFREG | item.attributes.mode, len(item.data))
            assert found.st_mtime_ns == item.attributes.mtime_ns
            assert await self.kernel.read(path, 7) == item.data
        else:
            assert await self.kernel.operations.readlink(found.st_ino, pyfuse3.RequestContext()) == item.target

    async def check_listing(self, number: int, path: bytes, item: Directory) -> None:
        rows = await self.kernel.rows(number)
        assert [row.name for row in rows] == sorted(item.children)
        assert len({row.number for row in rows}) == len(rows)
        for row in rows:
            child = item.children[row.name]
            self.check_number(row.number, b"/".join(filter(None, (path, row.name))), child)
            assert stat.S_ISDIR(row.mode) == isinstance(child, Directory)

    def check_number(self, number: int, path: bytes, item: Item) -> None:
        """A number never comes to mean another path, kind or content."""
        meaning = {Directory: "directory", File: "file", Link: "link"}[type(item)]
        content = item.data if isinstance(item, File) else item.target if isinstance(item, Link) else b""
        assert self.contents.setdefault(number, (path, (meaning, content))) == (path, (meaning, content))

    async def open(self, path: bytes) -> None:
        item = self.model()[path]
        number = (await self.kernel.walk(path)).st_ino
        if isinstance(item, File):
            self.open_files[await self.kernel.open(number)] = item.data
        elif isinstance(item, Directory):
            handle = await self.kernel.operations.opendir(number, pyfuse3.RequestContext())
            self.open_directories[handle] = [b".", b"..", *sorted(item.children)]

    async def recheck(self) -> None:
        for file, data in self.open_files.items():
            assert await self.kernel.read_handle(file, 11) == data
        for directory, names in self.open_directories.items():
            assert [row.name for row in await self.kernel.readdir(directory, 0, 1000)] == names


@settings(max_examples=300, deadline=None)
@given(share=st.sampled_from([None, b"s"]), first=SHARES, steps=STEPS)
async def test_the_mount_shows_what_was_published_last(
    share: bytes | None, first: Directory | File, steps: list[Step]
) -> None:
    harness = Harness(share)
    await harness.run(Publish(b"s", first))
    for step in [*steps, Recheck(), ListAll()]:
        await harness.run(step)
    await harness.kernel.forget()
    assert len(harness.kernel.operations._table) == 1
