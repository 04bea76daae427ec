"""A view as of a position: its events up to there folded into tables in memory, by the same code as the view of today, and asked in the same way.

The same fold makes what a snapshot of a view that joins other states holds: its own rows, and those of the states that it asks for.
"""

import contextlib
import itertools
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Self, TypeVar  # Any: views of any state, rows of any class

from happened.core.errors import Diverged, Invalid, Stuck
from happened.core.filling import Fill, Find
from happened.core.messages import Recorded, events_of
from happened.core.state import Fold, Key, State, declared, fold_of
from happened.core.store import Row, Wanted
from happened.cqrs.ask import Looked, Standing, View, ViewState
from happened.cqrs.view import Page, Stopped, ViewBuild
from happened.log.log import Log, latest_erasure
from happened.log.records import bare_of
from happened.shelf.connection import Connection
from happened.shelf.rows import ViewsFile

S = TypeVar("S", bound=State)
A = TypeVar("A")

PAST = "past"
"""Stands where the fingerprint of a view of today does."""

TOGETHER_ROWS = 50_000
"""Rows of the log that are folded before what has changed is written."""

SLICE_ROWS = 250
"""Rows that are written, or read, before others are let on."""

GENTLE_ROWS = 100
"""Rows of the log that are folded before others are let on."""

ASKED_MAX = 1_000
"""Keys of other states that one row may ask for, to be folded by itself."""

Rows = Mapping[Key, tuple[State, int]]
"""The rows of a table, each with the position of its last change."""

Start = tuple[int, Sequence[Rows]]
"""What is folded already: up to which position, and the rows, first the view's own, then those of each state that it joins."""

FROM_ZERO: Start = (0, ())


class Pace(NamedTuple):
    """How much is done at once, and what is called in between."""

    rows_max: int = 1_000
    together: int = TOGETHER_ROWS
    pause: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.monotonic
    """What counts the seconds that a fold takes."""


AT_ONCE = Pace()


class PastViewState(ViewState[S]):
    """A view that moves no more. Where something was erased since it was folded, it is folded anew before it is asked."""

    def __init__(self, log: Log, fold: Callable[[], tuple[ViewsFile, ViewBuild[S]]]) -> None:
        self._fold = fold
        self._folding = threading.Lock()
        self._erasure = latest_erasure(log.engine)  # before the fold: what is erased from then on may be in it
        file, build = fold()
        weakref.finalize(self, file.close)
        super().__init__(log, file, build, threading.Condition(), _Nobody(build))

    def answer(self, ask: Callable[[Connection, ViewBuild[S], Standing], A]) -> A:
        """Let a function read the table."""
        self._fold_again()
        return super().answer(ask)

    def looked(self, key: Key, encoded: Sequence[Any]) -> Looked[S] | None:
        """Look one key up."""
        self._fold_again()
        return super().looked(key, encoded)

    def wait(self, since: int, wait_seconds_max: float) -> None:
        """Raise `Invalid` where something newer is asked for than there was."""
        self._fold_again()
        if since > self.build.position:
            raise Invalid(
                f"the view `{self.build.name}` is as of position {self.build.position}: there is nothing as new as {since} in it",
                view=self.build.name,
                position=self.build.position,
                since=since,
            )

    def _fold_again(self) -> None:
        """Fold it without what was erased since. Who reads the former table meanwhile has asked before that."""
        if latest_erasure(self.log.engine) == self._erasure:
            return
        with self._folding:
            erasure = latest_erasure(self.log.engine)
            if erasure != self._erasure:
                file, build = self._fold()
                weakref.finalize(self, file.close)
                self.file, self.build, self.following = file, build, _Nobody(build)
                self._erasure = erasure


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


