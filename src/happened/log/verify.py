"""Verify: the whole log, row by row, against the chain and against itself, or up to a digest that somebody has noted.

The names come from the schema records alone, in their order, and the notes that a log is opened with must say the same. The chain alone can't tell a log
that was written anew from its first change on, with new digests: a digest that was noted elsewhere can, since none leads to it but what it was made of.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain

import msgspec

from happened.core.errors import Broken
from happened.core.store import START, Row, Store
from happened.log.names import NOTE, Name
from happened.log.records import Reader
from happened.log.row import (
    BUILT_IN,
    EPOCH_CHANGE,
    ERASURE,
    FIRST_NUMBER,
    SAID_OF_ITSELF,
    SALT_BYTES,
    SCHEMA,
    EpochChange,
    Erased,
    decode_header,
    digest_of,
    is_erased,
    taken_apart,
)


class Verified(msgspec.Struct, frozen=True):
    """What `verify` has counted: the last position, rows, records by kind, and the digest of the whole log."""

    position: int
    rows: int
    kinds: Mapping[str, int]
    digest: str
    erased: int = 0
    """Records whose bodies were erased."""
    unexplained: int = 0
    """Those of them that no record of an erasure speaks of, wherever in the log that lies: nobody said who erased them, and why."""


class Noted(msgspec.Struct, frozen=True):
    """A digest that was noted, or its beginning, and where it stands if that was noted, too."""

    digest: str
    position: int | None = None

    def check(self, row: Row) -> bool:
        """Say whether this is the row that was noted. `Broken` where another one stands in its place."""
        same = row.digest.hex().startswith(self.digest)
        if self.position is None or row.last < self.position:
            return same and self.position is None
        if row.last != self.position or not same:
            raise Broken(
                f"the record at position {self.position} is not the one that was noted: the chain holds, so at least one row up to there was "
                "changed, taken out or put in, and all digests after it were made anew",
                position=self.position,
                noted=self.digest,
            )
        return True

    def missing(self, head: int) -> Broken:
        """Return the error of a log that ends before it."""
        if self.position is None:
            return Broken(
                f"no row up to the end, at position {head}, has the digest that was noted: rows were taken out at the end, or the log was "
                "written anew",
                position=head,
                noted=self.digest,
            )
        return Broken(
            f"the log ends at position {head}, and what was noted stood at {self.position}: all after {head} was taken out",
            position=head + 1,
            noted=self.digest,
        )


def _check_types(row: Row, position: int) -> None:
    """Look whether a store gave back numbers, texts and bytes where such were written: a digest does not tell a text from its bytes."""
    numbers, texts, blobs = (row.position, row.count, row.at), (row.head, row.records, row.input or ""), (row.salts, row.digest)
    given = [*[type(one) is int for one in numbers], *[type(one) is str for one in texts], *[type(one) is bytes for one in blobs]]
    if not all(given):
        raise Broken(f"the row at position {position} holds values of other types than were written", position=position)


def verified(
    store: Store,
    reader: Reader,
    find: Callable[[str], Sequence[Row]],
    progress: Callable[[int, int], None],
    epochs: Sequence[int],
    noted: Noted | None = None,
) -> Verified:
    """Read the log, the whole of it or up to what was noted, and return what was counted. `Broken` with the first bad position.

    `epochs` is what the log's note says: the epoch of today, and the last position of each before.
    """
    before, position, at = START.digest, 0, 0
    rows_seen = 0
    kinds: dict[str, int] = {}
    names = _Names(store.notes)
    acts = _Acts()
    head = store.wait(1 << 62, 0)
    for rows in store.read(until=head):
        for row in rows:
            _check_types(row, position + 1)
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
                acts.take(row)
            except msgspec.MsgspecError as error:
                raise Broken(f"the row at position {row.position} can't be read: {error}", position=row.position) from error
            count = len(positions)
            if count != row.count or len(row.salts) != SALT_BYTES * count:
                raise Broken(f"the row at position {row.position} says {row.count} records and has {count}", position=row.position)
            before, position, at = row.digest, row.last, row.at
            rows_seen += 1
            if noted is not None and noted.check(row):
                acts.explain(store.read(position, head))
                return Verified(position, rows_seen, kinds, before.hex(), *acts.counted())
        progress(position, head)
    if noted is not None:
        raise noted.missing(position)
    if position != head:
        raise Broken(f"the log ends at position {position}, not at {head}", position=position)
    names.end()
    acts.end(epochs)
    return Verified(position, rows_seen, kinds, before.hex(), *acts.counted())


def _check_cause(row: Row, find: Callable[[str], Sequence[Row]]) -> None:
    header = decode_header(row.head)
    cause = header.causation
    if cause is None or header.sent is None or not header.sent.handler:  # what a caller gives is a text, which may look like an id
        return
    id, _, ordinal = cause.rpartition("#")  # noqa: A001 - it is one
    if not id or not ordinal.isdecimal():
        return
    found = find(id)
    if found and (int(ordinal) >= sum(one.count for one in found) or found[0].position >= row.position):
        if any(one.position < row.position for one in find(cause)):  # a message that was recorded under an id of this shape
            return
        raise Broken(
            f"the row at position {row.position} was caused by `{cause}`, which does not stand before it", position=row.position, id=cause
        )


def _digest(before: bytes, row: Row) -> bytes:
    """Return the digest that a row must have; nothing, which no row has, where its bytes are not even JSON."""
    try:
        return digest_of(before, row)
    except (msgspec.MsgspecError, ValueError, Broken):
        return b""


class _Acts:
    """What the log says about itself beside its names: who has adopted it, and what was erased."""

    def __init__(self) -> None:
        self._adopted: list[tuple[int, int]] = []
        """Each epoch that an adoption began, and after which position."""
        self._erased: list[int] = []
        """Positions of records without a body."""
        self._explained: list[tuple[int, int]] = []

    def take(self, row: Row) -> None:
        """Take in a row."""
        self._hear_of_itself(row)
        if '"h":' in row.records or (row.input is not None and '"h":' in row.input):
            for place, (_, raw) in enumerate(taken_apart(row)):
                if is_erased(raw) and not any(row.salts[SALT_BYTES * place : SALT_BYTES * (place + 1)]):
                    self._erased.append(row.position + place)

    def explain(self, later: Iterable[Sequence[Row]]) -> None:
        """Look behind what was noted for who erased and why, since that is said later. Those rows are not verified: one that can't be read explains nothing."""
        with suppress(msgspec.MsgspecError, Broken):
            for row in chain.from_iterable(later if self.counted()[1] else ()):
                self._hear_of_itself(row)

    def counted(self) -> tuple[int, int]:
        """Return how many were erased, and how many of those no erasure speaks of."""
        spans = merged(self._explained)
        firsts = [first for first, _ in spans]
        unexplained = 0
        for position in self._erased:
            place = bisect_right(firsts, position) - 1
            unexplained += place < 0 or spans[place][1] < position
        return len(self._erased), unexplained

    def _hear_of_itself(self, row: Row) -> None:
        if row.records.startswith(SAID_OF_ITSELF):
            for _, raw in taken_apart(row):
                if raw.number == EPOCH_CHANGE:
                    change = msgspec.json.decode(raw.body, type=EpochChange)
                    self._adopted.append((change.epoch, change.position))
                elif raw.number == ERASURE:
                    self._explained += msgspec.json.decode(raw.body, type=Erased).positions

    def end(self, epochs: Sequence[int]) -> None:
        """Raise `Broken` where the note of who the log is does not say the epochs that the log has recorded: the one of today, and where those before ended."""
        said = [self._adopted[-1][0] if self._adopted else 1, *(ended for _, ended in self._adopted)]
        if said != list(epochs):
            raise Broken(
                f"the log's note says epoch {epochs[0]}, after {len(epochs) - 1} adoptions, and its records say {said[0]}, after {len(said) - 1}: one "
                "of them was changed"
            )


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the stretches of positions that these cover, in order, none of which touch."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


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
