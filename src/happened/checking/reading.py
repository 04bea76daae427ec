"""Reading: whether the code of today can read the whole log, and what is lost on the way.

A range of positions is read at a time, and what comes of all ranges is told as one. Pages are decoded in one call, as in a fold. What that can't tell is
looked at one by one: names with upcasts, facts without a schema, shapes that are not today's, and pages with a record that can't be read. What is lost
is found by comparing data with the class that reads it, and left out where the shape is today's: then nothing is, unless a schema does not tell today's
types from others. What was heard of the outside is read as a replay would hear it.
"""

import functools
import operator
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any  # Any: schemas and bodies are JSON

import msgspec

from happened.checking.shapes import (
    Compare,
    comparing,
    left_out,
    nothing_lost,
    same_shape,
    untold_keys,
    untold_times,
)
from happened.core.errors import Broken, Incompatible
from happened.core.plain import times_in, zoneless_in
from happened.core.store import Bare, Store
from happened.log.lifting import Unlifted, innermost, path_to, read_as, unlifted
from happened.log.names import Name, decode_schema, wish_for
from happened.log.records import Reader
from happened.log.row import ANSWER, BUILT_IN, ERASED, SCHEMA, RawRecord, taken_apart_text
from happened.sourcing.gateway import Answer, decode_answer
from happened.wiring import Wiring

Zoned = Callable[[Sequence[Any]], bool]
"""Says whether all times in these records have a zone."""
FINE, RISKY, IMPOSSIBLE = "fine", "risky", "impossible"
DATA = ("event", "command")
PAGE_ROWS = 250
"""Read and decoded in one call. What is made of more does not fit in a core's cache: with 1,000 it takes a fifth longer."""
ALONE_AFTER = 3
"""Records of a name that can't be read before all of that name are looked at one by one: a page that fails costs more than its records."""


class Trouble(msgspec.Struct, frozen=True):
    """Why records of a name can't be read: the reason, the path of the field where it is known, and all positions."""

    reason: str
    path: str
    positions: Sequence[int]


class Verdict(msgspec.Struct, frozen=True):
    """What is to be said of one name and version."""

    what: str
    """`event`, `command`, or `answer`: then the name is the gateway's, and the version is 1."""
    name: str
    version: int
    verdict: str
    """`fine`, `risky` (all of it is read, and something is lost or defaulted) or `impossible` (some of it can't be read)."""
    count: int
    first: int
    """The position of the first record."""
    last: int
    bad: int
    """How many can't be read."""
    dropped: Sequence[str]
    """Paths of fields that were recorded and today's class does not have."""
    defaulted: Sequence[str]
    """Paths of fields of today's class that were not recorded, and have their default."""
    altered: Sequence[str]
    """Paths of fields of which less is read than was recorded: a set holds a member once, a float so many digits, a time microseconds."""
    zoneless: Sequence[str]
    """Paths of texts that are read as times, and say no zone: nothing that is recorded today may hold such a one."""
    notes: Sequence[str]
    """What else there is to say: that its class was changed without a new version, that it is retired."""
    troubles: Sequence[Trouble]


class Readings(msgspec.Struct, frozen=True):
    """What was found, by name and version; and how far the log was read."""

    position: int
    readable: bool
    """Whether everything can be read."""
    names: Sequence[Verdict]


class Met(msgspec.Struct, frozen=True):
    """What came of the records of one recorded shape in a range of positions."""

    count: int
    first: int
    last: int
    troubles: Sequence[tuple[str, str, Sequence[int]]]
    """Reason, path, and positions."""
    dropped: Sequence[str]
    defaulted: Sequence[str]
    altered: Sequence[str]
    zoneless: Sequence[str]


class Part(msgspec.Struct, frozen=True):
    """What came of a range of positions: of every shape that has records in it, by its number."""

    position: int
    """The last record; 0 where there is none."""
    shapes: Mapping[int, Met]
    schemas: Mapping[int, Any]
    """The schemas that are recorded there."""
    answers: Mapping[str, Met]
    """What came of the answers of each gateway that the app still has, by its name."""


def read_part(app: Wiring, reader: Reader, store: Store, after: int, until: int, progress: Callable[[int], None]) -> Part:
    """Read the rows that end after one position and up to another as today's code does. Nothing stops it but a row that is broken.

    The reader knows the names that the log notes. Memory: the positions of what can't be read. Cost: a little more than a fold of every event whole.
    """
    checking = _Reading(app, reader)
    begin = next((rows[0].position for rows in store.read(after, until, rows_max=1)), 0)
    for rows in store.read_bare(after, until, inputs=True, rows_max=PAGE_ROWS):
        checking.take(rows, begin)
        begin = rows[-1][0]
        progress(begin - 1)
    return checking.part(max(begin - 1, 0))


