"""Whom a client believes: keys, the file of known publishers, and hosts that say that they are somebody else."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from mcfs.cli.publisher import fingerprint_of, load_key, make_key
from tests.netlab.harness import (
    HARNESS,
    MCFS,
    MIB,
    SERVE,
    Serving,
    Site,
    random_file,
    same_bytes,
    wait_until,
)

if TYPE_CHECKING:
    from pathlib import Path

    from mcfs.cli.lab import Host
    from tests.netlab.conftest import SiteMaker

pytestmark = pytest.mark.netlab

Words = list["str | Path"]

DEADLINE = 60.0
UNTRUSTED = 6


class Scene:
    """A client, and two hosts that publish the share `data`, each with a file that says whose it is."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.client, self.elsewhere = site.lab.clients
        self.known = site.directory / "known"

    def publish(
        self,
        host: Host,
        text: str,
        *,
        state: Path | None = None,
        key: Path | None = None,
        options: tuple[str, ...] = (),
    ) -> Serving:
        """A share `data` whose only file contains `text`."""
        directory = self.site.new_directory("content") / "data"
        directory.mkdir()
        (directory / "whose").write_text(text)
        words = ("--signing-key", str(key), *options) if key else options
        return self.site.serve(host, directory, state=state, options=words)

    def key(self, name: str) -> tuple[Path, str]:
        path = self.site.directory / name
        return path, fingerprint_of(make_key(path).verify_key)

    def mount(self, **options: object) -> str:
        """What the mounted file says; the mount ends again."""
        mounted = self.site.mount(self.client, "data", cache=None, **{"known_publishers": self.known, **options})
        found = self.client.run(["cat", mounted.path / "whose"], timeout=DEADLINE).stdout
        mounted.umount()
        return found

    def refused(self, *words: str | Path, timeout: int = 3) -> str:
        """The line that says why it cannot be mounted."""
        place = self.site.new_directory("mount")
        options = ("-i", "eth0", "--timeout", str(timeout), "--known-publishers", self.known)
        done = self.client.run([*MCFS, "mount", "data", place, *options, *words], timeout=DEADLINE, check=False)
        assert done.returncode == UNTRUSTED, done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert os.listdir(place) == []
        return done.stderr


def publisher(serving: Serving) -> str:
    return fingerprint_of(load_key(serving.state / "publisher.key").verify_key)


@pytest.fixture
def scene(make_site: SiteMaker) -> Scene:
    return Scene(make_site(2))


def test_the_first_publisher_is_known_from_then_on(scene: Scene) -> None:
    first = scene.publish(scene.site.lab.server, "first")
    name = publisher(first)
    assert f"publisher {name}" in first.job.output
    assert scene.mount() == "first"
    (line,) = [line for line in scene.known.read_text().splitlines() if not line.startswith("#")]
    assert line.startswith(f"data {name} # first used ")
    assert scene.mount(strict=True) == "first"
    first.stop()
    second = scene.publish(scene.elsewhere, "second")
    number = 1 + scene.known.read_text().splitlines().index(line)
    said = scene.refused()
    for word in (name, publisher(second), f"line {number} of {scene.known}"):
        assert word in said
    scene.known.write_text("# nobody is known\n")
    assert scene.mount() == "second"


def test_who_comes_first_does_not_shut_out_who_is_known(scene: Scene) -> None:
    right = scene.publish(scene.site.lab.server, "right")
    assert scene.mount() == "right"
    right.stop()
    forger = scene.publish(scene.elsewhere, "forged")
    place = scene.site.new_directory("mount")
    scene.site.lab.track_mount(place)
    options: Words = ["-i", "eth0", "--timeout", "40", "--known-publishers", scene.known, "-f"]
    job = scene.site.start(scene.client, [*MCFS, "mount", "data", place, *options])
    time.sleep(3)
    assert job.running
    scene.publish(scene.site.lab.server, "right", state=right.state)
    wait_until((place / "whose").exists, DEADLINE, "the right one is mounted")
    assert (place / "whose").read_text() == "right"
    assert job.output.count(publisher(forger)) == 1
    assert job.output.count("\n") == 1


