"""The writer: takes all that waits, decides it in order under the store's lock, commits it once, then answers every caller (group commit).

Who leads a batch depends on who waits. A lone caller commits in its own thread. Tasks of an event loop are committed at the end of the loop's turn, in the
loop. When callers pile up, a thread of the writer takes over and leads until the queue is empty; threads that it has answered it awaits for a moment, so
that they share the next commit, too. A hand-over between threads costs tens of microseconds in CPython, so it happens only where somebody would wait anyway.

A batch is decided on an overlay of the durable image. After the sync the overlay is merged; on failure it is dropped. Only the writer sees it.
"""

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol  # Any: events and results are of the caller's types

import msgspec

from happened.core.errors import Closed, Diverged, Error, Forked, Invalid, OutcomeUnknown, Overloaded
from happened.core.store import LOG_WORK, Ahead, Commit, Engine, Head, Row, Terms, Unseen
from happened.core.tags import term
from happened.core.waiting import within
from happened.core.world import Source
from happened.log.deciding import deciding, here
from happened.log.latest import Latest
from happened.log.names import Names, Wish
from happened.log.paths import counts_in
from happened.log.records import Reader
from happened.log.row import CONVERSATION, SAID_OF_ITSELF, SALT_BYTES, TOPOLOGY, Header, Sent, Written, decode_header, seal, taken_apart

SALTS_AHEAD = 256
PATIENCE_SECONDS = 0.02
"""The writer gives up on the store's lock so much earlier than its callers on the writer: then they hear what is known, that nothing was decided."""
LOCK_SECONDS_MAX = 10.0
"""How long to wait for the store's lock, to take in what others have recorded, where nobody says how long."""
WATCH_SECONDS = 0.25
"""How often an event loop looks for callers whose time is over; a wait that is shorter has a timer of its own."""
QUEUE_MAX = 10_000
"""Commands that may wait. Beyond, a caller hears `Overloaded` at once, and nothing is recorded."""
BATCH_MAX = 1_000
TOGETHER_MIN = 32
"""So many tasks are committed together at least, if they wait. Of more, half: those who were answered go on while the others are being committed."""
CLOSE_SECONDS_MAX = 10.0
"""How long `close` waits for a decision that has been taken."""
CLOSE_POLL_SECONDS = 0.001
"""How often it looks whether that has ended, where a caller decides it."""
GATHER_SECONDS_MAX = 0.002
"""How long the writer's thread waits at most until threads that were answered have come again, so that they share the next commit; no longer than the last one took."""
GATHER_AGAIN = 16
"""Where few come again in time, it waits only once in so many commits, to see whether that has changed."""
LOOP_SYNC_SECONDS_MAX = 0.0005
"""An event loop commits by itself only while a sync takes less; else the writer's thread does."""


class Draft(msgspec.Struct, frozen=True, gc=False):
    """What a job wants to record: one row's worth, without place and time."""

    header: Header
    asked: Written | None
    records: Sequence[Written]
    events: Sequence[tuple[int, Any, Any]]
    """(ordinal in the row, event, what the record says beside it) for the memory image."""
    tags: Sequence[str]
    names: Sequence[int]
    notes: dict[str, str | None]
    facts: Sequence[tuple[str, Sequence[str]]] = ()
    """(name, terms) of each record of a row of facts, for the conditions of those that come later in the batch."""


class Drafted(Protocol):
    """What is still asked of a draft once its row is in the batch."""

    @property
    def header(self) -> Header:
        """What its records share."""
        ...

    @property
    def events(self) -> Sequence[tuple[int, Any, Any]]:
        """As in a draft."""
        ...

    @property
    def facts(self) -> Sequence[tuple[str, Sequence[str]]]:
        """As in a draft."""
        ...


Happened = tuple[Row, Header, Sequence[tuple[int, object, Any]]]
"""A row, and its events: ordinal, event, what the record says beside it."""


class Overlay(Protocol):
    """What the memory image knows of the batch that is being decided."""

    def apply(self, row: Row, header: Header, events: Sequence[tuple[int, Any, Any]], *, strict: bool) -> None:
        """Let these events have happened, on the overlay. `strict`: what `evolve` raises is passed on, and none has happened."""
        ...

    def apply_facts(self, facts: Sequence[Happened]) -> None:
        """Let the facts of these rows have happened, whatever `evolve` makes of them."""
        ...

    def merge(self, position: int) -> None:
        """Take the batch for durable, up to this position."""
        ...

    def copy(self) -> "Overlay":
        """Return an overlay that has come to the same, and goes its own way from here."""
        ...


