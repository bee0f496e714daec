"""Share keys from files, the environment and the terminal, and which share of a server gets which."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mcfs.cli import _environment, share_keys
from mcfs.cli.options import mount_options
from mcfs.protocol.errors import UserError
from mcfs.protocol.keys import MAX_KEYFILE, MAX_PASSWORD, ShareKeys, keys_of_file, keys_of_password

LONG = b"a long pass phrase"
NAMES = (b"one", b"other", b"a=b")


def secret_file(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def of(number: int) -> bytes:
    return bytes((number,)) * 32


@pytest.fixture(autouse=True)
def no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_environment, "PASSWORD", None)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Argon2id, which takes a second."""
    monkeypatch.setattr(share_keys, "keys_of_password", lambda password: keys_of_file(password.ljust(32)))


class TestFiles:
    def test_a_key_file(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = secret_file(tmp_path / "key", of(1))
        assert share_keys.read_keyfile(path) == keys_of_file(of(1))
        assert caplog.text == ""

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o777])
    def test_one_that_others_may_use_is_named(
        self, tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = secret_file(tmp_path / "key", of(1), mode)
        assert share_keys.read_keyfile(path) == keys_of_file(of(1))
        assert f"{path}: others may read it (mode {mode:04o}): chmod 600" in caplog.text

    @pytest.mark.parametrize(
        ("size", "said"), [(0, "has 0 bytes"), (31, "has 31 bytes"), (MAX_KEYFILE + 1, "too long")]
    )
    def test_one_that_is_none(self, tmp_path: Path, size: int, said: str) -> None:
        with pytest.raises(UserError, match=f"key {said}|key is {said}"):
            share_keys.read_keyfile(secret_file(tmp_path / "key", bytes(size)))

    def test_one_without_end_is_not_read_to_its_end(self) -> None:
        with pytest.raises(UserError, match="/dev/zero is too long"):
            share_keys.read_keyfile(Path("/dev/zero"))

    def test_one_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="No such file"):
            share_keys.read_keyfile(tmp_path / "key")
        with pytest.raises(UserError, match="Is a directory"):
            share_keys.read_keyfile(tmp_path)

    @pytest.mark.usefixtures("quick")
    @pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
    def test_a_password_file_with_and_without_an_end_of_line(self, tmp_path: Path, end: bytes) -> None:
        path = secret_file(tmp_path / "password", LONG + end)
        assert share_keys.read_password_file(path) == keys_of_file(LONG.ljust(32))

    def test_passwords_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="password is empty"):
            share_keys.read_password_file(secret_file(tmp_path / "password", b"\n"))
        with pytest.raises(UserError, match="password is too long"):
            share_keys.read_password_file(secret_file(tmp_path / "password", b"x" * (MAX_PASSWORD + 1)))

    @pytest.mark.usefixtures("quick")
    def test_a_short_password_is_named(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        share_keys.read_password_file(secret_file(tmp_path / "password", b"secret\n"))
        assert "a short one is soon found" in caplog.text
        assert "secret" not in caplog.text


class TestClient:
    def test_all_that_are_given(self, tmp_path: Path) -> None:
        files = [secret_file(tmp_path / str(n), of(n)) for n in (1, 2, 1)]
        assert share_keys.client_keys(files, [], prompt=False) == (keys_of_file(of(1)), keys_of_file(of(2)))
        assert share_keys.client_keys([], [], prompt=False) == ()

    @pytest.mark.usefixtures("quick")
    def test_files_and_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_environment, "PASSWORD", LONG)
        key, password = secret_file(tmp_path / "key", of(1)), secret_file(tmp_path / "password", LONG)
        found = share_keys.client_keys([key], [password], prompt=False)
        assert found == (keys_of_file(of(1)), keys_of_file(LONG.ljust(32))), "the same password twice is one key"

    def test_too_many(self, tmp_path: Path) -> None:
        files = [secret_file(tmp_path / str(n), of(n)) for n in range(share_keys.MAX_KEYS + 1)]
        assert len(share_keys.client_keys(files[1:], [], prompt=False)) == share_keys.MAX_KEYS
        with pytest.raises(UserError, match="at most 32"):
            share_keys.client_keys(files, [], prompt=False)

    def test_nobody_to_ask(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with open(os.devnull) as null:
            monkeypatch.setattr(sys, "stdin", null)
            with pytest.raises(UserError, match="take --password-file"):
                share_keys.client_keys([], [], prompt=True)

    def test_mount_options(self, tmp_path: Path) -> None:
        options = mount_options([f"keyfile={tmp_path}/a,keyfile={tmp_path}/b,password_file=/c"], {})
        assert options.keyfile == (tmp_path / "a", tmp_path / "b")
        assert options.password_file == (Path("/c"),)


class TestServer:
    def keys(self, *keyfiles: str, passwords: tuple[str, ...] = ()) -> dict[bytes, ShareKeys]:
        return share_keys.server_keys(NAMES, keyfiles, passwords, prompt=False)

    @pytest.fixture
    def files(self, tmp_path: Path) -> list[str]:
        return [str(secret_file(tmp_path / f"key{n}", of(n))) for n in range(4)]

    def test_none(self) -> None:
        assert self.keys() == {}

    def test_one_for_all(self, files: list[str]) -> None:
        assert self.keys(files[0]) == dict.fromkeys(NAMES, keys_of_file(of(0)))

    def test_one_for_one(self, files: list[str]) -> None:
        assert self.keys(f"one={files[1]}") == {b"one": keys_of_file(of(1))}

    def test_one_for_the_rest(self, files: list[str]) -> None:
        found = self.keys(files[0], f"other={files[1]}", f"a=b={files[2]}")
        assert found == {b"one": keys_of_file(of(0)), b"other": keys_of_file(of(1)), b"a=b": keys_of_file(of(2))}

    def test_a_relative_path_with_an_equals_sign(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        secret_file(tmp_path / "x=y", of(1))
        assert self.keys("./x=y") == dict.fromkeys(NAMES, keys_of_file(of(1)))

    def test_a_name_that_no_share_has(self, files: list[str]) -> None:
        """And so no share goes without the key that it was meant to have."""
        with pytest.raises(UserError, match="no PATH is the share 'oen'") as caught:
            self.keys(f"oen={files[0]}")
        assert caught.value.exit_code == 2

    @pytest.mark.parametrize("given", ["{0} {1}", "one={0} one={1}", "one={0} one={0}"])
    def test_two_for_one(self, files: list[str], given: str) -> None:
        with pytest.raises(UserError, match="two keys are given for"):
            self.keys(*given.format(*files).split())

    def test_a_file_and_a_password_for_one(self, files: list[str]) -> None:
        with pytest.raises(UserError, match="two keys are given for all shares"):
            self.keys(files[0], passwords=(files[1],))

    @pytest.mark.usefixtures("quick")
    def test_the_environment_is_for_what_has_no_other(self, files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_environment, "PASSWORD", LONG)
        of_environment = keys_of_file(LONG.ljust(32))
        assert self.keys(f"one={files[1]}") == {b"one": keys_of_file(of(1)), b"other": of_environment,
                                                b"a=b": of_environment}  # fmt: skip
        assert self.keys(files[0]) == dict.fromkeys(NAMES, keys_of_file(of(0)))

    def test_more_than_a_server_can_have(self, tmp_path: Path) -> None:
        names = [b"%d" % n for n in range(256)]
        given = [f"{n}={secret_file(tmp_path / str(n), of(n))}" for n in range(256)]
        assert len(share_keys.server_keys(names[1:], given[1:], [], prompt=False)) == 255
        with pytest.raises(UserError, match="more than 255"):
            share_keys.server_keys(names, given, [], prompt=False)

    def test_no_path(self) -> None:
        with pytest.raises(UserError, match="'' is not a path"):
            self.keys("one=")


SHOW_CHILD = """
import subprocess
from mcfs.cli import _environment
print(_environment.PASSWORD)
print(subprocess.run(["env"], capture_output=True, text=True, check=True).stdout)
"""


def test_programs_that_are_started_do_not_get_the_password() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHOW_CHILD],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env={**os.environ, "MCFS_PASSWORD": "hunter2 hunter2"},
    )
    assert done.stdout.startswith("b'hunter2 hunter2'\n")
    assert "MCFS_PASSWORD" not in done.stdout
    assert done.stdout.count("hunter2") == 2


