"""Timers: commands that are sent later. What is to come is a record of the log, and a note that is found by when it is due.

Whoever holds the lease sends what is due, in the order in which it is due, also what was due while nothing ran. The note goes in the commit that records
the command, so nothing is sent twice. A command that rings says as `world.now` when it was due.
"""

import itertools
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from happened.core.errors import Broken, Invalid
from happened.core.store import Commit, Engine, Row
from happened.log.held import Held, all_held, failed_with
from happened.log.lease import Leases
from happened.log.log import EVERYTHING_SEEN, Log
from happened.log.records import id_of
from happened.log.row import SCHEDULE, Sent, decode_header, taken_apart
from happened.log.worker import TROUBLE, Envelope, Worker, glance
from happened.log.writer import Batch, Job
from happened.notification.desk import Desk, Prepared

NOTE = "timer/"
LEASE = "timers"
RINGS_MAX = 200
"""Commands sent in one commit."""
LOOKED_MAX = 5_000
"""Of those that are due so many are remembered from one look at all of them, after hours in which nothing ran: what is scheduled meanwhile comes after them."""
PAUSE_US = 1_000_000
"""What comes so much later or more is no step of a circle, but repeats at its time: what runs every night may do so for ever."""
LOOK_SECONDS = 0.05
"""How late a timer may be: how often to look for what is due."""
AHEAD_US = 1_000_000
"""Timers that are due so soon are read together: until then, and while nothing is recorded, none need be looked for."""


class Schedule(msgspec.Struct, frozen=True, gc=False):
    """What is to be sent, as it is recorded."""

    id: str
    due: int
    """Microseconds since 1970."""
    number: int
    """Of the command's name."""
    body: msgspec.Raw


decode_schedule = msgspec.json.Decoder(Schedule | None).decode
"""Reads the record of a schedule; `None` where it was erased."""


def note_of(due: int, id: str) -> str:
    """Return the key of a timer's note: notes sort by when they are due."""
    return f"{NOTE}{due:020d}/{id}"


def due_before(engine: Engine, now: int) -> list[tuple[str, int]]:
    """Return the timers that are due, in order: each one's note, and the position of its record."""
    return [(note, int(position)) for note, position in sorted(engine.notes(NOTE, f"{NOTE}{now + 1:020d}").items())]


def next_due(engine: Engine) -> int | None:
    """Return when the next timer is due, in microseconds since 1970. Reads the notes of all: for tests and for people."""
    return min((due_of(note) for note in engine.notes(NOTE)), default=None)


def due_of(note: str) -> int:
    """Return when a timer is due, from the key of its note."""
    return int(note.removeprefix(NOTE).split("/", 1)[0])


class Due(NamedTuple):
    """A timer whose time has come, and the command that is sent."""

    note: str
    prepared: Prepared


class Scheduled(NamedTuple):
    """One record of what is to be sent."""

    row: Row
    ordinal: int
    body: msgspec.Raw


