"""Records: rows, read with today's classes.

Two ways to read. `Pages` decodes a page of rows in one call, as a union tagged by the name's number, and skips what nobody asked for: that is how states
and views fold. `Reader.record` gives one record whole, with its envelope: that is how people and tools look.
"""

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple  # Any: bodies are of any class

import msgspec

from happened.core.errors import Broken, Error, Incompatible
from happened.core.messages import Event, Recorded, Several, events_of, name_of
from happened.core.state import Fold
from happened.core.store import Bare, Row, Terms
from happened.core.tags import SEPARATOR, Scope, in_one_writing, scope_of, term, terms_by_outline, terms_of
from happened.core.tags import Terms as TermsOf
from happened.core.world import moment
from happened.log.lifting import Lifts, Way
from happened.log.names import Name, Names
from happened.log.narrow import Fields, fields_read, narrowed
from happened.log.paths import counts_of
from happened.log.row import (
    ANSWER,
    BUILT_IN,
    CONVERSATION,
    FIRST_NUMBER,
    NOTHING,
    REFUSAL,
    SCHEDULE,
    SCHEMA,
    SYSTEM,
    TOPOLOGY,
    Extra,
    Header,
    decode_extra,
    decode_header,
    taken_apart,
    taken_apart_text,
)

INPUT, INTERNAL, ANSWERED, OUTPUT, SYSTEMIC = "input", "internal", "answer", "output", "system"
SHARED = ("share", "beacon")
PUBLISHED = ("notification", *SHARED)
"""What a name stands for whose records are outputs: said to other systems."""
INDEXED = 3
"""Goes up when rows are found by more than before: an index that was made before that is made anew."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record of a log, whole: where it stands, what it says, and why it is there."""

    position: int
    id: str
    kind: str
    """`input`, `internal`, `answer`, `output` or `system`."""
    name: str
    version: int
    body: Any
    """An instance of today's class where there is one, else plain data; `None` where it was erased (of its tags those stay that were kept)."""
    tags: tuple[tuple[str, str], ...]
    time: datetime
    occurred: datetime
    causation: str | None
    correlation: str | None
    actor: str
    handler: str | None
    fingerprint: str
    """Of the record's schema, or of the handler's code where it has no schema."""
    traceparent: str | None
    row: int
    """Position of the first record of the same command."""


