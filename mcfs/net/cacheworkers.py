"""Threads that read the cache on disk and write it, so that the event loop waits for no disk."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from mcfs.net.loader import WorkerPool
from mcfs.protocol import merkle
from mcfs.protocol.errors import BadNode

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcfs.fetch.cache import Cache
    from mcfs.fetch.leafindex import LeafIndex
    from mcfs.fetch.nodes import Load, NodeTree, Store
    from mcfs.protocol.merkle import Buffer

log = logging.getLogger(__name__)

READERS: Final = 2


class CacheWorkers:
    """What a `NodeTree` asks for is done here, once they are started."""

    def __init__(self, cache: Cache, leaves: LeafIndex) -> None:
        self._cache = cache
        self._leaves = leaves
        self.readers: WorkerPool[Load, tuple[Load, Buffer | None]] | None = None
        self.writer: WorkerPool[Store, Store] | None = None
        self._indexer: WorkerPool[Cache, None] | None = None
        self._closing = False

    def start(self, wake: Callable[[], None]) -> None:
        """`wake` is called, in any thread, when something is done."""
        self.readers = WorkerPool("cache-read", READERS, self.load, wake)
        self.writer = WorkerPool("cache-write", 1, self.store, wake)
        self._indexer = WorkerPool("cache-index", 1, self.learn_leaves, wake)
        self._indexer.submit(self._cache)

    def pump(self, tree: NodeTree, *, now: float) -> None:
        """Give the tree what is done, and take what it asks for."""
        assert self.readers is not None
        assert self.writer is not None
        for load, data in self.readers.take():
            tree.loaded(load, data, now=now)
        for store in self.writer.take():
            tree.stored(store)
        for load in tree.loads():
            self.readers.submit(load)
        for store in tree.stores():
            self.writer.submit(store)

    def close(self) -> None:
        """Finish what was asked for."""
        self._closing = True
        for pool in (self._indexer, self.readers, self.writer):
            if pool is not None:
                pool.close()

    # --- in the threads ---

    def load(self, load: Load) -> tuple[Load, Buffer | None]:
        """The node, if it is there and right."""
        try:
            data = self._cache.load(load.source)
            if data is not None:
                merkle.verify_node(load.node, data, load.digest)
        except BadNode:
            data = None
        except Exception:
            log.exception("reading the cache failed")
            data = None
        return load, data

    def store(self, store: Store) -> Store:
        try:
            node, source = store.node, store.source
            if store.hole:
                self._cache.store_hole(node)
            elif source is None or not self._cache.copy_block(source.object, source.index, node.object, node.index):
                self._cache.store(node, store.data, direct=store.direct)
        except Exception:
            log.exception("writing the cache failed")
        return store

    def learn_leaves(self, cache: Cache) -> None:
        """Which blocks the cache had at the start."""
        try:
            for digest, node in cache.leaves(is_wanted=lambda: not self._closing):
                if not self._leaves.add_older(digest, node):
                    return
        except Exception:
            log.exception("looking through the cache failed")