def test_ls_lists_both_and_all_shares_shows_who_is_known(scene: Scene) -> None:
    right = scene.publish(scene.site.lab.server, "right")
    assert scene.mount() == "right"
    forger = scene.publish(scene.elsewhere, "forged")
    listed = scene.client.run([*MCFS, "ls", "-i", "eth0", "--known-publishers", scene.known]).stdout
    rows = [line.split() for line in listed.splitlines()[1:]]
    assert {tuple(row[-2:]) for row in rows} == {("known", publisher(right)), ("other", publisher(forger))}
    assert [row[0] for row in rows] == ["data", "data"]
    every = scene.site.mount(scene.client, None, known_publishers=scene.known)
    wait_until((every.path / "data" / "whose").exists, DEADLINE, "the share is heard")
    assert (every.path / "data" / "whose").read_text() == "right"
    other = scene.site.mount(scene.client, None, publisher_key=publisher(forger))
    wait_until((other.path / "data" / "whose").exists, DEADLINE, "the other one is heard")
    assert (other.path / "data" / "whose").read_text() == "forged"


def test_of_two_unknown_ones_all_clients_take_the_same(scene: Scene) -> None:
    servings = {
        "server": scene.publish(scene.site.lab.server, "server"),
        "elsewhere": scene.publish(scene.elsewhere, "elsewhere"),
    }
    first = min(servings, key=lambda name: _order(publisher(servings[name])))
    place = scene.site.new_directory("mount")
    for number in range(3):
        options: Words = ["-i", "eth0", "--known-publishers", scene.site.directory / f"known-{number}"]
        done = scene.client.run([*MCFS, "mount", "data", place, *options], timeout=DEADLINE)
        scene.site.lab.track_mount(place)
        assert (place / "whose").read_text() == first
        assert "several publishers, all unknown: taking " + publisher(servings[first]) in done.stderr
        scene.client.run([*MCFS, "umount", place])


def _order(fingerprint: str) -> bytes:
    from mcfs.protocol.publisher import parse_publisher

    return parse_publisher(fingerprint)


def test_a_demanded_key(scene: Scene) -> None:
    key, name = scene.key("key")
    scene.publish(scene.site.lab.server, "right", key=key)
    _, other = scene.key("other")
    assert scene.mount(publisher_key=name) == "right"
    assert not scene.known.exists(), "what is demanded is not remembered"
    said = scene.refused("--publisher-key", other)
    assert f"of the publisher {name} is refused: publisher_key demands {other}" in said
    said = scene.refused("-o", "strict")
    assert f"add the line 'data {name}' to {scene.known}" in said
    scene.known.write_text(f"data {name}\n")
    assert scene.mount(strict=True) == "right"


def test_all_shares_when_strict_are_those_that_are_known(scene: Scene) -> None:
    known = scene.publish(scene.site.lab.server, "right")
    unknown = scene.site.new_directory("content") / "unknown"
    unknown.mkdir()
    scene.site.serve(scene.elsewhere, unknown)
    scene.known.write_text(f"data {publisher(known)}\n")
    every = scene.site.mount(scene.client, None, strict=True, known_publishers=scene.known)
    both = scene.site.mount(scene.client, None)
    wait_until(lambda: sorted(os.listdir(both.path)) == ["data", "unknown"], DEADLINE, "both are heard")
    wait_until(lambda: os.listdir(every.path) == ["data"], DEADLINE, "the known one is heard")
    time.sleep(2)
    assert os.listdir(every.path) == ["data"]
    with pytest.raises(FileNotFoundError):
        os.stat(every.path / "unknown")


