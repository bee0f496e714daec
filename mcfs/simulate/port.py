"""A switch's port to a reader that is slower than the server, or a host that takes bytes slowly: a queue that drops."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Port:
    rate: float
    """Bits per second."""
    buffer: float
    """Bytes that wait at most; what comes then is dropped."""
    at_host: bool = False
    """Whether it is the reader itself that is slow: then it queues only what it has joined."""
    dropped: int = 0
    """Datagrams."""
    _bits: float = 0.0
    _updated: float = 0.0

    def take(self, count: int, bits_each: float, now: float) -> tuple[int, float]:
        """So many datagrams come. Returns how many of them, the first ones, go on, and when the last of these does."""
        self._bits = max(0.0, self._bits - self.rate * (now - self._updated))
        self._updated = now
        kept = min(count, max(0, int((self.buffer * 8 - self._bits) / bits_each)))
        self.dropped += count - kept
        self._bits += kept * bits_each
        return kept, now + self._bits / self.rate
