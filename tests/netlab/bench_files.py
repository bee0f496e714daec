"""The measures of files: many small ones, long listings, indexing, restart, memory, and what is read a second time.

Each takes a maker of sites and yields (what, value, goal). `MEASURES` has them by name.

Programs read through the mount: cp, tar, rsync, ls, cat. GNU tar does not read what it writes to /dev/null, so it
writes to a pipe.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.netlab.harness import MIB, random_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from tests.netlab.harness import Job, Mounted, Site

    SiteMaker = Callable[[int], AbstractContextManager[Site]]
    Figures = Iterator[tuple[str, str, str]]

DEADLINE: Final = 900.0
DIRECTORIES: Final = 100
SMALL_FILES: Final = 10_000
SMALL_SIZE: Final = 2048
LISTED: Final = 100_000
LARGE: Final = 4096 * MIB
"""What is indexed for speed."""
COPIED: Final = 1024 * MIB
SPARSE: Final = 1 << 40
SPARSE_DATA: Final = 64
"""Places of a sparse file that have data."""
ROUNDS: Final = 3
DROP_CACHES: Final = Path("/proc/sys/vm/drop_caches")
_INDEX: Final = """
import sys, tempfile, time
from pathlib import Path
from mcfs.serve.index import Index
with tempfile.TemporaryDirectory(dir=sys.argv[2]) as state:
    start = time.perf_counter()
    with Index.open(Path(state)) as index:
        index.scan(Path(sys.argv[1]), b"name", now_ms=1)
    print(time.perf_counter() - start)
"""
_BLAKE3: Final = """
import sys, time
from blake3 import blake3
start = time.perf_counter()
blake3(max_threads=blake3.AUTO).update_mmap(sys.argv[1]).digest()
print(time.perf_counter() - start)
"""


# --- what is measured ------------------------------------------------------------------------------------------------


def small_files(make: SiteMaker, _size: int) -> Figures:
    """Each program has a mount of its own, so that it finds nothing in a cache."""
    programs = (
        ("cp -r", "cp -r {from} {to}", "<= 6 s"),
        ("tar", "mkdir {to} && tar -C {from} -cf - . | tar -C {to} -xf -", ""),
        ("rsync -a", "rsync -a {from}/ {to}/", ""),
        ("cp -r of local files", "cp -r {local} {to}", ""),
    )
    with make(1) as site:
        source = tree(site.new_directory("data") / "small", SMALL_FILES, SMALL_SIZE)
        site.serve(site.lab.server, source)
        for name, command, goal in programs:
            mounted, copied = site.mount(site.lab.clients[0], "small"), site.new_directory("copies") / "copy"
            words = {"from": mounted.path, "to": copied, "local": source}
            seconds = shell(site, command, words).expect_success(DEADLINE)
            shell(site, "diff -r {local} {to}", words).expect_success(DEADLINE)
            what = f"{name}, {SMALL_FILES} files of {SMALL_SIZE} bytes in {DIRECTORIES} directories"
            yield what, f"{seconds:.2f} s", goal
            mounted.umount()


def listing(make: SiteMaker, _size: int) -> Figures:
    with make(1) as site:
        source = tree(site.new_directory("data") / "listed", LISTED, 1)
        site.serve(site.lab.server, source)
        for option, noxattr, goal in (("", None, "<= 12 s"), (", -o noxattr", True, "<= 3 s")):
            mounted = site.mount(site.lab.clients[0], "listed", noxattr=noxattr)
            command, words = "ls -lR {from} | wc -l", {"from": mounted.path}
            first, second = (shell(site, command, words).expect_success(DEADLINE) for _ in range(2))
            yield f"ls -lR of {LISTED} files{option}: the first time", f"{first:.2f} s", ""
            yield f"ls -lR of {LISTED} files{option}: after the listing has come", f"{second:.2f} s", goal
            mounted.umount()


def indexing(make: SiteMaker, _size: int) -> Figures:
    """In turn, since a machine's speed changes; each hash in a process of its own."""
    with make(0) as site:
        file = random_file(site.new_directory("data") / "large", LARGE)
        with file.open("rb") as source:
            while source.read(MIB):
                pass
        times: dict[str, list[float]] = {"index": [], "b3sum": [], "blake3": []}
        for _ in range(ROUNDS):
            times["index"].append(timed_inside(_INDEX, file, site.directory))
            times["blake3"].append(timed_inside(_BLAKE3, file))
            if b3sum := shutil.which("b3sum"):
                start = time.perf_counter()
                subprocess.run([b3sum, file], check=True, stdout=subprocess.DEVNULL)
                times["b3sum"].append(time.perf_counter() - start)
    name = "b3sum" if times["b3sum"] else "blake3"
    ours, theirs = statistics.median(times["index"]), statistics.median(times[name])
    what = f"index of {LARGE // MIB} MiB in the page cache, and its speed / speed of {name} with all threads"
    yield what, f"{LARGE / ours / 1e9:.2f} GB/s, {theirs / ours:.2f}", ">= 0.70"


