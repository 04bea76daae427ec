"""Reacting: one reaction at work on one log, each event once.

One run is one commit: the commands it sends, the answers it got from outside, what it sends later, and how far the reaction has come, under a
compare-and-set with the owner's epoch. Before that commit a run leaves no trace in the log; after it, the code never runs again for that event. Many runs
share a commit. An event whose run fails is held, with all that share a term with it; the others go on.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple  # Any: events, commands and states of any class

import msgspec

from happened.core.annotations import label
from happened.core.errors import Diverged, Invalid, Stuck
from happened.core.filling import filled
from happened.core.messages import Command, Later
from happened.core.store import Row, Wanted
from happened.core.world import MICROSECOND, World, microseconds, moment
from happened.log.held import EVERYTHING, Held, all_held, back_off_seconds, failed_with
from happened.log.log import Log
from happened.log.records import envelope_of, id_of
from happened.log.row import RECORD_BYTES_MAX, RECORDS_MAX, SCHEDULE, Header, Sent, Written, decode_header, encode, too_large, too_many
from happened.log.worker import TROUBLE, Advance, Envelope, Progress, Trouble, claimed
from happened.log.writer import Batch, Draft, deciding
from happened.notification.desk import Desk, Prepared
from happened.notification.reaction import RECORDED, WORLD, Reaction
from happened.notification.timer import Schedule, note_of

RUNS_MAX = 200
"""Runs of held events in one commit."""
UNSAVED_MAX = 20_000
"""Positions that a reaction passes without a run before that is noted: they are read again after a crash."""
DEPTH_MAX = 100
"""Handlers between a record and what came from outside: more is a circle."""
CIRCLE_MAX = 12
NUMBER_MAX = 1 << 31
"""No name's number has more digits."""
FOR_EVER = 1e6


class Heard(NamedTuple):
    """An event, as a reaction hears it."""

    position: int
    ordinal: int
    row: Row
    number: int
    """Of the event's name."""
    event: Any
    extra: Any
    key: Sequence[str]


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


