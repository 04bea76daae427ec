"""Samples: exact counts of executions that committed nothing, and what was said of the latest of each kind."""

import threading
import time
from collections.abc import Sequence

WRITTEN_AFTER_SECONDS = 1.0
"""How long a count waits until the next commit takes it along."""


class Samples:
    """Counts by handler and outcome. Bounded by the number of handlers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: dict[tuple[str, str], tuple[int, int, str]] = {}
        self._since = 0.0
        """When the first of these came, by the monotonic clock."""

    def add(self, handler: str, outcome: str, ran_us: int, what: str, count: int = 1) -> None:
        """Count one, or so many that were counted before."""
        with self._lock:
            if not self._counted:
                self._since = time.monotonic()
            before, ran, _ = self._counted.get((handler, outcome), (0, 0, ""))
            self._counted[handler, outcome] = (before + count, ran + ran_us, what)

    def are_due(self) -> bool:
        """Say whether any has waited for so long that the next commit is to take them along: others see only what is written."""
        return bool(self._counted) and time.monotonic() > self._since + WRITTEN_AFTER_SECONDS

    def taken(self) -> dict[tuple[str, str], tuple[int, int, str]]:
        """Return what was counted, and begin at zero."""
        with self._lock:
            counted, self._counted = self._counted, {}
        return counted

    def forget(self) -> None:
        """Forget what was said, and go on counting."""
        with self._lock:
            self._counted = {key: (count, ran, "") for key, (count, ran, _) in self._counted.items()}

    def all(self) -> Sequence[tuple[str, str, int, int, str]]:
        """Return (handler, outcome, count, microseconds in all, the latest)."""
        with self._lock:
            return [(*key, *counted) for key, counted in self._counted.items()]