def view_as_of(log: Log, state: type[S], until: int, start: Callable[[], Start] = lambda: FROM_ZERO) -> View[S]:
    """Fold a view up to a position that is the last of a row, and return it to be asked. Other views can't be asked for in its `sql`.

    What `start` returns is taken where the table holds what is in it; else all is folded. `Stuck` where the view stopped by then. Cost: what a rebuild takes
    for as many events, once more where something was erased since; memory holds the rows. To be asked it takes a look at the notes of the log.
    """

    def fold() -> tuple[ViewsFile, ViewBuild[S]]:
        build: ViewBuild[S] = ViewBuild(state, PAST, 1)
        file = ViewsFile("memory:", None)
        try:
            with file.transaction() as connection:
                _fold_or_say(log, build, connection, start(), until, AT_ONCE)
                build.position, build.ready = until, True
                connection.execute(
                    "insert into _view(name, fingerprint, generation, made, log, epoch, position, digest, owner, ready) values(?, ?, ?, 1, ?, ?, ?, ?, 0, 1)",
                    (*build.identity, log.identity.id, log.identity.epoch, until, build.digest),
                )
                for statement in build.own.table.view_ddl():
                    connection.execute(statement)
        except BaseException:
            file.close()
            raise
        return file, build

    return View(PastViewState(log, fold))


