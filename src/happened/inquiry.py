"""Inquiry: what differs between two positions, how one entity went, who set a field, and since when something no longer holds. Reads only."""

import ast
import decimal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import CodeType
from typing import Any, NamedTuple  # Any: bodies and values of any type

import msgspec

from happened.core.errors import Invalid, NotThere
from happened.core.messages import Event, Recorded
from happened.core.state import Fold, Key, State, fold_of
from happened.core.store import Row, Wanted
from happened.core.tags import tag_text, term
from happened.cqrs.past import ViewSteps, joins
from happened.log.held import told
from happened.log.log import Log
from happened.log.records import Record
from happened.past import Past
from happened.sourcing.time_travel import Travel

SAFE: Mapping[str, Any] = {
    one.__name__: one
    for one in (abs, all, any, bool, dict, float, frozenset, int, isinstance, len, list, max, min, round, set, sorted, str, sum, tuple)
} | {"Decimal": decimal.Decimal}
"""What an expression may name beside the fields of the state."""


# --- between two positions


class Difference(NamedTuple):
    """A state that differs between two positions: `None` where there was none."""

    state: str
    key: Key
    before: State | None
    after: State | None

    @property
    def fields(self) -> dict[str, tuple[Any, Any]]:
        """The fields that differ, each with what it was and what it is."""
        return fields_between(self.before, self.after)


def differences(before: Past, after: Past, states: Iterable[type[State]]) -> list[Difference]:
    """Return the states that differ between two positions, in the order of the classes and of their keys. A view that joins others counts by its rows.

    Cost: as `Past.states` of both.
    """
    found: list[Difference] = []
    for state in states:
        name = fold_of(state).name
        old, new = _rows(before, state), _rows(after, state)
        keys = sorted({*old, *new}, key=lambda key: tuple([str(value) for value in key]))
        found += [Difference(name, key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]
    return found


def fields_between(before: State | None, after: State | None) -> dict[str, tuple[Any, Any]]:
    """Return the fields that differ between two states of one class, each with both values; `None` stands for those of a state that is not there."""
    there = after if after is not None else before
    pairs = {
        name: (getattr(before, name, None), getattr(after, name, None)) for name in (there.__struct_fields__ if there is not None else ())
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1] or before is None or after is None}


def _rows(past: Past, state: type[State]) -> Mapping[Key, State]:
    if not joins(state):
        return past.states(state)
    fold = fold_of(state)
    return {tuple([getattr(row, field) for field in fold.key]): row for row in past.view(state).rows(limit=1 << 62)}


# --- one entity, one row


class Changed(msgspec.Struct, frozen=True):
    """What an event made of a state. `error` says why `evolve` could not take it: then the state stands still."""

    state: str
    key: Key
    before: State | None
    after: State | None
    error: str = ""


class Step(msgspec.Struct, frozen=True):
    """An event, who caused it, and what it changed."""

    position: int
    time: datetime
    id: str
    name: str
    body: Any
    actor: str
    cause: str
    """The id of the command that decided it, or of what it followed from."""
    command: str
    """The name of that command, where the event was decided."""
    changes: tuple[Changed, ...]


def not_stepped(folds: Iterable[Fold], tag: str) -> list[Fold]:
    """Return what the events of a tag alone do not tell: states with a computed key, and those with this tag in their key that join others."""
    return [fold for fold in folds if fold.key_of is not None or (fold.joins and tag in fold.tags)]


def steps(log: Log, folds: Iterable[Fold], tag: str, value: str, until: int) -> Iterator[Step]:
    """Yield every event with a tag up to a position, with before and after of each state that has this tag as a part of its key.

    Left out is what `not_stepped` returns. Cost: the events of the tag, by the index.
    """
    asked = [fold for fold in folds if tag in fold.tags and fold.key_of is None and not fold.joins and fold.evolve is not None]
    states: dict[tuple[Fold, Key], State | None] = {}
    stuck: set[tuple[Fold, Key]] = set()
    for rows in log.engine.read(until=until, wanted=[Wanted([term(tag, value)])]):
        log.reader.learn(rows)
        for row in rows:
            for record, event in _events(log, row):
                if (tag, value) not in record.tags:
                    continue
                envelope = Recorded(record.id, record.time, record.occurred, record.actor)
                changes: list[Changed] = []
                for fold in asked:
                    for key, message in fold.touched(event, envelope):
                        place = fold, key
                        if place in stuck or tag_text(key[fold.tags.index(tag)]) != value:
                            continue
                        before, error = states.get(place), ""
                        try:
                            states[place] = fold.step(before, key, message, (envelope,) if fold.wants_record else ())
                        except Exception as failed:  # noqa: BLE001 - it stops this key, and is told
                            stuck.add(place)
                            error = told(failed)
                        changes.append(Changed(fold.name, key, before, states.get(place), error))
                yield _step(log, row, record, changes)


def blame(log: Log, travel: Travel, state: type[State], key: Key, field: str | None, until: int) -> list[Step]:
    """Return which events set a row of a view, or one field of it, the latest first: each with the command and actor behind it.

    `NotThere` where no event has ever reached the row. Cost: the events of its key by the index; where the view has a computed key or joins other states,
    the whole log up to the position.
    """
    fold = fold_of(state)
    if field is not None and field not in fold.fields:
        raise Invalid(f"`{fold.name}` has no field `{field}`; it has {', '.join(fold.fields)}", field=field)
    alone = not fold.joins and fold.key_of is None and any(fold.tags) and not fold.everything
    found: list[Step] = []
    log.names.learn(log.engine.notes)
    with ViewSteps(log, state) as view:
        before: State | None = None
        for rows in log.engine.read(until=until, wanted=travel.image.wanted(fold, [key]) if alone else None):
            for row in rows:
                for reached in view.fold(row, key):
                    after = view.state(key)
                    if after == before:
                        continue
                    if field is None or field in fields_between(before, after):
                        there = [
                            record
                            for record, event in _events(log, row)
                            if (record.position, type(event)) == (reached.position, reached.cls)
                        ]
                        record = there[reached.place]
                        found.append(_step(log, row, record, [Changed(fold.name, key, before, after)]))
                    before = after
    if not found:
        shown = ", ".join(map(str, key))
        raise NotThere(
            f"no event up to position {until} has set {f'`{field}` of ' if field else ''}`{fold.name}` {shown}".rstrip(), state=fold.name
        )
    found.reverse()
    return found


