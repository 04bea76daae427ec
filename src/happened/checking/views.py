"""Views: each row of a table beside the same row, folded from the beginning of the log by today's code.

A view is folded anew into a table in memory, by the code that folds views, up to where the table in the file has come. Then both are read side by side in the
order of their keys. The table is the one that is answered from, whichever code has made it: so it is seen what a change of the code will change.
"""

import heapq
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple  # Any: rows hold values of any type

import msgspec

from happened.checking.differences import NOTHING, Difference, plain
from happened.checking.memory import Memory
from happened.core.state import State, fold_of
from happened.core.store import Row
from happened.cqrs.view import AFTER, Page, Stopped, ViewBuild, check_history, key_text, view_fingerprint
from happened.log.log import Log
from happened.log.records import Reader
from happened.shelf.connection import Connection, Look, Unstorable
from happened.shelf.dialect import quoted
from happened.shelf.rows import DDL, tag_of
from happened.shelf.tables import POSITION
from happened.sourcing.memory_image import Entry, MemoryImage
from happened.wiring import Wiring

LOADED_AT_ONCE = 500
UNHELD = f"{Unstorable.__name__}: "
"""What is noted of a key that its database can't hold, or of one that asks for such a state, has this in it."""
OTHER_INDEX = "the index was made by code that reads tags otherwise: it is made anew when the app is opened"
KEYS_MAX = 2_000
"""States of one class that are loaded by the index, to be compared with those of a scan."""


class CheckedView(msgspec.Struct):
    """What came of folding one view, or one class of states, anew."""

    name: str
    position: int = 0
    """As of which it was compared."""
    behind: int = 0
    """Records of the log that the table has not come to yet."""
    rows: int = 0
    wrong: int = 0
    """Rows that are not equal, missing, or there though they should not be."""
    differences: list[Difference] = msgspec.field(default_factory=list[Difference])
    """Of the first of those: `Stock[widget].units`."""
    fingerprint_then: str = ""
    fingerprint_now: str = ""
    columns: list[str] = msgspec.field(default_factory=list[str])
    """Columns that only one of both has: they can't be compared."""
    unheld: int = 0
    """Keys that stand still since their database can't hold them: where they are folded anew they may be held, and are not compared."""
    why: str = ""
    """Why it can't be compared, where it can't."""


Progress = Callable[[int, int | None], None]


class Standing(NamedTuple):
    """What a file of views says of a table."""

    fingerprint: str
    generation: int
    log: str
    epoch: int
    position: int
    digest: bytes
    ready: int


def fold_views_again(
    app: Wiring, log: Log, there: Look | None, *, shown_max: int = 100, progress: Progress = lambda _done, _all: None
) -> list[CheckedView]:
    """Compare the tables of the app's views with a fold of the log from its beginning. Nothing is written.

    `Diverged` for views of another history. Memory: the rows of one view, and once more where they lie in PostgreSQL.
    """
    reader = Reader(log.names, app.events, app.called, app.lifts)
    if there is None:
        return [CheckedView(fold_of(view).name, why="there are none yet: they are built when the app runs") for view in app.views]
    return [_checked(view, log, reader, there, shown_max, progress) for view in app.views]


