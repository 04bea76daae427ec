"""A view: one state class folded into its table, page by page.

Of each page the states that it touches are loaded in one query, evolved in memory, and written once each, with the checkpoint, in one transaction. The
checkpoint is a compare-and-set on position and owner's epoch, so nothing is folded twice, and an owner that lost its lease can't write.

An event that `evolve` can't take, or after which the table can't hold the row or its key, stops its key, not the others: the row stays as it was, however
many events are folded before it is written, and asking for it raises `Stuck`. The same holds for a joined state, and for the keys of later events that ask
for it. If the key itself can't be found, or is none, the whole view stops there.
"""

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from typing import Any, Generic, TypeVar  # Any: keys, states and events of any class

import msgspec

from happened.core.equal import DIGITS_MAX, as_one
from happened.core.errors import Diverged, Invalid
from happened.core.filling import Fill, fill_for
from happened.core.messages import Recorded, Several, events_of
from happened.core.state import Fold, Key, State, fold_of, state_in
from happened.core.store import Bare
from happened.core.tags import text_of
from happened.core.tally import tally
from happened.log.deciding import deciding
from happened.log.fingerprint import fingerprint_of
from happened.log.held import told
from happened.log.lifting import Lifts
from happened.log.log import Identity
from happened.log.records import envelopes_of, positions_of
from happened.log.row import decode_header
from happened.shelf.connection import FAILED, PASSING, Connection, Dialect
from happened.shelf.dialect import SQLITE
from happened.shelf.rows import tag_of
from happened.shelf.tables import Table

S = TypeVar("S", bound=State)

OF_PLACES = ("_view", "_stuck", "_shown", "_begun")
"""Tables that lie where views do, as `DDL` of the shelf makes them."""

STATES_MAX = 300_000
"""States of a view kept in memory between pages."""

TALLY_BYTES = 512
"""As long as a tally may be."""

Touch = tuple[Key, Any, tuple[Any, ...], int]
"""A key, what `evolve` is given of the event, what it is given beside, and the position."""

AFTER = 1
"""Where a bare row has the position after its last record."""


class Page:
    """Rows of the log, the records of all of them, and what is found there once for all views that read them."""

    def __init__(self, rows: Sequence[Bare], records: Sequence[Any]) -> None:
        self.rows = rows
        self.records = records

    @classmethod
    def of_event(cls, page: "Page", event: Any, at: int, envelope: Recorded) -> "Page":
        """Return a page of which only one event is there."""
        one = cls(page.rows, page.records)
        one.events, one.envelopes = [(event, at)], [envelope]
        return one

    @cached_property
    def events(self) -> list[tuple[Any, int]]:
        """The events, with their positions."""
        there = zip(self.records, positions_of(self.rows), strict=True)
        return [(record.body, at) for record, at in there if record.body is not None]

    @cached_property
    def envelopes(self) -> list[Recorded]:
        """The envelopes of the events, where the rows have their heads."""
        return [envelope for envelope in envelopes_of(self.rows, self.records) if envelope is not None]

    @cached_property
    def kinds(self) -> set[type]:
        """The classes of the events."""
        return {type(event) for event, _ in self.events}


Standing = tuple[int, str]
"""Since which position a key stands still, and why."""


class Stopped(Exception):
    """A view can't go on: it is not known which keys an event touches."""

    def __init__(self, position: int, why: str) -> None:
        super().__init__(f"at position {position}: {why}")


