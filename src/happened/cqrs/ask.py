"""Asking: what a view answers, from which position, and how old that is."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, Generic, Self, TypeVar, overload  # Any: keys and values of any type

from happened.core.errors import Invalid, Late, NotThere, Stuck
from happened.core.state import Key, State
from happened.cqrs.rows import ViewsFile
from happened.cqrs.view import ViewBuild, key_text
from happened.cqrs.where import compile_order, compile_where
from happened.log.log import Log
from happened.log.receipt import Receipt

S = TypeVar("S", bound=State)
A = TypeVar("A")

POLL_SECONDS = 0.01


class Rows(Sequence[S]):
    """Rows of a view, with the position that they are as of, and how old that is. `stuck` counts keys whose rows stand still."""

    def __init__(self, rows: Sequence[S], position: int, age: timedelta, stuck: int) -> None:
        self._rows = rows
        self.position = position
        self.age = age
        self.stuck = stuck

    @overload
    def __getitem__(self, index: int) -> S: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[S]: ...
    def __getitem__(self, index: int | slice) -> S | Sequence[S]:
        """Return a row, or several."""
        return self._rows[index]

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self._rows)

    def __iter__(self) -> Iterator[S]:
        """Go through the rows."""
        return iter(self._rows)

    def __repr__(self) -> str:
        """Show rows, position and age."""
        return f"Rows({list(self._rows)!r}, position={self.position}, age={self.age})"


class ViewState(Generic[S]):
    """One view of an open app, as its readers share it."""

    def __init__(
        self,
        log: Log,
        file: ViewsFile,
        build: ViewBuild[S],
        moved: threading.Condition,
        holder: Callable[[str], str | None],
        failure: Callable[[], str | None],
        renew: Callable[[ViewBuild[S]], None],
    ) -> None:
        self.log = log
        self.file = file
        self.build = build
        self.moved = moved
        self.holder = holder
        self.failure = failure
        self._renew = renew
        with file.reader() as reader:
            fresh = reader.execute(
                "select fresh from _view where name = ? and fingerprint = ? and generation = ?",
                (build.name, build.fingerprint, build.generation),
            ).fetchone()
        us = log.source.now_us()
        self.fresh_at = time.monotonic() - (max(0, us - fresh[0]) / 1e6 if fresh is not None and fresh[0] else 0)
        """When it was last at the head, by the monotonic clock."""

    def answer(self, ask: Callable[[sqlite3.Connection, ViewBuild[S], int, bool], A]) -> A:
        """Let a function read the table of today, in one read transaction; it is told how far that is, and whether it may be answered from.

        A rebuild, of whichever process, may replace the table between two calls, never within one.
        """
        while True:
            build = self.build
            with self.file.snapshot() as reader:
                row = reader.execute(
                    "select position, ready from _view where name = ? and fingerprint = ? and generation = ?",
                    (build.name, build.fingerprint, build.generation),
                ).fetchone()
                if row is not None:
                    return ask(reader, build, row[0], bool(row[1]))
            if self.build is build:
                self._renew(build)

    def stuck(self, connection: sqlite3.Connection, build: ViewBuild[S]) -> dict[str, tuple[int, str]]:
        """Return the keys that stand still, with position and error."""
        found = connection.execute(
            "select key, position, error from _stuck where name = ? and fingerprint = ? and generation = ?",
            (build.name, build.fingerprint, build.generation),
        )
        return {key: (position, error) for key, position, error in found}

    def age(self, position: int) -> timedelta:
        """Return 0 at the durable head, else how long ago it was last there."""
        if position >= self.log.head:
            self.fresh_at = time.monotonic()
            return timedelta(0)
        return timedelta(seconds=time.monotonic() - self.fresh_at)

    def wait(self, since: int, wait_seconds_max: float) -> None:
        """Wait until the table may be answered from and is at least at this position."""
        deadline = time.monotonic() + wait_seconds_max
        while True:
            position, ready = self.answer(_standing)
            if ready and position >= since:
                return
            if self.build.broken is not None:
                raise Stuck(
                    f"the view `{self.build.name}` stopped {self.build.broken}",
                    view=self.build.name,
                    position=position,
                    error=self.build.broken,
                )
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._late(position, since, ready=ready)
            with self.moved:
                self.moved.wait(min(POLL_SECONDS, left))

    def statistics(self) -> dict[str, Any]:
        """Return position, lag, owner, and what is stuck."""
        position, ready, stuck = self.answer(lambda reader, build, position, ready: (position, ready, self.stuck(reader, build)))
        head = self.log.head
        return {
            "view": self.build.name,
            "position": position,
            "lag": head - position,
            "age_seconds": self.age(position).total_seconds(),
            "ready": ready,
            "fingerprint": self.build.fingerprint,
            "generation": self.build.generation,
            "owner": self.holder(self.build.name),
            "stuck": [{"key": key, "position": at, "error": error} for key, (at, error) in stuck.items()],
            "broken": self.build.broken,
        }

    def _late(self, position: int, since: int, *, ready: bool) -> Late:
        head = self.log.head
        owner = self.holder(self.build.name)
        why = self.failure() or (
            f"it is followed by {owner}" if owner is not None else "nobody follows it: open the app with `run=True` somewhere"
        )
        what = f"position {since} was asked for" if ready else f"it has not been built up to the head yet ({position:,} of {head:,})"
        return Late(
            f"the view `{self.build.name}` is at position {position:,}, {head - position:,} behind the log; {what}; {why}",
            view=self.build.name,
            position=position,
            since=since,
            lag=head - position,
            owner=owner,
        )


class View(Generic[S]):
    """A view to ask. `where` and `order_by` narrow it; `get`, `find` and `rows` answer."""

    def __init__(self, of: ViewState[S], condition: tuple[str, tuple[Any, ...]] = ("", ()), order: str = "") -> None:
        self.of = of
        self._condition = condition
        self._order = order

    def __repr__(self) -> str:
        """Tell which view it is, and how it is narrowed."""
        where = f" where {self._condition[0]}" if self._condition[0] else ""
        order = f" order by {self._order}" if self._order else ""
        return f"<View {self.of.build.name}{where}{order}>"

    def get(self, /, *key: Any, since: Receipt | str | int | None = None, wait_seconds_max: float = 10, **named: Any) -> S:
        """Return the row of a key. `NotThere` if there is none, `Late` if it can't be as new as `since` in time, `Stuck` if its row stands still."""
        found = self.find(*key, since=since, wait_seconds_max=wait_seconds_max, **named)
        if found is None:
            shown = ", ".join([*map(repr, key), *(f"{field}={value!r}" for field, value in named.items())])
            raise NotThere(f"the view `{self.of.build.name}` has no row for {shown or 'the log'}", view=self.of.build.name, key=shown)
        return found

    def find(self, /, *key: Any, since: Receipt | str | int | None = None, wait_seconds_max: float = 10, **named: Any) -> S | None:
        """Return the row of a key, or `None`."""
        self.of.wait(self.of.log.since(since), wait_seconds_max)
        whole = self._key(key, named)

        def look(reader: sqlite3.Connection, build: ViewBuild[S], _position: int, _ready: bool) -> tuple[S | None, tuple[int, str] | None]:
            table = build.own.table
            row = reader.execute(table.get, table.encode_key(whole)).fetchone()
            return table.decode(row) if row is not None else None, self.of.stuck(reader, build).get(key_text(whole))

        state, stuck = self.of.answer(look)
        if stuck is not None:
            position, error = stuck
            raise Stuck(
                f"the row of {whole!r} in `{self.of.build.name}` stands still at position {position}: {error}",
                view=self.of.build.name,
                key=key_text(whole),
                position=position,
                error=error,
            )
        return state

    async def aget(self, /, *key: Any, since: Receipt | str | int | None = None, wait_seconds_max: float = 10, **named: Any) -> S:
        """Do what `get` does, awaited."""
        return await _in_thread(lambda: self.get(*key, since=since, wait_seconds_max=wait_seconds_max, **named))

    def where(self, condition: str = "", /, *args: Any, **equal: Any) -> "Self":
        """Keep the rows that a SQL condition in the fields' names allows, and those whose fields equal. `?` stand for `args`.

        Columns are checked now: `Invalid` for one that is not there. Decimals are compared exactly.
        """
        sql, params = compile_where(self.of.build.own.table, condition, args, equal)
        before, values = self._condition
        both = f"({before}) and ({sql})" if before and sql else before or sql
        return type(self)(self.of, (both, (*values, *params)), self._order)

    def order_by(self, *fields: str) -> "Self":
        """Put the rows in the order of these fields; `-total` is from the largest down."""
        return type(self)(self.of, self._condition, compile_order(self.of.build.own.table, *fields))

    def rows(self, *, limit: int = 1000, since: Receipt | str | int | None = None, wait_seconds_max: float = 10) -> Rows[S]:
        """Return up to `limit` rows, with their position and age. `Stuck` with `since=` where any key stands still."""
        self.of.wait(self.of.log.since(since), wait_seconds_max)
        condition, params = self._condition

        def look(
            reader: sqlite3.Connection, build: ViewBuild[S], position: int, _ready: bool
        ) -> tuple[list[S], int, dict[str, tuple[int, str]]]:
            table = build.own.table
            found = reader.execute(table.select(condition, self._order, limit=True), (*params, limit)).fetchall()
            return [table.decode(row) for row in found], position, self.of.stuck(reader, build)

        found, position, stuck = self.of.answer(look)
        if stuck and since is not None:
            key, (at, error) = next(iter(stuck.items()))
            raise Stuck(
                f"{len(stuck)} rows of `{self.of.build.name}` stand still, the first ({key}) at position {at}: {error}",
                view=self.of.build.name,
            )
        return Rows(found, position, self.of.age(position), len(stuck))

    async def arows(self, *, limit: int = 1000, since: Receipt | str | int | None = None, wait_seconds_max: float = 10) -> Rows[S]:
        """Do what `rows` does, awaited."""
        return await _in_thread(lambda: self.rows(limit=limit, since=since, wait_seconds_max=wait_seconds_max))

    def sql(self, query: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Answer plain SQL over the views of this file, on a connection that can't write.

        A view stands under its name, with decimals as exact text; the table under it is `running.view(S).table`, with decimals as scaled integers.
        """
        try:
            with self.of.file.reader() as reader:
                if self.of.file.path is None:
                    reader.execute("pragma query_only=on")
                try:
                    return reader.execute(query, params).fetchall()
                finally:
                    if self.of.file.path is None:
                        reader.execute("pragma query_only=off")
        except sqlite3.Error as error:
            raise Invalid(f"the query can't be answered: {error}", query=query) from error

    @property
    def table(self) -> str:
        """The name of the table that holds the rows."""
        return self.of.build.own.table.name

    @property
    def position(self) -> int:
        """The position that the view is as of."""
        return self.of.answer(_standing)[0]

    def _key(self, key: tuple[Any, ...], named: dict[str, Any]) -> Key:
        fields = self.of.build.fold.key
        whole = (*key, *[named[field] for field in fields[len(key) :] if field in named])
        if len(whole) != len(fields) or not set(named) <= set(fields):
            raise Invalid(f"the key of `{self.of.build.name}` is ({', '.join(fields)})", view=self.of.build.name, key=list(fields))
        return self.of.build.fold.checked(whole)


def _standing(_reader: sqlite3.Connection, _build: ViewBuild[Any], position: int, ready: bool) -> tuple[int, bool]:
    return position, ready


async def _in_thread(answer: Callable[[], A]) -> A:
    return await asyncio.get_running_loop().run_in_executor(None, answer)