class Reader:
    """Reads the rows of one log with the classes of one app. `called` says which of them have another name in this log than their own."""

    def __init__(self, names: Names, classes: Iterable[type], called: Mapping[type, str] | None = None, lifts: Lifts | None = None) -> None:
        self.names = names
        self.classes: dict[tuple[str, str, int], type] = {}
        elsewhere: Mapping[Any, str] = called or {}
        for cls in classes:
            own, version = name_of(cls)
            self.classes["event" if issubclass(cls, Event) else "command", elsewhere.get(cls, own), version] = cls
        self.lifts = lifts if lifts is not None else Lifts((), {})
        self._called = {cls: name for (_, name, _), cls in self.classes.items()}
        self._ways: dict[int, Way | None] = {}
        self._decoders: dict[int, Any] = {}
        self._terms: dict[int, TermsOf] = {}
        self._changes = 0
        self._pages: dict[frozenset[tuple[type, Fields]], Pages] = {}
        self._pages_for: dict[tuple[Fold, ...], Pages] = {}

    def of(self, names: Names) -> "Reader":
        """Return a reader of another log, by its own names, with the same classes."""
        return Reader(names, self.classes.values(), self._called, self.lifts)

    def class_of(self, number: int) -> type | None:
        """Return today's class of a name whose bodies are read as they stand there, or `None` if the app has none."""
        name = self.names.by_number.get(number)
        return self.classes.get((name.what, name.name, name.version)) if name is not None and self.way(number) is None else None

    def way(self, number: int) -> Way | None:
        """Return how bodies of a name are lifted; `None` where they are read as they stand there."""
        if not self.lifts:
            return None
        self._look_again()
        ways = self._ways  # another thread may begin anew
        if number not in ways:
            name = self.names.by_number.get(number)
            ways[number] = self.lifts.way(name) if name is not None else None
        return ways[number]

    def leads_to(self, number: int) -> frozenset[type]:
        """Return the classes of today that bodies of a name may come to."""
        way = self.way(number)
        if way is not None:
            return way.classes
        cls = self.class_of(number)
        return frozenset([cls]) if cls is not None else frozenset()

    def names_today(self, number: int) -> frozenset[str]:
        """Return what the events of a name are called today: what a query by name asks for. None for a name that is retired."""
        way = self.way(number)
        if way is None:
            return frozenset([self.names.by_number[number].name])
        return frozenset(self._called[cls] for cls in way.classes)

    def unclaimed(self, ignores: Iterable[str]) -> list[Name]:
        """Return the recorded names of data that no class claims."""
        ignored = set(ignores)
        return [
            name
            for name in list(self.names.by_number.values())
            if name.fingerprint
            and name.what in ("event", "command")
            and name.name not in ignored
            and (name.what, name.name, name.version) not in self.classes
            and self.way(name.number) is None
        ]

    def body(self, number: int, raw: msgspec.Raw | bytes, position: int) -> Any:
        """Decode a body with today's class, or as plain data where there is none: `Several` where it became several."""
        self._look_again()
        decoders = self._decoders  # another thread may begin anew
        found = decoders.get(number)
        if found is None:
            cls = self.class_of(number)
            decoders[number] = found = msgspec.json.Decoder(cls | None if cls is not None else Any)
        try:
            body = found.decode(raw)
        except msgspec.MsgspecError as error:
            name = self.names.by_number[number]
            raise Incompatible(
                f"`{name.name}` version {name.version} at position {position} can't be read by today's class: {error}. "
                "Give the new field a default, or keep the old class under this name and version, and give the new one the next version",
                name=name.name,
                version=name.version,
                position=position,
            ) from error
        way = self.way(number)
        if way is None or not way.classes or body is None:
            return body
        return self.lifts.lifted(way, self.names.by_number[number], body, position)

    def terms(self, number: int, body: Any) -> Sequence[str]:
        """Return the terms of a decoded body; none of one that was erased."""
        if body is None:
            return ()
        way = self.way(number)
        if way is not None:
            return self._lifted_terms(body) if way.classes else ()
        self._look_again()
        known = self._terms  # another thread may begin anew
        found = known.get(number)
        if found is None:
            cls = self.class_of(number)
            name = self.names.by_number.get(number)
            outlined = name.tags if name is not None else None
            known[number] = found = terms_of(scope_of(cls)) if cls is not None else terms_by_outline(outlined or [[], []])
        return found(body)

    def _lifted_terms(self, body: Any) -> Sequence[str]:
        return list(dict.fromkeys(term for event in events_of(body) for term in terms_of(scope_of(event.__class__))(event)))

    def reading(self) -> dict[int, str]:
        """Return how each name's tags are read today, as a text to compare: what an index is valid for."""
        read: dict[int, str] = {}
        for number, name in list(self.names.by_number.items()):
            if name.what == "event":
                cls, way = self.class_of(number), self.way(number)
                how = _read(scope_of(cls)) if cls is not None else _outlined(name.tags or [[], []])
                if way is not None:
                    scopes = [scope_of(one) for one in sorted(way.classes, key=name_of)]
                    how = [way.digest, *map(_read, scopes)]
                read[number] = f"{INDEXED} {how!r}"
        return read

    def row_terms(self, row: Row) -> Terms:
        """Return what a row is found by, as read today."""
        header = decode_header(row.head)
        tags: dict[str, None] = {} if header.correlation is None else {term(CONVERSATION, header.correlation): None}
        names: dict[int, None] = {}
        position = row.position
        for asked, raw in taken_apart(row):
            if raw.number == SCHEMA:
                self.names.learn_record(bytes(raw.body))
            elif raw.number == TOPOLOGY:
                names[raw.number] = None
            elif not asked and raw.number in self.names.by_number:
                names[raw.number] = None
                tags.update(dict.fromkeys(self.terms(raw.number, self.body(raw.number, raw.body, position))))
                if bytes(raw.extra):
                    extra = decode_extra(raw.extra)
                    tags.update((term(*pair), None) for pair in (*extra.tags, *extra.kept))
            position += 1
        return Terms(tuple(tags), header.id or header.decides, tuple(names), counts_of(row))

    def records(self, row: Row) -> Iterator[Record]:
        """Yield the records of a row, whole, in order."""
        header = decode_header(row.head)
        handler = self.names.known(header.handler) if header.handler is not None else None
        at = moment(row.at)
        decided = header.decides is not None
        asks_nothing = row.input is None and not decided
        """The row is a handler's own, or one of facts: what it says was caused by what the header names."""
        for ordinal, (asked, raw) in enumerate(taken_apart(row)):
            extra = decode_extra(raw.extra) if bytes(raw.extra) else Extra()
            position = row.position + ordinal
            name = self.names.by_number.get(raw.number)
            if name is None and raw.number not in BUILT_IN:
                name = self.names.known(raw.number)
                if name is None:
                    raise _unknown(raw.number, position)
            body = self.body(raw.number, raw.body, position) if name is not None else msgspec.json.decode(raw.body)
            kind = kind_of(raw.number, name, asked=asked, fact=asks_nothing)
            own = header.id if header.id is not None else header.decides
            bodies = body.events if isinstance(body, Several) else (body,)
            hidden = not bodies
            if hidden:  # it became no event at all: nobody hears it, and people see it as it was recorded
                bodies = (msgspec.json.decode(raw.body),)
            occurred = extra.occurred if extra.occurred is not None else header.occurred
            id = id_of(row, header, ordinal, extra)  # noqa: A001 - as everywhere
            for place, one in enumerate(bodies):
                called, version = self._known_as(raw.number, name, one)
                yield Record(
                    position=position,
                    id=id if place == 0 else f"{id}.{place}",
                    kind=kind,
                    name=called,
                    version=version,
                    body=one,
                    tags=self._pairs(raw.number, None if hidden else one, extra) if name is not None else (),
                    time=at,
                    occurred=moment(occurred) if occurred is not None else at,
                    causation=header.causation if asks_nothing or kind == INPUT else own,
                    correlation=header.correlation or own,
                    actor=header.actor,
                    handler=handler.name if handler is not None and not asked else None,
                    fingerprint=name.fingerprint if name is not None else handler.fingerprint if handler is not None else "",
                    traceparent=header.traceparent,
                    row=row.position,
                )

    def _known_as(self, number: int, name: Name | None, body: Any) -> tuple[str, int]:
        """Return what a record is called today, and its version: of the class that it is read as, else as it was recorded."""
        if name is None:
            return BUILT_IN[number], 1
        cls: type[Any] = body.__class__
        if cls in self._called and self.way(number) is not None:
            return self._called[cls], name_of(cls)[1]
        return name.name, name.version

    def _pairs(self, number: int, body: Any, extra: Extra) -> tuple[tuple[str, str], ...]:
        pairs = [tuple(found.split(SEPARATOR, 1)) for found in self.terms(number, body)]
        return tuple(dict.fromkeys([*extra.tags, *extra.kept, *((tag, value) for tag, value in pairs)]))

    def learn(self, rows: Iterable[Row]) -> bool:
        """Take in the names that these rows record; return whether any was new."""
        return self.learn_texts(row.records for row in rows)

    def learn_texts(self, texts: Iterable[str]) -> bool:
        """Do so from the records of rows."""
        before = self.names.changes
        for text in texts:
            if text.startswith("[[0,"):
                for raw in taken_apart_text(text, 0):
                    if raw.number == SCHEMA:
                        self.names.learn_record(bytes(raw.body))
        return self.names.changes != before

    def pages(self, classes: Iterable[type]) -> "Pages":
        """Return the decoder of pages that gives events of these classes, whole, and skips all else."""
        return self._pages_of(dict.fromkeys(classes))

    def pages_for(self, folds: Sequence[Fold]) -> "Pages":
        """Return the decoder of pages that gives what these folds read: of each event the fields that any of them looks at. Found once for the same folds."""
        known = self._pages_for.get(tuple(folds))
        if known is None:
            known = self._pages_for[tuple(folds)] = self._narrow_pages(folds)
        return known

    def _narrow_pages(self, folds: Sequence[Fold]) -> "Pages":
        if any(fold.everything for fold in folds):
            return self.pages(self.classes.values())
        needed: dict[type, Fields] = {}
        for fold in folds:
            for event in fold.readings:
                fields = fields_read(fold, event)
                before = needed.get(event, frozenset())
                needed[event] = None if fields is None or before is None else before | fields
        return self._pages_of(needed)

    def _pages_of(self, needed: Mapping[type, Fields]) -> "Pages":
        key = frozenset(needed.items())
        if key not in self._pages:
            self._pages[key] = Pages(self, dict(needed))
        return self._pages[key]

    def _look_again(self) -> None:
        if self._changes != self.names.changes:
            self._changes = self.names.changes
            self._decoders = {}
            self._terms = {}
            self._ways = {}


