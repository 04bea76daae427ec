"""Workers: threads that go on through the log, each while this process holds its lease.

How far a worker has come is a note of the log itself, not of the shelf: lost, everything would be done twice. It changes in the commit that records what
came of the work, as a compare-and-set on position and owner's epoch, so nothing is done twice, and an owner that lost its lease can't write.
"""

import contextlib
import functools
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from happened.core.errors import Closed, Diverged, Error, OutcomeUnknown, Overloaded, StoreFailed
from happened.core.store import LOG_WORK, Commit, Engine
from happened.log.held import told
from happened.log.lease import Leases
from happened.log.log import EVERYTHING_SEEN, Log
from happened.log.row import encode
from happened.log.slices import NOTE, Progress, handler_of, progress_of
from happened.log.writer import CLOSE_SECONDS_MAX, Batch, Job

FAILING = "failing/"
NOTED_AFTER_SECONDS = 2.0
"""How long something must keep a worker from its work before that is noted: most trouble is over by then."""
IDLE_SECONDS = 0.05
"""How long a step may wait for something to do."""
GLANCE_SECONDS = 1e-9
"""So short a wait is over at once, and lets a store answer by what it knows."""
RETRY_SECONDS = 0.5
QUIET_SECONDS = 1.0
"""How long nothing must have been recorded until it is noted what workers have passed."""
LATEST_SECONDS = 10.0
"""How old a note of how far a worker has come may be."""
TROUBLE = (Closed, Diverged, OutcomeUnknown, Overloaded, StoreFailed)
"""Errors of the world, not of what is being done: it is done again, and nothing is held."""


def outcome_of(error: BaseException) -> str:
    """Return as what a step is counted that came to nothing: trouble of the world is no failure of the handler."""
    return "trouble" if isinstance(error, TROUBLE) else "failed"


class Envelope(NamedTuple):
    """What a command says that the log itself has caused, beside its body."""

    id: str
    causation: str
    correlation: str | None
    actor: str
    now: int
    """What `world.now` says to its decider, in microseconds since 1970."""
    depth: int


SUBMIT_SECONDS_MAX = 10
"""How long a worker waits for its commit; then it begins anew."""


class Failing(msgspec.Struct, frozen=True):
    """A worker that something keeps from its work for more than a moment: a note of the log, so that every process sees it."""

    worker: str
    error: str
    since: int
    """Microseconds since 1970."""


def all_failing(engine: Engine) -> list[Failing]:
    """Return the workers that can't do their work."""
    return [msgspec.json.decode(body, type=Failing) for _, body in sorted(engine.notes(FAILING).items())]


class Trouble:
    """What keeps a worker from its work, if anything does. What lasts is noted, until it is over."""

    def __init__(self, log: Log, name: str) -> None:
        self.error: str | None = None
        self._log = log
        self._note = FAILING + name
        self._name = name
        self._since = (0.0, 0)
        self._noted = True
        """There may be a note: of a process before this one."""

    def met(self, error: BaseException) -> None:
        """Hear of an error. Trouble of the store that keeps the note from being written is told by that store itself."""
        if self.error is None:
            self._since = time.monotonic(), self._log.source.now_us()
        first, self.error = self.error is None, told(error)
        if first or time.monotonic() < self._since[0] + NOTED_AFTER_SECONDS:
            return
        body = encode(Failing(self._name, self.error, self._since[1])).decode()
        with contextlib.suppress(Error):
            if self._log.engine.notes(self._note).get(self._note) != body:
                self._log.engine.append(lambda _: Commit(notes={self._note: body}), EVERYTHING_SEEN)
            self._noted = True

    def left(self) -> None:
        """Hear that the work is another's: what that notes of its trouble may still be there when it comes back."""
        self.error, self._noted = None, True

    def over(self) -> None:
        """Hear that the work goes on."""
        self.error = None
        if self._noted:
            with contextlib.suppress(Error):
                if self._log.engine.notes(self._note):
                    self._log.engine.append(lambda _: Commit(notes={self._note: None}), EVERYTHING_SEEN)
                self._noted = False