class Folded(Generic[S]):
    """The rows of one fold: a table, and the part of it that is in memory."""

    def __init__(self, state: type[S], fingerprint: str, dialect: Dialect = SQLITE) -> None:
        self.fold = fold_of(state)
        self.table = Table(state, fingerprint, dialect=dialect)
        self.states: dict[Key, Any] = {}
        self.changed: dict[Key, int] = {}
        self.unheld: dict[Key, Exception] = {}
        """Keys of which a state that was not written can't be a row, while the one that came after it can."""
        self.complete = False
        """Nothing is in the table that isn't in memory."""
        self._key_in = _key_reader(self.fold)
        self._key_at = self.fold.fields.index(self.fold.key[0]) if len(self.fold.key) == 1 else None
        """Where a key of one field stands in a row: most types stand there as they are, and need no second look."""

    def load(self, connection: Connection, keys: Sequence[Key]) -> None:
        """Have these keys in memory."""
        if self.complete:
            return
        missing = [key for key in dict.fromkeys(keys) if key not in self.states]
        if not missing:
            return
        self.states.update(dict.fromkeys(missing))
        for state in self.found(connection, missing):
            self.states[tuple([getattr(state, field) for field in self.fold.key])] = state

    def found(self, connection: Connection, keys: Sequence[Key]) -> list[S]:
        """Return the states of these keys that are in the table. One that the table can't hold is not there; raises what says of another that it is no key."""
        encoded: list[Sequence[Any]] = []
        for key in keys:
            try:
                encoded.append(self.table.encode_key(key))
            except Invalid:
                self.fold.checked(key)
        return [self.table.decode(row) for row in self.table.dialect.found(connection, self.table, encoded)]

    def step(self, key: Key, message: Any, extra: tuple[Any, ...], position: int) -> None:
        """Let an event of a key that is in memory have happened. Raises what `evolve` does, and `Invalid` for a state that the table can't hold."""
        after = self.fold.step(self.states.get(key), key, message, extra)
        if after is not None:
            self._encode(key, after, position)
        self.states[key] = after
        self.changed[key] = position

    def pass_over(self, states: Sequence[S]) -> None:
        """Look at states that are not written, since the next event follows at once: each must be a row all the same, however many events come together."""
        for state in self.table.doubtful(states):
            try:
                self.table.dialect.check(self.table.encode(state, 0))
            except Exception as error:  # noqa: BLE001 - it stops its key, and is seen
                self.unheld.setdefault(self._key_in(state), error)

    def write(self, connection: Connection) -> list[tuple[Key, int, Exception]]:
        """Write what has changed, in the open transaction; return the keys whose rows the table can't hold, with position and error."""
        encode, states, key_in, at, unheld = self.table.encode, self.states, self._key_in, self._key_at, self.unheld
        rows: list[Sequence[Any]] = []
        gone: list[Sequence[Any]] = []
        refused: list[tuple[Key, int, Exception]] = []
        for key, position in self.changed.items():
            state = states.get(key)
            if key in unheld:
                refused.append((key, position, unheld[key]))
                continue
            try:
                if state is None:
                    gone.append(self.table.encode_key(key))
                    continue
                row = encode(state, position)
                if (at is None or row[at] != key[0]) and key_in(state) != key:
                    raise self._moved(key, state)
                rows.append(row)
            except Exception as error:  # noqa: BLE001 - it stops its key, and is seen
                refused.append((key, position, error))
        unstorable = self.table.put(connection, rows)
        if unstorable:
            known = {key for key, _, _ in refused}
            keys = [key for key in self.changed if states.get(key) is not None and key not in known]
            refused += [(keys[place], self.changed[keys[place]], error) for place, error in unstorable]
        self.table.dialect.delete_many(connection, self.table, gone)
        self.changed, self.unheld = {}, {}
        return refused

    def put(self, connection: Connection, key: Key, state: State | None, position: int) -> None:
        """Write one row, or delete it. Raises what says why the table can't hold it."""
        if state is None:
            self.table.dialect.delete_many(connection, self.table, [self.table.encode_key(key)])
        else:
            self.table.dialect.put_many(connection, self.table, [self._encode(key, state, position)])
        self.states[key] = state

    def text_of(self, key: Key) -> str:
        """Return a key as it is listed where it stands still. Raises what says that it is no key."""
        return self.table.dialect.listed(key_text(key))

    def make_room(self) -> None:
        """Let go of what is in memory, if it is much. What has changed is written before."""
        if len(self.states) > STATES_MAX:
            self.states.clear()
            self.complete = False

    def _encode(self, key: Key, state: Any, position: int) -> Sequence[Any]:
        row = self.table.encode(state, position)
        if self._key_in(state) != key:
            raise self._moved(key, state)
        self.table.dialect.check(row)
        return row

    def _moved(self, key: Key, state: Any) -> Invalid:
        return Invalid(f"`evolve` of `{self.fold.name}` changed the key {key!r} to {self._key_in(state)!r}: a row keeps its key")


