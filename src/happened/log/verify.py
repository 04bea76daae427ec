"""Verify: the whole log, row by row, against the chain and against itself.

The names come from the schema records alone, in their order, and the notes that a log is opened with must say the same.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from happened.core.errors import Broken
from happened.core.store import START, Row, Store
from happened.log.names import NOTE, Name
from happened.log.records import Reader
from happened.log.row import BUILT_IN, FIRST_NUMBER, SALT_BYTES, SCHEMA, decode_header, digest_of, taken_apart


class Verified(msgspec.Struct, frozen=True):
    """What `verify` has counted: the last position, rows, records by kind, and the digest of the whole log."""

    position: int
    rows: int
    kinds: Mapping[str, int]
    digest: str


def verified(store: Store, reader: Reader, find: Callable[[str], Sequence[Row]], progress: Callable[[int, int], None]) -> Verified:
    """Read the whole log and return what was counted. `Broken` with the first bad position."""
    before, position, at = START.digest, 0, 0
    rows_seen = 0
    kinds: dict[str, int] = {}
    names = _Names(store.notes)
    head = store.wait(1 << 62, 0)
    for rows in store.read(until=head):
        for row in rows:
            if row.position != position + 1:
                raise Broken(f"after position {position} comes {row.position}", position=position + 1)
            if row.at < at:
                raise Broken(f"the recorded time falls at position {row.position}", position=row.position)
            if _digest(before, row) != row.digest:
                raise Broken(
                    f"the row at position {row.position} was changed after it was recorded: its digest differs", position=row.position
                )
            positions: set[int] = set()  # a record that was split is read as several, at one position
            try:
                names.check(row)
                reader.learn([row])
                _check_cause(row, find)
                for record in reader.records(row):
                    if record.position not in positions:
                        kinds[record.kind] = kinds.get(record.kind, 0) + 1
                    positions.add(record.position)
            except msgspec.MsgspecError as error:
                raise Broken(f"the row at position {row.position} can't be read: {error}", position=row.position) from error
            count = len(positions)
            if count != row.count or len(row.salts) != SALT_BYTES * count:
                raise Broken(f"the row at position {row.position} says {row.count} records and has {count}", position=row.position)
            before, position, at = row.digest, row.last, row.at
            rows_seen += 1
        progress(position, head)
    if position != head:
        raise Broken(f"the log ends at position {position}, not at {head}", position=position)
    names.end()
    return Verified(position, rows_seen, kinds, before.hex())


def _check_cause(row: Row, find: Callable[[str], Sequence[Row]]) -> None:
    cause = decode_header(row.head).causation
    if cause is None:
        return
    id, _, ordinal = cause.rpartition("#")  # noqa: A001 - it is one
    if not id or not ordinal.isdecimal():
        return
    found = find(id)
    if found and (int(ordinal) >= sum(one.count for one in found) or found[0].position >= row.position):
        raise Broken(
            f"the row at position {row.position} was caused by `{cause}`, which does not stand before it", position=row.position, id=cause
        )


def _digest(before: bytes, row: Row) -> bytes:
    """Return the digest that a row must have; nothing, which no row has, where its bytes are not even JSON."""
    try:
        return digest_of(before, row)
    except (msgspec.MsgspecError, ValueError, Broken):
        return b""


class _Names:
    """The names of a log as its schema records say them, compared with the notes that it is opened with."""

    def __init__(self, notes: Callable[[str], Mapping[str, str]]) -> None:
        self._notes = notes
        self._noted = _noted(notes)
        self._found: dict[int, Name] = {}
        self._later: dict[int, tuple[int, Name]] = {}
        """Names that were not noted when this began: position and name."""

    def check(self, row: Row) -> None:
        """Learn the names that a row records, and raise `Broken` where it uses one that is none, or where the notes say another."""
        handler = decode_header(row.head).handler
        if handler is not None and handler not in self._found:
            raise Broken(
                f"the row at position {row.position} has a handler that was not recorded before it: number {handler}", position=row.position
            )
        for ordinal, (_, raw) in enumerate(taken_apart(row)):
            position = row.position + ordinal
            if raw.number == SCHEMA:
                self._learn(msgspec.json.decode(raw.body, type=Name), position)
            elif raw.number not in BUILT_IN and raw.number >= FIRST_NUMBER and raw.number not in self._found:
                raise Broken(
                    f"the record at position {position} has a name that was not recorded before it: number {raw.number}", position=position
                )

    def end(self) -> None:
        """Raise `Broken` where the notes have a name that no record has, or lack one."""
        for number in self._noted.keys() - self._found.keys():
            raise Broken(f"the note `{NOTE}{number}` says a name that the log never recorded", number=number)
        noted = _noted(self._notes) if self._later else {}
        for number, (position, name) in self._later.items():
            if noted.get(number) != name:
                raise _misnamed(name, position)

    def _learn(self, name: Name, position: int) -> None:
        if self._found.setdefault(name.number, name) != name:
            raise _misnamed(name, position)
        if name.number not in self._noted:
            self._later[name.number] = position, name
        elif self._noted[name.number] != name:
            raise _misnamed(name, position)


def _noted(notes: Callable[[str], Mapping[str, str]]) -> dict[int, Name]:
    found: dict[int, Name] = {}
    for key, body in notes(NOTE).items():
        try:
            name = msgspec.json.decode(body, type=Name)
        except msgspec.MsgspecError as error:
            raise Broken(f"the note `{key}` can't be read: {error}") from error
        found[name.number] = name
    return found


def _misnamed(name: Name, position: int) -> Broken:
    return Broken(
        f"number {name.number} is `{name.name}` by the record at position {position}, and the note `{NOTE}{name.number}` says otherwise: it was "
        "changed or taken out",
        position=position,
        number=name.number,
    )
