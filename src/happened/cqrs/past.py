"""A view as of a position: its events up to there folded into tables in memory, by the same code as the view of today, and asked in the same way."""

import contextlib
import threading
import weakref
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, Self, TypeVar  # Any: views of any state

from happened.core.errors import Diverged, Invalid, Stuck
from happened.core.state import Key, State, fold_of
from happened.core.store import Row
from happened.cqrs.ask import View, ViewState
from happened.cqrs.view import Page, Stopped, ViewBuild
from happened.log.log import Log
from happened.log.records import bare_of
from happened.shelf.rows import ViewsFile

S = TypeVar("S", bound=State)

PAST = "past"
"""Stands where the fingerprint of a view of today does."""

TOGETHER_ROWS = 50_000
"""Rows of the log that are folded before what has changed is written."""

Start = tuple[int, Mapping[Key, tuple[State, int]]]
"""What is folded already: up to which position, and each state with the position of its last change."""


class PastViewState(ViewState[S]):
    """A view that moves no more."""

    def wait(self, since: int, wait_seconds_max: float) -> None:
        """Raise `Invalid` where something newer is asked for than there was."""
        if since > self.build.position:
            raise Invalid(
                f"the view `{self.build.name}` is as of position {self.build.position}: there is nothing as new as {since} in it",
                view=self.build.name,
                position=self.build.position,
                since=since,
            )


class _Nobody:
    """Stands where a view of today has its follower."""

    failure: str | None = None

    def __init__(self, build: ViewBuild[Any]) -> None:
        self._build = build

    def holder(self, build: ViewBuild[Any]) -> str | None:
        """Return nobody."""
        return None

    def follows(self, build: ViewBuild[Any]) -> bool:
        """Say no."""
        return False

    def siblings(self) -> Sequence[ViewBuild[Any]]:
        """Return the one table that there is."""
        return [self._build]

    def renew(self, gone: ViewBuild[Any]) -> None:
        """Raise: nothing takes the place of a table that nobody drops."""
        raise Diverged(f"the view `{gone.name}` as of position {gone.position} is closed", view=gone.name)


FROM_ZERO: Start = (0, MappingProxyType[Key, tuple[State, int]]({}))


def view_as_of(log: Log, state: type[S], until: int, start: Start = FROM_ZERO) -> View[S]:
    """Fold a view up to a position that is the last of a row, and return it to be asked. Other views can't be asked for in its `sql`.

    `start` is taken where the view asks for no other states, and where the table holds what is in it; else all is folded. `Stuck` where the view stopped by
    then. Cost: what a rebuild takes for as many events; memory holds the rows.
    """
    after, states = start
    build: ViewBuild[S] = ViewBuild(state, PAST, 1)
    file = ViewsFile("memory:", None)
    try:
        with file.transaction() as connection:
            build.create(connection)
            for folded in (build.own, *build.joined):
                folded.complete = True
            if build.joined or not all(_fits(build, key, *known) for key, known in states.items()):
                after, states = FROM_ZERO
            build.own.states.update({key: one for key, (one, _) in states.items()})
            build.own.changed.update({key: position for key, (_, position) in states.items()})
            build.write(connection, [])
            build.written()
            decode = log.reader.pages_for([folded.fold for folded in (build.own, *build.joined)]).flat
            pages: list[Page] = []
            for rows in log.engine.read_bare(after, until, heads=build.heads):
                page = rows, decode(rows)
                build.fold_page(connection, page)
                pages.append(page)
                if len(pages) * len(rows) >= TOGETHER_ROWS:
                    build.write(connection, pages)
                    build.written()
                    pages = []
            build.write(connection, pages)
            build.written()
            build.position, build.ready = until, True
            connection.execute(
                "insert into _view(name, fingerprint, generation, made, log, epoch, position, digest, owner, ready) values(?, ?, ?, 1, ?, ?, ?, ?, 0, 1)",
                (*build.identity, log.identity.id, log.identity.epoch, until, build.digest),
            )
            for statement in build.own.table.view_ddl():
                connection.execute(statement)
    except Stopped as stopped:
        file.close()
        raise Stuck(f"the view `{build.name}` stopped {stopped}", view=build.name, error=str(stopped)) from stopped
    except BaseException:
        file.close()
        raise
    found = PastViewState(log, file, build, threading.Condition(), _Nobody(build))
    weakref.finalize(found, file.close)
    return View(found)


class ViewSteps(Generic[S]):
    """A view, folded one row of the log at a time from the first on. Use it with `with`."""

    def __init__(self, log: Log, state: type[S]) -> None:
        self._build: ViewBuild[S] = ViewBuild(state, PAST, 1)
        self._decode = log.reader.pages_for([folded.fold for folded in (self._build.own, *self._build.joined)]).flat
        self._changed: Mapping[Key, int] = {}
        self._last_first = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Begin, before the first event."""
        file = ViewsFile("memory:", None)
        self._last_first.callback(file.close)
        self._connection = self._last_first.enter_context(file.transaction())
        self._build.create(self._connection)
        for folded in (self._build.own, *self._build.joined):
            folded.complete = True
        return self

    def __exit__(self, *_: object) -> None:
        """Give the memory back."""
        self._last_first.close()

    def fold(self, row: Row) -> bool:
        """Let a row have happened; return whether that changed any state of the view. `Stuck` where the view stops at it."""
        bare = [bare_of(row)]
        page = bare, self._decode(bare)
        try:
            self._build.fold_page(self._connection, page)
            self._changed = dict(self._build.own.changed)
            self._build.write(self._connection, [page])
            self._build.written()
        except Stopped as stopped:
            raise Stuck(f"the view `{self._build.name}` stopped {stopped}", view=self._build.name, error=str(stopped)) from stopped
        return bool(self._changed)

    def state(self, key: Key) -> S | None:
        """Return a row as it is now."""
        found: S | None = self._build.own.states.get(key)
        return found

    def changed_at(self, key: Key) -> int:
        """Return the position at which the last row of the log changed it."""
        return self._changed[key]


def joins(state: type[State]) -> bool:
    """Say whether a view asks for other states: then all is folded."""
    return bool(fold_of(state).joins)


def _fits(build: ViewBuild[Any], key: Key, state: State, position: int) -> bool:
    """Say whether the table can hold a state."""
    try:
        build.own.table.encode(state, position)
        build.own.table.encode_key(key)
    except Invalid:
        return False
    return True
