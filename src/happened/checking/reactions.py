"""Reactions, run again: each recorded run, on the event that it heard, with the states of the position as of which it read them.

A run is known from what it left in the log: the commands it sent, whose ids say on which event by which reaction, and a row of its own where it asked the
outside or sends something later. A run that came to nothing left nothing, and can't be compared.
"""

import bisect
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any  # Any: events and commands of any class

from happened.checking.differences import Divergence, differing_messages, differing_outcomes, plain
from happened.checking.gone import Gone, Reads
from happened.core.errors import Invalid
from happened.core.messages import Command, Later, name_of
from happened.core.state import Fold, Key
from happened.core.store import Row
from happened.core.world import World, moment
from happened.log.deciding import deciding
from happened.log.fingerprint import fingerprint_of
from happened.log.log import Log
from happened.log.names import Name
from happened.log.records import Reader
from happened.log.row import ANSWER, ERASED, SCHEDULE, Header, Sent, Written, decode_header, is_unkept, taken_apart
from happened.notification.hearing import Heard, called, heard_in
from happened.notification.reacting import due_of, sent_by
from happened.notification.reaction import Reaction
from happened.notification.timer import decode_schedule
from happened.sourcing.gateway import Answer, Answers, answers_in
from happened.sourcing.replay import Replay, Unknown

ROWS_KEPT = 40_000
"""Rows kept, at least, for the events that runs heard: those read ahead are half of them."""

NO_REACTION = "no reaction of this name today"
TOO_LATE = "it read its states longer ago than this looks ahead"
GONE = "the event that it heard is not there, or was erased"
UNHEARD = "an answer that it heard was erased"
UNSENT = "something that it sent was erased"
NOT_KEPT = 'what it sent was not kept (`store="decisions"`)'

Sending = tuple[str, dict[str, Any]]
"""A command that is sent: its name and its fields, and when it is due where it comes later."""


class Run:
    """One recorded run: what it left, and what came of running it again."""

    def __init__(self, row: Row, reaction: Reaction, cause: int, fingerprint: str, now_us: int | None) -> None:
        self.row = row.position
        self.at = row.at
        """All rows of the commit that holds it were recorded at this time, and none after it."""
        self.reaction = reaction
        self.cause = cause
        self.fingerprint = fingerprint
        self.now_us = now_us
        """What `world.now` said, where that is recorded."""
        self.waited_us = 0
        self.answers: list[Answer] = []
        self.then: dict[int, Sending] = {}
        """What it sent, by ordinal."""
        self.now: list[Sending] = []
        self.heard = ""
        self.again = False
        self.failure: Exception | None = None
        self.read = Reads()
        self.why = TOO_LATE
        """Why it can't be run again, where it can't."""


