"""A clock that one sets and moves, and ids that one can predict: a `Source` for tests.

`app.open("memory:", source=Clock())` runs the real engine in a world that stands still until it is moved.
"""

import hashlib
import itertools
from datetime import UTC, datetime, timedelta

from happened.core.errors import Invalid
from happened.core.world import microseconds, moment

START = datetime(2026, 1, 1, tzinfo=UTC)
"""When a clock begins that was not told."""


class Clock:
    """Stands still until it is set or moved. Its ids are `clock-1`, `clock-2` and so on: give two clocks on one log two names."""

    def __init__(self, now: datetime = START, *, name: str = "clock") -> None:
        self._name = name
        self._ids = itertools.count(1)
        self._salts = itertools.count(1)
        self._us = _us(now)

    @property
    def now(self) -> datetime:
        """What the clock shows, in UTC."""
        return moment(self._us)

    def set(self, now: datetime) -> None:
        """Show another time, which needs a zone; an earlier one, too: clocks of real machines also jump back."""
        self._us = _us(now)

    def move(self, by: timedelta) -> datetime:
        """Move on, and return what the clock shows now."""
        self.set(self.now + by)
        return self.now

    def now_us(self) -> int:
        """Return the time in microseconds since 1970, UTC."""
        return self._us

    def new_id(self) -> str:
        """Return the next id."""
        return f"{self._name}-{next(self._ids)}"

    def salt(self, count: int) -> bytes:
        """Return the next bytes: the same in every run, and other ones at every call."""
        return hashlib.shake_128(f"{self._name}:{next(self._salts)}".encode()).digest(count)

    def owner(self) -> str:
        """Return a name in the form that a machine's has; no machine takes it for one of its own processes."""
        return f"testing:0:{self._name}"

    def gone(self, owner: str) -> bool:
        """Say no: what is tested under a set clock is never known to have ended."""
        return False


def _us(now: datetime) -> int:
    if now.tzinfo is None:
        raise Invalid(f"the clock can't show {now.isoformat()}: a time needs a zone, as in datetime(..., tzinfo=UTC)")
    return microseconds(now)
