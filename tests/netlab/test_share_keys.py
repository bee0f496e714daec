"""Shares with keys: who has the key reads, who has not learns no more than that something is there."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mcfs.cli.lab import INTERFACE
from mcfs.protocol import addressing, merkle
from mcfs.protocol.addressing import addresser_of, node_group
from mcfs.protocol.ids import DEFAULT_BLOCK_SIZE, PACE_CLASSES, Node, ObjectRef
from mcfs.protocol.keys import keys_of_file
from mcfs.protocol.probe import probe_group
from tests.netlab import capture
from tests.netlab.harness import HARNESS, MCFS, MIB, Job, Mounted, Site, random_file, same_bytes, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mcfs.cli.lab import Host
    from mcfs.protocol.keys import ShareKeys
    from tests.netlab.conftest import SiteMaker

pytestmark = pytest.mark.netlab

DEADLINE = 120.0
SCOPE = addressing.SITE_LOCAL
WRONG_KEY = 7
"""The exit code, as in docs/commands.md."""
TIMEOUT = 3


def keyfile(site: Site, seed: int = 1) -> Path:
    path = random_file(site.new_directory("key") / "key", 128, seed)
    path.chmod(0o600)
    return path


def secret_tree(path: Path) -> Path:
    """A large file, small ones, and names that nobody could guess."""
    (path / "inner-directory-zebra").mkdir(parents=True)
    random_file(path / "large-file-quagga", 8 * MIB + 5)
    random_file(path / "never-read-okapi", 2 * MIB, seed=2)
    for number in range(5):
        (path / "inner-directory-zebra" / f"small-file-tapir-{number}").write_text(f"plain text of numbat {number}\n")
    (path / "link-to-dugong").symlink_to("large-file-quagga")
    return path


def run(host: Host, *words: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command of mcfs, whatever comes of it."""
    return subprocess.run(
        host.argv([*MCFS, *map(str, words)]), check=False, capture_output=True, text=True, timeout=DEADLINE, env=env
    )


def shares_listed(host: Host, *words: str | Path) -> set[str]:
    """The names that `mcfs ls` prints."""
    done = run(host, "ls", "-i", INTERFACE, *words)
    assert done.returncode == 0, done.stderr
    return {line.split()[0] for line in done.stdout.splitlines()[1:]}


def groups_of(content: bytes, keys: ShareKeys | None) -> set[bytes]:
    """All groups of an object, in all classes."""
    ref, _ = merkle.object_of(content, DEFAULT_BLOCK_SIZE)
    return {group for pace in range(PACE_CLASSES) for group in _groups(ref, pace, keys)}


def _groups(ref: ObjectRef, pace: int, keys: ShareKeys | None) -> Iterator[bytes]:
    for level, count in enumerate(ref.geometry.counts):
        for index in range(count):
            yield node_group(Node(ref, level, index), pace, addresser_of(ref, keys), SCOPE)


def test_a_tree_is_read_with_the_key_and_nothing_of_it_is_seen(make_site: SiteMaker) -> None:
    """What a capture at the server's interface holds: sizes, times and groups, and nothing else of the share."""
    site = make_site(1)
    server, (client,) = site.lab.server, site.lab.clients
    source, key, found = secret_tree(site.directory / "share-name-aardvark"), keyfile(site), site.directory / "captured"
    tap = site.start(server, [sys.executable, "-m", "tests.netlab.capture", INTERFACE, found])
    wait_until(lambda: "ready" in tap.output, DEADLINE, "the capture")
    site.serve(server, source, options=("--keyfile", str(key)))
    mounted = site.mount(client, source.name, keyfile=key)
    copied = site.new_directory("copy")
    for name in ("large-file-quagga", "inner-directory-zebra", "link-to-dugong"):
        site.start(client, ["cp", "-a", mounted.path / name, copied]).expect_success(DEADLINE)
    assert shares_listed(client, "--keyfile", key) == {source.name}
    assert shares_listed(client) == set()
    mounted.umount()
    tap.process.send_signal(signal.SIGTERM)
    tap.expect_success(DEADLINE)
    assert "lost 0" in tap.output
    (source / "never-read-okapi").rename(site.directory / "okapi")
    site.start(client, [*HARNESS, "compare", source, copied]).finish(DEADLINE)
    assert subprocess.run(["diff", "-r", "--no-dereference", source, copied], check=False).returncode == 0

    seen = found.read_bytes()
    assert len(seen) > 8 * MIB, "the content went by"
    for word in (b"aardvark", b"zebra", b"quagga", b"okapi", b"tapir", b"dugong", b"numbat", os.fsencode(key)):
        assert word not in seen
    large, unread = (source / "large-file-quagga").read_bytes(), (site.directory / "okapi").read_bytes()
    for content in (large, unread, key.read_bytes()):
        assert not _has_part_of(content, seen)
    assert _has_part_of(large, seen[:1001] + large[5000:6000] + seen[1001:]), "it would be found"
    for content in (large, unread):  # nor hashes: pages, triples, object ids
        ref, leaves = merkle.object_of(content, DEFAULT_BLOCK_SIZE)
        hashes = [ref.top, ref.id, *(leaves[at : at + 32] for at in range(0, len(leaves), 32))]
        assert not any(digest in seen for digest in hashes)
    _check_groups(seen, capture.multicast_destinations(found), source.name.encode(), large, unread, key)


