"""Making the `Link` of an interface: the tables of `mcfs.serve`, joined."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from mcfs.protocol.ids import Host
from mcfs.serve.announcer import Announcer
from mcfs.serve.carousel import MIN_REPAIR, Carousel
from mcfs.serve.link import Link
from mcfs.serve.payload import PayloadCache
from mcfs.serve.querier import Querier, Timers
from mcfs.serve.schedule import RANDOM_REPAIR_START, Scheduler
from mcfs.serve.senders import Senders
from mcfs.serve.tables import table_maker
from mcfs.serve.timedfilter import SECRET_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcfs.net.interfaces import Interface
    from mcfs.net.offer import Offer
    from mcfs.net.settings import ServerSettings
    from mcfs.serve.probe import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Links:
    """What all links of a server have in common."""

    store: Store
    offer: Offer
    settings: ServerSettings
    clock: Callable[[], float]
    payloads: PayloadCache = field(default_factory=PayloadCache)
    rng: Random = field(default_factory=Random)
    secret: bytes = field(default_factory=partial(secrets.token_bytes, SECRET_SIZE), repr=False)
    """For the listener table: hosts must not know which of them share a place there."""

    def make(self, interface: Interface, rate: int) -> Link:
        """A link without listeners that knows all shares; `rate` in bits per second."""
        settings, now = self.settings, self.clock()
        address = Host(interface.link_local or bytes(16))
        timers = Timers(query_interval=settings.query_interval)
        link = Link(
            resolver=self.store,
            scheduler=self._scheduler(rate),
            announcer=Announcer(self.offer.catalogue),
            querier=Querier(address, now=now, rng=self.rng, mode=settings.querier, timers=timers),
            senders=Senders(address, now=now),
            warn=lambda text: log.warning("%s: %s", interface.name, text),
            own_address=address,
            make_table=table_maker(settings.listeners, secret=self.secret, size=settings.listeners_size),
            carousel=self._carousel(rate) if settings.always else None,
            proxies=settings.proxies,
        )
        link.set_addresses(address, interface.addresses, now=now)
        self.offer.publish(link, now=now)
        return link

    def _scheduler(self, rate: int) -> Scheduler:
        return Scheduler(
            rate=rate,
            payloads=self.payloads,
            max_symbol_size=self.settings.symbol_size,
            repair_start=lambda: self.rng.randrange(RANDOM_REPAIR_START),
            min_share=MIN_REPAIR if self.settings.always else 0.0,
            proxies=self.settings.proxies,
        )

    def _carousel(self, rate: int) -> Carousel:
        return Carousel(
            contents=self.store.contents,
            group=self.store.group,
            resolve=self.store.resolve,
            rate=rate,
            max_symbol_size=self.settings.symbol_size,
        )
