"""Whether it is worth trying to write: one warning, then tries that become rarer. Counts attempts, not time."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 64
_LONGEST_PAUSE: Final = 4096
"""Stores let pass between two tries on a disk that stays full or broken: 4 GiB at the default block size."""


class Health:
    """Serving without keeping, and back."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pause = 0
        self._skip = 0
        self._warned: set[int | None] = set()

    @property
    def keeping(self) -> bool:
        return not self._pause

    def may_try(self) -> bool:
        """Whether this store is to be tried."""
        if not self._skip:
            return True
        self._skip -= 1
        return False

    def hurry(self) -> None:
        """The next store is to be tried, however many were to be let pass."""
        self._skip = 0

    def failed(self, error: OSError) -> None:
        if error.errno == errno.EFBIG:
            return  # one object too large for this file system; the others are not
        self._pause = min(self._pause * 2, _LONGEST_PAUSE) or _FIRST_PAUSE
        self._skip = self._pause
        # Once for each kind of failure in a process, or a disk that is full now and then fills the log as well.
        if error.errno not in self._warned:
            self._warned.add(error.errno)
            logger.warning("cache in %s cannot be written: serving without keeping (%s)", self._directory, error)

    def worked(self) -> None:
        if self._pause:
            self._pause = 0
            logger.info("cache in %s can be written again", self._directory)
