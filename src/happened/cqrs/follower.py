"""Following: one thread folds the log into all views of an app that this process owns.

Views at the same position share what is read and decoded. A view whose code changed, or that is rebuilt, gets a new table beside the old one; it is
switched to when it has caught up. Until a view has once reached the head it is not answered from, never with part of its rows.
"""

import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar  # Any: states of any class

from happened.core.errors import Closed, Diverged, Error, Invalid, StoreFailed
from happened.core.state import State, fold_of
from happened.core.store import Row
from happened.core.world import Source
from happened.cqrs.ask import View, ViewState
from happened.cqrs.rows import ViewsFile
from happened.cqrs.view import ViewBuild, check_history
from happened.log.lease import Leases
from happened.log.log import Log, Progress
from happened.log.records import Pages

S = TypeVar("S", bound=State)

PAGE_ROWS = 1_000
BUILD_ROWS = 50_000
"""Rows of the log in one transaction while a view is far behind; then it is as fast as it gets, and shows progress some times a second."""
IDLE_SECONDS = 0.05
RETRY_SECONDS = 0.5
PROGRESS_SECONDS = 0.5


class Followers:
    """All views of one app on one log."""

    def __init__(self, log: Log, views: Iterable[type[State]], url: str, *, run: bool) -> None:
        self._log = log
        self._source: Source = log.source
        self._run = run
        self._states = {state: fold_of(state) for state in views}
        self._file = ViewsFile(url) if self._states else None
        self._views: dict[type[State], ViewState[Any]] = {}
        self._building: list[ViewBuild[Any]] = []
        self._stop = threading.Event()
        self._moved = threading.Condition()
        self.failure: str | None = None
        self._leases = Leases(log.engine, log.source, [f"view/{fold.name}" for fold in self._states.values()] if run else [])
        self._thread = threading.Thread(target=self._follow, name="happened-views", daemon=True)
        for state in self._states:
            self._views[state] = self._opened(state)

    def start(self) -> None:
        """Begin, if this process runs views."""
        if self._states and self._run:
            self._leases.start()
            self._thread.start()

    def view(self, state: type[S]) -> View[S]:
        """Return a view to ask."""
        if state not in self._views:
            listed = ", ".join(fold.name for fold in self._states.values()) or "none"
            raise Invalid(f"`{getattr(state, '__name__', state)}` is not among the app's views: {listed}", state=str(state))
        return View(self._views[state])

    def rebuild(self, state: type[State], progress: Progress) -> None:
        """Build a new generation of a view, wait until it has been switched to."""
        view = self.view(state).of
        if not self._run:
            raise Invalid("this process runs no views (`run=False`): rebuild in the one that does")
        generation = view.build.generation + 1
        building = ViewBuild(state, generation)
        self._make(building)
        with self._moved:
            self._building.append(building)
        while view.build.generation < generation:
            with self._moved:
                self._moved.wait(PROGRESS_SECONDS)
            if self._stop.is_set():
                raise Closed("the log was closed before the view was rebuilt")
            progress(building.position, self._log.head)
            if building.broken is not None:
                raise Invalid(f"the view `{building.name}` can't be built {building.broken}", view=building.name)

    def statistics(self) -> list[dict[str, Any]]:
        """Return for each view: position, lag, whether it is ready, who runs it, what is stuck."""
        return [view.statistics() for view in self._views.values()]

    def close(self) -> None:
        """Stop after the page that is being folded."""
        self._stop.set()
        with self._moved:
            self._moved.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._leases.close()
        if self._file is not None:
            self._file.close()

    # --- the thread

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                mine = self._mine()
                if not mine:
                    self._leases.changed.wait(IDLE_SECONDS)
                    continue
                behind = min(build.position for build in mine)
                if self._log.wait(behind, IDLE_SECONDS) <= behind and all(build.ready for build in mine):
                    self._at_head(mine)
                    continue
                for position in sorted({build.position for build in mine}):
                    self._advance([build for build in mine if build.position == position])
                self.failure = None
            except Closed:
                return
            except Exception as error:  # noqa: BLE001 - whatever it is must be seen by those who wait, and may pass
                self.failure = f"{type(error).__name__}: {error}"
                self._stop.wait(RETRY_SECONDS)
                self._reload()

    def _mine(self) -> list[ViewBuild[Any]]:
        """Return the tables that this process may write, those that are at work."""
        with self._moved:
            builds = [view.build for view in self._views.values()] + self._building
        return [build for build in builds if self._leases.epoch(f"view/{build.name}") is not None and build.broken is None]

    def _advance(self, builds: Sequence[ViewBuild[Any]]) -> None:
        """Fold what lies after the position that these share: one transaction, or many while far behind."""
        decode = self._decoder(builds)
        head = self._log.head
        far = head - builds[0].position > 5 * PAGE_ROWS
        gathered: list[tuple[Sequence[Row], Sequence[Sequence[Any]]]] = []
        count = 0
        for build in builds:
            if build.position == 0 and not build.own.states:
                for folded in (build.own, *build.joined):
                    folded.complete = True
        for rows in self._log.engine.read(builds[0].position, rows_max=PAGE_ROWS, lean=True):
            gathered.append((rows, decode(rows)))
            count += len(rows)
            if not far or count >= BUILD_ROWS:
                self._commit(builds, gathered)
                gathered, count = [], 0
            if self._stop.is_set():
                return
        if gathered:
            self._commit(builds, gathered)
        for build in builds:
            if not build.ready and build.broken is None and build.position >= head:
                self._switch(build)

    def _commit(self, builds: Sequence[ViewBuild[Any]], pages: Sequence[tuple[Sequence[Row], Sequence[Sequence[Any]]]]) -> None:
        assert self._file is not None, "views have a file"
        last = pages[-1][0][-1]
        with self._file.transaction() as connection:
            for build in builds:
                for rows, records in pages:
                    build.fold_page(connection, rows, records)
                if build.broken is not None:
                    build.forget()  # of this page too: no row may be newer than the checkpoint
                    continue
                self._set_checkpoint(connection, build, last)
                build.write(connection)
        for build in builds:
            if build.broken is None:
                build.written()
                build.position, build.digest = last.last, last.digest
        self._announce()

    def _set_checkpoint(self, connection: sqlite3.Connection, build: ViewBuild[Any], last: Row) -> None:
        """Move the checkpoint: a compare-and-set on position and owner's epoch."""
        epoch = self._leases.epoch(f"view/{build.name}")
        done = connection.execute(
            "update _view set position = ?, digest = ?, owner = ?, fresh = ? where name = ? and fingerprint = ? and generation = ? "
            "and position = ? and owner <= ?",
            (last.last, last.digest, epoch, self._source.now_us(), build.name, build.fingerprint, build.generation, build.position, epoch),
        ).rowcount
        if epoch is None or done != 1:
            raise StoreFailed(f"the view `{build.name}` is followed by another process now", view=build.name)

    def _switch(self, build: ViewBuild[Any]) -> None:
        """Answer from this table from now on, and drop those before it."""
        assert self._file is not None, "views have a file"
        with self._file.transaction() as connection:
            connection.execute(
                "update _view set ready = 1 where name = ? and fingerprint = ? and generation = ?",
                (build.name, build.fingerprint, build.generation),
            )
            for statement in build.own.table.view_ddl():
                connection.execute(statement)
        build.ready = True
        with self._moved:
            if build in self._building:
                self._building.remove(build)
            self._views[build.fold.state].build = build
        with self._file.transaction() as connection:
            self._drop_older(connection, build)
        self._announce()

    def _drop_older(self, connection: sqlite3.Connection, build: ViewBuild[Any]) -> None:
        older = connection.execute(
            "select fingerprint, generation from _view where name = ? and not (fingerprint = ? and generation = ?)",
            (build.name, build.fingerprint, build.generation),
        ).fetchall()
        for fingerprint, generation in older:
            if fingerprint == build.fingerprint and generation > build.generation:
                continue
            tagged = f"_{fingerprint[:6]}{generation % 100:02d}"
            tables = connection.execute(
                "select name from sqlite_master where type = 'table' and name like ? escape '!'", ("%!" + tagged,)
            ).fetchall()
            for (table,) in tables:
                connection.execute(f'drop table "{table}"')
            where = (build.name, fingerprint, generation)
            connection.execute("delete from _view where name = ? and fingerprint = ? and generation = ?", where)
            connection.execute("delete from _stuck where name = ? and fingerprint = ? and generation = ?", where)

    def _at_head(self, builds: Sequence[ViewBuild[Any]]) -> None:
        """Nothing is new: what stands at the head is as fresh as can be."""
        for build in builds:
            self._views[build.fold.state].fresh_at = time.monotonic()

    def _decoder(self, builds: Sequence[ViewBuild[Any]]) -> Pages:
        return self._log.reader.pages_for([folded.fold for build in builds for folded in (build.own, *build.joined)])

    def _announce(self) -> None:
        with self._moved:
            self._moved.notify_all()

    # --- opening

    def _opened(self, state: type[State]) -> ViewState[Any]:
        """Find the table of a view that today's code reads, or make one."""
        assert self._file is not None, "views have a file"
        build = self._found(state)
        if build is None:
            build = ViewBuild(state, 1)
            self._make(build)
        with self._file.transaction() as connection:
            self._load(connection, build)
        return ViewState(self._log, self._file, build, self._moved, self._holder, lambda: self.failure, self._renew)

    def _found(self, state: type[State]) -> ViewBuild[Any] | None:
        """Return the latest table of a view that today's code reads; one that may be answered from where there is one."""
        assert self._file is not None, "views have a file"
        with self._file.reader() as connection:
            found = connection.execute(
                "select generation from _view where name = ? and fingerprint = ? order by ready desc, generation desc limit 1",
                (fold_of(state).name, ViewBuild(state, 0).fingerprint),
            ).fetchone()
        return ViewBuild(state, found[0]) if found is not None else None

    def _renew(self, gone: ViewBuild[Any]) -> None:
        """Answer from the table that another process has switched to. `Diverged` where other code has replaced this one's."""
        assert self._file is not None, "views have a file"
        build = self._found(gone.fold.state)
        if build is None:
            raise _replaced(gone)
        with self._file.reader() as connection:
            self._load(connection, build)
        with self._moved:
            view = self._views[gone.fold.state]
            if view.build is gone:
                view.build = build

    def _make(self, build: ViewBuild[Any]) -> None:
        """Make the tables of a build, empty."""
        assert self._file is not None, "views have a file"
        with self._file.transaction() as connection:
            for statement in build.own.table.drop():
                connection.execute(statement)
            build.create(connection)
            connection.execute(
                "insert or replace into _view(name, fingerprint, generation, log, epoch, position, digest, owner, ready, fresh) "
                "values(?, ?, ?, ?, ?, 0, ?, 0, 0, 0)",
                (build.name, build.fingerprint, build.generation, self._log.identity.id, self._log.identity.epoch, build.digest),
            )

    def _load(self, connection: sqlite3.Connection, build: ViewBuild[Any]) -> None:
        """Read the checkpoint of a table, and hold it against the log."""
        build.forget()
        where = (build.name, build.fingerprint, build.generation)
        found = connection.execute(
            "select log, epoch, position, digest, ready from _view where name = ? and fingerprint = ? and generation = ?", where
        ).fetchone()
        if found is None:
            raise _replaced(build)
        log, epoch, build.position, build.digest, ready = found
        build.ready = bool(ready)
        row = self._log.row_at(build.position) if build.position else None
        there = row.digest if row is not None and row.last == build.position else None
        check_history(build, self._log.identity.id, self._log.identity.epoch, log, epoch, there)

    def _reload(self) -> None:
        if self._file is None or self._stop.is_set():
            return
        for build in [*(view.build for view in self._views.values()), *self._building]:
            try:
                with self._file.reader() as connection:
                    self._load(connection, build)
            except (Error, sqlite3.Error) as error:
                build.broken = f"and can't go on: {error}"

    def _holder(self, name: str) -> str | None:
        return self._leases.holder(f"view/{name}")


def _replaced(build: ViewBuild[Any]) -> Diverged:
    return Diverged(f"the table of the view `{build.name}` was dropped: other code has replaced it. Open the app again", view=build.name)