def _has_part_of(content: bytes, seen: bytes) -> bool:
    """Whether some 97 bytes of the content are in the capture: of each as many, 8 are looked for everywhere."""
    samples = np.array([int.from_bytes(content[at : at + 8], "little") for at in range(0, len(content) - 8, 97)], "<u8")
    return any(
        bool(np.isin(np.frombuffer(seen, "<u8", (len(seen) - start) // 8, start), samples).any()) for start in range(8)
    )


def _check_groups(seen: bytes, sent_to: set[bytes], name: bytes, large: bytes, unread: bytes, key: Path) -> None:
    """Who knows the name and all of the content, and has seen the capture, can compute no group without the key: not
    those that were used, and those that were not are nowhere in it."""
    keys = keys_of_file(key.read_bytes())
    known = {addressing.catalogue_group(SCOPE), addressing.keyed_group(SCOPE)}
    known |= {probe_group(pace, SCOPE) for pace in range(PACE_CLASSES)}
    used = {group for group in sent_to if group[1] == 0x10 | SCOPE} - known
    assert used & groups_of(large, keys), "the file came in groups of the key"
    assert {addressing.share_group(name, SCOPE, keys), addressing.catalogue_group(SCOPE, keys)} <= used
    computable = groups_of(large, None) | groups_of(unread, None) | {addressing.share_group(name, SCOPE)}
    for group in computable | groups_of(unread, keys):
        assert group not in used
        assert group[2:10] not in seen, "its tag"
    for guess in (bytes(32), name.ljust(32, b"\0")[:32], *(group * 2 for group in sorted(used)[:50])):
        wrong = keys_of_file(guess)
        assert not (groups_of(large, wrong) | {addressing.share_group(name, SCOPE, wrong)}) & used


def test_without_the_right_key(make_site: SiteMaker) -> None:
    """One line, an exit code of its own, and nothing is shown; in a mount of all shares an error, not an absence."""
    site = make_site(1)
    (client,) = site.lab.clients
    source, key, wrong = secret_tree(site.directory / "data"), keyfile(site), keyfile(site, 2)
    site.serve(site.lab.server, source, options=("--keyfile", str(key)))
    mountpoint = site.new_directory("mount")
    for given in ((), ("--keyfile", wrong)):
        words = ("mount", "data", mountpoint, "-i", INTERFACE, "--timeout", str(TIMEOUT), *given)
        done = run(client, *words)
        assert done.returncode == WRONG_KEY
        assert done.stderr.count("\n") == 1
        assert "wrong key or no such share: 'data'" in done.stderr or "wrong key or no such share: data" in done.stderr
        done = run(client, "ls", "-i", INTERFACE, "--timeout", str(TIMEOUT), "data", *given)
        assert (done.returncode, done.stdout) == (WRONG_KEY, "")
        assert shares_listed(client, *given) == set()
    for error, options in ((errno.EACCES, {}), (errno.EKEYREJECTED, {"keyfile": wrong})):
        mounted = site.mount(client, None, **options)
        assert failure(mounted, "data") == error
        assert names(mounted) == []
        mounted.umount()
    mounted = site.mount(client, None, keyfile=key)
    assert failure(mounted, "no such share") == errno.ENOENT, "what is there was opened"
    assert (mounted.path / "data" / "inner-directory-zebra").is_dir()


def failure(mounted: Mounted, name: str) -> int:
    try:
        os.stat(mounted.path / name)
    except OSError as error:
        return error.errno or 0
    return 0


def names(mounted: Mounted) -> list[str]:
    return sorted(path.name for path in mounted.path.iterdir())


def test_nothing_with_a_key_is_there(make_site: SiteMaker) -> None:
    site = make_site(1)
    site.serve(site.lab.server, random_file(site.directory / "data", 1000))
    words = ("mount", "other", site.new_directory("mount"), "-i", INTERFACE, "--timeout", str(TIMEOUT))
    done = run(site.lab.clients[0], *words, "--keyfile", keyfile(site))
    assert done.returncode == 4
    assert "was not heard" in done.stderr
    assert "wrong key" not in done.stderr
    words = ("mount", "data", site.new_directory("mount"), "-i", INTERFACE, "--timeout", str(TIMEOUT))
    done = run(site.lab.clients[0], *words, "--keyfile", keyfile(site))
    assert done.returncode == 4, "a share without a key is not the one that was asked for"


def test_several_keys(make_site: SiteMaker) -> None:
    """One server with a share for all and two with different keys, of which two have content in common; one mount of
    all of them."""
    site = make_site(2)
    one, other = keyfile(site, 1), keyfile(site, 2)
    sources = [random_file(site.new_directory("s") / name, 3 * MIB, seed) for name, seed in (("open", 5), ("red", 5),
                                                                                            ("blue", 6))]  # fmt: skip
    options = ("--keyfile", f"red={one}", "--keyfile", f"blue={other}")
    site.serve(site.lab.server, *sources, options=options)
    client, stranger = site.lab.clients
    assert shares_listed(stranger) == {"open"}
    assert shares_listed(client, "--keyfile", one) == {"open", "red"}
    assert shares_listed(client, "--keyfile", one, "--keyfile", other) == {"open", "red", "blue"}
    mounted = Mounted(client, site.new_directory("mount"), site.new_directory("cache"))
    site.lab.track_mount(mounted.path)
    where = ("-i", INTERFACE, "--cache-dir", mounted.cache)
    done = run(client, "mount", mounted.path, *where, "--keyfile", one, "--keyfile", other)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: names(mounted) == ["blue", "open", "red"], DEADLINE, "all are heard")
    for source in reversed(sources):
        site.start(client, same_bytes(source, mounted.path / source.name)).expect_success(DEADLINE)


def test_a_password_of_the_environment(make_site: SiteMaker) -> None:
    """At the server in a file, at the client in the environment, where programs that it starts do not find it."""
    site = make_site(1)
    (client,) = site.lab.clients
    password = site.directory / "password"
    password.write_text("a long pass phrase\n")
    password.chmod(0o600)
    source = random_file(site.new_directory("s") / "data", MIB)
    site.serve(site.lab.server, source, options=("--password-file", str(password)))
    cache, mountpoint = site.new_directory("cache"), site.new_directory("mount")
    site.lab.track_mount(mountpoint)
    words = ("mount", "data", mountpoint, "-i", INTERFACE, "--cache-dir", cache)
    done = run(client, *words, env={**os.environ, "MCFS_PASSWORD": "a long pass phrase"})
    assert done.returncode == 0, done.stderr
    site.start(client, same_bytes(source, mountpoint / "data")).expect_success(DEADLINE)


def test_mount_with_options_as_in_fstab(make_site: SiteMaker) -> None:
    """And a key that others may read is named, but used."""
    site = make_site(1)
    (client,) = site.lab.clients
    key = keyfile(site)
    key.chmod(0o644)
    source = random_file(site.new_directory("s") / "data", MIB)
    site.serve(site.lab.server, source, options=("--keyfile", str(key)))
    cache, mountpoint = site.new_directory("cache"), site.new_directory("mount")
    site.lab.track_mount(mountpoint)
    options = f"ro,_netdev,iface={INTERFACE},cache_dir={cache},keyfile={key}"
    helper = [sys.executable, "-m", "mcfs.cli.mount_helper", "data", str(mountpoint), "-o", options]
    done = subprocess.run(client.argv(helper), check=False, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    assert f"{key}: others may read it (mode 0644)" in done.stderr
    site.start(client, same_bytes(source, mountpoint / "data")).expect_success(DEADLINE)


def test_of_two_servers_of_one_share_one_sends(make_site: SiteMaker) -> None:
    site = make_site(2)
    reader, second = site.lab.clients
    source = random_file(site.new_directory("first") / "file", 16 * MIB)
    copy = site.new_directory("second")
    shutil.copy2(source, copy / "file")
    signing = random_file(site.new_directory("publisher") / "key", 32)
    options = ("--name", "data", "--signing-key", str(signing), "--keyfile", str(keyfile(site)))
    hosts = (site.lab.server, second)
    for host, directory in zip(hosts, (source.parent, copy), strict=True):
        site.serve(host, directory, options=options)
    mounted = site.mount(reader, "data", keyfile=options[-1])
    before = [site.lab.tx_bytes(host) for host in hosts]
    site.start(reader, same_bytes(source, mounted.path / "file")).expect_success(DEADLINE)
    sent = sorted(site.lab.tx_bytes(host) - old for host, old in zip(hosts, before, strict=True))
    assert sent[0] < MIB < 16 * MIB < sent[1]


def test_forged_datagrams_spoil_nothing(make_site: SiteMaker) -> None:
    """A host that sends, into each group that the reader joins, symbols with the right header and a tag, and noise."""
    site = make_site(2)
    reader, attacker = site.lab.clients
    key, source = keyfile(site), random_file(site.new_directory("data") / "file", 16 * MIB)
    site.serve(site.lab.server, source.parent, options=("--keyfile", str(key), "--name", "data", "--rate", "400M"))
    mounted = site.mount(reader, "data", keyfile=key)
    holder = site.start(reader, ["sleep", "1000"])
    liars: list[Job] = []
    for kind in ("noise", "tagged"):
        liars.append(site.start(attacker, [*HARNESS, "send-garbage", str(holder.process.pid), kind]))
        wait_until(lambda liar=liars[-1]: "ready" in liar.output, DEADLINE, "the attacker")  # type: ignore[misc]
    site.start(reader, same_bytes(source, mounted.path / "file")).expect_success(DEADLINE)
    assert all(liar.running for liar in liars)


def test_a_file_that_changed_is_stale(make_site: SiteMaker) -> None:
    """The word that a node is gone comes sealed too."""
    site = make_site(1)
    key, source = keyfile(site), random_file(site.new_directory("data") / "file", 4 * MIB)
    site.serve(site.lab.server, source.parent, options=("--keyfile", str(key), "--name", "data"))
    mounted = site.mount(site.lab.clients[0], "data", keyfile=key)
    assert names(mounted) == ["file"]
    source.write_bytes(bytes(range(256)) * 16 * 1024)
    with (
        open(mounted.path / "file", "rb", buffering=0) as file,
        pytest.raises(OSError, match=os.strerror(errno.ESTALE)),
    ):
        file.read()


def test_round_and_round(make_site: SiteMaker) -> None:
    """Where nobody is heard, what has a key is sent as everything else is."""
    site = make_site(1)
    key, source = keyfile(site), random_file(site.new_directory("data") / "file", 4 * MIB)
    options = ("--keyfile", str(key), "--name", "data", "--always", "--rate", "200M")
    site.serve(site.lab.server, source.parent, options=options)
    mounted = site.mount(site.lab.clients[0], "data", keyfile=key)
    site.start(mounted.host, same_bytes(source, mounted.path / "file")).expect_success(DEADLINE)


def test_the_doctor_finds_a_server_that_has_only_shares_with_keys(make_site: SiteMaker) -> None:
    site = make_site(1)
    site.serve(site.lab.server, random_file(site.directory / "data", 1000), options=("--keyfile", str(keyfile(site))))
    done = run(site.lab.clients[0], "doctor", "-i", INTERFACE)
    assert done.returncode == 0, done.stdout
    assert "1 server heard with shares that need a key" in done.stdout
    assert "data" not in done.stdout.replace("datagrams", "")
    assert "0 of 1000 datagrams" in done.stdout


def test_a_share_without_the_key_is_not_taken_for_one_with_it(make_site: SiteMaker) -> None:
    """Somebody publishes another tree under the same name, for all, and is heard first."""
    site = make_site(2)
    reader, other = site.lab.clients
    key = keyfile(site)
    forged, source = (random_file(site.new_directory(kind) / "data", MIB, seed) for kind, seed in (("f", 8), ("s", 9)))
    site.serve(other, forged)
    wait_until(lambda: shares_listed(reader) == {"data"}, DEADLINE, "the forger is heard")
    site.serve(site.lab.server, source, options=("--keyfile", str(key)))
    mounted = site.mount(reader, "data", keyfile=key)
    site.start(reader, same_bytes(source, mounted.path / "data")).expect_success(DEADLINE)
