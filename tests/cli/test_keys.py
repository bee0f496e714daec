"""Signing keys: `mcfs keygen`, what the server makes of its key file, and keys that clients are given."""

from __future__ import annotations

import logging
import os
import re
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from nacl.signing import SigningKey

from mcfs.cli import places, values
from mcfs.cli.publisher import fingerprint_of, load_key, load_or_make_key, make_key
from mcfs.protocol.errors import UserError
from mcfs.protocol.publisher import format_key

if TYPE_CHECKING:
    from pathlib import Path

KEY = SigningKey(bytes(range(32)))
PUBLIC = bytes(KEY.verify_key)
FINGERPRINT = fingerprint_of(KEY.verify_key)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mcfs.cli.main", "keygen", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)


def test_keygen_makes_a_key_that_only_its_owner_can_read(tmp_path: Path) -> None:
    path = tmp_path / "key"
    umask = os.umask(0)
    try:
        made = run(path)
    finally:
        os.umask(umask)
    assert (made.returncode, made.stderr) == (0, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == 32
    key = load_key(path)
    assert made.stdout == (
        f"public key   {format_key(bytes(key.verify_key))}\nfingerprint  {fingerprint_of(key.verify_key)}\n"
    )
    shown = run("--show", path)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, made.stdout, "")
    assert bytes(key).hex() not in made.stdout


def test_keygen_never_overwrites(tmp_path: Path) -> None:
    path, link, target = tmp_path / "key", tmp_path / "link", tmp_path / "target"
    path.write_text("precious")
    link.symlink_to(target)
    for there in (path, link):
        done = run(there)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"mcfs: {there} is there already, and a key is never overwritten\n"
    assert path.read_text() == "precious"
    assert not target.exists()


def test_keygen_where_there_is_no_place(tmp_path: Path) -> None:
    done = run(tmp_path / "absent" / "key")
    assert (done.returncode, done.stderr) == (1, f"mcfs: {tmp_path}/absent/key: No such file or directory\n")
    assert run("--show", tmp_path / "absent").stderr == f"mcfs: {tmp_path}/absent: No such file or directory\n"


def test_a_failure_leaves_no_half_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        make_key(tmp_path / "key")
    with pytest.raises(UserError, match="No space left on device"):
        load_or_make_key(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_server_makes_its_key_once(tmp_path: Path) -> None:
    (tmp_path / "publisher.new").write_text("of a crash, for all to read")
    (tmp_path / "publisher.new").chmod(0o666)
    key = load_or_make_key(tmp_path)
    assert load_or_make_key(tmp_path) == key
    (path,) = tmp_path.iterdir()
    assert path.name == "publisher.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("data", [b"", b"x" * 31, b"x" * 33, b"x" * 1000])
def test_a_damaged_key_is_one_line_and_is_not_replaced(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "publisher.key"
    path.write_bytes(data)
    said = r"publisher\.key is not a signing key: it has .* and not 32; take .*mcfs keygen$"
    with pytest.raises(UserError, match=said):
        load_key(path)
    with pytest.raises(UserError, match=said):
        load_or_make_key(tmp_path)
    assert path.read_bytes() == data


def test_what_is_no_file_is_no_key(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "publisher.key")
    with pytest.raises(UserError, match="is not a signing key"):
        load_or_make_key(tmp_path)
    with pytest.raises(UserError, match="Is a directory"):
        load_key(tmp_path)


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o400, 0), (0o640, 1), (0o604, 1), (0o620, 1)])
def test_a_key_that_others_may_use_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warnings: int
) -> None:
    path = tmp_path / "key"
    path.write_bytes(bytes(range(32)))
    path.chmod(mode)
    with caplog.at_level(logging.WARNING):
        assert load_key(path) == KEY
    assert len(caplog.messages) == warnings
    assert all(f"{mode:04o}: chmod 600 {path}" in message for message in caplog.messages)


# --- keys that clients are given -------------------------------------------------------------------------------------


def test_a_publisher_may_be_given_in_many_ways(tmp_path: Path) -> None:
    for text in (FINGERPRINT, PUBLIC.hex(), format_key(PUBLIC)):
        assert values.parse_publisher_key(text) == FINGERPRINT
        (tmp_path / "file").write_text(f"# my server\n{text}\n")
        assert values.parse_publisher_key(str(tmp_path / "file")) == FINGERPRINT


def test_what_keygen_prints_is_such_a_file(tmp_path: Path) -> None:
    made = run(tmp_path / "key")
    (tmp_path / "public").write_text(made.stdout)
    match = re.search(r"SHA256:\S+", made.stdout)
    assert match
    assert values.parse_publisher_key(str(tmp_path / "public")) == match[0]


def test_what_is_no_publisher(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a fingerprint .*No such file"):
        values.parse_publisher_key("SHA256:abc")
    for data, said in (
        (b"no key at all", "holds no publishers' keys"),
        (f"{FINGERPRINT} {'00' * 32}".encode(), "holds 2 publishers' keys"),
        (b"\xff" * 32, "mcfs keygen --show"),
    ):
        (tmp_path / "file").write_bytes(data)
        with pytest.raises(ValueError, match=said):
            values.parse_publisher_key(str(tmp_path / "file"))


def test_where_publishers_are_remembered() -> None:
    assert str(places.known_publishers({}, 0)) == "/var/lib/mcfs-mount/known-publishers"
    assert str(places.known_publishers({"HOME": "/h"}, 1000)) == "/h/.local/state/mcfs-mount/known-publishers"
    with pytest.raises(UserError, match="known_publishers=FILE"):
        places.known_publishers({}, 1000)
