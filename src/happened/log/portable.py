"""Portable: a log, or a slice of it, as lines of JSON that any tool can read, and that make the same log again.

The first line says whose rows follow, from where to where, between which digests, and what the log notes there; then comes a line for each row, byte for byte
what the log has; the last one says that it was the last. Schemas and wiring are among the rows; a slice has those that its rows need in its first line.
With `plain` there is a line for each record instead, for other tools: those can't be read back.
"""

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO

import msgspec

from happened.core.errors import Broken, Incompatible, Invalid
from happened.core.store import START, Row, Wanted
from happened.core.world import Source
from happened.log.copying import Fillable, Filling, end_of, snapshot
from happened.log.log import CameFrom, Identity, Log
from happened.log.log import Progress as Told
from happened.log.names import Names
from happened.log.records import Reader
from happened.log.row import FORMAT, SCHEMA, TOPOLOGY, taken_apart

ROWS_MAX = 1_000


class First(msgspec.Struct, frozen=True):
    """The first line."""

    happened: str
    """`log`: what this is."""
    format: int
    log: str
    epoch: int
    app: str
    after: int
    """The rows lie after this position..."""
    until: int
    """...and up to this one."""
    before: str
    """The chain's link at the first of those positions."""
    digest: str
    """And at the last."""
    tag: tuple[str, str] | None = None
    """Only rows that have this tag: they are no chain."""
    notes: Mapping[str, str] = {}
    head: int = 0
    """Where the log stood when these were its notes."""
    schemas: Sequence[msgspec.Raw] = ()
    """Names that were recorded before the slice."""
    topology: msgspec.Raw = msgspec.Raw(b"null")
    """The wiring, as it was recorded last."""


class Line(msgspec.Struct, frozen=True):
    """One row."""

    position: int
    count: int
    at: int
    head: str
    input: str | None
    records: str
    salts: str
    """In base64."""
    digest: str
    """In hex."""


class Last(msgspec.Struct, frozen=True):
    """The last line."""

    end: int
    rows: int


class Exported(msgspec.Struct, frozen=True):
    """What was written, or read: how many lines there are of rows or records, and between which positions."""

    lines: int
    after: int
    until: int
    digest: str


_encode = msgspec.json.Encoder(decimal_format="string").encode
_decode_first = msgspec.json.Decoder(First).decode


def exported(
    log: Log,
    file: IO[bytes],
    *,
    after: int = 0,
    until: int | None = None,
    tag: tuple[str, str] | None = None,
    plain: bool = False,
    told: Told = lambda _done, _all: None,
) -> Exported:
    """Write a log or a slice of it, in order, with the memory of one page.

    Of a tag it has what carries it, also commands that were refused, which the index does not lead to: so it reads all that lies in between.
    """
    head, noted = snapshot(log)
    last = end_of(log, until, head)
    first = end_of(log, min(after, last), head)
    if not plain:
        file.write(_encode(_first_line(log, first, last, head, noted, tag)) + b"\n")
    count = 0
    for rows in log.engine.read(first, last, rows_max=ROWS_MAX):
        log.reader.learn(rows)
        for row in rows:
            records = [one for one in log.reader.records(row) if tag is None or tag in one.tags] if plain or tag is not None else ()
            if plain:
                file.writelines(_encode(record) + b"\n" for record in records)
                count += len(records)
            elif tag is None or records:
                file.write(_encode(_line_of(row)) + b"\n")
                count += 1
        told(rows[-1].last, last)
    if not plain:
        file.write(_encode(Last(last, count)) + b"\n")
    return Exported(count, first, last, _digest_at(log, last))


