"""The fuzzers: nothing is forgotten, a failure is found and can be repeated, and a short run finds none."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

import mcfs
from mcfs.protocol.errors import BadDatagram
from tests.fuzz import client, keyed, mutate, publishers, seeds, targets
from tests.fuzz.__main__ import MOST_MEMORY, repeat, report
from tests.fuzz.framing import frames, joined
from tests.fuzz.messagepack import elements
from tests.fuzz.run import BATCH, LONGEST, Outcome, attempt, peak_memory, run_batch
from tests.fuzz.seeds import announcements, listings
from tests.fuzz.session import Session, Task, Worker, target_of
from tests.fuzz.target import Target, name_of
from tests.fuzz.targets import ALL, BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

PACKAGE = Path(mcfs.__file__).parent
CORPUS = Path(__file__).parent / "corpus"
SHORT_RUN = 100_000


def untrusted(path: Path) -> Iterator[str]:
    """Full names of the functions in a module that say so."""
    module = ".".join(("mcfs", *path.relative_to(PACKAGE).with_suffix("").parts))

    def walk(node: ast.AST, prefix: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                if child.name.endswith("_untrusted"):
                    yield f"{prefix}.{child.name}"
                yield from walk(child, f"{prefix}.{child.name}")

    return walk(ast.parse(path.read_text()), module)


def test_every_untrusted_function_is_a_target() -> None:
    there = {name for path in PACKAGE.rglob("*.py") for name in untrusted(path)}
    fuzzed = {name_of(function) for target in ALL for function in (target.function, *target.helpers)}
    assert there, "the walk finds them"
    assert there - fuzzed == set()


def calls(target: Target, names: set[str]) -> set[str]:
    """Which of the functions are called while some inputs of a target are run."""
    seen: set[str] = set()

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            seen.add(frame.f_code.co_qualname)

    inputs: list[bytes] = []
    run_batch(target, target.make(), seed=2, number=0, note=inputs.append)
    for data in inputs:
        sys.setprofile(profile)  # anew: a recursion that is too deep ends it without a word
        try:
            attempt(target, data)
        finally:
            sys.setprofile(None)
    return seen & names


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_each_target_reaches_what_it_is_for(target: Target) -> None:
    names = {function.__qualname__ for function in (target.function, *target.helpers)}
    assert calls(target, names) == names


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_seeds_are_accepted_and_wrong_ones_refused(target: Target) -> None:
    for seed in target.seeds():
        target.run(seed)
    for seed in target.wrong():
        with pytest.raises(target.raises):
            target.run(seed)


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_some_inputs_are_accepted_and_some_are_refused(target: Target) -> None:
    """Else the inputs would be of no use."""
    outcome = run_batch(target, target.make(), seed=3, number=0)
    assert outcome.accepted > 0
    assert outcome.accepted < BATCH or not target.raises
    assert outcome.failures == []


def test_valid_inputs_get_to_the_end() -> None:
    """A share is believed, and a node assembled, where the seeds say so."""
    assert [client.heard(data) for data in client.conversations()] == [2, 1, 1, 2]
    assert all(keyed.collect(data) for data in keyed.transfers())
    assert all(publishers.believed(data) for data in publishers.said())
    assert len(targets.directory(seeds.directories()[0])) == 15


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_what_once_did_harm(path: Path) -> None:
    assert attempt(BY_NAME[target_of(path)], path.read_bytes())[0] in (None, "")


@pytest.mark.slow
def test_short_run(tmp_path: Path) -> None:
    """All targets, with every bound, as script/fuzz has them."""
    argv = [sys.executable, "-m", "tests.fuzz", "-n", str(SHORT_RUN), "--keep", str(tmp_path / "kept")]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=280, cwd=PACKAGE.parent, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.splitlines()[-1].split()[0]) >= SHORT_RUN


# --- the fuzzer itself -----------------------------------------------------------------------------------------------


def fake(run: object, alias: str = "fake") -> Target:
    return Target(test_short_run, run, lambda: [b"\0" * 9], alias=alias)  # type: ignore[arg-type]


def test_an_undocumented_error_is_found() -> None:
    def fails(data: bytes) -> None:
        if data[:1] != b"\0":
            raise IndexError("first byte")
        raise BadDatagram("documented")

    outcome = run_batch(fake(fails), mutate.plain([b"\0" * 9]), seed=1, number=0)
    assert {failure.what for failure in outcome.failures} == {"IndexError: first byte"}
    assert outcome.inputs == BATCH


def test_what_takes_too_long_is_found() -> None:
    def takes_long(_: bytes) -> None:
        end = time.thread_time() + LONGEST + 0.01
        while time.thread_time() < end:
            pass

    assert (attempt(fake(takes_long), b"")[0] or "").startswith("took")


def test_a_batch_can_be_made_again() -> None:
    for target in ALL[:8]:
        seen: list[list[bytes]] = [[], []]
        for inputs in seen:
            run_batch(target, target.make(), seed=4, number=5, note=inputs.append)
        assert seen[0] == seen[1]
        assert len(set(seen[0])) > BATCH // 4


def test_a_process_that_ends_is_a_failure_with_its_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session, worker = Session(tmp_path / "kept"), Worker(tmp_path)
    Path(worker._file.name).write_bytes((3).to_bytes(8, "little") + b"abc")
    worker.give(Task("no such target", 1, 1))
    assert worker.connection.poll(60)
    assert worker.take() is None
    session._lost(worker)
    (path,) = session.kept
    assert path.read_bytes() == b"abc"
    assert f"script/fuzz --again {path}" in capsys.readouterr().err


def test_a_kept_input_can_be_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target in ALL:
        path = tmp_path / f"{target.name.replace(' ', '_')}-0123"
        path.write_bytes(target.seeds()[0])
        assert repeat(path) == 0
        assert capsys.readouterr().out.startswith(f"{target.name}: accepted")


def test_a_process_with_too_much_memory_is_a_failure(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    session = Session(tmp_path / "kept")
    for process, peak in ((1, 90), (2, 150), (2, 199)):
        session._add(Outcome("target", inputs=500, peak=peak * 1_000_000, process=process))
    own, least = peak_memory(), 10_000_000
    assert least < own
    assert report(session) == (0 if own < MOST_MEMORY else 1)
    assert "90 MB, 199 MB" in capsys.readouterr().out
    session._add(Outcome("target", inputs=500, peak=MOST_MEMORY + 1, process=1))
    assert report(session) == 1


def test_the_memory_of_the_parent_does_not_count() -> None:
    code = f"""
import subprocess, sys
held = b"x" * {2 * MOST_MEMORY}
argv = [sys.executable, "-c", "from tests.fuzz.run import peak_memory; print(peak_memory())"]
sys.exit(subprocess.run(argv).returncode)
"""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < MOST_MEMORY


def test_frames_are_found() -> None:
    for data in (*keyed.transfers(), *publishers.said(), *seeds.directories()):
        assert joined(frames(data)) == data
        assert joined(frames(data[:-1])) == joined(
            [*frames(data)[:-1], (frames(data)[-1][0], frames(data)[-1][1][:-1])]
        )
    assert frames(b"\x07\x00") == []


def test_elements_are_found_inside_of_byte_strings() -> None:
    body = announcements()[0]
    found = elements(body)
    assert max(len(element.inside) for element in found) == 2, "a listing in a message in an envelope"
    assert found[0].end == len(body)


def test_lengths_around_a_change_are_made_to_fit() -> None:
    body, rng = announcements()[0], Random(1)
    for element in elements(body)[1:]:
        put = rng.randbytes(300)
        changed = mutate.replaced(body, element, b"\xc5\x01\x2c" + put)
        assert put in changed
        assert elements(changed)[0].end == len(changed)
    assert len(elements(listings()[1])) > 200
