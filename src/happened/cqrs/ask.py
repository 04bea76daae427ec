"""Asking: what a view answers, from which position, and how old that is."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar, overload  # Any: keys and values of any type

from happened.core.errors import Invalid, Late, NotThere, StoreFailed, Stuck
from happened.core.messages import Position
from happened.core.state import Key, State, fold_of
from happened.core.tags import is_unicode
from happened.core.tally import count_in, quantile_us, ran_in, waited_in
from happened.core.waiting import within
from happened.cqrs.view import ViewBuild, key_text
from happened.cqrs.watch import FIRST_POLL_SECONDS, LATER, POLL_SECONDS, Watch
from happened.cqrs.where import compile_order, compile_where
from happened.log.log import Log
from happened.log.receipt import Receipt
from happened.shelf.connection import FAILED, Asking, Connection, Gone, Place, Tabled, Unstorable
from happened.shelf.tables import HIGH, show

S = TypeVar("S", bound=State)
A = TypeVar("A")

NOWHERE = -1
"""How far a table is from which nothing may be answered yet."""

ASKED_BY = ("since", "wait_seconds_max")
"""Parameters of `get` and `find` that say how to ask; a field of the key of such a name is given by position."""

QUERY_ERRORS = (*FAILED, Unstorable, ValueError, OverflowError, TypeError)
"""What is raised for a query, or for values, that can't be taken."""


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


class Standing(NamedTuple):
    """How far a table is, whether it may be answered from, and why it stopped, if it did."""

    position: int
    ready: bool
    broken: str | None

    def reaches(self, position: int) -> bool:
        """Say whether it may be answered from for who wants to see all up to a position."""
        return self.ready and self.position >= position


class Looked(NamedTuple, Generic[S]):
    """What was found of one key, as of one moment: in which table, how that stands, since where the key stands still and why, and its row."""

    build: ViewBuild[S]
    standing: Standing
    stuck: tuple[int, str] | None
    row: Sequence[Any] | None


class Following(Protocol):
    """What a view asks of who follows it."""

    failure: str | None

    def holder(self, build: ViewBuild[Any]) -> str | None:
        """Return who follows a view, of whichever process."""
        ...

    def follows(self, build: ViewBuild[Any]) -> bool:
        """Say whether this process is the one."""
        ...

    def siblings(self) -> Sequence[ViewBuild[Any]]:
        """Return the tables of all views of the app that are answered from today."""
        ...

    def renew(self, gone: ViewBuild[Any]) -> None:
        """Answer from the table that has taken this one's place."""
        ...