def test_a_recording_is_not_believed_after_a_remount(scene: Scene) -> None:
    """What an old server said is repeated when it has gone and the client is mounted anew."""
    first = scene.publish(scene.site.lab.server, "old")
    listener = scene.site.new_directory("record") / "announcement"
    record = scene.site.start(scene.elsewhere, [*HARNESS, "record-announcement", "data", listener])
    record.expect_success(DEADLINE)
    assert scene.mount() == "old"
    first.stop()
    second = scene.publish(scene.site.lab.server, "new", state=first.state)
    assert scene.mount() == "new"
    second.stop()
    repeat = scene.site.start(scene.elsewhere, [*HARNESS, "repeat-announcement", "data", listener])
    wait_until(lambda: repeat.output == "ready\n", DEADLINE, "it is repeated")
    said = scene.refused()
    assert f"line 1 of {scene.known}.versions" in said
    assert "known is" in said
    scene.publish(scene.site.lab.server, "new", state=first.state)
    assert scene.mount() == "new"


def test_a_new_key_is_followed_and_the_old_one_no_more(scene: Scene) -> None:
    (old, old_name), (new, new_name) = scene.key("old"), scene.key("new")
    state = scene.site.new_directory("state")
    serving = scene.publish(scene.site.lab.server, "old", key=old, state=state)
    mounted = scene.site.mount(scene.client, "data", known_publishers=scene.known)
    serving.stop()
    options = ("--previous-key", str(old))
    serving = scene.publish(scene.site.lab.server, "new", key=new, state=state, options=options)
    wait_until(lambda: new_name in scene.known.read_text(), DEADLINE, "the mount follows, and remembers it")
    scene.site.start(scene.client, ["grep", "-x", "new", mounted.path / "whose"]).expect_success(DEADLINE)
    assert f"data {new_name} replaces {old_name} # first used" in scene.known.read_text()
    serving.stop()
    mounted.umount()
    scene.publish(scene.elsewhere, "by who has found the old key", key=old, options=("--previous-key", str(new)))
    assert old_name in scene.refused()
    scene.publish(scene.site.lab.server, "new", key=new, state=state, options=options)
    assert scene.mount() == "new"


def test_a_client_that_was_away_follows_a_chain(scene: Scene) -> None:
    keys = [scene.key(name) for name in ("a", "b", "c")]
    scene.publish(scene.site.lab.server, "first", key=keys[0][0]).kill()
    scene.known.write_text(f"data {keys[0][1]}\n")
    options = ("--previous-key", str(keys[0][0]), "--previous-key", str(keys[1][0]))
    scene.publish(scene.site.lab.server, "third", key=keys[2][0], options=options)
    assert scene.mount() == "third"
    assert f"data {keys[2][1]} replaces {keys[1][1]} replaces {keys[0][1]}" in scene.known.read_text()


def test_two_mounts_at_once_lose_nothing(scene: Scene) -> None:
    for name in ("one", "two", "three"):
        directory = scene.site.new_directory("content") / name
        directory.mkdir()
        scene.site.serve(scene.site.lab.server, directory)
    jobs = []
    for name in ("one", "two", "three"):
        place = scene.site.new_directory("mount")
        scene.site.lab.track_mount(place)
        options: Words = ["-i", "eth0", "--known-publishers", scene.known]
        cache = scene.site.new_directory("cache")
        jobs.append(scene.site.start(scene.client, [*MCFS, "mount", name, place, *options, "--cache-dir", cache]))
    for job in jobs:
        job.expect_success(DEADLINE)
    words = [line.split()[0] for line in scene.known.read_text().splitlines() if not line.startswith("#")]
    assert sorted(words) == ["one", "three", "two"]


def test_a_damaged_file_is_one_line_and_one_that_cannot_be_written_a_warning(scene: Scene) -> None:
    scene.publish(scene.site.lab.server, "right")
    place = scene.site.new_directory("mount")
    scene.known.write_text("data garbage\n")
    words: Words = [*MCFS, "mount", "data", place, "-i", "eth0", "--known-publishers"]
    done = scene.client.run([*words, scene.known], check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"mcfs: {scene.known}: line 1: ")
    assert done.stderr.endswith("; mend or remove that line\n")
    scene.site.lab.track_mount(place)
    done = scene.client.run([*words, "/proc/known"])
    assert "publishers are not remembered: /proc/known" in done.stderr
    assert (place / "whose").read_text() == "right"


