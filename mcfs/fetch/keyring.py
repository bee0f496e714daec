"""The share keys that a client was given, and the control channels that each makes.

A channel belongs to one key or to none, so a datagram is tried with one key at most, whatever it says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcfs.protocol import addressing
from mcfs.protocol.seal import open_control_untrusted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcfs.protocol.ids import Group
    from mcfs.protocol.keys import ShareKeys


class Keyring:
    """:param keys: at most one for each share; what has none is heard as well, but for `channels(only_keyed=True)`"""

    def __init__(self, keys: Sequence[ShareKeys], scope: int) -> None:
        self._keys = tuple(dict.fromkeys(keys))
        self._scope = scope
        self._of_group: dict[Group, ShareKeys] = {}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def catalogues(self) -> list[Group]:
        """The channels in which all shares are announced: that of those without a key, and one for each key."""
        return [addressing.catalogue_group(self._scope), *map(self._catalogue, self._keys)]

    def channels(self, share: bytes, *, only_keyed: bool) -> list[Group]:
        """Where a share may be announced of which nothing was heard."""
        open_ones = () if only_keyed and self._keys else (None,)
        return [self.channel(share, keys) for keys in (*open_ones, *self._keys)]

    def channel(self, share: bytes, keys: ShareKeys | None) -> Group:
        """The channel of a share that has this key."""
        return self._noted(addressing.share_group(share, self._scope, keys), keys)

    def keys_of(self, group: Group) -> ShareKeys | None:
        """The key that a control channel belongs to."""
        return self._of_group.get(group)

    def forget(self, group: Group) -> None:
        self._of_group.pop(group, None)

    def open_untrusted(self, group: Group, datagram: bytes) -> bytes:
        """A control datagram without its seal, if it must have one. Raises BadDatagram."""
        keys = self._of_group.get(group)
        return datagram if keys is None else open_control_untrusted(datagram, keys, group)

    def _catalogue(self, keys: ShareKeys) -> Group:
        return self._noted(addressing.catalogue_group(self._scope, keys), keys)

    def _noted(self, group: Group, keys: ShareKeys | None) -> Group:
        if keys is not None:
            self._of_group[group] = keys
        return group
