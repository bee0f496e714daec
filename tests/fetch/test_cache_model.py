"""Random sequences of everything, against a dictionary of what was stored."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mcfs.fetch.cache import Cache
from mcfs.protocol.ids import Node

from .cachefakes import BLOCK, Sample, kill, plain

SAMPLES = [Sample(seed, size) for seed, size in enumerate([5, BLOCK, BLOCK + 1, 6 * BLOCK - 3, 20 * BLOCK])]
BYTES = {node: sample.bytes(node) for sample in SAMPLES for node in sample.nodes()}
LIMIT = 12 * BLOCK
nodes = st.sampled_from(sorted(BYTES, key=lambda node: (node.object.size, node.level, node.index)))
samples = st.sampled_from(SAMPLES)


class CacheMachine(RuleBasedStateMachine):
    """`may_have`: what was stored and not dropped; the cache may have evicted it, but has nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="mcfs-cache-"))
        self.may_have: dict[Node, bytes] = {}
        self.verified: set[Node] = set()
        self.last: Node | None = None
        self.clean = False
        self.cache = self.open()

    def open(self, limit: int = LIMIT) -> Cache:
        cache = Cache.open(self.directory, max_bytes=limit, min_free=0, max_files=3)
        assert cache.path == self.directory
        assert cache.was_clean == self.clean
        self.verified.clear()
        self.last = None
        return cache

    def teardown(self) -> None:
        self.cache.close()
        shutil.rmtree(self.directory)

    @rule(node=nodes)
    def store(self, node: Node) -> None:
        data = self.may_have.get(node, BYTES[node]) if self.cache.has(node) else BYTES[node]
        assert self.cache.store(node, BYTES[node])
        self.may_have[node] = data
        self.verified.add(node)
        self.last = node

    @rule(node=nodes.filter(lambda node: node.level == 0))
    def store_hole(self, node: Node) -> None:
        data = self.may_have.get(node, b"") if self.cache.has(node) else bytes(node.size)
        assert self.cache.store_hole(node)
        self.may_have[node] = data
        self.verified.add(node)
        self.last = node

    @rule(node=nodes)
    def load(self, node: Node) -> None:
        data = plain(self.cache.load(node))
        assert (data is not None) == self.cache.has(node)
        if data is not None:
            assert data == self.may_have[node]
            self.last = node

    @rule(node=nodes)
    def load_at_once(self, node: Node) -> None:
        data = plain(self.cache.load_at_once(node))
        if data is not None:
            assert data == self.may_have[node]
            self.last = node

    @rule(node=nodes, start=st.integers(0, 1 << 20), length=st.integers(0, BLOCK))
    def load_range(self, node: Node, start: int, length: int) -> None:
        start %= node.size
        length = min(length, node.size - start)
        data = plain(self.cache.load_range(node, start, length))
        if data is not None:
            assert node in self.verified
            assert data == self.may_have[node][start : start + length]
            self.last = node

    @rule(node=nodes)
    def mark_verified(self, node: Node) -> None:
        if self.cache.has(node):
            self.cache.mark_verified(node)
            self.verified.add(node)

    @rule(node=nodes)
    def drop(self, node: Node) -> None:
        self.cache.drop(node)
        assert not self.cache.has(node)
        self.may_have.pop(node, None)
        self.verified.discard(node)

    @rule(source=st.integers(0, 4), to=st.integers(0, 18))
    def copy_block(self, source: int, to: int) -> None:
        src, dst = Node(SAMPLES[3].ref, 0, source), Node(SAMPLES[4].ref, 0, to)
        there, data = self.cache.has(dst), self.may_have.get(src)
        if self.cache.copy_block(src.object, source, dst.object, to) and not there:
            assert data is not None
            self.may_have[dst] = data
            self.verified.discard(dst)

    @rule(sample=samples)
    def pin(self, sample: Sample) -> None:
        self.cache.opened(sample.ref)

    @rule(sample=samples)
    def unpin(self, sample: Sample) -> None:
        self.cache.closed(sample.ref)

    @rule(blocks=st.integers(0, 12))
    def prune(self, blocks: int) -> None:
        self.cache.prune(blocks * BLOCK)

    @rule(limit=st.integers(7, 12))
    def reopen(self, limit: int) -> None:
        self.cache.close()
        self.clean = True
        self.cache = self.open(limit * BLOCK)

    @rule()
    def crash(self) -> None:
        kill(self.cache)
        self.clean = False
        self.cache = self.open()

    @invariant()
    def has_nothing_else(self) -> None:
        for node in BYTES:
            assert not self.cache.has(node) or node in self.may_have
            assert not self.cache.is_verified(node) or node in self.verified

    @invariant()
    def keeps_the_limit(self) -> None:
        assert self.cache.used <= self.cache.limit

    @precondition(lambda self: self.last is not None)
    @invariant()
    def the_last_access_stays(self) -> None:
        assert self.last is not None
        assert self.last.level or self.last not in self.may_have or self.cache.has(self.last)

    @invariant()
    def counts_bytes(self) -> None:
        for sample in SAMPLES:
            blocks = [node for node in sample.nodes() if node.level == 0 and self.cache.has(node)]
            assert self.cache.cached_bytes(sample.ref, 0, sample.ref.size) == sum(node.size for node in blocks)


CacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCache = CacheMachine.TestCase