class ViewBuild(Generic[S]):
    """One table of a view: a state class, by the code of a fingerprint, in a generation (a rebuild is a new one)."""

    def __init__(self, state: type[S], fingerprint: str, generation: int, dialect: Dialect = SQLITE) -> None:
        self.fold = fold_of(state)
        self.name = self.fold.name
        self.fingerprint = fingerprint
        self.generation = generation
        tagged = tag_of(fingerprint, generation)
        self.own = Folded(state, tagged, dialect)
        self.joined: list[Folded[Any]] = [Folded(join, tagged, dialect) for join in dict.fromkeys(join.state for join in self.fold.joins)]
        self.position = 0
        self.digest = bytes(32)
        self.made = 0
        """Versions of the code are numbered as they come; the tables of a newer one take the place of older ones."""
        self.ready = False
        self.erased = 0
        """Where the last erasure stands after which it was begun."""
        self.epoch: int | None = None
        """The owner's epoch under which the checkpoint was read; `None`: it must be read (again) before anything is folded."""
        self.broken: str | None = None
        """Why the whole view stopped."""
        self.failure: str | None = None
        """What went wrong last, and is tried again."""
        self.retry_at = 0.0
        self.live_from: int | None = None
        """From which position on rows are folded as they come; `None` while what was there before is caught up with."""
        self.shown = 0
        """The tally of how long it took until what came was shown: since its command was taken, and since it was recorded."""
        self._newly_shown = 0
        self.stuck: dict[str, Standing] = {}
        """Keys that stand still, as text; those of joined states with the state's name before them."""
        self._new_stuck: dict[str, Standing] = {}
        self._fills: dict[type, list[Fill]] = {}
        self._by_fold = {folded.fold: folded for folded in self.joined}
        self._key_states = [p.name for p in self.fold.key_parameters if p.annotation is not Recorded]
        self.wants_record = self.fold.wants_record or any(p.annotation is Recorded for p in self.fold.key_parameters)
        """Envelopes are to be made."""
        self.heads = self.wants_record or bool(self.joined)
        """What rows say of themselves is to be read."""
        self.wants_record = self.wants_record or any(joined.fold.wants_record or joined.fold.key_of is not None for joined in self.joined)
        for folded in self.joined:
            if folded.fold.evolve is None or folded.fold.joins:
                what = "has no `evolve`" if folded.fold.evolve is None else "asks for states itself"
                raise Invalid(
                    f"the view `{self.name}` can't ask for `{folded.fold.name}`, which {what}", view=self.name, state=folded.fold.name
                )
        if self.joined:
            for event in self.fold.readings:
                self._fills_for(event)

    @property
    def identity(self) -> tuple[str, str, int]:
        """What its rows in the tables of the file are found by."""
        return self.name, self.fingerprint, self.generation

    @property
    def tables(self) -> list[str]:
        """The names of its tables."""
        return [folded.table.name for folded in (self.own, *self.joined)]

    def create(self, connection: Connection) -> None:
        """Make the tables, empty, in the order in which readers hold them."""
        for folded in sorted((self.own, *self.joined), key=lambda folded: folded.table.name):
            for statement in (*folded.table.drop(), *folded.table.ddl()):
                connection.execute(statement)

    def forget(self) -> None:
        """Let go of what is in memory: the file is the truth."""
        self.stuck, self._new_stuck, self._newly_shown = {}, {}, 0
        for folded in (self.own, *self.joined):
            folded.states.clear()
            folded.changed.clear()
            folded.unheld.clear()
            folded.complete = False

    def fold_page(self, connection: Connection, page: Page) -> None:
        """Let the events of a page have happened, in memory. `Stopped` if their keys can't be found; then forget all of it."""
        try:
            with deciding():  # `evolve` may no more dispatch than a decider may
                if self.joined:
                    self._fold_joined(connection, page)
                else:
                    self._fold(connection, page)
        except (Stopped, *FAILED):
            raise
        except Exception as error:
            raise self._wrong_key(page) or Stopped(page.rows[0][0], told(error)) from error

    def write(self, connection: Connection, pages: Sequence[Page]) -> None:
        """Write rows and what is stuck, in the open transaction. `pages` are what was folded since the last one. `Stopped` for what is no key."""
        for folded in self.joined:
            for key, position, error in folded.write(connection):
                self._stand(_text_of_joined(folded, key), position, error)
        refused = self.own.write(connection)
        if self.joined:
            for key, position, error in refused:
                self._stick(key, position, error)
        elif refused:
            with deciding():
                self._refold(connection, {key: position for key, position, _ in refused}, pages)
        connection.executemany(
            "insert into _stuck(name, fingerprint, generation, key, position, error) values(?, ?, ?, ?, ?, ?) "
            "on conflict (name, fingerprint, generation, key) do update set position = excluded.position, error = excluded.error",
            [(*self.identity, key, position, error) for key, (position, error) in self._new_stuck.items()],
        )

    def show(self, connection: Connection, pages: Sequence[Page], now_us: int) -> None:
        """Count, in the open transaction, how long it took until these pages are shown: of rows that came as they were followed, and that say something here.

        What is caught up with, and what is rebuilt, is not counted: it was not waited for.
        """
        start = self.live_from
        if start is None or pages[-1].rows[-1][AFTER] <= start + 1:
            return
        for page in pages:
            of = iter(page.records)
            for first, after, _, position, at, head in page.rows:
                found: list[Any] = [record.body for record in itertools.islice(of, after - first)]
                if position > start and any(event is not None and self.fold.follows(event.__class__) for event in found):
                    shown_us = max(0, now_us - at)
                    self._newly_shown += tally(shown_us + decode_header(head).waited, shown_us)
        if self._newly_shown:
            body = (self.shown + self._newly_shown).to_bytes(TALLY_BYTES, "little")
            connection.execute(
                "insert into _shown(name, fingerprint, generation, tally) values(?, ?, ?, ?) "
                "on conflict (name, fingerprint, generation) do update set tally = excluded.tally",
                (*self.identity, body),
            )

    def written(self) -> None:
        """Take what was written for committed."""
        self._new_stuck = {}
        self.shown += self._newly_shown
        self._newly_shown = 0
        for folded in (self.own, *self.joined):
            folded.make_room()

    def _fold(self, connection: Connection, page: Page) -> None:
        touches = list(self._touches(page) if self.wants_record or self.fold.fields_of is None else self._touches_straight(page))
        self.own.load(connection, [touch[0] for touch in touches])
        fold, states, changed, stuck = self.fold, self.own.states, self.own.changed, self.stuck
        step: Callable[..., Any] = fold.evolve  # type: ignore[assignment]  # a view has it
        get, initial, checked = states.get, fold.state, fold.may_move
        passed: list[S] = []
        for key, message, extra, position in touches:
            if stuck and self.own.text_of(key) in stuck:
                continue
            before = get(key)
            try:
                after = step(initial(*key) if before is None else before, message, *extra)
                if after is None or checked:
                    fold.check_next(key, message, after)
            except Exception as error:  # noqa: BLE001 - it stops its key, and is seen
                self._stick(key, position, error)
            else:
                if before is not None and key in changed:
                    passed.append(before)
                states[key] = after
                changed[key] = position
        self.own.pass_over(passed)

    def _touches_straight(self, page: Page) -> Iterable[Touch]:
        """Find the keys in the way that most classes allow: kept short, since a rebuild takes it for every event of the log."""
        if Several in page.kinds:
            return self._touches(page)
        there = page.events
        others = {kind for kind in page.kinds if not self.fold.follows(kind)}  # other views that read the page follow them
        if others:
            there = [(event, at) for event, at in there if type(event) not in others]
        keys = self.fold.keys_of([event for event, _ in there])
        touches = [(key, event, (), at) for key, (event, at) in zip(keys, there, strict=True)]
        return [touch for touch in touches if None not in touch[0]] if self.fold.skips_none else touches

    def _touches(self, page: Page) -> Iterator[Touch]:
        wants_record = self.fold.wants_record
        readings = {kind: self.fold.reading(kind) for kind in page.kinds if self.fold.follows(kind)}
        envelopes: Iterable[Recorded | None] = page.envelopes if self.wants_record else itertools.repeat(None)
        for (event, at), envelope in zip(page.events, envelopes):  # noqa: B905 - one of them may have no end
            reading = readings.get(event.__class__)
            if reading is None:  # other views that read the page follow it
                continue
            extra: tuple[Any, ...] = (envelope,) if wants_record else ()
            try:
                found = reading(event, envelope)
            except Exception as error:
                raise Stopped(at, told(error)) from error
            for key, message in found:
                yield key, message, extra, at

    def _fold_joined(self, connection: Connection, page: Page) -> None:
        for (body, at), envelope in zip(page.events, page.envelopes, strict=True):
            try:
                for event in events_of(body):
                    for folded in self.joined:
                        self._step_joined(connection, folded, event, envelope, at)
                    if self.fold.follows(event.__class__):
                        self._step_own(connection, event, envelope, at)
            except (Stopped, *FAILED):
                raise
            except Exception as error:
                raise Stopped(at, told(error)) from error

    def _step_joined(self, connection: Connection, folded: Folded[Any], event: object, envelope: Recorded, at: int) -> None:
        beside: tuple[Any, ...] = (envelope,) if folded.fold.wants_record else ()
        for key, message in folded.fold.touched(event, envelope):
            if self.stuck and _text_of_joined(folded, key) in self.stuck:
                continue
            folded.load(connection, [key])
            try:
                folded.step(key, message, beside, at)
            except Exception as error:  # noqa: BLE001 - it stops its key, and is seen
                self._stand(_text_of_joined(folded, key), at, error)

    def _step_own(self, connection: Connection, event: object, envelope: Recorded, at: int) -> None:
        joined, standing = self._joined(connection, event)
        if standing and not all(name in joined for name in self._key_states):
            raise Stopped(at, f"`key_of` asks for {standing}")
        found = list(self.fold.reading(type(event))(event, envelope, joined) if self._key_states else self.fold.touched(event, envelope))
        self.own.load(connection, [key for key, _ in found])
        for key, message in found:
            if self.stuck and self.own.text_of(key) in self.stuck:
                continue
            try:
                if standing:
                    raise Invalid(f"`evolve` asks for {standing}")
                extra = tuple([envelope if p.annotation is Recorded else joined[p.name] for p in self.fold.evolve_parameters])
                self.own.step(key, message, extra, at)
            except Exception as error:  # noqa: BLE001 - it stops its key, and is seen
                self._stick(key, at, error)

    def _joined(self, connection: Connection, event: object) -> tuple[dict[str, Any], str]:
        """Return the joined states for an event, as of its position, up to the first that stands still, and what is to be said of that."""
        joined: dict[str, Any] = {}
        filled: list[Any] = []
        for fill in self._fills_for(type(event)):
            folded = self._by_fold[fill.fold]
            found = fill.find(event, filled)
            keys: Sequence[Key] = found if fill.many else [found] if found is not None else []
            for key in keys if self.stuck else ():
                text = _text_of_joined(folded, key)
                if text in self.stuck:
                    position, error = self.stuck[text]
                    return joined, f"{text}, which stands still at position {position}: {error}"
            folded.load(connection, keys)
            states = [folded.states.get(key) for key in keys]
            filled.append(_filled(fill, keys, states))
            joined[fill.parameter] = filled[-1]
        return joined, ""

    def _fills_for(self, event: type) -> list[Fill]:
        if event not in self._fills:
            self._fills[event] = fills_of(self.fold, event)
        return self._fills[event]

    def _refold(self, connection: Connection, refused: Mapping[Key, int], pages: Sequence[Page]) -> None:
        """Fold the events of some keys again, each written by itself: the row stays as of the last that the table holds, and the key stops at the next."""
        touches: dict[Key, list[Touch]] = {key: [] for key in refused}
        for touch in itertools.chain.from_iterable(map(self._touches, pages)):
            if touch[0] in touches:
                touches[touch[0]].append(touch)
        for key, of_key in touches.items():
            self._check_key(key, of_key[0][3] if of_key else refused[key])
            self._refold_one(connection, key, of_key)

    def _refold_one(self, connection: Connection, key: Key, touches: Sequence[Touch]) -> None:
        self.own.states[key] = next(iter(self.own.found(connection, [key])), None)
        for _, message, extra, at in touches:
            try:
                self.own.put(connection, key, self.fold.step(self.own.states[key], key, message, extra), at)
            except PASSING:
                raise
            except Exception as error:  # noqa: BLE001 - it stops its key, and is seen
                self._stand(self.own.text_of(key), at, error)
                return

    def _stick(self, key: Key, position: int, error: Exception) -> None:
        self._check_key(key, position)
        self._stand(self.own.text_of(key), position, error)

    def _stand(self, text: str, position: int, error: Exception) -> None:
        self.stuck[text] = self._new_stuck[text] = (position, told(error))

    def _check_key(self, key: Key, position: int) -> None:
        """Raise `Stopped` for what is no key. One of the right types that the table can't hold is one."""
        try:
            self.fold.checked(key)
            self.own.text_of(key)
            hash(key)
        except (Invalid, TypeError, ValueError) as error:
            raise Stopped(position, told(error)) from error

    def _wrong_key(self, page: Page) -> Stopped | None:
        """Return where the first is that is no key, if that is what went wrong."""
        if self.joined:
            return None
        try:
            for key, _, _, position in self._touches(page):
                self._check_key(key, position)
        except Stopped as stopped:
            return stopped
        return None


