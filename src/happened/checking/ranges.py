"""Ranges: a whole log read with today's code, a range of positions at a time, in as many processes as there are cores to run on.

Each process opens the log for itself, as a guest, and says what came of a range in a line of JSON. What is told of all ranges in their order is to the
letter what one process finds. What a process could not do is done here, in order: so an error leaves as it would if there were only this one.

It is a program, too: what another process does. It ends when nobody listens to it any more.
"""

import importlib
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import IO, NamedTuple

import msgspec

from happened.checking.reading import Part, Readings, read_part, told
from happened.checking.visit import check_whose, seldom_collected
from happened.core.store import Engine
from happened.log.log import IDENTITY_NOTE, identity_in
from happened.log.names import Names
from happened.log.records import Reader
from happened.opening import open_engine
from happened.wiring import Wiring

POSITIONS_EACH = 100_000
"""A process is started for no fewer: it takes as long as to read some 50,000."""
RANGES_EACH = 4
"""Ranges for each process. More of them make that all end at the same time."""
JOIN_SECONDS = 0.1
"""How often another process says how far it is, and how often that is told when there is nothing left to read here."""

Range = tuple[int, int]
"""Rows that end after the first of these positions and up to the second."""


def readings_of(
    url: str, app: Wiring, progress: Callable[[int, int | None], None] = lambda _done, _all: None, *, named: str | None = None
) -> Readings:
    """Read a whole log as today's code of an app does, also one that can't be opened with it. `Invalid` for a log of another app.

    With `named` (`module:app`, where other processes can import it) large logs are read on all cores that this process may use. An interrupt ends them all.
    """
    with _opened(url, app) as (engine, reader), seldom_collected():
        head = engine.wait(1 << 62, 0)
        reader.names.learn(engine.notes)  # again: also the names of what came in the meantime
        known = frozenset(reader.names.by_number)
        processes = min(_cores(), head // POSITIONS_EACH) if named is not None else 1
        ranges = [(0, head)]
        found: dict[Range, Part] = {}
        if named is not None and processes > 1:
            size = -(-head // (processes * RANGES_EACH))
            ranges = [(after, min(after + size, head)) for after in range(0, head, size)]
            shared = _Shared(deque(ranges), dict.fromkeys(ranges, 0), found)
            _read_together(shared, processes - 1, _Job(url, named, sys.path), _Here(app, reader, engine, progress, head))
            if not all(known.issuperset(part.shapes) for part in found.values()):
                ranges = [(0, head)]  # a name is not noted: only who reads from the beginning knows it
        parts: list[Part] = []
        for asked in ranges:
            part = found.get(asked)
            if part is None:
                part = read_part(app, reader, engine, *asked, lambda position: progress(position, head))
            parts.append(part)
        return told(app, reader, parts)


class _Job(msgspec.Struct, frozen=True):
    """What another process is to know first."""

    url: str
    app: str
    path: Sequence[str]
    """Where it finds modules."""


class _Here(NamedTuple):
    """What this process reads with."""

    app: Wiring
    reader: Reader
    engine: Engine
    progress: Callable[[int, int | None], None]
    head: int


class _Shared:
    """Ranges, of which each process takes the next; and what came of them."""

    def __init__(self, left: deque[Range], done: dict[Range, int], found: dict[Range, Part]) -> None:
        self._left = left
        self.done = done
        """How many positions of each range were read."""
        self.found = found

    def next(self) -> Range | None:
        """Take the first that nobody has taken."""
        try:
            return self._left.popleft()
        except IndexError:
            return None

    def finish(self, asked: Range, part: Part) -> None:
        """Keep what came of one."""
        self.found[asked] = part
        self.done[asked] = asked[1] - asked[0]

    def stop(self) -> None:
        """Give out no more: one could not be read. Those before it have been taken."""
        self._left.clear()


def _read_together(shared: _Shared, others: int, job: _Job, here: _Here) -> None:
    """Read all ranges, here and in other processes; those that could not be read are left out, and so may be what follows them."""
    elsewhere: list[_Elsewhere] = []

    def told_so_far() -> None:
        here.progress(sum(shared.done.values()), here.head)

    try:
        while len(elsewhere) < others:
            elsewhere.append(_Elsewhere(job, shared))
        while (asked := shared.next()) is not None:

            def read(position: int, asked: Range = asked) -> None:
                shared.done[asked] = position - asked[0]
                told_so_far()

            try:
                shared.finish(asked, read_part(here.app, here.reader, here.engine, *asked, read))
            except Exception:  # noqa: BLE001 - it is read again in order, and raises that, unless one before it does
                shared.stop()
        for one in elsewhere:
            while one.busy(JOIN_SECONDS):
                told_so_far()
        told_so_far()
    finally:
        for one in elsewhere:
            one.end()


class _Elsewhere:
    """A process that reads ranges, and the thread that gives them to it."""

    def __init__(self, job: _Job, shared: _Shared) -> None:
        self._shared = shared
        self._process = subprocess.Popen(  # noqa: S603 - it starts this module, and takes nothing from outside
            [sys.executable, *["-O"] * sys.flags.optimize, "-m", "happened.checking.ranges"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what failed there is tried here, and says it here
        )
        self._thread = threading.Thread(target=self._give, args=(job,), name="happened ranges", daemon=True)
        self._thread.start()

    def busy(self, wait_seconds: float) -> bool:
        """Wait for it to be done with its ranges, and say whether it is not yet."""
        self._thread.join(wait_seconds)
        return self._thread.is_alive()

    def end(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._thread.join()
        self._process.wait()

    def _give(self, job: _Job) -> None:
        shared, asks, answers = self._shared, self._process.stdin, self._process.stdout
        assert asks is not None, "standard input is a pipe"
        assert answers is not None, "standard output is a pipe"
        try:
            with answers, asks:
                _say(asks, job)
                while (asked := shared.next()) is not None:
                    _say(asks, asked)
                    for line in answers:
                        said = _decode_answer(line)
                        if isinstance(said, Part):
                            shared.finish(asked, said)
                            break
                        shared.done[asked] = said - asked[0]
                    if asked not in shared.found:
                        shared.stop()
        except (OSError, msgspec.MsgspecError):  # it has ended, perhaps in the middle of a line
            shared.stop()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _opened(url: str, app: Wiring) -> Generator[tuple[Engine, Reader]]:
    engine = open_engine(url)
    try:
        identity = identity_in(engine.notes(IDENTITY_NOTE))
        check_whose(identity.app if identity is not None else "", app)
        reader = Reader(Names(), [*app.events, *app.handlers], app.called, app.lifts)
        reader.names.learn(engine.notes)
        yield engine, reader
    finally:
        engine.close()


# --- in another process

_decode_answer = msgspec.json.Decoder(int | Part).decode


def _say(to: IO[bytes], what: object) -> None:
    to.write(msgspec.json.encode(what) + b"\n")
    to.flush()


def main() -> None:
    """Read the ranges that standard input names, and say on standard output what comes of them."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what an app prints as it is imported is no answer
        job = msgspec.json.decode(sys.stdin.buffer.readline(), type=_Job)
        sys.path[:] = job.path
        module, _, name = job.app.partition(":")
        app: Wiring = getattr(importlib.import_module(module), name)
        with _opened(job.url, app) as (engine, reader), seldom_collected():
            for line in sys.stdin.buffer:
                after, until = msgspec.json.decode(line, type=Range)
                _say(answers, read_part(app, reader, engine, after, until, _now_and_then(lambda position: _say(answers, position))))


def _now_and_then(say: Callable[[int], None]) -> Callable[[int], None]:
    """Return a function that says how far it has come, and not for every page: who hears it reads, too, and would stop for each word."""
    due = time.monotonic() + JOIN_SECONDS

    def told(position: int) -> None:
        nonlocal due
        now = time.monotonic()
        if now >= due:
            due = now + JOIN_SECONDS
            say(position)

    return told


if __name__ == "__main__":
    main()
