"""Where a log ends, for all threads of a process that wait until it has more: one of them looks for all."""

import threading
import time
from collections.abc import Callable

from happened.core.waiting import within

SOONER = 5
"""Where others have recorded something it is looked again so many times sooner, and then twice as late each time: who records much goes on."""
OVERDUE_SECONDS = 1.0
"""So long after a look was due others look, too: an interrupt may end who looks for all before he can say so."""


class Looking:
    """The last look at the end of a log, and those who wait for more.

    A log has many who wait: a thread for each handler, and for the views. They are told when this process commits, or hears that others have, which
    makes `heard` return more. Nobody knows whether that is all, so one of them looks every so many seconds, and wakes the others where there is more.
    """

    def __init__(
        self,
        look: Callable[[], int],
        heard: Callable[[], int],
        grown: threading.Condition,
        seconds: float,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self._look = look
        self._heard = heard
        self._grown = grown
        self._seconds = self._pause = seconds
        self._begin = begin
        """Called by who is going to wait."""
        self._one = threading.RLock()
        """Held by who looks. Of a kind that only its holder can release."""
        self._last = 0
        self._looked_at = -float("inf")
        self._looked_for = -1
        """What was heard before the last look."""
        self._led = False
        """One of those who wait looks for all."""
        self.waiting = 0
        """How many wait."""
        self.asked = False
        """Somebody has waited, and may do so again."""

    def wait(self, after: int, seconds: float, is_closed: Callable[[], bool]) -> int:
        """Wait until something lies after a position; return the last position, as it was at most so many seconds ago as are between two looks.

        It is of before nothing that was heard when this was called, however short the wait.
        """
        deadline = time.monotonic() + within(seconds)
        self.asked = True
        leads = False
        try:
            while True:
                heard = self._heard()
                last = self._looked(after, heard, deadline)
                left = deadline - time.monotonic()
                if last > after or left <= 0 or is_closed():
                    return last
                self._begin()
                with self._grown:
                    self.waiting += 1  # before the look at what is heard: who changes that looks here after it
                    leads = leads or not self._led
                    self._led = True
                    try:
                        self._grown.wait_for(
                            lambda: is_closed() or self._heard() != heard or self._last > after or not self._led,  # noqa: B023 - called in this turn only
                            min(self._due_in() + (0.0 if leads else OVERDUE_SECONDS), left),
                        )
                    finally:
                        self.waiting -= 1
        finally:
            with self._grown:
                self._led = self._led and not leads
                if not self._led:
                    self._grown.notify()  # another one looks from now on

    def found(self, last: int, heard: int) -> None:
        """Take what a commit of this process has seen, as the last that was heard, for a look, and wake who waits: others had recorded no more by then."""
        with self._grown:
            if last > self._last:
                self._last, self._looked_for, self._looked_at = last, heard, time.monotonic()
            if self.waiting:
                self._grown.notify_all()

    def _looked(self, after: int, heard: int, deadline: float) -> int:
        """Look, unless somebody has of late, and nothing was heard since. Who looks at the moment is waited for: to the end, where something was heard."""
        if self._is_known(after, heard):
            return self._last
        left = max(0.0, deadline - time.monotonic()) if self._looked_for >= heard else -1
        try:
            if self._one.acquire(timeout=left) and not self._is_known(after, heard):
                known, heard = self._looked_for, self._heard()
                last = self._look()
                with self._grown:
                    if self._looked_for == known:  # no commit has said more meanwhile
                        before, self._last = self._last, last
                        self._pause = self._seconds / SOONER if last > before else min(2 * self._pause, self._seconds)
                        self._looked_for, self._looked_at = heard, time.monotonic()
                        if last > before:
                            self._grown.notify_all()
        finally:  # an interrupt may come as soon as it is acquired
            try:  # noqa: SIM105 - no function is called on this way
                self._one.release()
            except RuntimeError:  # it was not acquired
                pass
        return self._last

    def _is_known(self, after: int, heard: int) -> bool:
        return self._due_in() > 0 and (self._last > after or self._looked_for >= heard)

    def _due_in(self) -> float:
        return max(0.0, self._looked_at + self._pause - time.monotonic())
