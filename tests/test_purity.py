"""The rooms that decide (protocol, serve, fetch) read no clock and draw no random numbers: both are passed in.

import-linter checks which modules are imported. This checks what it cannot express: a type of `random` may be named in
annotations, and nothing may be called that reads a clock or a source of randomness by another way.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mcfs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PACKAGE = Path(mcfs.__file__).parent
PURE_ROOMS = ("protocol", "serve", "fetch")
SOURCES = sorted(path for room in PURE_ROOMS for path in (PACKAGE / room).rglob("*.py"))

# May be imported only where nothing runs.
TYPES_ONLY = frozenset({"random"})
IMPURE_MODULES = frozenset({"asyncio", "pyfuse3", "secrets", "select", "socket", "time", "trio", "uuid"})
IMPURE_CALLS = frozenset(
    {
        "datetime.date.today",
        "datetime.datetime.now",
        "datetime.datetime.today",
        "datetime.datetime.utcnow",
        "nacl.utils.random",
        "numpy.random",
        "os.getrandom",
        "os.urandom",
    }
)
# Draws from entropy only when it is given no seed.
SEEDED_GENERATOR = "numpy.random.default_rng"


class ImpurityFinder(ast.NodeVisitor):
    """Collects what a module imports or names that it must not, one line of text each."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._full_names: dict[str, str] = {}

    def visit_If(self, node: ast.If) -> None:
        if not is_type_checking(node.test):
            self.visit(node.test)
            self._visit_all(node.body)
        self._visit_all(node.orelse)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._check_module(node, alias.name)
            self._full_names[alias.asname or alias.name.partition(".")[0]] = (
                alias.name if alias.asname else alias.name.partition(".")[0]
            )

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module is None or node.level:
            return
        self._check_module(node, node.module)
        for alias in node.names:
            full_name = f"{node.module}.{alias.name}"
            self._full_names[alias.asname or alias.name] = full_name
            self._check_name(node, full_name)

    def visit_Call(self, node: ast.Call) -> None:
        if node.args and self._full_name(node.func) == SEEDED_GENERATOR:
            self._visit_all(node.args)
        else:
            self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._check_name(node, self._full_name(node))
        self.generic_visit(node)

    def _visit_all(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    def _check_module(self, node: ast.stmt, module: str) -> None:
        if module.partition(".")[0] in IMPURE_MODULES | TYPES_ONLY:
            self.found.append(f"line {node.lineno}: import of {module}")

    def _check_name(self, node: ast.stmt | ast.expr, full_name: str) -> None:
        if full_name in IMPURE_CALLS:
            self.found.append(f"line {node.lineno}: {full_name}")

    def _full_name(self, node: ast.expr) -> str:
        if isinstance(node, ast.Attribute):
            return f"{self._full_name(node.value)}.{node.attr}"
        if isinstance(node, ast.Name):
            return self._full_names.get(node.id, "")
        return ""


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def impurities(source: str) -> list[str]:
    finder = ImpurityFinder()
    finder.visit(ast.parse(source))
    return finder.found


def relative_names() -> Iterator[str]:
    return (str(path.relative_to(PACKAGE)) for path in SOURCES)


@pytest.mark.parametrize("path", SOURCES, ids=relative_names())
def test_pure_rooms_are_pure(path: Path) -> None:
    assert impurities(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("room", PURE_ROOMS)
def test_every_pure_room_is_looked_at(room: str) -> None:
    assert any(path.parent.name == room for path in SOURCES)


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from time import monotonic",
        "import random",
        "def f():\n    from random import Random",
        "import os\nos.urandom(8)",
        "from os import urandom",
        "from datetime import datetime as d\nd.now()",
        "import datetime\nnow = datetime.datetime.now",
        "import numpy as np\nnp.random.default_rng()",
        "import nacl.utils\nnacl.utils.random(24)",
        "import trio.lowlevel",
        "if True:\n    import socket",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import time",
    ],
)
def test_impure_source_is_found(source: str) -> None:
    assert len(impurities(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from random import Random",
        "import os\nos.pread(0, 1, 2)",
        "def f(rng, now):\n    return rng.random() + now.monotonic()",
        "from mcfs.serve import pacer",
        "import numpy as np\nnp.random.default_rng(0).integers(9)",
    ],
)
def test_pure_source_passes(source: str) -> None:
    assert impurities(source) == []
