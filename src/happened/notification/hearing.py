"""Hearing: one listener at work on one log, each event once.

One run is one commit: what came of it, the answers it got from outside, and how far the listener has come, under a compare-and-set with the owner's epoch.
Before that commit a run leaves no trace in the log; after it, the code never runs again for that event. Many runs share a commit. An event whose run fails
is held, with all that share a term with it; the others go on.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Self, TypeVar  # Any: events, commands and states of any class

import msgspec

from happened.core.errors import Diverged, Invalid
from happened.core.filling import filled
from happened.core.messages import Several, events_of
from happened.core.state import Fold, Key
from happened.core.store import Row, Wanted
from happened.core.tags import SEPARATOR
from happened.core.world import World
from happened.log.deciding import deciding
from happened.log.held import EVERYTHING, Held, all_held, back_off_seconds, failed_with, held_at
from happened.log.log import Log
from happened.log.records import envelope_of, id_of
from happened.log.row import Header, Sent, Written, decode_header
from happened.log.slices import Progress, slice_of, slicer
from happened.log.worker import TROUBLE, Advance, Trouble, claimed
from happened.log.writer import Batch
from happened.notification.desk import Desk
from happened.notification.listener import RECORDED, WORLD, Listener, Taking

RUNS_MAX = 200
"""Runs of held events in one commit."""
RETRIES_SECONDS = 0.1
"""How long held events are tried again before others have their turn, if there are any."""
LOOKS_SHARE = 10
"""A look at what people have decided is followed by so many times as long without one: all that is held is read for it."""
UNSAVED_MAX = 20_000
"""Positions that a listener passes without a run before that is noted: they are read again after a crash."""
FOR_EVER = 1e6
ON = " on "
"""In the outcome of a run that committed nothing: before the event's name, since no row tells that it was heard."""
NOTED_AFTER_SECONDS = 1.0
"""How soon a part of a listener notes that it has passed what it need not run, since most of that is for others: they see from that how far it is."""


L_co = TypeVar("L_co", bound=Listener, covariant=True)
R = TypeVar("R")
"""What a run has come to."""


class Heard(NamedTuple):
    """An event, as a listener hears it."""

    position: int
    ordinal: int
    row: Row
    number: int
    """Of the event's name."""
    event: Any
    extra: Any
    key: Sequence[str]


