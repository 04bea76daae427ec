"""A view: one state class folded into its table, page by page.

Of each page the states that it touches are loaded in one query, evolved in memory, and written once each, with the checkpoint, in one transaction. The
checkpoint is a compare-and-set on position and owner's epoch, so nothing is folded twice, and an owner that lost its lease can't write.

An event that `evolve` can't take stops its key, not the others: the row stays as it was, and asking for it raises `Stuck`. If the key itself can't be
found, the whole view stops there.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar  # Any: keys, states and events of any class

import msgspec

from happened.core.errors import Diverged, Invalid
from happened.core.filling import Fill, fill_for
from happened.core.messages import Recorded
from happened.core.state import Fold, Key, State, fold_of
from happened.core.store import Row
from happened.core.tags import text_of
from happened.cqrs.tables import Table
from happened.log.fingerprint import fingerprint_of
from happened.log.records import envelope_of
from happened.log.row import decode_header

S = TypeVar("S", bound=State)

STATES_MAX = 300_000
"""States of a view kept in memory between pages."""

Touch = tuple[Key, Any, tuple[Any, ...], int]
"""A key, what `evolve` is given of the event, what it is given beside, and the position."""


class Folded(Generic[S]):
    """The rows of one fold: a table, and the part of it that is in memory."""

    def __init__(self, state: type[S], fingerprint: str) -> None:
        self.fold = fold_of(state)
        self.table = Table(state, fingerprint)
        self.states: dict[Key, Any] = {}
        self.changed: dict[Key, int] = {}
        self.complete = False
        """Nothing is in the table that isn't in memory."""

    def load(self, connection: sqlite3.Connection, keys: Sequence[Key]) -> None:
        """Have these keys in memory."""
        if self.complete:
            return
        missing = [key for key in dict.fromkeys(keys) if key not in self.states]
        most = min(self.table.keys_max, 5000)
        for start in range(0, len(missing), most):
            some = missing[start : start + most]
            self.states.update(dict.fromkeys(some))
            if not self.fold.key:
                rows = connection.execute(self.table.select()).fetchall()
            else:
                rows = connection.execute(
                    self.table.select_keys_sql(len(some)), [value for key in some for value in self.table.encode_key(key)]
                ).fetchall()
            for row in rows:
                state = self.table.decode(row)
                self.states[tuple([getattr(state, field) for field in self.fold.key])] = state

    def write(self, connection: sqlite3.Connection) -> None:
        """Write what has changed, in the open transaction."""
        if not self.changed:
            return
        encode, states = self.table.encode, self.states
        rows: list[Sequence[Any]] = []
        gone: list[Sequence[Any]] = []
        for key, position in self.changed.items():
            state = states.get(key)
            if state is None:
                gone.append(self.table.encode_key(key))
            else:
                rows.append(encode(state, position))
        if rows:
            connection.executemany(self.table.upsert, rows)
        if gone:
            connection.executemany(self.table.delete, gone)
        self.changed = {}

    def make_room(self) -> None:
        """Let go of what is in memory, if it is much. What has changed is written before."""
        if len(self.states) > STATES_MAX:
            self.states.clear()
            self.complete = False