def _unknown(number: int, position: int) -> Error:
    if number < FIRST_NUMBER:
        return Incompatible(
            f"the record at position {position} is of a kind that this release does not know (number {number}): read it with the release that "
            "wrote it, or a newer one",
            number=number,
            position=position,
        )
    return Broken(f"the record at position {position} has a name that the log does not know: number {number}", position=position)


def kind_of(number: int, name: Name | None, *, asked: bool, fact: bool) -> str:
    """Return the kind of a record from its name and its place in the row."""
    if number in SYSTEM:
        return SYSTEMIC
    if number == ANSWER:
        return ANSWERED
    if number in (REFUSAL, SCHEDULE, NOTHING) or (name is not None and name.what in PUBLISHED):
        return OUTPUT
    return INPUT if asked or fact else INTERNAL


class Lifting(NamedTuple):
    """How records of one name are lifted, of which today's classes are asked for."""

    number: int
    way: Way
    made: type[Any]
    """What a record is with its lifted body."""


class Pages:
    """Decodes pages of rows in one call each, to structs with `body` (an event, or `None` for what was not asked for) and `extra`."""

    def __init__(self, reader: Reader, needed: Mapping[type, Fields]) -> None:
        self._reader = reader
        self._needed = needed
        self._decoding: Decoding | None = None
        """Looked at once for each page: another thread may make it anew at any moment."""

    @property
    def splits(self) -> bool:
        """Whether any record may be several events: `Several` as its body."""
        return any(step.splits for lifting in self._decoding_today().lifting.values() for step in lifting.way.steps)

    def __call__(self, rows: Sequence[Row]) -> list[list[Any]]:
        """Decode these rows: for each its records. Cost: about 1 µs for an event that is asked for, a fifth of it for one that is not."""
        found: list[list[Any]]
        found, lifting = self._decoded(_BY_ROWS, [row.records for row in rows], lambda: map(bare_of, rows))
        if lifting:
            for row, records in zip(rows, found, strict=True):
                self._lift(lifting, records, range(row.position + (row.input is not None), row.last + 1))
        return found

    def flat(self, rows: Sequence[Bare]) -> list[Any]:
        """Decode the records of these rows, one after the other: `positions_of` says where they stand. Half the cost. `Broken` where a row has others than it counts."""
        found: list[Any]
        found, lifting = self._decoded(_FLAT, [row[2][1:-1] for row in rows if row[2] != "[]"], lambda: rows)
        if len(found) != sum(map(_after, rows)) - sum(map(_first, rows)):
            for first, after, text, *_ in rows:
                if len(taken_apart_text(text, first)) != after - first:
                    raise Broken(f"the row at position {first} has not as many records as it counts", position=first)
        if lifting:
            self._lift(lifting, found, list(positions_of(rows)))
        return found

    def _lift(self, lifting: Mapping[type, Lifting], records: list[Any], positions: Sequence[int]) -> None:
        """Put in the place of each record whose body must be lifted one that has what it is today; `None` for what nobody asked for."""
        for place, record in enumerate(records):
            how = lifting.get(record.__class__)
            if how is not None:
                body = self._reader.body(how.number, record.body, positions[place])
                if isinstance(body, Several):
                    events = tuple(one for one in body.events if type(one) in self._needed)
                    body = Several(events) if events else None
                elif type(body) not in self._needed:
                    body = None
                records[place] = how.made(body, record.extra)

    def _decoded(
        self, how: Callable[["Decoding"], Any], texts: Sequence[str], rows: Callable[[], Iterable[Bare]]
    ) -> tuple[Any, Mapping[type, Lifting]]:
        """Decode these texts; return with what was found how it is lifted: the classes in both are of one making."""
        made = self._decoding_today()
        try:
            return how(made)("[" + ",".join(texts) + "]"), made.lifting
        except msgspec.MsgspecError:
            if self._reader.learn_texts(row[2] for row in rows()):  # others have recorded new names since
                return self._decoded(how, texts, rows)
            for row in rows():  # one of them can't be read: say which
                for position, raw in enumerate(taken_apart_text(row[2], row[0]), row[0]):
                    if raw.number not in BUILT_IN and self._reader.names.known(raw.number) is None:
                        raise _unknown(raw.number, position) from None
                    if raw.number in self._reader.names.by_number:
                        self._reader.body(raw.number, raw.body, position)
            if made.changes != self._reader.names.changes:  # they have, before these rows
                return self._decoded(how, texts, rows)
            raise

    def _decoding_today(self) -> "Decoding":
        made = self._decoding
        if made is None or made.changes != self._reader.names.changes:
            self._decoding = made = self._make()
        return made

    def _make(self) -> "Decoding":
        names = self._reader.names
        changes = names.changes  # before the names are listed: one that comes meanwhile is found again
        shapes: list[Any] = []
        lifting: dict[type, Lifting] = {}
        for number in (*BUILT_IN, *list(names.by_number)):
            cls = self._reader.class_of(number)
            if cls is not None and cls in self._needed:
                fields: list[Any] = [("body", narrowed(cls, self._needed[cls]) | None), ("extra", Extra | None, None)]
                shapes.append(msgspec.defstruct(f"Number{number}", fields, array_like=True, tag=number, frozen=True, gc=False))
            elif (way := self._reader.way(number)) is not None and not way.classes.isdisjoint(self._needed):
                raw: list[Any] = [("body", msgspec.Raw), ("extra", Extra | None, None)]
                made: list[Any] = [("body", Any), ("extra", Extra | None, None)]
                shape = msgspec.defstruct(f"Number{number}", raw, array_like=True, tag=number, frozen=True, gc=False)
                lifted = msgspec.defstruct(f"Lifted{number}", made, array_like=True, tag=number, frozen=True, gc=False)
                lifting[shape] = Lifting(number, way, lifted)
                shapes.append(shape)
            else:
                skipped = {"body": None, "extra": None}
                shapes.append(
                    msgspec.defstruct(f"Number{number}", [], array_like=True, tag=number, namespace=skipped, frozen=True, gc=False)
                )
        union: Any = shapes[0]
        for shape in shapes[1:]:
            union = union | shape
        return Decoding(changes, msgspec.json.Decoder(list[list[union]]).decode, msgspec.json.Decoder(list[union]).decode, lifting)