class Joining:
    """Folds views that join other states, for their snapshots."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def rows(
        self,
        fold: Fold,
        start: Start,
        until: int,
        found: Sequence[Callable[[Key, State, int], None]],
        pause: Callable[[], None],
        clock: Callable[[], float],
    ) -> float:
        """Give each row as of a position, with the position of its last change: those of the view to the first of `found`, then of each state it joins.

        Returns how many seconds of it were the fold itself, by this clock and without `start`. `pause` is called after each few rows. `Invalid` where a key
        stands still, `Stuck` where the view stopped.
        """
        build: ViewBuild[Any] = ViewBuild(fold.state, PAST, 1)
        with contextlib.closing(ViewsFile("memory:", None)) as file, file.transaction() as connection:
            seconds = _fold_or_say(self._log, build, connection, start, until, Pace(GENTLE_ROWS, SLICE_ROWS, pause, clock))
            for text, (position, why) in build.stuck.items():
                raise Invalid(
                    f"`{build.name}` has {text}, which stands still at position {position}: {why}. No snapshot is taken of it",
                    state=build.name,
                    position=position,
                )
            for folded, put in zip((build.own, *build.joined), found, strict=True):
                for count, row in enumerate(connection.execute(folded.table.select())):
                    state = folded.table.decode(row)
                    key = tuple([getattr(state, field) for field in folded.fold.key])
                    exact = folded.states.get(key)  # a row has its decimals without zeros at the end
                    put(key, exact if exact is not None else state, row[-1])
                    if count % SLICE_ROWS == 0:
                        pause()
        return seconds

    def row(
        self, fold: Fold, key: Key, until: int, wanted: Callable[[Fold, Sequence[Key]], Sequence[Wanted]]
    ) -> tuple[State | None] | None:
        """Fold one row from zero, by the index: its own events, and those of the states that they ask for. `None` where it asks for too many.

        `wanted` says what to ask the index for. Which states are asked for may follow from others, so it is folded until no more are. Cost: two or three
        times all these events.
        """
        asked: dict[Fold, dict[Key, None]] = {}
        while sum(map(len, asked.values())) <= ASKED_MAX:
            build: _OneRow[Any] = _OneRow(fold.state, key)
            looked_for = [*wanted(fold, [key]), *(one for of, keys in asked.items() if keys for one in wanted(of, list(keys)))]
            with contextlib.closing(ViewsFile("memory:", None)) as file, file.transaction() as connection:
                _fold_or_say(self._log, build, connection, FROM_ZERO, until, AT_ONCE, looked_for)
            if all(keys.keys() <= asked.get(of, {}).keys() for of, keys in build.asked.items()):
                return (build.own.states.get(key),)
            for of, keys in build.asked.items():
                asked.setdefault(of, {}).update(keys)
        return None


class _OneRow(ViewBuild[S]):
    """A view of which one row is folded, and that notes which other states this asks for. The other rows are not whole."""

    def __init__(self, state: type[S], key: Key) -> None:
        self._key = key
        self.asked: dict[Fold, dict[Key, None]] = {}
        super().__init__(state, PAST, 1)

    def _step_own(self, connection: Connection, event: object, envelope: Recorded, at: int) -> None:
        if any(key == self._key for key, _ in self.fold.touched(event, envelope)):
            super()._step_own(connection, event, envelope, at)

    def _fills_for(self, event: type) -> list[Fill]:
        return [fill._replace(find=self._noting(fill)) for fill in super()._fills_for(event)]

    def _noting(self, fill: Fill) -> Find:
        def find(message: Any, before: Sequence[Any]) -> Any:
            found = fill.find(message, before)
            self.asked.setdefault(fill.fold, {}).update(dict.fromkeys(found if fill.many else [found] if found is not None else []))
            return found

        return find


class Reached(NamedTuple):
    """Which event it is: its position, its class, and, where one record became several of that class, its place among those."""

    position: int
    cls: type
    place: int


class ViewSteps(Generic[S]):
    """A view, folded one event at a time from the first on. Use it with `with`."""

    def __init__(self, log: Log, state: type[S]) -> None:
        self._build: ViewBuild[S] = ViewBuild(state, PAST, 1)
        self._decode = log.reader.pages_for([folded.fold for folded in (self._build.own, *self._build.joined)]).flat
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

    def fold(self, row: Row, key: Key) -> Iterator["Reached"]:
        """Let the events of a row happen; yield of each that reaches a key which it is, as soon as it has. `Stuck` where the view stops at one."""
        bare = [bare_of(row)]
        page = Page(bare, self._decode(bare))
        for (body, at), envelope in zip(page.events, page.envelopes, strict=True):
            alike: Counter[type] = Counter()
            for event in events_of(body):
                cls = declared(event.__class__)
                if key in self._folded(Page.of_event(page, event, at, envelope)):
                    yield Reached(at, cls, alike[cls])
                alike[cls] += 1

    def _folded(self, page: Page) -> Container[Key]:
        """Fold a page, and return which states that changed."""
        try:
            self._build.fold_page(self._connection, page)
            changed = set(self._build.own.changed)
            self._build.write(self._connection, [page])
            self._build.written()
        except Stopped as stopped:
            raise Stuck(f"the view `{self._build.name}` stopped {stopped}", view=self._build.name, error=str(stopped)) from stopped
        return changed

    def state(self, key: Key) -> S | None:
        """Return a row as it is now."""
        found: S | None = self._build.own.states.get(key)
        return found


def joins(state: type[State]) -> bool:
    """Say whether a view asks for other states: then it is not folded by itself."""
    return bool(fold_of(state).joins)


def _fold_or_say(
    log: Log,
    build: ViewBuild[Any],
    connection: Connection,
    start: Start,
    until: int,
    pace: Pace,
    wanted: Sequence[Wanted] | None = None,
) -> float:
    try:
        return _fold(log, build, connection, start, until, pace, wanted)
    except Stopped as stopped:
        raise Stuck(f"the view `{build.name}` stopped {stopped}", view=build.name, error=str(stopped)) from stopped


def _fold(
    log: Log,
    build: ViewBuild[Any],
    connection: Connection,
    start: Start,
    until: int,
    pace: Pace,
    wanted: Sequence[Wanted] | None,
) -> float:
    """Make the tables of a view, and fold into them what lies between `start` and a position, or what is wanted of it. `Stopped` where the view did.

    Returns how many seconds that took by the clock of `pace`, without `start`.
    """
    after, tables = start
    build.create(connection)
    every = (build.own, *build.joined)
    if not build.joined and not all(_fits(build, key, *known) for rows in tables for key, known in rows.items()):
        after, tables = FROM_ZERO  # states know of no table; rows come out of one
    for folded in every:
        folded.complete = True
    for folded, rows in zip(every, tables, strict=False):
        there = iter(rows.items())
        while some := list(itertools.islice(there, SLICE_ROWS)):
            folded.states.update([(key, state) for key, (state, _) in some])
            folded.changed.update([(key, position) for key, (_, position) in some])
            build.write(connection, [])
            pace.pause()
    build.written()
    began = pace.clock()
    decode = log.reader.pages_for([folded.fold for folded in every]).flat
    pages: list[Page] = []
    for bare in log.engine.read_bare(after, until, wanted=wanted, rows_max=pace.rows_max, heads=build.heads):
        page = Page(bare, decode(bare))
        build.fold_page(connection, page)
        pages.append(page)
        pace.pause()
        if len(pages) * len(bare) >= pace.together:
            build.write(connection, pages)
            build.written()
            pages = []
            pace.pause()
    build.write(connection, pages)
    build.written()
    return pace.clock() - began


def _fits(build: ViewBuild[Any], key: Key, state: State, position: int) -> bool:
    """Say whether the table can hold a state."""
    try:
        build.own.table.encode(state, position)
        build.own.table.encode_key(key)
    except Invalid:
        return False
    return True