class Worker:
    """One thread. `begin` is called with the epoch whenever the lease was won, and after trouble; then `step` again and again, which waits if it must.

    The lease has the worker's name. Without leases `begin` and `step` look for themselves what they may do. `end` is called once, where it is stopped in
    the midst of its work.
    """

    def __init__(
        self,
        log: Log,
        leases: Leases | None,
        name: str,
        *,
        begin: Callable[[int], None],
        step: Callable[[], None],
        end: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._counted_as = name if "/" in name else LOG_WORK + name
        self._trouble = Trouble(log, name)
        self._log = log
        self._leases = leases
        self._begin = begin
        self._step = step
        self._end = end
        self._stop = threading.Event()
        self._stop_until = 0.0
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"happened-{name}", daemon=True)

    @property
    def failure(self) -> str | None:
        """What keeps it from its work, if anything does: in this process, or in the one that has its lease."""
        if self._trouble.error is not None or self._leases is None or self._leases.epoch(self.name) is not None:
            return self._trouble.error
        return next((one.error for one in all_failing(self._log.engine) if one.worker == self.name), None)

    @property
    def stopping(self) -> bool:
        """Whether it is to end."""
        return self._stop.is_set()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Look now."""
        self._wake.set()

    def rest(self, seconds: float = IDLE_SECONDS) -> None:
        """Wait until it is woken, or told to end, or the time is over."""
        self._wake.wait(seconds)
        self._wake.clear()

    def end(self) -> None:
        """Tell it to end, and don't wait for it."""
        if not self._stop.is_set():
            self._stop_until = time.monotonic() + CLOSE_SECONDS_MAX
        self._stop.set()
        self._wake.set()

    def stop(self) -> None:
        """End after the step that is being done. Bounded: what hangs is left behind, and can't record anything once the log is closed."""
        self.end()
        if self._thread.is_alive():
            self._thread.join(max(0.0, self._stop_until - time.monotonic()))

    def _run(self) -> None:
        began: int | None = None
        while not self._stop.is_set():
            epoch = self._leases.epoch(self.name) if self._leases is not None else 0
            if epoch is None:
                began = None
                self._trouble.left()
                self.rest()
                continue
            try:
                if epoch != began:
                    self._begin(epoch)
                    began = epoch
                self._step()
                self._trouble.over()
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is seen and counted, and the worker begins anew: nobody else has its lease
                if isinstance(error, Closed) and self._is_closed():
                    return
                self._trouble.met(error)
                self._log.engine.sample(self._counted_as, outcome_of(error), 0, told(error))
                began = None
                self._stop.wait(RETRY_SECONDS)
        if began is not None:
            with contextlib.suppress(Error):  # it is done again from where that is noted
                self._end()

    def _is_closed(self) -> bool:
        """Say whether it is this log that is closed: a handler may have met another one that is."""
        try:
            self._log.engine.notes(NOTE + self.name)
        except Closed:
            return True
        return False


class Pauses:
    """Says when those are to note how far they have come that had nothing to record: whoever looks from elsewhere sees from that that they are not behind.

    Once nothing was recorded for a moment, and now and then where something always is: so it costs no commit for each event.
    """

    def __init__(self) -> None:
        self._head = -1
        self._moved_at = self._taken_at = time.monotonic()

    def is_one(self, head: int) -> bool:
        """Say whether now is the time, where the log ends at `head`."""
        now = time.monotonic()
        if head != self._head:
            self._head, self._moved_at = head, now
        if now < self._moved_at + QUIET_SECONDS and now < self._taken_at + LATEST_SECONDS:
            return False
        self._taken_at = now
        return True