class Decoding(NamedTuple):
    """How pages are decoded, made for the names that were known."""

    changes: int
    """What the names said of their changes before they were listed."""
    by_rows: Callable[[str], Any]
    flat: Callable[[str], Any]
    lifting: Mapping[type, Lifting]
    """By the class that a record is decoded to: how its body is lifted."""


_BY_ROWS, _FLAT = operator.attrgetter("by_rows"), operator.attrgetter("flat")


def bare_of(row: Row) -> Bare:
    """Return what a fold needs of a row."""
    return row.position + (row.input is not None), row.last + 1, row.records, row.position, row.at, row.head


def envelopes_of(rows: Iterable[Bare], records: Iterable[Any]) -> Iterator[Recorded | None]:
    """Return for each of the records of these rows, which have heads, its envelope; `None` where there is no event."""
    of = iter(records)
    known_us, at = -1, moment(0)
    for first, after, _, position, at_us, head in rows:
        header = None
        if at_us != known_us:  # all rows of a commit have one
            known_us, at = at_us, moment(at_us)
        for ordinal in range(first - position, after - position):
            record = next(of)
            if record.body is None:
                yield None
                continue
            header = header or decode_header(head)
            if ordinal == 0 and record.extra is None and header.id is not None and header.decides is None:  # as most facts are
                us = header.occurred
                yield Recorded(header.id, at, moment(us) if us is not None else at, header.actor)
            else:
                yield _envelope(position, at, header, ordinal, record.extra)