class Hearing(ABC, Generic[L_co, R]):
    """One listener at work on one log, or on a part of its slices, while this process holds the lease. A subclass says what comes of a run."""

    def __init__(self, listener: L_co, log: Log, desk: Desk, *, of: str = "", part: str = "") -> None:
        self.listener = listener
        self.of = of
        """By whose positions its runs are called; empty: by those of its log, as every log has called them."""
        self.lease = part or listener.lease
        self.epoch: int | None = None
        self.position = 0
        """Up to where events were run or held; what is noted may lie behind, with no run between."""
        self.trouble = Trouble(log, self.lease)
        self.runs = self.ran_us = 0
        self.retry_at = 0.0
        """When to go on after trouble of the world, by the monotonic clock."""
        self._noted_at = 0.0
        """When it was noted last how far it has come, by the monotonic clock."""
        self._log = log
        self._desk = desk
        self.progress = Progress(0, 0)
        """As it is noted."""
        self._slice_of: Callable[[Any], int] | None = None
        """Into which slice an event falls, where this is not of all of them."""
        self._held: list[Held] = []
        self._keeping: dict[str, list[Held]] | None = None
        """Those by the terms for which others wait for them; `None`: to be made anew."""
        self._awaited: dict[int, tuple[int, int]] | None = {}
        """By the position of a held event: the first and the last event that was found to wait for it. `None`: it is not known who waits."""
        self._due: dict[int, float] = {}
        """When a held event is tried again, by the monotonic clock."""
        self._acts_at = 0.0
        """When it is looked next whether people have decided about one, by the monotonic clock."""

    # --- owning

    def claim(self, epoch: int) -> None:
        """Take the work over from whoever had it; begin where that one came to."""
        start = self._log.opened_at if self.listener.since is None else self.listener.since
        before, self.progress = self.progress.epoch, claimed(self._log, self.lease, epoch, start=start)
        if before != epoch:
            self.trouble.left()  # it was another's meanwhile
        self._slice_of = slicer(self.listener.events, self.progress.by) if self.progress.by else None
        self.position = self.progress.position
        self._set_held([one for one in all_held(self._log.engine, self.listener.name) if self._is_held_here(one)])
        for one in self._held:
            self._check_goes_as(one)
        self._awaited = {}
        self._due = dict.fromkeys((one.position for one in self._held), 0.0)
        first = min((one.position for one in self._held if not one.parked), default=None)
        for heard in self._passed(first + 1, self.position) if first is not None else ():
            self._let_wait(heard)
        self.epoch = epoch

    def release(self) -> None:
        """Forget where it was: it is another's, or must be read anew."""
        self.epoch = None

    def save(self) -> None:
        """Note how far it has come, where it has passed what it need not run."""
        if self.epoch is not None and self.position > self.progress.position:
            self._commit([], self.position, {})

    def noting(self) -> Advance | None:
        """Return what notes how far it has come and records nothing else, `None` where that is noted. `noted` is to hear what came of it."""
        if self.epoch is None or self.position <= self.progress.position:
            return None
        return Advance(self.lease, self.progress, msgspec.structs.replace(self.progress, position=self.position))

    def noted(self, job: Advance) -> None:
        """Hear that it was noted; what kept it from that is raised."""
        if job.error is not None:
            raise job.error
        self.progress = job.after

    def save_in_time(self) -> None:
        """Do so if this is a part of a whole, and the last note of it is a while ago."""
        if self.progress.by and self.position > self.progress.position and time.monotonic() > self._noted_at + NOTED_AFTER_SECONDS:
            self.save()

    def of_part(self, part: str) -> Self:
        """Return the same at work on a part of its slices, by the name of its lease."""
        return type(self)(self.listener, self._log, self._desk, of=self.of, part=part)

    def named(self) -> dict[str, Any]:
        """Return what it is called, for statistics."""
        return {self.listener.kind: self.listener.name}

    # --- what comes

    def take(self, rows: Sequence[Row], pages: Sequence[Sequence[Any]], stopping: Callable[[], bool] = lambda: False) -> None:
        """Run the function on the events of these rows, in order, and record what comes of it: in one commit, or of each row that asked outside.

        It stops after a row where it is told to.
        """
        ran: list[R] = []
        wrong: list[Held] = []
        for row, records in zip(rows, pages, strict=True):
            for heard in heard_of(self.listener, row, records):
                if self._slice_of is not None and not self._is_here(heard):
                    continue
                if self._held and self._let_wait(heard):
                    continue
                one = self._run(heard, rows[-1].last)
                if isinstance(one, Held):
                    wrong.append(one)
                    self._hold(one)
                else:
                    ran.append(one)
            stops = stopping()
            slow = self.listener.wants_world and (wrong or any(map(self.asked, ran)))  # what was asked is not to be asked again
            last = stops or row is rows[-1]
            if slow or (last and (ran or wrong or row.last - self.progress.position > UNSAVED_MAX)):
                self._commit(ran, row.last, {one.note: one.text() for one in wrong})
                ran, wrong = [], []
            if slow or last:
                self.position = row.last
                self.trouble.over()
            if stops:
                return

    def pass_over(self, position: int) -> None:
        """Go on to a position up to which nothing is there to be heard."""
        if position - self.progress.position > UNSAVED_MAX:
            self._commit([], position, {})
        self.position = position
        self.trouble.over()

    # --- event by event, as a branch does it

    def recall(self) -> None:
        """Take in what is held, without owning the work."""
        self._set_held(all_held(self._log.engine, self.listener.name))
        self._awaited = None

    def run_once(self, run: str, heard: Heard, now: int) -> R | Held | None:
        """Run it on one event, under the id of a run and at a time, and record nothing; `None` where that waits for one that is held."""
        if self._held and self._let_wait(heard):
            return None
        one = self._run_as(run, heard, heard.position, now)
        if isinstance(one, Held):
            self._hold(one)
        return one

    # --- what is held

    @property
    def patience_seconds(self) -> float:
        """How long it may wait until something that is held is tried again."""
        waiting = [self._due[one.position] for one in self._held if not one.parked]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else FOR_EVER

    def look_after(self) -> None:
        """Do what people have decided about held events, and try those again whose time has come: the longest due first, and for so long only.

        There may be thousands, and what they keep from nothing is not to wait for all of them.
        """
        if not self._held:
            return
        started = time.monotonic()
        if started >= self._acts_at:
            self._do_acts({one.position: one for one in self._held})
            self._acts_at = time.monotonic() + LOOKS_SHARE * (time.monotonic() - started)
        mine = {one.position: one for one in self._held}
        due = ((self._due.get(one.position, 0.0), one.position) for one in self._held if not one.parked)
        for _, position in sorted(one for one in due if one[0] <= started):
            noted = held_at(self._log.engine, mine[position])
            if noted is not None and not noted.parked and not noted.act:
                self._try(noted, msgspec.structs.replace(noted, since=mine[position].since))
            if time.monotonic() - started > RETRIES_SECONDS:
                return

    def _do_acts(self, mine: Mapping[int, Held]) -> None:
        for noted in all_held(self._log.engine, self.listener.name):
            if noted.position not in mine:
                continue  # another owner has come further: the next commit says so
            held = msgspec.structs.replace(noted, since=mine[noted.position].since)
            if noted.act == "skip":
                self._go_on(noted, held, None, [])
            elif noted.act == "park":
                self._go_on(noted, held, msgspec.structs.replace(held, parked=True, act="", since={}), [])
            elif noted.act == "retry":
                self._try(noted, held)

    def _try(self, noted: Held, held: Held) -> None:
        """Run a held event again."""
        heard = heard_at(self._log, self.listener, held.position)
        one = self._run(heard, self.position) if heard is not None else None
        if not isinstance(one, Held):  # where its class takes no part any more, nothing is left to be run
            self._go_on(noted, held, None, [one] if one is not None else [])
        elif not held.attempts:  # it came next of those that have waited: from now on others wait for it, and not for what it waited for
            self._go_on(noted, held, one, [])
        else:
            again = msgspec.structs.replace(one, since=held.since, parked=held.parked, attempts=held.attempts + 1, failed=held.failed)
            self._commit([], self.position, {again.note: again.text()}, expected=noted)
            self._hold(again)

    def _go_on(self, noted: Held, held: Held, after: Held | None, ran: list[R]) -> None:
        """Let those come that have waited for a held event; who fails of them is held in its turn. `after` is what stays of it; `ran` is its own run."""
        self._set_held([one for one in self._held if one.position != held.position])
        if after is not None:
            self._hold(after)
        notes: dict[str, str | None] = {held.note: after.text() if after is not None else None}
        expected = noted
        for heard in self._queue(held) if not held.parked else ():
            if len(ran) >= RUNS_MAX:
                rest = Held(self.listener.name, heard.position, tuple(heard.key), self._name_of(heard), dict(held.since))
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
        """Read what has waited for a held event and for no other, from the first to the last that was found to: there may be a million others behind it."""
        reach = self._awaited.pop(held.position, None) if self._awaited is not None else (held.position + 1, self.position)
        for heard in self._passed(*reach) if reach is not None else ():
            if held.makes_wait(heard.position, heard.key) and not self._let_wait(heard):
                yield heard

    def _hold(self, held: Held) -> None:
        self._set_held([one for one in self._held if one.position != held.position] + [held])
        self._due[held.position] = time.monotonic() + back_off_seconds(held.attempts)

    def _set_held(self, held: list[Held]) -> None:
        self._held, self._keeping = held, None

    def _let_wait(self, heard: Heard) -> bool:
        """Say whether an event must wait for one that is held."""
        if self._keeping is None:
            self._keeping = {}
            for one in self._held:
                for term in one.since:
                    self._keeping.setdefault(term, []).append(one)
        waits = False
        for one in [one for term in (EVERYTHING, *heard.key) for one in self._keeping.get(term, ())] if heard.key else self._held:
            gains = [term for term in heard.key or (EVERYTHING,) if term not in one.since]
            if one.makes_wait(heard.position, heard.key):
                waits = True
                if self._awaited is not None:
                    first, last = self._awaited.get(one.position, (heard.position, heard.position))
                    self._awaited[one.position] = min(first, heard.position), max(last, heard.position)
                for term in gains:
                    self._keeping.setdefault(term, []).append(one)
        return waits

    def _passed(self, start: int, until: int) -> Iterator[Heard]:
        """Read the events from one position up to another that were run or held."""
        return filter(self._is_here, heard_between(self._log, self.listener, start, until))

    def _is_here(self, heard: Heard) -> bool:
        """Say whether an event falls into one of the slices that this is of."""
        return self._slice_of is None or self.progress.holds(self._slice_of(heard.event))

    def _is_held_here(self, held: Held) -> bool:
        """Say whether a held event is of one of these slices: by its key, where it is not to be heard any more, since others of that wait for it."""
        if self._slice_of is None:
            return True
        heard = heard_at(self._log, self.listener, held.position)
        if heard is not None:
            return self._is_here(heard)
        tag = f"{self.progress.by}{SEPARATOR}"
        return self.progress.holds(next((slice_of(text) for text in held.key if text.startswith(tag)), 0))

    def _check_goes_as(self, held: Held) -> None:
        """Raise `Invalid` where an event does not go by what it was held by: who has waited for it, and who was run meanwhile, would not be known."""
        heard = heard_at(self._log, self.listener, held.position) if held.key and not held.parked else None
        if heard is not None and set(heard.key) != set(held.key):
            before, today = (", ".join(term.replace(SEPARATOR, "=", 1) for term in key) or "nothing" for key in (held.key, heard.key))
            raise Invalid(
                f"`{self.listener.name}` goes by {today}, and went by {before} when position {held.position} was held: what waits for that is told by "
                "what it went by. Have it go so again, with `by=`, until nothing of it is held",
                handler=self.listener.name,
                position=held.position,
            )

    # --- one run

    def _run(self, heard: Heard, seen: int) -> R | Held:
        """Run the function on one event; return what it came to, or what went wrong. Nothing is recorded."""
        return self._run_as(self.run_of(heard.position), heard, seen, self._log.source.now_us())

    def _run_as(self, run: str, heard: Heard, seen: int, now: int) -> R | Held:
        """Do so under the id of a run, from which its ids and its chance come, and at a time."""
        listener = self.listener
        started = time.perf_counter()
        try:
            header = decode_header(heard.row.head)
            with deciding():
                states = self._desk.states_as_of(seen)
                found, answers = called(
                    listener, heard, header, states.state, lambda call: self._desk.ask(run, now, states, call), self.listed
                )
            ran = _us(started)
            sent = Sent(0, heard.number, max(0, now - heard.row.at), ran, 1, states.position)
            one = self.come_to(heard, header, found, answers, run, now, sent)
        except TROUBLE:
            raise  # of the world, not of this event
        except BaseException as error:  # noqa: BLE001 - whatever it is, `sys.exit` too, holds the event's key, and is seen
            said, trace = failed_with(error)
            since = dict.fromkeys(heard.key or (EVERYTHING,), heard.position)
            name = self._name_of(heard)
            self._count(f"failed{ON}{name}", _us(started), f"{heard.position}: {trace}")
            own = id_of(heard.row, decode_header(heard.row.head), heard.ordinal, heard.extra)
            return Held(listener.name, heard.position, tuple(heard.key), name, since, said, trace, 1, now, now, id=own)
        if not found and not answers:
            self._count(f"nothing{ON}{self._name_of(heard)}", ran, f"{heard.position}")
        self.runs += 1
        self.ran_us += ran
        return one

    def _name_of(self, heard: Heard) -> str:
        return self._log.typed[type(events_of(heard.event)[0])].wish.name

    def _count(self, outcome: str, ran: int, what: str) -> None:
        """Count a run that records nothing, under the name of its lease: a decider may have the same name as it."""
        self._log.engine.sample(self.listener.lease, outcome, ran, what)

    # --- what a subclass says

    @abstractmethod
    def run_of(self, position: int) -> str:
        """Return the id of the run on the event at a position."""

    @abstractmethod
    def listed(self, returned: Any) -> list[Any]:
        """Return what the function has returned as a list. `Invalid` where it may not return that."""

    @abstractmethod
    def come_to(self, heard: Heard, header: Header, found: Sequence[Any], answers: Sequence[Written], run: str, now: int, sent: Sent) -> R:
        """Make of what a run has returned what is to be recorded; what it raises holds the event. `sent` is without the handler's number."""

    @abstractmethod
    def add(self, batch: Batch, ran: Sequence[R]) -> None:
        """Put what runs came to into a batch."""

    def load(self, ran: Sequence[R]) -> None:
        """Make ready what is needed to add these, before the lock is taken."""

    def asked(self, one: R) -> bool:
        """Say whether a run got answers from outside: it is recorded before the next."""
        return False

    # --- recording

    def _commit(self, ran: Sequence[R], position: int, notes: Mapping[str, str | None], *, expected: Held | None = None) -> None:
        """Record runs, notes, and how far the listener has come. `Diverged` where somebody has decided about the held event meanwhile."""
        after = msgspec.structs.replace(self.progress, position=position)
        self.load(ran)

        def add(batch: Batch) -> None:
            if expected is not None and batch.noted(expected.note) != expected.text():
                raise Diverged(f"about position {expected.position} something was decided meanwhile", position=expected.position)
            self._desk.declare(batch)
            self.add(batch, ran)
            batch.kept.update(notes)

        self._log.writer.submit(Advance(self.lease, self.progress, after, add), 60)
        self.progress = after
        self._noted_at = time.monotonic()


