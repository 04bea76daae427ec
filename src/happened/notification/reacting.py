"""Reacting: what comes of a reaction's runs: commands that are sent now, and those that are sent later."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple  # Any: commands of any class

import msgspec

from happened.core.annotations import label
from happened.core.errors import Invalid, Stuck
from happened.core.messages import Command, Later
from happened.core.store import Row
from happened.core.world import MICROSECOND, microseconds, moment
from happened.log.records import id_of
from happened.log.row import RECORD_BYTES_MAX, RECORDS_MAX, SCHEDULE, Header, Sent, Written, decode_header, encode, too_large, too_many
from happened.log.worker import Envelope
from happened.log.writer import Batch, Draft
from happened.notification.desk import Prepared
from happened.notification.hearing import Heard, Hearing
from happened.notification.reaction import Reaction
from happened.notification.timer import Schedule, note_of

DEPTH_MAX = 100
"""Handlers between a record and what came from outside: more is a circle."""
CIRCLE_MAX = 12
NUMBER_MAX = 1 << 31
"""No name's number has more digits."""


class Ran(NamedTuple):
    """One run that came to its end, to be recorded."""

    heard: Heard
    header: Header | None
    """Of the row that says what it got from outside and what it sends later, where there is any of it."""
    sends: Sequence[Prepared]
    answers: Sequence[Written]
    later: Sequence[tuple[Schedule, Prepared]]
    sent: Sent
    """Without the handler's number, which is known under the lock."""