class ViewState(Generic[S]):
    """One view of an open app, as its readers share it."""

    def __init__(self, log: Log, file: Place, build: ViewBuild[S], moved: threading.Condition, following: Following) -> None:
        self.log = log
        self.file = file
        self.build = build
        self.moved = moved
        self.following = following
        self._watches: dict[asyncio.AbstractEventLoop, Watch] = {}

    def answer(self, ask: Callable[[Connection, ViewBuild[S], Standing], A]) -> A:
        """Let a function read the table of today, in one read transaction; it is told how that stands.

        A rebuild, of whichever process, may replace the table between two calls, never within one.
        """
        while True:
            build = self.build
            known = build.position

            def look(reader: Connection, build: ViewBuild[S] = build, known: int = known) -> tuple[A] | None:
                standing = standing_of(reader, build)
                if standing is None:
                    return None
                _heard(build, standing, known)
                return (ask(reader, build, standing),)

            found = self.file.asked(look, build.tables)
            if found is not None:
                return found[0]
            if self.build is build:
                self.following.renew(build)

    def looked(self, key: Key, encoded: Sequence[Any]) -> Looked[S] | None:
        """Look one key up by one statement. `None` where that fails, by whatever it may be: who asks then looks step by step, and hears what it is."""
        build = self.build
        known = build.position
        try:
            with self.file.reader() as reader:
                found = reader.execute(build.own.table.look, (*listed_as(build, key), *encoded, *build.identity)).fetchone()
        except (StoreFailed, Invalid, OverflowError):
            return None
        if found is None:
            return None
        position, ready, broken, stuck_at, error, *row = found
        standing = Standing(position, bool(ready), broken)
        _heard(build, standing, known)
        return Looked(build, standing, (stuck_at, error) if stuck_at is not None else None, row if row[-1] is not None else None)

    def stuck(self, connection: Connection, build: ViewBuild[S]) -> dict[str, tuple[int, str]]:
        """Return the keys that stand still, as text, with position and error; those of joined states with the state's name before them."""
        found = connection.execute(
            "select key, position, error from _stuck where name = ? and fingerprint = ? and generation = ?", build.identity
        )
        return {key: (position, error) for key, position, error in found}

    def age(self, position: int) -> timedelta:
        """Return 0 at the durable head, else how long ago the first record was recorded that is not in the view: until then it was there."""
        if position >= self.log.head:
            return timedelta(0)
        row = self.log.row_at(position + 1)
        return timedelta(microseconds=max(0, self.log.source.now_us() - row.at)) if row is not None else timedelta(0)

    def wait(self, since: int, wait_seconds_max: float) -> None:
        """Wait until the table may be answered from and is at least at this position."""
        deadline = time.monotonic() + within(wait_seconds_max)
        pause = FIRST_POLL_SECONDS
        while not self._is_known_to_reach(since):
            build, standing = self.answer(_with_build)
            if self._reaches(build, standing, since):
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._late(build, standing, since)
            with self.moved:
                self.moved.wait(min(POLL_SECONDS if self._is_known() else pause, left))
            pause = min(LATER * pause, POLL_SECONDS)

    async def awaited(self, since: int, wait_seconds_max: float) -> None:
        """Do what `wait` does, and hold no thread for as long as that takes."""
        deadline = time.monotonic() + within(wait_seconds_max)
        loop = asyncio.get_running_loop()
        while not self._is_known_to_reach(since):
            watch = self._watches.setdefault(loop, Watch(self._come_to, self._known_come_to))
            try:
                if await watch.wait(since, max(0.0, deadline - time.monotonic())):
                    return
            finally:
                if watch.idle:
                    self._watches.pop(loop, None)
            build, standing = await self.asked(lambda: self.answer(_with_build))
            if self._reaches(build, standing, since):
                return
            if time.monotonic() >= deadline:
                raise await self.asked(lambda: self._late(build, standing, since))  # noqa: B023 - called in this turn only

    def moved_on(self) -> None:
        """Tell the event loops in which somebody waits that the table has moved on, from whichever thread."""
        for loop, watch in list(self._watches.items()):
            with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits there any more
                loop.call_soon_threadsafe(watch.heard)

    async def asked(self, ask: Callable[[], A]) -> A:
        """Call what asks log and view for a moment: at once where both are at hand, since a thread would take longer to begin; else in a thread."""
        if self.file.at_hand and self.log.writer.at_hand:
            return ask()
        return await _in_thread(ask)

    async def _come_to(self) -> int | None:
        """Return up to which position it may be answered from; `None` where it stopped."""
        known = self._known_come_to()
        if known is not None:
            return known
        build, standing = await self.asked(lambda: self.answer(_with_build))
        if self._broken(build, standing) is not None:
            return None
        return standing.position if standing.ready else NOWHERE

    def _known_come_to(self) -> int | None:
        """Return what `_come_to` does, where that is known without a look."""
        known = self.build
        return (known.position if known.ready else NOWHERE) if self._is_known() else None

    def _is_known(self) -> bool:
        """Say whether it is known without a look how the table stands: this process follows it."""
        known = self.build
        return known.epoch is not None and known.broken is None and self.following.follows(known)

    def _is_known_to_reach(self, since: int) -> bool:
        known = self.build
        return known.ready and known.position >= since and self._is_known()

    def _reaches(self, build: ViewBuild[S], standing: Standing, since: int) -> bool:
        """Say whether a table may be answered from for who wants to see all up to a position. `Stuck` where it never will be."""
        broken = self._broken(build, standing)
        if broken is not None and not standing.reaches(since):
            raise Stuck(f"the view `{build.name}` stopped {broken}", view=build.name, position=standing.position, error=broken)
        return standing.reaches(since)

    def statistics(self) -> dict[str, Any]:
        """Return position, lag, owner, how long it took until what came was shown, what is stuck, and what went wrong."""
        build, standing, stuck, shown = self.answer(
            lambda reader, build, standing: (build, standing, self.stuck(reader, build), shown_in(reader, build))
        )
        return {
            "view": build.name,
            "position": standing.position,
            "lag": self.log.head - standing.position,
            "age_seconds": self.age(standing.position).total_seconds(),
            "ready": standing.ready,
            "fingerprint": build.fingerprint,
            "generation": build.generation,
            "owner": self.following.holder(build),
            "stuck": [{"key": key, "position": at, "error": error} for key, (at, error) in stuck.items()],
            "shown": {"count": count_in(shown), "since_taken": _times(waited_in(shown)), "since_recorded": _times(ran_in(shown))},
            "broken": self._broken(build, standing),
            "failure": build.failure or self.following.failure,
        }

    def _broken(self, build: ViewBuild[S], standing: Standing) -> str | None:
        """Return why the view stopped: who follows it knows it first, others read what is noted of it."""
        return build.broken if self.following.follows(build) else standing.broken

    def _late(self, build: ViewBuild[S], standing: Standing, since: int) -> Late:
        head, position = self.log.head, standing.position
        owner = self.following.holder(build)
        why = (
            build.failure
            or self.following.failure
            or (f"it is followed by {owner}" if owner is not None else "nobody follows it: open the app with `run=True` somewhere")
        )
        what = (
            f"position {since} was asked for" if standing.ready else f"it has not been built up to the head yet ({position:,} of {head:,})"
        )
        return Late(
            f"the view `{build.name}` is at position {position:,}, {head - position:,} behind the log; {what}; {why}",
            view=build.name,
            position=position,
            since=since,
            lag=head - position,
            owner=owner,
        )


