"""The log: typed in, typed out, above any store.

`append` records facts by hand, under a condition if there is one; `read` streams records in either direction with constant memory; `wait` wakes for what
any process commits; `verify` proves that nothing was changed or lost. Deciders don't come this way: they are jobs of the same writer.
"""

import heapq
import operator
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self  # Any: bodies are of any class

import msgspec

from happened.core.boundary import Boundary, Query
from happened.core.errors import Broken, Conflict, Diverged, IdReused, Incompatible, Invalid
from happened.core.messages import Command, Event, Message, is_data
from happened.core.plain import NO_DATA, encoded
from happened.core.store import Commit, Engine, Inspects, Row, Unseen, Wanted
from happened.core.tags import SEPARATOR, is_unicode, term, text_given
from happened.core.waiting import within
from happened.core.world import Source, microseconds
from happened.log.deciding import inside_decider
from happened.log.lifting import Lifts
from happened.log.names import Names, Wish
from happened.log.receipt import Receipt, recorded
from happened.log.records import INPUT, INTERNAL, Reader, Record
from happened.log.row import (
    BUILT_IN,
    CONVERSATION,
    ERASED,
    FORMAT,
    RECORD_BYTES_MAX,
    Extra,
    Header,
    RawRecord,
    Written,
    decode_header,
    encode,
    taken_apart,
)
from happened.log.typed import Typed
from happened.log.verify import Noted, Verified, verified
from happened.log.writer import Batch, Draft, Job, Memory, Writer

IDENTITY_NOTE = "log"
ERASED_NOTE = "erased"
"""Where the last erasure stands."""
KIND_NOTE = "kind/"
"""Before a number: the framework's own number of a kind that came later, with the release that reads it."""
KIND_COLD = KIND_NOTE + "cold"
"""The note of a log with a cold part."""
KINDS = {*map(str, BUILT_IN), KIND_COLD.removeprefix(KIND_NOTE)}
"""What stands behind `kind/` of all that this release reads."""
TEXT_CHARACTERS_MAX = 1_000
"""Characters of an id, an actor, a correlation, a causation, a name: they stand in every index and every list."""
DIGEST_DIGITS_MIN, DIGEST_DIGITS = 32, 64
"""As many as a receipt has, and as a digest has."""
RECENT_MAX = 20_000
"""Events whose tags are kept in memory for the conditions of `append`; a condition that reaches further back reads the log."""

FAR = 1 << 14
"""Positions: who has more of them before it looks in the index for what it needs of them; the index knows stretches of a quarter of that."""

Progress = Callable[[int, int], None]
"""Hears now and then how much of long work is done, and of how much."""

PLAIN = Extra()
FIRST_US, LAST_US = microseconds(datetime.min.replace(tzinfo=UTC)), microseconds(datetime.max.replace(tzinfo=UTC))
"""The first and the last time that there is in UTC."""


class CameFrom(msgspec.Struct, frozen=True):
    """Which log a copy was made of, and up to where."""

    log: str
    epoch: int
    position: int
    digest: str
    """The chain's link there, in hex: it is the same in both."""


