"""A log in PostgreSQL: one schema, psycopg 3, any number of processes on any number of hosts.

The row of `head` is locked first by whoever commits, and says where the log stands: so positions are dense and in the order of commits, whatever happens to
a process between any two statements, and a reader needs to wait for nobody. One connection writes, under a lock of this process; a commit is two round
trips, one that locks and looks, and one that writes and commits. Where nobody else has committed of late it is one: who decided before he had the lock
has the server compare under it where the log stands, and decides again where that has changed. Readers take a connection from a pool, for a page at a time.

A connection may be lost at any moment. Before a decision the writer connects again and goes on. After it, whether the commit took place is learned by
taking the lock once more, so that the old transaction has ended, and looking for the row. What was sent ahead may arrive later still: it finds the head
changed.

The index is written with the rows, in their transaction. What could not be filed then, as the tags of a guest, is filed by the next who needs it.
"""

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar  # Any: rows of the columns that were asked for

import psycopg
from psycopg import errors

from happened.core.chain import digest_of
from happened.core.errors import Broken, Closed, Diverged, Error, Forked, Incompatible, OutcomeUnknown, Overloaded, StoreFailed
from happened.core.store import START, Bare, Commit, Head, Parts, Row, Terms, Unseen, Wanted
from happened.stores import postgres_notes
from happened.stores import postgres_wire as wire
from happened.stores.looking import Looking
from happened.stores.postgres_cold import (
    ASKED,
    BARE,
    COUNTED,
    HEADED,
    LOCK_SECONDS_MAX,
    WHOLE,
    Columns,
    PostgresCold,
    moment,
)
from happened.stores.postgres_pages import DAMAGED, PAGE_ROWS, Page, PostgresPages, is_lost, pages_between
from happened.stores.postgres_shelf import NOTHING, Filing, hash_of, stretch
from happened.stores.postgres_tables import Connection, Where, is_standby, lock_head, migrate, one_line, where_in
from happened.stores.samples import Samples
from happened.stores.shelving import merged, next_row_first, reading_in, reading_text

T = TypeVar("T")
_WRITTEN_TYPES = [
    *(wire.INT8S, wire.INT4S, wire.INT8S, wire.TEXTS, wire.TEXTS, wire.TEXTS, wire.BLOBS, wire.BLOBS),  # rows
    *(wire.INT8, wire.INT8, wire.TEXT),  # the head
    *(wire.INT8S, wire.INT8S, wire.INT8S, wire.INT8S, wire.INT4S, wire.INT8S, wire.INT8S, wire.TEXTS, wire.TEXTS),  # entries
    *(wire.TEXTS, wire.TEXTS, wire.TEXTS, wire.INT8),  # notes, and who listens
]
_KNOWN_TYPES = [wire.INT8, wire.BLOB, wire.TEXT]
WRITE = f"select @write({', '.join(f'${n}' for n in range(1, 25))})"
LOOK = "select * from @look($1, $2)"
"""Takes the lock and looks at the head, then at what is unseen: each statement of the function sees what the one before has waited for."""
BEGIN = b"begin isolation level read committed, read write"
AHEAD_MS_MAX = 100
"""How long a commit that was decided ahead waits for a table that somebody holds as a whole; then it is decided again, and waits as long as its caller."""
WRITE_AHEAD = (
    f"select case when set_config('lock_timeout', '{AHEAD_MS_MAX}', true) is not null "
    f"then @write_ahead({', '.join(f'${n}' for n in range(1, 28))}) end"
)
CROWDED_COMMITS = 50
"""After another process has committed, so many commits are not decided ahead: it is likely to come between again."""
LOCK_MS_MAX = 2_000_000_000
POLL_SECONDS = 1.0
"""How long a notice is waited for at a time."""
POSITION_DIGITS = 19
"""A notice that is longer tells of no position."""
LOOK_SECONDS = 0.1
"""How often one of those who wait looks by himself: a notice may get lost, or never come through a pooler."""
SETTLE_SECONDS = 30.0
"""How long to try to learn the outcome of a commit that failed."""
CLOSE_SECONDS_MAX = 10.0
SCRUB_SECONDS_MAX = 10.0
PASSING_SECONDS_MAX = 2.0
"""How long a table is written anew again where somebody may still look at what was deleted in it: most do for a moment, as the server itself."""
RETRY_SECONDS = 0.05
FILE_SECONDS = 0.05
"""How long who reads waits for the lock to file what others have left. Where he can't have it he looks at the rows themselves."""


class Standing(NamedTuple):
    """What the row of `head` says."""

    position: int
    at: int
    digest: bytes
    row: int
    filed: int
    """Up to where ids, names and counts are in the index."""
    tagged: int
    """Up to where tags are."""
    reading: str
    """Which making of the index that is."""

    @property
    def head(self) -> Head:
        """Where the log stands."""
        return Head(self.position, self.at, self.digest)