def shown_in(connection: Connection, build: ViewBuild[Any]) -> int:
    """Return the tally of how long it took until what came was shown in this table."""
    row = connection.execute("select tally from _shown where name = ? and fingerprint = ? and generation = ?", build.identity).fetchone()
    return int.from_bytes(row[0], "little") if row is not None else 0


def _times(bins: Sequence[int]) -> dict[str, int | None]:
    return {"p50_us": quantile_us(bins, 0.5), "p99_us": quantile_us(bins, 0.99)}


def listed_as(build: ViewBuild[Any], key: Key) -> tuple[str, str]:
    """Return the two ways in which a key that stands still may be listed: earlier code has listed all keys as they are."""
    return key_text(key), build.own.text_of(key)


def _heard(build: ViewBuild[Any], standing: Standing, known: int) -> None:
    """Compare how a table stands with what was known of it before the look: where it lacks some of that, who follows it is to read it anew."""
    build.ready = build.ready and standing.ready  # it may have been begun anew
    if standing.position < known <= build.position:  # that, or the database has lost what it wrote last; it was not read anew meanwhile
        build.epoch = None


def standing_of(connection: Connection, build: ViewBuild[Any]) -> Standing | None:
    """Return how a table stands, `None` where it is not there."""
    row = connection.execute(
        "select position, ready, broken from _view where name = ? and fingerprint = ? and generation = ?", build.identity
    ).fetchone()
    return Standing(row[0], bool(row[1]), row[2]) if row is not None else None