def restart(make: SiteMaker, _size: int) -> Figures:
    """From the start of the process until it serves."""
    with make(0) as site:
        source, state = tree(site.new_directory("data") / "many", LISTED, 1), site.new_directory("state")
        times = []
        for _ in range(2):
            start = time.monotonic()
            serving = site.serve(site.lab.server, source, state=state)
            times.append(time.monotonic() - start)
            serving.stop()
    yield f"mcfs-serve of {LISTED} files never seen", f"{times[0]:.2f} s", ""
    yield f"mcfs-serve of {LISTED} files that have not changed", f"{times[1]:.2f} s", "<= 3 s"


def memory(make: SiteMaker, _size: int) -> Figures:
    with make(1) as site:
        source = site.new_directory("data")
        sparse_file(source / "sparse")
        random_file(source / "file", COPIED)
        start = time.monotonic()
        # Longer than a server may usually take: the plain BLAKE3 goes through all the zeros.
        serving = site.serve(site.lab.server, source, options=("--name", "data"), deadline=DEADLINE)
        seconds = time.monotonic() - start
        yield "a sparse file of 1 TiB: until it is served", f"{seconds:.0f} s", ""
        mounted = site.mount(site.lab.clients[0], "data")
        client = daemon_of(mounted)
        shell(site, "cp {from}/file /dev/null", {"from": mounted.path}).expect_success(DEADLINE)
        peak = peak_mib(serving.job.process.pid)
        yield "the server's memory, with 1 TiB indexed and 1 GiB sent: peak", f"{peak:.0f} MiB", "<= 150 MB"
        what = f"the client's memory, a copy of {COPIED // MIB} MiB: peak"
        yield what, f"{peak_mib(client):.0f} MiB", "<= 250 MB"


def cached(make: SiteMaker, _size: int) -> Figures:
    """The page cache is dropped as root; the disk cache is where the site is."""
    with make(1) as site:
        source = random_file(site.new_directory("data") / "file", COPIED)
        site.serve(site.lab.server, source.parent, options=("--name", "data"))
        mounted = site.mount(site.lab.clients[0], "data")
        read_speed(site, mounted.path / "file")
        time.sleep(1.0)  # for the cache's writer
        drops, warm, local = [], [], []
        for _ in range(ROUNDS):
            drop_caches()
            drops.append(read_speed(site, mounted.path / "file"))
            warm.append(read_speed(site, mounted.path / "file"))
            read_speed(site, source)
            local.append(read_speed(site, source))
        drop_caches()
        plain = read_speed(site, next(path for path in mounted.cache.rglob("*") if path.stat().st_size > COPIED))
    what = f"read of {COPIED // MIB} MiB from the disk cache after the page cache was dropped"
    yield what, f"{statistics.median(drops):.2f} GB/s; the cache's file itself {plain:.2f}", ">= 1.2 GB/s"
    ratio = statistics.median(ours / theirs for ours, theirs in zip(warm, local, strict=True))
    what = "read again, from the page cache: speed / speed of a local file"
    yield what, f"{ratio:.2f} ({statistics.median(warm):.1f} GB/s)", ">= 0.9"


MEASURES: Final[Mapping[str, Callable[[SiteMaker, int], Figures]]] = {
    "small-files": small_files,
    "listing": listing,
    "indexing": indexing,
    "restart": restart,
    "memory": memory,
    "cached": cached,
}


# --- how -------------------------------------------------------------------------------------------------------------


def tree(root: Path, files: int, size: int) -> Path:
    """Files that differ from each other, in DIRECTORIES directories."""
    root.mkdir()
    for number in range(DIRECTORIES):
        directory = root / f"directory{number:03}"
        directory.mkdir()
        for n in range(files // DIRECTORIES):
            (directory / f"file{n:05}").write_bytes(os.urandom(size))
    return root


def sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(SPARSE)
        for number in range(SPARSE_DATA):
            file.seek(number * (SPARSE // SPARSE_DATA))
            file.write(os.urandom(4096))


def shell(site: Site, command: str, words: Mapping[str, Path]) -> Job:
    """Starts a shell in a client's host; `words` are put in quotes."""
    quoted = {name: shlex.quote(str(word)) for name, word in words.items()}
    return site.start(site.lab.clients[0], ["bash", "-o", "pipefail", "-c", command.format(**quoted)])


def read_speed(site: Site, path: Path) -> float:
    """GB/s of one program that reads a whole file, 1 MiB at a time."""
    script = "import os,sys,time\nfd=os.open(sys.argv[1],os.O_RDONLY);b=bytearray(1<<20);t=time.perf_counter()\n"
    script += "while os.readv(fd,[b]): pass\nprint(os.fstat(fd).st_size/(time.perf_counter()-t)/1e9)"
    job = site.start(site.lab.clients[0], [sys.executable, "-c", script, path])
    job.expect_success(DEADLINE)
    return float(job.output)


def timed_inside(script: str, *arguments: Path) -> float:
    """Seconds that a script measures of itself."""
    result = subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True)
    return float(result.stdout)


def drop_caches() -> None:
    """Every page cache of this machine. Twice: a page that is just being written is spared."""
    for _ in range(2):
        os.sync()
        DROP_CACHES.write_text("3\n")


def daemon_of(mounted: Mounted) -> int:
    """The process that serves a mount."""
    wanted = os.fsencode(mounted.path)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in words and b"mount" in words:
            return int(path.parent.name)
    raise AssertionError(f"nobody serves {mounted.path}")


def peak_mib(pid: int) -> float:
    """The most memory that a process has had: VmHWM of proc_pid_status(5)."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1024
