"""The sample of `mcfs demo`: made from files that are really there, and no block of it equals another."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mcfs.cli import sample
from mcfs.protocol.ids import MIN_BLOCK_SIZE

if TYPE_CHECKING:
    from pathlib import Path


def test_amount_counts_regular_files_only(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "empty").touch()
    (tmp_path / "folder" / "file").write_bytes(bytes(5000))
    (tmp_path / "link").symlink_to("folder/file")
    (tmp_path / "outside").symlink_to("/usr")
    os.mkfifo(tmp_path / "pipe")
    assert sample.measure(tmp_path) == sample.Amount(files=2, size=5000, on_disk=8192)


def test_amount_of_one_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"1234")
    assert sample.measure(file) == sample.Amount(files=1, size=4, on_disk=4096)


def test_sample_is_as_large_as_foretold_and_leaves_packages_out(tmp_path: Path) -> None:
    sample.make_sample(tmp_path, 1_000_001)
    assert sample.measure(tmp_path) == sample.measure_sample(1_000_001)
    assert not list(tmp_path.rglob("site-packages"))
    assert (tmp_path / sample.library().name / "ast.py").read_bytes() == (sample.library() / "ast.py").read_bytes()


def test_no_two_blocks_of_the_large_file_are_equal(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "zeros").write_bytes(bytes(1 << 17))
    with open(tmp_path / "large", "w+b") as large:
        sample._write_large(large, tree, 100 * MIN_BLOCK_SIZE)
        large.seek(0)
        blocks = [large.read(MIN_BLOCK_SIZE) for _ in range(100)]
        assert large.read() == b""
    assert len(set(blocks)) == 100


def test_a_tree_without_bytes_still_gives_a_large_file(tmp_path: Path) -> None:
    with open(tmp_path / "large", "w+b") as large:
        sample._write_large(large, tmp_path / "absent", 1000)
        assert large.tell() == 1000