def told(app: Wiring, reader: Reader, parts: Sequence[Part]) -> Readings:
    """Say of every name what came of it in all parts, which are in order: the same wherever the log was cut."""
    found: dict[int, _Seen] = {}
    ignores = frozenset(app.ignores)
    for part in parts:
        for number, met in part.shapes.items():
            if number not in found:
                found[number] = _Seen(_name_of(reader, number), reader, ignores)
            found[number].add(met)
    schemas = {number: schema for part in parts for number, schema in part.schemas.items()}
    same: dict[tuple[str, str, int], list[_Seen]] = {}
    for number, seen in sorted(found.items()):
        if seen.name.what in DATA:
            seen.by_schema(schemas.get(number))
            same.setdefault((seen.name.what, seen.name.name, seen.name.version), []).append(seen)
    names = [_verdict(of) for _, of in sorted(same.items(), key=lambda one: one[0])]
    answers: dict[str, list[Met]] = {}
    for part in parts:
        for gateway, met in part.answers.items():
            answers.setdefault(gateway, []).append(met)
    names += [_verdict_on_answers(gateway, met) for gateway, met in sorted(answers.items())]
    return Readings(max((part.position for part in parts), default=0), not any(one.bad for one in names), names)


def _name_of(reader: Reader, number: int) -> Name:
    return reader.names.by_number.get(number) or Name(number, "event", f"number {number}", 0, "?")


class _Seen:
    """What is known of one recorded shape: a number."""

    def __init__(self, name: Name, reader: Reader, ignores: frozenset[str]) -> None:
        self.name = name
        self.count = self.first = 0
        self.last: Callable[[], int] = int
        """Tells the last position: a page is looked through for it only at the end."""
        self.troubles: dict[tuple[str, str], list[int]] = {}
        self.lost = nothing_lost()
        self.notes: dict[str, None] = {}
        self.cls = reader.class_of(name.number)
        self.way = reader.way(name.number)
        self.retired = self.way is not None and not self.way.classes
        self.unclaimed = name.what in DATA and self.cls is None and self.way is None and name.name not in ignores
        self.passed_over = name.what not in DATA or self.retired or (self.cls is None and self.way is None)
        """It is counted, and not decoded."""
        self._wish = wish_for(self.cls, name.what, name.name) if self.cls is not None and name.fingerprint else None
        """What is recorded of its class today, to be compared with what was recorded then."""
        self._changed = self._wish is None or self._wish.fingerprint != name.fingerprint
        keys, times = (untold_keys(self.cls), untold_times(self.cls)) if self.cls is not None else (False, False)
        self._looked_into = self._changed or keys or times
        """Its data is compared with its class."""
        self.alone = not self.passed_over and (self.way is not None or self._changed or keys)
        """Its records are looked at one by one."""
        timed = self.cls if times and not self.passed_over and not self.alone else None
        self.all_zoned = _all_zoned(timed) if timed is not None else None
        """Says whether all times in records have a zone: where not, or where there may be finer ones, its records are looked at, too."""
        self._lifts = reader.lifts
        self._decode = msgspec.json.Decoder(self.cls | None).decode if self.cls is not None else None
        self._compare: dict[type, Compare] = {}

    def met(self, body: msgspec.Raw, position: int) -> None:
        """Read one record."""
        try:
            if self.way is not None:
                data = _plain(body)
                for cls, lifted in self._lifts.bodies(self.way, self.name, data) if data is not None else ():
                    self._compared(cls, lifted)
                    read_as(cls, lifted)
            elif self._decode is not None and self.cls is not None:
                if self._looked_into:
                    self._compared(self.cls, _plain(body))
                self._decode(body)
        except msgspec.MsgspecError as error:
            self.trouble(unlifted(str(error)), position)
        except Unlifted as error:
            self.trouble(error, position)

    def add(self, met: Met) -> None:
        """Take in what came of a later range."""
        self.first = self.first or met.first
        self.count += met.count
        self.last = functools.partial(int, met.last)
        for reason, path, positions in met.troubles:
            self.troubles.setdefault((reason, path), []).extend(positions)
        self.lost.dropped.update(dict.fromkeys(met.dropped))
        self.lost.defaulted.update(dict.fromkeys(met.defaulted))
        self.lost.altered.update(dict.fromkeys(met.altered))
        self.lost.zoneless.update(dict.fromkeys(met.zoneless))

    def met_all(self) -> Met:
        """Return what came of all its records."""
        troubles = [(*why, positions) for why, positions in self.troubles.items()]
        return Met(self.count, self.first, self.last(), troubles, *map(list, self.lost))

    def trouble(self, why: Unlifted, position: int) -> None:
        """Remember a record that can't be read."""
        self.troubles.setdefault((why.reason, why.path), []).append(position)

    def _compared(self, cls: type, data: Any) -> None:
        if cls not in self._compare:
            self._compare[cls] = comparing(cls)
        self._compare[cls](data, "", self.lost)

    def by_schema(self, schema: Any) -> None:
        """Say whether the class was changed without a new version, and forget which fields were left out as defaults that they have today, too."""
        cls, wish = self.cls, self._wish
        if cls is None or wish is None or not self._changed:
            return
        today = {(name, version) for _, name, version in _parts(wish.parts or ())}
        for path, name, version in _parts(self.name.parts or ()):
            newer = [one for known, one in today if known == name]
            if newer and (name, version) not in today:
                self.notes[
                    f"`{name}` inside, at `{path}`, is of version {version} and read as version {max(newer)}: no upcast leads there"
                ] = None
        for path in [path for path in self.lost.defaulted if left_out(schema, wish.schema, path)]:
            del self.lost.defaulted[path]
        changed = "its class was changed without a new version"
        if not same_shape(schema, wish.schema):
            self.notes[f"{changed}: the log has the old shape"] = None
        elif self.name.tags is not None and self.name.tags not in (wish.tags, _former(wish.tags)):
            self.notes[f"{changed}: its tags lie elsewhere"] = None