def load_states_again(app: Wiring, log: Log, *, shown_max: int = 100, progress: Progress = lambda _done, _all: None) -> list[CheckedView]:
    """Compare the states that decisions are made on, as they are loaded by the index, with a scan of the log: up to 2,000 of each class.

    They are not compared where the index was made by code that reads tags otherwise: it is made anew when the app is opened.
    """
    reader = Reader(log.names, app.events, app.called, app.lifts)
    if not log.engine.index(reader.reading(), reader.row_terms, progress, guest=True):
        return [CheckedView(fold.name, why=OTHER_INDEX) for fold in app.folds]
    memory = Memory(log.engine, reader, app.folds)
    loading = MemoryImage(log.engine, reader, app.folds, until := log.head)
    decode = reader.pages(app.events)
    for rows in log.engine.read(until=until):
        for row, records in zip(rows, decode(rows), strict=True):
            memory.apply(row, None, records)
        progress(rows[-1].last, until)
    found: list[CheckedView] = []
    for fold in app.folds:
        scanned = memory.entries(fold)
        keys = list(scanned)[:: max(1, len(scanned) // KEYS_MAX)]
        one = CheckedView(fold.name, until, rows=len(keys))
        for start in range(0, len(keys), LOADED_AT_ONCE):
            some = keys[start : start + LOADED_AT_ONCE]
            loaded = loading.load(loading.kept[fold], some)
            for key in some:
                if loaded[key] != scanned[key]:
                    _add(
                        one, [Difference(f"{fold.name}[{', '.join(map(str, key))}]", _shown(loaded[key]), _shown(scanned[key]))], shown_max
                    )
        found.append(one)
    return found


def _shown(entry: Entry) -> Any:
    return entry.stuck or (plain(entry.state) if entry.state is not None else NOTHING)


def _checked(view: type[State], log: Log, reader: Reader, there: Look, shown_max: int, progress: Progress) -> CheckedView:
    build: ViewBuild[Any] = ViewBuild(view, view_fingerprint(fold_of(view), reader.lifts), 1)
    found = CheckedView(build.name, fingerprint_now=build.fingerprint)
    with there.moment() as file:
        first = _standing(file, build.name)
    if first is None:
        found.why = "no table of it was built to its end yet"
        return found
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as memory:
        for statement in DDL:
            memory.execute(statement)
        build.create(memory)
        build.own.complete = True
        for joined in build.joined:
            joined.complete = True
        _fold(found, build, memory, log, reader, first.position, progress)
        with there.moment() as file:  # as short as can be
            standing = _standing(file, build.name)
            if standing is None:
                found.why = "its table was dropped meanwhile"
                return found
            build.position, build.digest = standing.position, standing.digest
            row = log.row_at(standing.position)
            check_history(build, log.identity, standing.log, standing.epoch, _digest(row, standing.position), there.said)
            _fold(found, build, memory, log, reader, standing.position, progress, after=first.position)
            found.position, found.behind = standing.position, max(0, log.head - standing.position)
            found.fingerprint_then = standing.fingerprint
            _compare(found, build, standing, there, file, memory, shown_max)
    return found


def _digest(row: Row | None, position: int) -> bytes | None:
    return row.digest if row is not None and row.last == position else None


def _standing(file: Connection, name: str) -> Standing | None:
    """Return the table that is answered from: the newest that was built to its end."""
    row = file.execute(
        "select fingerprint, generation, log, epoch, position, digest, ready from _view where name = ? and ready = 1 order by made desc",
        (name,),
    ).fetchone()
    return Standing(*row) if row is not None else None


def _fold(
    found: CheckedView,
    build: ViewBuild[Any],
    memory: sqlite3.Connection,
    log: Log,
    reader: Reader,
    until: int,
    progress: Progress,
    *,
    after: int = 0,
) -> None:
    decode = reader.pages_for([build.fold, *(joined.fold for joined in build.joined)]).flat
    if until <= after or found.why:
        return
    for rows in log.engine.read_bare(after, until, heads=build.heads):
        page = Page(rows, decode(rows))
        memory.execute("begin")
        try:
            build.fold_page(memory, page)
            build.write(memory, [page])
        except Stopped as stopped:
            memory.execute("rollback")
            found.why = f"today's code stops {stopped}"
            _add(found, [Difference(found.name, f"folded up to {until:,}", f"stops {stopped}")], 1)
            return
        memory.execute("commit")
        build.written()
        progress(rows[-1][AFTER] - 1, until)


def _compare(
    found: CheckedView,
    build: ViewBuild[Any],
    standing: Standing,
    look: Look,
    file: Connection,
    memory: sqlite3.Connection,
    shown_max: int,
) -> None:
    if found.why:
        return
    as_listed = look.dialect.listed
    of_table = "select key, position, error from _stuck where name = ? and fingerprint = ? and generation = ?"
    there_stuck = file.execute(of_table, (build.name, standing.fingerprint, standing.generation)).fetchall()
    stuck = {as_listed(key): position for key, position, _ in there_stuck}
    now_stuck = {as_listed(key): position for key, (position, _) in build.stuck.items()}
    unheld = {as_listed(key) for key, _, error in there_stuck if UNHELD in error} - set(now_stuck)
    found.unheld = len(unheld)
    for key in sorted({*stuck, *now_stuck} - unheld):
        now_at = now_stuck.get(key)
        if stuck.get(key) != now_at:
            _add(found, [Difference(f"{build.name}{key}: stands still since", stuck.get(key, NOTHING), now_at or NOTHING)], shown_max)
    table = build.own.table
    there = look.dialect.name(f"_{table.view_name}_{tag_of(standing.fingerprint, standing.generation)}")
    then = look.columns(file, there)
    now = [column for _, column, *_ in memory.execute(f"pragma table_info({quoted(table.name)})")]
    both = [column for column in now if column in then]
    found.columns = [column for column in (*then, *now) if column not in both]
    of_key = list(table.key)
    if not set(of_key) <= set(both):
        found.wrong += 1
        found.why = (
            f"its key was {', '.join(column for column in then if column not in (*both, POSITION)) or 'none'}, and is {', '.join(of_key)}"
        )
        return
    listed = ", ".join(map(quoted, [*of_key, *(column for column in both if column not in of_key)]))
    names = [*of_key, *(column for column in both if column not in of_key)]
    order = f" order by {', '.join(map(quoted, of_key))}" if of_key else ""
    either: list[tuple[Connection, str]] = [(file, there), (memory, table.name)]
    sides = [
        _on(side, connection.execute(f"select {listed} from {quoted(name)}{order}"))  # noqa: S608 - names are quoted
        for side, (connection, name) in enumerate(either)
    ]
    for rows in _paired(heapq.merge(*sides, key=lambda one: (_ranked(one[0][: len(of_key)]), one[1])), len(of_key)):
        found.rows += 1
        of = f"{build.name}[{', '.join(map(str, (rows[0] or rows[1] or ())[: len(of_key)]))}]"
        one, other = rows
        if one != other and unheld and other is not None and as_listed(_key_text(build, memory, other[: len(of_key)])) in unheld:
            found.rows -= 1
        elif one is None or other is None:
            shown = dict(zip(names, one or other or (), strict=True))
            _add(found, [Difference(of, shown if one is not None else NOTHING, shown if other is not None else NOTHING)], shown_max)
        elif one != other:
            differing = [Difference(f"{of}.{name}", a, b) for name, a, b in zip(names, one, other, strict=True) if a != b]
            _add(found, differing, shown_max)


def _key_text(build: ViewBuild[Any], memory: sqlite3.Connection, key: Sequence[Any]) -> str:
    """Return the key of a row in memory as it is listed where it stands still."""
    state = build.own.table.decode(memory.execute(build.own.table.get, key).fetchone())
    return key_text(tuple(getattr(state, field) for field in build.own.table.key))


def _add(found: CheckedView, differences: Sequence[Difference], shown_max: int) -> None:
    found.wrong += 1
    if found.wrong <= shown_max:
        found.differences += differences


def _ranked(key: Sequence[Any]) -> tuple[Any, ...]:
    """Return what sorts as SQLite sorts: numbers before texts, texts by their bytes, bytes last."""
    return tuple(
        (0, value) if isinstance(value, int | float) else (1, value.encode()) if isinstance(value, str) else (2, value) for value in key
    )


def _on(side: int, rows: Iterable[Any]) -> Iterator[tuple[Any, int]]:
    return ((row, side) for row in rows)


def _paired(rows: Iterator[tuple[Any, int]], keys: int) -> Iterator[list[Any]]:
    """Yield for each key its row in the file and the one in memory; `None` where there is none."""
    pair: list[Any] = []
    for row, side in rows:
        if pair and _ranked(pair[2]) != _ranked(row[:keys]):
            yield pair[:2]
            pair = []
        if not pair:
            pair = [None, None, row[:keys]]
        pair[side] = row
    if pair:
        yield pair[:2]
