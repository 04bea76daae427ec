"""Deciding: whether a thread is running code of the app from which nothing is recorded: a decider, `evolve`, an upcast.

What such code records would wait for itself under the lock of the log, or be recorded once more whenever the log is read.
"""

import threading

here = threading.local()
"""Of this thread. Whoever decides many at once sets it by hand: entering and leaving would be a call each."""


def inside_decider() -> bool:
    """Say whether this thread is running a decider, from which nothing can be dispatched."""
    return getattr(here, "deciding", False)


class deciding:  # noqa: N801 - it is used as a function is
    """Mark this thread as running a decider. A generator as context manager would cost a microsecond more, and each run pays for it."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        """Begin; inside another one, too."""
        self._before = inside_decider()
        here.deciding = True

    def __exit__(self, *_: object) -> None:
        """Be again what it was before."""
        here.deciding = self._before