class Reacting(Hearing[Reaction, Ran]):
    """One reaction at work on one log."""

    def run_of(self, position: int) -> str:
        """Return the id of the run on the event at a position."""
        return f"{self.of or self._log.identity.id}:{position}:{self.listener.name}"

    def listed(self, returned: Any) -> list[Any]:
        """Return what is sent."""
        return sent_by(self.listener, returned)

    def come_to(
        self, heard: Heard, header: Header, found: Sequence[Any], answers: Sequence[Written], run: str, now: int, sent: Sent
    ) -> Ran:
        """Make of what a run has sent what is to be recorded. `Invalid` for what its annotation does not name, `Stuck` for a circle."""
        reaction = self.listener
        cause = id_of(heard.row, header, heard.ordinal, heard.extra)
        correlation = header.correlation or header.id or header.decides or cause
        depth = header.depth + 1
        if found and depth > DEPTH_MAX:
            raise Stuck(
                f"`{reaction.name}` stands behind {DEPTH_MAX} handlers of which each heard what the one before came to: {self._circle(heard.row)}",
                handler=reaction.name,
                position=heard.position,
            )
        sends: list[Prepared] = []
        later: list[tuple[Schedule, Prepared]] = []
        for ordinal, given in enumerate(found):
            envelope = Envelope(f"{run}:{ordinal}", cause, correlation, header.actor, now, depth)
            if isinstance(given, Later):
                late: Later[Any] = given  # pyright: ignore[reportUnknownVariableType]  # of which command is looked at in the next line
                self._check_sent(late.command, reaction.later, "later")
                due = due_of(self.listener, heard.row.at, late)
                prepared = self._desk.prepared(late.command, envelope._replace(now=due))
                later.append((Schedule(envelope.id, due, 0, msgspec.Raw(prepared.asked_bytes)), prepared))
            else:
                self._check_sent(given, reaction.sends, "at once")
                sends.append(self._desk.prepared(given, envelope))
        self._check_limits(sends, answers, later)
        about = None
        if answers or later:
            world = now if reaction.wants_world else None
            about = Header(run, header.actor, correlation, cause, now=world, waited=sent.waited, ran=sent.ran, depth=depth)
        return Ran(heard, about, sends, answers, later, sent)

    def _check_sent(self, given: object, allowed: frozenset[type[Command]], when: str) -> None:
        if type(given) not in allowed:
            names = ", ".join(sorted(one.__name__ for one in allowed)) or "nothing"
            raise Invalid(
                f"`{label(self.listener.function)}` sends a `{type(given).__name__}` {when}, which its annotation does not name: it names {names}",
                function=label(self.listener.function),
            )

    def _check_limits(self, sends: Sequence[Prepared], answers: Sequence[Written], later: Sequence[tuple[Schedule, Prepared]]) -> None:
        """Raise `Invalid` where a row could not be recorded: then it is this event's trouble, and no other's."""
        for one in sends:
            if len(one.asked_bytes) > RECORD_BYTES_MAX:
                raise too_large(len(one.asked_bytes))
        if not answers and not later:
            return
        count = len(answers) + len(later)
        if count > RECORDS_MAX:
            raise too_many(count)
        scheduled = [encode(msgspec.structs.replace(schedule, number=NUMBER_MAX)) for schedule, _ in later]
        largest = max(map(len, [*(one.body for one in answers), *scheduled]), default=0)
        if largest > RECORD_BYTES_MAX:
            raise too_large(largest)

    def _circle(self, row: Row) -> str:
        """Tell the last steps that led to a row, up to where they repeat."""
        steps: list[str] = []
        names = self._log.names.by_number
        while len(steps) < CIRCLE_MAX:
            header = decode_header(row.head)
            if header.decides is not None:  # who sent it stands where it was kept
                header = next(
                    (found for found in map(decode_header, [one.head for one in self._log.find(header.decides)]) if found.id), header
                )
            if header.sent is None or header.causation is None:
                break
            of = [names[number].name for number in (header.sent.cause, header.sent.handler) if number in names]
            step = " → ".join(of)
            steps.insert(0, step)
            if steps.count(step) > 1:
                break
            before = self._log.find(header.causation) or self._log.find(header.causation.rpartition("#")[0])
            if not before:
                break
            row = before[0]
        return " → ".join(steps)

    # --- recording

    def load(self, ran: Sequence[Ran]) -> None:
        """Have in memory what the deciders of the commands read."""
        self._desk.load([prepared for one in ran for prepared in one.sends])

    def asked(self, one: Ran) -> bool:
        """Say whether a run got answers from outside."""
        return bool(one.answers)

    def add(self, batch: Batch, ran: Sequence[Ran]) -> None:
        """Send commands, and record what is sent later."""
        if not ran:
            return
        sends: list[Prepared] = []
        number = batch.number(self.listener.wish)
        for one in ran:
            sent = self._put(batch, one, number)
            for prepared in one.sends:
                prepared.sent = sent
                sends.append(prepared)
        if sends:
            self._desk.send(batch, sends)

    def put(self, batch: Batch, ran: Ran) -> Sent:
        """Record what a run got from outside and sends later; return what its commands say of it."""
        return self._put(batch, ran, batch.number(self.listener.wish))

    def _put(self, batch: Batch, ran: Ran, number: int) -> Sent:
        sent = msgspec.structs.replace(ran.sent, handler=number)
        if ran.header is not None:
            self._add_row(batch, ran, ran.header, sent)
        return sent

    def _add_row(self, batch: Batch, ran: Ran, about: Header, sent: Sent) -> None:
        """Record what a run got from outside, and what it sends later."""
        records = list(ran.answers)
        notes: dict[str, str | None] = {}
        for schedule, prepared in ran.later:
            number = prepared.asked_typed.number(batch)  # first: a new name is a row before this one
            position = batch.position + len(records)
            records.append(Written(SCHEDULE, encode(msgspec.structs.replace(schedule, number=number))))
            notes[note_of(schedule.due, schedule.id)] = str(position)
        header = msgspec.structs.replace(about, handler=sent.handler, sent=sent)
        batch.add(Draft(header, None, records, (), (), (), notes))


def sent_by(reaction: Reaction, returned: Any) -> list[Any]:
    """Return what a reaction has returned as a list. `Invalid` where it may not return that."""
    sent: Iterable[Any] = returned if returned is not None else ()
    if not isinstance(sent, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  # a checker has not seen every function
        raise Invalid(f"`{label(reaction.function)}` returned a `{type(returned).__name__}`: yield it, or return a list")
    return list(sent)


def due_of(reaction: Reaction, at: int, late: Later[Any]) -> int:
    """Return when a command that is sent later is due, in microseconds since 1970. `at` is when the event was recorded."""
    try:
        if late.after is not None:
            due = at + late.after // MICROSECOND
        else:
            assert late.at is not None, "it has one of both"
            due = microseconds(late.at)
        moment(due)
    except OverflowError:
        raise Invalid(f"`{label(reaction.function)}` sends a command for a time that is in no calendar: {late!r}") from None
    return due
