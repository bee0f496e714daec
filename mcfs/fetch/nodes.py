"""Verified nodes: from memory, from the disk cache, or fetched; never handed out before their hash was checked.

To verify a block its hash must be known, which stands in a page, whose hash stands in a page, up to the object's top
hash. Pages and the block are asked for in the same batch; whatever comes first waits for the other. But of an object
that is the new version of another one the pages come first: when the hash of a block is known, and the cache has such a
block, in whatever object and place, it is taken from there (`leafindex`).

Sans-IO: reading the disk cache and writing it are asked for (`loads`, `stores`) and done by the caller in threads.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from mcfs.fetch.direct import aligned
from mcfs.fetch.fetchevents import Assembled, Failed
from mcfs.fetch.leafindex import can_be_elsewhere
from mcfs.protocol import merkle
from mcfs.protocol.addressing import Addresser, addresser_of, node_group
from mcfs.protocol.errors import BadNode, NotAvailable, ShareDown, TimedOut
from mcfs.protocol.seal import NodeSeal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mcfs.fetch.fetcher import Fetcher
    from mcfs.fetch.leafindex import LeafIndex
    from mcfs.protocol.ids import Digest, Group, Node, ObjectRef
    from mcfs.protocol.keys import ShareKeys
    from mcfs.protocol.merkle import Buffer

MEMORY_BYTES: Final = 64 << 20
"""Verified blocks kept in memory: what the kernel asks for in pieces, and what read-ahead has brought."""
PAGES_IN_MEMORY: Final = 256
"""8 MiB of hash pages: those of 256 GiB at the default block size."""
MAX_ADDRESSERS: Final = 1024
MAX_UNWRITTEN: Final = 128 << 20
"""Bytes waiting for the cache's writer. Past this blocks are handed out but not kept: the disk is slower than the
network, and readers matter more."""
DIRECT_UNWRITTEN: Final = 16 << 20
"""Bytes waiting past which the page cache has to help the disk."""
RETRY: Final = 1.0
"""Seconds after a time-out in which asking for the node again fails at once: the kernel reads twice what failed."""
MAX_VERSIONS: Final = 1024
"""New versions of files that are known as such; as many may be open as likes, but few are read for the first time."""
MAX_ORIGINS: Final = 8
"""Shares beside the first one that a node is asked of at the same time."""
MAX_TIMED_OUT: Final = 256
"""Nodes whose time-out is remembered: as many as can be joined, so as many as can time out together."""


class NodeCache(Protocol):
    """What is asked of the cache on disk without waiting."""

    def has(self, node: Node) -> bool: ...

    def load(self, node: Node) -> memoryview | None: ...

    def load_at_once(self, node: Node) -> memoryview | None: ...

    def drop(self, node: Node) -> None: ...


@dataclass(frozen=True, slots=True)
class Ready:
    node: Node
    data: Buffer


Event = Ready | Failed


@dataclass(frozen=True, slots=True)
class Load:
    """Read this node from the cache and check it: answer with `loaded`."""

    node: Node
    digest: Digest
    source: Node
    """Where it is: the node itself, or a block that should have the same bytes."""


@dataclass(frozen=True, slots=True)
class Store:
    """Write this node to the cache: answer with `stored`."""

    node: Node
    data: Buffer
    hole: bool = False
    """It is all zeros."""
    direct: bool = False
    """The disk keeps up, so it need not go through the page cache."""
    source: Node | None = None
    """A block in the cache that has the same bytes, to be copied there."""
    digest: Digest | None = None
    """Its hash, if it is a block that can be of use elsewhere."""


@dataclass(slots=True, eq=False)
class _Pending:
    node: Node
    origin: bytes
    urgent: bool
    awaited: bool = False
    """Somebody waits for it."""
    loading: bool = False
    unverified: Assembled | None = None
    children: set[Node] = field(default_factory=set)
    """Nodes that wait for this page."""
    others: dict[bytes, None] = field(default_factory=dict)
    """Further origins that it is wanted of: if one fails the next is asked."""

    def also_of(self, origin: bytes) -> None:
        if origin != self.origin and len(self.others) < MAX_ORIGINS:
            self.others[origin] = None


class NodeTree:
    """All nodes of all objects that one client reads."""

    def __init__(
        self,
        fetcher: Fetcher,
        cache: NodeCache,
        scope: int,
        *,
        is_down: Callable[[bytes], bool],
        pace: Callable[[bytes], int],
        keys: Callable[[bytes], ShareKeys | None] = lambda _: None,
        memory_bytes: int = MEMORY_BYTES,
        leaves: LeafIndex | None = None,
        verify: Callable[[Node, Buffer, Digest], None] = merkle.verify_node,
    ) -> None:
        """`is_down` says of an origin that asking it is in vain now, `pace` which of its pace classes fits us, `keys`
        which share key it has, if any. `leaves` has the blocks of the cache by their hashes; those that are stored are
        entered here. `verify` is for simulations, where nodes have no bytes."""
        self._check = verify
        self._is_down = is_down
        self._pace = pace
        self._keys = keys
        self._leaves = leaves
        self._versions: OrderedDict[ObjectRef, None] = OrderedDict()
        self._fetcher = fetcher
        self._cache = cache
        self._scope = scope
        self._pending: dict[Node, _Pending] = {}
        self._memory = _Memory(memory_bytes)
        self._pages: OrderedDict[Node, bytes] = OrderedDict()
        self._addressers: OrderedDict[tuple[ObjectRef, ShareKeys | None], Addresser] = OrderedDict()
        self._events: deque[Event] = deque()
        self._loads: deque[Load] = deque()
        self._stores: deque[Store] = deque()
        self._unwritten = 0
        self._writing: dict[Node, Buffer] = {}
        self._timed_out: OrderedDict[tuple[Node, bytes], float] = OrderedDict()

    # --- asking ---

    def request(self, node: Node, origin: bytes, *, urgent: bool, now: float, first: bool = False) -> Buffer | None:
        """The node's bytes if they are in memory; else None, and a Ready or Failed event follows.

        `urgent`: somebody waits for it; `first`: it is being sent now, so it should be joined before what is only
        fetched ahead.
        """
        data = self._in_memory(node)
        if data is not None:
            return data
        pending = self._pending.get(node)
        if pending is None:
            pending = self._pending[node] = _Pending(node, origin, urgent or first)
        else:
            self._also_of(pending, origin)
            if not urgent or pending.awaited:
                return None
        pending.urgent, pending.awaited = pending.urgent or urgent, urgent
        self._pursue(pending, now)
        return self._in_memory(node)

    def cancel(self, node: Node, *, now: float) -> None:
        """Nobody waits for the node any more. What has come of it is lost."""
        pending = self._pending.pop(node, None)
        if pending is None:
            return
        self._fetcher.unwant(node, now=now)
        parent = node.parent()
        waiting = self._pending.get(parent) if parent else None
        if waiting is not None:
            waiting.children.discard(node)

    def expect_known(self, ref: ObjectRef) -> None:
        """The object is a new version of what is in the cache: its pages are fetched before its blocks."""
        self._versions.pop(ref, None)
        self._versions[ref] = None
        if len(self._versions) > MAX_VERSIONS:
            self._versions.popitem(last=False)

    def is_pending(self, node: Node) -> bool:
        return node in self._pending

    def is_under_way(self, node: Node) -> bool:
        """Whether it is being fetched, or written to the disk."""
        return node in self._pending or node in self._writing

    def holds(self, node: Node) -> bool:
        """Whether the node is in memory or in the cache on disk."""
        return node in self._memory or node in self._writing or self._cache.has(node)

    @property
    def congested(self) -> bool:
        """The disk is behind: read-ahead should wait."""
        return self._unwritten > MAX_UNWRITTEN // 2

    def group(self, node: Node, pace: int, origin: bytes) -> Group:
        """The channel of an origin's node in a pace class."""
        return node_group(node, pace, self.addresser(node.object, origin), self._scope)

    def addresser(self, ref: ObjectRef, origin: bytes) -> Addresser:
        """The groups of an object, as the server of this origin computes them."""
        keys = self._keys(origin)
        addresser = self._addressers.get((ref, keys))
        if addresser is None:
            addresser = self._addressers[ref, keys] = addresser_of(ref, keys)
            if len(self._addressers) > MAX_ADDRESSERS:
                self._addressers.popitem(last=False)
        return addresser

    # --- what comes ---

    def assembled(self, event: Assembled, *, now: float) -> None:
        pending = self._pending.get(event.node)
        if pending is None:
            self._fetcher.unwant(event.node, now=now)
            return
        digest = self._digest(event.node)
        if digest is None:
            pending.unverified = event
            self._pursue(pending, now)
            return
        self._verify(pending, event, digest, now)

    def failed(self, event: Failed, *, now: float) -> None:
        pending = self._pending.get(event.node)
        if pending is None:
            return
        if isinstance(event.error, TimedOut):
            self._remember_time_out(event.node, pending.origin, now)
        self._fail(pending, event.error, now)

    def withdraw(self, origin: bytes, *, now: float) -> None:
        """Nothing more is asked of this origin."""
        for pending in [pending for pending in self._pending.values() if pending.origin == origin]:
            if self._pending.get(pending.node) is pending and pending.origin == origin:
                self._fail(pending, ShareDown("the share was taken away"), now)

    def _remember_time_out(self, node: Node, origin: bytes, now: float) -> None:
        self._timed_out.pop((node, origin), None)
        self._timed_out[node, origin] = now + RETRY
        if len(self._timed_out) > MAX_TIMED_OUT:
            self._timed_out.popitem(last=False)

    def loaded(self, load: Load, data: Buffer | None, *, now: float) -> None:
        """A node was read from the cache and was right; None if it was not."""
        pending = self._pending.get(load.node)
        if pending is None:
            return
        pending.loading = False
        if data is None:
            self._not_there(pending, load.source, now)
        else:
            self._taken(pending, load.source, load.digest, data, now)

    def stored(self, store: Store) -> None:
        self._unwritten -= len(store.data)
        self._writing.pop(store.node, None)
        if self._leaves is not None and store.digest is not None:
            self._leaves.add(store.digest, store.node)

    def events(self) -> Iterator[Event]:
        while self._events:
            yield self._events.popleft()

    def loads(self) -> Iterator[Load]:
        while self._loads:
            yield self._loads.popleft()

    def stores(self) -> Iterator[Store]:
        while self._stores:
            yield self._stores.popleft()

    # --- inside ---

    def _also_of(self, pending: _Pending, origin: bytes) -> None:
        """A node is wanted of a further origin, and so are the pages that it waits for."""
        waiting: _Pending | None = pending
        while waiting is not None:
            waiting.also_of(origin)
            parent = waiting.node.parent()
            waiting = self._pending.get(parent) if parent is not None else None

    def _in_memory(self, node: Node) -> Buffer | None:
        if node.level:
            return self._pages.get(node)
        data = self._memory.get(node)
        return self._writing.get(node) if data is None else data

    def _pursue(self, pending: _Pending, now: float) -> None:
        node = pending.node
        digest = self._digest(node)
        if digest is None:
            self._ask_for_parent(pending, now)
            if self._is_fetched_beside_its_page(pending):
                self._fetch(pending, now)
        elif pending.unverified is not None:
            self._verify(pending, pending.unverified, digest, now)
        elif merkle.is_zero_leaf(node, digest):
            self._store(node, bytes(node.size), hole=True)
            self._finish(pending, bytes(node.size), now)
        elif (source := self._source(node, digest)) is not None:
            if not pending.loading and not self._load_at_once(pending, source, digest, now):
                pending.loading = True
                self._loads.append(Load(node, digest, source))
        else:
            self._fetch(pending, now)

    def _is_fetched_beside_its_page(self, pending: _Pending) -> bool:
        node = pending.node
        if node not in self._pending or pending.unverified is not None or self._cache.has(node):
            return False
        return node.level > 0 or node.object not in self._versions

    def _source(self, node: Node, digest: Digest) -> Node | None:
        """Where in the cache the node's bytes should be."""
        if self._cache.has(node):
            return node
        source = self._leaves.find(digest) if self._leaves is not None and node.level == 0 else None
        if self._leaves is None or source is None or source.size != node.size:
            return None
        if self._cache.has(source):
            return source
        self._leaves.forget(digest)
        return None

    def _load_at_once(self, pending: _Pending, source: Node, digest: Digest, now: float) -> bool:
        """Read and check what need not wait for the disk: 1.9 GB/s, and 1.5 by way of a thread."""
        data = self._cache.load_at_once(source)
        if data is None:
            return False
        try:
            self._check(pending.node, data, digest)
        except BadNode:
            self._not_there(pending, source, now)
        else:
            self._taken(pending, source, digest, data, now)
        return True

    def _not_there(self, pending: _Pending, source: Node, now: float) -> None:
        """What was to be in the cache is not, or has the wrong bytes."""
        self._cache.drop(source)
        self._fetch(pending, now)

    def _taken(self, pending: _Pending, source: Node, digest: Digest, data: Buffer, now: float) -> None:
        """The node's bytes are those of a block in the cache; if that is another one, it gets them as well."""
        if source != pending.node:
            self._store(pending.node, data, digest, source=source)
        self._finish(pending, data, now)

    def _fetch(self, pending: _Pending, now: float) -> None:
        node, origin = pending.node, pending.origin
        if self._is_down(origin):
            self._fail(pending, ShareDown("nothing is heard of the share"), now)
            return
        if now < self._timed_out.get((node, origin), now):
            self._fail(pending, TimedOut("nothing was heard just now"), now)
            return
        group = self.group(node, self._pace(origin), origin)
        urgent = pending.urgent or node.level > 0
        keys = self._keys(origin)
        seal = NodeSeal(keys, node) if keys else None
        self._fetcher.want(node, group, origin, urgent=urgent, awaited=pending.awaited, seal=seal, now=now)

    def _ask_for_parent(self, pending: _Pending, now: float) -> None:
        parent = pending.node.parent()
        assert parent is not None, "the digest of a top node is always known"
        waiting = self._pending.get(parent)
        if waiting is None:
            waiting = self._pending[parent] = _Pending(parent, pending.origin, urgent=True)
            waiting.children.add(pending.node)
            self._pursue(waiting, now)
        else:
            waiting.children.add(pending.node)
            waiting.also_of(pending.origin)

    def _digest(self, node: Node) -> Digest | None:
        """The hash that the node must have, if the pages up to the top are known."""
        parent = node.parent()
        if parent is None:
            return node.object.top
        page = self._page(parent)
        return None if page is None else merkle.child_hash(page, node.index)

    def _page(self, node: Node) -> bytes | None:
        page = self._pages.get(node)
        if page is not None:
            self._pages.move_to_end(node)
            return page
        digest = self._digest(node) if self._cache.has(node) else None
        data = self._cache.load(node) if digest is not None else None
        if data is None or digest is None:
            return None
        try:
            self._check(node, data, digest)
        except BadNode:
            self._cache.drop(node)
            return None
        return self._keep_page(node, data)

    def _keep_page(self, node: Node, data: Buffer) -> bytes:
        page = self._pages[node] = bytes(data)
        if len(self._pages) > PAGES_IN_MEMORY:
            self._pages.popitem(last=False)
        return page

    def _verify(self, pending: _Pending, event: Assembled, digest: Digest, now: float) -> None:
        pending.unverified = None
        try:
            data = aligned(event.seal.open_untrusted(event.data, digest)) if event.seal else event.data
            self._check(event.node, data, digest)
        except BadNode as error:
            if not self._fetcher.reject(event.node, event.source, now=now):
                self._fail(pending, error, now)
            return
        self._fetcher.accept(event.node, now=now)
        of_use = event.node.level == 0 and can_be_elsewhere(event.node)
        self._store(event.node, data, digest if of_use else None)
        self._finish(pending, data, now)

    def _store(
        self,
        node: Node,
        data: Buffer,
        digest: Digest | None = None,
        *,
        hole: bool = False,
        source: Node | None = None,
    ) -> None:
        # Without its page no block of the cache can be checked, so none can be used; and pages are small.
        if node.level or self._unwritten + len(data) <= MAX_UNWRITTEN:
            self._stores.append(Store(node, data, hole, self._unwritten < DIRECT_UNWRITTEN, source, digest))
            self._unwritten += len(data)
            self._writing[node] = data

    def _finish(self, pending: _Pending, data: Buffer, now: float) -> None:
        node = pending.node
        del self._pending[node]
        self._fetcher.unwant(node, now=now)
        if node.level:
            self._keep_page(node, data)
        else:
            self._memory.put(node, data)
        self._events.append(Ready(node, data))
        for child in pending.children:
            waiting = self._pending.get(child)
            if waiting is not None:
                self._pursue(waiting, now)

    def _fail(self, pending: _Pending, error: NotAvailable | BadNode, now: float) -> None:
        self._fetcher.unwant(pending.node, now=now)
        if pending.others:
            pending.origin = next(iter(pending.others))
            del pending.others[pending.origin]
            self._fetch(pending, now)
            return
        self._pending.pop(pending.node, None)
        self._events.append(Failed(pending.node, error))
        for child in pending.children:
            waiting = self._pending.get(child)
            if waiting is not None:
                self._fail(waiting, error, now)


class _Memory:
    """Verified blocks, least recently used first, bounded by bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._blocks: OrderedDict[Node, Buffer] = OrderedDict()

    def __contains__(self, node: object) -> bool:
        return node in self._blocks

    def get(self, node: Node) -> Buffer | None:
        block = self._blocks.get(node)
        if block is not None:
            self._blocks.move_to_end(node)
        return block

    def put(self, node: Node, block: Buffer) -> None:
        previous = self._blocks.pop(node, None)
        self._bytes += len(block) - (len(previous) if previous is not None else 0)
        self._blocks[node] = block
        while self._bytes > self._max_bytes and len(self._blocks) > 1:
            _, oldest = self._blocks.popitem(last=False)
            self._bytes -= len(oldest)