class Timers:
    """Sends what is due, in a thread, while this process holds the lease."""

    def __init__(self, log: Log, leases: Leases, desk: Desk) -> None:
        self._log = log
        self._desk = desk
        self._head = -1
        """Where the log ended when nothing was due."""
        self._due_us = 0
        """When something is, or it is to be looked again, by the log's clock."""
        self._ahead: deque[tuple[str, int]] = deque()
        """What was due when it was looked last, and is not sent."""
        self._look_at = 0.0
        """When it is looked again whatever that clock says, by the monotonic one."""
        self.worker = Worker(log, leases, LEASE, begin=self._begin, step=self._step)

    def _begin(self, _epoch: int) -> None:
        """Try again what could not be sent before: this process may have the code for it."""
        self._head = -1
        self._ahead.clear()
        for held in all_held(self._log.engine, LEASE):
            if not held.parked:
                self._put_back(held)

    def _step(self) -> None:
        head, now = glance(self._log), self._log.source.now_us()
        if not self._ahead and head == self._head and now < self._due_us and time.monotonic() < self._look_at:
            self.worker.rest(LOOK_SECONDS)
            return
        for held in all_held(self._log.engine, LEASE):
            if held.act == "retry":
                self._put_back(held)
            elif held.act == "skip":
                self._change(held, {held.note: None})
            elif held.act == "park":
                self._change(held, {held.note: msgspec.structs.replace(held, act="", parked=True).text()})
        if not self._ahead:
            soon = due_before(self._log.engine, now + AHEAD_US)
            self._ahead.extend([one for one in soon if due_of(one[0]) <= now][:LOOKED_MAX])
            if not self._ahead:
                self._head, self._look_at = head, time.monotonic() + AHEAD_US / 1e6
                self._due_us = due_of(soon[0][0]) if soon else now + AHEAD_US
                self.worker.rest(LOOK_SECONDS)
                return
        due = list(itertools.islice(self._ahead, RINGS_MAX))
        ready: list[Due] = []
        scheduled: dict[int, Scheduled] = {}
        for note, position in due:
            try:
                if position not in scheduled:
                    scheduled |= self.scheduled_with(position)
                ready.append(Due(note, self.read(position, scheduled)))
            except TROUBLE:
                raise
            except Exception as error:  # noqa: BLE001 - it is held, and seen; the others go on
                self._hold(note, position, error)
        if ready:
            self._desk.load([one.prepared for one in ready])
            self._log.writer.submit(Ring(self._desk, ready), 60)
        for _ in due:
            self._ahead.popleft()

    def scheduled_with(self, position: int) -> dict[int, Scheduled]:
        """Return what the row at a position schedules, by position: one row may have thousands, and many of them may be due."""
        row = self._log.row_at(position)
        if row is None:
            return {}
        return {
            place: Scheduled(row, place - row.position, record.body)
            for place, (_, record) in enumerate(taken_apart(row), row.position)
            if record.number == SCHEDULE
        }

    def read(self, position: int, scheduled: Mapping[int, Scheduled]) -> Prepared:
        """Have the command of a timer ready. `Invalid` where no decider takes it any more, `Incompatible` where it can't be read."""
        if position not in scheduled:
            raise Broken(f"there is no schedule at position {position}, where a timer points to", position=position)
        row, ordinal, body = scheduled[position]
        schedule = decode_schedule(body)
        if schedule is None:
            raise Invalid(f"the command that is due at position {position} was erased", position=position)
        header = decode_header(row.head)
        cause = id_of(row, header, ordinal, None)
        depth = header.depth if schedule.due - row.at < PAUSE_US else 0
        envelope = Envelope(schedule.id, cause, header.correlation or header.id, header.actor, schedule.due, depth)
        prepared = self._desk.read(schedule.number, bytes(schedule.body), envelope, position)
        prepared.sent = Sent(header.handler or 0, 0, max(0, self._log.source.now_us() - schedule.due))
        return prepared

    def _hold(self, note: str, position: int, error: Exception) -> None:
        """Put a timer aside that can't be sent."""
        now = self._log.source.now_us()
        said, trace = failed_with(error)
        held = Held(LEASE, position, (note,), "schedule", {}, said, trace, 1, now, now)
        self._log.engine.append(
            lambda unseen: Commit(notes={note: None, held.note: held.text()} if note in unseen.notes(note) else {}), EVERYTHING_SEEN
        )

    def _put_back(self, held: Held) -> None:
        """Make a timer of it again: it is due, and so tried now."""
        self._change(held, {held.note: None, held.key[0]: str(held.position)})

    def _change(self, held: Held, notes: dict[str, str | None]) -> None:
        """Change notes, where nothing was decided about it meanwhile."""
        self._log.engine.append(
            lambda unseen: Commit(notes=notes if unseen.notes(held.note).get(held.note) == held.text() else {}), EVERYTHING_SEEN
        )


class Ring(Job):
    """Commands whose time has come: each is recorded once, and its note goes."""

    def __init__(self, desk: Desk, due: Sequence[Due]) -> None:
        super().__init__(due[0].note)
        self._desk = desk
        self._due = due

    def draft(self, batch: Batch) -> None:
        """Record those whose note is still there."""
        due = [one for one in self._due if one.note in batch.notes_of(one.note)]
        mark = batch.mark()
        try:
            self._desk.declare(batch)
            self._desk.send(batch, [one.prepared for one in due])
        except BaseException:
            batch.back_to(mark)
            raise
        batch.kept.update(dict.fromkeys(one.note for one in due))
