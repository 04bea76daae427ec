"""Compacting: which rows of a log are packed away, when, and by itself in the background."""

import threading
from datetime import timedelta
from types import TracebackType
from typing import Self

from happened.core.errors import Closed, Error, Invalid
from happened.core.store import LOG_WORK, Engine, Packs, Parts, Row
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
STRETCHES, LOOKED_AT = 64, 4
"""What rows take is told from a few rows of each of so many stretches of the log."""
ROW_BYTES = 32
"""What a row takes beside its texts: its numbers, and its place in a page."""


def compact(
    log: Log,
    *,
    keep: int | None = None,
    older: timedelta | None = None,
    above: int | None = None,
    rewrite: bool = False,
    progress: Progress = lambda _done, _all: None,
) -> Parts:
    """Pack all records but the last `keep` (10,000 if nothing is said), only those that are `older`, and only so many that the rest takes `above` bytes.

    Returns what is packed then. What rows take is estimated, without their index. What is packed is read, found and verified as before, and takes about a sixth of its place; the newest row never is. It goes on in steps beside all who read
    and write, in any process; killed, it goes on with the next call. What becomes free is given back to the file system; in a file that was not made for
    that, and in PostgreSQL, only with `rewrite`, which stops others until the file or the table is written anew, and else it is used again. `Invalid` for a log that can't be packed, `Broken` for rows that were
    changed after they were recorded: up to those it is packed. Cost: about 60 µs a row.
    """
    engine = packing(log.engine)
    until = _until(log, engine, keep, older, above)
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
        raise Invalid("a log in a file, or in PostgreSQL, has cold parts: this one is in memory, or a branch")
    return engine


def _until(log: Log, engine: Packs, keep: int | None, older: timedelta | None, above: int | None) -> int:
    """Return up to where is to be packed, by all that is said."""
    _check(keep, older, above)
    head = log.head
    until = head - (keep if keep is not None else 0 if older is not None or above is not None else KEEP)
    if older is not None:
        until = min(until, log.position_at(moment(log.source.now_us()) - older))
    if above is not None:
        until = min(until, _beyond(log, engine.cold_until(), head, above))
    return max(until, 0)


def _beyond(log: Log, cold: int, head: int, above: int) -> int:
    """Return the position after which rows take so many bytes; where they take no more, that is the end of the cold part."""
    step = max((head - cold) // STRETCHES, 1)
    end, left = head, float(above)
    while end > cold:
        begin = max(end - step, cold)
        each = _bytes_each(log, begin, end)
        if each * (end - begin) > left:
            return end - int(left / each)
        left -= each * (end - begin)
        end = begin
    return cold


def _bytes_each(log: Log, after: int, until: int) -> float:
    """Return what a record takes in a stretch, by some rows from its middle on."""
    rows = next(iter(log.engine.read((after + until) // 2, rows_max=LOOKED_AT)))
    return sum(map(_bytes, rows)) / sum(row.count for row in rows)


def _bytes(row: Row) -> int:
    texts = (row.head, row.input or "", row.records)
    return ROW_BYTES + len(row.salts) + len(row.digest) + sum(len(text.encode()) for text in texts)


def _check(keep: int | None, older: timedelta | None, above: int | None) -> None:
    if above is not None and above < 0:
        raise Invalid(f"`above` is {above}: it is a number of bytes, from 0 on", above=above)
    if keep is not None and keep < 0:
        raise Invalid(f"`keep` is {keep}: it is a number of records, from 0 on", keep=keep)
    if older is not None and older < timedelta(0):
        raise Invalid(f"`older` is {older}: it is a time that has passed", older=str(older))


class InBackground:
    """A thread that packs, as it comes, what is older than a time, and what is oldest where rows take more than so many bytes; between `with` and its end.

    One of both is enough. `Invalid` for a log that can't be packed, and where nothing is said.
    """

    def __init__(self, log: Log, *, older: timedelta | None = None, above: int | None = None) -> None:
        self._log = log
        self._engine = packing(log.engine)
        self._older = older
        self._above = above
        if older is None and above is None:
            raise Invalid("nothing says what is to be packed: give `older`, `above`, or both")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="happened-compact", daemon=True)
        _check(None, older, above)

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
                for older, above in ((self._older, None), (None, self._above)):
                    if older is not None or above is not None:
                        self._pack(older, above)
            except (_Ending, Closed):
                return
            except Error as error:  # it is tried again, and is seen in `happened stats`
                self._log.engine.sample(f"{LOG_WORK}compact", "failed", 0, str(error))
            if self._ending.wait(LOOK_SECONDS):
                return

    def _pack(self, older: timedelta | None, above: int | None) -> None:
        least = self._engine.cold_until() + WORTH_IT
        if self._log.head < least:
            return
        until = _until(self._log, self._engine, None, older, above)
        if until >= least:
            self._engine.compact(until, self._go_on, notes={KIND_COLD: RELEASE})

    def _go_on(self, _done: int, _all: int) -> None:
        if self._ending.is_set():
            raise _Ending


class _Ending(Exception):
    """Leaves the work between two steps."""
