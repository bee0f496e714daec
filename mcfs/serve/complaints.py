"""Saying what goes wrong again and again: once, and then how often."""

from __future__ import annotations

from typing import Final

INTERVAL: Final = 60.0
"""Seconds between two lines. A reader of a file that has changed may ask for thousands of blocks that are gone."""


class Complaints:
    """Lets one line through, and another one not before INTERVAL, which counts those between."""

    def __init__(self) -> None:
        self._not_before = float("-inf")
        self._held = 0

    def line(self, text: str, *, now: float) -> str | None:
        """What to say now, None to say nothing."""
        if now < self._not_before:
            self._held += 1
            return None
        self._not_before = now + INTERVAL
        held, self._held = self._held, 0
        return f"{text} ({held} more like this before)" if held else text