class Reacting:
    """One reaction at work on one log, while this process holds its lease."""

    def __init__(self, reaction: Reaction, log: Log, desk: Desk) -> None:
        self.reaction = reaction
        self.lease = lease_of(reaction)
        self.epoch: int | None = None
        self.position = 0
        """Up to where events were run or held; what is noted may lie behind, with no run between."""
        self.trouble = Trouble(log, self.lease)
        self.runs = self.ran_us = 0
        self.retry_at = 0.0
        """When to go on after trouble of the world, by the monotonic clock."""
        self._log = log
        self._desk = desk
        self._progress = Progress(0, 0)
        self._held: list[Held] = []
        self._due: dict[int, float] = {}
        """When a held event is tried again, by the monotonic clock."""

    # --- owning

    def claim(self, epoch: int) -> None:
        """Take the work over from whoever had it; begin where that one came to."""
        start = self._log.opened_at if self.reaction.since is None else self.reaction.since
        self._progress = claimed(self._log, self.lease, epoch, start=start)
        self.position = self._progress.position
        self._held = all_held(self._log.engine, self.reaction.name)
        self._due = dict.fromkeys((one.position for one in self._held), 0.0)
        first = min((one.position for one in self._held if not one.parked), default=None)
        for heard in self._passed(first + 1) if first is not None else ():
            self._let_wait(heard)
        self.epoch = epoch

    def release(self) -> None:
        """Forget where it was: it is another's, or must be read anew."""
        self.epoch = None

    def save(self) -> None:
        """Note how far it has come, where it has passed what it need not run."""
        if self.epoch is not None and self.position > self._progress.position:
            self._commit([], self.position, {})

    # --- what comes

    def take(self, rows: Sequence[Row], pages: Sequence[Sequence[Any]], stopping: Callable[[], bool] = lambda: False) -> None:
        """Run the reaction on the events of these rows, in order, and record what comes of it: in one commit, or of each row that asked outside.

        It stops after a row where it is told to.
        """
        ran: list[Ran] = []
        wrong: list[Held] = []
        for row, records in zip(rows, pages, strict=True):
            for heard in heard_in(self.reaction, [row], [records]):
                if self._held and self._let_wait(heard):
                    continue
                one = self._run(heard, rows[-1].last)
                if isinstance(one, Held):
                    wrong.append(one)
                    self._hold(one)
                else:
                    ran.append(one)
            stops = stopping()
            slow = self.reaction.wants_world and (wrong or any(one.answers for one in ran))  # what was asked is not to be asked again
            last = stops or row is rows[-1]
            if slow or (last and (ran or wrong or row.last - self._progress.position > UNSAVED_MAX)):
                self._commit(ran, row.last, {one.note: one.text() for one in wrong})
                ran, wrong = [], []
            if slow or last:
                self.position = row.last
                self.trouble.over()
            if stops:
                return

    # --- what is held

    @property
    def patience_seconds(self) -> float:
        """How long it may wait until something that is held is tried again."""
        waiting = [self._due[one.position] for one in self._held if not one.parked]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else FOR_EVER

    def look_after(self) -> None:
        """Do what people have decided about held events, and try those again whose time has come."""
        if not self._held:
            return
        now = time.monotonic()
        mine = {one.position: one for one in self._held}
        for noted in all_held(self._log.engine, self.reaction.name):
            if noted.position not in mine:
                continue  # another owner has come further: the next commit says so
            held = msgspec.structs.replace(noted, since=mine[noted.position].since)
            if noted.act == "skip":
                self._go_on(noted, held, None, [])
            elif noted.act == "park":
                self._go_on(noted, held, msgspec.structs.replace(held, parked=True, act="", since={}), [])
            elif noted.act == "retry" or (not noted.parked and now >= self._due.get(noted.position, 0.0)):
                self._try(noted, held)

    def _try(self, noted: Held, held: Held) -> None:
        """Run a held event again."""
        heard = next((heard for heard in self._at(held.position)), None)
        one = self._run(heard, self.position) if heard is not None else None
        if not isinstance(one, Held):  # where its class takes no part any more, nothing is left to be run
            self._go_on(noted, held, None, [one] if one is not None else [])
        elif not held.attempts:  # it came next of those that have waited: from now on others wait for it, and not for what it waited for
            self._go_on(noted, held, one, [])
        else:
            again = msgspec.structs.replace(one, since=held.since, parked=held.parked, attempts=held.attempts + 1, failed=held.failed)
            self._commit([], self.position, {again.note: again.text()}, expected=noted)
            self._hold(again)

    def _go_on(self, noted: Held, held: Held, after: Held | None, ran: list[Ran]) -> None:
        """Let those come that have waited for a held event; who fails of them is held in its turn. `after` is what stays of it; `ran` is its own run."""
        self._held = [one for one in self._held if one.position != held.position]
        if after is not None:
            self._hold(after)
        notes: dict[str, str | None] = {held.note: after.text() if after is not None else None}
        expected = noted
        for heard in self._queue(held) if not held.parked else ():
            if len(ran) >= RUNS_MAX:
                rest = Held(
                    self.reaction.name, heard.position, tuple(heard.key), self._log.typed[type(heard.event)].wish.name, dict(held.since)
                )
                self._commit(ran, self.position, {**notes, rest.note: rest.text()}, expected=expected)
                expected, ran = rest, []
                notes = {rest.note: None}
            one = self._run(heard, self.position)
            if isinstance(one, Held):
                notes[one.note] = one.text()
                self._hold(one)
            else:
                ran.append(one)
        self._commit(ran, self.position, notes, expected=expected)

    def _queue(self, held: Held) -> Iterator[Heard]:
        """Read what has waited for a held event and for no other."""
        for heard in self._passed(held.position + 1):
            if held.makes_wait(heard.position, heard.key) and not self._let_wait(heard):
                yield heard

    def _hold(self, held: Held) -> None:
        self._held = [one for one in self._held if one.position != held.position] + [held]
        self._due[held.position] = time.monotonic() + back_off_seconds(held.attempts)

    def _let_wait(self, heard: Heard) -> bool:
        """Say whether an event must wait for one that is held."""
        waits = [one.makes_wait(heard.position, heard.key) for one in self._held]
        return any(waits)

    def _passed(self, start: int) -> Iterator[Heard]:
        """Read the events from a position on that were run or held."""
        return heard_between(self._log, self.reaction, start, self.position)

    def _at(self, position: int) -> Iterator[Heard]:
        row = self._log.row_at(position)
        if row is not None:
            pages = self._log.reader.pages(self.reaction.events)([row])
            yield from (heard for heard in heard_in(self.reaction, [row], pages) if heard.position == position)

    # --- one run

    def _run(self, heard: Heard, seen: int) -> Ran | Held:
        """Run the function on one event; return what it came to, or what went wrong. Nothing is recorded."""
        return self._run_as(f"{self._log.identity.id}:{heard.position}:{self.reaction.name}", heard, seen, self._log.source.now_us())

    def _run_as(self, run: str, heard: Heard, seen: int, now: int) -> Ran | Held:
        """Do so under the id of a run, from which its ids and its chance come, and at a time."""
        reaction = self.reaction
        started = time.perf_counter()
        try:
            header = decode_header(heard.row.head)
            with deciding():
                as_of = self._desk.states_as_of(seen)
                found, answers = self._called(heard, header, run, now)
            ran = _us(started)
            sent = Sent(0, heard.number, max(0, now - heard.row.at), ran, 1, as_of)
            one = self._come_to(heard, header, found, answers, run, now, sent)
        except TROUBLE:
            raise  # of the world, not of this event
        except BaseException as error:  # noqa: BLE001 - whatever it is, `sys.exit` too, holds the event's key, and is seen
            said, trace = failed_with(error)
            self._count("failed", _us(started), f"{heard.position}: {trace}")
            since = dict.fromkeys(heard.key or (EVERYTHING,), heard.position)
            name = self._log.typed[type(heard.event)].wish.name
            own = id_of(heard.row, decode_header(heard.row.head), heard.ordinal, heard.extra)
            return Held(reaction.name, heard.position, tuple(heard.key), name, since, said, trace, 1, now, now, id=own)
        if not found and not answers:
            self._count("nothing", ran, f"{heard.position}")
        self.runs += 1
        self.ran_us += ran
        return one

    def _count(self, outcome: str, ran: int, what: str) -> None:
        """Count a run that records nothing."""
        self._log.engine.sample(self.reaction.name, outcome, ran, what)

    def _called(self, heard: Heard, header: Header, run: str, now: int) -> tuple[list[Any], list[Written]]:
        """Call the function with what it asks for; return what it sends, and the answers it got."""
        reaction = self.reaction
        taking = reaction.takes[type(heard.event)]
        states: list[Any] = []
        for fill in taking.fills:
            states.append(filled(fill, heard.event, states, self._desk.state))

        def call(world: World | None) -> list[Any]:
            arguments: list[Any] = []
            for slot in taking.slots:
                if slot == WORLD:
                    arguments.append(world)
                elif slot == RECORDED:
                    arguments.append(envelope_of(heard.row, header, heard.ordinal, heard.extra))
                else:
                    arguments.append(states[slot])  # type: ignore[index]  # a slot is a place, `world` or `recorded`
            returned = reaction.function(heard.event, *arguments)
            if returned is not None and not isinstance(returned, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]  # a checker has not seen every function
                raise Invalid(f"`{label(reaction.function)}` returned a `{type(returned).__name__}`: yield it, or return a list")
            return list(returned or ())

        return self._desk.ask(run, now, call) if WORLD in taking.slots else (call(None), [])

    def _come_to(
        self, heard: Heard, header: Header, found: Sequence[Any], answers: Sequence[Written], run: str, now: int, sent: Sent
    ) -> Ran:
        """Make of what a run has sent what is to be recorded. `Invalid` for what its annotation does not name, `Stuck` for a circle."""
        reaction = self.reaction
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
                due = self._due_of(heard.row.at, late)
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
                f"`{label(self.reaction.function)}` sends a `{type(given).__name__}` {when}, which its annotation does not name: it names {names}",
                function=label(self.reaction.function),
            )

    def _due_of(self, at: int, late: Later[Any]) -> int:
        """Return when it is due, in microseconds since 1970."""
        try:
            if late.after is not None:
                due = at + late.after // MICROSECOND
                moment(due)
            else:
                assert late.at is not None, "it has one of both"
                due = microseconds(late.at)
        except OverflowError:
            raise Invalid(f"`{label(self.reaction.function)}` sends a command later than any calendar goes: {late!r}") from None
        return due

    def _check_limits(self, sends: Sequence[Prepared], answers: Sequence[Written], later: Sequence[tuple[Schedule, Prepared]]) -> None:
        """Raise `Invalid` where a row could not be recorded: then it is this event's trouble, and no other's."""
        count = len(answers) + len(later)
        if count > RECORDS_MAX:
            raise too_many(count)
        scheduled = [encode(msgspec.structs.replace(schedule, number=NUMBER_MAX)) for schedule, _ in later]
        largest = max(map(len, [*(one.asked_bytes for one in sends), *(one.body for one in answers), *scheduled]), default=0)
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
            before = self._log.find(header.causation.rpartition("#")[0] or header.causation)
            if not before:
                break
            row = before[0]
        return " → ".join(steps)

    # --- recording

    def _commit(self, ran: Sequence[Ran], position: int, notes: Mapping[str, str | None], *, expected: Held | None = None) -> None:
        """Record runs, notes, and how far the reaction has come. `Diverged` where somebody has decided about the held event meanwhile."""
        after = Progress(position, self._progress.epoch, self._progress.began)
        self._desk.load([prepared for one in ran for prepared in one.sends])

        def add(batch: Batch) -> None:
            if expected is not None and batch.noted(expected.note) != expected.text():
                raise Diverged(f"about position {expected.position} something was decided meanwhile", position=expected.position)
            self._desk.declare(batch)
            number = batch.number(self.reaction.wish)
            sends: list[Prepared] = []
            for one in ran:
                sent = msgspec.structs.replace(one.sent, handler=number)
                if one.header is not None:
                    self._add_row(batch, one, one.header, sent)
                for prepared in one.sends:
                    prepared.sent = sent
                    sends.append(prepared)
            if sends:
                self._desk.send(batch, sends)
            batch.kept.update(notes)

        self._log.writer.submit(Advance(self.lease, self._progress, after, add), 60)
        self._progress = after

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


