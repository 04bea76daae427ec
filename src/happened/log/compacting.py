"""Compacting: which rows of a log are packed away, when, and by itself in the background."""

import threading
from datetime import timedelta
from types import TracebackType
from typing import Self

from happened.core.errors import Closed, Error, Invalid
from happened.core.store import Engine, Packs, Parts
from happened.core.world import moment
from happened.log.log import KIND_COLD, Log, Progress, place_of

RELEASE = "0.1.0"
"""The release that reads what is packed. One that does not says so, and does not open the log."""
KEEP = 10_000
"""Records at the end of a log that are not packed where nothing is said: they are read most."""
LOOK_SECONDS = 5.0
"""How often the background looks whether something is to be packed."""
WORTH_IT = 4_096
"""How many records must have come together until the background packs them."""


def compact(
    log: Log,
    *,
    keep: int | None = None,
    older: timedelta | None = None,
    rewrite: bool = False,
    progress: Progress = lambda _done, _all: None,
) -> Parts:
    """Pack all records but the last `keep` (10,000 if nothing is said), and only those that are `older`; return what is packed then.

    What is packed is read, found and verified as before, and takes a fifth of its place; the newest row never is. It goes on in steps beside all who read
    and write, in any process; killed, it goes on with the next call. What becomes free is given back to the file system, in a file that was not made for
    that only with `rewrite`, which stops writers until the file is written anew. `Invalid` for a log that can't be packed, `Broken` for rows that were
    changed after they were recorded: up to those it is packed. Cost: about 50 µs a row.
    """
    engine = packing(log.engine)
    until = _until(log, keep, older)
    engine.compact(until, progress, notes={KIND_COLD: RELEASE}, rewrite=rewrite)
    return engine.parts()


def unpack(log: Log, *, after: int = 0, progress: Progress = lambda _done, _all: None) -> Parts:
    """Put records that lie after a position back as they were, and some before it; return what is packed then. `Invalid` for a log that has no such part."""
    engine = packing(log.engine)
    engine.unpack(place_of(after), progress, notes=[KIND_COLD])
    return engine.parts()


def packing(engine: Engine) -> Packs:
    """Return a store as one that packs. `Invalid` for one that does not."""
    if not isinstance(engine, Packs):
        raise Invalid("only a log in a file has cold parts: this one is in memory")
    return engine


def _until(log: Log, keep: int | None, older: timedelta | None) -> int:
    if keep is not None and keep < 0:
        raise Invalid(f"`keep` is {keep}: it is a number of records, from 0 on", keep=keep)
    if older is not None and older < timedelta(0):
        raise Invalid(f"`older` is {older}: it is a time that has passed", older=str(older))
    until = log.head - (keep if keep is not None else 0 if older is not None else KEEP)
    if older is not None:
        until = min(until, log.position_at(moment(log.source.now_us()) - older))
    return max(until, 0)


class InBackground:
    """A thread that packs what is older than a time, or lies further back than so many records, as it comes; between `with` and its end."""

    def __init__(self, log: Log, *, keep: int | None = None, older: timedelta | None = None) -> None:
        self._log = log
        self._engine = packing(log.engine)
        self._keep = keep
        self._older = older
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="happened-compact", daemon=True)
        _until(log, keep, older)  # what is wrong is said here

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End after the step that is under way."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                if _until(self._log, self._keep, self._older) - self._engine.parts().cold >= WORTH_IT:
                    compact(self._log, keep=self._keep, older=self._older, progress=self._go_on)
            except (_Ending, Closed):
                return
            except Error as error:  # it is tried again, and is seen in `happened stats`
                self._log.engine.sample("compact", "failed", 0, str(error))
            if self._ending.wait(LOOK_SECONDS):
                return

    def _go_on(self, _done: int, _all: int) -> None:
        if self._ending.is_set():
            raise _Ending


class _Ending(Exception):
    """Leaves the work between two steps."""