class Identity(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who a log is."""

    id: str
    epoch: int
    format: int
    app: str
    ended: tuple[tuple[int, int], ...] = ()
    """The epochs before, and the last position of each: what is known of an epoch after that was in another history, which is no more."""
    origin: CameFrom | None = None

    def has(self, epoch: int, position: int) -> bool:
        """Say whether a position that was known in an epoch is one of this history: in the epoch of today, or before the earlier one ended."""
        return position <= last_known(self.epoch, self.ended, epoch)


def last_known(epoch: int, ended: Sequence[tuple[int, int]], known: int) -> int:
    """Return up to which position what was known of a log in one epoch is true in another one, that of today: all, where they are the same."""
    if known >= epoch:
        return EVERYTHING_SEEN if known == epoch else -1
    limits = [last for one, last in ended if one >= known] or [last for _, last in ended[-1:]]
    return min(limits, default=-1)


class Loose(msgspec.Struct, frozen=True):
    """A fact without a class: its name, its body as JSON data, and its tags as (tag, value) pairs. For tools and imports.

    `Invalid` where the app has a class of that name and version, or upcasts that read it.
    """

    name: str
    body: Any
    tags: tuple[tuple[str, str], ...] = ()
    version: int = 1


Fact = Event | Loose | Message


class Log:
    """One open log. `Running.log` has it; `open_log(url)` opens one without an app."""

    def __init__(
        self,
        engine: Engine,
        source: Source,
        classes: Iterable[type],
        *,
        app: str = "",
        called: Mapping[type, str] | None = None,
        ignores: Iterable[str] | None = (),
        lifts: Lifts | None = None,
        progress: Progress = lambda _done, _all: None,
        guest: bool = False,
    ) -> None:
        self.engine = engine
        self.source = source
        self.names = Names()
        self.reader = Reader(self.names, classes, called, lifts)
        self.identity = self._identify(app)
        self._check_kinds()
        self.opened_at = self.head
        self.names.learn(engine.notes)  # after the head: all that stands up to it is known then
        self.names.noted = engine.notes
        if ignores is not None:
            self._check_claimed(ignores)
        self._guest = guest
        self.indexed = engine.index(self.reader.reading(), self.reader.row_terms, progress, guest=guest)
        """Whether what is asked for by tags is looked up: not for a guest who reads them otherwise than the app of this log."""
        self.typed = {
            cls: Typed(cls, self.names, name=name, before=self.reader.lifts.former_names(cls))
            for (_, name, _), cls in self.reader.classes.items()
        }
        self._recent = Recent(self)
        self.writer: Writer

    def __repr__(self) -> str:
        """Tell which log it is."""
        return f"<Log {self.identity.id} of {self.identity.app or 'no app'}, epoch {self.identity.epoch}>"

    def write_with(self, memory: Memory) -> Writer:
        """Make the writer, over this memory image."""
        self.writer = Writer(self.engine, self.names, self.reader, self.source, memory, self.opened_at, guest=self._guest)
        self.writer.forgetting.append(self._forget)
        return self.writer

    def close(self) -> None:
        """Answer every caller and give the store back. For a log of `open_log`; an app closes its own."""
        self.writer.close()
        self.engine.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close."""
        self.close()

    # --- writing by hand

    def append(
        self,
        facts: Sequence[Fact] | Fact,
        *,
        unless: Boundary | None = None,
        id: str | None = None,
        actor: str = "",
        correlation: str | None = None,
        wait_seconds_max: float = 10,
    ) -> Receipt:
        """Record facts together, in one row: all of them become visible at once, or none.

        `Conflict` if an event that `unless` asks for lies after its position. With an id that is known nothing is recorded, and the first receipt comes
        back. `Invalid` for what is not valid; then nothing is recorded. What a `Message` says counts as if it was given here, and must be the same for
        all; only `id` and `occurred` of several are each record's own, and such an id is kept, and not looked up.
        """
        job = self._job(facts, unless, id, actor, correlation)
        self.writer.submit(job, wait_seconds_max)
        return self._receipt(job)

    async def aappend(
        self,
        facts: Sequence[Fact] | Fact,
        *,
        unless: Boundary | None = None,
        id: str | None = None,
        actor: str = "",
        correlation: str | None = None,
        wait_seconds_max: float = 10,
    ) -> Receipt:
        """Do what `append` does, awaited."""
        job = self._job(facts, unless, id, actor, correlation)
        await self.writer.asubmit(job, wait_seconds_max)
        return self._receipt(job)

    # --- reading

    @property
    def head(self) -> int:
        """The position of the last record that is durable, of any process."""
        return self.engine.wait(EVERYTHING_SEEN, 0)

    def read(
        self, query: Query | None = None, *, after: int = 0, until: int | None = None, backwards: bool = False, limit: int | None = None
    ) -> Iterator[Record]:
        """Stream records in order of position, or backwards: all of them, or the events that a query asks for.

        They lie behind `after`, which may lie inside a command, and end with a whole one: `until` inside a command is rounded down to the end of the one
        before it. Only `limit`, which counts records, may stop inside: who goes on after the last one that he was given is given the next. An event
        that was split comes as several records of one position, and `limit` is to be above their number. Memory is one page, whatever the length. What is
        recorded after the call began may or may not be seen.
        """
        after = place_of(after)
        until = None if until is None else place_of(until)
        limit = _limit(limit)
        _check_is(Query, query, "query(...)")
        wanted = None if query is None or not query.items else [self._wanted(item.names, item.tags) for item in query.items]
        left = limit
        pages = self.engine.read(after, until, wanted=wanted, backwards=backwards, rows_max=min(1000, max(limit or 1000, 1)))
        for rows in pages:
            self.reader.learn(rows)
            for row in rows:
                records = self.reader.records(row)
                for record in reversed(list(records)) if backwards else records:
                    if record.position <= after:
                        continue
                    if query is not None and not self._asked_for(query, record):
                        continue
                    if left is not None:
                        if left <= 0:
                            return
                        left -= 1
                    yield record

    def find(self, id: str) -> list[Row]:
        """Return the rows that use an id: none, one, or for a command that was enqueued two."""
        _check_text("id", id, or_empty=True)
        found: list[Row] = []
        for position in self.engine.find_id(id):
            row = self.row_at(position)
            if row is not None:
                header = decode_header(row.head)
                if id in (header.id, header.decides):
                    found.append(row)
        return found

    def conversation(self, correlation: str) -> Iterator[Row]:
        """Yield the rows of a conversation in order: those that its first message has, whose id it is called by, and those that say it is theirs."""
        own = [row for row in self.find(correlation) if decode_header(row.head).correlation is None]
        pages = self.engine.read(wanted=[Wanted([term(CONVERSATION, correlation)])])
        others = (row for rows in pages for row in rows if decode_header(row.head).correlation == correlation)
        yield from heapq.merge(sorted(own, key=_position), others, key=_position)

    def row_at(self, position: int) -> Row | None:
        """Return the row that holds a position."""
        position = place_of(position)
        for rows in self.engine.read(max(position, 1) - 1, rows_max=1):
            return rows[0] if rows[0].position <= position <= rows[0].last else None
        return None

    def position_at(self, moment: datetime) -> int:
        """Return the last position that was recorded at a time or before, 0 where none was; of a command its last. Cost: some twenty looks at a row."""
        wanted = microseconds(with_zone(moment))
        low, high = 0, self.head
        while low < high:  # what is recorded up to `low` was recorded in time, what lies after `high` was not
            row = self.row_at((low + high) // 2 + 1)
            assert row is not None, "positions are dense"
            if row.at <= wanted:
                low = row.last
            else:
                high = row.position - 1
        return low

    def wait(self, after: int, wait_seconds_max: float) -> int:
        """Wait until something lies after a position; return the last position, as of a moment ago. Wakes for commits of any process."""
        return self.engine.wait(after, within(wait_seconds_max))

    def receipt_of(self, row: Row, *, repeated: bool, events: tuple[Any, ...] | None = None) -> Receipt:
        """Return the receipt of a row."""
        header = decode_header(row.head)
        if events is None:
            with recorded():
                events = tuple(
                    record.body
                    for record in self.reader.records(row)
                    if record.kind in (INTERNAL, INPUT) and (isinstance(record.body, Event) or is_data(record.body))
                )
        return Receipt(
            self.identity.id, self.identity.epoch, row.last, row.digest[:16].hex(), header.id or header.decides or "", events, repeated
        )

    def receipt(self, row: Row, id: str, events: tuple[Any, ...]) -> Receipt:
        """Return the receipt of a row that was recorded just now under this id."""
        identity = self.identity
        return Receipt(identity.id, identity.epoch, row.position + row.count - 1, row.digest[:16].hex(), id, events)

    def since(self, since: "Receipt | str | int | None") -> int:
        """Return the position that a receipt, its text, or a bare position asks for. `Diverged` for a receipt of another history."""
        if since is None:
            return 0
        if isinstance(since, str):
            since = Receipt.parse(since)
        if isinstance(since, Receipt):
            self._check_own(since)
            row = self.row_at(since.position) if since.digest else None
            if row is not None and row.digest[:16].hex() != since.digest:
                raise Diverged(
                    "the receipt is of another history of this log: a backup was put in its place",
                    receipt=str(since),
                    position=since.position,
                )
            return place_of(since.position)
        return place_of(since)

    def _check_own(self, receipt: Receipt) -> None:
        """Raise `Diverged` for a receipt of another log, or of what was lost when this one was adopted."""
        identity = self.identity
        if receipt.log != identity.id:
            raise Diverged("the receipt is of another log than this one", receipt=str(receipt), log=identity.id, epoch=identity.epoch)
        if receipt.epoch > identity.epoch:
            raise Diverged(
                f"the receipt is of epoch {receipt.epoch}, and this log is in epoch {identity.epoch}: it is a copy from before it was adopted",
                receipt=str(receipt),
                log=identity.id,
                epoch=identity.epoch,
            )
        if not identity.has(receipt.epoch, place_of(receipt.position)):
            raise Diverged(
                f"the receipt is of epoch {receipt.epoch}, and the log was adopted since, without what it speaks of: what was recorded there is lost",
                receipt=str(receipt),
                position=receipt.position,
                epoch=identity.epoch,
            )

    # --- verifying

    def verify(self, progress: Progress = lambda _done, _all: None, *, noted: Receipt | str | None = None) -> Verified:
        """Read the whole log: positions dense, times never falling, the chain unbroken, every record readable, every name recorded before its use.

        The names that the log is opened with must be those that it recorded. What a handler of this log heard (the causation `ID#3`, where the id
        `ID` is in it) must stand before what it sent; a causation that a caller gave is a text, and may come later or never. The index of a file must be
        what was written, too. Returns what was counted;
        `Broken` with the first bad position. Cost: about 10 µs a row, and 100 µs for one that names a record as its cause.

        With `noted`, a receipt, its text, or a digest in hex (its first 32 digits do), it reads up to there, and proves that nothing up to there was
        changed, taken out or put in since that was noted, not even by somebody who made all digests anew. `Diverged` for a receipt of another log.
        """
        epochs = [self.identity.epoch, *(ended for _, ended in self.identity.ended)]
        found = verified(self.engine, self.reader, self.find, progress, epochs, self._noted(noted))
        if isinstance(self.engine, Inspects):
            self.engine.inspect()
        return found

    def _noted(self, noted: object) -> Noted | None:
        """Read what was noted. `Invalid` for what is no digest."""
        if noted is None:
            return None
        if isinstance(noted, str) and ":" in noted:
            noted = Receipt.parse(noted)
        if isinstance(noted, Receipt):
            self._check_own(noted)
        digest = noted.digest if isinstance(noted, Receipt) else noted
        if (
            not isinstance(digest, str)
            or not DIGEST_DIGITS_MIN <= len(digest) <= DIGEST_DIGITS
            or set(digest.lower()) - set(string.hexdigits)
        ):
            raise Invalid(
                f"{digest!r} is no digest: that is a receipt, or {DIGEST_DIGITS_MIN} to {DIGEST_DIGITS} hexadecimal digits",
                digest=str(digest),
            )
        return Noted(digest.lower(), noted.position if isinstance(noted, Receipt) else None)

    # --- within

    def describe(self, event: Any) -> tuple[str, Sequence[str]]:
        """Return the name and the terms of an event."""
        typed = self.typed[type(event)]
        return typed.wish.name, typed.terms(event)

    def condition(self, batch: Batch, unless: Boundary) -> None:
        """Raise `Conflict` if the batch's log holds, after the boundary's position, an event that its query asks for."""
        self._recent.check(batch, unless)

    def committed(self, row: Row, facts: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Take a row of facts for durable."""
        self._recent.add(row, facts)

    def far_behind(self, after: int, until: int, events: Iterable[type]) -> Sequence[Wanted] | None:
        """Return what to ask the index for, to read on to a known position with no more than these events; `None` where it is not far: all is read then.

        Every name that is used up to there is known after this.
        """
        if until - after < FAR:
            return None
        return [Wanted((), self.numbers([self.typed[event].wish.name for event in events]))]

    def _forget(self) -> None:
        """Let go of the tags of events that may have been erased; what is asked for is read again."""
        self._recent = Recent(self)

    def numbers(self, names: Iterable[str]) -> list[int]:
        """Return the numbers of all versions of these names of events, whoever gave them; one that matches nothing where there are none. Cost: a look at notes."""
        self.names.learn(self.engine.notes)
        return self.numbers_known(names)

    def numbers_known(self, names: Iterable[str]) -> list[int]:
        """Do what `numbers` does, of the names that this process has met: those of all that it has read."""
        wanted = set(names)
        found = [name.number for name in list(self.names.by_number.values()) if name.what == "event"]
        return [number for number in found if not wanted.isdisjoint(self.reader.names_today(number))] or [-1]

    def _identify(self, app: str) -> Identity:
        """Return who the log is. The lock is taken only to say it for the first time: whoever only reads must not wait for a writer."""
        identity = identity_in(self.engine.notes(IDENTITY_NOTE))
        if identity is None or (app and not identity.app):
            found: list[Identity] = []

            def decide(unseen: Unseen) -> Commit:
                noted = identity_in(unseen.notes(IDENTITY_NOTE)) or Identity(self.source.new_id().split("-")[0], 1, FORMAT, "")
                found.append(noted if noted.app else msgspec.structs.replace(noted, app=app))
                return Commit(notes={IDENTITY_NOTE: encode(found[0]).decode()})

            self.engine.append(decide, EVERYTHING_SEEN)
            [identity] = found
        if identity.format > FORMAT:
            raise Incompatible(
                f"this log has format {identity.format}, this release reads up to {FORMAT}: use a newer release of `happened`",
                format=identity.format,
            )
        if app and identity.app and identity.app != app:
            raise Diverged(f"this is a log of the app `{identity.app}`, not of `{app}`", log=identity.app, app=app)
        return identity

    def _check_kinds(self) -> None:
        for note, release in self.engine.notes(KIND_NOTE).items():
            number = note.removeprefix(KIND_NOTE)
            if number not in KINDS:
                raise Incompatible(
                    f"this log has records of a kind that this release does not know (number {number}): it takes release {release} of `happened`",
                    number=number,
                    release=release,
                )

    def _check_claimed(self, ignores: Iterable[str]) -> None:
        unclaimed = dict.fromkeys((name.what, name.name, name.version) for name in self.reader.unclaimed(ignores))
        if unclaimed:
            listed = ", ".join(f"{what} `{name}` version {version}" for what, name, version in unclaimed)
            raise Incompatible(
                f"the log has records of {listed}, which no class of this app claims: {'; '.join(self._ways_to_claim(unclaimed))}",
                names=list(dict.fromkeys(name for _, name, _ in unclaimed)),
            )

    def _ways_to_claim(self, unclaimed: Iterable[tuple[str, str, int]]) -> Iterator[str]:
        """Yield what is to be done about names that no class has, and about each version of those that one has."""
        newest = {(what, name): version for what, name, version in sorted(self.reader.classes)}
        gone = [one for one in unclaimed if one[:2] not in newest]
        if gone:
            ignored = ", ".join(dict.fromkeys(_quoted(name) for _, name, _ in gone))
            yield f"list the class, with {_kept(*gone[0][1:])} where it was renamed, or say `ignores=[{ignored}]`"
        for what, name, version in unclaimed:
            today = newest.get((what, name), 0)
            if today > version:
                yield (
                    f"`{name}` has version {today} now, so add `Upcast({_quoted(name)}, {version}, ...)`, or list its old class, too, "
                    f"with {_kept(name, version)}"
                )
            elif today:
                yield f"`{name}` has version {today} here, so open the log with the release that has recorded version {version}"

    def _job(self, facts: Sequence[Fact] | Fact, unless: Boundary | None, id: str | None, actor: str, correlation: str | None) -> "Facts":
        if inside_decider():
            raise Invalid("a fact can't be appended from inside a decider, `evolve` or an upcast: yield the event")
        listed = _listed(facts)
        if not listed:
            raise Invalid("nothing to record: `append` needs at least one event")
        check_envelope(id, actor, correlation, None)
        _check_is(Boundary, unless, "unless=Boundary(query(...), after)")
        if unless is not None:
            place_of(unless.after)
        if not any(isinstance(fact, Message) for fact in listed):
            return Facts(self, [self.written(fact) for fact in listed], id, actor=actor, correlation=correlation, unless=unless)
        messages = [fact if isinstance(fact, Message) else Message(fact) for fact in listed]
        for message in messages:
            check_envelope(message.id, message.actor, message.correlation, message.causation)
        who = _shared("actor", actor or None, [message.actor or None for message in messages])
        correlation = _shared("correlation", correlation, [message.correlation for message in messages])
        causation = _shared("causation", None, [message.causation for message in messages])
        occurred: int | None = None
        if len(messages) == 1:
            [alone] = messages
            id = _shared("id", id, [alone.id])  # noqa: A001 - as `append` calls it
            occurred = occurred_us(alone)
            recordings = [self.written(alone.body)]
        else:
            recordings = [self.written(message.body, Extra(id=message.id, occurred=occurred_us(message))) for message in messages]
        return Facts(self, recordings, id, actor=who or "", correlation=correlation, causation=causation, occurred=occurred, unless=unless)

    def written(self, fact: object, extra: Extra = PLAIN) -> "Recording":
        """Check and encode one fact."""
        typed = self.typed.get(type(fact))
        if typed is None or typed.what != "event":
            if isinstance(fact, Loose):
                recording = _loose(fact, extra)
                self._check_without_class(fact.name, fact.version)
                return recording
            raise Invalid(
                f"`{type(fact).__name__}` can't be recorded: "
                + ("a command is dispatched" if isinstance(fact, Command) else "list its class in the app's `records`"),
                type=type(fact).__name__,
            )
        body, event = typed.checked(fact)
        return Recording(typed, typed.wish, body, event, typed.terms(event), extra)

    def _check_without_class(self, name: str, version: int) -> None:
        """Raise `Invalid` for what is read as an event of a class here: its states would not hear it, and its tags would be others than those of the class."""
        cls = self.reader.classes.get(("event", name, version))
        if cls is not None:
            raise Invalid(f"`{name}` has a class here: record an instance of `{cls.__name__}`", name=name, version=version)
        if (name, version) in self.reader.lifts.chains:
            raise Invalid(
                f"`{name}` version {version} is read by upcasts here: record what they lead to, or append it where no app reads it, by `open_log`",
                name=name,
                version=version,
            )

    def _receipt(self, job: "Facts") -> Receipt:
        if job.row is not None:
            events = tuple(recording.event for recording in job.recordings if recording.event is not None)
            return self.receipt_of(job.row, repeated=False, events=events)
        return self.receipt_of(job.result, repeated=True)

    def _wanted(self, names: Iterable[str], tags: Iterable[tuple[str, str]]) -> Wanted:
        return Wanted([term(*tag) for tag in tags], self.numbers(names) if names else ())

    def _asked_for(self, query: Query, record: Record) -> bool:
        if record.kind not in (INPUT, INTERNAL) or isinstance(record.body, Command) or not self._is_event(record):
            return False
        return query.matches(record.name, [term(*tag) for tag in record.tags])

    def _is_event(self, record: Record) -> bool:
        lifts = self.reader.lifts
        if not isinstance(record.body, Event) and record.name in lifts.retired:
            return False
        if is_data(record.body) and (record.name, record.version) in lifts.chains:  # it became no event at all
            return False
        return any(
            name.what == "event" and record.name in self.reader.names_today(name.number) for name in list(self.names.by_number.values())
        )


EVERYTHING_SEEN = 1 << 62

_position = operator.attrgetter("position")


def place_of(position: object) -> int:
    """Return a position that a caller gave; one beyond all there can be comes down to that. `Invalid` for what is no position."""
    if type(position) is not int or position < 0:
        raise Invalid(f"{position!r} is no position: that is a whole number from 0 on", position=str(position))
    return min(position, EVERYTHING_SEEN)


def not_there_yet(position: int, head: int) -> Invalid:
    """Return the error of a position that lies behind the end of a log."""
    return Invalid(f"the log ends at position {head}: there is no {position} in it yet", position=position, head=head)


def latest_erasure(engine: Engine) -> int:
    """Return the position of the last erasure of a log, 0 if there was none."""
    return int(engine.notes(ERASED_NOTE).get(ERASED_NOTE, "0"))


def identity_in(notes: Mapping[str, str]) -> Identity | None:
    """Return who a log is, by its notes; `None` where nobody has said it yet."""
    body = notes.get(IDENTITY_NOTE)
    try:
        return msgspec.json.decode(body, type=Identity) if body is not None else None
    except msgspec.MsgspecError as error:
        raise Broken(f"the note `{IDENTITY_NOTE}`, which says who the log is, can't be read: {error}") from error


def check_envelope(id: object, actor: object, correlation: object, causation: object) -> None:
    """Raise `Invalid` unless these can stand in a header: texts that are UTF-8 and not too long. Cost: 0.1 µs; no call is made where all is well."""
    if id is not None and (type(id) is not str or not id or not id.isascii() or len(id) > TEXT_CHARACTERS_MAX or "#" in id):
        _check_text("id", id)
        _check_names_no_part(id)
    if type(actor) is not str or (actor and (not actor.isascii() or len(actor) > TEXT_CHARACTERS_MAX)):
        _check_text("actor", actor, or_empty=True)
    if correlation is not None and (type(correlation) is not str or not correlation.isascii() or len(correlation) > TEXT_CHARACTERS_MAX):
        _check_text("correlation", correlation, or_empty=True)
    if causation is not None and (type(causation) is not str or not causation.isascii() or len(causation) > TEXT_CHARACTERS_MAX):
        _check_text("causation", causation, or_empty=True)


def _check_text(what: str, given: object, *, or_empty: bool = False) -> None:
    if type(given) is not str:
        raise Invalid(f"`{what}` is text, not {given!r}: " + (f"write str({what})" if given is not None else "leave it out"), field=what)
    if not given and not or_empty:
        raise Invalid(f"`{what}` must not be empty", field=what)
    if len(given) > TEXT_CHARACTERS_MAX:
        raise Invalid(f"`{what}` may have {TEXT_CHARACTERS_MAX:,} characters, this one has {len(given):,}", field=what)
    if not is_unicode(given):
        raise Invalid(f"`{what}` is {given!r}, which has half a character and is no valid text", field=what)


def _check_names_no_part(id: Any) -> None:
    """Raise `Invalid` for an id such as `sale#1`: the record after `sale` in the row of that message is called so, and causes name it."""
    message, _, ordinal = id.rpartition("#")
    if message and ordinal.isdecimal():
        raise Invalid(
            f"`id` is {id!r}, which is what a record of the message {message!r} is called: write it without `#` before the number, as in "
            f"{f'{message}-{ordinal}'!r}",
            field="id",
        )


def _quoted(name: str) -> str:
    return encode(name).decode()


def _kept(name: str, version: int) -> str:
    """Return how a class keeps the name that it has in the log."""
    return f"`@named({_quoted(name)}{f', version={version}' if version > 1 else ''})`"


def _listed(facts: Any) -> list[Any]:
    """Return what is to be recorded together as a list. `Invalid` for what is none: a text would be taken for its letters, data for its keys."""
    if isinstance(facts, Event | Loose | Message):
        return [facts]
    if not _are_many(facts):
        raise Invalid(f"{facts!r} is no fact: append an event, a `Loose`, a `Message`, or a list of them", facts=repr(facts))
    return list(facts)


def _are_many(given: object) -> bool:
    return isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)


def _check_is(kind: type, given: object, instead: str) -> None:
    """Raise `Invalid` unless it is of this class, or nothing was given."""
    if given is not None and not isinstance(given, kind):
        raise Invalid(f"{given!r} is no `{kind.__name__}`: write {instead}", given=repr(given))


def _limit(given: object) -> int | None:
    """Return how many records are wanted at most. `Invalid` for what is no such number."""
    if given is not None and (type(given) is not int or given < 0):
        raise Invalid(f"`limit` is {given!r}: it is a whole number from 0 on", field="limit")
    return given


def _shared(what: str, given: str | None, own: Sequence[str | None]) -> str | None:
    """Return what a row of facts says once for all of them, from what was given for the whole and what each says. `Invalid` where two differ."""
    found = dict.fromkeys(given if one is None else one for one in own)
    if given is not None:
        found[given] = None
    if len(found) > 1:
        listed = ", ".join(repr(one) if one is not None else "none" for one in found)
        raise Invalid(f"facts that are recorded together have one {what}, not {listed}: append them one after the other", field=what)
    return next(iter(found))


def _loose(fact: Loose, extra: Extra) -> "Recording":
    """Check and encode a fact without a class. Nothing else checks what it was given."""
    name, version, given = fact.name, fact.version, fact.tags
    _check_text("name", name)
    if type(version) is not int or not 0 < version < 1 << 31:
        raise Invalid(f"the version of `{name}` is {version!r}: it is a whole number from 1 on", name=name)
    if not is_data(fact.body):
        raise Invalid(f"the body of `{name}` is {fact.body!r}: it is a dict of JSON data", name=name)
    try:
        tags = tuple([(tag, text_given(tag, value)) for tag, value in msgspec.convert(given, _Pairs)])
    except msgspec.ValidationError as error:
        raise Invalid(f"the tags of `{name}` are {given!r}: write pairs, as in (('sku', 'widget'),)", name=name) from error
    for tag, _ in tags:
        _check_text("tag", tag)
        if SEPARATOR in tag:
            raise Invalid(f"the tag {tag!r} of `{name}` has a control character that stands between tags and values", name=name)
    extra = msgspec.structs.replace(extra, tags=tags)
    try:
        body = encoded(fact.body, _encode_loose)
        size = len(body) + len(encode(extra))
    except NO_DATA as error:
        raise Invalid(f"`{name}` is no JSON data: {error}", name=name) from error
    if size > RECORD_BYTES_MAX:
        raise Invalid(
            f"a record may have {RECORD_BYTES_MAX:,} bytes, `{name}` with its tags has {size:,}: keep large things outside",
            name=name,
            bytes=size,
        )
    return Recording(None, Wish("event", name, version, ""), body, None, [term(*tag) for tag in tags], extra)


_Pairs = tuple[tuple[str, Any], ...]
_encode_loose = msgspec.json.Encoder(decimal_format="string", order="deterministic").encode
"""What is equal has the same bytes, in every process: no class says how to compare two of them."""


class Recording(msgspec.Struct, frozen=True, gc=False):
    """A fact, checked and encoded."""

    typed: Typed | None
    wish: Wish
    body: bytes
    event: Any
    terms: Sequence[str]
    extra: Extra


class Facts(Job):
    """Facts that are to be recorded together."""

    __slots__ = ("actor", "causation", "correlation", "declare", "given", "log", "occurred", "recordings", "unless")

    def __init__(
        self,
        log: Log,
        recordings: Sequence[Recording],
        id: str | None,
        *,
        actor: str = "",
        correlation: str | None = None,
        causation: str | None = None,
        occurred: int | None = None,
        unless: Boundary | None = None,
        declare: Callable[[Batch], None] | None = None,
    ) -> None:
        Job.__init__(self, id if id is not None else log.source.new_id())
        self.log = log
        self.recordings = recordings
        self.given = id is not None
        self.actor = actor
        self.correlation = correlation
        self.causation = causation
        self.occurred = occurred
        self.unless = unless
        self.declare = declare

    def recorded(self, row: Row) -> None:
        """Let later conditions know of these facts without reading them again."""
        if self.unless is not None:
            self.log.committed(row, [(recording.wish.name, recording.terms) for recording in self.recordings])

    def may_be_ahead(self) -> bool:
        """Say whether no condition is to be judged."""
        return self.unless is None and self.declare is None and self.causation is None

    def draft(self, batch: Batch) -> Draft | None:
        """Record them, unless the id is known or the condition does not hold."""
        if self.given:
            row = batch.row_with(self.id)
            if row is not None:
                check_same(self.log, self.id, row, self.recordings)
                self.result = row
                return None
        if self.unless is not None:
            self.log.condition(batch, self.unless)
        if self.declare is not None:
            self.declare(batch)
        records: list[Written] = []
        events: list[tuple[int, Any, Any]] = []
        names: list[int] = []
        tags: dict[str, None] = {}
        for recording in self.recordings:
            number = recording.typed.number(batch) if recording.typed is not None else batch.number(recording.wish)
            extra = recording.extra
            if recording.event is not None:
                events.append((len(records), recording.event, extra))
            records.append(Written(number, recording.body, encode(extra) if extra != PLAIN else b""))
            if number not in names:
                names.append(number)
            tags.update(dict.fromkeys(recording.terms))
        sent = batch.heard(self.causation) if self.causation is not None else None
        header = Header(
            id=self.id, actor=self.actor, correlation=self.correlation, causation=self.causation, occurred=self.occurred, sent=sent
        )
        facts = [(recording.wish.name, recording.terms) for recording in self.recordings]
        return Draft(header, None, records, events, list(tags), names, {}, facts)


def check_same(log: Log, id: str, row: Row, recordings: Sequence[Recording]) -> None:
    """Raise `IdReused` unless the row that uses an id holds these facts. Bodies of another version, or erased, are taken for the same."""
    recorded = [record for _, record in taken_apart(row)]
    if len(recorded) != len(recordings) or not all(_is_same(log, *pair) for pair in zip(recorded, recordings, strict=True)):
        raise IdReused(
            f"the id `{id}` was used for something else, at position {row.position}; another fact needs another id",
            id=id,
            position=row.position,
        )


def _is_same(log: Log, record: RawRecord, recording: Recording) -> bool:
    name = log.names.by_number.get(record.number)
    if name is None or name.what != recording.wish.what or recording.wish.name not in log.reader.names_today(record.number):
        return False
    if name.fingerprint != recording.wish.fingerprint:
        return True
    body = bytes(record.body)
    return body in (recording.body, ERASED) if recording.typed is None else recording.typed.same(body, recording.body)


class Recent:
    """The tags of the latest events, for the conditions of `append` by hand. Exact: it is made of the rows themselves, under the lock."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._start = self._position = log.opened_at
        self._events: list[tuple[int, str, Sequence[str]]] = []
        self._last: dict[str, int] = {}
        """Term, or name, -> the last position that has it."""
        self._batch: Batch | None = None
        self._batch_rows = 0
        self._batch_events: list[tuple[int, str, Sequence[str]]] = []
        self._batch_last: dict[str, int] = {}

    def add(self, row: Row, facts: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Take in a row of facts that follows on what is known."""
        self._take_in(row, [(position, name, terms) for position, (name, terms) in enumerate(facts, row.position)])

    def _take_in(self, row: Row, events: Sequence[tuple[int, str, Sequence[str]]]) -> None:
        if row.position != self._position + 1:
            return
        last = self._last
        for position, name, terms in events:
            last["\x1f" + name] = position
            for found in terms:
                last[found] = position
        self._events += events
        self._position = row.last
        if len(self._events) > 2 * RECENT_MAX:
            self._start = self._events[-RECENT_MAX - 1][0]  # an event that was split comes as several of one position
            self._events = [event for event in self._events if event[0] > self._start]
            self._last = {key: at for key, at in last.items() if at > self._start}

    def check(self, batch: Batch, unless: Boundary) -> None:
        """Raise `Conflict` if an event after the boundary's position is asked for."""
        durable = batch.added[0][0].position - 1 if batch.added else batch.head.position
        self._catch_up(durable)
        query, after = unless.query, unless.after
        if after < self._start:
            inside = self._log.row_at(self._start)  # what is in memory may begin inside a command, and commands are read to their end
            for record in self._log.read(query, after=after, until=inside.last if inside is not None else self._start):
                raise _conflict(unless, record.position, record.name)
        if _may_match(query, after, self._last):
            for position, name, terms in reversed(self._events):
                if position <= after:
                    break
                if query.matches(name, terms):
                    raise _conflict(unless, position, name)
        events, last = self._of_batch(batch)
        if _may_match(query, after, last):
            for position, name, terms in events:
                if position > after and query.matches(name, terms):
                    raise _conflict(unless, position, name)

    def _of_batch(self, batch: Batch) -> tuple[list[tuple[int, str, Sequence[str]]], dict[str, int]]:
        """Return what the batch has added so far, found once for each row."""
        if self._batch is not batch:
            self._batch, self._batch_rows, self._batch_events, self._batch_last = batch, 0, [], {}
        for row, draft in batch.added[self._batch_rows :]:
            facts = enumerate(draft.facts) if draft.facts else [(ordinal, self._log.describe(event)) for ordinal, event, _ in draft.events]
            for ordinal, (name, terms) in facts:
                position = row.position + ordinal
                self._batch_events.append((position, name, terms))
                self._batch_last["\x1f" + name] = position
                self._batch_last.update(dict.fromkeys(terms, position))
        self._batch_rows = len(batch.added)
        return self._batch_events, self._batch_last

    def _catch_up(self, until: int) -> None:
        if self._position >= until:
            return
        for rows in self._log.engine.read(self._position, until):
            self._log.reader.learn(rows)
            for row in rows:
                records = self._log.reader.records(row)
                self._take_in(row, [(one.position, one.name, [term(*tag) for tag in one.tags]) for one in records if _is_fact(one)])


def _may_match(query: Query, after: int, last: dict[str, int]) -> bool:
    """Say whether an event after a position can be asked for, from the last position of each term and name: false is certain."""
    if not query.items:
        return any(position > after for position in last.values())
    return any(
        all(last.get(term(*tag), 0) > after for tag in item.tags)
        and (not item.names or any(last.get("\x1f" + name, 0) > after for name in item.names))
        for item in query.items
    )


def _is_fact(record: Record) -> bool:
    return record.kind in (INPUT, INTERNAL) and not isinstance(record.body, Command)


def _conflict(unless: Boundary, position: int, name: str) -> Conflict:
    return Conflict(
        f"decided after position {unless.after}, but the `{name}` at {position} is inside the boundary",
        after=unless.after,
        found=position,
        name=name,
    )


def occurred_us(message: Message) -> int | None:
    """Return when a message says it happened, in microseconds. `Invalid` without a zone, and before or after all years that there are in UTC."""
    if message.occurred is None:
        return None
    us = microseconds(with_zone(message.occurred))
    if not FIRST_US <= us <= LAST_US:
        raise Invalid(
            f"{message.occurred} lies outside of the years 1 to 9999 in UTC, so it could not be read again", occurred=str(message.occurred)
        )
    return us


def with_zone(given: object) -> datetime:
    """Return it if it is a time with a zone: a caller without a type checker may give anything."""
    if not isinstance(given, datetime) or given.tzinfo is None:
        raise Invalid(f"a time must have a zone, not {given!r}", occurred=str(given))
    return given
