"""Copies of a log: its rows up to a position, byte for byte, under a new id that says where they came from.

A copy has the positions and the digests of its origin, and is a log of its own from there on. What a log notes beside its rows is taken as it was at that
position: what waits for its decision and what is to be sent later follow from the rows; who runs what is not taken.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import msgspec

from happened.core.errors import Broken, Diverged, Invalid
from happened.core.store import START, Commit, Head, Row, Terms, Unseen
from happened.core.world import Source
from happened.log.erasure import ERASING_NOTE
from happened.log.held import NOTE as HELD_NOTE
from happened.log.held import UNREAD_NOTE
from happened.log.lease import NOTE as LEASE_NOTE
from happened.log.lease import PRESENT
from happened.log.log import (
    ERASED_NOTE,
    EVERYTHING_SEEN,
    IDENTITY_NOTE,
    CameFrom,
    Identity,
    Log,
    latest_erasure,
    place_of,
)
from happened.log.log import Progress as Told
from happened.log.names import NOTE as NAME_NOTE
from happened.log.records import Reader
from happened.log.row import EPOCH_CHANGE, FORMAT, SCHEDULE, SCHEMA, EpochChange, decode_header, digest_of, taken_apart
from happened.log.slices import NOTE as PROGRESS_NOTE
from happened.log.slices import Progress
from happened.log.worker import FAILING

PENDING_NOTE, TIMER_NOTE, SHARE_NOTE = "pending/", "timer/", "share/"
OF_OTHERS = ("origin/", f"{PROGRESS_NOTE}subscription/")
"""What says how far another system's log was read."""
NOT_TAKEN = (IDENTITY_NOTE, LEASE_NOTE, PRESENT, FAILING, ERASING_NOTE)
"""Notes that are of this log alone: who it is, who works on it, what is to be done to its file."""


class _Numbered(msgspec.Struct, frozen=True):
    number: int


class _Scheduled(msgspec.Struct, frozen=True):
    id: str
    due: int


class Standing:
    """What a log notes beside its rows, as it follows from them: row by row, from the first."""

    def __init__(self) -> None:
        self.position = 0
        self.digest = START.digest
        self.rows = 0
        self.epoch = 1
        self.ended: tuple[tuple[int, int], ...] = ()
        """The epochs before, and the last position of each."""
        self._at = 0
        self._names: set[str] = set()
        self._pending: dict[str, int] = {}
        self._timers: dict[str, tuple[str, int]] = {}

    def take(self, row: Row) -> None:
        """Take the next row. `Broken` where it does not follow: by its place, its time, or the chain."""
        try:
            follows = (
                row.position == self.position + 1 and row.at >= self._at and row.count > 0 and digest_of(self.digest, row) == row.digest
            )
        except (msgspec.MsgspecError, ValueError):
            follows = False
        if not follows:
            raise Broken(
                f"the row at position {row.position} does not follow on position {self.position}: it, or one before it, was changed or taken out",
                position=self.position + 1,
            )
        header = decode_header(row.head)
        if header.outcome == "pending" and header.id is not None:
            self._pending[header.id] = row.position
        if header.decides is not None:
            self._pending.pop(header.decides, None)
        if header.id is not None:
            self._timers.pop(header.id, None)
        if row.records.startswith(f"[[{EPOCH_CHANGE},"):
            change = msgspec.json.decode(next(taken_apart(row))[1].body, type=EpochChange)
            self.ended = (*self.ended, (self.epoch, change.position))
            self.epoch = change.epoch
        if row.records.startswith("[[0,") or f"[{SCHEDULE}," in row.records:
            for place, (_, raw) in enumerate(taken_apart(row)):
                if raw.number == SCHEMA:
                    self._names.add(f"{NAME_NOTE}{msgspec.json.decode(raw.body, type=_Numbered).number}")
                elif raw.number == SCHEDULE:
                    later = msgspec.json.decode(raw.body, type=_Scheduled | None)
                    if later is not None:
                        self._timers[later.id] = f"{TIMER_NOTE}{later.due:020d}/{later.id}", row.position + place
        self.position, self._at, self.digest = row.last, row.at, row.digest
        self.rows += 1

    def notes(self, noted: Mapping[str, str], head: int) -> dict[str, str | None]:
        """Return what is noted at this position, from what is noted at the head, which may be further on."""
        found: dict[str, str | None] = {}
        whole = head == self.position
        for key, body in noted.items():
            if key.startswith(NOT_TAKEN) and key != ERASED_NOTE:
                continue
            if whole or self._is_of_here(key, body):
                found[key] = body
        if not whole:
            found |= {f"{PENDING_NOTE}{position:020d}": id for id, position in self._pending.items()}  # noqa: A001 - it is one
            found |= {key: str(position) for key, position in self._timers.values()}
        for key in [key for key in found if key.startswith(PROGRESS_NOTE)]:
            progress = msgspec.json.decode(found[key] or "", type=Progress)
            known = min(progress.position, self.position)  # the epoch is that of a lease, of which a copy has none
            found[key] = msgspec.json.encode(msgspec.structs.replace(progress, position=known, epoch=0)).decode()
        return found

    def _is_of_here(self, key: str, body: str) -> bool:
        """Say whether a note of a later moment can be one of this position, too."""
        if (
            key.startswith((PENDING_NOTE, TIMER_NOTE, *OF_OTHERS, SHARE_NOTE, f"{PROGRESS_NOTE}{SHARE_NOTE}", UNREAD_NOTE))
            or key == "topology"
        ):
            return False
        if key.startswith(NAME_NOTE):
            return key in self._names
        if key.startswith(HELD_NOTE):
            return int(key.rpartition("/")[2]) <= self.position
        return bool(body)


