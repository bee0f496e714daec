"""Announcements with a valid signature and a hostile content."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from mcfs.cli.ls import Style, share_table
from mcfs.cli.terminal import PlainFormatter
from mcfs.protocol import wire
from mcfs.protocol.addressing import addresser_of, node_group
from mcfs.protocol.ids import Node
from tests.fakelink import SCOPE
from tests.fuse.kernel_fake import CONTEXT, failure
from tests.hostile.publisher import BIG, HASH, Publisher, directory, file, link, listing, made_up
from tests.hostile.site import GOOD, open_site
from tests.hostile.test_listings import BAD_NAMES, TERMINAL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.hostile.publisher import Raw
    from tests.hostile.site import Site

EMPTY = listing()


async def expect_no_more_shares(site: Site) -> None:
    root = await site.kernel.walk(b"")
    assert [row.name for row in await site.kernel.rows(root.st_ino)] == [b"good"]
    await site.expect_honest()


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())
async def test_shares_of_names_that_no_directory_has(site: Site, name: object) -> None:
    site.announce(site.evil.announcement(directory(name, 0), objects=[site.store.add(EMPTY)]))
    await expect_no_more_shares(site)


async def test_a_share_named_for_a_terminal(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """It is shown under its name; neither `mcfs ls` nor the log gets it as it is."""
    site.announce(site.evil.share(TERMINAL, EMPTY), TERMINAL)
    assert (await site.kernel.walk(TERMINAL)).st_mode
    for line in share_table(site.client.publishers(), Style(human=True, escape=True)):
        assert line.isprintable()
    reception = site.client._fetcher.paces.reception(TERMINAL)
    assert reception is not None
    reception.pace, reception.reason = 2, "a reason"
    with caplog.at_level(logging.INFO, "mcfs"):
        site.client._tell_pace(TERMINAL)
    assert caplog.records
    for record in caplog.records:
        assert record.getMessage().isprintable()
        assert PlainFormatter("%(message)s").format(record).isprintable()


# --- what the top entry is -------------------------------------------------------------------------------------------

TOPS: dict[str, tuple[list[Raw], Sequence[object]]] = {
    "nothing": ([], []),
    "a link": ([link(b"evil", b"/")], []),
    "two directories": ([directory(b"a", 0), directory(b"b", 0)], [made_up(5)]),
    "inlined": ([directory(b"evil", None, [link(b"x")])], []),
    "parts": ([], [made_up(10)]),
    "no object": ([directory(b"evil", 0)], []),
    "an extent outside": ([file(b"evil", size=100)], [made_up(10)]),
    "a block size that does not fit": ([file(b"evil", size=5)], [[5, 3, HASH]]),
    "a device": ([[3, b"evil", 0o666, 0, 0, 0, 5, 0, 0, HASH]], [made_up(5)]),
}


@pytest.mark.parametrize(("top", "objects"), TOPS.values(), ids=TOPS.keys())
async def test_top_entries_that_are_none(site: Site, top: list[Raw], objects: Sequence[object]) -> None:
    site.announce(site.evil.announcement(*top, objects=objects))
    await expect_no_more_shares(site)


async def test_a_directory_that_is_a_file(site: Site) -> None:
    site.announce(site.evil.announcement(directory(b"evil", 0), objects=[site.store.add(GOOD)]))
    evil = await site.kernel.walk(b"evil")
    assert await failure(site.kernel.rows(evil.st_ino)) == errno.EIO
    await site.expect_honest()


async def test_a_file_that_is_a_directory(site: Site) -> None:
    """Then its content is the listing."""
    content = listing(link(b"a", b"/etc"))
    site.announce(site.evil.announcement(file(b"evil", size=len(content)), objects=[site.store.add(content)]))
    assert await site.kernel.read(b"evil", 1000) == content


async def test_a_directory_that_becomes_a_file_and_a_link(site: Site) -> None:
    """Whoever has it open keeps what it was, or is told that it is stale."""
    inner = listing(directory(b"d"), file(b"f", size=3))
    site.announce(site.evil.share(b"evil", _with(site, inner, b"one")))
    d = await site.kernel.walk(b"evil/d")
    handle = await site.kernel.open((await site.kernel.walk(b"evil/f")).st_ino)
    changed = listing(link(b"d", b"../../etc"), link(b"f", b"/etc/passwd"))
    site.announce(site.evil.share(b"evil", changed))
    assert await failure(site.kernel.rows(d.st_ino)) == errno.ESTALE
    assert await site.kernel.read_handle(handle) == b"one"
    for name in (b"d", b"f"):
        found = await site.kernel.walk(b"evil/" + name)
        assert await failure(site.kernel.operations.readlink(found.st_ino, CONTEXT)) == errno.EPERM
    await site.expect_honest()


def _with(site: Site, raw: bytes, content: bytes) -> bytes:
    """The listing with this content as its only object."""
    value = msgspec.msgpack.decode(raw)
    ref = site.store.add(content)
    value[1] = [[ref.size, ref.block_size, ref.top]]
    return msgspec.msgpack.encode(value)


# --- numbers ---------------------------------------------------------------------------------------------------------


async def test_totals_that_overflow_together(site: Site) -> None:
    """Each claims 2^63 - 1 bytes and files: statfs(2) has one field for the sum of all."""
    for name in (b"a", b"b", b"c"):
        publisher = Publisher(site.store, seed=name[0])
        site.announce(publisher.share(name, EMPTY, total_bytes=BIG, total_files=BIG), name)
    found = await site.kernel.operations.statfs(CONTEXT)
    assert found.f_files == BIG
    assert 0 < found.f_blocks < 1 << 63
    await site.expect_honest()


@pytest.mark.parametrize("name", ["version", "time_ms", "total_bytes", "total_files", "rate", "period"])
@pytest.mark.parametrize("value", [BIG + 1, -1, None, b"1", 1.5])
async def test_numbers_that_do_not_fit(site: Site, name: str, value: object) -> None:
    site.announce(site.evil.share(b"evil", EMPTY, **{name: value}))
    await expect_no_more_shares(site)


@pytest.mark.parametrize("rate", [0, 1, 1000, BIG])
async def test_rates_at_the_ends(site: Site, rate: int) -> None:
    """It tells a client in which class to ask: whatever it says, what is served is read."""
    site.announce(site.evil.share(b"evil", _with(site, listing(file(b"f", size=3)), b"one"), rate=rate))
    assert await site.kernel.read(b"evil/f") == b"one"
    await site.expect_honest()


async def test_versions_and_times_at_the_end(site: Site) -> None:
    root = _with(site, listing(file(b"f", size=3)), b"one")
    site.announce(site.evil.share(b"evil", root, version=BIG, time_ms=BIG))
    assert await site.kernel.read(b"evil/f") == b"one"
    found = await site.kernel.operations.getattr(1, CONTEXT)
    assert found.st_mtime_ns == BIG * 1_000_000
    for line in share_table(site.client.publishers(), Style(human=True, escape=True)):
        assert line.isprintable()
    # Whoever comes later under that name comes too late, and only under that name.
    site.announce(site.evil.share(b"evil", EMPTY, version=5))
    assert await site.kernel.read(b"evil/f") == b"one"
    await site.expect_honest()


@pytest.mark.parametrize("addresses", [[bytes(15)], [bytes(17)], [bytes(16)] * 5, [None], None, bytes(16)])
async def test_addresses_that_are_none(site: Site, addresses: object) -> None:
    site.announce(site.evil.share(b"evil", EMPTY, addresses=addresses))
    await expect_no_more_shares(site)


async def test_a_share_without_addresses(site: Site) -> None:
    site.announce(site.evil.share(b"evil", _with(site, listing(file(b"f", size=3)), b"one"), addresses=[]))
    assert await site.kernel.read(b"evil/f") == b"one"


async def test_a_round_of_a_week(site: Site) -> None:
    """A server may say that it takes a week to send everything once; only its own share is waited for so long."""
    week = 7 * 86400
    site.announce(site.evil.share(b"evil", listing(file(b"f", size=10), objects=[made_up(10)]), period=week))
    assert site.client.max_wait(b"evil") == 3 * week
    assert site.client.max_wait(b"good") == 300
    await site.expect_honest()
    site.announce(site.evil.share(b"worse", EMPTY, period=week + 1), b"worse")
    assert b"worse" not in site.client.shares()


async def test_a_limit_that_the_user_sets_holds_for_rounds_of_a_week_as_well(tmp_path: Path) -> None:
    async with open_site(tmp_path, max_wait=60.0) as site:
        site.announce(site.evil.share(b"evil", listing(file(b"f", size=10), objects=[made_up(10)]), period=7 * 86400))
        handle = await site.kernel.open((await site.kernel.walk(b"evil/f")).st_ino)
        start = trio.current_time()
        assert await failure(site.kernel.operations.read(handle, 0, 10)) == errno.ETIMEDOUT
        assert trio.current_time() - start <= 61
        await site.expect_honest()


# --- in the name of others -------------------------------------------------------------------------------------------


async def test_another_publisher_under_a_known_name(site: Site) -> None:
    site.announce(site.evil.share(b"good", EMPTY, version=BIG))
    await site.expect_honest()


async def test_a_key_that_is_not_that_of_the_signature(site: Site) -> None:
    kind, body = wire.control_untrusted(site.evil.share(b"good", EMPTY, version=BIG))
    _, signature, message = msgspec.msgpack.decode(body)
    forged = [bytes(site.publisher.key.verify_key), signature, message]
    site.announce(wire.control(kind, msgspec.msgpack.encode(forged)))
    await site.expect_honest()


async def test_keys_that_are_no_points(site: Site) -> None:
    kind, body = wire.control_untrusted(site.evil.share(b"evil", EMPTY))
    _, _, message = msgspec.msgpack.decode(body)
    for key in (bytes(32), b"\xff" * 32, b"\1" + bytes(31)):
        site.announce(wire.control(kind, msgspec.msgpack.encode([key, bytes(64), message])))
    await expect_no_more_shares(site)


async def test_gone_in_the_name_of_another_publisher(site: Site) -> None:
    """Who has a key can say of his own nodes alone that they are gone."""
    ref = next(ref for ref in site.store.refs if ref.size == len(GOOD))
    lost = node_group(Node(ref, 0, 0), 0, addresser_of(ref), SCOPE)
    resolve = site.store.resolve
    site.store.resolve = lambda group: None if group == lost else resolve(group)  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:

        async def lie() -> None:
            for _ in range(20):
                await trio.sleep(0.1)
                for publisher in (site.evil, Publisher(site.store, seed=9)):
                    site.receive(lost, publisher.gone(lost))
            site.store.resolve = resolve  # type: ignore[method-assign]

        nursery.start_soon(lie)
        await site.expect_honest()


async def test_an_object_of_another_share(site: Site) -> None:
    """Hashes are no secret: a publisher may list what another one serves. It is the same bytes, or none."""
    ref = next(ref for ref in site.store.refs if ref.size == len(GOOD))
    site.announce(site.evil.share(b"evil", listing(file(b"stolen", size=ref.size), objects=[ref])))
    assert await site.kernel.read(b"evil/stolen", 1 << 17) == GOOD
    await site.expect_honest()


async def test_as_many_shares_as_are_remembered(site: Site) -> None:
    """A flood of names, within the signatures that are checked in a second: those known stay."""
    for number in range(5000):
        if number % 150 == 0:
            await trio.sleep(1.0)
        site._send_announcement(site.evil.announcement(directory(b"%05d" % number, 0), objects=[made_up(9)]))
    assert len(site.client.shares()) <= 4096
    await site.expect_honest()
