"""SECURITY.md names the tests that show what it says: each of them is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[^`]+)`", TEXT)))
"""`tests/PATH` or `tests/PATH::NAME`."""


def functions_of(path: Path) -> set[str]:
    """Names of test functions, those of classes included."""
    found = ast.walk(ast.parse(path.read_text()))
    functions = (node for node in found if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


@pytest.mark.parametrize("named", NAMED)
def test_what_is_named_is_there(named: str) -> None:
    name, _, test = named.partition("::")
    path = ROOT / name
    assert path.is_file(), named
    if test:
        assert test in functions_of(path), named
    elif path.name.startswith("test_"):
        assert functions_of(path), f"{named} has no test"


def test_tests_are_named_with_their_files() -> None:
    """Or nobody looks whether they are there."""
    assert not re.findall(r"`test_\w+", TEXT)


def test_each_row_that_says_what_cannot_be_done_shows_it() -> None:
    rows = [line.strip("|").split("|") for line in TEXT.splitlines() if line.startswith("| ")]
    assert len(rows) > 20
    for who, _, cannot, shown in (map(str.strip, row) for row in rows):
        assert not cannot or shown, who