_maybe_finer = re.compile(r"\.[0-9]{7}").search
"""Finds what may be finer than microseconds: a search in one step for each point, where the exact one takes three."""


def _all_zoned(cls: type) -> Zoned:
    """Return the function that says whether all times in records of this class have a zone. Those of a day need none."""
    zoneless, fields = zoneless_in(cls), times_in(cls)

    def one_by_one(records: Sequence[Any]) -> bool:
        return zoneless is None or not any(zoneless(record.body) for record in records if record.body is not None)

    if fields is None:
        return one_by_one
    zones_of = [operator.attrgetter(f"body.{name}.tzinfo") for name in fields]

    def at_once(records: Sequence[Any]) -> bool:
        try:
            return all(all(map(zone_of, records)) for zone_of in zones_of)
        except AttributeError:  # one of them is erased, and has no body
            return one_by_one(records)

    return at_once


def _plain(body: msgspec.Raw) -> Any:
    return msgspec.json.decode(body)


def _former(outlined: Any) -> Any:
    """Return an outline as an older release has recorded it: of collections in each other only how what lies innermost is held."""
    tags = [[field, tag, innermost(holds)] for field, tag, holds in outlined[0]]
    parts = [[field, innermost(holds), _former(below)] for field, holds, below in outlined[1]]
    return [[one for place, one in enumerate(found) if one not in found[:place]] for found in (tags, parts)]


def _parts(parts: Iterable[Any], path: str = "") -> Iterator[tuple[str, str, int]]:
    """Yield what lies nested by an outline: its path, name and version."""
    for field, holds, name, version, below, _ in parts:
        here = f"{path}{path_to(field, holds)}"
        yield here, name, version
        yield from _parts(below, f"{here}.")


class _Heard:
    """What is known of the answers of one gateway."""

    def __init__(self, first: int) -> None:
        self.first = self.last = first
        self.count = 0
        self.troubles: dict[str, list[int]] = {}

    def met_all(self) -> Met:
        """Return what came of all of them."""
        return Met(self.count, self.first, self.last, [(why, "", positions) for why, positions in self.troubles.items()], (), (), (), ())


