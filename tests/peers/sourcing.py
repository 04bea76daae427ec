"""The recorders of aggregates that `eventsourcing` has, over a log of ours.

What it calls a notification is a record; its ids begin behind the start of a log.
"""

from collections.abc import Iterator, Sequence
from itertools import islice, takewhile
from typing import Annotated, Any, TypeVar  # Any: they pass arguments on that they do not name
from uuid import UUID

from eventsourcing.persistence import (
    IntegrityError,
    Notification,
    ProcessRecorder,
    StoredEvent,
    Subscription,
    Tracking,
)
from typing_extensions import override

import happened as h
from tests.peers.turns import PATIENCE_SECONDS, InTurn

R = TypeVar("R", bound="Recorder")


class Stored(h.Event):
    """An event of an aggregate."""

    originator: Annotated[UUID, h.Tag("originator")]
    version: int
    topic: Annotated[str, h.Tag("topic")]
    state: bytes


class Tracked(h.Event):
    """A notification of another application that was processed."""

    application: Annotated[str, h.Tag("application")]
    notification: int


app = h.App("aggregates", records=[Stored, Tracked])


def stored(event: StoredEvent) -> Stored:
    """Return what is recorded of an event."""
    assert isinstance(event.originator_id, UUID), "their tests make no others"
    return Stored(event.originator_id, event.originator_version, event.topic, event.state)


class Recorder(InTurn, ProcessRecorder):
    """A log as any of their recorders."""

    def insert_events(
        self, stored_events: Sequence[StoredEvent], tracking: Tracking | None = None, **kwargs: Any
    ) -> Sequence[int] | None:  # Any: see above
        """Record events in one row, unless an aggregate has one of these versions, or what is tracked was tracked before."""
        if not stored_events and tracking is None:
            return []
        events = [stored(one) for one in stored_events]
        while True:
            head = self.log.head
            boundary = [h.query(names=["Stored"], originator=one) for one in {event.originator for event in events}]
            there = [record.body for record in self.log.read(h.query(*boundary), until=head)] if boundary else []
            versions = [(one.originator, one.version) for one in [*there, *events]]
            if len(versions) != len(set(versions)):
                raise IntegrityError("there is an event of this version")
            if tracking is not None:
                if tracking.notification_id <= (self.max_tracking_id(tracking.application_name) or 0):
                    raise IntegrityError("this was tracked, or a later one")
                boundary.append(h.query(names=["Tracked"], application=tracking.application_name))
            facts = [*events, *([Tracked(tracking.application_name, tracking.notification_id)] if tracking is not None else [])]
            try:
                last = self.log.append(facts, unless=h.Boundary(h.query(*boundary), head)).position
            except h.Conflict:
                continue
            first = last - len(facts) + 1 - self.start
            return list(range(first, first + len(events)))

    @override
    def select_events(
        self, originator_id: UUID | str, *, gt: int | None = None, lte: int | None = None, desc: bool = False, limit: int | None = None
    ) -> Sequence[StoredEvent]:
        """Return the events of an aggregate."""
        bodies = (record.body for record in self.log.read(h.query(names=["Stored"], originator=originator_id), backwards=desc))
        return list(
            islice(
                (
                    StoredEvent(body.originator, body.version, body.topic, body.state)
                    for body in bodies
                    if (gt is None or body.version > gt) and (lte is None or body.version <= lte)
                ),
                limit,
            )
        )

    def select_notifications(
        self, start: int | None, limit: int, stop: int | None = None, topics: Sequence[str] = (), *, inclusive_of_start: bool = True
    ) -> Sequence[Notification]:
        """Return the events from a position on."""
        return list(islice(self._notifications((start or 0) - (inclusive_of_start and start is not None), stop, topics), limit))

    def _notifications(self, after: int, stop: int | None, topics: Sequence[str]) -> Iterator[Notification]:
        first = self.start + after
        query = h.query(*(h.query(names=["Stored"], topic=topic) for topic in topics)) if topics else h.query(names=["Stored"])
        records = (record for record in self.log.read(query, after=first) if record.position > first)
        for record in takewhile(lambda record: stop is None or record.position <= self.start + stop, records):
            body = record.body
            assert isinstance(body, Stored), "every name has its class"
            yield Notification(body.originator, body.version, body.topic, body.state, record.position - self.start)

    @override
    def max_notification_id(self) -> int | None:
        """Return the position of the last event."""
        last = next(self.log.read(h.query(names=["Stored"]), after=self.start, backwards=True, limit=1), None)
        return last.position - self.start if last is not None else None

    @override
    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> "Subscribed":
        """Return the events after a position, and then what comes."""
        return Subscribed(self, gt, topics)

    def after(self, position: int, topics: Sequence[str]) -> tuple[int, Iterator[Notification]]:
        """Return where the log ends, and the events from a position up to there."""
        head = self.log.head - self.start
        return head, self._notifications(position, head, topics)

    def insert_tracking(self, tracking: Tracking) -> None:
        """Record what was tracked, unless that was before."""
        self.insert_events([], tracking)

    def max_tracking_id(self, application_name: str) -> int | None:
        """Return what was tracked last."""
        query = h.query(names=["Tracked"], application=application_name)
        last = next(self.log.read(query, backwards=True, limit=1), None)
        return last.body.notification if last is not None else None


class OfAggregates(Recorder):
    """A recorder of aggregates alone says no positions."""

    def insert_events(
        self, stored_events: Sequence[StoredEvent], tracking: Tracking | None = None, **kwargs: Any
    ) -> None:  # Any: see above
        """Record events."""
        super().insert_events(stored_events, tracking)


class Subscribed(Subscription[Recorder]):
    """Events as they come."""

    def __init__(self, recorder: Recorder, gt: int | None, topics: Sequence[str]) -> None:
        super().__init__(recorder, gt, topics)
        self._seen, self._events = recorder.after(gt or 0, topics)

    def __next__(self) -> Notification:
        """Return the next event, once there is one."""
        while not self._has_been_stopped:
            for event in self._events:
                return event
            self._recorder.log.wait(self._recorder.start + self._seen, PATIENCE_SECONDS)
            self._seen, self._events = self._recorder.after(self._seen, self._topics)
        raise StopIteration


def begun(logs: Sequence[h.Log], recorder: type[R]) -> R:
    """Return a recorder that begins behind what the log says of its classes: positions are dense from there."""
    logs[0].append([Stored(UUID(int=0), 0, "", b""), Tracked("", 0)])
    return recorder(logs, logs[0].head)