AnyHearing = Hearing[Listener, Any]
"""A listener at work, of whichever kind."""


def called(
    listener: Listener,
    heard: Heard,
    header: Header,
    state_of: Callable[[Fold, Key], Any],
    ask: Callable[[Callable[[World], list[Any]]], tuple[list[Any], list[Written]]],
    listed: Callable[[Any], list[Any]],
) -> tuple[list[Any], list[Written]]:
    """Call a listener on an event with what it asks for; return what it returns, and the answers it got. `ask` gives a call its `World`."""
    taking = listener.takes.get(heard.event.__class__)
    if taking is not None and not taking.asks:  # as nearly all are
        return listed(_returned(listener, taking, heard.event, heard, header, state_of, None)), []
    events = events_of(heard.event)

    def call(world: World | None) -> list[Any]:
        return [
            one
            for event in events
            for one in listed(_returned(listener, listener.takes[type(event)], event, heard, header, state_of, world))
        ]

    return ask(call) if any(listener.takes[type(event)].asks for event in events) else (call(None), [])


def _returned(
    listener: Listener, taking: Taking, event: Any, heard: Heard, header: Header, state_of: Callable[[Fold, Key], Any], world: World | None
) -> Any:
    if not taking.slots:
        return listener.function(event)
    states: list[Any] = []
    for fill in taking.fills:
        states.append(filled(fill, event, states, state_of))
    arguments: list[Any] = []
    for slot in taking.slots:
        if slot == WORLD:
            arguments.append(world)
        elif slot == RECORDED:
            arguments.append(envelope_of(heard.row, header, heard.ordinal, heard.extra))
        else:
            arguments.append(states[slot])  # type: ignore[index]  # a slot is a place, `world` or `recorded`
    return listener.function(event, *arguments)


