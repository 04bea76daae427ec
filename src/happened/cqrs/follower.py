"""Following: one thread folds the log into all views of an app that this process owns.

Views at the same position share what is read and decoded, and a transaction; each has a savepoint of its own in it, so trouble of one is none of another's.
A view whose code changed, or that is rebuilt, gets a new table beside the old one; it is switched to when it has caught up. Until a view has once reached
the head it is not answered from, never with part of its rows.

Each version of a view's code has its own lease: while two are at work, as in a rolling release, each is followed and answers.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar  # Any: states of any class

from happened.core.errors import Closed, Diverged, Invalid, Overloaded, StoreFailed
from happened.core.state import State, fold_of
from happened.core.store import Row
from happened.cqrs.ask import View, ViewState, no_view, shown_in
from happened.cqrs.view import AFTER, Page, Stopped, ViewBuild, check_history, view_fingerprint
from happened.log.held import told
from happened.log.lease import Leases
from happened.log.log import Log, Progress, latest_erasure
from happened.log.records import Pages, bare_of
from happened.log.writer import CLOSE_SECONDS_MAX
from happened.shelf.connection import FAILED, Connection, Place
from happened.shelf.rows import ViewsFile, tag_of

S = TypeVar("S", bound=State)

PAGE_ROWS = 1_000
FAR = 5
"""So many pages behind, a view is caught up with: many pages in one transaction, and nothing is read of rows that a fold does not need."""
BUILD_ROWS = 50_000
"""Rows of the log in one transaction while a view is far behind; then it is as fast as it gets, and lets others have their turn some times a second."""
IDLE_SECONDS = 0.05
RETRY_SECONDS = 0.5
PROGRESS_SECONDS = 0.5
SWEEP_SECONDS = 1.0
"""How often to look for tables that nobody needs any more."""

PASSING = (StoreFailed, Overloaded, *FAILED)
"""Trouble that may be over at the next try."""

WHERE = "where name = ? and fingerprint = ? and generation = ?"


class _TakenBack(Exception):
    """Nothing of a transaction is to be kept."""


class Followers:
    """All views of one app on one log."""

    def __init__(self, log: Log, views: Iterable[type[State]], place: Callable[[], Place], *, run: bool) -> None:
        self._log = log
        self._run = run
        self._fingerprints = {state: view_fingerprint(fold_of(state), log.reader.lifts) for state in views}
        self._views: dict[type[State], ViewState[Any]] = {}
        self._building: list[ViewBuild[Any]] = []
        self._stop = threading.Event()
        self._closed = False
        self._moved = threading.Condition()
        self._rebuilding = threading.Lock()
        self._sweep_at = 0.0
        self.failure: str | None = None
        """What keeps the follower from its work, if anything does."""
        self._thread = threading.Thread(target=self._run_to_the_end, name="happened-views", daemon=True)
        self._file = place() if self._fingerprints else None
        try:
            for state in self._fingerprints:
                self._views[state] = self._opened(state)
        except BaseException:
            if self._file is not None:
                self._file.close()
            raise
        shared = self._file is not None and self._file.shared
        names = [self._lease(view.build.name, view.build.fingerprint) for view in self._views.values()]
        self._leases = Leases(log.engine, log.source, names if run and shared else [])

    def start(self) -> None:
        """Begin, if this process runs views."""
        if self._views and self._run:
            self._leases.start()
            self._thread.start()

    def view(self, state: type[S]) -> View[S]:
        """Return a view to ask."""
        if state not in self._views:
            raise no_view(state, self._views)
        return View(self._views[state])

    def rebuild(self, state: type[State], progress: Progress) -> None:
        """Build a new generation of a view, wait until it has been switched to. Whatever keeps it from being built is raised; then the old one stays."""
        view = self.view(state).of
        if not self._run:
            raise Invalid("this process runs no views (`run=False`): rebuild in the one that does")
        with self._rebuilding:
            building = self._begun(view.build)
            try:
                while view.build is not building:
                    with self._moved:
                        if view.build is not building:
                            self._moved.wait(PROGRESS_SECONDS)
                    progress(building.position, self._log.head)
                    if view.build is not building:
                        self._check_goes_on(building)
            finally:
                with self._moved:
                    if building in self._building:  # it is given up: the follower drops its tables
                        self._building.remove(building)

    def forget(self, erased: int) -> None:
        """Have views in memory that were begun before an erasure not be answered from until they are folded anew. A file is emptied by who erases."""
        if isinstance(self._file, ViewsFile):
            self._file.forget(self._log.identity.id, erased)

    def statistics(self) -> list[dict[str, Any]]:
        """Return for each view: position, lag, whether it is ready, who runs it, what is stuck, what went wrong."""
        return [view.statistics() for view in self._views.values()]

    def close(self) -> None:
        """Stop after the page that is being folded. Bounded: where `evolve` does not come to an end, the file is given back once it does."""
        self._stop.set()
        self._announce()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS_MAX)
        self._leases.close()
        self._closed = True  # first: one of both threads sees that the other one does not close the file
        if self._file is not None and not self._thread.is_alive():
            self._file.close()

    # --- the thread

    def _run_to_the_end(self) -> None:
        self._follow()
        if self._closed and self._file is not None:
            self._file.close()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                mine = self._mine()
                if not mine:
                    self._stop.wait(IDLE_SECONDS)
                    continue
                behind = min(build.position for build in mine)
                head = self._log.wait(behind, IDLE_SECONDS)
                if head > behind or not all(map(self._is_answered_from, mine)):
                    for position in sorted({build.position for build in mine}):
                        at_work = self._at_work()  # what another has taken the place of in this round is left as it is: who reads it would see more than the other has
                        group = [build for build in mine if build.position == position and build in at_work]
                        if group:
                            self._advance(group, head)
                else:
                    for build in mine:
                        build.failure = None
                self._sweep()
                self.failure = None
            except Closed:
                return
            except Exception as error:  # noqa: BLE001 - whatever it is must be seen by those who wait, and may pass
                self.failure = told(error)
                for build in self._at_work():
                    if build.broken is None:
                        build.epoch = None  # what was folded and not written is forgotten
                self._stop.wait(RETRY_SECONDS)

    def _erased_since(self, builds: Sequence[ViewBuild[Any]]) -> bool:
        """Say whether something of what these were folded from was erased: then they are read again, and begun anew."""
        latest = latest_erasure(self._log.engine)
        tainted = [build for build in builds if build.erased < latest]
        for build in tainted:
            build.epoch = None
        return bool(tainted)

    def _at_work(self) -> list[ViewBuild[Any]]:
        with self._moved:
            return [view.build for view in self._views.values()] + self._building

    def _mine(self) -> list[ViewBuild[Any]]:
        """Return the tables that this process may write, those that can go on."""
        mine: list[ViewBuild[Any]] = []
        for build in self._at_work():
            epoch = self._epoch(build)
            if epoch is None:
                build.failure = self._leases.trouble  # and not what kept this process from following before
                continue
            if build.retry_at > time.monotonic():
                continue
            try:
                found = build if build.epoch == epoch else self._taken_over(build, epoch)
            except Exception as error:  # noqa: BLE001 - it is this view's, and is seen
                build.epoch = epoch
                self._failed(build, error)
                continue
            if found is None:
                build.failure = self._leases.trouble  # as above
            elif found.broken is None:
                mine.append(found)
        return mine

    def _epoch(self, build: ViewBuild[Any]) -> int | None:
        """Return the epoch under which this process may write a table. Views in memory are of this process alone, and need no lease."""
        if self._file is None or not self._run or not self._file.shared:
            return 1 if self._run else None
        return self._leases.epoch(self._lease(build.name, build.fingerprint))

    def _taken_over(self, build: ViewBuild[Any], epoch: int) -> ViewBuild[Any] | None:
        """Read the checkpoint, and claim it for this epoch: who had it before can't write any more. `None` if the lease is another's by now."""
        assert self._file is not None, "views have a file"
        if self.holder(build) != self._leases.owner:
            return None
        state = build.fold.state
        with self._file.transaction() as connection:
            if build not in self._building:
                found = self._found_or_made(connection, state)  # another owner may have rebuilt it
                build = build if build.identity == found.identity else found
            self._load(connection, build)
            connection.execute(f"update _view set owner = ?, broken = null {WHERE}", (epoch, *build.identity))  # noqa: S608 - a constant
        build.epoch, build.broken = epoch, None
        build.live_from = max(self._log.opened_at, build.position) if build.ready else None
        with self._moved:
            if build not in self._building:
                self._views[state].build = build
        return build

    def _advance(self, builds: Sequence[ViewBuild[Any]], head: int) -> None:
        """Fold what lies after the position that these share, where the log was seen to end at `head`."""
        for build in builds:
            if build.position == 0 and not build.own.states:
                for folded in (build.own, *build.joined):
                    folded.complete = True
        if head - builds[0].position > FAR * PAGE_ROWS:
            self._catch_up(builds)
        else:
            self._advance_by_page(builds, head)

    def _advance_by_page(self, builds: Sequence[ViewBuild[Any]], head: int) -> None:
        """Fold the next page: what this process has recorded itself it has at hand, and the rest is read.

        What another process has erased may still be at hand. So it is taken only behind all erasures that these were begun after: a later one is read, since it
        is never at hand, and then they are begun anew.
        """
        position = builds[0].position
        known = max(build.erased for build in builds)
        latest = self._log.writer.latest.behind(position, PAGE_ROWS) if position >= known else None
        digest, rows = latest or self._read_page(position)
        _check_follows(builds, digest)
        # After the rows were read: an erasure is recorded, too, and one that comes later wakes who waits for more.
        if latest is None and self._erased_since(builds):
            return
        if rows:
            bare = list(map(bare_of, rows))
            try:
                page = Page(bare, self._decoder(builds).flat(bare))
            except Exception as error:  # noqa: BLE001 - it is of those that read this page, and is seen
                self._undecodable(builds, head, error)
                return
            builds = self._commit(builds, [page], rows[-1])
        for build in builds:
            self._switch_if_whole(build, head)

    def _read_page(self, position: int) -> tuple[bytes | None, list[Row]]:
        """Read a page and the row before it in one statement, so that it is known of what log it is; return the digest of that one."""
        rows: list[Row] = []
        for page in self._log.engine.read(max(position - 1, 0), rows_max=PAGE_ROWS):
            rows += page
            if len(rows) > 1 or not position:  # the row before may lie in a page of its own
                break
        if not position:
            return None, rows
        return (rows[0].digest, rows[1:]) if rows and rows[0].last == position else (None, [])

    def _catch_up(self, builds: Sequence[ViewBuild[Any]]) -> None:
        """Fold many pages in one transaction, and of each row only what a fold needs, in constant memory; what comes after that is left to the next time."""
        decode = self._decoder(builds).flat
        target = next((rows[0] for rows in self._log.engine.read(backwards=True, rows_max=1)), None)
        head = target.last if target is not None else 0
        if target is None or head < builds[0].position:
            raise _other_history(builds[0])
        # After that last row was read: an erasure is recorded, too, and one that comes later wakes who waits for more.
        if self._erased_since(builds):
            return
        heads = any(
            build.heads or (build.live_from is not None and build.live_from < head) for build in builds
        )  # to count how long they took
        gathered: list[Page] = []
        count = 0
        for rows in self._log.engine.read_bare(builds[0].position, head, rows_max=PAGE_ROWS, heads=heads):
            try:
                gathered.append(Page(rows, decode(rows)))
            except Exception as error:  # noqa: BLE001 - it is of those that read this page, and is seen
                if not gathered:
                    self._undecodable(builds, head, error)
                    return
                break  # it is met again, as the first
            count += len(rows)
            if self._stop.is_set():
                return
            if count >= BUILD_ROWS:
                break
        if gathered:
            last = self._last_of(gathered, target)
            before = self._log.row_at(builds[0].position) if builds[0].position else None
            _check_follows(builds, before.digest if before is not None else None)
            builds = self._commit(builds, gathered, last)
        for build in builds:
            self._switch_if_whole(build, head)

    def _undecodable(self, builds: Sequence[ViewBuild[Any]], head: int, error: Exception) -> None:
        """Go on with those views that don't read what today's code can't."""
        if len(builds) == 1:
            self._failed(builds[0], error)
        else:
            for build in builds:
                self._advance([build], head)

    def _commit(self, builds: Sequence[ViewBuild[Any]], pages: Sequence[Page], last: Row) -> list[ViewBuild[Any]]:
        """Fold pages that end with a row, and write what comes of it; return the views that have got through."""
        assert self._file is not None, "views have a file"
        failed: list[tuple[ViewBuild[Any], Exception]] = []
        with contextlib.suppress(_TakenBack), self._file.transaction() as connection:
            for build in builds:
                if len(builds) > 1:
                    connection.execute("savepoint one")
                try:
                    self._fold_and_write(connection, build, pages, last)
                except Exception as error:
                    if not connection.in_transaction:  # all of it was taken back
                        raise
                    failed.append((build, error))
                    if len(builds) == 1:
                        raise _TakenBack from error
                    connection.execute("rollback to one")
                if len(builds) > 1:
                    connection.execute("release one")
        through = [build for build in builds if all(build is not one for one, _ in failed)]
        for build in through:
            build.written()
            build.position, build.digest = last.last, last.digest
            build.failure = None
        for build, trouble in failed:
            self._failed(build, trouble)
        self._announce()
        return through

    def _last_of(self, pages: Sequence[Page], target: Row) -> Row:
        """Return the last row of what was read up to a row, which was there before that. `Diverged` where it is there no more: another history may be."""
        position = pages[-1].rows[-1][AFTER] - 1
        if position == target.last:
            return target
        last, there = self._log.row_at(position), self._log.row_at(target.last)
        if last is None or there is None or there.digest != target.digest:
            raise Diverged(
                f"the log no longer has what it had at position {target.last}: an older copy is in its place", position=target.last
            )
        return last

    def _fold_and_write(self, connection: Connection, build: ViewBuild[Any], pages: Sequence[Page], last: Row) -> None:
        """Fold pages into one view. The checkpoint is a compare-and-set on position and owner's epoch."""
        for page in pages:
            build.fold_page(connection, page)
        done = connection.execute(
            f"update _view set position = ?, digest = ? {WHERE} and position = ? and owner = ?",  # noqa: S608 - a constant
            (last.last, last.digest, *build.identity, build.position, build.epoch),
        ).rowcount
        if done != 1:
            raise _lost(build)
        build.write(connection, pages)
        build.show(connection, pages, self._log.source.now_us())

    def _failed(self, build: ViewBuild[Any], error: Exception) -> None:
        """Say what went wrong with a view, forget what was folded and not written, and try again later where that may help."""
        build.forget()
        if isinstance(error, Closed):
            raise error
        if isinstance(error, PASSING):
            build.failure = told(error)
            build.epoch = None
            build.retry_at = time.monotonic() + RETRY_SECONDS
        else:
            build.broken = str(error) if isinstance(error, Stopped) else f"and can't go on: {told(error)}"
            self._note_broken(build)
        self._announce()

    def _note_broken(self, build: ViewBuild[Any]) -> None:
        """Let other processes know."""
        assert self._file is not None, "views have a file"
        with self._file.transaction() as connection:
            connection.execute(f"update _view set broken = ? {WHERE}", (build.broken, *build.identity))  # noqa: S608 - a constant

    def _switch_if_whole(self, build: ViewBuild[Any], head: int) -> None:
        """Answer from this table from now on, once it has reached the head, and is not behind the one before it."""
        assert self._file is not None, "views have a file"
        view = self._views[build.fold.state]
        if self._is_answered_from(build) or build.position < head or (view.build.ready and view.build.position > build.position):
            return
        if build not in self._at_work():  # another has taken its place in this very round, or its rebuild was given up
            return
        with self._file.transaction() as connection:
            there = connection.execute(
                f"update _view set ready = 1 {WHERE} and position = ? and owner = ?",  # noqa: S608 - a constant
                (*build.identity, build.position, build.epoch),
            )
            if there.rowcount != 1:  # it was begun anew meanwhile, or is another's
                raise _lost(build)
            newer = "select 1 from _view where name = ? and ready = 1 and made > ?"
            if connection.execute(newer, (build.name, build.made)).fetchone() is None:
                for statement in build.own.table.view_ddl():
                    connection.execute(statement)
        with self._moved:
            build.ready = True
            build.live_from = build.position
            view.build = build
            if build in self._building:
                self._building.remove(build)
        self._announce()
        self._sweep_at = 0.0

    def _is_answered_from(self, build: ViewBuild[Any]) -> bool:
        return build.ready and self._views[build.fold.state].build is build

    def _sweep(self) -> None:
        """Drop tables that nobody needs any more: older generations, rebuilds that were given up, and those of older code that nobody follows."""
        assert self._file is not None, "views have a file"
        if time.monotonic() < self._sweep_at:
            return
        self._sweep_at = time.monotonic() + SWEEP_SECONDS
        with self._file.reader() as connection:
            tables = connection.execute("select name, fingerprint, generation, made from _view").fetchall()
        kept = {build.identity for build in self._at_work()}
        for build in [view.build for view in self._views.values()]:
            if not build.ready or build.epoch is None or build.epoch != self._epoch(build):
                continue
            others = [
                (fp, generation, made) for name, fp, generation, made in tables if name == build.name and (name, fp, generation) not in kept
            ]
            for fingerprint, generation, made in others:
                if fingerprint == build.fingerprint:
                    self._drop(build.name, fingerprint, generation)
                elif made < build.made and self._leases.holder(self._lease(build.name, fingerprint)) is None:
                    self._drop(build.name, fingerprint, generation)
                    self._leases.forget([self._lease(build.name, fingerprint)])

    def _drop(self, name: str, fingerprint: str, generation: int) -> None:
        """Drop the tables of a build, and all that is noted of it."""
        assert self._file is not None, "views have a file"
        identity = (name, fingerprint, generation)
        with self._file.transaction() as connection:
            for table in self._file.tables(connection, f"_{tag_of(fingerprint, generation)}"):
                connection.execute(self._file.dialect.dropping(table))
            connection.execute(f"delete from _view {WHERE}", identity)  # noqa: S608 - a constant
            connection.execute(f"delete from _stuck {WHERE}", identity)  # noqa: S608 - a constant
            connection.execute(f"delete from _shown {WHERE}", identity)  # noqa: S608 - a constant
            connection.execute(f"delete from _begun {WHERE}", identity)  # noqa: S608 - a constant

    def _decoder(self, builds: Sequence[ViewBuild[Any]]) -> Pages:
        return self._log.reader.pages_for([folded.fold for build in builds for folded in (build.own, *build.joined)])

    def _announce(self) -> None:
        with self._moved:
            self._moved.notify_all()
            views = list(self._views.values())
        for view in views:
            view.moved_on()

    # --- rebuilding

    def _begun(self, current: ViewBuild[Any]) -> ViewBuild[Any]:
        """Make the tables of a new generation."""
        assert self._file is not None, "views have a file"
        self._check_may_follow(current)
        with self._moved, self._file.transaction() as connection:  # whoever sweeps sees it in both places, or in neither
            [(latest,)] = connection.execute(
                "select max(generation) from _view where name = ? and fingerprint = ?", (current.name, current.fingerprint)
            )
            building: ViewBuild[Any] = ViewBuild(
                current.fold.state, current.fingerprint, max(latest or 0, current.generation) + 1, self._file.dialect
            )
            self._make(connection, building)
            self._building.append(building)
        return building

    def _check_may_follow(self, build: ViewBuild[Any]) -> None:
        owner = self.holder(build)
        if owner is not None and owner != self._leases.owner:
            raise Invalid(
                f"the view `{build.name}` is followed by {owner}: rebuild it there, or stop that process first",
                view=build.name,
                owner=owner,
            )

    def _check_goes_on(self, building: ViewBuild[Any]) -> None:
        """Raise whatever keeps a rebuild from going on."""
        if self._stop.is_set():
            raise Closed("the log was closed before the view was rebuilt")
        if building.broken is not None:
            raise Invalid(
                f"the view `{building.name}` can't be built: it stopped {building.broken}", view=building.name, error=building.broken
            )
        failure = building.failure or self.failure
        if failure is not None:
            raise StoreFailed(f"the view `{building.name}` could not be rebuilt: {failure}", view=building.name, error=failure)
        self._check_may_follow(building)

    # --- opening

    def _opened(self, state: type[State]) -> ViewState[Any]:
        """Find the table of a view that today's code reads, or make one."""
        assert self._file is not None, "views have a file"
        with self._file.transaction() as connection:
            name = fold_of(state).name
            if self._file.is_taken(connection, name):
                raise Invalid(
                    f"the view `{name}` can't lie where its log does, which has a table of that name: "
                    'give it another name with `@named("...")`, or keep the views elsewhere: open(views=...)',
                    view=name,
                )
            build = self._found_or_made(connection, state)
            self._load(connection, build)
        return ViewState(self._log, self._file, build, self._moved, self)

    def _found(self, connection: Connection, state: type[State]) -> ViewBuild[Any] | None:
        """Return the table of a view that today's code reads: the latest that may be answered from, else the first, since later ones are rebuilds."""
        assert self._file is not None, "views have a file"
        fingerprint = self._fingerprints[state]
        found = connection.execute(
            "select generation from _view where name = ? and fingerprint = ? order by ready desc, case when ready = 1 then -generation else generation end limit 1",
            (fold_of(state).name, fingerprint),
        ).fetchone()
        return ViewBuild(state, fingerprint, found[0], self._file.dialect) if found is not None else None

    def _found_or_made(self, connection: Connection, state: type[State]) -> ViewBuild[Any]:
        assert self._file is not None, "views have a file"
        found = self._found(connection, state)
        if found is None:
            found = ViewBuild(state, self._fingerprints[state], 1, self._file.dialect)
            self._make(connection, found)
        return found

    def renew(self, gone: ViewBuild[Any]) -> None:
        """Answer from the table that another process has switched to. `Diverged` where other code has replaced this one's, and nobody makes it anew."""
        assert self._file is not None, "views have a file"
        state = gone.fold.state
        with self._file.transaction() as connection:
            build = self._found_or_made(connection, state) if self._run else self._found(connection, state)
            if build is None:
                raise _replaced(gone)
            self._load(connection, build)
        with self._moved:
            if self._views[state].build is gone:
                self._views[state].build = build

    def _make(self, connection: Connection, build: ViewBuild[Any]) -> None:
        """Make the tables of a build, empty."""
        build.create(connection)
        connection.execute(f"delete from _stuck {WHERE}", build.identity)  # noqa: S608 - a constant
        connection.execute(f"delete from _shown {WHERE}", build.identity)  # noqa: S608 - a constant
        [(made,)] = connection.execute(
            "select coalesce(max(case when name = ? and fingerprint = ? then made end), max(made) + 1, 1) from _view",
            (build.name, build.fingerprint),
        ).fetchall()
        connection.execute(f"delete from _view {WHERE}", build.identity)  # noqa: S608 - a constant
        connection.execute(
            "insert into _view(name, fingerprint, generation, made, log, epoch, position, digest, owner, ready) values(?, ?, ?, ?, ?, ?, 0, ?, 0, 0)",
            (*build.identity, made, self._log.identity.id, self._log.identity.epoch, bytes(32)),
        )
        connection.execute(f"delete from _begun {WHERE}", build.identity)  # noqa: S608 - a constant
        connection.execute(
            "insert into _begun(name, fingerprint, generation, erased) values(?, ?, ?, ?)",
            (*build.identity, latest_erasure(self._log.engine)),
        )

    def _load(self, connection: Connection, build: ViewBuild[Any]) -> None:
        """Read the checkpoint of a table and what is stuck, and hold it against the log.

        What was folded from events that were lost when the log was adopted, or erased since, is begun anew: somebody has decided that, and recorded it.
        """
        assert self._file is not None, "views have a file"
        build.forget()
        self._begin_anew(connection, build)
        found = connection.execute(f"select log, epoch, position, digest, ready, made from _view {WHERE}", build.identity).fetchone()  # noqa: S608 - a constant
        if found is None:
            raise _replaced(build)
        log, epoch, build.position, build.digest, ready, build.made = found
        build.ready = bool(ready)
        stuck = connection.execute(f"select key, position, error from _stuck {WHERE}", build.identity)  # noqa: S608 - a constant
        listed = self._file.dialect.listed  # earlier code has listed all keys as they are
        build.stuck = {listed(key): (position, error) for key, position, error in stuck}
        build.shown = shown_in(connection, build)
        row = self._log.row_at(build.position) if build.position else None
        there = row.digest if row is not None and row.last == build.position else None
        check_history(build, self._log.identity, log, epoch, there, self._file.said)

    def _begin_anew(self, connection: Connection, build: ViewBuild[Any]) -> None:
        """Empty a table that holds what is no more; say of one that goes on that it is of today's epoch."""
        identity = self._log.identity
        of_log = (
            f"select log, epoch, position, coalesce(erased, 0) from _view left join _begun using (name, fingerprint, generation) {WHERE}"  # noqa: S608 - a constant
        )
        found = connection.execute(of_log, build.identity).fetchone()
        if found is None or found[0] != identity.id:
            return
        _, epoch, position, erased = found
        if erased < latest_erasure(self._log.engine) or (epoch < identity.epoch and not identity.has(epoch, position)):
            self._make(connection, build)
        elif epoch < identity.epoch:
            connection.execute(f"update _view set epoch = ? {WHERE}", (identity.epoch, *build.identity))  # noqa: S608 - a constant
        [(build.erased,)] = connection.execute(f"select coalesce(max(erased), 0) from _begun {WHERE}", build.identity)  # noqa: S608 - a constant

    # --- who follows

    def holder(self, build: ViewBuild[Any]) -> str | None:
        """Return who follows a view, of whichever process."""
        assert self._file is not None, "views have a file"
        if not self._file.shared:
            return self._leases.owner if self._run else None
        return self._leases.holder(self._lease(build.name, build.fingerprint))

    def follows(self, build: ViewBuild[Any]) -> bool:
        """Say whether this process is the one."""
        return self._epoch(build) is not None

    def siblings(self) -> list[ViewBuild[Any]]:
        """Return the tables of all views of the app that are answered from today."""
        with self._moved:
            return [view.build for view in self._views.values()]

    def _lease(self, name: str, fingerprint: str) -> str:
        assert self._file is not None, "views have a file"
        return f"view/{name}/{fingerprint}/{self._file.place}"


def _lost(build: ViewBuild[Any]) -> StoreFailed:
    return StoreFailed(f"the view `{build.name}` is followed by another process now, or was set back", view=build.name)


def _check_follows(builds: Sequence[ViewBuild[Any]], digest: bytes | None) -> None:
    """Raise `Diverged` where these were not folded up to this row of the log: a database may be replaced by an older copy while it is followed."""
    for build in builds:
        if build.position and build.digest != digest:
            raise _other_history(build)


def _other_history(build: ViewBuild[Any]) -> Diverged:
    return Diverged(f"the log no longer has what the view `{build.name}` was folded from up to position {build.position}", view=build.name)


def _replaced(build: ViewBuild[Any]) -> Diverged:
    return Diverged(f"the table of the view `{build.name}` was dropped: other code has replaced it. Open the app again", view=build.name)
