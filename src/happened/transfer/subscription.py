"""Subscriptions: notifications of another system, recorded as facts of our own.

What arrives becomes an input with an id made of the origin's log and the record's own, so it is recorded once, however often it comes. It is recorded in
one commit with how far the channel was read, and from then on it is an ordinary event, called after the system that it comes from: `crm/AddressChanged`.

What can't be read is kept as it came, under the same name but as no event, and is listed. It is tried again whenever the subscription is taken up.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any  # Any: events of any class

import msgspec

from happened.core.errors import Diverged, Invalid
from happened.core.messages import name_of
from happened.log.lease import Leases
from happened.log.log import Log
from happened.log.names import Wish
from happened.log.row import Header, Sent, Written, encode, taken_apart
from happened.log.typed import Typed
from happened.log.worker import IDLE_SECONDS, Course, Worker
from happened.log.writer import Batch, Draft
from happened.transfer.channel import NOTIFICATION, Channel, Inflow, Origin, Published

UNREAD_NOTE = "unread/"
"""Before a system's name and an id: what came and can't be read."""
ORIGIN_NOTE = "origin/"
"""Before a system's name: whose records have come from there."""
NOTE_RECORDS = 10_000
"""So many positions further, it is noted how far a channel was read, though nothing of it was for us."""


class Seen(msgspec.Struct, frozen=True):
    """Whose records were read, and the link of the origin's chain at the last of them that was kept."""

    log: str
    epoch: int
    position: int = 0
    digest: str = ""


class Unread(msgspec.Struct, frozen=True):
    """Where something lies that can't be read, and why."""

    position: int
    error: str


class Subscription:
    """What one system is listened to for."""

    def __init__(
        self, log: Log, leases: Leases, system: str, channel: Channel, events: Sequence[type], declare: Callable[[Batch], None], wish: Wish
    ) -> None:
        self.system = system
        self.worker = Worker(log, leases, subscription_worker(system), begin=self._begun, step=self._step, end=self._end)
        self._log = log
        self._channel = channel
        self._inflow = Inflow(channel)
        self._declare = declare
        self._wish = wish
        self._typed: Mapping[tuple[str, int], Typed] = {name_of(event): log.typed[event] for event in events}
        self._names = {name for name, _ in self._typed}
        self._course = Course(log, self.worker.name)
        self._seen: Seen | None = None
        self.head: int | None = None
        """Of the origin, when it was last heard of."""

    def statistics(self) -> dict[str, Any]:
        """Return how far the channel was read, what can't be read, and what keeps it from going on."""
        unread = self._log.engine.notes(f"{UNREAD_NOTE}{self.system}/")
        found = {key.removeprefix(f"{UNREAD_NOTE}{self.system}/"): msgspec.json.decode(body, type=Unread) for key, body in unread.items()}
        return {
            "origin": self.system,
            "events": sorted(f"{self.system}/{name}" for name in self._names),
            "position": self._course.position,
            "lag": None if self.head is None else max(0, self.head - self._course.position),
            "unread": [{"id": key, "position": one.position, "error": one.error} for key, one in found.items()],
            "failure": self.worker.failure,
        }

    def _begun(self, epoch: int) -> None:
        self._course.claim(epoch, start=0)
        body = self._log.engine.notes(ORIGIN_NOTE + self.system).get(ORIGIN_NOTE + self.system)
        self._seen = msgspec.json.decode(body, type=Seen) if body is not None else None
        self._inflow = Inflow(self._channel)
        self._read_again()
        self._go_back(check_origin(self._channel, self.system, self._seen))

    def _go_back(self, origin: Origin) -> None:
        """Go on from where the log of the other system was restored, if it was adopted since: what it says from there on is new."""
        seen, course = self._seen, self._course
        if seen is None or seen.epoch == origin.epoch:
            return
        after = Seen(origin.log, origin.epoch, seen.position, seen.digest)

        def add(batch: Batch) -> None:
            batch.kept[ORIGIN_NOTE + self.system] = encode(after).decode()

        course.record(min(course.position, origin.last_known(seen.epoch)), add)
        self._seen = after

    def _end(self) -> None:
        self._course.note()

    def _step(self) -> None:
        course = self._course
        page = self._inflow.read(course.position, IDLE_SECONDS)
        origin = check_origin(self._channel, self.system, self._seen, deep=bool(page.items))
        if self._seen is not None and origin.epoch != self._seen.epoch:
            self._inflow = Inflow(self._channel)
            self._go_back(check_origin(self._channel, self.system, self._seen))
            return
        self.head = page.head
        if page.head < course.position:
            raise Diverged(
                f"the log of `{self.system}` ends at {page.head}, and was read up to {course.position}: an older one was put in its place"
            )
        wanted = [item for item in page.items if item.what == NOTIFICATION and item.name in self._names]
        if wanted:
            last = wanted[-1]
            seen = Seen(origin.log, origin.epoch, last.position, last.digest)
            course.record(page.position, lambda batch: self._taken(batch, wanted, seen))
            self._seen = seen
        elif page.position == course.position:
            if course.position - course.progress.position >= NOTE_RECORDS:
                course.note()
        else:
            course.position = page.position

    def _taken(self, batch: Batch, wanted: Sequence[Published], seen: Seen) -> None:
        """Put what is new into the batch."""
        self._declare(batch)
        handler = batch.number(self._wish)
        for item in wanted:
            id = f"{seen.log}:{item.id}"  # noqa: A001 - it is one
            if batch.row_with(id) is None:
                self._put(batch, item, id, handler, seen)
        batch.kept[ORIGIN_NOTE + self.system] = encode(seen).decode()

    def _put(self, batch: Batch, item: Published, id: str, handler: int, seen: Seen) -> None:
        body, event, error = self._read(item.name, item.version, bytes(item.body))
        header = Header(
            id=id,
            correlation=item.correlation if item.correlation != id else None,
            causation=f"{seen.log}:{seen.epoch}:{item.position}:{item.digest}",
            occurred=item.occurred if item.occurred is not None else item.at,
            sent=Sent(handler, 0, waited=max(0, batch.at - item.at)),
            depth=item.depth,
        )
        if error is not None:
            number = batch.number(Wish("unread", f"{self.system}/{item.name}", item.version, ""))  # first: a new name takes a place
            batch.kept[f"{UNREAD_NOTE}{self.system}/{id}"] = encode(Unread(batch.position, error)).decode()
            batch.add(Draft(header, None, [Written(number, body)], (), (), (), {}))
            return
        typed = self._typed[item.name, item.version]
        batch.add(fact(batch, typed, header, body, event))

    def _read(self, name: str, version: int, body: bytes) -> tuple[bytes, Any, str | None]:
        """Return a body as our class has it; or as it came, with what is wrong with it."""
        typed = self._typed.get((name, version))
        if typed is None:
            known = ", ".join(str(one) for called, one in self._typed if called == name)
            return body, None, f"version {version} of `{name}` was published, and the class reads version {known}"
        try:
            return *typed.read(body), None
        except Invalid as error:
            return body, None, str(error)

    def _read_again(self) -> None:
        """Record as events what could not be read, and can be today."""
        start = f"{UNREAD_NOTE}{self.system}/"
        for key, noted in self._log.engine.notes(start).items():
            unread = msgspec.json.decode(noted, type=Unread)
            row = self._log.row_at(unread.position)
            assert row is not None, "a note of what is unread points to it"
            [(_, raw)] = list(taken_apart(row))
            name = self._log.names.by_number[raw.number]
            body, event, error = self._read(name.name.removeprefix(f"{self.system}/"), name.version, bytes(raw.body))
            if error is None:
                self._mend(key, key.removeprefix(start), self._typed[name.name.removeprefix(f"{self.system}/"), name.version], body, event)

    def _mend(self, key: str, id: str, typed: Typed, body: bytes, event: Any) -> None:
        def add(batch: Batch) -> None:
            self._declare(batch)
            if batch.row_with(f"{id}/read") is None:
                batch.add(fact(batch, typed, Header(id=f"{id}/read", causation=id, correlation=id), body, event))
            batch.kept[key] = None

        self._course.record(self._course.position, add)


