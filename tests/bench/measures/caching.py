"""Measures of the client's cache: killed clients, its limit, new versions of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.bench.conditions import MIB
from tests.bench.summary import Row
from tests.netlab import cache_trials as trials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.bench import Bench

BLOCK: Final = MIB
READERS: Final = 8
TIMES: Final = 10
"""What is read, of what the cache may take."""
CHANGED: Final = 0.01
INSERTED: Final = 16
"""Blocks, in the middle."""
_RATE: Final = ("--rate", "1G")


def crash(bench: Bench) -> Iterator[Row]:
    """A client that is killed again and again under four readers, and then one whose cache is damaged as well."""
    kills = bench.options.kills
    for damage in (False, True):
        with bench.site(1) as site:
            place, _ = trials.served(site, bench.options.size, BLOCK, *_RATE)
            found = trials.crashes(place, kills, damage=damage)
        verified = f"{found.kills} kills, no wrong byte, {found.verified // MIB} MiB verified before them"
        if damage:
            yield Row(f"client killed, cache damaged in {found.damaged} places", verified, "no wrong byte")
        else:
            yield Row("client killed, sent again", f"{100 * found.share:.2f} % ({verified})", "<= 5 %")


def quota(bench: Bench) -> Iterator[Row]:
    """Eight readers of ten times what the cache may take, and a disk that is far too small."""
    size = bench.options.size
    with bench.site(1) as site:
        place, _ = trials.served(site, TIMES * size, BLOCK)
        most = trials.most_used(place, READERS, cache_max=size)
        what = f"{READERS} readers of {TIMES * size // MIB} MiB, cache_max={size // MIB}M: the most that du says"
        yield Row(what, f"{most / MIB:.0f} MiB", f"<= {size // MIB + 64} MiB")
    with bench.site(1) as site, trials.small_disk(site.directory / "small", 200 * MIB) as disk:
        place, _ = trials.served(site, size, BLOCK, cache=disk / "cache")
        most = trials.most_used(place, READERS, cache_max=size)
        yield Row(f"{size // MIB} MiB through a disk of 200 MiB", f"right; {most / MIB:.0f} MiB used", "right")


def changed(bench: Bench) -> Iterator[Row]:
    """A file of which one block in a hundred changes, and one into which blocks are inserted, read again."""
    size = bench.options.size
    with bench.site(1) as site:
        place, serving = trials.served(site, size, BLOCK)
        first = trials.read_whole(place)
        yield Row(f"{size // MIB} MiB read for the first time: bytes sent / data", f"{first / size:.3f}")
        count = trials.change_blocks(place.file, BLOCK, CHANGED)
        serving = trials.publish_again(place, serving)
        what = f"{count} of {size // BLOCK} blocks changed: bytes sent / data"
        yield Row(what, f"{100 * trials.read_whole(place) / size:.2f} %", "<= 1.5 % and pages")
        trials.insert_blocks(place.file, BLOCK, size // BLOCK // 2, INSERTED)
        trials.publish_again(place, serving)
        sent = trials.read_whole(place) / (INSERTED * BLOCK)
        yield Row(f"{INSERTED} blocks inserted in the middle: bytes sent / those", f"{sent:.2f}")


MEASURES: Final[dict[str, Callable[[Bench], Iterator[Row]]]] = {"crash": crash, "quota": quota, "changed": changed}
