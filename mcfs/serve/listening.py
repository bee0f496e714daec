"""What a listener table is, whichever kind, and what the sender knows that one may ask it.

Two kinds do the same for `Link`: `membership.Membership` is exact and the default, `bloom.BloomMembership` has a fixed
size. docs/design.md, "The listener table", says what each costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from mcfs.protocol.ids import Group, Host
    from mcfs.protocol.mld import RawRecord
    from mcfs.serve.membership import Counters, Event

Kind = Literal["exact", "bloom"]
KINDS: Final[tuple[Kind, ...]] = ("exact", "bloom")

DEFAULT_LISTENERS: Final = 65_536
"""Of a Bloom table: 1,024 clients with 64 groups each; 4.7 MB."""
MIN_LISTENERS: Final = 1024
MAX_LISTENERS: Final = 10_000_000
"""720 MB."""


class Known(Protocol):
    """Whom the sender serves now: its own tables, which follow the events of the listener table."""

    def listeners(self, group: Group) -> Collection[Host]: ...

    def groups(self) -> Iterable[tuple[Group, Collection[Host]]]:
        """Every group that has listeners."""
        ...


class ListenerTable(Protocol):
    """Who listens on one interface. The methods are those of `Membership`; its docstrings hold for every kind.

    Whoever calls must apply the events of one call before the next.
    """

    @property
    def counters(self) -> Counters: ...

    def __contains__(self, group: Group, /) -> bool: ...

    @property
    def host_count(self) -> int: ...

    @property
    def listener_count(self) -> int: ...

    @property
    def listening_interval(self) -> float: ...

    def set_own_sources(self, own_sources: frozenset[bytes]) -> None: ...

    @property
    def can_list(self) -> bool:
        """Whether `groups` says what everybody listens to."""
        ...

    def sync(self, *, now: float) -> None:
        """The sender has dropped listeners by itself: the table need not remember them, if it asks the sender."""
        ...

    def groups(self) -> list[Group]:
        """Those that somebody listens to; none if the table cannot tell."""
        ...

    def listeners(self, group: Group) -> Collection[Host]: ...

    def is_suppressed(self, now: float) -> bool: ...

    def set_timers(self, robustness: int, query_interval: float, response_interval: float) -> None: ...

    def report(self, host: Host, records: Iterable[RawRecord], *, now: float) -> list[Event]: ...

    def report_v1(self, host: Host, group: Group, *, now: float) -> list[Event]: ...

    def done_v1(self, host: Host, group: Group, *, now: float) -> list[Event]: ...

    def suppression_seen(self, *, now: float) -> None: ...

    def query_sent(self, group: Group, *, now: float) -> None: ...

    def admit(self, host: Host, group: Group, *, now: float) -> bool:
        """Somebody was refreshed whom the sender does not know: whether to treat it as one who joins."""
        ...

    def expire(self, *, now: float) -> list[Event]: ...

    def next_timeout(self) -> float | None: ...


class TableMaker(Protocol):
    """Makes the table of one interface."""

    def __call__(
        self, may_accept: Callable[[Group], bool], known: Known, max_groups_per_host: int
    ) -> ListenerTable: ...
