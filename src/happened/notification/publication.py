"""Publications: what other systems are told of what happened here.

A publication is a plain function from an event to a public one, or to nothing. It is run once for each event; what it says is recorded in the log, as
output, in one commit with how far it has come, so it is said once, whatever is killed in between. Channels of other systems read it from there.

A function that raises stops its publication there: nothing is skipped, the others go on, and it is tried again later and later.
"""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple  # Any: events and states of any class

import msgspec

from happened.core.annotations import label, parameters_of, returned_by
from happened.core.errors import Invalid, Stuck
from happened.core.filling import Fill, fill_for, filled
from happened.core.messages import Event, Recorded, name_of
from happened.core.state import Fold, state_in
from happened.core.store import Row
from happened.core.tags import bare, is_a, members
from happened.log.lease import Leases
from happened.log.log import Log
from happened.log.names import Wish
from happened.log.records import envelope_of, id_of
from happened.log.row import Header, Sent, Written, decode_extra, decode_header, taken_apart
from happened.log.typed import Typed
from happened.log.worker import IDLE_SECONDS, RETRY_SECONDS, Course, Worker
from happened.log.writer import Batch, Draft, deciding
from happened.notification.desk import Desk
from happened.notification.reaction import RECORDED

WHAT = "notification"
PAGE_ROWS = 500
NOTE_RECORDS = 10_000
"""So many positions further, it is noted how far a publication has come, though it had nothing to say."""
RETRY_SECONDS_MAX = 30.0


class Publication:
    """A table entry for a publication where the defaults don't do, and how its function was read.

    A publication that is new begins at the head of that moment: what lies before is not published. `since` is another position to begin after; 0 is the
    start of the log.
    """

    def __init__(self, function: Callable[..., Event | None], *, since: int | None = None) -> None:
        checked: object = function  # a checker has not seen every caller
        if not callable(checked) or isinstance(checked, type):
            raise Invalid(f"`publications` lists `{function!r}`, which is no function", entry=repr(function))
        if since is not None and (type(since) is not int or since < 0):
            raise Invalid(f"`since` of the publication `{label(function)}` is a position, not {since!r}", since=str(since))
        self.function = function
        self.since = since
        self.name, self.version = name_of(function)
        parameters = parameters_of(function)
        self.events: tuple[type, ...] = tuple(members(parameters[0].annotation)) if parameters else ()
        if not self.events or not all(is_a(event, Event) for event in self.events):
            raise Invalid(f"`{label(function)}` is no publication: its first parameter must be an event", function=label(function))
        self.publishes = self._published()
        self.fills: dict[type, list[Fill]] = {event: [] for event in self.events}
        self.slots: list[int | str] = []
        """For each parameter after the event: the place of its fill, or `recorded`."""
        for parameter in parameters[1:]:
            if parameter.annotation is Recorded:
                self.slots.append(RECORDED)
            elif state_in(parameter.annotation) is not None:
                self.slots.append(max(map(len, self.fills.values())))
                for event, fills in self.fills.items():
                    fills.append(fill_for(function, event, parameter, fills))
            elif not parameter.default:
                raise Invalid(
                    f"parameter `{parameter.name}` of `{label(function)}` can't be filled: a publication may ask for states and `Recorded`; who needs "
                    "the `World` decides, in a reaction",
                    parameter=parameter.name,
                )
        self.states: list[Fold] = list(dict.fromkeys(fill.fold for fills in self.fills.values() for fill in fills))
        for fold in self.states:
            if fold.evolve is None or fold.joins:
                raise Invalid(
                    f"`{label(function)}` asks for `{fold.state.__name__}`, which is not folded from events alone",
                    state=fold.state.__name__,
                )

    def __repr__(self) -> str:
        """Tell which function it is."""
        return f"<Publication {self.name}: {self.publishes.__name__}>"

    def _published(self) -> type[Event]:
        annotation, _ = bare(returned_by(self.function))
        found = members(annotation)
        if len(found) != 1 or not is_a(found[0], Event):
            raise Invalid(
                f"`{label(self.function)}` does not say what it publishes: annotate it `-> SomethingHappened`, or `-> SomethingHappened | None`, "
                "with one event",
                function=label(self.function),
            )
        published: type[Event] = found[0]
        return published


class Said(NamedTuple):
    """One notification that is to be recorded."""

    body: bytes
    event: Any
    header: Header