class Memory(Protocol):
    """The memory image, as the writer sees it."""

    guard: threading.RLock
    """Held from the first look at the log until the batch is merged."""
    position: int
    """Up to where rows have been taken in."""

    def forget(self) -> None:
        """Let go of all states: it is not known whether what a batch came to was merged."""
        ...

    def begin(self) -> Overlay:
        """Start a batch."""
        ...

    def catch_up(self, rows: Sequence[Row]) -> None:
        """Take in rows that others have recorded."""
        ...


_process = os.getpid()
"""Asked of the machine once, and again after a fork: it costs 0.3 µs, and every command and state asks for it."""


def _forked() -> None:
    global _process  # noqa: PLW0603 - a process has one number
    _process = os.getpid()


os.register_at_fork(after_in_child=_forked)


WAITING, TAKEN, DONE, WITHDRAWN = range(4)
"""What has become of a job."""


class Job:
    """Something that waits to be recorded. A subclass says what, in `draft`; the writer sets `position` and `row` or `error`."""

    __slots__ = ("_future", "_lock", "_loop", "deadline", "error", "id", "result", "row", "state", "taken_at")
    # No defaults in the class: reading or setting what the class has too takes the interpreter the long way, each time.

    def __init__(self, id: str) -> None:
        self.id = id
        self.state = WAITING
        self.row: Row | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.taken_at = 0.0
        self.deadline = 0.0
        """By `perf_counter`, as `taken_at` is."""
        self._lock: threading.Lock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._future: asyncio.Future[None] | None = None

    def again(self) -> None:
        """Make it a job that waits anew."""
        self.state = WAITING
        self.row = self.result = self.error = self._lock = self._loop = self._future = None

    def recorded(self, row: Row) -> None:
        """Hear that the row is durable, in the order of rows, before any later batch is decided."""

    def draft(self, batch: "Batch") -> Draft | None:
        """Say what to record, on what the batch has come to; `None`: nothing, `result` says why. What it raises is the caller's answer."""
        raise NotImplementedError

    def added(self, batch: "Batch", draft: Draft) -> Row:
        """Put what was drafted at the end of the batch."""
        try:
            return batch.add(draft)
        except Exception as error:
            self.not_added(batch, draft, error)
            raise

    def not_added(self, batch: "Batch", draft: Draft, error: Exception) -> None:
        """Hear that what was drafted can't be recorded. What it raised is the caller's answer."""

    def may_be_ahead(self) -> bool:
        """Say whether `draft` may be asked again: it looks at states and ids, and leaves nothing behind but its answer."""
        return False