def snapshot(log: Log) -> tuple[int, Mapping[str, str]]:
    """Return where a log stands, and all that it notes there, as of one moment."""
    found: list[tuple[int, Mapping[str, str]]] = []

    def look(unseen: Unseen) -> Commit:
        found.append((unseen.head.position, unseen.notes("")))
        return Commit()

    log.engine.append(look, EVERYTHING_SEEN)
    return found[0]


def end_of(log: Log, until: int | None, head: int) -> int:
    """Return the end of the last whole command up to a position. `Invalid` for one behind the head."""
    if until is None:
        return head
    if place_of(until) > head:
        raise Invalid(f"the log ends at position {head}, and {until} was asked for", position=until, head=head)
    row = log.row_at(until) if until else None
    return 0 if row is None else row.last if row.last == until else row.position - 1


class Fillable(Protocol):
    """What a new log is filled through: a store, or what stands for one until it is whole. The notes come last."""

    def append(self, decide: Callable[[Unseen], Commit], seen: int, /) -> Head:
        """Add rows, or notes."""
        ...

    def index(self, reading: Mapping[int, str], terms_of: Callable[[Row], Terms], progress: Told, /) -> bool:
        """Say how rows are read."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class Filling:
    """A new log that is being filled with the rows of another one. It is none before it is finished."""

    def __init__(self, engine: Fillable, reader: Reader, source: Source) -> None:
        self.standing = Standing()
        self._engine = engine
        self._reader = reader
        self._source = source
        self._index()

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows, each held against the chain."""
        taken = list(rows)
        for row in taken:
            self.standing.take(row)
        if self._reader.learn(taken):
            self._index()
        terms = [self._reader.row_terms(row) for row in taken]
        self._engine.append(lambda _unseen: Commit(taken, terms), EVERYTHING_SEEN)

    def finish(self, noted: Mapping[str, str], head: int, origin: CameFrom, app: str) -> Identity:
        """Note what is to be noted, and with that who the log is."""
        if (self.standing.position, self.standing.digest.hex()) != (origin.position, origin.digest):
            raise Diverged(
                f"the rows end at position {self.standing.position}, and {origin.position} was to be the last",
                position=self.standing.position,
            )
        identity = Identity(self._source.new_id().split("-")[0], self.standing.epoch, FORMAT, app, self.standing.ended, origin)
        notes = {**self.standing.notes(noted, head), IDENTITY_NOTE: msgspec.json.encode(identity).decode()}
        self._engine.append(lambda _unseen: Commit(notes=notes), EVERYTHING_SEEN)
        self._index()
        return identity

    def _index(self) -> None:
        """Say how the names that are known by now are read."""
        self._engine.index(self._reader.reading(), self._reader.row_terms, lambda _done, _all: None)


def copied(log: Log, make: Callable[[], Fillable], until: int | None, source: Source, told: Told) -> Identity:
    """Copy a log, which may be written to meanwhile, into a new store. Where something is erased meanwhile the copy is begun anew."""
    while True:
        head, noted = snapshot(log)
        position = end_of(log, until, head)
        last = log.row_at(position) if position else None
        engine = make()
        try:
            filling = Filling(engine, log.reader, source)
            for rows in log.engine.read(until=position):
                filling.add(rows)
                told(filling.standing.position, position)
            if latest_erasure(log.engine) != int(noted.get(ERASED_NOTE, "0")):
                continue
            digest = (last.digest if last is not None else START.digest).hex()
            origin = CameFrom(log.identity.id, log.identity.epoch, position, digest)
            return filling.finish(noted, head, origin, log.identity.app)
        finally:
            engine.close()