def no_view(state: type[State], views: Iterable[type[State]]) -> Invalid:
    """Return the error of a state that is not among the views of an app."""
    name = fold_of(state).name  # whoever gives no class is told so
    listed = ", ".join(fold_of(one).name for one in views) or "none"
    return Invalid(f"`{name}` is not among the app's views, which are: {listed}. Add it to `views=[...]`", state=name)


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
            raise NotThere(
                f"the view `{self.of.build.name}` has no row for {shown or 'the log'}",
                view=self.of.build.name,
                key=[str(value) for value in (*key, *named.values())],
            )
        return found

    def find(self, /, *key: Any, since: Receipt | str | int | None = None, wait_seconds_max: float = 10, **named: Any) -> S | None:
        """Return the row of a key, or `None`."""
        found = self._found(self._key(key, named), since, wait_seconds_max)
        return found[0] if found is not None else None

    def position_of(
        self, /, *key: Any, since: Receipt | str | int | None = None, wait_seconds_max: float = 10, **named: Any
    ) -> Position | None:
        """Return the position of the event that last changed the row of a key, or `None` where there is no row."""
        found = self._found(self._key(key, named), since, wait_seconds_max)
        return found[1] if found is not None else None

    def _found(self, whole: Key, since: Receipt | str | int | None, wait_seconds_max: float) -> tuple[S, Position] | None:
        encoded, unholdable = self._encoded(whole)
        wanted = self.of.log.since(since)
        deadline = time.monotonic() + within(wait_seconds_max)
        while True:
            looked = self.of.looked(whole, encoded) if unholdable is None else None
            if looked is None:
                looked = self._looked_closely(whole, encoded, unholdable, wanted)
            if looked.standing.reaches(wanted):
                break
            self.of.wait(wanted, max(0.0, deadline - time.monotonic()))
        if looked.stuck is not None:
            position, error = looked.stuck
            raise Stuck(
                f"the row of {whole!r} in `{self.of.build.name}` stands still at position {position}: {error}",
                view=self.of.build.name,
                key=key_text(whole),
                position=position,
                error=error,
            )
        row = looked.row
        return (looked.build.own.table.decode(row), Position(row[-1])) if row is not None else None

    def _looked_closely(self, whole: Key, encoded: Sequence[Any], unholdable: Invalid | None, wanted: int) -> Looked[S]:
        """Do what `looked` does, step by step, once the table is at a position: whatever is wrong is raised. A key that no row can have may stand still."""

        def look(reader: Connection, build: ViewBuild[S], standing: Standing) -> Looked[S]:
            stuck = reader.execute(
                "select position, error from _stuck where name = ? and fingerprint = ? and generation = ? and key in (?, ?)",
                (*build.identity, *listed_as(build, whole)),
            ).fetchone()
            if stuck is not None or not standing.reaches(wanted):  # the database may not even take a question for this key
                return Looked(build, standing, stuck, None)
            if unholdable is not None:
                raise unholdable
            return Looked(build, standing, None, reader.execute(build.own.table.get, encoded).fetchone())

        return self.of.answer(look)

    async def aget(self, /, *key: Any, since: Receipt | str | int | None = None, wait_seconds_max: float = 10, **named: Any) -> S:
        """Do what `get` does, awaited. However many wait, they hold no thread."""
        self._encoded(self._key(key, named))  # what is wrong with it is said before anybody waits
        return await self._awaited(
            lambda wanted: self.get(*key, since=wanted, wait_seconds_max=0, **named), since, wait_seconds_max, self.of.asked
        )

    def where(self, condition: str = "", /, *args: Any, **equal: Any) -> "Self":
        """Keep the rows that a SQL condition in the fields' names allows, and those whose fields equal. `?` stand for `args`.

        Columns are checked now: `Invalid` for one that is not there. Decimals are compared exactly.
        """
        sql, params = compile_where(self.of.build.own.table, condition, args, equal)
        _check_unicode(params)
        before, values = self._condition
        both = f"({before}) and ({sql})" if before and sql else before or sql
        return type(self)(self.of, (both, (*values, *params)), self._order)

    def order_by(self, *fields: str) -> "Self":
        """Put the rows in the order of these fields; `-total` is from the largest down."""
        return type(self)(self.of, self._condition, compile_order(self.of.build.own.table, *fields))

    def rows(self, *, limit: int = 1000, since: Receipt | str | int | None = None, wait_seconds_max: float = 10) -> Rows[S]:
        """Return up to `limit` rows, with their position and age. `Stuck` with `since=` where any key stands still."""
        check_limit(limit)
        wanted = self.of.log.since(since)
        deadline = time.monotonic() + within(wait_seconds_max)
        condition, params = self._condition

        def look(reader: Connection, build: ViewBuild[S], standing: Standing) -> tuple[list[S], int, dict[str, tuple[int, str]]] | None:
            if not standing.reaches(wanted):
                return None
            table = build.own.table
            found = reader.execute(table.select(condition, self._order, limit=True), (*params, limit)).fetchall()
            return [table.decode(row) for row in found], standing.position, self.of.stuck(reader, build)

        answer = None
        while answer is None:
            self.of.wait(wanted, max(0.0, deadline - time.monotonic()))
            answer = self.of.answer(look)
        found, position, stuck = answer
        own = {key: why for key, why in stuck.items() if key.startswith("[")}  # a joined state has no row here
        if own and since is not None:
            raise _standing_still(self.of.build.name, own)
        return Rows(found, position, self.of.age(position), len(own))

    async def arows(self, *, limit: int = 1000, since: Receipt | str | int | None = None, wait_seconds_max: float = 10) -> Rows[S]:
        """Do what `rows` does, awaited: in a thread, which none holds who only waits."""
        check_limit(limit)
        return await self._awaited(
            lambda wanted: self.rows(limit=limit, since=wanted, wait_seconds_max=0), since, wait_seconds_max, _in_thread
        )

    async def _awaited(
        self,
        answer: Callable[[int | None], A],
        since: Receipt | str | int | None,
        wait_seconds_max: float,
        asked: Callable[[Callable[[], A]], Awaitable[A]],
    ) -> A:
        """Wait until the view is as new as is wanted, then have it answer at once; again, where it was begun anew in between."""
        deadline = time.monotonic() + within(wait_seconds_max)
        wanted = await self.of.asked(lambda: self.of.log.since(since)) if since is not None else None
        while True:
            left = deadline - time.monotonic()
            await self.of.awaited(wanted or 0, max(0.0, left))
            try:
                return await asked(lambda: answer(wanted))
            except Late:
                if left <= 0:
                    raise

    def sql(
        self, query: str, params: Sequence[Any] = (), *, since: Receipt | str | int | None = None, wait_seconds_max: float = 10
    ) -> list[tuple[Any, ...]]:
        """Answer a plain SQL query over the app's views, on a connection that can do nothing else. Waits for this view as `rows` does.

        A view stands under its name, with decimals as exact text; the table under it is `running.view(S).table`, with decimals as scaled integers.
        """
        wanted = self.of.log.since(since)
        deadline = time.monotonic() + within(wait_seconds_max)
        while True:
            self.of.wait(wanted, max(0.0, deadline - time.monotonic()))
            of = self.of.build
            known = of.position
            builds = [build if build.fold.state is not of.fold.state else of for build in self.of.following.siblings()]
            try:
                with self.of.file.guarded([table for build in builds for table in build.tables]) as asking:
                    standings = {build.name: standing_of(asking.connection, build) for build in builds}
                    standing = standings[of.name]
                    if standing is not None:
                        _heard(of, standing, known)
                        if not standing.reaches(wanted):
                            continue
                        found = self._queried(asking, of, builds, standings, query, params, since=since)
                        if found is not None:
                            return found
            except QUERY_ERRORS as error:
                raise Invalid(f"the query can't be answered: {error}", query=query) from error
            if self.of.build is of:
                self.of.following.renew(of)

    def _queried(
        self,
        asking: Asking,
        of: ViewBuild[S],
        builds: Sequence[ViewBuild[Any]],
        standings: Mapping[str, Standing | None],
        query: str,
        params: Sequence[Any],
        *,
        since: Receipt | str | int | None,
    ) -> list[tuple[Any, ...]] | None:
        stuck = {key: why for key, why in self.of.stuck(asking.connection, of).items() if key.startswith("[")}
        if stuck and since is not None:
            raise _standing_still(of.name, stuck)
        ready = {name for name, standing in standings.items() if standing is not None and standing.ready}
        views: dict[str, Tabled | None] = {build.name: build.own.table if build.name in ready else None for build in builds}
        try:
            return asking.query(query, params, views)
        except (*FAILED, Unstorable) as error:
            if isinstance(error, Gone) and any(build.own.table.name in str(error) for build in builds):
                return None  # it was dropped since it was looked at
            unready = ", ".join(sorted(set(standings) - ready))
            hint = f"; not built yet, and to be asked for with `rows(since=...)` first: {unready}" if unready else ""
            raise Invalid(f"the query can't be answered: {error}{hint}", query=query) from error

    @property
    def table(self) -> str:
        """The name of the table that holds the rows."""
        return self.of.build.own.table.name

    @property
    def position(self) -> int:
        """The position that the view is as of."""
        return self.of.answer(_with_build)[1].position

    def _key(self, key: tuple[Any, ...], named: dict[str, Any]) -> Key:
        fields = self.of.build.fold.key
        whole = (*key, *[named[field] for field in fields[len(key) :] if field in named])
        if len(whole) != len(fields) or not set(named) <= set(fields):
            taken = [field for field in fields if field in ASKED_BY]
            hint = (
                f"; {' and '.join(map(repr, taken))} can't be given by name, since it says how to ask: give the key by position"
                if taken
                else ""
            )
            raise self.of.build.fold.not_the_key(key, named, hint)
        return self.of.build.fold.checked(whole)

    def _encoded(self, key: Key) -> tuple[Sequence[Any], Invalid | None]:
        """Return a key of the right types as the table keeps it, or why the table can't hold it: events may have it nevertheless."""
        try:
            encoded = self.of.build.own.table.encode_key(key)
        except Invalid as error:
            return (), error
        _check_unicode(encoded)
        return encoded, None