class _Reading:
    """A reading on its way."""

    def __init__(self, app: Wiring, reader: Reader) -> None:
        self._reader = reader
        self._ignores = frozenset(app.ignores)
        self._seen: dict[int, _Seen] = {}
        self._schemas: dict[int, Any] = {}
        self._gateways = {gateway.name: gateway.reading for gateway in app.gateways}
        self._heard: dict[str, _Heard] = {}
        self._shapes: dict[Any, int] = {}
        self._changes = -1
        self._decode: Any = None
        self._slow: set[Any] = set()
        """Shapes whose records are looked at one by one."""
        self._timed: dict[Any, Zoned] = {}
        """Shapes with times of which the schema does not tell that they are no texts."""

    def take(self, rows: Sequence[Bare], begin: int) -> None:
        """Read a page, of which the first record has this position."""
        if self._changes != self._reader.names.changes:
            self._build()
        text = "[" + ",".join(_texts(rows)) + "]"
        try:
            found: list[Any] = self._decode(text)
        except msgspec.MsgspecError:
            self._read_singly(rows, begin)
            return
        if begin + len(found) != rows[-1][0]:
            self._read_singly(rows, begin)
            return
        kinds = Counter(map(type, found))
        for shape, count in kinds.items():
            number = self._shapes[shape]
            if number in BUILT_IN:
                continue
            seen = self._seen[number]
            if not seen.count:
                seen.first = begin + list(map(type, found)).index(shape)
            seen.last = functools.partial(_last, found, begin, shape)
            seen.count += count
        if not self._slow.isdisjoint(kinds):
            for position, record in enumerate(found, begin):
                if type(record) in self._slow:
                    self._met(self._shapes[type(record)], record, position)
        timed = self._timed.keys() & kinds.keys()
        if timed and (_maybe_finer(text) or not self._are_zoned(found, kinds, timed)):
            numbers = {self._shapes[shape] for shape in timed}
            for position, record in _records(rows, begin):
                if record.number in numbers:
                    self._seen[record.number].met(record.body, position)

    def part(self, position: int) -> Part:
        """Return what came of all pages."""
        shapes = {number: seen.met_all() for number, seen in self._seen.items() if seen.count}
        return Part(position, shapes, self._schemas, {gateway: heard.met_all() for gateway, heard in self._heard.items()})

    def _are_zoned(self, found: Sequence[Any], kinds: Collection[Any], timed: Collection[Any]) -> bool:
        if len(kinds) == 1:
            return all(self._timed[shape](found) for shape in timed)
        return all(self._timed[shape]([record for record in found if type(record) is shape]) for shape in timed)

    def _read_singly(self, rows: Sequence[Bare], begin: int) -> None:
        """Read a page of which something can't be read: record by record."""
        for position, record in _records(rows, begin):
            if record.number in BUILT_IN:
                self._met(record.number, record, position)
                continue
            seen = self._known(record.number, position)
            seen.first = seen.first or position
            seen.last = functools.partial(int, position)
            seen.count += 1
            if seen.alone or seen.passed_over:
                self._met(record.number, record, position)
                continue
            seen.met(record.body, position)
            seen.alone = sum(map(len, seen.troubles.values())) >= ALONE_AFTER
            if seen.alone:
                self._changes = -1

    def _known(self, number: int, position: int) -> _Seen:
        if number not in self._seen:
            self._seen[number] = seen = _Seen(_name_of(self._reader, number), self._reader, self._ignores)
            if number not in self._reader.names.by_number:
                seen.trouble(Unlifted("the log does not say what this number stands for: `happened verify` says more"), position)
        return self._seen[number]

    def _met(self, number: int, record: RawRecord, position: int) -> None:
        """Look at one record of a name that is read one by one; what is noted of names is taken in."""
        if number == SCHEMA:
            self._reader.names.learn_record(bytes(record.body))
            schema = decode_schema(record.body)
            self._schemas[schema.number] = schema.schema
            return
        if number == ANSWER and bytes(record.body) != ERASED:
            self._hear(decode_answer(record.body), position)
        if number in BUILT_IN:
            return
        seen = self._seen[number]
        if seen.unclaimed:
            seen.trouble(Unlifted(self._nobody_reads(seen.name)), position)
        elif not seen.passed_over:
            seen.met(record.body, position)

    def _hear(self, answer: Answer, position: int) -> None:
        """Read an answer as a replay would. One of a gateway that is gone is heard by nobody, and an error is a text."""
        reading = self._gateways.get(answer.gateway)
        if reading is None:
            return
        heard = self._heard.setdefault(answer.gateway, _Heard(position))
        heard.count += 1
        heard.last = position
        try:
            if not answer.error:
                reading.read(answer)
        except Incompatible as error:
            heard.troubles.setdefault(str(error), []).append(position)

    def _nobody_reads(self, name: Name) -> str:
        version = max((known for what, own, known in self._reader.classes if (what, own) == (name.what, name.name)), default=0)
        if version > name.version:
            return f"its class has version {version}, and no upcast leads there: add `Upcast({name.name!r}, {name.version}, ...)`"
        if version:
            return f"its class has version {version}: a newer release has recorded this"
        return "no class, upcast or retired name of this app claims it"

    def _build(self) -> None:
        """Make the decoder for the names that are known."""
        names = self._reader.names
        self._changes = names.changes
        self._shapes, self._slow, self._timed = {}, set(), {}
        shapes: list[Any] = []
        for number in (*BUILT_IN, *list(names.by_number)):
            seen = self._known(number, 0) if number not in BUILT_IN else None
            alone = number == SCHEMA or (number == ANSWER and bool(self._gateways)) or (seen is not None and seen.alone)
            body: Any = None
            if alone:
                body = msgspec.Raw
            elif seen is not None and not seen.passed_over and seen.cls is not None:
                body = seen.cls | None
            fields: list[Any] = [("body", body)] if body is not None else []
            shape: Any = msgspec.defstruct(f"Number{number}", fields, array_like=True, tag=number, frozen=True, gc=False)
            self._shapes[shape] = number
            if alone or (seen is not None and seen.unclaimed):
                self._slow.add(shape)
            elif seen is not None and seen.all_zoned is not None:
                self._timed[shape] = seen.all_zoned
            shapes.append(shape)
        union: Any = shapes[0]
        for shape in shapes[1:]:
            union = union | shape
        self._decode = msgspec.json.Decoder(list[union]).decode