def heard_in(listener: Listener, rows: Sequence[Row], pages: Sequence[Sequence[Any]]) -> Iterator[Heard]:
    """Yield the events of these rows that a listener hears, in order."""
    for row, records in zip(rows, pages, strict=True):
        yield from heard_of(listener, row, records)


def heard_of(listener: Listener, row: Row, records: Sequence[Any]) -> list[Heard]:
    """Return the events of one row that a listener hears, in order."""
    found: list[Heard] = []
    takes = listener.takes
    for ordinal, record in enumerate(records, row.input is not None):
        event: Any = record.body
        taking = takes.get(event.__class__)
        if taking is not None:
            number: int = record.__struct_config__.tag  # a page decodes records as classes that are tagged by the number of their name
            found.append(Heard(row.position + ordinal, ordinal, row, number, event, record.extra, taking.key(event)))
        elif event.__class__ is Several:
            found += _heard_split(listener, row, ordinal, record)
    return found


def _heard_split(listener: Listener, row: Row, ordinal: int, record: Any) -> Iterator[Heard]:
    """Yield the events that one record was split into as one that is heard: they are run, held and retried together."""
    events = tuple(one for one in record.body.events if type(one) in listener.takes)
    if events:
        key = list(dict.fromkeys(term for one in events for term in listener.takes[type(one)].key(one)))
        yield Heard(row.position + ordinal, ordinal, row, record.__struct_config__.tag, Several(events), record.extra, key)


def heard_between(log: Log, listener: Listener, start: int, until: int) -> Iterator[Heard]:
    """Read the events that a listener hears from one position up to another, by the index."""
    if start > until:
        return
    wanted = [Wanted((), numbers_of(log, listener))]
    decode = log.reader.pages(listener.events)
    for rows in log.engine.read(start - 1, until, wanted=wanted):
        yield from (heard for heard in heard_in(listener, rows, decode(rows)) if heard.position >= start)


def heard_at(log: Log, listener: Listener, position: int) -> Heard | None:
    """Return the event at a position, as a listener hears it; `None` where it hears nothing there."""
    row = log.row_at(position)
    rows = [row] if row is not None else []
    pages = log.reader.pages(listener.events)(rows) if rows else []
    return next((heard for heard in heard_in(listener, rows, pages) if heard.position == position), None)


def numbers_of(log: Log, listener: Listener) -> list[int]:
    """Return the numbers of the names that a listener hears, of those that this process has met."""
    return log.numbers_known([log.typed[event].wish.name for event in listener.events])


def _us(started: float) -> int:
    return int((time.perf_counter() - started) * 1e6)