class ViewBuild(Generic[S]):
    """One table of a view: a state class, by the code of a fingerprint, in a generation (a rebuild is a new one)."""

    def __init__(self, state: type[S], generation: int) -> None:
        self.fold = fold_of(state)
        self.name = self.fold.name
        self.fingerprint = view_fingerprint(self.fold)
        self.generation = generation
        tagged = f"{self.fingerprint[:6]}{generation % 100:02d}"
        self.own = Folded(state, tagged)
        self.joined: list[Folded[Any]] = [Folded(join.state, tagged) for join in self.fold.joins]
        self.position = 0
        self.digest = bytes(32)
        self.ready = False
        self.broken: str | None = None
        """Why the whole view stopped."""
        self.stuck: dict[Key, tuple[int, str]] = {}
        self._new_stuck: dict[Key, tuple[int, str]] = {}
        self._fills: dict[type, list[Fill]] = {}
        self.wants_record = self.fold.wants_record or any(p.annotation is Recorded for p in self.fold.key_parameters)
        self.wants_record = self.wants_record or any(joined.fold.wants_record or joined.fold.key_of is not None for joined in self.joined)

    def create(self, connection: sqlite3.Connection) -> None:
        """Make the tables."""
        for folded in (self.own, *self.joined):
            for statement in folded.table.ddl():
                connection.execute(statement)

    def forget(self) -> None:
        """Let go of what is in memory: the file is the truth."""
        for folded in (self.own, *self.joined):
            folded.states.clear()
            folded.changed.clear()
            folded.complete = False

    def fold_page(self, connection: sqlite3.Connection, rows: Sequence[Row], pages: Sequence[Sequence[Any]]) -> None:
        """Let the events of these rows have happened, in memory."""
        if self.joined:
            for row, records in zip(rows, pages, strict=True):
                self._fold_joined(connection, row, records)
                if self.broken:
                    return
            return
        touches = list(self._touches(rows, pages))
        self.own.load(connection, [touch[0] for touch in touches])
        states, changed, step, stuck = self.own.states, self.own.changed, self.fold.step, self.stuck
        for key, message, extra, position in touches:
            if stuck and key in stuck:
                continue
            try:
                states[key] = step(states.get(key), key, message, extra)
            except Exception as error:  # noqa: BLE001 - it stops its key, and is seen
                self._stick(key, position, error)
            else:
                changed[key] = position

    def write(self, connection: sqlite3.Connection) -> None:
        """Write rows and what is stuck, in the open transaction."""
        for folded in (self.own, *self.joined):
            folded.write(connection)
        for key, (position, error) in self._new_stuck.items():
            connection.execute(
                "insert or replace into _stuck(name, fingerprint, generation, key, position, error) values(?, ?, ?, ?, ?, ?)",
                (self.name, self.fingerprint, self.generation, key_text(key), position, error),
            )

    def written(self) -> None:
        """Take what was written for committed."""
        self._new_stuck = {}
        for folded in (self.own, *self.joined):
            folded.make_room()

    def _touches(self, rows: Sequence[Row], pages: Sequence[Sequence[Any]]) -> Iterator[Touch]:
        touched = self.fold.touched
        simple = not self.wants_record
        for row, records in zip(rows, pages, strict=True):
            position = row.position if row.input is None else row.position + 1
            header = None
            for at, record in enumerate(records, position):
                event = record.body
                if event is None:
                    continue
                envelope: Recorded | None = None
                if not simple:
                    header = header or decode_header(row.head)
                    envelope = envelope_of(row, header, at - row.position, record.extra)
                extra: tuple[Any, ...] = (envelope,) if self.fold.wants_record else ()
                try:
                    found = touched(event, envelope)
                except Exception as error:  # noqa: BLE001 - no key: the view stops here, and is seen
                    self._break(at, error)
                    return
                for key, message in found:
                    yield key, message, extra, at

    def _fold_joined(self, connection: sqlite3.Connection, row: Row, records: Sequence[Any]) -> None:
        position = row.position if row.input is None else row.position + 1
        header = decode_header(row.head)
        for at, record in enumerate(records, position):
            event: object = record.body
            if event is None:
                continue
            envelope = envelope_of(row, header, at - row.position, record.extra)
            try:
                for folded in self.joined:
                    beside: tuple[Any, ...] = (envelope,) if folded.fold.wants_record else ()
                    for key, message in folded.fold.touched(event, envelope):
                        folded.load(connection, [key])
                        folded.states[key] = folded.fold.step(folded.states.get(key), key, message, beside)
                        folded.changed[key] = at
                if not self.fold.follows(type(event)):
                    continue
                joined = self._joined(connection, event)
                if self.fold.key_of is not None:
                    found = self.fold.reading(type(event))(event, envelope, joined)
                else:
                    found = self.fold.touched(event, envelope)
                extra = tuple([envelope if p.annotation is Recorded else joined[p.name] for p in self.fold.evolve_parameters])
            except Exception as error:  # noqa: BLE001 - no key: the view stops here, and is seen
                self._break(at, error)
                return
            for key, message in found:
                if key in self.stuck:
                    continue
                self.own.load(connection, [key])
                try:
                    self.own.states[key] = self.fold.step(self.own.states.get(key), key, message, extra)
                    self.own.changed[key] = at
                except Exception as error:  # noqa: BLE001 - it stops its key, and is seen
                    self._stick(key, at, error)

    def _joined(self, connection: sqlite3.Connection, event: object) -> dict[str, Any]:
        """Return the joined states for an event, as of its position."""
        fills = self._fills.get(type(event))
        if fills is None:
            fills = self._fills[type(event)] = fills_of(self.fold, type(event))
        by_fold = {folded.fold: folded for folded in self.joined}
        filled: list[Any] = []
        for fill in fills:
            key = fill.find(event, filled)
            if key is None:
                filled.append(None)
                continue
            folded = by_fold[fill.fold]
            folded.load(connection, [key])
            state = folded.states.get(key)
            filled.append(state if state is not None or fill.optional else fill.fold.initial(key))
        return {fill.parameter: state for fill, state in zip(fills, filled, strict=True)}

    def _stick(self, key: Key, position: int, error: Exception) -> None:
        self.stuck[key] = self._new_stuck[key] = (position, f"{type(error).__name__}: {error}")

    def _break(self, position: int, error: Exception) -> None:
        self.broken = f"at position {position}: {type(error).__name__}: {error}"