class Batch:
    """What is being decided and recorded together, in one commit."""

    def __init__(self, writer: "Writer", unseen: Unseen, overlay: Overlay) -> None:
        self.overlay = overlay
        self.names = writer.names
        self.source = writer.source
        self.engine = writer.engine
        self.notes_of = unseen.notes
        self.before = self.head = unseen.head
        self.at = max(writer.source.now_us(), unseen.head.at)
        self.began = time.perf_counter()
        self.rows: list[Row] = []
        self.terms: list[Terms] = []
        self.notes: dict[str, str | None] = {}
        self.kept: dict[str, str | None] = {}
        """Notes that are kept whether anything is recorded or not."""
        self.ids: dict[str, Row] = {}
        self.added: list[tuple[Row, Drafted]] = []
        self.beside = 0
        """Rows that a job has added by itself."""
        self.salt = writer.salt
        self.instead: Sequence[Row] = ()
        """Rows of the log without the bodies that are to be erased."""

    @property
    def position(self) -> int:
        """The position that the next record will have."""
        return self.head.position + 1

    def row_with(self, id: str) -> Row | None:
        """Return the row that uses an id, in the log or in this batch."""
        if id in self.ids:
            return self.ids[id]
        return next((row for row, header in self._found(id) if header.id == id), None)

    def _found(self, id: str) -> Iterator[tuple[Row, Header]]:
        """Yield the rows of the log that may have to do with an id."""
        for position in self.engine.find_id(id):
            for rows in self.engine.read(position - 1, rows_max=1):
                if rows[0].position == position:
                    yield rows[0], decode_header(rows[0].head)
                break

    def noted(self, key: str) -> str | None:
        """Return a note as of here in the batch."""
        if key in self.kept:
            return self.kept[key]
        return self.notes[key] if key in self.notes else self.notes_of(key).get(key)

    def used(self, ids: Sequence[str]) -> frozenset[str]:
        """Return those of these ids that the log may know; `row_with` tells."""
        return self.engine.find_ids(ids) if ids else frozenset()

    def heard(self, causation: str) -> Sent | None:
        """Return what a caller's cause says of the flow, where this log knows it by then: which message was heard. Cost: a look at the index."""
        place, numbers = 0, self._numbers_of(causation)
        message, _, ordinal = causation.rpartition("#")
        if not numbers and message and ordinal.isdecimal():
            place, numbers = int(ordinal), self._numbers_of(message)
        return Sent(0, numbers[place]) if place < len(numbers) else None

    def _numbers_of(self, id: str) -> list[int]:
        """Return the numbers of the names of a message's records, in order: of one that was enqueued, those of its decision come behind what was asked."""
        row = self.row_with(id)
        if row is None:
            return []
        rows = [row]
        if decode_header(row.head).outcome == "pending":
            rows += [decision for decision, header in self._found(id) if header.decides == id]
            rows += [decision for decision, draft in self.added if draft.header.decides == id]
        return [record.number for one in rows for _, record in taken_apart(one)]

    def number(self, wish: Wish) -> int:
        """Return the number of a name; a new one is recorded in this batch, before what uses it."""
        number = self.names.number(wish)
        return self.declare([wish])[0] if number is None else number

    def declare(self, wishes: Sequence[Wish], *more: Written) -> list[int]:
        """Record names that are new, and other system records, in a row of their own; return the numbers of all."""
        records: list[Written] = []
        numbers: list[int] = []
        if any(self.names.number(wish) is None for wish in wishes):
            self.names.learn(self.notes_of)  # another process may have declared some that this one has not heard of
        for wish in wishes:
            number = self.names.number(wish)
            if number is None:
                number, record, key, body = self.names.add(wish)
                records.append(record)
                self.notes[key] = body
            numbers.append(number)
        if records or more:
            self.add(Draft(Header(), None, [*records, *more], (), (), [TOPOLOGY] if more else (), {}))
        return numbers

    def add(self, draft: Draft) -> Row:
        """Put a draft at the end of the batch, and let its events have happened."""
        head, header, asked = self.head, draft.header, draft.asked
        count = len(draft.records) if asked is None else len(draft.records) + 1
        position = head.position
        row = seal(head.digest, position + 1, self.at, header, asked, draft.records, self.salt(count))
        if draft.events:  # a fact has happened whatever `evolve` makes of it; what was decided must be such that it can be taken
            self.overlay.apply(row, header, draft.events, strict=not draft.facts)
        self.rows.append(row)
        self.added.append((row, draft))
        used = header.id
        counts = counts_in(header, asked.number if asked is not None else 0, draft.records)
        self.terms.append(Terms(found_by(header, draft.tags), used or header.decides, draft.names, counts))
        if draft.notes:
            self.notes.update(draft.notes)
            for key in self.kept.keys() & draft.notes.keys():  # the last word is this one
                del self.kept[key]
        self.head = Head(position + count, self.at, row.digest)
        if used is not None:
            self.ids[used] = row
        return row

    def add_facts(self, recorded: Sequence[tuple[Row, Drafted]], terms: Sequence[Terms]) -> None:
        """Put rows of one fact each at the end of the batch, which were sealed one after the other, and let their events have happened."""
        if not recorded:
            return
        rows = [row for row, _ in recorded]
        self.rows += rows
        self.added += recorded
        self.terms += terms
        self.head = Head(rows[-1].last, self.at, rows[-1].digest)
        self.beside += len(rows)
        self.overlay.apply_facts([(row, fact.header, fact.events) for row, fact in recorded])

    def mark(self) -> tuple[Any, ...]:
        """Return where the batch stands, to come back to. Costs a copy of what the batch has changed."""
        return len(self.rows), self.head, dict(self.notes), dict(self.kept), dict(self.ids), self.overlay.copy(), self.names.added

    def back_to(self, mark: tuple[Any, ...]) -> None:
        """Forget what came after a mark, and the names that were given since."""
        count, self.head, self.notes, self.kept, self.ids, self.overlay, added = mark
        self.names.dropped(added)
        del self.rows[count:], self.terms[count:], self.added[count:]

    def commit(self, *, unread: bool) -> Commit:
        """Return what there is to commit."""
        return Commit(self.rows, self.terms, {**self.notes, **self.kept}, self.instead, unread)


def found_by(header: Header, tags: Sequence[str]) -> Sequence[str]:
    """Return the terms that a row is found by: those of its events, and the conversation that it is of where that is another's."""
    correlation = header.correlation
    return tags if correlation is None else [term(CONVERSATION, correlation), *tags]


