"""Servers and mounts with no more privileges than they need, and what they say about those that are missing."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import stat
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mcfs.cli.lab import INTERFACE
from tests.netlab.harness import MCFS, SERVE, Job, Serving, Site, random_file, same_bytes, wait_until
from tests.netlab.unprivileged import USER, as_nobody, let_others_enter, status, with_fuse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.netlab.conftest import SiteMaker

NET_RAW = f"{1 << 13:016x}"
NONE = f"{0:016x}"
_PIDFD_GETFD = 438
"""pidfd_getfd(2), of which Python has no word."""
NO_GROUPS = ("", str(USER))
DEADLINE = 60.0

pytestmark = pytest.mark.netlab


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that other users can enter, unlike pytest's."""
    path = Path(tempfile.mkdtemp(prefix="mcfs-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def published(public: Path) -> Path:
    directory = public / "data"
    directory.mkdir()
    directory.chmod(0o755)
    random_file(directory / "file", 300_000).chmod(0o644)
    random_file(directory / "for root alone", 1000).chmod(0o600)
    return directory


def serve(site: Site, before: Sequence[str | Path], *words: str | Path) -> Job:
    job = site.start(site.lab.server, [*before, *SERVE, "-i", INTERFACE, *words])
    wait_until(lambda: not job.running or "\nserving " in job.output, DEADLINE, "mcfs-serve serves")
    assert job.running, job.output
    return job


def expect_read(site: Site, source: Path) -> None:
    mounted = site.mount(site.lab.clients[0], source.parent.name, timeout=60)
    site.start(mounted.host, same_bytes(source, mounted.path / source.name)).expect_success(DEADLINE)
    assert not (mounted.path / "for root alone").exists()
    mounted.umount()


def expect_user(pid: int, capabilities: str) -> None:
    """Every thread is an ordinary user's, with these capabilities and no way to others."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        found = status(int(thread.name))
        assert found["Uid"].split() == found["Gid"].split() == [str(USER)] * 4
        assert found["Groups"] in NO_GROUPS
        assert found["CapPrm"] == found["CapEff"] == capabilities
        assert found["CapInh"] == found["CapAmb"] == NONE
        assert found["NoNewPrivs"] == "1"


# --- mcfs-serve ------------------------------------------------------------------------------------------------------


def test_the_server_becomes_another_user_before_it_reads(make_site: SiteMaker, public: Path) -> None:
    """What that user may not read is not published, though root started the server."""
    site, directory, state = make_site(1), published(public), public / "state"
    job = serve(site, (), "--user", "nobody", "--state-dir", state, directory)
    expect_user(job.process.pid, NET_RAW)
    assert int(status(job.process.pid)["CapBnd"], 16) == 1 << 13
    assert "for root alone" in job.output
    for path in (state, *state.iterdir()):
        assert path.stat().st_uid == USER
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path.name.startswith("state.sqlite")
    expect_read(site, directory / "file")
    Serving(job, state).stop()


# Its buffers are larger than any net.core.rmem_max that this machine may have.
LARGE = 64 << 20
LARGE_BUFFERS = (
    f"from mcfs.cli.serve import main; from mcfs.net import listeners as l; l.RECEIVE_BUFFER = {LARGE}; main()"
)


def test_as_another_user_the_first_sockets_have_large_buffers(make_site: SiteMaker, public: Path) -> None:
    site, directory = make_site(1), published(public)
    words: list[str | Path] = ["--user", "nobody", "--state-dir", public / "state", directory]
    job = site.start(site.lab.server, [sys.executable, "-c", LARGE_BUFFERS, "-i", INTERFACE, *words])
    wait_until(lambda: not job.running or "\nserving " in job.output, DEADLINE, "mcfs-serve serves")
    expect_user(job.process.pid, NET_RAW)
    assert raw_buffers(job.process.pid) == [2 * LARGE]


def raw_buffers(pid: int) -> list[int]:
    """Bytes that the receive buffers of a process' raw sockets may take."""
    found, pidfd = [], os.pidfd_open(pid)
    for name in os.listdir(f"/proc/{pid}/fd"):
        if os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
            copied = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, pidfd, int(name), 0)
            assert copied >= 0, os.strerror(ctypes.get_errno())
            with socket.socket(fileno=copied) as sock:
                if sock.family == socket.AF_INET6 and sock.type == socket.SOCK_RAW:
                    found.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
    os.close(pidfd)
    return found


def test_what_the_environment_says_of_threads_keeps_no_capability(make_site: SiteMaker, public: Path) -> None:
    """numpy's BLAS would start them before anything else is done."""
    site, directory = make_site(1), published(public)
    before = ["env", "OPENBLAS_NUM_THREADS=4", "OMP_NUM_THREADS=4"]
    job = serve(site, before, "--user", "nobody", "--state-dir", public / "state", directory)
    expect_user(job.process.pid, NET_RAW)


EARLY_THREAD = """
import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
from mcfs.cli.serve import main
main()
"""


@pytest.mark.parametrize("words", [["--user", "nobody"], ["--fixed-interfaces"], []])
def test_a_thread_that_would_keep_its_privileges_is_an_error(
    make_site: SiteMaker, public: Path, words: list[str]
) -> None:
    site, directory = make_site(1), published(public)
    words = [*words, "-i", INTERFACE, "-q", "--state-dir", str(public / "state"), str(directory)]
    job = site.start(site.lab.server, [sys.executable, "-c", EARLY_THREAD, *words])
    assert job.finish(DEADLINE) == 3
    assert "a library has started 1 threads" in job.output
    assert len(job.output.splitlines()) == 1


def test_interfaces_that_come_later_are_served_as_another_user(make_site: SiteMaker, public: Path) -> None:
    site, directory = make_site(1), published(public)
    job = serve(site, (), "--user", "nobody", "--state-dir", public / "state", directory)
    site.lab.unplug(site.lab.server)
    wait_until(lambda: "no longer served" in job.output, DEADLINE, "it notices that the interface has gone")
    site.lab.plug_in(site.lab.server)
    wait_until(lambda: "served from now on" in job.output, DEADLINE, "it serves the interface that came")
    expect_read(site, directory / "file")
    expect_user(job.process.pid, NET_RAW)


def test_with_fixed_interfaces_nothing_is_kept(make_site: SiteMaker, public: Path) -> None:
    site, directory = make_site(1), published(public)
    job = serve(site, (), "--user", "nobody", "--fixed-interfaces", "--state-dir", public / "state", directory)
    expect_user(job.process.pid, NONE)
    expect_read(site, directory / "file")
    site.lab.link(site.lab.server, up=False)
    site.lab.link(site.lab.server, up=True)  # needs no new socket
    expect_read(site, directory / "file")
    site.lab.unplug(site.lab.server)
    site.lab.plug_in(site.lab.server)
    time.sleep(1.0)
    assert job.running
    assert "served from now on" not in job.output


def test_an_ordinary_user_with_ambient_capabilities(make_site: SiteMaker, public: Path) -> None:
    """As systemd starts it with User= and AmbientCapabilities=CAP_NET_RAW."""
    site, directory, state = make_site(1), published(public), public / "state"
    state.mkdir()
    os.chown(state, USER, USER)
    job = serve(site, as_nobody(net_raw=True), "--state-dir", state, directory)
    expect_user(job.process.pid, NET_RAW)
    expect_read(site, directory / "file")


def test_without_the_capability_one_line_says_what_is_missing(make_site: SiteMaker, public: Path) -> None:
    site, directory, state = make_site(1), published(public), public / "state"
    state.mkdir()
    os.chown(state, USER, USER)
    words = [*as_nobody(), *SERVE, "-i", INTERFACE, "-q", "--state-dir", state, directory]
    job = site.start(site.lab.server, words)
    assert job.finish(DEADLINE) == 3
    lines = [line for line in job.output.splitlines() if "for root alone" not in line]
    assert len(lines) == 1
    assert "CAP_NET_RAW" in lines[0]


def test_without_the_capability_everything_can_still_be_sent_round(make_site: SiteMaker, public: Path) -> None:
    site, directory, state = make_site(1), published(public), public / "state"
    state.mkdir()
    os.chown(state, USER, USER)
    job = serve(site, as_nobody(), "--always", "--rate", "50M", "--state-dir", state, directory)
    assert job.output.count("CAP_NET_RAW") == 1
    expect_user(job.process.pid, NONE)
    expect_read(site, directory / "file")


@pytest.mark.parametrize("who", ["nobody", str(USER)])
def test_only_root_can_become_another_user(make_site: SiteMaker, public: Path, who: str) -> None:
    site, directory = make_site(1), published(public)
    other: list[str | Path] = ["setpriv", "--reuid=1", "--regid=1", "--clear-groups"]
    words = [*other, *SERVE, "-i", INTERFACE, "--user", who, "--state-dir", public / "state", directory]
    job = site.start(site.lab.server, words)
    assert job.finish(DEADLINE) == 3
    assert "only root" in job.output


def test_a_state_directory_of_somebody_else_is_refused(make_site: SiteMaker, public: Path) -> None:
    """It is not handed over: what is in it may be a link that somebody has put there."""
    site, directory, state = make_site(1), published(public), public / "state"
    state.mkdir()
    words: list[str | Path] = [*SERVE, "-i", INTERFACE, "--user", "nobody", "--state-dir", state, directory]
    job = site.start(site.lab.server, words)
    assert job.finish(DEADLINE) == 1
    assert "chown" in job.output
    assert state.stat().st_uid == 0


def test_below_his_own_directory_the_user_makes_it_himself(make_site: SiteMaker, public: Path) -> None:
    site, directory, his = make_site(1), published(public), public / "his"
    his.mkdir()
    os.chown(his, USER, USER)
    job = serve(site, (), "--user", "nobody", "--state-dir", his / "some" / "state", directory)
    for path in (his / "some", his / "some" / "state"):
        assert (path.stat().st_uid, path.stat().st_gid) == (USER, USER)
    Serving(job, his / "some" / "state").stop()


# --- mounts of ordinary users ----------------------------------------------------------------------------------------


@pytest.fixture
def home(public: Path) -> Path:
    path = public / "home"
    path.mkdir(mode=0o700)
    (path / "mnt").mkdir()
    for each in (path, path / "mnt"):
        os.chown(each, USER, USER)
    return path


@pytest.fixture
def device(public: Path) -> Path:
    path = public / "fuse"
    os.mknod(path, stat.S_IFCHR | 0o666, os.stat("/dev/fuse").st_rdev)
    path.chmod(0o666)
    return path


def test_a_mount_of_an_ordinary_user(make_site: SiteMaker, public: Path, home: Path, device: Path) -> None:
    """Through fusermount3, with his own cache and without any capability; nosuid and nodev all the same."""
    site, directory = make_site(1), published(public)
    site.serve(site.lab.server, directory)
    log = home / "mount.log"
    log.touch()
    os.chown(log, USER, USER)
    script = f"""
        set -e
        cd /
        {" ".join(map(str, MCFS))} mount data {home}/mnt -i {INTERFACE}
        grep ' {home}/mnt ' /proc/self/mountinfo > {log}
        cmp {directory}/file {home}/mnt/file
        for pid in /proc/[0-9]*; do
            tr '\\0' ' ' < $pid/cmdline | grep -q 'cli.main mount data' && cat $pid/status >> {log} || true
        done
        {" ".join(map(str, MCFS))} umount {home}/mnt
        test ! -e {home}/mnt/file
    """
    words = [
        *as_nobody(),
        "env",
        "-u",
        "STATE_DIRECTORY",
        f"HOME={home}",
        f"PYTHONPATH={os.getcwd()}",
        "sh",
        "-c",
        script,
    ]
    site.start(site.lab.clients[0], with_fuse(words, device)).expect_success(DEADLINE)
    lines = log.read_text().splitlines()
    before, _, after = lines[0].partition(" - ")
    assert {"ro", "nosuid", "nodev"} <= set(before.split()[5].split(","))
    assert after.split()[:2] == ["fuse.mcfs", "data"]
    assert f"user_id={USER}" in after
    capabilities = [line.split()[1] for line in lines if line.startswith(("CapEff", "CapPrm", "CapAmb"))]
    assert set(capabilities) == {NONE}
    cache = home / ".cache" / "mcfs"
    assert (cache.stat().st_uid, stat.S_IMODE(cache.stat().st_mode)) == (USER, 0o700)


def test_an_ordinary_user_cannot_unmount_for_others(make_site: SiteMaker, public: Path) -> None:
    site, directory = make_site(1), published(public)
    site.serve(site.lab.server, directory)
    mounted = site.mount(site.lab.clients[0], "data", allow_other=True)
    let_others_enter(mounted.path)
    job = site.start(mounted.host, [*as_nobody(), *MCFS, "umount", mounted.path])
    assert job.finish(DEADLINE) != 0
    assert os.path.ismount(mounted.path)