def imported(
    lines: Iterable[bytes], make: Callable[[], Fillable], source: Source, *, app: str = "", told: Told = lambda _done, _all: None
) -> tuple[Identity, Exported]:
    """Make a log of what was exported: a whole one, or what stands before a position. The chain is held against each row; `Broken` where it does not hold."""
    of = iter(lines)
    first = _read_first(next(of, b""))
    if first.after or first.tag is not None:
        what = f"begins after position {first.after}" if first.after else f"has only what has the tag `{first.tag[0] if first.tag else ''}`"
        raise Invalid(
            f"the file {what}, and a log begins at position 1, with all its rows: export it whole, or with --until alone", after=first.after
        )
    engine = make()
    try:
        filling = Filling(engine, Reader(Names(), ()), source)
        rows: list[Row] = []
        for row in _rows_in(of, first):
            rows.append(row)
            if len(rows) >= ROWS_MAX:
                filling.add(rows)
                told(rows[-1].last, first.until)
                rows = []
        if rows:
            filling.add(rows)
        origin = CameFrom(first.log, first.epoch, first.until, first.digest)
        identity = filling.finish(first.notes, first.head, origin, app or first.app)
        return identity, Exported(filling.standing.rows, 0, first.until, first.digest)
    finally:
        engine.close()


def _first_line(log: Log, first: int, last: int, head: int, noted: Mapping[str, str], tag: tuple[str, str] | None) -> First:
    schemas: list[msgspec.Raw] = []
    topology = msgspec.Raw(b"null")
    if first:
        for rows in log.engine.read(until=first):
            schemas += [raw.body for row in rows if row.records.startswith("[[0,") for _, raw in taken_apart(row) if raw.number == SCHEMA]
    for rows in log.engine.read(until=last, wanted=[Wanted(names=[TOPOLOGY])], backwards=True, rows_max=1):
        found = [raw.body for row in rows for _, raw in taken_apart(row) if raw.number == TOPOLOGY]
        if found:
            topology = found[-1]
            break
    identity = log.identity
    kept: Mapping[str, str] = {} if first or tag is not None else noted
    return First(
        "log",
        FORMAT,
        identity.id,
        identity.epoch,
        identity.app,
        first,
        last,
        _digest_at(log, first),
        _digest_at(log, last),
        tag,
        kept,
        head,
        schemas,
        topology,
    )


def _digest_at(log: Log, position: int) -> str:
    row = log.row_at(position) if position else None
    return (row.digest if row is not None else START.digest).hex()


def _line_of(row: Row) -> Line:
    salts = base64.b64encode(row.salts).decode()
    return Line(row.position, row.count, row.at, row.head, row.input, row.records, salts, row.digest.hex())


def _read_first(line: bytes) -> First:
    try:
        first = _decode_first(line)
    except msgspec.MsgspecError as error:
        raise Invalid(f"this is no export of a log: its first line can't be read: {error}") from error
    if first.happened != "log":
        raise Invalid(f"this is an export of something else: {first.happened!r:.100}")
    if first.format > FORMAT:
        raise Incompatible(
            f"the export has format {first.format}, this release reads up to {FORMAT}: use a newer release", format=first.format
        )
    return first


def _rows_in(lines: Iterator[bytes], first: First) -> Iterator[Row]:
    """Yield the rows of an export; `Broken` where it ends too early, or a line can't be read."""
    count = 0
    for number, line in enumerate(lines, 2):
        try:
            if line.startswith(b'{"end":'):
                last = msgspec.json.decode(line, type=Last)
                if (last.end, last.rows) != (first.until, count):
                    raise Broken(
                        f"the export says {last.rows:,} rows up to {last.end}, and has {count:,} of them up to {first.until}", line=number
                    )
                if next(lines, b"").strip():
                    raise Broken(f"the export goes on after its last line, {number}: is it several in one file?", line=number + 1)
                return
            one = msgspec.json.decode(line, type=Line)
            row = Row(
                one.position,
                one.count,
                one.at,
                one.head,
                one.input,
                one.records,
                base64.b64decode(one.salts, validate=True),
                bytes.fromhex(one.digest),
            )
        except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
            raise Broken(f"line {number} of the export can't be read: {error}", line=number) from error
        count += 1
        yield row
    raise Broken(f"the export ends after {count:,} rows, before its last line: it was not written to the end, or cut off", rows=count)