class Publishing:
    """One publication at work."""

    def __init__(
        self,
        log: Log,
        leases: Leases,
        publication: Publication,
        desk: Desk,
        wish: Wish,
    ) -> None:
        self.publication = publication
        self.worker = Worker(log, leases, publication_worker(publication), begin=self._begun, step=self._step, end=self._end)
        self._log = log
        self._desk = desk
        self._wish = wish
        self._start = publication.since if publication.since is not None else log.opened_at
        self._typed = Typed(publication.publishes, log.names, what=WHAT)
        self._course = Course(log, self.worker.name)
        self._failures = 0
        self._changes = -1
        self._numbers: Collection[int] = ()
        self._marks: Sequence[str] = ()
        """What a row that holds one of these numbers has in its text."""

    @property
    def wishes(self) -> Sequence[Wish]:
        """The names that its records use."""
        return self._wish, self._typed.wish

    def statistics(self) -> dict[str, Any]:
        """Return how far it is, and what keeps it from going on."""
        return {
            "publication": self.publication.name,
            "publishes": name_of(self.publication.publishes)[0],
            "position": self._course.position,
            "lag": max(0, self._log.head - self._course.position),
            "failure": self.worker.failure,
        }

    def _begun(self, epoch: int) -> None:
        if self._failures:  # it failed: later and later
            self.worker.rest(min(RETRY_SECONDS * (2**self._failures - 1), RETRY_SECONDS_MAX))
        self._course.claim(epoch, start=self._start)

    def _end(self) -> None:
        self._course.note()

    def _step(self) -> None:
        course = self._course
        position = course.position
        if self._log.wait(position, IDLE_SECONDS) <= position:
            return
        for rows in self._log.engine.read(position, rows_max=PAGE_ROWS):
            self._page(rows)
            if self.worker.stopping:
                return

    def _page(self, rows: Sequence[Row]) -> None:
        """Say what there is to say of a page. What stands before an event that can't be published is said all the same."""
        self._log.reader.learn(rows)
        self._look_up()
        course = self._course
        said: list[Said] = []
        error: Exception | None = None
        done = course.position
        for row in rows:
            try:
                said += self._of_row(row)
            except Exception as failed:  # noqa: BLE001 - whatever it is stops the publication here, and is seen
                error = failed
                break
            done = row.last
        if said:
            course.record(done, lambda batch: self._put(batch, said), own=True)
        else:
            course.position = done
            if done - course.progress.position >= NOTE_RECORDS:
                course.note()
        if error is not None:
            self._failures += 1
            raise error
        self._failures = 0

    def _look_up(self) -> None:
        names = self._log.names
        if self._changes != names.changes:
            self._changes = names.changes
            events: set[type | None] = set(self.publication.events)
            self._numbers = {number for number in list(names.by_number) if self._log.reader.class_of(number) in events}
            self._marks = [f"[{number}," for number in self._numbers]

    def _of_row(self, row: Row) -> list[Said]:
        """Run the function on the events of a row."""
        if not any(mark in row.records for mark in self._marks):
            return []
        said: list[Said] = []
        header = decode_header(row.head)
        for ordinal, (asked, raw) in enumerate(taken_apart(row)):
            if asked or raw.number not in self._numbers:
                continue
            position = row.position + ordinal
            event: object = self._log.reader.body(raw.number, raw.body, position)
            if event is None:  # erased
                continue
            extra = decode_extra(raw.extra) if bytes(raw.extra) else None
            started = time.perf_counter()
            seen = self._log.head if self.publication.states else 0
            try:
                found = self._run(event, envelope_of(row, header, ordinal, extra), position)
                body, public = self._typed.checked(found) if found is not None else (b"", None)
            except Exception as error:
                raise Stuck(
                    f"`{self.publication.name}` can't publish the event at position {position}: {type(error).__name__}: {error}",
                    publication=self.publication.name,
                    position=position,
                ) from error
            if public is None:
                continue
            said.append(
                Said(
                    body,
                    public,
                    Header(
                        id=f"{self.worker.name}/{position}",
                        correlation=header.correlation or header.id or header.decides,
                        causation=id_of(row, header, ordinal, extra),
                        occurred=extra.occurred if extra is not None and extra.occurred is not None else header.occurred or row.at,
                        depth=header.depth + 1,
                        sent=Sent(
                            0,
                            raw.number,
                            waited=max(0, self._log.source.now_us() - row.at),
                            ran=int((time.perf_counter() - started) * 1e6),
                            attempt=self._failures + 1,
                            seen=seen,
                        ),
                    ),
                )
            )
        return said

    def _run(self, event: object, envelope: Recorded, position: int) -> Event | None:
        """Run the function, with states as of the durable head, which is not before the event."""
        publication = self.publication
        states: list[Any] = []
        if publication.states:
            self._desk.states_as_of(position)
        for fill in publication.fills[type(event)]:
            states.append(filled(fill, event, states, self._desk.state))
        arguments = [envelope if slot == RECORDED else states[int(slot)] for slot in publication.slots]
        with deciding():
            found: Any = publication.function(event, *arguments)
        if found is not None and type(found) is not publication.publishes:
            raise Invalid(
                f"`{label(publication.function)}` returned a `{type(found).__name__}`, and its annotation names `{publication.publishes.__name__}`"
            )
        published: Event | None = found
        return published

    def _put(self, batch: Batch, said: Sequence[Said]) -> None:
        self._desk.declare(batch)
        handler = batch.number(self._wish)
        number = self._typed.number(batch)
        for one in said:
            header = _handled(one.header, handler)
            batch.add(Draft(header, None, [Written(number, one.body)], (), list(self._typed.terms(one.event)), [number], {}))


def publication_worker(publication: Publication) -> str:
    """Return what the worker of a publication is called."""
    return f"publication/{publication.name}"


def _handled(header: Header, number: int) -> Header:
    assert header.sent is not None, "what is said was sent by somebody"
    return msgspec.structs.replace(header, handler=number, sent=msgspec.structs.replace(header.sent, handler=number))