class Runs:
    """The recorded runs of an app's reactions, met on one walk through the log."""

    def __init__(self, reactions: Iterable[Reaction], log: Log, reader: Reader, replay: Replay, gone: Gone) -> None:
        self._reactions = {reaction.name: reaction for reaction in reactions}
        self._log = log
        self._reader = reader
        self._replay = replay
        self._gone = gone
        self._today = {reaction.name: fingerprint_of(reaction.function).digest for reaction in self._reactions.values()}
        self._open: dict[str, Run] = {}
        """By the id of the run: those that are read ahead, or not known to be whole."""
        self.due: dict[int, list[str]] = {}
        """The runs that read their states as of a position, where that still lies ahead."""
        self._unknown: set[tuple[str, int]] = set()
        self._passed = 0
        self._rows: list[Row] = []
        """Those read ahead and those just passed: for the events that runs heard."""
        self._starts: list[int] = []
        self._records: list[Sequence[Any]] = []
        self.run = self.same = 0
        self.unchecked: Counter[str] = Counter()

    def look_ahead(
        self, rows: Sequence[Row], headers: Sequence[Header | None], records: Sequence[Sequence[Any]], commands: Sequence[Any]
    ) -> None:
        """Find the runs in a page that is read ahead."""
        self._keep(rows, records)
        names = self._log.names.by_number
        for row, header, command in zip(rows, headers, commands, strict=True):
            sent = header.sent if header is not None else None
            if sent is None or header is None or header.id is None or not sent.cause:  # without a cause it is a timer that rang
                continue
            name = names.get(sent.handler)
            if name is None or name.what != "reaction":
                continue
            own = row.input is None
            run, ordinal = (header.id, "") if own else header.id.rsplit(":", 1)
            found = self._open.get(run) or self._begun(run, row, sent, name)
            if found is None:
                continue
            if own:
                found.now_us = header.now
                found.answers = list(answers_in(row).values())
                if any(record.number == ANSWER and bytes(record.body) == ERASED for _, record in taken_apart(row)):
                    found.why = UNHEARD
                self._take_later(found, row)
            elif command is None:
                found.why = NOT_KEPT if is_unkept(row) else UNSENT
            else:
                found.then[int(ordinal)] = (name_of(type(command))[0], plain(command))

    def at(self, position: int) -> None:
        """Run those again that read their states as of here."""
        for run in self.due.pop(position, ()):
            self._again(run, self._open[run])

    def passed(self, last: Row | None) -> Iterator[Divergence]:
        """Compare the runs that are whole, now that the walk has come to this row, or to the end; yield those that came to something else."""
        self._passed = last.last if last is not None else self._passed
        for run, one in list(self._open.items()):
            if last is not None and one.at >= last.at:
                continue
            del self._open[run]
            if one.why:
                self.unchecked[one.why] += 1
                continue
            self.run += 1
            differences = list(differing_outcomes(None, None, one.failure))
            if one.failure is None:
                differences += differing_messages([one.then[ordinal] for ordinal in sorted(one.then)], one.now)
            if differences:
                name = one.reaction.name
                yield Divergence(one.row, run, name, one.heard, tuple(differences), one.fingerprint, self._today[name], *one.read)
            else:
                self.same += 1
        if last is None:
            self.due.clear()

    def _keep(self, rows: Sequence[Row], records: Sequence[Sequence[Any]]) -> None:
        self._rows += rows
        self._starts += [row.position for row in rows]
        self._records += records
        if len(self._rows) > 2 * ROWS_KEPT:
            for kept in (self._rows, self._starts, self._records):
                del kept[:-ROWS_KEPT]

    def _begun(self, run: str, row: Row, sent: Sent, name: Name) -> Run | None:
        """Begin with a run that is met for the first time."""
        reaction = self._reactions.get(name.name)
        cause = run.removesuffix(f":{name.name}").rpartition(":")[2]
        if reaction is None or not cause.isdecimal():
            self._unknown = {one for one in self._unknown if one[1] == row.at}  # all rows of a run have one time
            self.unchecked[NO_REACTION] += (run, row.at) not in self._unknown
            self._unknown.add((run, row.at))
            return None
        found = self._open[run] = Run(row, reaction, int(cause), name.fingerprint, None)
        found.waited_us = sent.waited
        if sent.seen > self._passed:
            found.why = ""
            self.due.setdefault(sent.seen, []).append(run)
        return found

    def _take_later(self, run: Run, row: Row) -> None:
        """Take in what a run sends later."""
        names = self._log.names.by_number
        for _, record in taken_apart(row):
            if record.number != SCHEDULE:
                continue
            schedule = decode_schedule(record.body)
            if schedule is None:
                run.why = UNSENT
                continue
            command = self._reader.body(schedule.number, schedule.body, row.position)
            run.then[int(schedule.id.rsplit(":", 1)[1])] = _later(names[schedule.number].name, plain(command), schedule.due)

    def _heard(self, run: Run) -> Heard | None:
        """Return the event that a run heard."""
        place = bisect.bisect_right(self._starts, run.cause) - 1
        if place >= 0 and run.cause <= self._rows[place].last:
            row, records = self._rows[place], self._records[place]
        else:
            found = self._log.row_at(run.cause)
            if found is None:
                return None
            row, records = found, self._reader.pages(run.reaction.events)([found])[0]
        return next((heard for heard in heard_in(run.reaction, [row], [records]) if heard.position == run.cause), None)

    def _again(self, id: str, run: Run) -> None:
        if run.why:
            return
        heard = self._heard(run)
        if heard is None:
            run.why = GONE
            return
        run.heard = self._log.names.by_number[heard.number].name
        now = run.now_us if run.now_us is not None else heard.row.at + run.waited_us

        def ask(call: Callable[[World], list[Any]]) -> tuple[list[Any], list[Written]]:
            return self._replay.world(id, now, Answers(run.answers), self._gone.entry).through(call), []

        self._gone.begin()
        try:
            with deciding():
                found, _ = called(
                    run.reaction, heard, decode_header(heard.row.head), self._state, ask, functools.partial(sent_by, run.reaction)
                )
            run.now = [self._sending(run.reaction, given, heard) for given in found]
        except Unknown as unknown:
            run.failure = unknown.error
        except Exception as error:  # noqa: BLE001 - whatever today's code raises is what came of it
            run.failure = error
        run.read = self._gone.read()

    def _state(self, fold: Fold, key: Key) -> Any:
        return self._gone.entry(fold, key).state

    def _sending(self, reaction: Reaction, given: Any, heard: Heard) -> Sending:
        """Return what a reaction sends as it would be recorded. `Invalid` for what its annotation does not name."""
        if isinstance(given, Later):
            late: Later[Any] = given  # pyright: ignore[reportUnknownVariableType]  # of which command is looked at in the next line
            name, fields = _named(reaction, late.command, reaction.later)
            return _later(name, fields, due_of(reaction, heard.row.at, late))
        return _named(reaction, given, reaction.sends)


def _named(reaction: Reaction, command: Any, allowed: frozenset[type[Command]]) -> Sending:
    if command.__class__ not in allowed:
        raise Invalid(f"`{reaction.name}` sends a `{command.__class__.__name__}`, which its annotation does not name")
    return name_of(command.__class__)[0], plain(command)


def _later(name: str, fields: dict[str, Any], due: int) -> Sending:
    return name, {**fields, "(due)": moment(due).isoformat()}