def _texts(rows: Sequence[Bare]) -> list[str]:
    """Return for each row its records, what was asked first, one after the other as in a list."""
    return [records[1:-1] if asked is None else f"{asked},{records[1:-1]}" if records != "[]" else asked for _, records, asked in rows]


def _records(rows: Sequence[Bare], begin: int) -> Iterator[tuple[int, RawRecord]]:
    """Yield the records of rows, of which the first has this position. `Broken` for a row that is no list, or of other records than it counts."""
    for (after, *_), text in zip(rows, _texts(rows), strict=True):
        records = taken_apart_text(f"[{text}]", begin)
        if begin + len(records) != after:
            raise Broken(f"the row at position {begin} has not as many records as it counts", position=begin)
        yield from enumerate(records, begin)
        begin = after


def _last(found: Sequence[Any], begin: int, shape: type) -> int:
    return begin + max(place for place, record in enumerate(found) if type(record) is shape)


def _troubles(found: Iterable[tuple[tuple[str, str], Sequence[int]]]) -> list[Trouble]:
    """Return troubles, each reason and path once, with all positions in order; in the order of the first of those."""
    positions: dict[tuple[str, str], list[int]] = {}
    for why, some in found:
        positions.setdefault(why, []).extend(some)
    return sorted([Trouble(*why, sorted(all_of_it)) for why, all_of_it in positions.items()], key=lambda one: one.positions[0])


def _verdict_on_answers(gateway: str, met: Sequence[Met]) -> Verdict:
    """Say what is to be said of the answers of a gateway, of all parts in order."""
    told = _troubles(((reason, path), positions) for one in met for reason, path, positions in one.troubles)
    count, bad = sum(one.count for one in met), sum(len(one.positions) for one in told)
    return Verdict("answer", gateway, 1, IMPOSSIBLE if bad else FINE, count, met[0].first, met[-1].last, bad, (), (), (), (), (), told)


def _verdict(of: Sequence[_Seen]) -> Verdict:
    """Say what is to be said of a name and version, of all shapes that were recorded under it."""
    told = _troubles(why for seen in of for why in seen.troubles.items())
    dropped = list(dict.fromkeys(path for seen in of for path in seen.lost.dropped))
    defaulted = list(dict.fromkeys(path for seen in of for path in seen.lost.defaulted))
    altered = list(dict.fromkeys(path for seen in of for path in seen.lost.altered))
    zoneless = list(dict.fromkeys(path for seen in of for path in seen.lost.zoneless))
    notes = list(dict.fromkeys(note for seen in of for note in seen.notes))
    inside = any(" inside, at " in note for note in notes)
    if of[0].retired:
        notes.append("it is retired: nobody hears it")
    elif of[0].passed_over and not of[0].unclaimed:
        notes.append("it is in `ignores`: nobody hears it")
    name = of[0].name
    return Verdict(
        what=name.what,
        name=name.name,
        version=name.version,
        verdict=IMPOSSIBLE if told else RISKY if dropped or defaulted or altered or zoneless or inside else FINE,
        count=sum(seen.count for seen in of),
        first=min(seen.first for seen in of),
        last=max(seen.last() for seen in of),
        bad=sum(len(one.positions) for one in told),
        dropped=dropped,
        defaulted=defaulted,
        altered=altered,
        zoneless=zoneless,
        notes=notes,
        troubles=told,
    )