def check_view(state: type[State], events: Iterable[type]) -> None:
    """Raise `Invalid`, with what to mend, unless the rows of this state and of those that it joins can be kept, for each of these events."""
    fold = fold_of(state)
    if fold.evolve is None:
        raise Invalid(f"the view `{state.__name__}` has no `evolve`", state=state.__name__)
    Table(state, "")
    for join in fold.joins:
        joined = fold_of(join.state)
        if joined.evolve is None or joined.joins:
            why = "has no `evolve`" if joined.evolve is None else "asks for other states itself"
            raise Invalid(
                f"`{state.__name__}` asks for `{join.state.__name__}`, which {why}: a view may ask for states that events alone change",
                state=state.__name__,
                parameter=join.parameter,
            )
        Table(join.state, "")
    for event in events:
        if fold.follows(event):
            fills_of(fold, event)


def fills_of(fold: Fold, event: type) -> list[Fill]:
    """Return how the states that a view asks for are found from events of a class, in the order of its parameters."""
    fills: list[Fill] = []
    parameters = {p.name: p for p in (*fold.key_parameters, *fold.evolve_parameters) if p.annotation is not Recorded}
    for parameter in parameters.values():
        fills.append(fill_for(fold.key_of or fold.state.evolve, event, parameter, fills))  # type: ignore[attr-defined]  # a view has it
    return fills


def view_fingerprint(fold: Fold) -> str:
    """Return the fingerprint of all that the rows of a view depend on: its code, its events, the states it joins."""
    return fingerprint_of(fold.state, *(join.state for join in fold.joins), *fold.readings).digest


def key_text(key: Key) -> str:
    """Return a key as text, for the table of what is stuck."""
    return msgspec.json.encode([text_of(value) for value in key]).decode()


def check_history(build: ViewBuild[Any], log: str, epoch: int, found_log: str, found_epoch: int, digest_there: bytes | None) -> None:
    """Raise `Diverged` unless a checkpoint belongs to this log's history."""
    same = found_log == log and found_epoch <= epoch and (build.position == 0 or digest_there == build.digest)
    if not same:
        raise Diverged(
            f"the view `{build.name}` was folded from another history: its checkpoint is position {build.position} of log {found_log}. "
            "Was an older log put in place? Restore the right one, or delete the views' file: it is rebuilt",
            view=build.name,
            position=build.position,
            log=found_log,
        )