def heard_in(reaction: Reaction, rows: Sequence[Row], pages: Sequence[Sequence[Any]]) -> Iterator[Heard]:
    """Yield the events of these rows that a reaction hears, in order."""
    takes = reaction.takes
    for row, records in zip(rows, pages, strict=True):
        for ordinal, record in enumerate(records, row.input is not None):
            event: Any = record.body
            taking = takes.get(event.__class__)
            if taking is not None:
                number: int = record.__struct_config__.tag  # a page decodes records as classes that are tagged by the number of their name
                yield Heard(row.position + ordinal, ordinal, row, number, event, record.extra, taking.key(event))


def heard_between(log: Log, reaction: Reaction, start: int, until: int) -> Iterator[Heard]:
    """Read the events that a reaction hears from one position up to another, by the index."""
    if start > until:
        return
    wanted = [Wanted((), numbers_of(log, reaction))]
    decode = log.reader.pages(reaction.events)
    for rows in log.engine.read(start - 1, until, wanted=wanted):
        yield from (heard for heard in heard_in(reaction, rows, decode(rows)) if heard.position >= start)


def numbers_of(log: Log, reaction: Reaction) -> list[int]:
    """Return the numbers of the names that a reaction hears."""
    return log.numbers([log.typed[event].wish.name for event in reaction.events])


def lease_of(reaction: Reaction) -> str:
    """Return the name of a reaction's lease, which is that of its progress."""
    return f"reaction/{reaction.name}"


def _us(started: float) -> int:
    return int((time.perf_counter() - started) * 1e6)