def positions_of(rows: Sequence[Bare]) -> Iterator[int]:
    """Return the positions of the records of these rows, in order."""
    return itertools.chain.from_iterable(map(range, map(_first, rows), map(_after, rows)))


_first, _after = operator.itemgetter(0), operator.itemgetter(1)


def id_of(row: Row, header: Header, ordinal: int, extra: Extra | None) -> str:
    """Return the id of a record: what was asked has the command's own, all else that and an ordinal, which counts on from an input that was enqueued."""
    return _id_at(row.position, header, ordinal, extra)


def _id_at(position: int, header: Header, ordinal: int, extra: Extra | None) -> str:
    if extra is not None and extra.id is not None:
        return extra.id
    if header.decides is not None:
        return f"{header.decides}#{ordinal + 1}"
    if header.id is None:
        return f"{position}#{ordinal}"
    return header.id if ordinal == 0 else f"{header.id}#{ordinal}"


def envelope_of(row: Row, header: Header, ordinal: int, extra: Extra | None) -> Recorded:
    """Make the envelope that `evolve` and `key_of` may ask for."""
    return _envelope(row.position, moment(row.at), header, ordinal, extra)


def _envelope(position: int, at: datetime, header: Header, ordinal: int, extra: Extra | None) -> Recorded:
    us = extra.occurred if extra is not None and extra.occurred is not None else header.occurred
    return Recorded(_id_at(position, header, ordinal, extra), at, moment(us) if us is not None else at, header.actor)


def _read(scope: Scope) -> Any:
    """Return how the tags of a class are read. Before equal values had one writing, the index of some was made of several."""
    return ["in one writing", _plain(scope)] if in_one_writing(scope) is not None else _plain(scope)


def _plain(scope: Any) -> Any:
    return [
        sorted((tagged.encoded, tagged.tag, tagged.holds) for tagged in scope.tags),
        sorted((below.encoded, below.holds, _plain(below.scope)) for below in scope.parts if below.scope.all_tags()),
    ]


def _outlined(node: Any) -> Any:
    return [
        sorted((field, tag, holds) for field, tag, holds in node[0]),
        sorted((field, holds, _outlined(below)) for field, holds, below in node[1]),
    ]