ASK = """
from mcfs.cli.share_keys import ask
print("KEY", ask(twice={twice}).secret.hex())
"""


@pytest.mark.parametrize("twice", [False, True])
def test_asked_at_a_terminal(twice: bool) -> None:
    """What is typed is not shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", ASK.format(twice=twice)])
    shown, typed, end = b"", 0, time.monotonic() + 60
    with suppress(OSError), open(terminal, "r+b", buffering=0) as tty:
        while b"KEY" not in shown or not shown.endswith(b"\n"):
            assert time.monotonic() < end
            shown += tty.read(1000)
            if shown.count(b": ") > typed:
                typed += 1
                tty.write(LONG + b"\n")
    os.waitpid(pid, 0)
    assert shown.split()[-1].decode() == keys_of_password(LONG).secret.hex()
    assert LONG not in shown
    assert typed == (2 if twice else 1)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("option", ["--keyfile", "--password-file"])
def test_commands_say_what_is_wrong_with_a_key(tmp_path: Path, option: str) -> None:
    (tmp_path / "d").mkdir()
    empty = secret_file(tmp_path / "empty", b"")
    where = ("--state-dir", f"{tmp_path}/state", "-i", "lo")
    for words in (
        ("mcfs.cli.serve", *where, option, str(empty), f"{tmp_path}/d"),
        ("mcfs.cli.serve", *where, option, f"d={empty}", f"{tmp_path}/d"),
        ("mcfs.cli.main", "ls", "-i", "lo", option, str(empty)),
    ):
        done = run(*words)
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        assert done.stderr.count("\n") == 1
        assert str(empty) in done.stderr


def test_a_secret_is_no_option() -> None:
    """`--password` takes no value, so nobody writes one into a command line."""
    done = run("mcfs.cli.main", "ls", "--password=secret")
    assert done.returncode == 2
    assert "does not take a value" in done.stderr
