"""Subscriptions: notifications of another system, recorded as facts of our own.

What arrives becomes an input with an id made of the origin's log, its epoch if it was ever adopted, and the record's own, so it is recorded once, however often it comes. It is recorded in
one commit with how far the channel was read, and from then on it is an ordinary event, called after the system that it comes from: `crm/AddressChanged`.

What was published in an older version, or under an older name, is lifted by the app's upcasts when it comes, and recorded as today's class has it: it is
another system's record that is read there, and stays in that system's log as it was. Its upcasts are of the name that it has here: `crm/AddressChanged`.

What can't be read is kept as it came, under the same name but as no event, and is listed. It is tried again whenever the subscription is taken up.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple  # Any: events of any class

import msgspec

from happened.core.errors import Diverged, Incompatible, Invalid
from happened.core.messages import events_of, name_of
from happened.core.store import Engine
from happened.log.held import UNREAD, UNREAD_NOTE, Unread
from happened.log.lease import Leases
from happened.log.log import Log
from happened.log.names import Name, Wish
from happened.log.row import Header, Sent, Written, decode_header, encode, taken_apart
from happened.log.typed import Typed
from happened.log.worker import IDLE_SECONDS, Course, Worker
from happened.log.writer import Batch, Draft
from happened.transfer.channel import NOTIFICATION, Channel, Inflow, Origin, Page, Published

ORIGIN_NOTE = "origin/"
"""Before a system's name: whose records have come from there."""
FIRST_EPOCH = 1
NOTE_RECORDS = 10_000
"""So many positions further, it is noted how far a channel was read, though nothing of it was for us."""


class Seen(msgspec.Struct, frozen=True):
    """Whose records were read, and the link of the origin's chain at the last of them that was kept."""

    log: str
    epoch: int
    position: int = 0
    """Of the last that was kept; 0: none was."""
    digest: str = ""