class PostgresStore:
    """Keeps one log in a schema of a database."""

    def __init__(self, url: str) -> None:
        self.where: Where = where_in(url)
        self.url = self.where.said
        self.sync_seconds = 0.001
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._index_lock = threading.RLock()
        self._grown = threading.Condition()
        self._closed = False
        self._owner = 0
        """The thread that holds the lock, while it decides."""
        self._standing = Standing(*_START)
        self._last_seen = 0
        self._samples = Samples()
        self._terms_of: Callable[[Row], Terms] | None = None
        self._reading: dict[int, str] = {}
        self._stored: dict[int, str] = {}
        self._generation: str = ""
        self._guest = False
        self._strange = False
        """Tags are read otherwise here than by the index: none are looked up in it, and none are written."""
        self._filing = Filing(self.where)
        self._look, self._write, self._write_ahead = map(self.where.sql, (LOOK, WRITE, WRITE_AHEAD))
        self._prepared = wire.Prepared(
            (self._look, (wire.INT8, wire.INT4)),
            (self._write, _WRITTEN_TYPES),
            (self._write_ahead, (*_KNOWN_TYPES, *_WRITTEN_TYPES)),
        )
        self._notify_due = threading.Event()
        self._threads: list[threading.Thread] = []
        self._transaction_of = 0
        """The thread whose transaction is open on the writer."""
        self._transaction = ""
        """The server's name of it."""
        self._listeners = hash_of(f"happened listeners {self.where.schema}")
        """The number of the lock that who listens holds."""
        self._crowded = 0
        """How many commits more are not decided ahead."""
        self._told = 0
        """How often this process heard of a commit."""
        self._looking = Looking(self._last_position, lambda: self._told, self._grown, LOOK_SECONDS, self._listening)
        self._cold = PostgresCold(self.where, is_there=False)
        self._rows = PostgresPages(self.where, self._cold, self._check_usable)
        self._writer = self._opened()

    # --- the seam

    def append(self, decide: Callable[[Unseen], Commit], seen: int, *, wait_seconds_max: float = 10.0) -> Head:
        """Lock, hand over what is unseen, store what comes back, commit."""
        deadline = time.monotonic() + wait_seconds_max
        try:
            if not self._lock.acquire(timeout=min(max(wait_seconds_max, 0.0), threading.TIMEOUT_MAX)):
                raise Overloaded(
                    f"the log's lock was not free within {wait_seconds_max:g} s; nothing was recorded", wait_seconds=wait_seconds_max
                )
            self._check_usable()
            standing, rows = self._begun(seen, deadline)
            self._owner = threading.get_ident()
            try:
                commit = decide(Unseen(rows, standing.head, self._noted))
            finally:
                self._owner = 0
            if not commit.rows and not commit.notes and not commit.instead:
                self._rolled_back()
                return standing.head
            try:
                head, listened = self._committed(commit, standing)
            except psycopg.Error as error:
                raise _failed(error) from error
        except BaseException as error:
            self._undone(error)
            raise
        finally:  # an interrupt may come as soon as it is acquired
            try:  # noqa: SIM105 - no function is called on this way
                self._lock.release()
            except RuntimeError:  # it was not acquired
                pass
        if commit.rows:
            self._tell(head.position, listened=bool(listened))
        return head

    def append_ahead(self, decide: Callable[[Unseen], Commit], seen: int) -> Head | None:
        """Decide, then lock, and store what was decided if the log stands where it stood: one round trip."""
        listened: bool | None = None
        try:
            if not self._lock.acquire(blocking=False):
                return None
            self._check_usable()
            standing = self._standing
            if not self._may_be_ahead(standing, seen):
                return None
            head = standing.head
            asked: list[str] = []

            def notes(start: str) -> Mapping[str, str]:
                asked.append(start)
                return self.notes(start)

            commit = decide(Unseen((), head, notes))
            if asked or commit.notes or commit.instead or commit.unread:  # notes change where the log does not
                return None
            if not commit.rows:
                return head if self._asked(_STANDING, binary=True) == [standing] else None
            self._filing.begin(standing.reading)
            self._transaction_of = threading.get_ident()
            try:
                head, listened = self._committed(commit, standing, ahead=True)
            except (StoreFailed, errors.InvalidSqlStatementName):
                # The connection was lost, and nothing was recorded for certain, or it is another one by a pooler: nobody need hear of it.
                self._rolled_back()
                return None
            except errors.LockNotAvailable:
                self._rolled_back()
            except psycopg.Error as error:
                raise _failed(error) from error
            if listened is None:
                self._crowded = CROWDED_COMMITS
                return None
        except BaseException as error:
            self._undone(error)
            raise
        finally:
            try:  # noqa: SIM105 - see `append`
                self._lock.release()
            except RuntimeError:
                pass
        self._tell(head.position, listened=listened)
        return head

    def _may_be_ahead(self, standing: Standing, seen: int) -> bool:
        """Say whether nothing is known that has to be looked at, filed or written before: as this process left the log."""
        self._crowded = max(0, self._crowded - 1)
        return (
            not self._crowded
            and seen == standing.position
            and not self._samples.are_due()
            and standing.reading == self._generation
            and self._tags_are_filed()
            and standing.filed == standing.tagged == standing.position
            and not any(name not in self._stored for name in self._reading)
            and not self._writer.closed
            and self._writer.pgconn.transaction_status == _IDLE
        )

    def read(
        self,
        after: int = 0,
        until: int | None = None,
        *,
        wanted: Sequence[Wanted] | None = None,
        backwards: bool = False,
        rows_max: int = PAGE_ROWS,
    ) -> Iterator[Sequence[Row]]:
        """Yield pages of rows."""

        def pages(after: int) -> Iterator[Sequence[Row]]:
            for page in self._read_pages(WHOLE, after, until, wanted, backwards=backwards, rows_max=rows_max):
                yield [Row(*found[2:]) for found in page]

        def holding(position: int) -> Row | None:
            return self._tried(lambda reader: self._rows.row_holding(reader, position))

        if rows_max == 1 and wanted is None and not backwards:
            return next_row_first(holding, pages, after, until)
        return pages(after)

    def read_bare(
        self,
        after: int = 0,
        until: int | None = None,
        *,
        wanted: Sequence[Wanted] | None = None,
        rows_max: int = PAGE_ROWS,
        heads: bool = False,
        inputs: bool = False,
    ) -> Iterator[Sequence[Bare]]:
        """Yield pages of what a fold needs of rows."""
        columns = ASKED if inputs else HEADED if heads else BARE
        for page in self._read_pages(columns, after, until, wanted, backwards=False, rows_max=rows_max):
            yield [found[2:] for found in page]

    def notes(self, start: str, before: str | None = None) -> Mapping[str, str]:
        """Return the durable notes whose key starts with a text."""
        return postgres_notes.found(self._asked(_NOTES, postgres_notes.bounds(start, before)), start, before)

    def wait(self, after: int, wait_seconds_max: float) -> int:
        """Wait until something lies after this position."""
        self._check_usable()
        if wait_seconds_max <= 0:
            return self._last_position()
        return self._looking.wait(after, wait_seconds_max, lambda: self._closed)

    def _last_position(self) -> int:
        return int(self._asked("select position from @head")[0][0])

    def scrub(self, progress: Callable[[int, int], None]) -> bool:
        """Make the index anew, and have the tables written anew without what was deleted in them. What the server keeps elsewhere is its own: WAL, copies."""
        if self._terms_of is not None and not self._strange:
            self._rebuild(progress)
        kept: list[str] = []

        def hear(said: errors.Diagnostic) -> None:
            if _has_dead_rows(said):
                kept.append(said.message_primary or "")

        self._check_usable()
        try:
            with self.where.connect() as connection:  # of its own: what is set for a session ends with it
                refused = _warnings(connection)
                connection.add_notice_handler(hear)
                connection.execute(f"set lock_timeout = {int(SCRUB_SECONDS_MAX * 1000)}".encode())
                deadline = time.monotonic() + PASSING_SECONDS_MAX
                for table in ("log", "segment", "note", "tag", "used", "counted", "sample"):
                    before = len(kept)
                    while True:
                        connection.execute(self.where.sql(f"vacuum (full, verbose) @{table}"))
                        if len(kept) == before or time.monotonic() >= deadline:
                            break
                        del kept[before:]
                        time.sleep(RETRY_SECONDS)
        except errors.LockNotAvailable:
            return False
        except psycopg.Error as error:
            raise StoreFailed(f"the tables could not be written anew: {one_line(error)}", error=one_line(error), url=self.url) from error
        if refused:
            raise _not_rewritten(refused, self.url)
        return not kept

    def close(self) -> None:
        """Write the samples, and give all connections back. Where a decision goes on for too long, its connection is given back with the process."""
        locked = self._pid == os.getpid() and self._lock.acquire(timeout=CLOSE_SECONDS_MAX)
        if self._pid != os.getpid():
            self._closed = self._rows.closed = True
            return
        try:
            if locked and not self._closed:
                with contextlib.suppress(psycopg.Error):  # counts of what came to nothing, and who listens looks by himself soon
                    self._told_last()
            self._closed = self._rows.closed = True
        finally:
            if locked:
                self._lock.release()
        self._notify_due.set()
        with self._grown:
            self._grown.notify_all()
        for thread in self._threads:
            thread.join(CLOSE_SECONDS_MAX)
        self._rows.drop()
        if locked:
            self._writer.close()

    def _told_last(self) -> None:
        """Write the samples, under the lock of the log as in a commit, and send the last notice."""
        if self._samples.all():
            with self._writer.transaction():
                lock_head(self.where, self._writer, POLL_SECONDS)
                [(generation,)] = self._writer.execute(self.where.sql("select reading from @head")).fetchall()
                self._look_at_reading(generation, self._writer)
                self._filing.write_samples(self._writer, self._samples.taken())
        if self._threads:
            self._writer.execute("select pg_notify(%s, %s)", (self._channel, str(self._last_seen)))

    # --- the shelf

    def index(
        self, reading: Mapping[int, str], terms_of: Callable[[Row], Terms], progress: Callable[[int, int], None], *, guest: bool = False
    ) -> bool:
        """Use the index where it was made by the same reading, else make it anew; a guest does without it."""
        [(generation, stored)] = self._asked(_READING)
        with self._index_lock:
            self._terms_of, self._reading, self._guest = terms_of, dict(reading), guest
            self._generation, self._stored = str(generation), reading_in(stored)
            differs = bool(self._clashes())
            self._strange = differs or (guest and self._strange)
        if differs and not guest:
            self._rebuild(progress)
        elif not guest and any(name not in self._stored for name in reading):
            self._file_now(CLOSE_SECONDS_MAX)  # how more names are read is written at once: others may read them otherwise
        return not self._strange

    def found_by(self, reading: Mapping[int, str], _terms_of: Callable[[Row], Terms], /) -> bool:
        """Say whether rows are found by this reading, where a log lies over this one."""
        return all(self._stored.get(name, how) == how for name, how in reading.items())

    def find_id(self, id: str) -> Sequence[int]:
        """Return the positions of the rows that may use this id."""
        found, rest = self._looked_up("array(select position from @used where hash = %s order by position)", hash_of(id))
        return [*found, *(position for position, used in rest if used == id)]

    def find_ids(self, ids: Sequence[str]) -> frozenset[str]:
        """Return those of these ids that some row may use."""
        by_hash: dict[int, list[str]] = {}
        for id in ids:  # noqa: A001 - as everywhere
            by_hash.setdefault(hash_of(id), []).append(id)
        found, rest = self._looked_up("array(select distinct hash from @used where hash = any(%s))", list(by_hash))
        unfiled = {id for _, id in rest}  # noqa: A001 - as everywhere
        return frozenset(id for hashed in found for id in by_hash[hashed]) | frozenset(id for id in ids if id in unfiled)  # noqa: A001 - as everywhere

    def counted(self, after: int, until: int | None, counts_of: Callable[[Row], Sequence[tuple[str, int]]]) -> Mapping[str, int]:
        """Add up what rows count, by blocks of positions; at both ends, and what is not filed yet, row by row."""
        self._looked_up("0")

        def added_up(reader: Connection) -> Mapping[str, int]:
            def rows(first: int, last: int) -> Iterator[Sequence[tuple[str, int]]]:
                for found in self._cold.rows_between(reader, COUNTED, first, last):
                    yield counts_of(Row(*found[2:]))

            return stretch(self.where, reader, after, until, rows, lambda position: self._cold.behind(reader, position))

        return self._of_one_moment(added_up)

    def sample(self, handler: str, outcome: str, ran_us: int, what: str) -> None:
        """Count an execution that committed nothing; written with a commit some moments later, and at close."""
        self._samples.add(handler, outcome, ran_us, what.replace("\0", "\\0"))

    def samples(self) -> Sequence[tuple[str, str, int, int, str]]:
        """Return what was counted, of all processes that have written theirs, and this one."""
        counted = {
            (handler, outcome): rest for handler, outcome, *rest in self._asked("select handler, outcome, count, ran, what from @sample")
        }
        for handler, outcome, count, ran, what in self._samples.all():
            before = counted.get((handler, outcome), [0, 0, ""])
            counted[handler, outcome] = [before[0] + count, before[1] + ran, what]
        return [(*key, count, ran, what) for key, (count, ran, what) in counted.items()]

    # --- the cold part

    def compact(
        self, until: int, progress: Callable[[int, int], None], *, notes: Mapping[str, str] | None = None, rewrite: bool = False
    ) -> None:
        """Pack the rows that end at or before a position into segments; then `rewrite` their table, while all others wait, so that it gives back their place."""
        with self._packing() as connection:
            reached = 0
            while step := self._cold.pack(connection, until, notes or {}):
                reached = step
                progress(reached, until)
            if rewrite:
                refused = _warnings(connection)
                connection.execute(f"set lock_timeout = {int(LOCK_SECONDS_MAX * 1000)}".encode())
                connection.execute(self.where.sql("vacuum full @log"))
                if refused:
                    raise _not_rewritten(refused, self.url)
            elif reached:  # what is free is used again; who vacuums already does it
                connection.execute(self.where.sql("vacuum (skip_locked) @log"))

    def unpack(self, after: int, progress: Callable[[int, int], None], *, notes: Sequence[str] = ()) -> None:
        """Put the rows that lie after a position back into their table, and those that are packed with them."""
        with self._packing() as connection:
            whole = reached = self._cold.until(connection)
            while reached > after:
                reached = self._cold.unpack(connection, after, notes)
                progress(whole - max(reached, after), whole - after)

    def cold_until(self) -> int:
        """Return the last position of the cold part."""
        return self._of_one_moment(self._cold.until)

    def parts(self) -> Parts:
        """Return how much of the log is packed, and what it takes. What is free is an estimate."""
        return self._of_one_moment(self._cold.parts)

    @contextlib.contextmanager
    def _packing(self) -> Generator[Connection]:
        """Give a connection of its own: what is done on it is done in steps, and each of them is safe."""
        self._check_usable()
        try:
            with self.where.connect() as connection:
                yield connection
        except errors.LockNotAvailable as error:
            raise Overloaded("another process holds the log's lock; what was packed so far is packed", url=self.url) from error
        except DAMAGED as error:
            raise Broken(f"the database is damaged: {one_line(error)}; what was packed so far is packed", error=one_line(error)) from error
        except psycopg.Error as error:
            raise StoreFailed(f"the log could not be packed further: {one_line(error)}", error=one_line(error), url=self.url) from error

    # --- writing

    def _opened(self) -> Connection:
        """Connect, and have the tables made where they are not there. `Invalid` and `StoreFailed` as `Where.trouble` has it."""
        try:
            connection = self.where.connect()
        except psycopg.Error as error:
            raise self.where.trouble(error, "can't be opened as a log") from error
        try:
            migrate(self.where, connection)
            standing = connection.execute(self.where.sql(_STANDING), binary=True).fetchone()
            if standing is None:
                raise Broken(
                    f"{self.url} is damaged: its table `head` is empty, and nothing says where the log stands. Restore it from a copy",
                    url=self.url,
                )
            self._rows.primary = not is_standby(connection)
        except psycopg.Error as error:
            connection.close()
            raise self.where.trouble(error, "can't be opened as a log") from error
        except BaseException:
            connection.close()
            raise
        self._cold.is_there = True
        self._standing = Standing(*standing)
        self._last_seen = self._standing.position
        return connection

    def _begun(self, seen: int, deadline: float) -> tuple[Standing, Sequence[Row]]:
        """Begin a transaction, lock the head, and read what is unseen. What fails is undone by the caller."""
        standing, rows = self._begun_at(seen, deadline)
        try:
            self._look_at_reading(standing.reading, self._writer)
            self._filing.begin(standing.reading)
            if rows and self._strange and not self._guest:
                raise _other_reading(self.url)
            return self._file_up_to(standing), rows
        except psycopg.Error as error:
            raise _failed(error) from error

    def _begun_at(self, seen: int, deadline: float) -> tuple[Standing, Sequence[Row]]:
        """Lock the head, and see that it is that of the same history. A lost connection is made anew: nothing is decided yet."""
        while True:
            try:
                standing, rows = self._locked(seen, deadline)
                self._check_history(standing, rows)
            except errors.LockNotAvailable as error:
                raise Overloaded("another process holds the log's lock; nothing was recorded", url=self.url) from error
            except errors.InvalidSqlStatementName:  # a pooler has handed out another session: it is sent as text now
                self._rolled_back()
            except psycopg.Error as error:
                if not is_lost(self._writer, error):
                    raise _failed(error) from error
                self._connect_again(deadline, error)
            else:
                return standing, rows

    def _locked(self, seen: int, deadline: float) -> tuple[Standing, list[Row]]:
        writer = self._writer
        if not writer.closed and writer.pgconn.transaction_status != _IDLE:  # as an interrupt may leave it
            writer.close()
        left = int(max(min((deadline - time.monotonic()) * 1000, LOCK_MS_MAX), 1))
        self._transaction_of = threading.get_ident()
        [first, *unseen] = wire.asked(writer, self._prepared, BEGIN, self._look, [wire.int8(min(seen, 1 << 62)), wire.int4(left)])
        self._transaction = first[7]
        rows = [
            Row(position, count, at, head, asked, records, salts, digest)
            for position, at, digest, count, _, _, head, asked, records, salts in unseen
        ]
        standing = Standing(*first[:7])
        hot = rows[0].position if rows else standing.position + 1
        if seen + 1 < hot:  # others have packed what was not seen here
            rows = [Row(*found[2:]) for found in self._cold.rows_between(writer, WHOLE, seen + 1, hot - 1)] + rows
        return standing, rows

    def _connect_again(self, deadline: float, error: psycopg.Error) -> None:
        self._writer.close()
        while True:
            try:
                self._writer = self._connected_again()
            except psycopg.OperationalError as again:
                if time.monotonic() > deadline:
                    raise StoreFailed(
                        f"the database can't be reached, and nothing was recorded: {one_line(again)}", error=one_line(again)
                    ) from error
                time.sleep(RETRY_SECONDS)
            else:
                return

    def _connected_again(self) -> Connection:
        """Connect in the place of a connection that was lost. Another server may answer: nothing is read any more on those that there are."""
        connection = self.where.connect_like(primary=self._rows.primary)
        self._rows.primary = not is_standby(connection)
        self._rows.drop()
        return connection

    def _check_history(self, standing: Standing, unseen: Sequence[Row]) -> None:
        """Raise `Diverged` where the last row that this process knows is not there any more, unchanged: another database answers.

        The row that follows on it says so by its digest, where it was handed out.
        """
        known = self._standing
        follows = bool(unseen) and unseen[0].position == known.position + 1 and digest_of(known.digest, unseen[0]) == unseen[0].digest
        if known.row and not follows:
            there: bytes | None = standing.digest
            if standing.row != known.row:
                found = self._cold.row_at(self._writer, known.row)
                there = found.digest if found is not None else None
            if there != known.digest:
                raise Diverged(
                    f"the log no longer has what it had at position {known.position}: an older copy, or another database, is in its place",
                    url=self.url,
                    position=known.position,
                )
        self._standing = standing

    def _committed(self, commit: Commit, standing: Standing, *, ahead: bool = False) -> tuple[Head, bool | None]:
        """Write and commit in one round trip; learn whether it took place where the answer does not come. Say also whether another session may listen.

        With `ahead` the lock is taken only then; `None` where the log does not stand there any more, and nothing was written.
        """
        filed, tagged = standing.filed, standing.tagged
        after = standing
        samples = {}
        if commit.rows:
            last = commit.rows[-1]
            after = standing._replace(position=last.last, at=last.at, digest=last.digest, row=last.position)
        writer = self._writer
        tags = self._tags_are_filed() and not commit.unread and tagged == standing.position
        entries = NOTHING
        try:
            started = time.perf_counter()
            if commit.instead:
                self._replaced(commit.instead)
                filed = tagged = 0
                after = after._replace(reading=os.urandom(8).hex())  # others forget what they know of the index
            if self._samples.are_due() and not ahead:
                samples = self._samples.taken()
            if commit.rows:
                if not commit.instead and filed == standing.position:
                    entries = self._filing.entries(commit.rows, commit.terms, tags=tags)
                    filed, tagged = after.position, after.position if tags else tagged
                reading = self._write_more_names(after.reading) if tags else after.reading
                after = after._replace(filed=filed, tagged=tagged, reading=reading)
            elif commit.instead:
                after = after._replace(filed=0, tagged=0)
                writer.execute(self.where.sql("update @head set filed = 0, tagged = 0, reading = %s"), (after.reading,))
            if samples:
                self._filing.write_samples(writer, samples)
            values = _values(commit, filed, tagged, after.reading, entries, self._listeners)
            if ahead:
                known = [wire.int8(standing.position), wire.blob(standing.digest), wire.text(standing.reading)]
                answer = wire.committed(writer, self._prepared, self._write_ahead, [*known, *values], begin=BEGIN)
            else:
                answer = wire.committed(writer, self._prepared, self._write, values)
            seconds = time.perf_counter() - started
            self.sync_seconds += (seconds - self.sync_seconds) / 16
        except BaseException as error:  # noqa: BLE001 - it is raised again, unless the commit took place
            try:
                if not isinstance(error, psycopg.Error) or _is_undone(writer, error):
                    raise
                self._filing.drop()
                self._settle(commit, error, ahead=ahead)
            except BaseException:
                for (handler, outcome), (count, ran, what) in samples.items():
                    self._samples.add(handler, outcome, ran, what, count)
                raise
            answer = _TRUE  # for all that is known
        if not answer:
            self._rolled_back()
            return standing.head, None
        self._filing.keep()
        self._transaction_of = 0
        self._standing = after
        return after.head, answer == _TRUE

    def _replaced(self, rows: Sequence[Row]) -> None:
        """Put rows in the place of those at their positions, and drop what was derived."""
        writer = self._writer
        until = self._cold.until(writer)
        packed = [row for row in rows if row.position <= until]
        for row in packed:
            there = self._cold.row_at(writer, row.position)
            if there is None or there.digest != row.digest:
                raise Diverged(_NO_SUCH_ROW, url=self.url, position=row.position)
        self._cold.rewrite(writer, packed)
        for row in rows:
            if row.position <= until:
                continue
            # A division by nothing stops the transaction where there is no such row.
            writer.execute(
                self.where.sql(
                    "with changed as (update @log set input = %s, records = %s, salts = %s where position = %s and digest = %s returning 1) "
                    "select 1 / count(*) from changed"
                ),
                (row.input, row.records, row.salts, row.position, row.digest),
            )
        self._filing.forget()
        for table in ("tag", "used", "block", "counted"):
            writer.execute(self.where.sql(f"delete from @{table}"))
        writer.execute(self.where.sql("update @sample set what = ''"))
        self._samples.forget()

    def _settle(self, commit: Commit, error: psycopg.Error, *, ahead: bool) -> None:
        """Learn whether a commit whose answer was lost took place: returns if it did, raises if not, `OutcomeUnknown` if it can't be learned in time.

        The lock is free only when the old transaction has ended. One that was decided ahead may not have come there yet: the index gets another making,
        so that the log does not stand where that transaction will look for it.
        """
        deadline = time.monotonic() + SETTLE_SECONDS
        first = (commit.rows or commit.instead or (None,))[0]
        while True:
            try:
                self._writer.close()
                self._writer = self._connected_again()
                with self._writer.transaction():
                    lock_head(self.where, self._writer, deadline - time.monotonic())
                    if first is not None:
                        found = self._cold.row_at(self._writer, first.position)
                        took_place = (
                            found is not None and found.digest == first.digest and (bool(commit.rows) or found.records == first.records)
                        )
                        if ahead and not took_place:
                            self._writer.execute(self.where.sql("update @head set reading = %s"), (os.urandom(8).hex(),))
                    else:
                        keys = list(map(postgres_notes.key_of, commit.notes))
                        there = postgres_notes.found(
                            self._writer.execute(self.where.sql("select key, body from @note where key = any(%s)"), (keys,))
                        )
                        took_place = all(there.get(key) == body for key, body in commit.notes.items())
                        if not took_place and not self._is_aborted():
                            raise OutcomeUnknown(
                                "the connection was lost in a commit of notes, and others have written them since", url=self.url
                            )
            except psycopg.Error as again:
                if time.monotonic() > deadline:
                    raise OutcomeUnknown(
                        f"the connection was lost in a commit, and whether it took place could not be learned: {one_line(again)}",
                        url=self.url,
                    ) from error
                time.sleep(RETRY_SECONDS)
            else:
                break
        if not took_place:
            raise StoreFailed(f"the connection was lost, and nothing was recorded: {one_line(error)}", error=one_line(error)) from error

    def _is_aborted(self) -> bool:
        """Say whether the transaction that was lost has surely come to nothing."""
        try:
            with self._writer.transaction():
                found = self._writer.execute("select pg_xact_status(%s::xid8)", (self._transaction,)).fetchone()
        except errors.InvalidParameterValue:  # the server that answers now has not come so far: it never had it
            return True
        return found is not None and found[0] == "aborted"

    def _undone(self, error: BaseException) -> None:
        """Undo what this thread has begun, if it has. After an interrupt nobody knows where the connection is: it is made anew."""
        if self._transaction_of == threading.get_ident():
            if isinstance(error, Exception):
                self._rolled_back()
            else:
                self._filing.drop()
                self._transaction_of = 0
                self._writer.close()

    def _rolled_back(self) -> None:
        self._filing.drop()
        self._transaction_of = 0
        try:
            if not self._writer.closed and self._writer.pgconn.transaction_status != _IDLE:
                if self._writer.pgconn.pipeline_status != psycopg.pq.PipelineStatus.OFF:
                    self._writer.close()
                else:
                    self._writer.execute("rollback")
        except psycopg.Error:  # it is made anew with the next commit
            self._writer.close()

    def _noted(self, start: str) -> Mapping[str, str]:
        """Return notes under the lock."""
        try:
            return postgres_notes.found(self._writer.execute(self.where.sql(_NOTES), postgres_notes.bounds(start)), start)
        except psycopg.Error as error:
            raise _failed(error) from error

    def _check_usable(self) -> None:
        if self._pid != os.getpid():
            raise Forked("this log was opened before a fork: open it in the child process", url=self.url)
        if self._closed:
            raise Closed("the log is closed", url=self.url)

    # --- waking up

    def _tell(self, position: int, *, listened: bool) -> None:
        """Wake those who wait, here at once, elsewhere by a notice after the commit, if anybody listens."""
        with self._grown:  # who is woken by what is heard need not look
            self._looking.found(position, self._hear(position))
        if listened:
            self._started("happened-notify", self._notify)
            self._notify_due.set()

    def _hear(self, position: int) -> int:
        """Wake those who wait here; return how often something was heard."""
        with self._grown:
            self._told += 1
            self._last_seen = max(self._last_seen, position)
            self._grown.notify_all()
            return self._told

    def _listening(self) -> None:
        self._started("happened-listen", self._listen)

    def _started(self, name: str, run: Callable[[], None]) -> None:
        if any(thread.name == name for thread in self._threads):
            return
        with self._index_lock:
            if not self._closed and all(thread.name != name for thread in self._threads):
                thread = threading.Thread(target=run, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _notify(self) -> None:
        """Tell other processes that something was committed: at most once for all that came since the last time."""
        while True:
            self._notify_due.wait()
            if self._closed:
                return
            self._notify_due.clear()
            with contextlib.suppress(Error):  # they look by themselves, too
                self._asked("select pg_notify(%s, %s)", (self._channel, str(self._last_seen)))

    @property
    def _channel(self) -> str:
        return f"happened_{self.where.schema}"[:63]

    def _listen(self) -> None:
        """Hear what other processes have committed, and wake those who wait here."""
        while not self._closed:
            try:
                with self.where.connect() as connection:
                    connection.execute("select pg_advisory_lock_shared(%s)", (self._listeners,))  # whoever commits from now on tells of it
                    connection.execute(f'listen "{self._channel}"'.encode())
                    for (position,) in connection.execute(self.where.sql("select position from @head")):
                        self._hear(position)  # what was committed before anybody listened here
                    while not self._closed:
                        for notice in connection.notifies(timeout=POLL_SECONDS, stop_after=1):
                            if notice.payload.isdecimal() and len(notice.payload) <= POSITION_DIGITS:  # anybody may send one
                                self._hear(int(notice.payload))
            except psycopg.Error:  # those who wait look by themselves meanwhile
                time.sleep(POLL_SECONDS)

    # --- the index

    def _clashes(self) -> list[int]:
        return [name for name, how in self._reading.items() if self._stored.get(name, how) != how]

    def _write_more_names(self, generation: str) -> str:
        """Write, in the open transaction, how names are read that are new since; return which making of the index it is now, in the place of one.

        Where that is not committed, the next look at the head sees that it is another one.
        """
        with self._index_lock:
            if any(name not in self._stored for name in self._reading):
                self._stored = {**self._stored, **self._reading}
                self._generation = generation = self._write_reading(self._stored)
            return generation

    def _tags_are_filed(self) -> bool:
        return self._terms_of is not None and not self._strange

    def _knows_names(self) -> bool:
        """Say whether this process has said how it reads all names that others have: only then it may file the tags of their rows."""
        with self._index_lock:
            return self._stored.keys() <= self._reading.keys()

    def _look_at_reading(self, generation: str, connection: Connection) -> None:
        """Take in that another process has said how more names are read, or has made the index anew. It may have erased what samples speak of."""
        if generation == self._generation:
            return
        self._samples.forget()
        found = connection.execute(self.where.sql(_READING)).fetchall()
        with self._index_lock:
            self._generation, self._stored = str(found[0][0]), reading_in(found[0][1])
            self._strange = self._strange or bool(self._clashes())

    def _write_reading(self, reading: Mapping[int, str]) -> str:
        """Write how names are read, in the open transaction; return which making of the index it is now."""
        self._writer.execute(
            self.where.sql("insert into @shelf(key, body) values('reading', %s) on conflict (key) do update set body = excluded.body"),
            (reading_text(reading),),
        )
        return os.urandom(8).hex()

    def _is_filed(self, position: int, filed: int, tagged: int) -> bool:
        return self._terms_of is None or (filed >= position and (tagged >= position or self._strange))

    def _looked_up(self, what: str, *values: object) -> tuple[Any, Iterator[tuple[int, str | None]]]:
        """Look something up among what is filed; return it, and position and id of each row that is not filed yet, as of the same moment."""
        for again in (True, False):
            [(last, filed, found)] = self._asked(f"select position, filed, {what} from @head", values)
            if self._terms_of is None or filed >= last or self._owner == threading.get_ident():
                return found, iter(())
            if again:
                self._file_if_free()
        return found, self._ids_after(filed, last)

    def _ids_after(self, after: int, until: int) -> Iterator[tuple[int, str | None]]:
        with self._rows.reader() as reader, moment(reader):
            for rows, terms in self._rows_after(reader, after, until):
                yield from ((row.position, found.id) for row, found in zip(rows, terms, strict=True))

    def _file_if_free(self) -> None:
        """File what others have left, unless somebody holds the lock: who only reads waits for nobody."""
        with contextlib.suppress(Overloaded):
            self._file_now(FILE_SECONDS)

    def _file_now(self, wait_seconds_max: float) -> None:
        """File, under the lock, what others have left."""
        try:
            if not self._lock.acquire(timeout=wait_seconds_max):
                raise Overloaded("the log's lock is not free; nothing was filed", url=self.url)
            self._check_usable()
            try:
                standing, _ = self._begun(1 << 62, time.monotonic() + wait_seconds_max)
                self._writer.execute("commit")
            except psycopg.Error as error:
                raise _failed(error) from error
            self._filing.keep()
            self._transaction_of = 0
            self._standing = standing
        except BaseException as error:
            self._undone(error)
            raise
        finally:
            try:  # noqa: SIM105 - see `append`
                self._lock.release()
            except RuntimeError:
                pass

    def _file_up_to(self, standing: Standing) -> Standing:
        """File what others have left, a guest or who has erased something, under the lock; return where the log stands once that is committed."""
        filed, tagged = standing.filed, standing.tagged
        tags = self._tags_are_filed() and self._knows_names()
        if self._is_filed(standing.position, filed, tagged) and not (tags and any(name not in self._stored for name in self._reading)):
            return standing
        for rows, terms in self._rows_after(self._writer, min(filed, tagged) if tags else filed, standing.position):
            self._filing.file(
                self._writer,
                rows,
                terms,
                tags=tags,
                tags_after=tagged,
                filed_after=filed,
            )
        reading = self._write_more_names(standing.reading) if tags else standing.reading
        tagged = standing.position if tags else tagged
        self._writer.execute(self.where.sql("update @head set filed = %s, tagged = %s, reading = %s"), (standing.position, tagged, reading))
        return standing._replace(filed=standing.position, tagged=tagged, reading=reading)

    def _rows_after(self, connection: Connection, after: int, until: int) -> Iterator[tuple[list[Row], list[Terms]]]:
        assert self._terms_of is not None, "rows are filed by a reading"
        while after < until:
            high = min(until, after + 2 * PAGE_ROWS)  # see `pages_between`
            found = self._cold.rows_between(connection, WHOLE, after + 1, high)
            if found:
                rows = [Row(*one[2:]) for one in found]
                yield rows, list(map(self._terms_of, rows))
            after = high

    def _rebuild(self, progress: Callable[[int, int], None]) -> None:
        """Make the index anew by today's reading, under the lock."""
        with self._lock:
            self._check_usable()
            try:
                self._rebuilt(progress)
            except BaseException as error:
                self._undone(error)
                raise

    def _rebuilt(self, progress: Callable[[int, int], None]) -> None:
        standing, _ = self._begun_at(1 << 62, time.monotonic() + CLOSE_SECONDS_MAX)
        try:
            self._filing.forget()
            for table in ("tag", "used", "block", "counted"):
                self._writer.execute(self.where.sql(f"delete from @{table}"))
            for rows, terms in self._rows_after(self._writer, 0, standing.position):
                self._filing.file(self._writer, rows, terms, tags=True)
                progress(rows[-1].last, standing.position)
            reading = self._write_reading(self._reading)
            self._writer.execute(self.where.sql("update @head set filed = position, tagged = position, reading = %s"), (reading,))
            self._writer.execute("commit")
        except psycopg.Error as error:
            raise _failed(error) from error
        self._filing.forget()
        self._transaction_of = 0
        self._standing = standing._replace(filed=standing.position, tagged=standing.position, reading=reading)
        with self._index_lock:
            self._stored, self._generation, self._strange = dict(self._reading), reading, False

    # --- reading

    def _read_pages(
        self, columns: Columns, after: int, until: int | None, wanted: Sequence[Wanted] | None, *, backwards: bool, rows_max: int
    ) -> Iterator[Page]:
        """Yield pages of rows, with these columns."""
        self._check_usable()
        rows = self._rows
        if wanted is None:
            last, begin, end = self._tried(lambda reader: rows.edges(reader, after, until))
            positions: Sequence[int] = ()
            ranges = [(0, last)]
        else:
            positions, ranges, last = self._places(wanted)
            last = last if until is None else min(last, until)
            if not ranges:
                ordered = sorted(positions, reverse=backwards)
                for start in range(0, len(ordered), rows_max):
                    some = ordered[start : start + rows_max]
                    found = self._tried(
                        partial(rows.page_at, columns=columns, positions=some, after=after, until=last, backwards=backwards)
                    )
                    if found:
                        yield found
                return
            _, begin, end = self._tried(lambda reader: rows.edges(reader, after, last))

        def page(first: int, last: int) -> Page:
            return self._tried(lambda reader: rows.page(reader, columns, first, last, backwards=backwards, rows_max=rows_max))

        stretches = merged([*ranges, *((position, position) for position in positions)])
        for low, high in reversed(stretches) if backwards else stretches:
            yield from pages_between(page, max(low, begin), min(high, end), backwards=backwards, rows_max=rows_max)

    def _places(self, wanted: Sequence[Wanted], *, again: bool = False) -> tuple[Sequence[int], list[tuple[int, int]], int]:
        """Return where there is something wanted, by the index: positions of rows, and ranges; and up to where it knows. All as of one moment.

        What is not filed yet is a range of its own.
        """
        asked: list[str] = []
        values: list[Any] = []
        kinds: list[str] = []
        for item in wanted:
            if item.terms and self._tags_are_filed():
                ways = " intersect ".join(["select position from @tag where hash = %s"] * len(item.terms))
                asked.append(f"array({ways})")
                values += map(hash_of, item.terms)
                kinds.append("terms")
            elif item.names and not item.terms and self._terms_of is not None:
                asked.append("array(select distinct block from @block where name = any(%s))")
                values.append(list(item.names))
                kinds.append("names")
            else:
                kinds.append("all")
        [(last, filed, tagged, generation, *found)] = self._asked(
            f"select position, filed, tagged, reading{''.join(f', {one}' for one in asked)} from @head",
            values,
            binary=True,
        )
        if self._terms_of is not None and self._owner != threading.get_ident():
            if generation != self._generation:
                with self._rows.reader() as reader:
                    self._look_at_reading(generation, reader)
                return self._places(wanted, again=again)
            if not again and not self._is_filed(last, filed, tagged):
                self._file_if_free()
                return self._places(wanted, again=True)
            if self._strange and not self._guest and any(item.terms for item in wanted):
                raise _other_reading(self.url)
        positions: set[int] = set()
        ranges: list[tuple[int, int]] = []
        answers = iter(found)
        for kind in kinds:
            if kind == "all":
                ranges.append((0, last))
            elif kind == "terms":
                positions.update(next(answers))
                ranges.append((tagged + 1, last))
            else:
                ranges += self._filing.ranges(next(answers))
                ranges.append((filed + 1, last))
        ranges = [(first, end) for first, end in ranges if first <= end]
        return sorted(positions), ranges, last

    def _asked(self, sql: str, values: Sequence[Any] = (), *, binary: bool = False) -> list[tuple[Any, ...]]:
        """Ask one statement."""
        return self._tried(lambda reader: reader.execute(self.where.sql(sql), values, binary=binary).fetchall())

    def _of_one_moment(self, ask: Callable[[Connection], T]) -> T:
        """Ask several statements, as of one moment."""

        def asked(reader: Connection) -> T:
            with moment(reader):
                return ask(reader)

        return self._tried(asked)

    def _tried(self, ask: Callable[[Connection], T]) -> T:
        """Ask on a connection of the pool; who decides asks on the connection that holds the lock."""
        if self._owner == threading.get_ident():
            try:
                return ask(self._writer)
            except psycopg.Error as error:
                raise _failed(error) from error
        return self._rows.tried(ask)


_TRUE = b"\1"
_IDLE = psycopg.pq.TransactionStatus.IDLE
_START = (START.position, START.at, START.digest, 0, 0, 0, "")
_STANDING = "select position, at, digest, row, filed, tagged, reading from @head"
_NOTES = "select key, body from @note where key >= %s and key < %s"
_NO_SUCH_ROW = "there is no such row at its position any more, and nothing was recorded"
_READING = "select reading, coalesce((select body from @shelf where key = 'reading'), '') from @head"


def _values(commit: Commit, filed: int, tagged: int, making: str, entries: Sequence[list[Any]], listeners: int) -> list[wire.Value]:
    """Return what `@write` is called with."""
    rows = commit.rows
    note_keys, note_bodies, notes_gone = postgres_notes.written(commit.notes)
    tag_hash, tag_position, used_hash, used_position, block_name, block_block, counted_block, counted_what, counted_number = entries
    return [
        wire.int8s([row.position for row in rows]),
        wire.int4s([row.count for row in rows]),
        wire.int8s([row.at for row in rows]),
        wire.texts([row.head for row in rows]),
        wire.texts([row.input for row in rows]),
        wire.texts([row.records for row in rows]),
        wire.blobs([row.salts for row in rows]),
        wire.blobs([row.digest for row in rows]),
        wire.int8(filed),
        wire.int8(tagged),
        wire.text(making),
        wire.int8s(tag_hash),
        wire.int8s(tag_position),
        wire.int8s(used_hash),
        wire.int8s(used_position),
        wire.int4s(block_name),
        wire.int8s(block_block),
        wire.int8s(counted_block),
        wire.texts(counted_what),
        wire.texts(counted_number),
        wire.texts(note_keys),
        wire.texts(note_bodies),
        wire.texts(notes_gone),
        wire.int8(listeners),
    ]


def _other_reading(url: str) -> Incompatible:
    return Incompatible("another process reads the tags of this log otherwise: run the same code in all of them", url=url)


def _is_undone(connection: Connection, error: psycopg.Error) -> bool:
    """Say whether the open transaction has surely come to nothing: the server said so, or nothing was sent for it that commits."""
    if is_lost(connection, error):
        return False
    status = connection.pgconn.transaction_status
    statuses = psycopg.pq.TransactionStatus
    return status == statuses.INERROR or (status == statuses.INTRANS and not isinstance(error, psycopg.OperationalError))


def _warnings(connection: Connection) -> list[str]:
    """Return a list that each warning on a connection will be added to: what a role may not vacuum is left as it is, and no more than that is said."""
    warned: list[str] = []

    def hear(said: errors.Diagnostic) -> None:
        if said.severity_nonlocalized == "WARNING":
            warned.append(said.message_primary or "")

    connection.add_notice_handler(hear)
    return warned


def _not_rewritten(refused: Sequence[str], url: str) -> StoreFailed:
    return StoreFailed(f"the tables could not be written anew, which takes the role that owns them: {refused[0]}", url=url)


def _has_dead_rows(said: errors.Diagnostic) -> bool:
    """Say whether a table that was written anew still has rows that were deleted, since some transaction may look at them. It is the first number there."""
    number = re.search(r"\d+", said.message_detail or "")
    return said.severity_nonlocalized == "INFO" and number is not None and int(number[0]) > 0


def _failed(error: psycopg.Error) -> StoreFailed | Broken | Diverged | Overloaded:
    if isinstance(error, errors.LockNotAvailable):
        return Overloaded(f"somebody holds a table of the log; nothing was recorded: {one_line(error)}")
    if isinstance(error, errors.DivisionByZero):
        return Diverged(_NO_SUCH_ROW)
    if isinstance(error, DAMAGED):
        return Broken(f"the database is damaged, and nothing was recorded: {one_line(error)}", error=one_line(error))
    return StoreFailed(f"the log could not be written, and nothing was recorded: {one_line(error)}", error=one_line(error))