def check_view(state: type[State], events: Iterable[type]) -> None:
    """Raise `Invalid`, with what to mend, unless the rows of this state and of those that it joins can be kept, for each of these events."""
    fold = fold_of(state)
    if fold.evolve is None:
        raise Invalid(f"the view `{state.__name__}` has no `evolve`", state=state.__name__)
    Table(state, "")
    if fold.name.lower() in OF_PLACES:
        raise Invalid(
            f'`{fold.name}` can\'t be a view: where views lie a table has this name. Give it another one with `@named("...")`',
            state=fold.name,
        )
    names = {fold.name.lower(): fold}
    for join in fold.joins:
        joined = fold_of(join.state)
        if names.setdefault(joined.name.lower(), joined) is not joined:
            raise Invalid(
                f"`{state.__name__}` asks for `{join.state.__name__}`, whose table would be that of another state of the view, since they are one name in SQL: "
                'give one of them another with `@named("...")`',
                state=state.__name__,
                parameter=join.parameter,
            )
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
    parameters = {p.name: p for p in (*fold.key_parameters, *fold.evolve_parameters) if state_in(p.annotation) is not None}
    for parameter in parameters.values():
        fills.append(fill_for(fold.key_of or fold.state.evolve, event, parameter, fills))  # type: ignore[attr-defined]  # a view has it
    return fills