def how_many(view: View[Any]) -> int:
    """Return how many rows a view has, as it is narrowed. Cost: all of them are counted."""
    condition, params = view._condition

    def look(reader: Connection, build: ViewBuild[Any], _standing: Standing) -> int:
        return int(reader.execute(build.own.table.counting(condition), params).fetchall()[0][0])

    return view.of.answer(look)


def _with_build(_reader: Connection, build: ViewBuild[S], standing: Standing) -> tuple[ViewBuild[S], Standing]:
    return build, standing


def _standing_still(view: str, stuck: Mapping[str, tuple[int, str]]) -> Stuck:
    key, (at, error) = next(iter(stuck.items()))
    return Stuck(f"{len(stuck)} rows of `{view}` stand still, the first ({key}) at position {at}: {error}", view=view)


def check_limit(limit: int) -> None:
    """Raise `Invalid` for what is no number of rows that a database takes."""
    if type(limit) is not int or not 0 <= limit <= HIGH:
        raise Invalid(f"`limit` is a number of rows, 0 to {HIGH}, not {show(limit)}")


def _check_unicode(values: Sequence[Any]) -> None:
    for value in values:
        if isinstance(value, str) and not is_unicode(value):
            raise Invalid(f"{show(value)} has half a character and is no valid text, so no row has it", value=show(value))


async def _in_thread(answer: Callable[[], A]) -> A:
    return await asyncio.get_running_loop().run_in_executor(None, answer)
