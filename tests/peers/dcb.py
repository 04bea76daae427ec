"""The recorder that `eventsourcing` calls a DCB recorder, over a log of ours: types are names, tags are values of one tag, positions begin behind a start."""

import base64
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Any, Self  # Any: the body of a fact without a class is JSON data

from eventsourcing.dcb.api import (
    DCBAppendCondition,
    DCBEvent,
    DCBQuery,
    DCBReadResponse,
    DCBRecorder,
    DCBSequencedEvent,
    DCBSubscription,
)
from eventsourcing.persistence import IntegrityError, ProgrammingError
from typing_extensions import override

import happened as h
from tests.peers.turns import PATIENCE_SECONDS, InTurn

TAG = "tag"
"""All tags of theirs are values of this one."""


def query_of(given: DCBQuery | None) -> h.Query:
    """Return the same query in our words."""
    items = given.items if given is not None else []
    return h.Query(tuple(h.Item(frozenset(item.types), frozenset((TAG, tag) for tag in item.tags)) for item in items))


class Answer(DCBReadResponse):
    """What a read comes to: the events, and up to where it has looked."""

    def __init__(self, events: Iterator[DCBSequencedEvent], head: int | None, *, limited: bool) -> None:
        self._events = events
        self._head = head
        self._limited = limited

    @property
    def head(self) -> int | None:
        """The end of the log at that moment; where the read was limited, the last event that it gave."""
        return self._head

    def __next__(self) -> DCBSequencedEvent:
        """Return the next event."""
        event = next(self._events)
        if self._limited:
            self._head = event.position
        return event


class Recorder(InTurn, DCBRecorder):
    """A log as a DCB recorder. Its first position is the one behind `start`."""

    @abstractmethod
    def fact(self, event: DCBEvent) -> h.Event | h.Loose:
        """Return what is recorded of an event."""

    @abstractmethod
    def event(self, record: h.Record) -> DCBEvent:
        """Return the event of a record."""

    def append(self, events: Sequence[DCBEvent], condition: DCBAppendCondition | None = None) -> int:
        """Record events in one row, unless what the condition asks for is there."""
        if not events:
            raise ProgrammingError("no events")
        unless = None
        if condition is not None:
            unless = h.Boundary(query_of(condition.fail_if_events_match), self.start + (condition.after or 0))
        try:
            return self.log.append([self.fact(event) for event in events], unless=unless).position - self.start
        except h.Conflict as error:
            raise IntegrityError(str(error)) from error

    def read(self, query: DCBQuery | None = None, *, after: int | None = None, limit: int | None = None) -> Answer:
        """Return the events after a position."""
        head = self.log.head
        first = self.start + (after or 0)
        records = (record for record in self.log.read(query_of(query), after=first, until=head) if record.position > first)
        events = (DCBSequencedEvent(self.event(record), record.position - self.start) for record in islice(records, limit))
        return Answer(events, (head - self.start or None) if limit is None else None, limited=limit is not None)

    @override
    def subscribe(self, query: DCBQuery | None = None, *, after: int | None = None) -> "Subscription":
        """Return the events after a position, and then what comes."""
        return Subscription(self, query, after)


class Subscription(DCBSubscription[Recorder]):
    """Events as they come."""

    def __init__(self, recorder: Recorder, query: DCBQuery | None, after: int | None) -> None:
        super().__init__(recorder, query, after)
        self._seen = after or 0
        self._answer = recorder.read(query, after=self._seen)

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> DCBSequencedEvent:
        """Return the next event, once there is one."""
        while not self._has_been_stopped:
            for event in self._answer:
                return event
            self._seen = max(self._seen, self._answer.head or 0)
            self._recorder.log.wait(self._recorder.start + self._seen, PATIENCE_SECONDS)
            self._answer = self._recorder.read(self._query, after=self._seen)
        raise StopIteration


# --- a class for each type


class Typed(h.Event):
    """What every event of theirs has."""

    data: bytes
    tags: tuple[Annotated[str, h.Tag(TAG)], ...] = ()


@h.named("type1")
class Type1(Typed):
    pass


@h.named("type2")
class Type2(Typed):
    pass


@h.named("type3")
class Type3(Typed):
    pass


@h.named("type4")
class Type4(Typed):
    pass


class StudentRegistered(Typed):
    pass


class CourseRegistered(Typed):
    pass


class StudentJoinedCourse(Typed):
    pass


CLASSES: dict[str, type[Typed]] = {
    "type1": Type1,
    "type2": Type2,
    "type3": Type3,
    "type4": Type4,
    "StudentRegistered": StudentRegistered,
    "CourseRegistered": CourseRegistered,
    "StudentJoinedCourse": StudentJoinedCourse,
}
app = h.App("dcb", records=list(CLASSES.values()))


class OfClasses(Recorder):
    """Each type has a class."""

    def fact(self, event: DCBEvent) -> Typed:
        """Return an event of the type's class."""
        return CLASSES[event.type](event.data, tuple(event.tags))

    def event(self, record: h.Record) -> DCBEvent:
        """Return it as it was given."""
        assert isinstance(record.body, Typed), "every name has its class"
        return DCBEvent(record.name, record.body.data, list(record.body.tags))


class OfLoose(Recorder):
    """No type has a class."""

    def fact(self, event: DCBEvent) -> h.Loose:
        """Return it as JSON data."""
        return h.Loose(event.type, {"data": base64.b64encode(event.data).decode()}, tuple((TAG, tag) for tag in event.tags))

    def event(self, record: h.Record) -> DCBEvent:
        """Return it as it was given."""
        body: Any = record.body
        return DCBEvent(record.name, base64.b64decode(body["data"]), [value for _, value in record.tags])


def begun(logs: Sequence[h.Log], recorder: type[Recorder]) -> Recorder:
    """Return a recorder that begins behind what the log says of the types: positions are dense from there."""
    named = recorder(logs)
    named.log.append([named.fact(DCBEvent(one, b"")) for one in CLASSES])
    return recorder(logs, named.log.head)