def subscription_worker(system: str) -> str:
    """Return what the worker of a subscription is called."""
    return f"subscription/{system}"


def fact(batch: Batch, typed: Typed, header: Header, body: bytes, event: Any) -> Draft:
    """Return the row of one fact."""
    number = typed.number(batch)
    terms = list(typed.terms(event))
    return Draft(header, None, [Written(number, body)], [(0, event, None)], terms, [number], {}, [(typed.wish.name, terms)])


def check_origin(channel: Channel, system: str, seen: Seen | None, *, deep: bool = True) -> Origin:
    """Return whose records a channel has. `Diverged` unless they are of the log that was read before; `deep`: and its history is the same."""
    origin = channel.origin()
    if seen is None:
        return origin
    if origin.log == seen.log and origin.epoch > seen.epoch:
        if seen.position > origin.last_known(seen.epoch):
            raise Diverged(
                f"the log of `{system}` was restored and adopted without position {seen.position}, which was taken in here: what came from there after "
                f"position {origin.last_known(seen.epoch)} is of a history that is no more",
                system=system,
                position=seen.position,
            )
        deep = True
    elif (origin.log, origin.epoch) != (seen.log, seen.epoch):
        raise Diverged(
            f"the channel of `{system}` leads to the log {origin.log} in epoch {origin.epoch}, and what came before was of {seen.log} in epoch "
            f"{seen.epoch}: lead it to that one",
            system=system,
        )
    if deep and seen.position:
        ended = channel.head() < seen.position
        there = channel.recorded_at(seen.position)
        if ended or (there is not None and there[1] != seen.digest):
            raise Diverged(
                f"the log of `{system}` has another history at position {seen.position}: an older one was put in its place", system=system
            )
    return origin
