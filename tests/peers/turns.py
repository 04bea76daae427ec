"""What both recorders have in common: their log, of which several handles are open, and where theirs begins in it."""

from collections.abc import Sequence
from itertools import cycle

import happened as h

PATIENCE_SECONDS = 0.1
"""So often somebody who waits looks whether he was stopped."""


class InTurn:
    """A log, each time by another of those who have it open. Its first position is the one behind `start`."""

    def __init__(self, logs: Sequence[h.Log], start: int = 0) -> None:
        self._turns = cycle(logs)
        self.start = start

    @property
    def log(self) -> h.Log:
        """The log, by who is next."""
        return next(self._turns)