def all_unread(engine: Engine) -> list[dict[str, Any]]:
    """Return what came from other systems and can't be read, as people are told it: in which system's log it has which id, where it lies here, and why."""
    noted = {key.removeprefix(UNREAD_NOTE): msgspec.json.decode(body, type=Unread) for key, body in engine.notes(UNREAD_NOTE).items()}
    return [
        dict(zip(("origin", "id", "position", "error"), (*key.split("/", 1), one.position, one.error), strict=True))
        for key, one in sorted(noted.items(), key=lambda each: each[1].position)
    ]


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
        former = {name.removeprefix(f"{system}/") for name, _ in log.reader.lifts.chains if name.startswith(f"{system}/")}
        self._wanted = self._names | former
        """What they are called, and were."""
        self._course = Course(log, self.worker.name)
        self._seen: Seen | None = None
        self.head: int | None = None
        """Of the origin, when it was last heard of."""

    def statistics(self) -> dict[str, Any]:
        """Return how far the channel was read, by whichever process, what can't be read, and what keeps it from going on."""
        position = self._course.reached
        return {
            "origin": self.system,
            "events": sorted(f"{self.system}/{name}" for name in self._names),
            "position": position,
            "lag": None if self.head is None else max(0, self.head - position),
            "unread": [one for one in all_unread(self._log.engine) if one["origin"] == self.system],
            "failure": self.worker.failure,
        }

    def _begun(self, epoch: int) -> None:
        self._course.claim(epoch, start=0)
        body = self._log.engine.notes(ORIGIN_NOTE + self.system).get(ORIGIN_NOTE + self.system)
        self._seen = msgspec.json.decode(body, type=Seen) if body is not None else None
        self._inflow = Inflow(self._channel)
        self._read_again()
        if self._seen is not None and not self._seen.position and self._seen.log != self._channel.origin().log:
            self._seen = None  # nothing has come from that one
        self._go_back(check_origin(self._channel, self.system, self._seen))

    def _go_back(self, origin: Origin) -> None:
        """Go on from where the log of the other system was restored, if it was adopted since: what it says from there on is new.

        Whose log it is is noted before anything of it has come: that much of it was passed over is of that log and epoch, too.
        """
        seen, course = self._seen, self._course
        if seen is not None and seen.epoch == origin.epoch:
            return
        after = Seen(origin.log, origin.epoch, seen.position, seen.digest) if seen is not None else Seen(origin.log, origin.epoch)

        def add(batch: Batch) -> None:
            batch.kept[ORIGIN_NOTE + self.system] = encode(after).decode()

        course.record(min(course.position, origin.last_known(seen.epoch)) if seen is not None else 0, add)
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
        check_end(self._channel, self.system, page, course.position)
        wanted = [item for item in page.items if item.what == NOTIFICATION and item.name in self._wanted]
        if wanted:
            last = wanted[-1]
            seen = Seen(origin.log, origin.epoch, last.position, last.digest)
            course.record(page.position, lambda batch: self._taken(batch, wanted, seen, origin))
            self._seen = seen
        elif page.position == course.position:
            if course.position - course.progress.position >= NOTE_RECORDS:
                course.note()
        else:
            course.position = page.position

    def _taken(self, batch: Batch, wanted: Sequence[Published], seen: Seen, origin: Origin) -> None:
        """Put what is new into the batch.

        In a log that was restored an id may come again that something had which was lost: so from the second epoch on the epoch is a part of it.
        """
        self._declare(batch)
        handler = batch.number(self._wish)
        for item in wanted:
            epoch = origin.epoch_of(item.position)
            id = f"{seen.log}:{item.id}" if epoch == FIRST_EPOCH else f"{seen.log}:{epoch}:{item.id}"  # noqa: A001 - it is one
            if batch.row_with(id) is None:
                self._put(batch, item, id, handler, seen)
        batch.kept[ORIGIN_NOTE + self.system] = encode(seen).decode()

    def _put(self, batch: Batch, item: Published, id: str, handler: int, seen: Seen) -> None:
        found, error = self._read(item.name, item.version, item.parts, bytes(item.body), item.position)
        header = Header(
            id=id,
            correlation=item.correlation if item.correlation != id else None,
            causation=f"{seen.log}:{seen.epoch}:{item.position}:{item.digest}",
            occurred=item.occurred if item.occurred is not None else item.at,
            sent=Sent(handler, 0, waited=max(0, batch.at - item.at)),
            depth=item.depth,
        )
        if error is not None:
            wish = Wish(UNREAD, f"{self.system}/{item.name}", item.version, "", parts=item.parts)
            number = batch.number(wish)  # first: a new name takes a place
            batch.kept[f"{UNREAD_NOTE}{self.system}/{id}"] = encode(Unread(batch.position, error)).decode()
            batch.add(Draft(header, None, [Written(number, bytes(item.body))], (), (), (), {}))
        elif found:
            batch.add(facts(batch, found, header))

    def _read(self, name: str, version: int, parts: Any, body: bytes, position: int) -> "tuple[Sequence[Fact], str | None]":
        """Return a body as our classes have it, one or what an upcast has split it into; or what is wrong with it."""
        lifts = self._log.reader.lifts
        named = Name(0, "event", f"{self.system}/{name}", version, "", parts=parts or [])
        way = lifts.way(named)
        typed = self._typed.get((name, version))
        try:
            if way is not None:
                lifted = events_of(lifts.lifted(way, named, msgspec.json.decode(body), position))
                return [Fact(self._log.typed[type(one)], *self._log.typed[type(one)].checked(one)) for one in lifted], None
            if typed is not None:
                return [Fact(typed, *typed.read(body))], None
        except (Incompatible, Invalid) as error:
            return [], str(error)
        known = ", ".join(str(one) for called, one in self._typed if called == name) or "none"
        return [], (
            f"version {version} of `{name}` was published, and the class reads version {known}: where that is newer, say in `upcasts` how it is read, "
            f'`Upcast("{self.system}/{name}", {version}, ...)`'
        )

    def _read_again(self) -> None:
        """Record as events what could not be read, and can be today, in the order in which it came."""
        start = f"{UNREAD_NOTE}{self.system}/"
        noted = [(key, msgspec.json.decode(body, type=Unread)) for key, body in self._log.engine.notes(start).items()]
        for key, unread in sorted(noted, key=lambda one: one[1].position):
            row = self._log.row_at(unread.position)
            assert row is not None, "a note of what is unread points to it"
            [(_, raw)] = list(taken_apart(row))
            name = self._log.names.by_number[raw.number]
            found, error = self._read(name.name.removeprefix(f"{self.system}/"), name.version, name.parts, bytes(raw.body), unread.position)
            if error is None:
                self._mend(key, decode_header(row.head), found)

    def _mend(self, key: str, unread: Header, found: "Sequence[Fact]") -> None:
        """Record what was kept unread, as of when it happened and in its conversation."""
        id, sent = unread.id, unread.sent  # noqa: A001 - it is one
        assert sent is not None, "what is unread was put there by a subscription"

        def add(batch: Batch) -> None:
            self._declare(batch)
            if found and batch.row_with(f"{id}/read") is None:
                header = Header(
                    id=f"{id}/read",
                    correlation=unread.correlation or id,
                    causation=id,
                    occurred=unread.occurred,
                    sent=Sent(batch.number(self._wish), 0, waited=sent.waited),
                    depth=unread.depth,
                )
                batch.add(facts(batch, found, header))
            batch.kept[key] = None

        self._course.record(self._course.position, add)


def subscription_worker(system: str) -> str:
    """Return what the worker of a subscription is called."""
    return f"subscription/{system}"


class Fact(NamedTuple):
    """What is recorded of what came, as one of our classes has it."""

    typed: Typed
    body: bytes
    event: Any


def facts(batch: Batch, found: Sequence[Fact], header: Header) -> Draft:
    """Return the row of one fact, or of those that it was split into."""
    numbers = [one.typed.number(batch) for one in found]
    terms = [list(one.typed.terms(one.event)) for one in found]
    return Draft(
        header,
        None,
        [Written(number, one.body) for number, one in zip(numbers, found, strict=True)],
        [(place, one.event, None) for place, one in enumerate(found)],
        list(dict.fromkeys(itertools.chain.from_iterable(terms))),
        list(dict.fromkeys(numbers)),
        {},
        [(one.typed.wish.name, own) for one, own in zip(found, terms, strict=True)],
    )


def check_end(channel: Channel, system: str, page: Page, position: int) -> None:
    """Raise `Diverged` where an origin ends before what was read of it. A page may be of a moment ago, and read since by another process."""
    head = page.head if page.head >= position else channel.head()
    if head < position:
        raise Diverged(
            f"the log of `{system}` ends at {head}, and was read up to {position}: an older one was put in its place", system=system
        )


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