class Writer:
    """One for each process and log."""

    def __init__(
        self, engine: Engine, names: Names, reader: Reader, source: Source, memory: Memory, seen: int, *, guest: bool = False
    ) -> None:
        self.engine = engine
        self._ahead = engine if isinstance(engine, Ahead) else None
        self._guest = guest
        self.names = names
        self.source = source
        self.seen = seen
        self._reader = reader
        self._memory = memory
        self._queue: deque[Job] = deque()
        self._withdrawn = 0
        """How many were withdrawn since those were last taken out of the queue, or more."""
        self._mutex = threading.Lock()
        self._leading = self._closed = False
        self._under_lock = 0
        """The thread that decides, or takes in what others have recorded, under the lock of the log."""
        self._pid = os.getpid()
        self._taken: Sequence[Job] = ()
        """The batch that is being decided and committed."""
        self._scheduled: set[asyncio.AbstractEventLoop] = set()
        """Loops that commit at the end of their turn."""
        self._watched: set[asyncio.AbstractEventLoop] = set()
        """Loops that look now and then whether somebody has waited too long. Those that are closed are forgotten when another one comes."""
        self._salts = b""
        self._salted = 0
        """How many of them are used up."""
        self._wake = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._come_again = 1.0
        """Which part of the threads that were answered has come again in time, of late."""
        self._indexed_names = names.changes
        self.latest = Latest()
        self.forgetting: list[Callable[[], None]] = []
        """What else is to be done where bodies were erased."""
        self.commits = 0
        self.commands = 0

    # --- callers

    def submit(self, job: Job, wait_seconds_max: float) -> None:
        """Have a job decided and committed, and wait for it. Its `error` is raised.

        `Overloaded` if it was not taken in time: then it is withdrawn, as where an interrupt ends the waiting. `OutcomeUnknown` if it was taken and the
        time ran out.
        """
        if not self._handed_in((job,), wait_seconds_max):
            self._give_up(job)
        if job.error is not None:
            raise job.error

    def submit_all(self, jobs: Sequence[Job], wait_seconds_max: float) -> None:
        """Have jobs decided in their order, in as few commits as may be, and wait for all. Errors stay with each job."""
        if not self._handed_in(jobs, wait_seconds_max):
            for job in jobs:
                if not self._withdraw(job) and job.state != DONE:
                    job.error = job.error or _unknown(job, "the time to wait is over")

    def _handed_in(self, jobs: Sequence[Job], wait_seconds_max: float) -> bool:
        """Put jobs into the queue and wait for the last of them, leading where nobody does; return whether it was answered in time."""
        if os.getpid() != self._pid:
            self.check_process()
        if self._under_lock:
            self._check_not_inside()
        wait_seconds_max = within(wait_seconds_max)
        now = time.perf_counter()
        for job in jobs:
            job.taken_at = now
            job.deadline = now + wait_seconds_max
        last = jobs[-1]
        lead = False
        try:
            with self._mutex:
                if self._closed or len(self._queue) + len(jobs) > QUEUE_MAX:
                    self._check(len(jobs))
                self._queue.extend(jobs)
                if self._leading:
                    last._lock = threading.Lock()
                    last._lock.acquire()
                else:
                    lead = self._leading = True
            if lead:
                self._lead(last)
                return True
            return last._lock.acquire(timeout=wait_seconds_max)  # type: ignore[union-attr]  # who does not lead has a lock
        except Error:  # nothing of it was put into the queue
            raise
        except BaseException:  # an interrupt: of what was taken it only ends the waiting
            for job in jobs:
                self._withdraw(job)
            raise
        finally:
            if lead:
                with self._mutex:  # no function is called here: an interrupt may come where one begins or ends
                    if not self._queue:
                        lead = self._leading = False
                if lead:
                    self._pass_on()

    async def asubmit(self, job: Job, wait_seconds_max: float) -> None:
        """Have a job decided and committed at the end of the loop's turn, and await it. Cancellation withdraws it if it was not taken."""
        if os.getpid() != self._pid:
            self.check_process()
        loop = asyncio.get_running_loop()
        wait_seconds_max = within(wait_seconds_max)
        job._loop = loop
        job._future = future = loop.create_future()
        job.taken_at = now = time.perf_counter()
        job.deadline = now + wait_seconds_max
        with self._mutex:
            if self._closed or len(self._queue) >= QUEUE_MAX:
                self._check(1)
            self._queue.append(job)
            if not self._leading and loop not in self._scheduled:
                self._scheduled.add(loop)
                loop.call_soon(self._turn_ended, loop)
        if wait_seconds_max < WATCH_SECONDS:
            loop.call_later(wait_seconds_max, self._time_out, job)
        elif loop not in self._watched:
            self._begin_to_watch(loop)
        try:
            await future
        except asyncio.CancelledError:
            self._withdraw(job)
            raise
        if job.error is not None:
            raise job.error

    def salt(self, count: int) -> bytes:
        """Return unpredictable bytes for so many records. Called under the lock; drawn ahead, since asking the machine costs as much as a hundred of them."""
        start = self._salted
        self._salted = end = start + SALT_BYTES * count
        if end > len(self._salts):
            self._salts = self.source.salt(SALT_BYTES * max(count, SALTS_AHEAD))
            start, self._salted = 0, SALT_BYTES * count
        return self._salts[start : self._salted]

    def catch_up(self, until: int | None = None, *, wait_seconds_max: float | None = None) -> None:
        """Take in what other processes have recorded; nothing where all up to a position was taken in when the batch before this was merged.

        `Overloaded` where the log is not free in time, in this process or in another one. By default what this process is deciding is waited for.
        """
        self.check_process()
        self._check_not_inside()
        seconds = within(wait_seconds_max) if wait_seconds_max is not None else None
        began = time.perf_counter()

        def take_in(unseen: Unseen) -> Commit:
            self._take_in(unseen)
            return Commit()

        guard = self._memory.guard
        try:
            if not guard.acquire(timeout=-1 if seconds is None else seconds):
                raise Overloaded("the log is busy in this process")
            if until is not None and until <= self._memory.position:
                return
            left = LOCK_SECONDS_MAX if seconds is None else max(began + seconds - time.perf_counter(), 0.0)
            try:
                self.engine.append(self._marked(take_in), self.seen, wait_seconds_max=left)
            except BaseException as error:
                self._forget_after(error)
                raise
        finally:
            try:  # noqa: SIM105 - see `_commit`
                guard.release()
            except RuntimeError:
                pass

    def rehearse(self, job: Job) -> None:
        """Let a job draft what it would record, under the lock, and record nothing. What it raises is raised."""
        self.check_process()
        self._check_not_inside()

        def decide(unseen: Unseen) -> Commit:
            self._take_in(unseen)
            batch = Batch(self, unseen, self._memory.begin())
            with deciding():
                job.draft(batch)
            return Commit()

        with self._memory.guard:
            try:
                self.engine.append(self._marked(decide), self.seen)
            except BaseException as error:
                self._forget_after(error)
                raise
            finally:
                self.names.dropped()

    def alone(self, job: Job, wait_seconds_max: float) -> None:
        """Have a job decided and committed by itself: what it changes, no other decision of the same commit has been made on. Its `error` is raised."""
        self.check_process()
        self._check_not_inside()
        with self._mutex:
            self._check(1)
        self._commit([job], wait_seconds_max)
        if job.error is not None:
            raise job.error

    def close(self) -> None:
        """Refuse what comes from now on, and answer what waits: what was taken by its outcome, the rest with `Closed`."""
        with self._mutex:
            self._closed = True
            waiting, self._queue = list(self._queue), deque()
        self._refuse(waiting)
        until = time.monotonic() + CLOSE_SECONDS_MAX
        left: Sequence[Job] = ()
        if self._thread is not None:
            self._wake.release()
            self._thread.join(CLOSE_SECONDS_MAX)
            if self._thread.is_alive():
                left = self._taken
        if not left:  # else a caller leads: he hears by himself what comes of his own, and those who are awaited with it hear it from him
            left = [job for job in self._taken if job._future is not None]
            while any(job.state <= TAKEN for job in left) and time.monotonic() < until:
                time.sleep(CLOSE_POLL_SECONDS)
        self._refuse(left)  # a decider does not come to an end, or the lock is not free
        stuck = [job for job in left if job.state == TAKEN]
        self._fail(stuck, OutcomeUnknown(f"the log was closed, and its decision did not end within {CLOSE_SECONDS_MAX:g} s"))
        self._answer(stuck)

    def _refuse(self, jobs: Sequence[Job]) -> None:
        """Answer those that were not taken."""
        with self._mutex:
            waiting = [job for job in jobs if job.state == WAITING]
            for job in waiting:
                job.state, job.error = WITHDRAWN, Closed("the log was closed before the command was taken", id=job.id)
        self._answer(waiting)

    # --- leading

    def check_process(self) -> None:
        """Raise `Forked` in another process than the one that opened the log."""
        if _process != self._pid:
            raise Forked("this log was opened before a fork: open it in the child process")

    def _marked(self, decide: Callable[[Unseen], Commit]) -> Callable[[Unseen], Commit]:
        """Have it known, while this is called under the lock, that this thread has it."""

        def marked(unseen: Unseen) -> Commit:
            self._under_lock = threading.get_ident()
            try:
                return decide(unseen)
            finally:
                self._under_lock = 0

        return marked

    def _check_not_inside(self) -> None:
        """Raise `Invalid` for the thread that has the lock already: what it does would end the transaction in which it decides."""
        if self._under_lock == threading.get_ident():
            raise Invalid(
                "from inside a decider, `evolve` or an upcast the log can't be written, and nothing that others have recorded be taken in"
            )

    def _check(self, more: int) -> None:
        if self._closed:
            raise Closed("the log is closed")
        if self._withdrawn:  # they are in the queue until their turn comes, and wait no more
            self._queue = deque([job for job in self._queue if job.state == WAITING])
            self._withdrawn = 0
        if len(self._queue) + more > QUEUE_MAX:
            raise Overloaded(f"{QUEUE_MAX:,} commands are waiting already; nothing was recorded", waiting=len(self._queue))

    def _lead(self, last: Job) -> None:
        """Commit until this job is done, the caller's own."""
        here.deciding = False  # whoever waits here decides nothing
        while last.state < DONE:
            self._commit_next(last.deadline)

    def _pass_on(self) -> None:
        """Let the writer's thread lead if somebody waits, else nobody."""
        with self._mutex:
            if not self._queue:
                self._leading = False
                return
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="happened-writer", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the machine has no thread left: the next caller leads, and takes what waits
                    self._leading = False
                    return
                self._thread = thread
        self._wake.release()

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            answered = 0
            while True:
                with self._mutex:
                    if not self._queue:
                        self._leading = False
                        break
                    most = BATCH_MAX
                    if self._queue[0]._loop is not None:  # its caller comes again; of commands in bulk nobody does
                        most = max(TOGETHER_MIN, (len(self._queue) + answered + 1) // 2)
                began = time.perf_counter()
                with contextlib.suppress(BaseException):  # its callers have been answered, and others wait
                    self._commit_next(None, most)
                answered = len(self._taken)
                self._gather(sum([job._lock is not None for job in self._taken]), time.perf_counter() - began)
            if self._closed:
                return

    def _gather(self, threads: int, seconds_max: float) -> None:
        """Let those run who were just answered: what they ask for next then shares the commit. Threads, all of them where they mostly do."""
        if len(self._taken) <= max(len(self._queue), 1):
            return
        time.sleep(0)
        if threads > 1 and (self._come_again > 0.5 or not self.commits % GATHER_AGAIN):  # noqa: PLR2004 - half of them
            until = time.perf_counter() + min(seconds_max, GATHER_SECONDS_MAX)
            while len(self._queue) < threads and time.perf_counter() < until:
                time.sleep(0)
            self._come_again += (min(len(self._queue) / threads, 1.0) - self._come_again) / 4

    @property
    def at_hand(self) -> bool:
        """Whether the log is so quick of late that an event loop may commit, and read a row, by itself."""
        return self.engine.sync_seconds <= LOOP_SYNC_SECONDS_MAX

    def _turn_ended(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._mutex:
            self._scheduled.discard(loop)
            if self._leading or not self._queue:
                return
            self._leading = True
        if not self.at_hand:
            self._pass_on()
            return
        try:
            self._commit_next(0.0)
        finally:
            with self._mutex:
                again = bool(self._queue)
                if not again:
                    self._leading = False
            if again:
                self._pass_on()

    def _commit_next(self, deadline: float | None, most: int = BATCH_MAX) -> None:
        """Decide and commit what waits. It waits for the lock until a deadline, by default that of the most impatient.

        Whose own time is not over then goes back into the queue: nobody hears of another's hurry. An event loop does not wait for it: only for who has taken
        it in this process, and no longer than for a sync.
        """
        jobs: list[Job] = []
        try:
            with self._mutex:
                self._taken = jobs
                queue = self._queue
                waiting = [queue.popleft() for _ in range(min(len(queue), most, BATCH_MAX))]
                jobs += [job for job in waiting if job.state == WAITING and ((future := job._future) is None or not future.cancelled())]
            if not jobs:
                return
            until = min([job.deadline for job in jobs]) if deadline is None else deadline
            self._commit(jobs, max(until - PATIENCE_SECONDS - time.perf_counter(), 0.0))
        except Overloaded as error:
            jobs = self._given_back(jobs)
            self._fail(jobs, error)
        except BaseException as error:  # an interrupt, of this thread and of no other caller, or trouble after the commit
            self._fail(jobs, OutcomeUnknown(f"the thread that committed it was interrupted ({type(error).__name__}: {error})"))
            if not isinstance(error, Exception):
                self._answer(jobs)
                raise
        self._answer(jobs)

    def _given_back(self, jobs: Sequence[Job]) -> list[Job]:
        """Put those whose time is not over back into the queue; return the others."""
        soon = time.perf_counter() + 2 * PATIENCE_SECONDS
        with self._mutex:
            patient = [job for job in jobs if job.state == WAITING and job.deadline > soon and not self._closed]
            self._queue.extendleft(reversed(patient))
            kept = set(patient)
            return [job for job in jobs if job not in kept]

    def _commit(self, jobs: Sequence[Job], wait_seconds_max: float) -> None:
        guard = self._memory.guard
        try:
            if not guard.acquire(timeout=max(wait_seconds_max, LOOP_SYNC_SECONDS_MAX)):
                raise Overloaded("the log is busy in this process; nothing was recorded")
            self._commit_guarded(jobs, wait_seconds_max)
        except BaseException as error:
            self._forget_after(error)
            raise
        finally:  # an interrupt may come as soon as it is acquired
            try:  # noqa: SIM105 - no function is called on this way
                guard.release()
            except RuntimeError:  # it was not acquired
                pass

    def _take(self, jobs: Sequence[Job]) -> list[Job]:
        """Take what was not withdrawn while the lock was waited for: until here nothing was recorded for certain, from here on it may be."""
        with self._mutex:
            taken = [job for job in jobs if job.state == WAITING]
            for job in taken:
                job.state = TAKEN
        return taken

    def _forget_decided(self, jobs: Sequence[Job]) -> None:
        """Have jobs wait again, as if they had not been taken."""
        self.names.dropped()
        with self._mutex:
            for job in jobs:
                if job.state == TAKEN:
                    job.state, job.result, job.error = WAITING, None, None

    def _forget_after(self, error: BaseException) -> None:
        """After an interrupt let go of all states: it may have come in the middle of a merge. What is handed over again is not taken in twice."""
        if not isinstance(error, Overloaded):
            self._memory.forget()

    def _commit_guarded(self, jobs: Sequence[Job], wait_seconds_max: float) -> None:
        began: list[Batch] = []
        drafted: list[tuple[Job, Row]] = []
        taken: list[Job] = []

        @self._marked
        def decide(unseen: Unseen) -> Commit:
            self._take_in(unseen)
            batch = Batch(self, unseen, self._memory.begin())
            taken[:] = self._take(jobs)
            try:
                here.deciding = True  # whoever commits here was not deciding: see `_lead`
                for job in taken:
                    try:
                        draft = job.draft(batch)
                        if draft is not None:
                            drafted.append((job, job.added(batch, draft)))
                    except (KeyboardInterrupt, SystemExit):
                        raise
                    except BaseException as error:  # noqa: BLE001 - it is the answer to this caller, and no other's trouble
                        job.error = error
            finally:
                here.deciding = False
            began.append(batch)
            if not any(draft.header.id or draft.header.decides for _, draft in batch.added):
                self.names.dropped()  # nothing needs the names that were declared
                return Commit(notes=batch.kept)
            return batch.commit(unread=self._has_unread_names())

        try:
            head = None
            if self._ahead is not None and all(job.may_be_ahead() for job in jobs):
                head = self._ahead.append_ahead(decide, self.seen)
                if head is None and began:  # somebody came between: nothing was recorded, and all is decided once more, under the lock
                    self._forget_decided(taken)
                    began.clear()
                    drafted.clear()
            if head is None:
                head = self.engine.append(decide, self.seen, wait_seconds_max=wait_seconds_max)
        except Exception as error:
            self.names.dropped()
            if isinstance(error, Overloaded) and not began:
                raise
            self._fail(jobs, error)
            return
        except BaseException:
            self.names.dropped()
            raise
        self.names.kept()
        began[0].overlay.merge(head.position)
        self.seen = head.position
        if began[0].instead:
            self.let_go()
        elif began[0].head.position == head.position:  # else nothing of it was recorded
            self.latest.add(began[0].before, began[0].rows)
        self.commits += 1
        self.commands += len(drafted) + began[0].beside
        for job, row in drafted:
            job.row = row
            job.recorded(row)
        if self._has_unread_names():
            self._index_names()

    def _has_unread_names(self) -> bool:
        """Say whether there are names of which the store does not know yet how they are read."""
        return self._indexed_names != self.names.changes

    def _index_names(self) -> None:
        """Say how new names are read. The commit has taken place: what goes wrong here is counted, and tried again with the next one."""
        changes = self.names.changes
        try:
            self.engine.index(self._reader.reading(), self._reader.row_terms, lambda _done, _all: None, guest=self._guest)
        except Exception as error:  # noqa: BLE001 - no caller may hear of it: theirs is recorded
            self.engine.sample(f"{LOG_WORK}index", "failed", 0, f"{type(error).__name__}: {error}")
        else:
            self._indexed_names = changes

    def _take_in(self, unseen: Unseen) -> None:
        if unseen.rows:
            self._look_for_acts(unseen.rows)
            self._reader.learn(unseen.rows)
            self._memory.catch_up(unseen.rows)
        self.seen = unseen.head.position

    def _look_for_acts(self, rows: Sequence[Row]) -> None:
        """Look whether somebody has adopted the log, or erased something, in another process."""
        for row in rows:
            if row.records.startswith(SAID_OF_ITSELF):
                if row.records.startswith(SAID_OF_ITSELF[0]):
                    raise Diverged(
                        f"the log was adopted by somebody else, at position {row.position}, while it was open here: open it again",
                        position=row.position,
                    )
                self.let_go()

    def let_go(self) -> None:
        """Forget what was made of bodies that were erased since."""
        self._memory.forget()
        self.latest.forget()
        for forget in self.forgetting:
            forget()

    def _fail(self, jobs: Sequence[Job], error: BaseException) -> None:
        for job in jobs:
            if job.error is None:
                job.error = _unknown(job, str(error)) if isinstance(error, OutcomeUnknown) else error
            job.result = None

    # --- answering

    def _answer(self, jobs: Sequence[Job]) -> None:
        awaited: list[asyncio.Future[None]] = []
        for job in jobs:
            if job.state == DONE:  # `close` has answered it, before its decision came to an end
                continue
            job.state = DONE
            future = job._future
            if future is not None:
                awaited.append(future)
            elif job._lock is not None:
                job._lock.release()
        if awaited:
            self._wake_all(awaited)

    def _wake_all(self, futures: Sequence["asyncio.Future[None]"]) -> None:
        here: asyncio.AbstractEventLoop | None = None
        with contextlib.suppress(RuntimeError):  # no loop runs in this thread
            here = asyncio.get_running_loop()
        elsewhere: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for future in futures:
            loop = future.get_loop()
            if loop is not here:
                elsewhere.setdefault(loop, []).append(future)
            elif not future.done():
                future.set_result(None)
        for loop, waiting in elsewhere.items():
            with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits there any more
                loop.call_soon_threadsafe(_wake, waiting)

    def _withdraw(self, job: Job) -> bool:
        with self._mutex:
            if job.state != WAITING:
                return False
            job.state = WITHDRAWN
            self._withdrawn += 1
            job.error = Overloaded("the command was withdrawn before it was taken; nothing was recorded", id=job.id)
            return True

    def _give_up(self, job: Job) -> None:
        if not self._withdraw(job) and job.state != DONE:
            raise _unknown(job, f"it was taken, and not answered within {job.deadline - job.taken_at:g} s")

    def _begin_to_watch(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._mutex:
            for closed in [one for one in (*self._watched, *self._scheduled) if one.is_closed()]:
                self._watched.discard(closed)
                self._scheduled.discard(closed)
            self._watched.add(loop)
        loop.call_later(WATCH_SECONDS, self._watch, loop)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look for those of a loop whose time is over: one timer for all costs a command nothing, where one for each costs 4 µs."""
        with self._mutex:
            waiting = [
                job for job in (*self._queue, *self._taken) if job._loop is loop and job._future is not None and not job._future.done()
            ]
        now = time.perf_counter()
        for job in waiting:
            if job.deadline <= now:
                self._time_out(job)
        if waiting:
            loop.call_later(WATCH_SECONDS, self._watch, loop)
        else:
            with self._mutex:
                self._watched.discard(loop)

    def _time_out(self, job: Job) -> None:
        future = job._future
        if future is None or future.done():
            return
        waited_seconds = job.deadline - job.taken_at
        if self._withdraw(job) or job.state == DONE:
            future.set_result(None)
        else:
            future.set_exception(_unknown(job, f"it was taken, and not answered within {waited_seconds:g} s"))


def _wake(futures: Sequence["asyncio.Future[None]"]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def _unknown(job: Job, why: str) -> Error:
    return OutcomeUnknown(
        f"whether the command `{job.id}` was recorded is not known: {why}. Dispatching the same id again is safe", id=job.id
    )