class Advance(Job):
    """What a worker has done, to be recorded in one commit with how far it has come; nothing of it where another owner has come further.

    `add` puts rows and notes into the batch. What it raises takes back what it has put there.
    """

    def __init__(self, name: str, before: Progress | None, after: Progress, add: Callable[[Batch], None] = lambda _batch: None) -> None:
        super().__init__(f"{name}:{after.position}")
        self.name = name
        self.before = before
        self.after = after
        self.add = add

    def draft(self, batch: Batch) -> None:
        """Compare, add, set."""
        note = NOTE + self.name
        noted = batch.noted(note)
        before = encode(self.before).decode() if self.before is not None else None
        if noted != before:
            raise Diverged(f"`{self.name}` has another owner now: it has come to {noted}, not to {before}", worker=self.name)
        mark = batch.mark()
        try:
            self.add(batch)
        except BaseException:
            batch.back_to(mark)
            raise
        batch.kept[note] = encode(self.after).decode()


class Course:
    """How far a worker has come: noted with what it records, and by itself only now and then, since what there was nothing to do for is soon read again."""

    def __init__(self, log: Log, name: str) -> None:
        self._log = log
        self._name = name
        self.position = 0
        """Up to where everything is done, whether that is noted or not."""
        self.progress = Progress(0, 0)
        """As it is noted."""

    def claim(self, epoch: int, *, start: int) -> None:
        """Go on from where the worker has come to, of whichever process, as the owner of an epoch."""
        self.progress = claimed(self._log, self._name, epoch, start=start)
        self.position = self.progress.position

    def record(
        self, position: int, add: Callable[[Batch], None] = lambda _batch: None, *, own: bool = False, began: int | None = None
    ) -> None:
        """Record what came of the records up to a position, with how far that is. With `own`, what it adds itself counts as done where it follows at once.

        `began` says that the work begins anew from there.
        """
        before = self.progress
        after = msgspec.structs.replace(before, position=position, began=before.began if began is None else began)
        advance = Advance(self._name, before, after, add)
        if own:
            advance.add = functools.partial(self._add_own, advance, add)
        self._log.writer.submit(advance, SUBMIT_SECONDS_MAX)
        self.progress = advance.after
        self.position = advance.after.position

    @property
    def reached(self) -> int:
        """Up to where everything is done by whichever process."""
        noted = progress_of(self._log.engine, self._name)
        return max(self.position, noted.position if noted is not None else 0)

    def note(self) -> None:
        """Note how far it is, if that is not noted."""
        if self.position != self.progress.position:
            self.record(self.position)

    @staticmethod
    def _add_own(advance: Advance, add: Callable[[Batch], None], batch: Batch) -> None:
        after = advance.after
        follows = batch.head.position == after.position
        add(batch)
        if follows:
            advance.after = msgspec.structs.replace(after, position=batch.head.position)


def claimed(log: Log, name: str, epoch: int, *, start: int) -> Progress:
    """Claim a worker's progress for an epoch, so that who had it before can't write any more; one that never began is begun at `start`. Return it."""
    while True:
        before = progress_of(log.engine, name)
        if before is None and handler_of(name) != name:
            raise StoreFailed(f"`{name}` was joined with what lies beside it", worker=name)
        after = msgspec.structs.replace(before, epoch=epoch) if before is not None else Progress(start, epoch, start)
        if before is not None and before.epoch > epoch:
            raise StoreFailed(f"`{name}` is another process's by now", worker=name)
        if after != before:
            try:
                log.writer.submit(Advance(name, before, after), SUBMIT_SECONDS_MAX)
            except Diverged:
                if progress_of(log.engine, name) != before:  # it was begun, or noted for the last time, just now: look again
                    continue
                raise
        return after


def begin_at(batch: Batch, name: str, position: int) -> None:
    """Say in a batch from where on a worker works that never began."""
    note = NOTE + name
    if batch.noted(note) is None:
        batch.notes[note] = encode(Progress(position, 0, position)).decode()


def glance(log: Log) -> int:
    """Return where a log ended at the last look of whoever waits, which may be some milliseconds old: for those who look again and again."""
    return log.engine.wait(EVERYTHING_SEEN, GLANCE_SECONDS)