def view_fingerprint(fold: Fold, lifts: Lifts) -> str:
    """Return the fingerprint of all that the rows of a view depend on: its code, its events with their upcasts, the states it joins."""
    joined = [join.state for join in fold.joins]
    events = [*fold.readings, *(event for state in joined for event in fold_of(state).readings)]
    return fingerprint_of(fold.state, *joined, *fold.readings, *lifts.digests(events)).digest


def key_text(key: Key) -> str:
    """Return a key as text, for the table of what is stuck. Keys that are equal have one text: a row is of all of them."""
    return msgspec.json.encode([_text(as_one(value)) for value in key]).decode()


def _text(value: Any) -> str:
    written_out = isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) < DIGITS_MAX
    return f"{value:f}" if written_out else text_of(value)


def check_history(
    build: ViewBuild[Any], identity: Identity, found_log: str, found_epoch: int, digest_there: bytes | None, where: str
) -> None:
    """Raise `Diverged` unless a checkpoint belongs to this log's history. `where` is what the place of the view is called."""
    if found_log != identity.id:
        raise Diverged(
            f"the view `{build.name}` in {where} was folded from another log, {found_log}, up to position {build.position}, and this one is {identity.id}. "
            f"Was this log begun anew? Then delete {where}: its views are built again. Else open that log",
            view=build.name,
            position=build.position,
            log=found_log,
        )
    if found_epoch > identity.epoch or (build.position and digest_there != build.digest):
        raise Diverged(
            f"the view `{build.name}` was folded from another history: its checkpoint is position {build.position} of log {found_log}. "
            "Was an older log put in place? Restore the right one, or take over this one: happened adopt",
            view=build.name,
            position=build.position,
            log=found_log,
        )


def _key_reader(fold: Fold) -> Callable[[Any], Key]:
    """Return the function from a state to its key."""
    match fold.key:
        case ():
            return lambda _state: ()
        case (field,):
            value_of = operator.attrgetter(field)
            return lambda state: (value_of(state),)
        case fields:
            return operator.attrgetter(*fields)


def _filled(fill: Fill, keys: Sequence[Key], states: Sequence[Any]) -> Any:
    """Return what a parameter is given: a state, `None`, or a mapping by the value of the tag, or by a tuple where there are several."""
    found = [state if state is not None or fill.optional else fill.fold.initial(key) for key, state in zip(keys, states, strict=True)]
    if fill.many:
        single = len(fill.fold.key) == 1
        return dict(zip([key[0] for key in keys] if single else keys, found, strict=True))
    return found[0] if found else None


def _text_of_joined(folded: Folded[Any], key: Key) -> str:
    return folded.table.dialect.listed(f"{folded.fold.name}{key_text(key)}")