def test_a_forged_flood_of_announcements_does_not_shut_out_who_is_known(scene: Scene) -> None:
    """Each is signed by another key: rightly, for the same name and for others."""
    right = scene.publish(scene.site.lab.server, "right")
    assert scene.mount() == "right"
    flood = scene.site.start(scene.elsewhere, [*HARNESS, "announce-forgeries", "data"])
    wait_until(lambda: flood.output == "ready\n", DEADLINE, "the flood begins")
    assert scene.mount() == "right"
    every = scene.site.mount(scene.client, None, known_publishers=scene.known)
    wait_until((every.path / "data" / "whose").exists, DEADLINE, "the right one is heard")
    assert (every.path / "data" / "whose").read_text() == "right"
    assert publisher(right) in scene.known.read_text()
    assert flood.running, flood.output


def test_mistakes_about_keys_are_one_line(scene: Scene) -> None:
    key, _ = scene.key("key")
    data = scene.site.new_directory("data")
    words: Words = ["-i", "eth0", "--state-dir", scene.site.new_directory("state"), "--signing-key", key]
    done = scene.client.run([*SERVE, *words, "--previous-key", key, data], check=False)
    assert done.returncode == 1
    assert "--previous-key: no key may come twice" in done.stderr
    done = scene.client.run([*MCFS, "mount", "data", data, "-o", "publisher_key=nobody"], check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def version(path: Path) -> int:
    return int(os.getxattr(path, "user.mcfs.version"))


def test_a_gone_that_is_repeated_makes_no_reader_fail(scene: Scene) -> None:
    """A file was changed, so a block was gone, and then it is as before; somebody repeats what the server said."""
    site = scene.site
    directory = site.new_directory("content") / "data"
    directory.mkdir()
    source = random_file(directory / "file", MIB)
    right = source.read_bytes()
    serving = site.serve(site.lab.server, directory)
    mounted = site.mount(scene.client, "data")
    pid, recorded = site.start(scene.client, ["sleep", "600"]).process.pid, site.directory / "gone"
    record = site.start(scene.elsewhere, [*HARNESS, "record-gone", str(pid), recorded])
    wait_until(lambda: record.output == "ready\n", DEADLINE, "it listens")
    source.write_bytes(bytes(MIB))
    reader = site.start(scene.client, ["cat", mounted.path / "file"])
    assert reader.finish(DEADLINE) == 1
    assert "Stale file handle" in reader.output
    record.expect_success(DEADLINE)
    source.write_bytes(right)
    serving.stop()
    before = version(mounted.path)
    site.serve(site.lab.server, directory, state=serving.state)
    wait_until(lambda: version(mounted.path) > before, DEADLINE, "the new version is heard")
    repeat = site.start(scene.elsewhere, [*HARNESS, "repeat-gone", recorded])
    wait_until(lambda: repeat.output == "ready\n", DEADLINE, "it is repeated")
    site.start(scene.client, same_bytes(source, mounted.path / "file")).expect_success(DEADLINE)
    assert repeat.running, repeat.output


def test_a_copy_is_right_beside_a_forger(scene: Scene) -> None:
    directory = scene.site.new_directory("content") / "data"
    directory.mkdir()
    source = random_file(directory / "file", 16 * MIB)
    serving = scene.site.serve(scene.site.lab.server, directory)
    forged = scene.site.new_directory("content") / "data"
    forged.mkdir()
    random_file(forged / "file", 16 * MIB, seed=9)
    scene.site.serve(scene.elsewhere, forged)
    mounted = scene.site.mount(scene.client, "data", publisher_key=publisher(serving))
    scene.site.start(scene.client, same_bytes(source, mounted.path / "file")).expect_success(DEADLINE)
