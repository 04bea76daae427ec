"""Publications: what other systems are told of what happened here.

A publication is a plain function from an event to a public one, or to nothing. It is run once for each event; what it says is recorded in the log, as
output, in one commit with how far it has come, so it is said once, whatever is killed in between. Channels of other systems read it from there.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple  # Any: events and states of any class

import msgspec

from happened.core.annotations import label, returned_by
from happened.core.errors import Invalid
from happened.core.messages import Event, name_of
from happened.core.tags import bare, is_a, members
from happened.core.world import World
from happened.log.log import Log
from happened.log.records import id_of
from happened.log.row import Header, Sent, Written
from happened.log.typed import Typed
from happened.log.writer import Batch, Draft
from happened.notification.desk import Desk
from happened.notification.hearing import Heard, Hearing
from happened.notification.listener import Listener

WHAT = "notification"


class Publication(Listener):
    """A table entry for a publication where the defaults don't do, and how its function was read.

    A publication that is new begins at the head of that moment: what lies before is not published. `since` is another position to begin after; 0 is the
    start of the log. `by` names the tags by which events are kept in order, and by which one that can't be published stops those after it; by default the
    tags of its states, and without any the whole publication is one row.
    """

    kind = "publication"
    asks = "a publication may ask for states and `Recorded`; who needs the `World` decides, in a reaction"

    def __init__(self, function: Callable[..., Event | None], *, by: str | Sequence[str] = (), since: int | None = None) -> None:
        checked: object = function  # a checker has not seen every caller
        if not callable(checked) or isinstance(checked, type):
            raise Invalid(f"`publications` lists `{function!r}`, which is no function", entry=repr(function))
        super().__init__(function, by, since)
        self.publishes = self._published()

    def __repr__(self) -> str:
        """Tell which function it is."""
        return f"<Publication {self.name}: {self.publishes.__name__}>"

    def _published(self) -> type[Event]:
        annotation, _ = bare(returned_by(self.function, "OrderAccepted | None"))
        found = members(annotation)
        if len(found) != 1 or not is_a(found[0], Event):
            raise Invalid(
                f"`{label(self.function)}` does not say what it publishes: annotate it `-> SomethingHappened`, or `-> SomethingHappened | None`, "
                "with one event",
                function=label(self.function),
            )
        published: type[Event] = found[0]
        return published

    def _may_ask(self, annotation: object) -> str | None:
        return super()._may_ask(annotation) if annotation is not World else None


class Notification(NamedTuple):
    """One thing that is said, ready to be recorded."""

    id: str
    body: bytes
    event: Event


class Said(NamedTuple):
    """What is to be said of one event: a notification, none, or some where the event was split."""

    notifications: Sequence[Notification]
    header: Header
    """Of each of them, but for its id."""
    sent: Sent
    """Without the handler's number, which is known under the lock."""


class Publishing(Hearing[Publication, Said]):
    """One publication at work on one log."""

    def __init__(self, publication: Publication, log: Log, desk: Desk, *, of: str = "", part: str = "") -> None:
        super().__init__(publication, log, desk, of=of, part=part)
        self._typed = Typed(publication.publishes, log.names, what=WHAT)

    def named(self) -> dict[str, Any]:
        """Return what it is called and what it says."""
        return {**super().named(), "publishes": name_of(self.listener.publishes)[0]}

    def run_of(self, position: int) -> str:
        """Return the id of what is said of the event at a position."""
        return f"{self.lease}/{self.of}:{position}" if self.of else f"{self.lease}/{position}"

    def listed(self, returned: Any) -> list[Any]:
        """Return what is said, if anything is."""
        if returned is not None and type(returned) is not self.listener.publishes:
            raise Invalid(
                f"`{label(self.listener.function)}` returned a `{type(returned).__name__}`, and its annotation names "
                f"`{self.listener.publishes.__name__}`"
            )
        return [] if returned is None else [returned]

    def come_to(
        self, heard: Heard, header: Header, found: Sequence[Any], answers: Sequence[Written], run: str, now: int, sent: Sent
    ) -> Said:
        """Check what is said, and say where it comes from."""
        notifications = [Notification(f"{run}.{place}" if place else run, *self._typed.checked(one)) for place, one in enumerate(found)]
        extra = heard.extra
        occurred = extra.occurred if extra is not None and extra.occurred is not None else header.occurred or heard.row.at
        about = Header(
            correlation=header.correlation or header.id or header.decides,
            causation=id_of(heard.row, header, heard.ordinal, extra),
            occurred=occurred,
            depth=header.depth + 1,
        )
        return Said(notifications, about, sent)

    def add(self, batch: Batch, ran: Sequence[Said]) -> None:
        """Record what is said, each in a row of its own."""
        handler, number = batch.number(self.listener.wish), self._typed.number(batch)
        for one in ran:
            sent = msgspec.structs.replace(one.sent, handler=handler)
            for said in one.notifications:
                header = msgspec.structs.replace(one.header, id=said.id, handler=handler, sent=sent)
                batch.add(Draft(header, None, [Written(number, said.body)], (), list(self._typed.terms(said.event)), [number], {}))


def run_said_in(id: str) -> str:
    """Return the id of the run that has said this: where an event was split it has said several things."""
    run, dot, place = id.rpartition(".")
    return run if dot and place.isdecimal() else id