def _events(log: Log, row: Row) -> Iterator[tuple[Record, Event]]:
    for record in log.reader.records(row):
        if record.kind in ("input", "internal") and isinstance(record.body, Event):
            yield record, record.body


def _step(log: Log, row: Row, record: Record, changes: Sequence[Changed]) -> Step:
    asked = _command(log, row, record)
    return Step(
        record.position, record.time, record.id, record.name, record.body, record.actor, record.causation or "", asked, tuple(changes)
    )


def _command(log: Log, row: Row, record: Record) -> str:
    """Return the name of the command that decided an event: it stands before it, or where it was enqueued in a row of its own."""
    if record.kind != "internal":
        return ""
    for one in [row] if row.input is not None else log.find(record.causation or ""):
        first = next(iter(log.reader.records(one)))
        if one.input is not None:
            return first.name
    return ""


# --- since when


class Found(NamedTuple):
    """The first position at which something no longer holds: `None` where it holds. What was asked, and in how many folds or looks it was found."""

    position: int | None
    key: Key
    state: State | None
    holds_at: int
    """The last position, of a whole command, that was looked at before and where it holds."""
    how: str
    """`bisection`, which takes for granted that what once failed fails ever after, or `linear`."""
    looks: int


def bisect(log: Log, travel: Travel, state: type[State], key: Key | None, expression: str, until: int, *, linear: bool = False) -> Found:
    """Return the first position at which an expression in the fields of a state is not true: of one key, or of any.

    By bisection, in a logarithmic number of folds, each going on from the last position where it held or from the nearest snapshot; that finds the first
    only where it never holds again afterwards. With `linear` it is looked at after every command. A state that is not there holds. `Invalid` for an
    expression that can't be read, or that fails on a state.
    """
    fold = fold_of(state)
    test = condition(fold, expression)
    if linear:
        return _linear(log, fold, key, test, until)
    return _bisected(log, travel, fold, key, test, until)


def condition(fold: Fold, expression: str) -> Callable[[State], bool]:
    """Read an expression in the names of a state's fields and of a few harmless functions. `Invalid` for one that names anything else."""
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError as error:
        raise Invalid(f"`{expression}` is no expression: {error.msg}", expression=expression) from error
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in bound and node.id not in fold.fields and node.id not in SAFE:
            raise Invalid(
                f"`{fold.name}` has no field `{node.id}`; it has {', '.join(fold.fields)}. Beside them there are {', '.join(SAFE)}",
                expression=expression,
                name=node.id,
            )
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            raise Invalid(f"`{expression}` names `{node.attr}`, which is private", expression=expression)
    code: CodeType = compile(tree, "<expression>", "eval")

    def test(state: State) -> bool:
        names: dict[str, Any] = {**SAFE, **{field: getattr(state, field) for field in fold.fields}, "__builtins__": {}}
        try:
            return bool(eval(code, names))  # noqa: S307 - it is the caller's own, and reaches no names but these
        except Exception as error:
            raise Invalid(f"`{expression}` fails on {state!r}: {told(error)}", expression=expression, error=told(error)) from error

    return test


def _bisected(log: Log, travel: Travel, fold: Fold, key: Key | None, test: Callable[[State], bool], until: int) -> Found:
    low, high, looks = 0, until, 1
    known: Mapping[Key, State] = {}

    def at(position: int) -> Mapping[Key, State]:
        if key is not None:
            one = travel.state(fold, key, position)
            return {key: one} if one is not None else {}
        return travel.states(fold, position, (low, known))

    failing = _failing(at(high), test)
    if failing is None:
        return Found(None, key or (), None, until, "bisection", looks)
    while True:
        row = log.row_at((low + high + 1) // 2)
        assert row is not None, "positions are dense"
        end = row.last if row.last < high else row.position - 1
        if end <= low:  # one command lies between
            return Found(high, failing[0], failing[1], low, "bisection", looks)
        states = at(end)
        looks += 1
        wrong = _failing(states, test)
        if wrong is None:
            low, known = end, states
        else:
            high, failing = end, wrong


def _failing(states: Mapping[Key, State], test: Callable[[State], bool]) -> tuple[Key, State] | None:
    return next(((key, state) for key, state in states.items() if not test(state)), None)


def _linear(log: Log, fold: Fold, key: Key | None, test: Callable[[State], bool], until: int) -> Found:
    states: dict[Key, State | None] = {}
    holds_at = looks = 0
    for rows in log.engine.read(until=until):
        log.reader.learn(rows)
        for row in rows:
            touched: dict[Key, None] = {}
            for record, event in _events(log, row):
                envelope = Recorded(record.id, record.time, record.occurred, record.actor)
                for one, message in fold.touched(event, envelope):
                    if key is None or one == key:
                        states[one] = fold.step(states.get(one), one, message, (envelope,) if fold.wants_record else ())
                        touched[one] = None
            for one in touched:
                state = states[one]
                looks += 1
                if state is not None and not test(state):
                    return Found(row.last, one, state, holds_at, "linear", looks)
            holds_at = row.last
    return Found(None, key or (), None, until, "linear", looks)
